"""The way to a `model_list` group: LiteLLM's Router chooses the deployment, retries and cools down."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from blueprint_llm.adapters.exceptions import call_error
from blueprint_llm.adapters.roles import LiteLLMAdapter
from blueprint_llm.errors import BlueprintError, BudgetExceededError, CallError, QuotaExceededError
from blueprint_llm.redaction import redact
from blueprint_llm.trace import CALLER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from blueprint_llm.adapters.contract import Call, EndedBy
    from blueprint_llm.adapters.litellm import Heard


# The code of a CallError of an attempt inside a Router that was not made because the deployment's circuit is open.
CIRCUIT_OPEN = "circuit_open"
# Of a request to the Router: the ids of the deployments that it may not choose (see `litellm.PRIVATE`).
EXCLUDED = "_excluded_deployment_ids"
# What LiteLLM's half of an error of both holds.
THEIRS = {
    *("response", "request", "body", "message", "param", "type", "litellm_debug_info", "llm_provider"),
    *("num_retries", "max_retries", "litellm_response_headers", "current_cost", "max_budget"),
}


class SharedRouter:
    """One Router, made by whoever needs it first; `make` builds a guarded one of the configuration."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None
        self._making = threading.Lock()

    @property
    def is_made(self) -> bool:
        """Return True if asking for it costs nothing."""
        return self._made is not None

    def get(self) -> Any:
        """Return the Router. Raise ConfigError, or what LiteLLM raises."""
        with self._making:
            self._made = self._made or self._make()
            return self._made


class RouterAdapter(LiteLLMAdapter):
    """Send calls to one group through the Router; reservations are made inside it, deployment by deployment.

    Args:
        provider: The target's name.
        group: What the Router is asked for.
        router: The client's.
        address: Where all of the group's deployments are, for errors; None: not at one place.
    """

    def __init__(self, provider: str, group: str, router: SharedRouter, *, address: str | None = None) -> None:
        super().__init__(provider)
        self.group, self._router, self._address = group, router, address

    @property
    def ready(self) -> bool:
        """Return True if LiteLLM is loaded and the Router made."""
        return super().ready and self._router.is_made

    def load(self) -> None:
        """Import LiteLLM and make the Router: seconds, once."""
        super().load()
        self._router.get()

    async def refusal(self, metadata: Mapping[str, Any], closed: Sequence[str], *, filters: bool) -> str | None:
        """Return why the Router would not serve the group now, in its words where it has some.

        Args:
            metadata: The call's, with its tags.
            closed: The ids of deployments to which nothing would be sent.
            filters: The Router goes by tags: it is made to find out. Else a Router that is not there refuses nothing.
        """
        if not (filters or self._router.is_made):
            return None
        router = await self._made()
        ids = {each["model_info"]["id"] for each in router.registry().deployments(self.group)}.difference(closed)
        cooling = router.health().cooldowns.get_active_cooldowns([*ids], None)
        if ids and len(cooling) == len(ids):
            return "all of its deployments are cooling down"
        try:
            without = {EXCLUDED: [*closed]} if closed else {}
            await router.select(self.group, {"metadata": dict(metadata), **without}, kind="healthy")
        except ValueError as error:
            return redact(str(error))
        return None

    async def attempts(self, *, made: bool = False) -> list[dict[str, Any]]:
        """Return what the keywords of an attempt at each deployment say; `made`: the Router is made to find out."""
        found = (await self._made()).registry().deployments(self.group) if made or self._router.is_made else ()
        named = {"metadata": {"model_group": self.group}}
        return [{**each["litellm_params"], "model_info": each["model_info"], **named} for each in found]

    async def _made(self) -> Any:
        return self._router.get() if self.ready else await asyncio.to_thread(self._router.get)

    async def complete(self, call: Call) -> Any:
        """Return a whole answer. Raise BlueprintError: a CallError, or a limit's."""
        return await self._answered(call)

    async def open(self, call: Call) -> RouterStream:
        """Start a stream. Raise BlueprintError: a CallError, or a limit's."""
        usage = {"include_usage": True, **(call.params.get("stream_options") or {})}
        return RouterStream(await self._answered(call, stream=True, stream_options=usage), self._placed(call))

    def _placed(self, call: Call) -> Call:
        """Return the call as errors should tell of it."""
        return replace(call, params={**call.params, "api_base": self._address}) if self._address else call

    async def _answered(self, call: Call, **more: Any) -> Any:
        """Return what the Router answers, asked again without the deployments whose guards let nothing be sent.

        Whatever `num_retries` says: that is about attempts, and none was made.
        """
        refused: list[str] = []
        while True:
            try:
                without = {EXCLUDED: refused} if refused else {}
                return await _or_ours(self._ask(call, **without, **more), self._placed(call))
            except BlueprintError as error:
                name = _closed(error)
                if name is None or name in refused or len(refused) + 1 >= len(await self.attempts()):
                    raise
                refused.append(name)

    async def _ask(self, call: Call, **more: Any) -> Any:
        router = await self._made()
        from blueprint_llm.adapters.litellm import revealed  # noqa: PLC0415 - LiteLLM is loaded by now

        own = {"api_base": call.credential.base_url, "api_key": call.credential.api_key} if call.credential else {}
        given = {**call.params, **{name: value for name, value in own.items() if value is not None}}
        return await router.acompletion(**{**revealed(given), **more, "model": self.group, "messages": call.messages})


class RouterStream:
    """A stream of the Router's: iterate for its chunks; the guard inside has booked what it took."""

    def __init__(self, stream: Any, call: Call) -> None:
        self._stream, self._call = stream, call
        self._usage: Any = None
        self._begun = False
        self._caller = CALLER.get()

    @property
    def hidden_params(self) -> Mapping[str, Any]:
        """What LiteLLM keeps beside the chunks."""
        return dict(getattr(self._stream, "_hidden_params", None) or {})

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        """Return the next chunk. Raise BlueprintError."""
        token = CALLER.set(self._caller)  # the Router may go on to another deployment
        try:
            chunk = await _or_ours(anext(self._stream), self._call, in_stream=True, begun=self._begun)
        finally:
            CALLER.reset(token)
        self._begun = True
        self._usage = getattr(chunk, "usage", None) or self._usage
        return chunk

    @property
    def _heard(self) -> Heard | None:
        """What the guard inside hears of the deployment's stream; of the last one, where the Router went on."""
        heard = self._caller.heard if self._caller else None
        return heard[-1] if heard else None

    def ended_by(self) -> EndedBy:
        """Return what proves the end."""
        if self._heard is None or self._call.params.get("mock_response") is not None:
            return "terminal" if self._begun else "none"
        return self._heard.ended_by()

    def as_whole(self, merged: Mapping[str, Any]) -> dict[str, Any]:
        """Return the merged chunks as LiteLLM has an answer that came in one piece."""
        return dict(merged) if self._heard is None else self._heard.as_whole(merged)

    def usage(self) -> Any:
        """Return the usage that came last."""
        return self._usage

    async def aclose(self) -> None:
        """Close the upstream. Never raise."""
        with contextlib.suppress(Exception):
            await self._stream.aclose()


async def _or_ours(asked: Awaitable[Any], call: Call, **where: bool) -> Any:
    """Return what LiteLLM answers. Raise an error of ours for whatever it raises."""
    try:
        return await asked
    except StopAsyncIteration:
        raise
    except BlueprintError as error:
        failure = _plain(error)
    except Exception as error:  # noqa: BLE001 - the provider boundary
        inner = getattr(error, "original_exception", None)
        failure = _plain(inner) if isinstance(inner, BlueprintError) else call_error(error, call, **where)
    raise failure


def _closed(error: BlueprintError) -> str | None:
    """Return the deployment to which nothing was sent since its own limit is full, or its circuit open."""
    is_limit = isinstance(error, (BudgetExceededError, QuotaExceededError)) and error.scope.startswith("deployment:")
    is_open = isinstance(error, CallError) and error.code == CIRCUIT_OPEN
    name: str | None = vars(error).get("failed_deployment_id") if is_limit or is_open else None
    return name


def _plain(error: BlueprintError) -> BlueprintError:
    """Return an error of a guard's as its own class: LiteLLM's half holds the request."""
    libraries = {"litellm", "openai"}
    kinds: Any = type(error).__mro__
    kind = next(k for k in kinds if libraries.isdisjoint(base.__module__.partition(".")[0] for base in k.__mro__))
    plain: BlueprintError = kind.__new__(kind)
    plain.args = error.args
    plain.__dict__ |= {name: value for name, value in vars(error).items() if name not in THEIRS}
    return plain
