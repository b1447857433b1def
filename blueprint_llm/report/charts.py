"""Charts as inline SVG that stretch with the page: places in percent, strokes and letters in pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import TYPE_CHECKING

from blueprint_llm.report.markup import Html, join, tag

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_STEPS = (1, 2, 2.5, 5, 10)
_GAP = 0.26  # of a column, between bars
_LABELS = 6


@dataclass(frozen=True, slots=True)
class Series:
    """A row of values, one a column; `colour` is a CSS class. None: there is no value."""

    name: str
    colour: str
    values: Sequence[float | None]


def bars(
    labels: Sequence[str],
    series: Sequence[Series],
    wording: Callable[[float], str],
    title: str,
    *,
    is_count: bool = False,
) -> Html:
    """Stacked columns; of a count there are no halves."""
    stacks = list(zip(*(each.values for each in series), strict=True))
    top, ticks = scale(max((sum(filter(None, stack)) for stack in stacks), default=0))
    ticks = [tick for tick in ticks if not is_count or tick == int(tick)]
    slot = 100 / max(1, len(labels))
    columns = []
    for n, (label, stack) in enumerate(zip(labels, stacks, strict=True)):
        ends = list(accumulate((value or 0 for value in stack), initial=0))
        place = {"x": f"{slot * (n + _GAP / 2):.3f}%", "width": f"{slot * (1 - _GAP):.3f}%"}
        parts = [
            tag("rect", class_=each.colour, y=_y(high, top), height=f"{100 * (high - low) / top:.3f}%", **place)
            for each, low, high in zip(series, ends, ends[1:], strict=False)
            if high > low
        ]
        columns.append(_slot(n, slot, _hint(label, series, stack, wording), parts))
    return _plot(title, labels, [(_y(tick, top), wording(tick)) for tick in ticks], columns)


def lines(labels: Sequence[str], series: Sequence[Series], wording: Callable[[float], str], title: str) -> Html:
    """A line for each series; it breaks where there is no value."""
    top, ticks = scale(max((value or 0 for each in series for value in each.values), default=0))
    slot = 100 / max(1, len(labels))
    drawn = [_line(each, slot, top) for each in series]
    stacks = zip(*(each.values for each in series), strict=True)
    hints = [
        _slot(n, slot, _hint(label, series, stack, wording), ())
        for n, (label, stack) in enumerate(zip(labels, stacks, strict=True))
    ]
    return _plot(title, labels, [(_y(tick, top), wording(tick)) for tick in ticks], [*drawn, *hints])


def legend(entries: Sequence[tuple[str, str, str]]) -> Html:
    """The colours' meanings: colour class, name, value."""
    items = [tag("li", tag("i", class_=colour), name, " ", tag("b", value)) for colour, name, value in entries]
    return tag("ul", *items, class_="legend")


def scale(most: float) -> tuple[float, list[float]]:
    """A round top at or above `most`, and three or four round ticks from 0 to it."""
    if most <= 0:
        return 1.0, []
    size = 10 ** math.floor(math.log10(most / 3))
    step = next(factor * size for factor in _STEPS if factor * size * 4 >= most)
    steps = math.ceil(most / step - 1e-9)
    return steps * step, [n * step for n in range(steps + 1)]


def _y(value: float, top: float) -> str:
    return f"{100 * (1 - value / top):.3f}%"


def _slot(n: int, slot: float, hint: str, parts: Sequence[Html]) -> Html:
    """A column's place, over its whole height, which shows its values when pointed at."""
    area = tag("rect", class_="slot", x=f"{slot * n:.3f}%", width=f"{slot:.3f}%", y="0", height="100%")
    return tag("g", tag("title", hint), area, *parts)


def _hint(label: str, series: Sequence[Series], stack: Sequence[float | None], wording: Callable[[float], str]) -> str:
    known = [f"{each.name}: {wording(value)}" for each, value in zip(series, stack, strict=True) if value]
    return "\n".join([label, *(known or ["nothing"])])


def _line(series: Series, slot: float, top: float) -> Html:
    points = [(slot * (n + 0.5), 100 * (1 - (v or 0) / top), v is not None) for n, v in enumerate(series.values)]
    runs = [list(run) for known, run in groupby(points, key=lambda point: point[2]) if known]
    strokes = [
        tag("polyline", points=" ".join(f"{x:.3f},{y:.3f}" for x, y, _ in run), vector_effect="non-scaling-stroke")
        for run in runs
    ]
    dots = [tag("circle", cx=f"{x:.3f}%", cy=f"{y:.3f}%", r="2.5") for run in runs for x, y, _ in run]
    stretched = tag("svg", *strokes, viewBox="0 0 100 100", preserveAspectRatio="none", width="100%", height="100%")
    return tag("g", stretched, *dots, class_=f"line {series.colour}")


def _plot(title: str, labels: Sequence[str], ticks: Sequence[tuple[str, str]], body: Sequence[Html]) -> Html:
    grid = [tag("line", x1="0", x2="100%", y1=y, y2=y, class_="grid") for y, _ in ticks]
    left = [tag("text", text, x="-8", y=y, dy="4", text_anchor="end") for y, text in ticks]
    return tag("svg", join(*grid, *left, *_below(labels), *body), class_="plot", role="img", aria_label=title)


def _below(labels: Sequence[str]) -> list[Html]:
    """Every few columns their label, counted from the newest; one of several days has its first only."""
    every, slot = -(-len(labels) // _LABELS), 100 / max(1, len(labels))
    shown = [n for n in range(len(labels)) if (len(labels) - 1 - n) % every == 0]
    return [_label(labels[n].partition(" –")[0], slot * (n + 0.5), last=n == len(labels) - 1) for n in shown]


def _label(text: str, middle: float, *, last: bool) -> Html:
    """A label below the plot; the last one ends with it, for there is no room beyond."""
    anchor, x = ("end", "100%") if last else ("middle", f"{middle:.3f}%")
    return tag("text", text, x=x, y="100%", dy="18", text_anchor=anchor)
