"""Charts that stretch with the page: places in percent, for the template to draw."""

from __future__ import annotations

import math
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_STEPS = (1, 2, 2.5, 5, 10)
_GAP = 0.26  # of a column, between bars
_LABELS = 6


class Series(NamedTuple):
    """A row of values, one a column; `colour` is a CSS class. None: there is no value."""

    name: str
    colour: str
    values: Sequence[float | None]


def chart(
    title: str,
    labels: Sequence[str],
    series: Sequence[Series],
    wording: Callable[[float], str],
    *,
    is_stacked: bool = True,
    is_count: bool = False,
) -> dict[str, Any]:
    """Return what is drawn: stacked columns, or a line for each series. Of a count there are no halves."""
    stacks = list(zip(*(each.values for each in series), strict=True))
    heights = [[value or 0 for value in stack] for stack in stacks]
    top, ticks = scale(max((sum(each) if is_stacked else max(each) for each in heights), default=0))
    slot = 100 / max(1, len(labels))
    return {
        "title": title,
        "ticks": [(_percent(100 * (1 - each / top)), wording(each)) for each in ticks if not is_count or each % 1 == 0],
        "labels": _below(labels, slot),
        "lines": [] if is_stacked else [_line(each, slot, top) for each in series],
        "columns": [
            {
                "x": _percent(slot * n),
                "width": _percent(slot),
                "hint": _hint(label, series, stack, wording),
                "bars": _bars(series, heights[n], n, slot, top) if is_stacked else [],
            }
            for n, (label, stack) in enumerate(zip(labels, stacks, strict=True))
        ],
    }


def scale(most: float) -> tuple[float, list[float]]:
    """A round top at or above `most`, and three or four round ticks from 0 to it."""
    if most <= 0:
        return 1.0, []
    size = 10 ** math.floor(math.log10(most / 3))
    step = next(factor * size for factor in _STEPS if factor * size * 4 >= most)
    steps = math.ceil(most / step - 1e-9)
    return steps * step, [n * step for n in range(steps + 1)]


def _percent(value: float) -> str:
    return f"{value:.3f}%"


def _bars(series: Sequence[Series], heights: Sequence[float], n: int, slot: float, top: float) -> list[dict[str, str]]:
    """The parts of a stacked column, the first at the bottom."""
    place = {"x": _percent(slot * (n + _GAP / 2)), "width": _percent(slot * (1 - _GAP))}
    ends = list(accumulate(heights, initial=0.0))
    return [
        {"colour": each.colour, "y": _percent(100 * (1 - high / top)), "height": _percent(100 * (high - low) / top)}
        | place
        for each, low, high in zip(series, ends, ends[1:], strict=False)
        if high > low
    ]


def _hint(label: str, series: Sequence[Series], stack: Sequence[float | None], wording: Callable[[float], str]) -> str:
    """What a column shows when it is pointed at."""
    known = [f"{each.name}: {wording(value)}" for each, value in zip(series, stack, strict=True) if value]
    return "\n".join([label, *(known or ["nothing"])])


def _line(series: Series, slot: float, top: float) -> dict[str, Any]:
    """A stroke for each run of values, for a line breaks where there is none, and a dot for each value."""
    points = [(slot * (n + 0.5), 100 * (1 - (v or 0) / top), v is not None) for n, v in enumerate(series.values)]
    runs = [list(run) for known, run in groupby(points, key=lambda point: point[2]) if known]
    strokes = [" ".join(f"{x:.3f},{y:.3f}" for x, y, _ in run) for run in runs]
    dots = [(_percent(x), _percent(y)) for run in runs for x, y, _ in run]
    return {"colour": series.colour, "strokes": strokes, "dots": dots}


def _below(labels: Sequence[str], slot: float) -> list[tuple[str, str, str]]:
    """Every few columns their label, counted from the newest; one of several days has its first only.

    The last one ends with the plot, for there is no room beyond.
    """
    last, every = len(labels) - 1, -(-len(labels) // _LABELS)
    shown = [n for n in range(len(labels)) if (last - n) % every == 0]
    places = [("100%", "end") if n == last else (_percent(slot * (n + 0.5)), "middle") for n in shown]
    return [(*place, labels[n].partition(" –")[0]) for n, place in zip(shown, places, strict=True)]
