"""Which deployment of a group to ask first: LiteLLM's routing strategies as pure orders of its deployments.

A strategy is a function in `STRATEGIES`; it orders all deployments of one `order`, so that the walk also knows whom
to ask when the first ones fail. Where LiteLLM would pick at random, `draw` decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Protocol

from blueprint_llm.routing.targets import by_group

if TYPE_CHECKING:
    from blueprint_llm.routing.targets import Target

METRICS = ("weight", "rpm", "tpm")


class Known(Protocol):
    """What is known of targets at the moment of a choice."""

    def in_flight(self, target: Target) -> int:
        """Calls that have begun and not ended."""

    def latency_s(self, target: Target) -> float:
        """Seconds per output token of its last answers (of a stream: to the first); 0 where it has given none."""

    def tokens(self, target: Target) -> int:
        """Tokens used in this minute."""

    def price(self, target: Target) -> float:
        """USD per input and output token together."""


Strategy = Callable[[Sequence["Target"], float, Known], list["Target"]]


def shuffled(members: Sequence[Target], draw: float, _: Known | None = None) -> list[Target]:
    """By weight: the first of `weight`, `rpm` and `tpm` that any of them has, else all alike."""
    if not any(target.weight or target.rpm or target.tpm for target in members):
        return _by_chance(members, draw)
    pool, result = list(members), []
    while pool:
        picked = _pick(pool, draw)
        result.append(picked)
        pool.remove(picked)
        draw = draw * 7919 % 1  # one draw orders them all
    return result


def _pick(pool: Sequence[Target], draw: float) -> Target:
    weights = _weights(pool)
    mark = draw * sum(weights)
    for target, weight in zip(pool, weights, strict=True):
        mark -= weight
        if mark < 0:
            return target
    return pool[-1]


def _weights(pool: Sequence[Target]) -> list[float]:
    for metric in METRICS:
        weights = [max(0.0, getattr(target, metric) or 0.0) for target in pool]
        if any(weights):
            return weights
    return [1.0] * len(pool)


def least_busy(members: Sequence[Target], draw: float, known: Known) -> list[Target]:
    """Fewest calls in flight first; equals by chance."""
    return sorted(_by_chance(members, draw), key=known.in_flight)


def cheapest(members: Sequence[Target], _: float, known: Known) -> list[Target]:
    """Lowest price first; of equals the first in the file."""
    return sorted(members, key=known.price)


def least_used(members: Sequence[Target], draw: float, known: Known) -> list[Target]:
    """Fewest tokens in this minute first; equals by chance."""
    return sorted(_by_chance(members, draw), key=known.tokens)


def fastest(members: Sequence[Target], draw: float, known: Known, *, buffer: float = 0.0) -> list[Target]:
    """By chance among those within `buffer` (a share) of the fastest; an untried one counts as fastest."""
    ranked = sorted(_by_chance(members, draw), key=known.latency_s)
    limit = known.latency_s(ranked[0]) * (1 + buffer)
    near = [target for target in members if known.latency_s(target) <= limit]
    return [*_by_chance(near, draw), *ranked[len(near) :]]


def _by_chance(members: Sequence[Target], draw: float) -> list[Target]:
    pool, result = list(members), []
    while pool:
        result.append(pool.pop(int(draw * len(pool))))
        draw = draw * 7919 % 1
    return result


STRATEGIES: dict[str, Strategy] = {
    "simple-shuffle": shuffled,
    "least-busy": least_busy,
    "usage-based-routing": least_used,
    "usage-based-routing-v2": least_used,
    "latency-based-routing": fastest,
    "cost-based-routing": cheapest,
}


def of_name(name: str, arguments: Mapping[str, object]) -> Strategy:
    """The strategy of `routing_strategy` and its arguments; LiteLLM's `lar1`, a service of its own, shuffles."""
    strategy, buffer = STRATEGIES.get(name, shuffled), arguments.get("lowest_latency_buffer")
    if strategy is not fastest or not isinstance(buffer, int | float):
        return strategy
    return lambda members, draw, known: fastest(members, draw, known, buffer=buffer)


def arranged(targets: Iterable[Target], draw: float, strategy: Strategy, known: Known) -> list[Target]:
    """The targets with the deployments of each group in order: a lower `order` first, then as `strategy` says.

    Groups keep their places; a group with one deployment costs nothing.
    """
    result: list[Target] = []
    for members in by_group(targets):
        result += members if len(members) == 1 else _by_order(members, draw, strategy, known)
    return result


def _by_order(members: list[Target], draw: float, strategy: Strategy, known: Known) -> list[Target]:
    levels = groupby(sorted(members, key=_order), key=_order)
    return [target for _, level in levels for target in strategy(list(level), draw, known)]


def _order(target: Target) -> float:
    return float("inf") if target.order is None else target.order
