"""Everything a walk works with, built once for a client."""

from __future__ import annotations

import random
import time
import uuid
from dataclasses import dataclass, field, replace
from datetime import date
from typing import TYPE_CHECKING, Any, Self

from blueprint_llm.adapters import AdapterFactory
from blueprint_llm.cache import CacheManager
from blueprint_llm.config import load_config
from blueprint_llm.credentials import CredentialsManager
from blueprint_llm.errors import ConfigError
from blueprint_llm.events import Audience, Event
from blueprint_llm.policy import RetryRatio, RetryRules, breaker_rules, retry_rules
from blueprint_llm.routing.targets import Target, TargetTable
from blueprint_llm.strategies import Strategy, of_name
from blueprint_llm.streaming import check_tools
from blueprint_llm.traffic import Traffic
from blueprint_llm.usage import Hits, Ledger
from blueprint_llm.usage.pricing import Prices
from blueprint_llm.usage.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from blueprint_llm.config.blocks import Breaker
    from blueprint_llm.config.model import Config
    from blueprint_llm.errors import CallError
    from blueprint_llm.events import OnEvent
    from blueprint_llm.types import ChatRequest
    from blueprint_llm.usage.pricing import PriceCard


EPOCH_DAY = date(1970, 1, 1).toordinal()


def _retry_rules(config: Config) -> RetryRules:
    """`blueprint.retry`, else LiteLLM's `num_retries` with our defaults."""
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


def _traffic(config: Config) -> Traffic:
    ttl_s = config.routing_strategy_args.get("ttl")
    return Traffic(ttl_s=ttl_s) if isinstance(ttl_s, int | float) else Traffic()


def retry_of(parts: Parts, request: ChatRequest) -> RetryRules:
    """The rules of one request: its own `num_retries` wins, which LiteLLM also calls `max_retries`."""
    own = next(filter(_is_count, map(request.params.get, ("num_retries", "max_retries"))), None)
    return parts.retry if own is None else replace(parts.retry, max_attempts=own + 1)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


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
    strategy: Strategy
    traffic: Traffic
    audience: Audience = field(default_factory=Audience)
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
        rules = _retry_rules(config)
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
            hits=Hits(store),
            retry=rules,
            ratio=RetryRatio(ratio=config.retry.ratio if config.retry else 1.0),
            strategy=of_name(config.routing_strategy, config.routing_strategy_args),
            traffic=_traffic(config),
            audience=audience,
            project=project or config.project,
            session=session or uuid.uuid4().hex,
            given_adapters=dict(adapters or {}),
        )

    def new_id(self) -> str:
        """A fresh id of a call."""
        return f"{random.getrandbits(128):032x}"  # no system call; Python reseeds a forked child

    def tell(self, name: str, *, level: str = "info", **facts: Any) -> None:
        """Hand an event to whoever listens: the log where there is a `logging` block, the caller's hook."""
        if self.audience:
            self.audience(Event(name=name, facts=facts, level=level))  # type: ignore[arg-type] # a literal at every call

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

    def close(self) -> None:
        """Release the stores."""
        self.hits.flush()
        self.cache.close()
        self.store.close()

    async def aclose(self) -> None:
        """Release the stores."""
        self.hits.flush()
        await self.cache.aclose()
        await self.store.aclose()

    def reloaded(self, config: Config) -> Self:
        """The parts of another configuration, with the stores, the session and what is known of the traffic."""
        manager = CredentialsManager(config)
        return replace(
            self,
            config=config,
            table=TargetTable(config),
            chains=dict(config.chains),
            adapters=AdapterFactory(config, manager),
            credentials=manager,
            ledger=Ledger(config),
            retry=_retry_rules(config),
            strategy=of_name(config.routing_strategy, config.routing_strategy_args),
            _adapters={},
        )

    def timeout_s(self, target: Target, *, streamed: bool) -> float:
        """LiteLLM's timeout of one attempt: the deployment's, else the Router's, else as long as the deadline lets."""
        config, own = self.config, target.timeout_s
        stream_s = (target.stream_timeout_s or config.stream_timeout) if streamed else None
        return stream_s or own or config.timeout or float("inf")

    def price(
        self, target: Target, tags: frozenset[str] = frozenset(), *, own: Mapping[str, Any] | None = None
    ) -> PriceCard | None:
        """The price of a target today; `own` prices are those of the call itself."""
        today = date.fromordinal(EPOCH_DAY + int(self.clock() // 86400))
        params = {**target.params, **own} if own else target.params
        return self.prices.price(target.provider, target.model, at=today, params=params, info=target.info, tags=tags)

    def retry_for(self, target: Target, error: CallError) -> RetryRules:
        """How often to try `target` again after `error`."""
        own = None if self.config.retry else target.params.get("num_retries")
        base = replace(self.retry, max_attempts=own + 1) if isinstance(own, int) else self.retry
        return retry_rules(self.config, base, target.group, error)

    def retried_as(self, target: Target) -> str:
        """What attempts are counted by: with LiteLLM's `num_retries`, equal deployments of a group together."""
        shared = self.config.retry is None and target.group
        return f"{target.provider}|{target.group}|{target.order}" if shared else target.key

    def breaker_for(self, target: Target, error: CallError | None) -> Breaker:
        """When to leave `target` alone after `error`."""
        return breaker_rules(self.config, {**target.params, **target.info}, error)

    def known(self, now: float, *, streamed: bool = False) -> Known:
        """What is known of targets at `now` (the monotonic clock), for the routing strategy."""
        return Known(self, now, streamed=streamed)

    def adapter(self, target: Target) -> Any:
        """The adapter of a target."""
        found = self.given_adapters.get(target.provider) or self._adapters.get(target.key)
        if found is None:
            found = self.adapters.for_model(target.provider, target.model, target.params.get("api_base"))
            self._adapters[target.key] = found
        return found


class Known:
    """What a routing strategy may ask of a target."""

    def __init__(self, parts: Parts, now: float, *, streamed: bool) -> None:
        self._parts, self._now, self._streamed = parts, now, streamed

    def in_flight(self, target: Target) -> int:
        """Calls of this process that have begun and not ended."""
        return self._parts.traffic.in_flight(target.key)

    def latency_s(self, target: Target) -> float:
        """See `Traffic.latency_s`."""
        return self._parts.traffic.latency_s(target.key, now=self._now, streamed=self._streamed)

    def tokens(self, target: Target) -> int:
        """Tokens used in this minute."""
        return self._parts.traffic.tokens(target.key, now=self._now)

    def price(self, target: Target) -> float:
        """Per input and output token together; unknown is dearer than any."""
        card = self._parts.price(target)
        return float("inf") if card is None else card.base.input + card.base.output
