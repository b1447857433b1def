"""What every request of a client works with: the configuration and the rooms made from it, built once."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from dataclasses import dataclass, field, replace
from datetime import date
from typing import TYPE_CHECKING, Any, Self

from blueprint_llm.adapters import AdapterFactory
from blueprint_llm.adapters.router import RouterAdapter, SharedRouter
from blueprint_llm.adapters.settings import ModuleSettings
from blueprint_llm.cache import CacheManager
from blueprint_llm.config import load_config
from blueprint_llm.context import Margins
from blueprint_llm.credentials import CredentialsManager
from blueprint_llm.errors import ConfigError, StoreError
from blueprint_llm.events import Audience, Event
from blueprint_llm.policy import RetryRatio, RetryRules
from blueprint_llm.routing.targets import Target, TargetTable
from blueprint_llm.streaming import check_tools
from blueprint_llm.usage import Ledger
from blueprint_llm.usage.pricing import Prices
from blueprint_llm.usage.stores import Store, open_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from blueprint_llm.adapters import Adapter
    from blueprint_llm.config.model import Config
    from blueprint_llm.config.sections import Known
    from blueprint_llm.events import OnEvent
    from blueprint_llm.types import ChatRequest
    from blueprint_llm.usage.pricing import PriceCard

EPOCH_DAY = date(1970, 1, 1).toordinal()
DEFAULT_RATIO = 0.2


@dataclass(slots=True)
class Runtime:
    """The configuration and the parts made from it; `set_chain` swaps one mapping, calls in flight keep theirs.

    Attributes:
        router: LiteLLM's Router of this configuration, made on first use.
        settings: What `litellm_settings` set on LiteLLM's module, from the first call on.
        clock: Unix seconds; `now`: monotonic seconds; `sleep`, `draw`: waiting, and a random number in [0, 1).
    """

    config: Config
    table: TargetTable
    chains: Mapping[str, Sequence[str]]
    adapters: AdapterFactory
    credentials: CredentialsManager
    ledger: Ledger
    prices: Prices
    store: Store
    cache: CacheManager
    retry: RetryRules
    ratio: RetryRatio
    margins: Margins = field(default_factory=Margins)
    audience: Audience = field(default_factory=Audience)
    project: str | None = None
    session: str | None = None
    clock: Callable[[], float] = time.time
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    draw: Callable[[], float] = random.random
    given_adapters: Mapping[str, Adapter] = field(default_factory=dict)
    router: SharedRouter = field(default_factory=lambda: SharedRouter(_no_router))
    settings: ModuleSettings = field(default_factory=ModuleSettings)
    _adapters: dict[str, Adapter] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        source: Any,
        *,
        credentials: CredentialsManager | None = None,
        on_event: OnEvent | None = None,
        project: str | None = None,
        session: str | None = None,
        adapters: Mapping[str, Adapter] | None = None,
    ) -> Self:
        """Return the runtime of a configuration. Raises ConfigError."""
        config = load_config(source, litellm=_litellm_names)
        manager = credentials or CredentialsManager(config)
        log = config.logging
        audience = Audience(on_event, (log.format, log.level) if log.model_fields_set else None)
        store = open_store(config.store, on_event=audience) if audience else open_store(config.store)
        return cls(
            config=config,
            table=TargetTable(config),
            chains=dict(config.chains),
            adapters=AdapterFactory(config, manager),
            credentials=manager,
            ledger=Ledger(config),
            prices=Prices.load(config.pricing, folder=config.folder),
            store=store,
            cache=CacheManager.of_config(config, on_event=audience or None),
            retry=_retry_rules(config),
            ratio=RetryRatio(ratio=config.retry.ratio if config.retry else DEFAULT_RATIO),
            audience=audience,
            settings=ModuleSettings(config),
            project=project or config.project,
            session=session or uuid.uuid4().hex,
            given_adapters=dict(adapters or {}),
        )

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
        unknown = [name for name in names if not self.table.of_name(name)]
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
        return target.group is not None and target.provider not in self.given_adapters

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
        is_ours = not self.is_routed(target) or self.is_alone(target)
        if not is_ours and category not in {"malformed", "stream_broken"}:
            return replace(self.retry, max_attempts=1)
        named = (request.params.get("num_retries"), request.params.get("max_retries"))
        configured = () if self.config.retry else (target.params.get("num_retries"),)
        own = next((count for count in (*named, *configured) if type(count) is int and count >= 0), None)
        return self.retry if own is None else replace(self.retry, max_attempts=own + 1)

    def adapter(self, target: Target) -> Adapter:
        """Return the adapter of a target."""
        found = self.given_adapters.get(target.provider) or self._adapters.get(target.key)
        if found is None and target.group is not None:
            found = self._adapters[target.key] = RouterAdapter(
                target.provider, target.group, self.router, address=self._address_of(target)
            )
        if found is None:
            found = self.adapters.for_model(target.provider, target.model, target.params.get("api_base"))
            self._adapters[target.key] = found
        return found

    def _address_of(self, target: Target) -> str | None:
        """Return where all deployments of a group are, if that is one place."""
        places = {each.params.get("api_base") for each in self.table.deployments(target)}
        return places.pop() if len(places) == 1 else None

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
    given = config.retry
    if given is None:
        return RetryRules(max_attempts=config.num_retries + 1, min_s=config.retry_after)
    return RetryRules(
        max_attempts=given.max_attempts,
        base_s=given.base_s,
        cap_s=given.cap_s,
        jitter=given.jitter == "full",
        max_retry_after_s=given.max_retry_after_s,
    )
