"""The tool calls of one answer while they arrive: which call a piece belongs to, and what is known of each.

Index, id and name are aliases, and none is trusted alone. What servers do wrong without loss (a final copy of all
arguments, cumulative deltas, a name in two halves) is put right with a warning; everything else is a problem, and the
call is dead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from blueprint_llm.errors import InvalidRequestError
from blueprint_llm.streaming.document import Document
from blueprint_llm.streaming.machine import JsonRejected, listed
from blueprint_llm.streaming.schema_check import CompiledSchema, compile_schema
from blueprint_llm.types import ToolCall

if TYPE_CHECKING:
    from blueprint_llm.streaming.chunks import Entry

MAX_CALLS = 128
_NULL = "null"
# Tools that LiteLLM adds to a request on its own, and takes the calls of.
_LITELLMS_NAME, _LITELLMS_PREFIX = "json_tool_call", "litellm_"


@dataclass(frozen=True, slots=True)
class Tools:
    """What the caller offered."""

    # The parameter schemas of its functions; with no tools at all, calls of any name and shape pass.
    schemas: Mapping[str, Any] = field(default_factory=dict)
    has_others: bool = False  # tools of other kinds too (native, hosted, custom), whose calls are not ours to judge

    @classmethod
    def of(cls, tools: Iterable[Any]) -> Self:
        """Return the tools of a request: `Tool` records or dicts. Raises InvalidRequestError for one without a name."""
        read = [_name_and_schema(tool) for tool in tools]
        return cls(dict(filter(None, read)), has_others=None in read)

    def judges(self, name: str | None) -> bool:
        """Return True if calls of that name are checked; None: the name is not known yet."""
        if name in self.schemas:
            return True
        return not (self.has_others or (name or "").startswith(_LITELLMS_PREFIX) or name == _LITELLMS_NAME)

    def may_be(self, name: str) -> bool:
        """Return True if `name` is, or may still become, the name of a call that can pass."""
        return not self.schemas or not self.judges(name) or any(each.startswith(name) for each in self.schemas)


def check_tools(tools: Iterable[Any]) -> None:
    """Raise InvalidRequestError for a tool whose parameters are not a valid JSON Schema."""
    for name, schema in Tools.of(tools).schemas.items():
        try:
            compile_schema(schema)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"tool {name!r}: {error}") from None


def _name_and_schema(tool: Any) -> tuple[str, Any] | None:
    """Return a function's name and schema; None for a tool of another kind.

    Functions come as `Tool` records, in OpenAI's shape with or without its envelope, and in Anthropic's.
    """
    given = tool if isinstance(tool, Mapping) else getattr(tool, "given", None)
    record = given or {"name": tool.name, "parameters": tool.parameters}
    function = record.get("function", record)
    is_function = "function" in record or record.get("type") in (None, "function")
    if not (is_function and "name" in record) and "function" not in record and "input_schema" not in record:
        return None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidRequestError("a tool needs a name")
    return function["name"], function.get("parameters") or function.get("input_schema") or {}


class Call:
    """A call and what is known of it."""

    def __init__(self, number: int, tools: Tools) -> None:
        self.number, self._tools = number, tools  # its place in the answer
        self.id: str | None = None
        self.name: str | None = None
        self.document = Document()
        self.problem: JsonRejected | None = None  # why it can never be executed
        self.warnings: list[str] = []  # codes of what was put right
        self.reopened = False  # its name was sent again, without an id, after its arguments were complete
        self.reported = False
        self.delta_no = -1  # the number of the last delta
        self._cumulative = False
        self._replayed = 0  # how much of a copy of the complete arguments has come
        self._null = ""  # the beginning of what may become `null` in place of no arguments

    @property
    def complete(self) -> bool:
        """True if the arguments are a whole object."""
        return self.document.complete

    @property
    def empty(self) -> bool:
        """True if no argument text has come."""
        return not self.document.text.length

    @property
    def has_begun(self) -> bool:
        """True if arguments have come that are not just white space or the beginning of `null`."""
        return bool(self.document.text.value().strip())

    @property
    def is_blank(self) -> bool:
        """True if the arguments are nothing, white space or `null`."""
        return self._null.strip() in {"", _NULL} and not self.has_begun

    @property
    def is_ours(self) -> bool:
        """True if the caller declared what it calls: all others are passed on as they are."""
        return self._tools.judges(self.name)

    def is_whole_before(self, name: str) -> bool:
        """Return True if `name`, sent without an id, can only begin another call behind this one."""
        known, own = self._tools.schemas, self.name or ""
        if not own or name == own or (known and not {own, name} <= known.keys()):
            return False
        is_piece = name.startswith(own) or own + name in known
        return self.complete or (self.is_blank and not is_piece and self._takes_nothing())

    def warn(self, code: str) -> None:
        """Note something that was put right, once."""
        if code not in self.warnings:
            self.warnings.append(code)

    def refuse(self, code: str, expected: str = "") -> None:
        """Say that this call is beyond help, for a reason outside its JSON."""
        self.problem = self.problem or JsonRejected(code, self.document.text.length, expected=expected)

    def take(self, entry: Entry) -> str:
        """Take one delta and return the argument text that it added."""
        self.delta_no += 1
        if entry.was_object:
            self.warn("arguments_object")
        if entry.name and not self.problem:
            self._take_name(entry.name)
        piece = self.document.text.join(entry.arguments)
        return self._take_arguments(piece) if piece and not self.problem else ""

    def _take_name(self, name: str) -> None:
        old, known, may_be = self.name, self._tools.schemas, self._tools.may_be
        if old == name:
            self.warn("name_resent")
        elif old is None or (self.empty and name.startswith(old) and may_be(name)):
            self.name = name
            if not may_be(name):
                self.refuse("unknown_tool", listed(sorted(known)))
        elif self.empty and known and name not in known and may_be(old + name):
            self.warn("name_joined")
            self.name = old + name
        elif self.empty and name in known and old not in known:
            self.name = name
        else:
            self.refuse("ambiguous_calls", f"one name, not {old!r} and {name!r}")

    def _require_known(self) -> None:
        """Refuse the call if its name, now whole, is that of no tool."""
        known = self._tools.schemas
        if self.name is not None and known and self.name not in known and self.is_ours:
            self.refuse("unknown_tool", listed(sorted(known)))

    def _take_arguments(self, piece: str) -> str:
        if self.empty:
            if not self._null:  # the first arguments: from here on the name must be that of a tool
                self._require_known()
                self.document.schema = None if self.problem else self._schema()
            if self.problem or self._may_be_null(piece):
                return ""
        piece, self._null = self._null + piece, ""
        return self._check(piece)

    def _may_be_null(self, piece: str) -> bool:
        """Hold back what may become `null`, where there need not be any arguments."""
        begun = (self._null + piece).strip()
        if not begun or not _NULL.startswith(begun) or not self._takes_nothing():
            return False
        self._null += piece
        return True

    def _takes_nothing(self) -> bool:
        """Return True if the tool is declared and an empty object satisfies its schema."""
        schema = self._schema()
        return schema is not None and not schema.mismatch({})

    def _schema(self) -> CompiledSchema | None:
        if self.name is None or self.name not in self._tools.schemas:
            return None
        try:
            return compile_schema(self._tools.schemas[self.name])
        except InvalidRequestError as error:
            self.refuse("schema_unusable", str(error))
            return None

    def _check(self, piece: str) -> str:
        document, before = self.document, self.document.text.length
        try:
            if document.complete:
                self._follow_copy(piece)
                return ""
            if self._cumulative:
                so_far = document.text.value()
                if not piece.startswith(so_far):
                    raise JsonRejected("ambiguous_calls", len(so_far))  # noqa: TRY301 - as the document says it
                piece = piece[len(so_far) :]
            document.feed(piece)
        except JsonRejected as error:
            self.problem = self._judge(error, piece)
        added = self.document.text.length - before
        return piece if added == len(piece) else self.document.text.tail(added) if added else ""

    def _judge(self, error: JsonRejected, piece: str) -> JsonRejected | None:
        """Weigh a rejection: the piece may end with a copy, or say everything again; else it is the call's problem."""
        rest, self.document.rest = self.document.rest, ""
        if rest and error.code == "extra_data":
            if rest.strip() != self.document.whole.strip():
                return self._beyond(rest, error.offset)
            self.warn("duplicate_resend")
            return None
        if not self.complete:
            if self._is_cumulative(piece):
                return None
            self.document.text.add(piece)  # to show what was got
        return error

    def _is_cumulative(self, piece: str) -> bool:
        """Return True if the server sends all arguments so far in each delta, which the second of them shows."""
        so_far = self.document.text.value()
        if not piece.startswith(so_far):
            return False
        again = Document(self.document.schema)
        try:
            again.feed(piece)
        except JsonRejected:
            return False
        if again.complete and '"' not in so_far:
            return False  # as likely a doubled bracket
        self.document, self._cumulative = again, True
        self.warn("cumulative_resend")
        return True

    def _follow_copy(self, piece: str) -> None:
        """Take what follows complete arguments: only blanks may, or a copy of them."""
        whole = self.document.whole
        if not self._replayed and not piece.strip():
            self.document.feed(piece)
        elif not whole.startswith(piece, self._replayed):
            raise self._beyond(piece if not self._replayed else whole, len(whole))
        else:
            self._replayed = (self._replayed + len(piece)) % len(whole)
            self.warn("duplicate_resend")

    def _beyond(self, rest: str, offset: int) -> JsonRejected:
        code = "concatenated_objects" if rest.lstrip().startswith("{") else "extra_data"
        return JsonRejected("ambiguous_calls" if self.reopened else code, offset)

    def settle(self) -> None:
        """Say that nothing follows: the last chance for a problem."""
        half = self.document.text.rest()
        if self._null and not (half or self.problem or self.is_blank):
            self._check(self._null)
        if half and not self.problem:
            self._take_arguments(half)
        if self.problem:
            return
        if self.name is None:
            self.refuse("missing_name")
        self._require_known()
        if self._replayed and not self.problem:
            self.problem = self._beyond(self.document.whole, len(self.document.whole))
        if not self.problem:
            self._settle_value()

    def _settle_value(self) -> None:
        if self.complete and self._schema() is not self.document.schema:  # the name came after the arguments
            try:
                self.document.recheck(self._schema())
            except JsonRejected as error:
                self.problem = error
        elif self.is_blank and self._takes_nothing():
            self.document.value = {}
            self.warn("empty_arguments")
        elif self.is_blank:
            self.refuse("empty_arguments", "a JSON object")

    def approved(self, answer_id: str) -> ToolCall:
        """Return the call as it may be executed. A missing id is made from the answer's: the same for the same one."""
        if self.id is None:
            seed = f"{answer_id}\0{self.number}\0{self.name}\0{self.document.whole}"
            self.id = f"call_{hashlib.sha256(seed.encode('utf-8', 'replace')).hexdigest()[:24]}"
        return ToolCall(id=self.id, name=self.name or "", arguments=self.document.value)


class CallIndex:
    """The calls of one answer, in order of appearance."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self.calls: list[Call] = []
        self._by_id: dict[str, Call] = {}
        self._by_index: dict[int, Call] = {}
        self.has_others = False  # there were calls that are not for the caller to execute, which are passed on unread
        self._other_places: set[int | None] = set()

    def is_other(self, entry: Entry) -> bool:
        """Return True if an entry is a piece of a call that is passed on unread."""
        is_continued = entry.id is None and entry.name is None and entry.place in self._other_places
        if not (entry.is_other or is_continued):
            self._other_places.discard(entry.place)
            return False
        self.has_others = True
        self._other_places.add(entry.place)
        return True

    def find(self, entry: Entry) -> Call:
        """Return the call that an entry belongs to; one that cannot be told gets the problem `ambiguous_calls`."""
        here = None if entry.place is None else self._by_index.get(entry.place)
        if here is not None and entry.id is None and entry.name is None:
            return here
        call = self._by_id.get(entry.id) if entry.id else None
        if call is not None:
            # An id was given twice: a name at a place of its own, behind a whole call that has a place.
            has_own_place = entry.place is not None and here is None
            if entry.name and has_own_place and call.complete and call in self._by_index.values():
                call = self._by_id[entry.id or ""] = self._new(entry._replace(id=None), "id_repeated")
        elif entry.place is None:
            call = self._without_index(entry)
        elif here is None:
            call = self._new(entry)
        elif entry.id:
            call = self._with_new_id(entry, here)
        elif entry.name and here.is_whole_before(entry.name):
            call = self._new(entry, "split_by_name")
        else:
            call = here
            call.reopened = call.reopened or (entry.name is not None and call.complete)
        if entry.place is None:
            call.warn("index_inferred")
        else:
            self._by_index[entry.place] = call
        return call

    def _with_new_id(self, entry: Entry, here: Call) -> Call:
        """Take an id that was not seen before, at a place that has a call."""
        is_other = entry.name is not None and here.name is not None and entry.name != here.name
        if here.id is None and not (is_other or (here.complete and (entry.name or entry.arguments))):
            return self._adopt(entry, here)
        if here.complete or (here.empty and entry.name):
            return self._new(entry, "split_by_id")
        here.warn("id_changed")
        return self._adopt(entry, here)

    def _without_index(self, entry: Entry) -> Call:
        still_open = [call for call in self.calls if not call.complete]
        if entry.name:  # another piece of the same call, or a new call
            same = [call for call in still_open if call.name == entry.name and not (entry.id and call.id)]
            is_clear = len(same) == 1 if entry.id else bool(same)
            return self._adopt(entry, same[0]) if is_clear else self._new(entry)
        if len(still_open) == 1:
            return self._adopt(entry, still_open[0])
        if not still_open and len(self.calls) == 1 and not entry.id:
            return self.calls[0]
        call = self._new(entry)
        call.refuse("ambiguous_calls", "an index or an id")
        return call

    def _new(self, entry: Entry, warning: str | None = None) -> Call:
        if len(self.calls) < MAX_CALLS:
            call = self._adopt(entry, Call(len(self.calls), self._tools))
            self.calls.append(call)
        else:
            call = self.calls[-1]
            call.refuse("too_many_calls", f"at most {MAX_CALLS} calls")
        if warning:
            call.warn(warning)
        return call

    def _adopt(self, entry: Entry, call: Call) -> Call:
        if entry.id:
            call.id = call.id or entry.id
            self._by_id[entry.id] = call
        return call

    def drop_echoes(self) -> None:
        """Forget what only looks like another call: a copy without id, or a new id that nothing came with."""
        for call in [call for call in self.calls if call.empty]:  # another id, or the same again, after a whole call
            if "id_repeated" in call.warnings or (call.name is None and "split_by_id" in call.warnings):
                self.calls.remove(call)
        seen: dict[tuple[str | None, str], Call] = {}
        for call in sorted((call for call in self.calls if call.complete), key=lambda call: call.id is None):
            first = seen.setdefault((call.name, call.document.whole), call)
            if first is not call and call.id is None and (first.id or "index_inferred" in call.warnings):
                first.warn("duplicate_resend")
                self.calls.remove(call)
