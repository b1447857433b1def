"""Parse arguments that came in one piece with the C parser, under the same rules as the machine.

Whatever it declines is looked at again by the machine, which knows where and why; so it may decline too much.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_DEPTH: Final = 128
MAX_NUMBER_CHARS: Final = 400
MAX_BLANKS: Final = 256  # in a row, between tokens
MAX_CHARS: Final = 1 << 24

_MAY_BE_HALF = re.compile(r"\\u[dD][89a-fA-F]").search
_STRIDE = 32
_RUN_OF_BLANKS = re.compile(rf"[ \t\n\r]{{{MAX_BLANKS // _STRIDE}}}").search
_TOO_MANY_SPACES = " " * (MAX_BLANKS + 1)
_ALL_DIGITS_ALIKE = bytes.maketrans(b"123456789E", b"0" * 9 + b"e")
_BEGINNING, _FEW = 256, 16
_LONG_RUN = b"0" * (MAX_NUMBER_CHARS // 2)
_NO_BRACKETS = bytes(set(range(256)) - set(b"{}[]"))


class Declined(ValueError):  # noqa: N818 - not an error, only not for here
    """The machine has to look at this text."""


def parse_whole(text: str, *, any_root: bool = False) -> Any:
    """Return the value of a sound document, an object or with `any_root` a list. Raises Declined."""
    try:
        raw = text.encode()
        value = (_DECODER if _may_have_odd_numbers(raw) else _QUICK_DECODER).decode(text)
        if "\\" in text and not _is_plain(value) and _MAY_BE_HALF(text):
            json.dumps(value, ensure_ascii=False).encode()  # refuses halves of characters
    except (ValueError, RecursionError):
        raise Declined from None
    if len(text) > MAX_CHARS or not isinstance(value, dict | list if any_root else dict):
        raise Declined
    if _may_run_away(text) or _is_deep(value, raw):
        raise Declined
    return value


def _is_plain(value: Any) -> bool:
    """Return True for an object of numbers and ASCII, as the arguments of most tools are."""
    shown = [*value, *value.values()] if isinstance(value, dict) else [value]
    return all(each.isascii() if isinstance(each, str) else not isinstance(each, dict | list) for each in shown)


def _may_run_away(text: str) -> bool:
    """Return True if there may be too many blanks in a row: such a run shows in every 32nd character."""
    if _TOO_MANY_SPACES in text:
        return True
    is_broken = "\n" in text or "\t" in text or "\r" in text
    return is_broken and _RUN_OF_BLANKS(text[::_STRIDE]) is not None


def _is_deep(value: Any, raw: bytes) -> bool:
    level = [value]
    for depth in range(MAX_DEPTH):
        inside = (each.values() if isinstance(each, dict) else each for each in level)
        level = [each for values in inside for each in values if isinstance(each, dict | list)]
        if not level or (depth == 0 and not _may_be_deep(raw)):  # to peel is faster than to walk
            return False
    return True


def _may_be_deep(raw: bytes) -> bool:
    """Return True if brackets may nest too deep: peel the innermost pairs off, at most two levels at a time."""
    brackets = raw.translate(None, _NO_BRACKETS)
    for _ in range(MAX_DEPTH // 2):
        before, brackets = len(brackets), brackets.replace(b"{}", b"").replace(b"[]", b"")
        if len(brackets) == before:
            break  # all gone, or brackets inside strings are in the way
    return bool(brackets)


def _may_have_odd_numbers(raw: bytes) -> bool:
    """Return True if a number may overflow or be too long: it then has an exponent, or half its characters are one run.

    To look takes longer than to check few numbers one by one: long texts have few quotes at their beginning.
    """
    if raw.count(b'"', 0, _BEGINNING) < _FEW:
        return True
    alike = raw.translate(_ALL_DIGITS_ALIKE)
    return b"0e" in alike or _LONG_RUN in alike


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise Declined
    return value


def _measured(read: Callable[[str], float]) -> Callable[[str], float]:
    def number(digits: str) -> float:
        value = read(digits)
        if len(digits) > MAX_NUMBER_CHARS or value - value:  # not a number: infinite
            raise Declined
        return value

    return number


def _constant(_name: str) -> Any:
    raise Declined


_QUICK_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant)
_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_measured(int), parse_float=_measured(float), parse_constant=_constant
)
