"""One tool call while it arrives: its id, its name, and its arguments as a document.

What servers do wrong without loss (a final copy of all arguments, cumulative deltas, a name in two halves) is put
right with a warning; everything else is a problem, and the call is dead.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from blueprint_llm.errors import InvalidRequestError
from blueprint_llm.streaming.document import Document
from blueprint_llm.streaming.machine import JsonRejected
from blueprint_llm.streaming.schema_check import CompiledSchema, compile_schema
from blueprint_llm.streaming.tokens import listed
from blueprint_llm.types import ToolCall

if TYPE_CHECKING:
    from blueprint_llm.streaming.chunks import Entry
    from blueprint_llm.streaming.offered import Tools

_NULL = "null"


class Call:
    """A call and what is known of it.

    Attributes:
        number: Its place in the answer.
        problem: Why it can never be executed.
        warnings: Codes of what was put right.
        reopened: Its name was sent again, without an id, after its arguments were complete.
        delta_no: The 0-based number of the last delta.
    """

    def __init__(self, number: int, tools: Tools) -> None:
        self.number, self._tools = number, tools
        self.id: str | None = None
        self.name: str | None = None
        self.document = Document()
        self.problem: JsonRejected | None = None
        self.warnings: list[str] = []
        self.reopened = self.reported = False
        self.delta_no = -1
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

    @property
    def is_echo(self) -> bool:
        """True if it is no more than another id, or the same id again, after a whole call."""
        is_bare = self.name is None and "split_by_id" in self.warnings
        return self.empty and (is_bare or "id_repeated" in self.warnings)

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
                self._refuse_name()
        elif self.empty and known and name not in known and may_be(old + name):
            self.warn("name_joined")
            self.name = old + name
        elif self.empty and name in known and old not in known:
            self.name = name
        else:
            self.refuse("ambiguous_calls", f"one name, not {old!r} and {name!r}")

    def _refuse_name(self) -> None:
        self.refuse("unknown_tool", listed(sorted(self._tools.schemas)))

    def _is_unknown(self) -> bool:
        """Return True if the name, now whole, is that of no tool."""
        known = self._tools.schemas
        return self.name is not None and bool(known) and self.name not in known and self.is_ours

    def _take_arguments(self, piece: str) -> str:
        is_first = self.empty
        if is_first and not self._null:
            self._prepare()
        if self.problem or (is_first and self._may_be_null(piece)):
            return ""
        piece, self._null = self._null + piece, ""
        return self._check(piece)

    def _check(self, piece: str) -> str:
        document, before = self.document, self.document.text.length
        try:
            if document.complete:
                self._follow_copy(piece)
                return ""
            if self._cumulative:
                piece = self._news(piece)
            document.feed(piece)
        except JsonRejected as error:
            self._judge(error, piece)
        added = self.document.text.length - before
        return piece if added == len(piece) else self.document.text.tail(added) if added else ""

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

    def _judge(self, error: JsonRejected, piece: str) -> None:
        """Weigh a rejection: the piece may end with a copy, or say everything again; else it is the call's problem."""
        rest, self.document.rest = self.document.rest, ""
        if rest and error.code == "extra_data":
            if rest.strip() == self.document.whole.strip():
                self.warn("duplicate_resend")
                return
            error = self._beyond(rest, error.offset)
        elif not self.complete:
            if self._is_cumulative(piece):
                return
            self.document.text.add(piece)  # to show what was got
        self.problem = error

    def _prepare(self) -> None:
        """Get ready for the first arguments: from here on the name must be that of a tool."""
        if self._is_unknown():
            self._refuse_name()
        else:
            self.document.schema = self._schema()

    def _schema(self) -> CompiledSchema | None:
        if self.name is None or self.name not in self._tools.schemas:
            return None
        try:
            return compile_schema(self._tools.schemas[self.name])
        except InvalidRequestError as error:
            self.refuse("schema_unusable", str(error))
            return None

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

    def _news(self, piece: str) -> str:
        """Return what a cumulative delta adds."""
        so_far = self.document.text.value()
        if not piece.startswith(so_far):
            raise JsonRejected("ambiguous_calls", len(so_far))
        return piece[len(so_far) :]

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
        elif self._is_unknown():
            self._refuse_name()
        elif self._replayed:
            self.problem = self._beyond(self.document.whole, len(self.document.whole))
        else:
            self._settle_value()

    def _settle_value(self) -> None:
        schema = self._schema()
        try:
            if self.complete and schema is not self.document.schema:
                self.document.recheck(schema)  # the name came after the arguments
            elif self.is_blank and self._takes_nothing():
                self.document.value = {}
                self.warn("empty_arguments")
            elif self.is_blank:
                self.refuse("empty_arguments", "a JSON object")
        except JsonRejected as error:
            self.problem = error

    def approved(self, answer_id: str) -> ToolCall:
        """Return the call as it may be executed. A missing id is made from the answer's: the same for the same one."""
        if self.id is None:
            seed = f"{answer_id}\0{self.number}\0{self.name}\0{self.document.whole}"
            self.id = f"call_{hashlib.sha256(seed.encode('utf-8', 'replace')).hexdigest()[:24]}"
        return ToolCall(id=self.id, name=self.name or "", arguments=self.document.value)
