"""Everything a walk works with, built once for a client."""

from __future__ import annotations

import random
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from blueprint_llm.adapters import AdapterFactory
from blueprint_llm.cache import CacheManager
from blueprint_llm.config import load_config
from blueprint_llm.credentials import CredentialsManager
from blueprint_llm.errors import ConfigError
from blueprint_llm.events import Event, emit
from blueprint_llm.policy import RetryRatio, RetryRules
from blueprint_llm.pricing import Prices
from blueprint_llm.routing import Target, TargetTable
from blueprint_llm.stores import open_store
from blueprint_llm.streaming import check_tools
from blueprint_llm.usage import Hits, Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from blueprint_llm.config.model import Config
    from blueprint_llm.events import OnEvent
    from blueprint_llm.pricing import PriceCard
    from blueprint_llm.types import ChatRequest


def retry_rules(config: Config) -> RetryRules:
    """`blueprint.retry`, else LiteLLM's `num_retries` with our defaults."""
    given = config.retry
    if given is None:
        return RetryRules(max_attempts=config.num_retries + 1)
    return RetryRules(
        max_attempts=given.max_attempts,
        base_s=given.base_s,
        cap_s=given.cap_s,
        jitter=given.jitter == "full",
        max_retry_after_s=given.max_retry_after_s,
    )


@dataclass(slots=True)
class Parts:
    """The configuration and the parts made from it; `set_chain` swaps one mapping, calls in flight keep theirs."""

    config: Config
    table: TargetTable
    chains: Mapping[str, Sequence[str]]
    adapters: AdapterFactory
    credentials: CredentialsManager
    ledger: Ledger
    prices: Prices
    store: Any
    cache: CacheManager
    hits: Hits
    retry: RetryRules
    ratio: RetryRatio
    on_event: OnEvent | None = None
    project: str | None = None
    session: str | None = None
    clock: Callable[[], float] = time.time
    given_adapters: Mapping[str, Any] = field(default_factory=dict)
    _adapters: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        source: Any,
        *,
        credentials: CredentialsManager | None = None,
        on_event: OnEvent | None = None,
        project: str | None = None,
        session: str | None = None,
        adapters: Mapping[str, Any] | None = None,
    ) -> Self:
        """The parts of a configuration. Raises ConfigError."""
        config = load_config(source)
        manager = credentials or CredentialsManager(config)
        rules = retry_rules(config)
        store = open_store(config.store, on_event=on_event) if on_event else open_store(config.store)
        return cls(
            config=config,
            table=TargetTable(config),
            chains=dict(config.chains),
            adapters=AdapterFactory(config, manager),
            credentials=manager,
            ledger=Ledger(config),
            prices=Prices.load(config.pricing, folder=config.folder),
            store=store,
            cache=CacheManager.of_config(config, on_event=on_event),
            hits=Hits(store),
            retry=rules,
            ratio=RetryRatio(ratio=config.retry.ratio if config.retry else 1.0),
            on_event=on_event,
            project=project or config.project,
            session=session or uuid.uuid4().hex,
            given_adapters=dict(adapters or {}),
        )

    def new_id(self) -> str:
        """A fresh id of a call."""
        return f"{random.getrandbits(128):032x}"  # no system call; Python reseeds a forked child

    def tell(self, name: str, *, level: str = "info", **facts: Any) -> None:
        """Hand an event to the caller's hook, and log it where the configuration has a `logging` block."""
        event = Event(name=name, facts=facts, level=level)  # type: ignore[arg-type] # a literal at every call
        if self.config.logging.model_fields_set:
            emit(event, format=self.config.logging.format, level=self.config.logging.level)
        if self.on_event is not None:
            self.on_event(event)

    def complete_request(self, request: ChatRequest) -> ChatRequest:
        """The request with the client's project and session where it names none, its tools checked."""
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

    def price(self, target: Target, tags: frozenset[str] = frozenset()) -> PriceCard | None:
        """The price of a target today."""
        today = datetime.fromtimestamp(self.clock(), UTC).date()
        return self.prices.price(
            target.provider, target.model, at=today, params=target.params, info=target.info, tags=tags
        )

    def adapter(self, target: Target) -> Any:
        """The adapter of a target."""
        found = self.given_adapters.get(target.provider) or self._adapters.get(target.key)
        if found is None:
            found = self.adapters.for_model(target.provider, target.model, target.params.get("api_base"))
            self._adapters[target.key] = found
        return found
