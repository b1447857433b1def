"""What JSON's tokens look like, whole and cut: the longest beginnings that can still become a token; and the limits.

Every pattern is linear and possessive where it repeats; each matches some text at every place it is used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Final, cast

Matcher = Callable[[str, int], re.Match[str]]  # never None: each pattern matches, if only the empty text

MAX_DEPTH: Final = 128
MAX_NUMBER_CHARS: Final = 400
MAX_BLANKS: Final = 256  # in a row, between tokens
MAX_CHARS: Final = 1 << 24

INFINITE: Final = (float("inf"), float("-inf"))
AFTER_NUMBER: Final = frozenset(" \t\n\r,]}")
WORDS: Final[dict[str, tuple[str, str, bool | None]]] = {
    "t": ("true", "boolean", True),
    "f": ("false", "boolean", False),
    "n": ("null", "null", None),
}

_HEX = "[0-9a-fA-F]"
_PAIR = rf"\\u[dD][89abAB]{_HEX}{{2}}\\u[dD][c-fC-F]{_HEX}{{2}}"
_BODY = rf'(?:[^"\\\x00-\x1f\ud800-\udfff]++|\\["\\/bfnrt]|\\u(?![dD][89a-fA-F]){_HEX}{{4}}|{_PAIR})*+'
_LOW_HALF = rf"(?:\\(?:u(?:[dD](?:[c-fC-F]{_HEX}?)?)?)?)?"
_ESCAPE = (
    rf"\\(?:u(?:[0-9a-cA-CefEF]{_HEX}{{0,3}}|[dD](?:[0-7]{_HEX}{{0,2}}|[89abAB](?:{_HEX}(?:{_HEX}{_LOW_HALF})?)?)?)?)?"
)
_NUMBER = r"-?(?:(?:0|[1-9][0-9]*)(?:\.(?:[0-9]+(?:[eE][+-]?[0-9]*)?)?|[eE][+-]?[0-9]*)?)?"


def _matcher(pattern: str) -> Matcher:
    return cast("Matcher", re.compile(pattern).match)


body: Final = _matcher(_BODY)
escape: Final = _matcher(_ESCAPE)
number: Final = _matcher(_NUMBER)
blanks: Final = _matcher(r"[ \t\n\r]*")


def decoded(raw: str) -> str:
    """Return the text of a string's body, whose escapes are all whole."""
    return str(json.loads(f'"{raw}"')) if "\\" in raw else raw


def is_cut_pair(begun: str, after: str) -> bool:
    """Return True if a wrong escape is half of a surrogate pair; `after` is the character that made it wrong."""
    return len(begun) >= len(r"\ud83d") or (begun[1:] in {"uD", "ud"} and after in "cdefCDEF")


def listed(allowed: Sequence[str]) -> str:
    """Return a short list of alternatives, for messages."""
    return "one of " + ", ".join(map(repr, allowed[:8]))


def escaped(place: str | int) -> str:
    """Return one step of a JSON pointer."""
    return "/" + str(place).replace("~", "~0").replace("/", "~1")
