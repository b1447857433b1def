import threading

from blueprint_llm.errors import StoreError
from blueprint_llm.types import UsageFilter
from blueprint_llm.usage import Hits, UsageTracker
from blueprint_llm.usage.stores import MemoryStore
from blueprint_llm.usage.stores.ops import Aggregate, AttemptRow, Batch


class Watched(MemoryStore):
    """A store that says when it was written to by itself."""

    def __init__(self):
        super().__init__()
        self.written = threading.Event()

    def execute(self, op):
        """Run, and tell of a group of rows."""
        result = super().execute(op)
        if isinstance(op, Batch):
            self.written.set()
        return result


def row(n):
    """The n-th hit."""
    return AttemptRow(id=f"{n}", call_id=f"{n}", cache_hit=True, saved_nano=10)


def test_the_first_hit_is_written_at_once_the_others_by_themselves():
    """Nobody has to ask: a moment later every row is there."""
    store = Watched()
    hits = Hits(store)

    assert hits.add(row(1)).ops[0].row == row(1)
    assert hits.add(row(2)) is None
    assert hits.add(row(3)) is None
    assert store.written.wait(10)
    assert UsageTracker(store).get_usage().cache_hits == 2
    store.close()


def test_rows_are_handed_out_once():
    """A flush leaves nothing for the timer; an empty one writes nothing."""
    store, now = MemoryStore(), [0.0]
    hits = Hits(store, clock=lambda: now[0])
    assert hits.add(row(1)) is not None
    assert hits.add(row(2)) is None
    now[0] += 1

    assert [each.row.id for each in hits.add(row(3)).ops] == ["2", "3"]
    assert hits.add(row(4)) is None
    hits.flush()
    hits.flush()
    assert store.execute(Aggregate(where=UsageFilter())).calls == 1
    store.close()


def test_a_store_in_trouble_costs_a_statistic():
    """The flush raises nothing."""

    class Broken(MemoryStore):
        def execute(self, op):
            raise StoreError("gone")

    hits = Hits(Broken(), clock=lambda: 0.0)
    hits.add(row(1))
    hits.add(row(2))

    hits.flush()
