"""Wildcard groups (`openai/*`), matched as LiteLLM's Router does: from the beginning, the most specific first."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class Wildcards:
    """Those among `names` that have a star."""

    def __init__(self, names: Iterable[str]) -> None:
        regexes = {name: re.escape(name).replace(r"\*", "(.*)") for name in names if "*" in name}
        self._regexes = dict(sorted(regexes.items(), key=lambda item: _rank(item[1]), reverse=True))

    def __bool__(self) -> bool:
        return bool(self._regexes)

    def find(self, *asked: str) -> tuple[str, re.Match[str]] | None:
        """The name that the first of `asked` matches, else the second, and what its stars stand for."""
        tries = ((name, re.match(regex, each)) for each in asked for name, regex in self._regexes.items())
        return next(((name, found) for name, found in tries if found), None)


def _rank(regex: str) -> tuple[int, int]:
    return len(regex), sum(map(regex.count, "*+?\\^$|()"))


def filled(model: str, found: re.Match[str]) -> str:
    """A deployment's `model` with its stars replaced by those of the group's name, in order."""
    if "*" not in model:
        return model
    if len(found.groups()) > model.count("*"):
        return found.string
    for part in found.groups():
        model = model.replace("*", part, 1)
    return model
