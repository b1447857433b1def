"""Usage rows of known sizes for the tests of the report: written into a real ledger, at chosen moments."""

import time

from blueprint_llm import sync
from blueprint_llm.usage.stores.records import AttemptRow
from blueprint_llm.usage.stores.sqlite import SqliteStore

DAY_S = 86400


def row(n, *, call=None, usd=0.0, **fields):
    """An answered attempt of the call `call`, by default one of its own."""
    known = {"provider": "cloud", "model": "openai/gpt-4o", "latency_s": 1.0, "ttft_s": 0.25, "trace_id": f"trace-{n}"}
    cost = None if usd is None else round(usd * 1e9)
    return AttemptRow(**{"id": f"row{n}", "call_id": call or f"call{n}", "cost_nano": cost, **known, **fields})


def write_ledger(path, rows):
    """Write `(days ago, row)` pairs, each at noon of its UTC day (today: now)."""
    now = time.time()
    clock = [now]
    store = SqliteStore(path, clock=lambda: clock[0])
    for ago, each in rows:
        clock[0] = now if ago == 0 else (now // DAY_S - ago + 0.5) * DAY_S
        sync.run(store.record(each))
    sync.run(store.aclose())
