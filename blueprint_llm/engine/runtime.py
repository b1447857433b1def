"""What every request of a client works with, built once; and what the steps of one request share."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from dataclasses import dataclass, field, replace
from datetime import date
from typing import TYPE_CHECKING, Any

from blueprint_llm.adapters import AdapterFactory
from blueprint_llm.adapters.router import RouterAdapter, SharedRouter
from blueprint_llm.adapters.settings import ModuleSettings
from blueprint_llm.cache import CacheManager
from blueprint_llm.config import load_config
from blueprint_llm.context.tokens import Margins
from blueprint_llm.credentials import CredentialsManager
from blueprint_llm.errors import ConfigError, DeadlineExceededError, StoreError
from blueprint_llm.events import Audience, Event
from blueprint_llm.policy.retry import RetryRatio, RetryRules
from blueprint_llm.routing.targets import Target, TargetTable
from blueprint_llm.streaming import check_tools
from blueprint_llm.usage import Ledger
from blueprint_llm.usage.pricing import Prices
from blueprint_llm.usage.stores import Store, open_store, waited_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from blueprint_llm.adapters import Adapter
    from blueprint_llm.config.model import Config
    from blueprint_llm.config.sections import Known
    from blueprint_llm.errors import BlueprintError
    from blueprint_llm.events import OnEvent
    from blueprint_llm.trace import Trace
    from blueprint_llm.types import ChatRequest
    from blueprint_llm.usage.pricing import PriceCard

EPOCH_DAY = date(1970, 1, 1).toordinal()
DEFAULT_RATIO = 0.2


class Runtime:
    """The configuration and the parts made from it; `set_chain` swaps one mapping, calls in flight keep theirs.

    Raises ConfigError.

    Attributes:
        router: LiteLLM's Router of this configuration, made on first use.
        settings: What `litellm_settings` set on LiteLLM's module, from the first call on.
        clock: Unix seconds; `now`: monotonic seconds; `sleep`, `draw`: waiting, and a random number in [0, 1).
    """

    def __init__(
        self,
        source: Any,
        *,
        credentials: CredentialsManager | None = None,
        on_event: OnEvent | None = None,
        project: str | None = None,
        session: str | None = None,
        adapters: Mapping[str, Adapter] | None = None,
    ) -> None:
        self.config = config = load_config(source, litellm=_litellm_names)
        log = config.logging
        self.audience = Audience(on_event, (log.format, log.level) if log.model_fields_set else None)
        self.table = TargetTable(config)
        self.chains: Mapping[str, Sequence[str]] = dict(config.chains)
        self.credentials = credentials or CredentialsManager(config)
        self.ledger = Ledger(config)
        self.prices = Prices.load(config.pricing, folder=config.folder)
        hears: dict[str, Any] = {"on_event": self.audience} if self.audience else {}
        self.store: Store = open_store(config.store, **hears)
        self.cache = CacheManager.of_config(config, **hears)
        self.retry = _retry_rules(config)
        self.ratio = RetryRatio(ratio=config.retry.ratio if config.retry else DEFAULT_RATIO)
        self.margins = Margins()
        self.router = SharedRouter(_no_router)
        self.settings = ModuleSettings(config)
        self.project, self.session = project or config.project, session or uuid.uuid4().hex
        self.clock: Callable[[], float] = time.time
        self.now: Callable[[], float] = time.monotonic
        self.sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
        self.draw: Callable[[], float] = random.random
        self._factory = AdapterFactory(config, self.credentials)
        self._given = dict(adapters or {})
        self._adapters: dict[str, Adapter] = {}

    def new_id(self) -> str:
        """Return a fresh id of a call."""
        return f"{random.getrandbits(128):032x}"  # no system call; Python reseeds a forked child

    def tell(self, name: str, *, level: str = "info", **facts: Any) -> None:
        """Hand an event to whoever listens: the log where there is a `logging` block, the caller's hook."""
        if self.audience:
            self.audience(Event(name=name, facts=facts, level=level))  # type: ignore[arg-type] # a literal at every call

    def complete_request(self, request: ChatRequest) -> ChatRequest:
        """Return the request with the client's project and session where it names none, its tools checked."""
        if request.tools:
            check_tools(request.tools)
        own = {"project": request.project or self.project, "session": request.session or self.session}
        return request.model_copy(update=own)

    def set_chain(self, names: Sequence[str]) -> None:
        """Replace `chains.default`. Raises ConfigError for a name the configuration does not have."""
        names = [names] if isinstance(names, str) else list(names)
        unknown = [name for name in names if self.table.of_name(name) is None]
        if unknown or not names:
            what = f"unknown provider {unknown[0]!r}" if unknown else "the chain is empty"
            raise ConfigError(f"set_fallback_chain: {what}; known: {', '.join(self.table.names)}")
        self.chains = {**self.chains, "default": names}

    def price(
        self, target: Target, tags: frozenset[str] = frozenset(), *, own: Mapping[str, Any] | None = None
    ) -> PriceCard | None:
        """Return the price of a target today; `own` prices are those of the call itself."""
        today = date.fromordinal(EPOCH_DAY + int(self.clock() // 86400))
        params = {**target.params, **own} if own else target.params
        return self.prices.price(target.provider, target.model, at=today, params=params, info=target.info, tags=tags)

    def is_routed(self, target: Target) -> bool:
        """Return True for a group whose deployments LiteLLM's Router chooses, each attempt reserved inside it."""
        return target.group is not None and target.provider not in self._given

    def is_alone(self, target: Target) -> bool:
        """Return True for a group of one deployment, of whose retries LiteLLM's settings say nothing.

        There the Router could only ask the same again: the engine does, which knows the retry ratio, waits in bodies,
        the deadline, and whether another target is left.
        """
        found, settings = self.table.deployments(target), self.config.router_settings
        has_rules = bool(settings.get("retry_policy") or settings.get("model_group_retry_policy"))
        return len(found) == 1 and "num_retries" not in found[0].params and not has_rules

    def retry_for(self, request: ChatRequest, target: Target, category: str = "") -> RetryRules:
        """Return how often to try `target`: the request's own number wins, then the configuration's, the target's.

        The Router retries by itself where there is another deployment to try; what it cannot see, answers that are not
        valid or break off, is for us.
        """
        is_routers = self.is_routed(target) and not self.is_alone(target)
        if is_routers and category not in {"malformed", "stream_broken"}:
            return replace(self.retry, max_attempts=1)
        named = (request.params.get("num_retries"), request.params.get("max_retries"))
        configured = () if self.config.retry else (target.params.get("num_retries"),)
        own = next((count for count in (*named, *configured) if type(count) is int and count >= 0), None)
        return self.retry if own is None else replace(self.retry, max_attempts=own + 1)

    def adapter(self, target: Target) -> Adapter:
        """Return the adapter of a target."""
        found = self._given.get(target.provider) or self._adapters.get(target.key)
        if found is None and target.group is not None:
            places = {each.params.get("api_base") for each in self.table.deployments(target)}
            address = places.pop() if len(places) == 1 else None
            found = RouterAdapter(target.provider, target.group, self.router, address=address)
        elif found is None:
            found = self._factory.for_model(target.provider, target.model, target.params.get("api_base"))
        return self._adapters.setdefault(target.key, found)

    async def book(self, booking: Awaitable[Any], *, within_s: float) -> None:
        """Await a booking for `within_s` at most; the store carries out what a locked ledger has held up by then.

        An answer is owed to its caller whatever became of the booking: one that fails is told, not raised.
        """
        try:
            async with asyncio.timeout(within_s):
                await booking
        except TimeoutError:
            self.tell("usage.delayed", level="warning", reason="the ledger is locked; booked as soon as it is free")
        except StoreError as error:
            self.tell("usage.lost", level="warning", reason=str(error))

    async def use_settings(self) -> None:
        """Have `litellm_settings` set on LiteLLM's module; what they name is imported. Raise ConfigError."""
        if self.settings.are_due:
            await asyncio.to_thread(self.settings.apply)

    async def aclose(self) -> None:
        """Put LiteLLM's settings back, and release the stores, once what is owed to them is written."""
        self.settings.restore()
        await self.cache.aclose()
        await self.store.aclose()


def _litellm_names() -> Known:
    from blueprint_llm.adapters.known import litellm_names  # noqa: PLC0415 - a strict configuration loads LiteLLM

    return litellm_names()


def _no_router() -> Any:
    raise ConfigError("nobody has said how a Router is made")


def _retry_rules(config: Config) -> RetryRules:
    """Return `blueprint.retry`, else LiteLLM's `num_retries` with our defaults."""
    if config.retry is None:
        return RetryRules(max_attempts=config.num_retries + 1, min_s=config.retry_after)
    given = config.retry.model_dump(exclude={"ratio", "jitter"})
    return RetryRules(**given, jitter=config.retry.jitter == "full")


@dataclass(slots=True, kw_only=True)
class RequestState:
    """One request on its way. Times in seconds of the monotonic clock."""

    runtime: Runtime
    request: ChatRequest
    trace: Trace
    # when it was asked; `started`, `deadline`: its time, without what nobody counts (loading LiteLLM)
    began: float = 0.0
    started: float = 0.0
    deadline: float = 0.0
    streams: bool = True  # the caller reads chunks; else only the whole answer
    failures: list[BlueprintError] = field(default_factory=list)  # what went wrong so far, in order
    # categories of failures for which LiteLLM's special fallbacks name other targets
    redirects: frozenset[str] = frozenset()

    def start(self, limit_s: float) -> None:
        """Begin the request's time."""
        self.began = self.started = self.runtime.now()
        self.deadline = self.began + limit_s

    @property
    def limit_s(self) -> float:
        """How much time the call has."""
        return self.deadline - self.started

    def extend(self, seconds: float) -> None:
        """Move the deadline: loading LiteLLM and what was streamed are not the time of the call."""
        self.started, self.deadline = self.started + seconds, self.deadline + seconds

    def late(self, error: TimeoutError) -> DeadlineExceededError:
        """Return the error of a call whose store kept it waiting until its deadline, and by what that can be seen."""
        return late(error, self.limit_s, self.failures)

    def note_overhead(self) -> None:
        """Note our own time until the first request is handed over."""
        if self.trace.overhead_us is None:
            self.trace.overhead_us = round((self.runtime.now() - self.started) * 1e6, 1)


def late(error: TimeoutError, limit_s: float, failures: Sequence[BlueprintError] = ()) -> DeadlineExceededError:
    """Return what a call raises whose time was over before its store had answered."""
    held = waited_for(error) or "the ledger"
    return DeadlineExceededError(
        f"no answer within the deadline of {limit_s:g} s: waited for {held}", attempts=failures
    )
