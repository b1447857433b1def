"""Collects everything that is wrong with one configuration, each thing with its place.

A problem stops the load. A doubt is what LiteLLM silently accepts though it looks wrong: a notice, or with
`strict` a problem.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blueprint_llm.config.secrets import masked_text, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from blueprint_llm.config.tree import Tree

Path = tuple[str | int, ...]

_PLAIN_KEY = re.compile(r"[A-Za-z_][\w\-]*")
_MOST_NAMES = 12


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A position in a file; line and column count from 1, 0 means unknown."""

    file: str = ""
    line: int = 0
    column: int = 0

    @classmethod
    def of(cls, mark: Any, name: str = "") -> Place:
        """The place of a YAML mark, which counts from 0."""
        return cls(name or mark.name, mark.line + 1, mark.column + 1)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that is wrong: where, at which key path, and what."""

    place: Place
    path: str
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.place), self.path, self.text) if part)


class Rejected(Exception):  # noqa: N818 - never leaves this package: `load_config` makes it a ConfigError
    """A configuration that cannot be loaded, with every reason."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        super().__init__()
        self.findings = list(findings)

    @classmethod
    def at(cls, place: Place, text: str) -> Rejected:
        """The one mistake after which nothing more can be read."""
        return cls([Finding(place, "", masked_text(text))])


class Report:
    """The findings about one configuration."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.problems: list[Finding] = [Finding(place, "", masked_text(text)) for place, text in tree.mistakes]
        self.doubts: list[Finding] = []
        self.ignored: list[str] = []

    def problem(self, path: Path, text: str, *, key: bool = False) -> None:
        """Record a mistake at `path`; `key` points at the key instead of its value."""
        self.problems.append(self._finding(path, text, key=key))

    def doubt(self, path: Path, text: str, *, key: bool = False) -> None:
        """Record what LiteLLM would accept without a word."""
        self.doubts.append(self._finding(path, text, key=key))

    def _finding(self, path: Path, text: str, *, key: bool) -> Finding:
        return Finding(self._tree.place(path, key=key), dotted(path), text)

    def settle(self, *, strict: bool) -> tuple[list[str], list[str]]:
        """Return every problem in the order of the file, and the notices; with `strict` a doubt is a problem."""
        problems = sorted({*self.problems, *(self.doubts if strict else ())})
        notices = [*self.ignored, *(() if strict else map(str, sorted(set(self.doubts))))]
        return list(map(str, problems)), notices


def dotted(path: Sequence[str | int]) -> str:
    """`("chains", "default", 2)` as `chains.default[2]`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_KEY.fullmatch(step):
            text += f".{masked_text(step)}" if text else masked_text(step)
        else:
            text += f"[{shown(step)}]"
    return text


def mapping(value: Any) -> dict[str, Any]:
    """Return a value of a file if it is a mapping, else an empty one: what is wrong with it is said elsewhere."""
    return value if isinstance(value, dict) else {}


def listed(value: Any) -> list[Any]:
    """Return a value of a file if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def words(text: str) -> frozenset[str]:
    """Return the words of a text: names that stand in a list of ours."""
    return frozenset(text.split())


def nearest(name: str, names: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name that `name` most looks like, if any."""
    known = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=cutoff)
    return known[close[0]] if close else None


def hint(name: str, names: Iterable[str], *, otherwise: str = "known") -> str:
    """How to go on after an unknown `name`: the near miss, else what there is."""
    known = sorted(set(names))
    if near := nearest(name, known):
        return f", did you mean {shown(near)}?"
    more = f" and {len(known) - _MOST_NAMES} more" if len(known) > _MOST_NAMES else ""
    return f"; {otherwise}: {', '.join(known[:_MOST_NAMES])}{more}" if known else ""
