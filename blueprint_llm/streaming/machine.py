"""Reject broken JSON at the first character after which no valid document is possible.

States are tables from the next character to an action; text inside strings, where most of a long argument is, passes
with three C calls a delta. Whatever a delta cuts in two (an escape, a number, `true`) is carried into the next one,
so the verdict never depends on how a text was split. Nothing recurses.
"""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, NoReturn, cast

from blueprint_llm.streaming.whole import MAX_BLANKS, MAX_CHARS, MAX_DEPTH, MAX_NUMBER_CHARS, Declined, parse_whole

_INFINITE: Final = (float("inf"), float("-inf"))
_AFTER_NUMBER: Final = frozenset(" \t\n\r,]}")
_WORDS: Final[dict[str, tuple[str, str, bool | None]]] = {
    "t": ("true", "boolean", True),
    "f": ("false", "boolean", False),
    "n": ("null", "null", None),
}


def _matcher(pattern: str) -> Callable[[str, int], re.Match[str]]:
    """Return the matching function of a pattern that always matches, if only the empty text."""
    return cast("Callable[[str, int], re.Match[str]]", re.compile(pattern).match)


# Tokens, whole and cut: the longest beginnings that can still become one. Linear, and possessive where they repeat.
_HEX = "[0-9a-fA-F]"
_PAIR = rf"\\u[dD][89abAB]{_HEX}{{2}}\\u[dD][c-fC-F]{_HEX}{{2}}"
_LOW_HALF = rf"(?:\\(?:u(?:[dD](?:[c-fC-F]{_HEX}?)?)?)?)?"
_string_body: Final = _matcher(
    rf'(?:[^"\\\x00-\x1f\ud800-\udfff]++|\\["\\/bfnrt]|\\u(?![dD][89a-fA-F]){_HEX}{{4}}|{_PAIR})*+'
)
_cut_escape: Final = _matcher(
    rf"\\(?:u(?:[0-9a-cA-CefEF]{_HEX}{{0,3}}|[dD](?:[0-7]{_HEX}{{0,2}}|[89abAB](?:{_HEX}(?:{_HEX}{_LOW_HALF})?)?)?)?)?"
)
_cut_number: Final = _matcher(r"-?(?:(?:0|[1-9][0-9]*)(?:\.(?:[0-9]+(?:[eE][+-]?[0-9]*)?)?|[eE][+-]?[0-9]*)?)?")
_blank_run: Final = _matcher(r"[ \t\n\r]*")


def decoded(raw: str) -> str:
    """Return the text of a string's body, whose escapes are all whole."""
    return str(json.loads(f'"{raw}"')) if "\\" in raw else raw


def listed(allowed: Sequence[str]) -> str:
    """Return a short list of alternatives, for messages."""
    return "one of " + ", ".join(map(repr, allowed[:8]))


def escaped(place: str | int) -> str:
    """Return one step of a JSON pointer."""
    return "/" + str(place).replace("~", "~0").replace("/", "~1")


class JsonRejected(ValueError):  # noqa: N818 - a verdict on a text, fixed in the public contract
    """No valid document can begin like this.

    Attributes:
        code: What is wrong, in snake case.
        offset: The 0-based character after which no valid document is possible.
        path: The JSON pointer of the place.
        expected: What could have stood there, where that is short to say.
    """

    def __init__(self, code: str, offset: int, *, path: str = "", expected: str = "") -> None:
        super().__init__(f"{code} at character {offset}")
        self.code, self.offset, self.path, self.expected = code, offset, path, expected


Action = Callable[["JsonMachine", str, int], int]


class State(dict[str, Action]):
    """The actions of the next character; `otherwise` is the error for all others."""

    def __init__(self, otherwise: str, actions: dict[str, Action]) -> None:
        super().__init__(actions)
        self.otherwise = otherwise


class JsonMachine:
    """Check one JSON object while it is written.

    Beyond the grammar it turns down what parsers disagree about or what would harm: repeated keys, lone surrogates,
    numbers that overflow a float or have more than 400 characters, nesting over 128, more than 256 blanks in a row
    between tokens, and texts over `max_chars`.

    Args:
        any_root: Let the document be any value, not only an object.
        max_chars: The most characters of a document.
    """

    __slots__ = (
        *("_after", "_allowed", "_blank_end", "_blanks", "_carry", "_expect", "_held", "_keys", "_limit", "_places"),
        *("_plain", "_start", "_token", "rejected"),
    )

    def __init__(self, *, any_root: bool = False, max_chars: int = MAX_CHARS) -> None:
        self._expect = self._VALUE if any_root else self._ROOT
        self._limit = max_chars
        self._token: Action | None = None  # set inside a string
        self._plain = False  # inside a string whose content no rule depends on
        self._carry = ""
        self._start = 0  # the offset of the next character, or of the carried text
        self._held: list[str] = []  # what is known of a key, or of a string with listed values
        self._allowed: Sequence[str] | None = None  # what such a string may be, sorted; None: anything
        self._after = [self._DONE]  # what may follow the value at hand, per open container
        self._keys: list[set[str] | None] = []  # per open container: an object's keys
        self._places: list[Any] = []  # per open container: the key or index at hand
        self._blanks = self._blank_end = 0  # how many blanks ended the text that ended there
        self.rejected: JsonRejected | None = None

    @property
    def complete(self) -> bool:
        """True if the document is whole."""
        return self._expect is self._DONE

    @property
    def started(self) -> bool:
        """True if anything was fed."""
        return bool(self._start or self._carry)

    def feed(self, text: str) -> None:
        """Take the next piece of the document. Raises JsonRejected, from then on always the same."""
        if self._plain and text.isprintable() and '"' not in text and "\\" not in text:
            self._start += len(text)
            if self._start > self._limit:
                self._reject("too_large", self._limit - self._start)
            return
        self._scan(text)

    def close(self) -> None:
        """Say that nothing follows. Raises JsonRejected when the document is not whole."""
        if self._carry and not self._keys and self._token is None:
            self._scan(" ")  # a number as the root ends with the text
        if self.rejected is not None:
            raise self.rejected
        if not self.complete:
            self._reject("unclosed_json" if self.started else "empty", len(self._carry))

    def _reject(self, code: str, pos: int, expected: str = "") -> NoReturn:
        """Give up at `pos`, counted from the text at hand."""
        path = "".join(escaped(place) for place in self._places if place is not None)
        self.rejected = JsonRejected(code, self._start + pos, path=path, expected=expected)
        self._plain = False
        raise self.rejected

    def _scan(self, text: str) -> None:
        if self.rejected is not None:
            raise self.rejected
        if self._carry:
            text, self._carry = self._carry + text, ""
        elif not self._start and text[-1:] in {"}", "]"} and len(text) <= self._limit and self._passes_whole(text):
            return
        known, end = text, len(text)
        if end > self._limit - self._start:
            end = self._limit - self._start
            known = text[:end]
        pos = 0
        while pos < end:
            action = self._token or self._expect.get(known[pos])
            if action is None:
                self._reject(self._expect.otherwise, pos)
            pos = action(self, known, pos)
        if known is not text:
            self._reject("too_large", end)
        self._start += end - len(self._carry)

    def _passes_whole(self, text: str) -> bool:
        """Return True if the C parser finds the text a whole, sound document."""
        try:
            parse_whole(text, any_root=self._expect is self._VALUE)
        except Declined:
            return False
        self._start, self._expect = len(text), self._DONE
        return True

    # What a schema has to say, by `SchemaMachine`.

    def _begin(self, kind: str, pos: int) -> None:
        """Begin a value of `kind`; of a string, set `_allowed`."""

    def _begin_key(self, pos: int) -> None:
        """Set `_allowed` to the only keys that the innermost object may have."""

    def _enter(self, place: str | int) -> None:
        """Go to the value of a key, or to an item."""

    def _take(self, value: Any, pos: int) -> None:
        """Take a boolean or null, or a string of which the values are listed."""

    def _take_number(self, digits: str, pos: int) -> None:
        """Take a number."""

    def _end(self, keys: set[str] | None, pos: int) -> None:
        """End the innermost container; `keys` are an object's."""

    # The actions: each takes what begins at `pos` and returns where the next begins.

    def _blank(self, text: str, pos: int) -> int:
        end = _blank_run(text, pos).end()
        run = end - pos
        if not pos and self._start == self._blank_end:
            run += self._blanks  # the last text ended with some
        if end == len(text):
            self._blanks, self._blank_end = run, self._start + end
        if run > MAX_BLANKS:
            self._reject("runaway_whitespace", end - run + MAX_BLANKS)
        return end

    def _open(self, text: str, pos: int) -> int:
        is_object = text[pos] == "{"
        self._begin("object" if is_object else "array", pos)
        if len(self._keys) >= MAX_DEPTH:
            self._reject("too_deep", pos)
        if is_object:
            self._keys.append(set())
            self._places.append(None)
            self._after.append(self._AFTER_MEMBER)
            self._expect = self._FIRST_KEY
        else:
            self._keys.append(None)
            self._places.append(0)
            self._after.append(self._AFTER_ITEM)
            self._enter(0)
            self._expect = self._FIRST_ITEM
        return pos + 1

    def _close(self, _text: str, pos: int) -> int:
        self._places.pop()
        self._after.pop()
        self._end(self._keys.pop(), pos)
        self._expect = self._after[-1]
        return pos + 1

    def _next_item(self, _text: str, pos: int) -> int:
        self._places[-1] += 1
        self._enter(self._places[-1])
        self._expect = self._VALUE
        return pos + 1

    def _next_member(self, _text: str, pos: int) -> int:
        self._places[-1] = None
        self._expect = self._KEY
        return pos + 1

    def _colon(self, _text: str, pos: int) -> int:
        self._expect = self._VALUE
        return pos + 1

    def _open_key(self, text: str, pos: int) -> int:
        self._begin_key(pos)
        self._token, self._expect = JsonMachine._held_text, self._COLON
        return self._held_text(text, pos + 1)

    def _open_text(self, text: str, pos: int) -> int:
        self._begin("string", pos)
        if self._allowed is None:
            self._token = JsonMachine._text
            return self._text(text, pos + 1)
        self._token = JsonMachine._held_text
        return self._held_text(text, pos + 1)

    def _text(self, text: str, pos: int) -> int:
        """Pass over the text of a string whose content no rule depends on."""
        end = _string_body(text, pos).end()
        self._plain = end == len(text)
        if self._plain:
            return end
        if text[end] != '"':
            return self._trouble(text, end)
        self._token, self._expect = None, self._after[-1]
        return end + 1

    def _held_text(self, text: str, pos: int) -> int:
        """Collect a key, or a string of which a schema lists the possible values."""
        end = _string_body(text, pos).end()
        self._held.append(text[pos:end])
        if self._allowed is not None:
            self._require_listed(self._allowed, text, pos)
        if end == len(text):
            return end
        if text[end] != '"':
            return self._trouble(text, end)
        whole = decoded("".join(self._held))
        self._held.clear()
        self._token = None
        if self._expect is not self._COLON:
            self._take(whole, end)
            self._expect = self._after[-1]
            return end + 1
        keys = self._keys[-1]
        if keys is None or whole in keys:
            self._reject("duplicate_key", end)
        keys.add(whole)
        self._places[-1] = whole
        self._enter(whole)
        return end + 1

    def _require_listed(self, allowed: Sequence[str], text: str, pos: int) -> None:
        """Reject the first character that rules all listed texts out; `text` continues the string at `pos`."""
        piece, so_far = self._held[-1], decoded("".join(self._held))
        end = pos + len(piece)
        at = bisect.bisect_left(allowed, so_far)
        nearest = allowed[at] if at < len(allowed) else ""
        if nearest.startswith(so_far) and (nearest == so_far or text[end : end + 1] != '"'):
            return
        code = "schema_unknown_property" if self._expect is self._COLON else "schema_enum"
        before = "".join(self._held[:-1])
        for cut in range(1, len(piece) + 1):
            part = piece[:cut]
            if _string_body(part, 0).end() == cut:  # no escape is cut
                begun = decoded(before + part)
                if not any(each.startswith(begun) for each in allowed):
                    self._reject(code, pos + cut - 1, listed(allowed))
        self._reject(code, end, listed(allowed))

    def _trouble(self, text: str, pos: int) -> int:
        """Carry an escape that a delta cut; reject anything else that a string cannot hold."""
        char = text[pos]
        if char != "\\":
            self._reject("lone_surrogate" if char > "\x1f" else "control_char_in_string", pos)
        end = _cut_escape(text, pos).end()
        if end < len(text):
            begun = text[pos:end]
            is_half = len(begun) >= len(r"\ud83d") or (begun[1:] in {"uD", "ud"} and text[end] in "cdefCDEF")
            self._reject("lone_surrogate" if is_half else "invalid_escape", end)
        self._carry = text[pos:]
        return end

    def _word(self, text: str, pos: int) -> int:
        word, kind, value = _WORDS[text[pos]]
        self._begin(kind, pos)
        self._take(value, pos)
        got = text[pos : pos + len(word)]
        if got == word:
            self._expect = self._after[-1]
        elif word.startswith(got):
            self._carry = got
        else:
            self._reject("bad_literal", pos + next(n for n, char in enumerate(got) if char != word[n]), word)
        return pos + len(got)

    def _number(self, text: str, pos: int) -> int:
        self._begin("number", pos)
        end = _cut_number(text, pos).end()
        if end - pos > MAX_NUMBER_CHARS:
            self._reject("number_too_long", pos + MAX_NUMBER_CHARS)
        if end == len(text):
            self._carry = text[pos:]
            return end
        if not text[end - 1].isdigit() or text[end] not in _AFTER_NUMBER:
            self._reject("bad_number", end)
        digits = text[pos:end]
        if not digits.lstrip("-").isdigit() and float(digits) in _INFINITE:
            self._reject("number_overflow", end)
        self._take_number(digits, end)
        self._expect = self._after[-1]
        return end

    _SPACE: ClassVar[dict[str, Action]] = dict.fromkeys(" \t\n\r", _blank)
    _VALUE: ClassVar = State(
        "expected_value",
        {
            **_SPACE,
            '"': _open_text,
            **dict.fromkeys("{[", _open),
            **dict.fromkeys("-0123456789", _number),
            **dict.fromkeys("tfn", _word),
        },
    )
    _ROOT: ClassVar = State("root_not_object", {**_SPACE, "{": _open})
    _FIRST_KEY: ClassVar = State("expected_key", {**_SPACE, '"': _open_key, "}": _close})
    _KEY: ClassVar = State("expected_key", {**_SPACE, '"': _open_key})
    _COLON: ClassVar = State("expected_colon", {**_SPACE, ":": _colon})
    _FIRST_ITEM: ClassVar = State("expected_value", {**_VALUE, "]": _close})
    _AFTER_MEMBER: ClassVar = State("expected_comma_or_end", {**_SPACE, ",": _next_member, "}": _close})
    _AFTER_ITEM: ClassVar = State("expected_comma_or_end", {**_SPACE, ",": _next_item, "]": _close})
    _DONE: ClassVar = State("extra_data", _SPACE)
