"""Find the call that a piece belongs to: index, id and name are aliases, and none is trusted alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blueprint_llm.streaming.call import Call

if TYPE_CHECKING:
    from blueprint_llm.streaming.chunks import Entry
    from blueprint_llm.streaming.offered import Tools

MAX_CALLS = 128


class CallIndex:
    """The calls of one answer, in order of appearance.

    Attributes:
        has_others: There were calls that are not for the caller to execute, which are passed on unread.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self.calls: list[Call] = []
        self._by_id: dict[str, Call] = {}
        self._by_index: dict[int, Call] = {}
        self.has_others = False
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
        if entry.id is None and entry.name is None and entry.place in self._by_index:
            return self._by_index[entry.place]
        known = self._by_id.get(entry.id) if entry.id else None
        if known is None:
            known = self._by_id_or_place(entry)
        elif self._is_twin(entry, known):
            known = self._twin(entry)
        if entry.place is None:
            known.warn("index_inferred")
        else:
            self._by_index[entry.place] = known
        return known

    def _is_twin(self, entry: Entry, known: Call) -> bool:
        """Return True if an id was given twice: a name at a place of its own, behind a whole call that has a place."""
        has_own_place = entry.place is not None and entry.place not in self._by_index
        return bool(entry.name and has_own_place and known.complete and known in self._by_index.values())

    def _twin(self, entry: Entry) -> Call:
        call = self._new(entry._replace(id=None))
        call.warn("id_repeated")
        self._by_id[entry.id or ""] = call
        return call

    def _by_id_or_place(self, entry: Entry) -> Call:
        if entry.place is None:
            return self._without_index(entry)
        here = self._by_index.get(entry.place)
        if here is None:
            return self._new(entry)
        return self._new_id(entry, here) if entry.id else self._same_index(entry, here)

    def _new_id(self, entry: Entry, here: Call) -> Call:
        """Take an id that was not seen before, at a place that has a call."""
        is_other = entry.name is not None and here.name is not None and entry.name != here.name
        if here.id is None and not (is_other or (here.complete and (entry.name or entry.arguments))):
            return self._adopt(entry, here)
        if here.complete or (here.empty and entry.name):
            return self._split(entry, "split_by_id")
        here.warn("id_changed")
        return self._adopt(entry, here)

    def _adopt(self, entry: Entry, call: Call) -> Call:
        if entry.id:
            call.id = call.id or entry.id
            self._by_id[entry.id] = call
        return call

    def _same_index(self, entry: Entry, here: Call) -> Call:
        """Take a piece without an id, at a place that has a call."""
        if entry.name and here.is_whole_before(entry.name):
            return self._split(entry, "split_by_name")
        if entry.name and here.complete:
            here.reopened = True
        return here

    def _split(self, entry: Entry, code: str) -> Call:
        call = self._new(entry)
        call.warn(code)
        return call

    def _without_index(self, entry: Entry) -> Call:
        open_calls = [call for call in self.calls if not call.complete]
        if entry.name:
            return self._named(entry, open_calls)
        if len(open_calls) == 1:
            return self._adopt(entry, open_calls[0])
        if not open_calls and len(self.calls) == 1 and not entry.id:
            return self.calls[0]
        call = self._new(entry)
        call.refuse("ambiguous_calls", "an index or an id")
        return call

    def _named(self, entry: Entry, open_calls: list[Call]) -> Call:
        """Take a name without an index: another piece of the same call, or a new call."""
        if entry.id:
            late = [call for call in open_calls if call.id is None and call.name == entry.name]
            return self._adopt(entry, late[0]) if len(late) == 1 else self._new(entry)
        for call in open_calls:
            if call.name == entry.name:
                return call
        return self._new(entry)

    def drop_echoes(self) -> None:
        """Forget what only looks like another call: a copy without id, or a new id that nothing came with."""
        self.calls = [call for call in self.calls if not call.is_echo]
        seen: dict[tuple[str | None, str], Call] = {}
        for call in sorted((call for call in self.calls if call.complete), key=lambda call: call.id is None):
            first = seen.setdefault((call.name, call.document.whole), call)
            if first is not call and call.id is None and (first.id or "index_inferred" in call.warnings):
                first.warn("duplicate_resend")
                self.calls.remove(call)

    def _new(self, entry: Entry) -> Call:
        if len(self.calls) >= MAX_CALLS:
            self.calls[-1].refuse("too_many_calls", f"at most {MAX_CALLS} calls")
            return self.calls[-1]
        call = Call(len(self.calls), self._tools)
        self.calls.append(call)
        return self._adopt(entry, call)
