"""Reject broken JSON at the first character after which no valid document is possible.

States are tables from the next character to an action; text inside strings, where most of a long argument is, passes
with three C calls a delta. Whatever a delta cuts in two (an escape, a number, `true`) is carried into the next one,
so the verdict never depends on how a text was split. Nothing recurses.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from blueprint_llm.streaming.tokens import (
    AFTER_NUMBER,
    INFINITE,
    MAX_BLANKS,
    MAX_CHARS,
    MAX_DEPTH,
    MAX_NUMBER_CHARS,
    WORDS,
    blanks,
    body,
    decoded,
    escape,
    escaped,
    is_cut_pair,
    listed,
    number,
)
from blueprint_llm.streaming.whole import Declined, parse_whole

if TYPE_CHECKING:
    from blueprint_llm.streaming.schema_machine import SchemaMachine


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


def _begins_one(text: str, allowed: Sequence[str]) -> bool:
    return any(each.startswith(text) for each in allowed)


class JsonMachine:
    """Check one JSON object while it is written.

    Beyond the grammar it turns down what parsers disagree about or what would harm: repeated keys, lone surrogates,
    numbers that overflow a float or have more than 400 characters, nesting over 128, more than 256 blanks in a row
    between tokens, and texts over `max_chars`.

    Args:
        any_root: Let the document be any value, not only an object.
        schema: Also decide what a schema rules out.
        max_chars: The most characters of a document.
    """

    __slots__ = (
        "_after",
        "_allowed",
        "_blank_end",
        "_blanks",
        "_carry",
        "_expect",
        "_held",
        "_keys",
        "_limit",
        "_places",
        "_plain",
        "_schema",
        "_start",
        "_token",
        "rejected",
    )

    def __init__(
        self, *, any_root: bool = False, schema: SchemaMachine | None = None, max_chars: int = MAX_CHARS
    ) -> None:
        self._expect = self._VALUE if any_root else self._ROOT
        self._schema, self._limit = schema, max_chars
        self._token: Action | None = None  # set inside a string
        self._plain = False  # inside a string whose content no rule depends on
        self._carry = ""
        self._start = 0  # the offset of the next character, or of the carried text
        self._held: list[str] = []  # what is known of a key, or of a string with listed values
        self._allowed: Sequence[str] | None = None
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
        elif not self._start and text[-1:] in {"}", "]"} and self._passes_whole(text):
            return
        end = min(len(text), self._limit - self._start)
        known = text if end == len(text) else text[:end]
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
        """Return True if the C parser finds the text a whole, sound document; no schema can follow that one."""
        if self._schema is not None or len(text) > self._limit:
            return False
        try:
            parse_whole(text, any_root=self._expect is self._VALUE)
        except Declined:
            return False
        self._start, self._expect = len(text), self._DONE
        return True

    def _begin(self, kind: str, pos: int) -> None:
        if self._schema is not None and not self._schema.begin(kind):
            self._reject(self._schema.code, pos, self._schema.expected)

    def _scalar(self, value: Any, pos: int) -> None:
        if self._schema is not None and not self._schema.scalar(value):
            self._reject(self._schema.code, pos, self._schema.expected)

    def _blank(self, text: str, pos: int) -> int:
        end = blanks(text, pos).end()
        run = end - pos
        if not pos and self._start == self._blank_end:
            run += self._blanks  # the last text ended with some
        if end == len(text):
            self._blanks, self._blank_end = run, self._start + end
        if run > MAX_BLANKS:
            self._reject("runaway_whitespace", end - run + MAX_BLANKS)
        return end

    def _open_object(self, _text: str, pos: int) -> int:
        self._begin("object", pos)
        self._deepen(set(), self._AFTER_MEMBER, pos)
        self._expect = self._FIRST_KEY
        return pos + 1

    def _open_array(self, _text: str, pos: int) -> int:
        self._begin("array", pos)
        self._deepen(None, self._AFTER_ITEM, pos)
        if self._schema is not None:
            self._schema.item(0)
        self._expect = self._FIRST_ITEM
        return pos + 1

    def _deepen(self, keys: set[str] | None, after: State, pos: int) -> None:
        if len(self._keys) >= MAX_DEPTH:
            self._reject("too_deep", pos)
        self._keys.append(keys)
        self._places.append(None if keys is not None else 0)
        self._after.append(after)

    def _close(self, _text: str, pos: int) -> int:
        keys = self._keys.pop()
        self._places.pop()
        self._after.pop()
        if self._schema is not None and not self._schema.end(keys):
            self._reject(self._schema.code, pos, self._schema.expected)
        self._expect = self._after[-1]
        return pos + 1

    def _next_item(self, _text: str, pos: int) -> int:
        self._places[-1] += 1
        if self._schema is not None:
            self._schema.item(self._places[-1])
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
        self._token = JsonMachine._key
        if self._schema is not None:
            self._allowed = self._schema.allowed_keys()
            if self._allowed is not None and not self._allowed:
                self._reject("schema_unknown_property", pos, "no property")
        return self._key(text, pos + 1)

    def _open_text(self, text: str, pos: int) -> int:
        if self._schema is not None:
            self._begin("string", pos)
            self._allowed = self._schema.allowed_texts()
            if self._allowed is not None:
                self._token = JsonMachine._listed_text
                return self._listed_text(text, pos + 1)
        self._token = JsonMachine._text
        return self._text(text, pos + 1)

    def _text(self, text: str, pos: int) -> int:
        """Pass over the text of a string whose content no rule depends on."""
        end = body(text, pos).end()
        self._plain = end == len(text)
        if self._plain:
            return end
        if text[end] != '"':
            return self._trouble(text, end)
        self._token, self._expect = None, self._after[-1]
        return end + 1

    def _key(self, text: str, pos: int) -> int:
        end = body(text, pos).end()
        self._held.append(text[pos:end])
        if self._allowed is not None:
            self._require_listed(self._allowed, "schema_unknown_property", text, pos)
        if end == len(text):
            return end
        if text[end] != '"':
            return self._trouble(text, end)
        self._end_key(end)
        return end + 1

    def _end_key(self, pos: int) -> None:
        name, keys = decoded("".join(self._held)), self._keys[-1]
        self._held.clear()
        if keys is None or name in keys:
            self._reject("duplicate_key", pos)
        keys.add(name)
        self._places[-1] = name
        if self._schema is not None:
            self._schema.key(name)
        self._token, self._expect = None, self._COLON

    def _listed_text(self, text: str, pos: int) -> int:
        """Collect a string of which a schema lists the possible values."""
        end = body(text, pos).end()
        self._held.append(text[pos:end])
        self._require_listed(self._allowed or (), "schema_enum", text, pos)
        if end == len(text):
            return end
        if text[end] != '"':
            return self._trouble(text, end)
        self._scalar(decoded("".join(self._held)), end)
        self._held.clear()
        self._token, self._expect = None, self._after[-1]
        return end + 1

    def _require_listed(self, allowed: Sequence[str], code: str, text: str, pos: int) -> None:
        """Reject the first character that rules all listed texts out; `text` continues the string at `pos`."""
        piece, so_far = self._held[-1], decoded("".join(self._held))
        end = pos + len(piece)
        at = bisect.bisect_left(allowed, so_far)
        nearest = allowed[at] if at < len(allowed) else ""
        if nearest.startswith(so_far) and (nearest == so_far or text[end : end + 1] != '"'):
            return
        before = "".join(self._held[:-1])
        for cut in range(1, len(piece) + 1):
            part = piece[:cut]
            if body(part, 0).end() == cut and not _begins_one(decoded(before + part), allowed):
                self._reject(code, pos + cut - 1, listed(allowed))
        self._reject(code, end, listed(allowed))

    def _trouble(self, text: str, pos: int) -> int:
        """Carry an escape that a delta cut; reject anything else that a string cannot hold."""
        char = text[pos]
        if char != "\\":
            self._reject("lone_surrogate" if char > "\x1f" else "control_char_in_string", pos)
        end = escape(text, pos).end()
        if end < len(text):
            code = "lone_surrogate" if is_cut_pair(text[pos:end], text[end]) else "invalid_escape"
            self._reject(code, end)
        self._carry = text[pos:]
        return end

    def _word(self, text: str, pos: int) -> int:
        word, kind, value = WORDS[text[pos]]
        self._begin(kind, pos)
        self._scalar(value, pos)
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
        end = number(text, pos).end()
        if end - pos > MAX_NUMBER_CHARS:
            self._reject("number_too_long", pos + MAX_NUMBER_CHARS)
        if end == len(text):
            self._carry = text[pos:]
            return end
        if not text[end - 1].isdigit() or text[end] not in AFTER_NUMBER:
            self._reject("bad_number", end)
        self._measure(text[pos:end], end)
        self._expect = self._after[-1]
        return end

    def _measure(self, digits: str, end: int) -> None:
        is_float = not digits.lstrip("-").isdigit()
        if is_float and float(digits) in INFINITE:
            self._reject("number_overflow", end)
        if self._schema is not None:
            self._scalar(float(digits) if is_float else int(digits), end)

    _SPACE: ClassVar[dict[str, Action]] = dict.fromkeys(" \t\n\r", _blank)
    _VALUE: ClassVar = State(
        "expected_value",
        {
            **_SPACE,
            '"': _open_text,
            "{": _open_object,
            "[": _open_array,
            **dict.fromkeys("-0123456789", _number),
            **dict.fromkeys("tfn", _word),
        },
    )
    _ROOT: ClassVar = State("root_not_object", {**_SPACE, "{": _open_object})
    _FIRST_KEY: ClassVar = State("expected_key", {**_SPACE, '"': _open_key, "}": _close})
    _KEY: ClassVar = State("expected_key", {**_SPACE, '"': _open_key})
    _COLON: ClassVar = State("expected_colon", {**_SPACE, ":": _colon})
    _FIRST_ITEM: ClassVar = State("expected_value", {**_VALUE, "]": _close})
    _AFTER_MEMBER: ClassVar = State("expected_comma_or_end", {**_SPACE, ",": _next_member, "}": _close})
    _AFTER_ITEM: ClassVar = State("expected_comma_or_end", {**_SPACE, ",": _next_item, "]": _close})
    _DONE: ClassVar = State("extra_data", _SPACE)
