"""What the parts of the bench share: how a call is timed, the yardstick of this machine, and the rows of the table."""

from __future__ import annotations

import json
import statistics
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

NOMINAL_S = 12e-6  # `json.loads` of 2 KB on the machine that the absolute limits were set on
TEXT = json.dumps({"rows": [{"key": n, "value": "x" * 20} for n in range(50)]})


def once_s(call: Callable[[], Any]) -> float:
    """Return the seconds of one call."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def median_s(call: Callable[[], Any], times: int) -> float:
    """Return the median seconds of several calls."""
    return statistics.median(once_s(call) for _ in range(times))


def best_s(call: Callable[[], Any], times: int) -> float:
    """Return the shortest seconds of several calls: what the thing itself costs on a machine that is shared."""
    return min(once_s(call) for _ in range(times))


def yardstick_s() -> float:
    """Return the seconds that `json.loads` of 2 KB takes now."""
    return median_s(lambda: [json.loads(TEXT) for _ in range(100)], 20) / 100


def scale() -> float:
    """Return how much slower than nominal this machine is now; a faster one is no stricter."""
    return max(1.0, yardstick_s() / NOMINAL_S)


def row(name: str, ours: float, peer: str, peer_value: float, target: float, unit: str) -> dict[str, Any]:
    """Return one line of the table: `ours` may be at most `target` times the peer's."""
    ratio = ours / peer_value
    return {
        "name": name,
        "ours": ours,
        "peer": peer,
        "peer_value": peer_value,
        "ratio": ratio,
        "target": target,
        "ok": ratio <= target,
        "unit": unit,
    }


def limited(name: str, ours: float, limit: float, unit: str, *, scaled: float | None = None) -> dict[str, Any]:
    """Return one line of the table against an absolute limit, scaled by the yardstick of the same run."""
    return row(name, ours, f"{limit:g} {unit}, scaled", limit * (scaled or scale()), 1.0, unit)


def faster(name: str, ours: float, peer: str, peer_value: float, times: float | None, unit: str) -> dict[str, Any]:
    """Return one line of the table: the peer must take so many times as long as ours; None: for information."""
    ratio = peer_value / ours
    found = row(name, ours, peer, peer_value, 0.0, unit)
    return {**found, "ratio": ratio, "target": times, "ok": times is None or ratio >= times}
