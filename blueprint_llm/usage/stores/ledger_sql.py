"""The ledger's transactions in SQL: reserve, settle, release, expire, read. Whoever calls begins and commits.

A counter row is one subject, kind and window: `used` is spent plus reserved, `spent` what was settled or expired.
A hold remembers which counters a reservation took from, so that settling corrects the window it was made in. It
outlives its expiry by a day, so that a late settle corrects too.

Rows of attempts lie in the order of time, `n`: the microsecond of the reservation, or the one after the last row's.
So a row made since a moment has no smaller `n`, and no call pays for an index (two of them, on time and id, cost it
25 us). Only what comes twice, or late, looks for a row by its id; it is then among the newest.

Windows are fixed, never sliding: `<n>s` counts from the Unix epoch, so every process agrees without talking.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import orjson

from blueprint_llm.usage.stores import breaker
from blueprint_llm.usage.stores.records import FACTS, AttemptRow, Level, Reserved, Settled, crossed, reserved

if TYPE_CHECKING:
    from collections.abc import Sequence
    from sqlite3 import Connection

    from blueprint_llm.types import UsageFilter
    from blueprint_llm.usage.stores.breaker import Breaker
    from blueprint_llm.usage.stores.records import Charge, Crossed, Reservation, Settlement

COLUMNS = AttemptRow._fields
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS counter(
    name TEXT, start INTEGER, ends INTEGER, used INTEGER NOT NULL, spent INTEGER NOT NULL, warned INTEGER NOT NULL,
    PRIMARY KEY (name, start)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hold(
    id TEXT PRIMARY KEY, expires REAL, open INTEGER, at REAL, taken BLOB, attempt BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS attempt(n INTEGER PRIMARY KEY, {", ".join(COLUMNS)}, epoch INTEGER);
CREATE TABLE IF NOT EXISTS breaker(target TEXT PRIMARY KEY, record BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS epoch(n INTEGER PRIMARY KEY, since REAL);
"""
DAY_S = 86400
_MICRO = 1_000_000
_LENGTHS = {"minute": 60, "hour": 3600, "day": DAY_S, "month": -1, "session": 0, "call": 0, "ever": 0}

_READ = "SELECT used, spent, warned FROM counter WHERE name = ? AND start = ?"
_TAKE = """INSERT INTO counter(name, start, used, ends, spent, warned) VALUES (?, ?, ?, ?, 0, 0)
    ON CONFLICT DO UPDATE SET used = used + excluded.used, ends = excluded.ends"""
_CORRECT = "UPDATE counter SET used = used + ?, spent = spent + ? WHERE name = ? AND start = ?"
_WARNED = "UPDATE counter SET warned = ? WHERE name = ? AND start = ?"
_EPOCH = "(SELECT coalesce(max(n), 0) FROM epoch)"
_FIND = "SELECT n FROM attempt WHERE id = ? ORDER BY n DESC LIMIT 1"
_NEXT = "max(?, (SELECT coalesce(max(n) + 1, 0) FROM attempt))"
_WRITE = f"INSERT INTO attempt VALUES ({_NEXT}, {', '.join('?' * len(COLUMNS))}, {_EPOCH})"  # noqa: S608 - constants


def length(window: str) -> int:
    """Return a window's seconds; 0: it has no end; -1: it is a calendar month."""
    return _LENGTHS[window] if window in _LENGTHS else int(window[:-1])


def bounds(window: str, now: float) -> tuple[int, int | None]:
    """Return start and end (exclusive) of the window that holds `now`, Unix seconds; an endless one starts at 0."""
    seconds = length(window)
    if seconds <= 0:
        return _month(int(now // DAY_S)) if seconds else (0, None)
    start = int(now // seconds) * seconds
    return start, start + seconds


@lru_cache(maxsize=8)
def _month(day: int) -> tuple[int, int]:
    first = datetime.fromtimestamp(day * DAY_S, UTC).replace(day=1)
    following = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    return int(first.timestamp()), int(following.timestamp())


def timestamp(moment: datetime) -> float:
    """Return Unix seconds; a naive time is UTC."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def reserve(db: Connection, now: float, reservation: Reservation, *, force: bool = False) -> Reserved:
    """Take all charges or none. Expired reservations count in full either way: only what was lent waits for it."""
    id_, charges, target = reservation.id, reservation.charges, reservation.target
    if db.execute("SELECT 1 FROM hold WHERE id = ?", (id_,)).fetchone():
        return Reserved()  # a repeated request: taken already
    # The breaker is asked first and told last: a limit that refuses leaves no probe behind.
    before = _breaker(db, now, target) if target else breaker.CLOSED
    after = breaker.admit(before, id_, probes=reservation.probes, ttl_s=reservation.ttl_s)
    if after is None and not force:
        return Reserved(breaker=before)
    if any(charge.kind == "parallel" for charge in charges):
        expire(db, now)
    found = levels(db, now, charges)
    answer = reserved(found)
    _remember(db, answer.crossed)
    if answer.denied:
        return answer
    taken = _take(db, now, found)
    hold = (id_, now + reservation.ttl_s, now, orjson.dumps(taken), orjson.dumps(reservation.row[:]))
    db.execute("INSERT INTO hold VALUES (?, ?, 1, ?, ?, ?)", hold)
    if after is not None and after is not before:
        _keep(db, target, after)
    return answer


def settle(db: Connection, now: float, settlement: Settlement) -> Settled:
    """Put the true amounts in place of the reserved ones, in the windows they were reserved in."""
    charges, row, told = settlement
    held = db.execute("SELECT open, at, taken FROM hold WHERE id = ?", (row.id,)).fetchone()
    db.execute("DELETE FROM hold WHERE id = ?", (row.id,))  # RETURNING, in its place, takes longer than both
    if held is None and db.execute(_FIND, (row.id,)).fetchone():
        return Settled(was="settled")
    was: Literal["open", "expired", "unknown"] = "unknown"
    if held is not None:
        was = "open" if held[0] else "expired"
    else:  # this store never saw a reservation of it: as if it had reserved nothing
        nothing = levels(db, now, [charge._replace(amount=0) for charge in charges])
        held = (True, now, orjson.dumps(_take(db, now, nothing)))
    _correct(db, held[2], {charge.counter: charge.amount for charge in charges}, was_open=held[0])
    if was == "expired":
        _take_back(db, row.id)
    write(db, row, held[1])
    if told is not None:
        before = _breaker(db, now, told.target)
        after = breaker.report(before, told, now)
        if after is not before and after != before:
            _keep(db, told.target, after)
    reached = crossed(levels(db, now, [charge for charge in charges if charge.warn_at]))
    _remember(db, reached)
    return Settled(was=was, crossed=reached)


def release(db: Connection, _now: float, reservation_id: str) -> None:
    """Give back what a reservation took whose caller left before hearing of it, its probe's slot too, and forget it."""
    held = db.execute("DELETE FROM hold WHERE id = ? RETURNING open, taken", (reservation_id,)).fetchone()
    if held is None:
        return
    _correct(db, held[1], {}, was_open=held[0])
    if not held[0]:
        _take_back(db, reservation_id)
    for target, stored in db.execute("SELECT target, record FROM breaker").fetchall():  # only unhealthy ones have rows
        record = breaker.load(stored, 0)
        if reservation_id in record.probes:
            _keep(db, target, record.without(reservation_id))


def breakers(db: Connection, now: float, targets: Sequence[str]) -> dict[str, Breaker]:
    """Return the breakers of `targets`."""
    stored = dict(db.execute("SELECT target, record FROM breaker").fetchall())
    return {target: breaker.load(stored.get(target), now) for target in targets}


def _breaker(db: Connection, now: float, target: str) -> Breaker:
    row = db.execute("SELECT record FROM breaker WHERE target = ?", (target,)).fetchone()
    return breaker.load(row and row[0], now)


def _keep(db: Connection, target: str, record: Breaker) -> None:
    stored = breaker.dump(record)
    if stored is None:
        db.execute("DELETE FROM breaker WHERE target = ?", (target,))
    else:
        db.execute("INSERT OR REPLACE INTO breaker VALUES (?, ?)", (target, stored))


def _correct(db: Connection, taken: bytes, true: dict[str, int], *, was_open: bool) -> None:
    """Exchange what was `taken` for the `true` amounts; an expired hold's is among the spent already."""
    rows = [(true.get(name, 0), amount, name, start) for name, start, amount in orjson.loads(taken)]
    db.executemany(_CORRECT, [(new - old, new if was_open else new - old, *key) for new, old, *key in rows])


def expire(db: Connection, now: float) -> None:
    """Charge every reservation whose time is over its estimate, give back what was lent, and write its row."""
    due = db.execute("SELECT id, at, taken, attempt FROM hold WHERE open AND expires <= ?", (now,)).fetchall()
    for hold, at, taken, attempt in due:
        spent, items = [], orjson.loads(taken)
        for name, start, amount in items:
            lent = name.rsplit("|", 2)[1] == "parallel"
            db.execute(_CORRECT, (-amount, 0, name, start) if lent else (0, amount, name, start))
            spent += [] if lent else [(name, start, amount)]
        db.execute("UPDATE hold SET open = 0, taken = ? WHERE id = ?", (orjson.dumps(spent), hold))
        write(db, AttemptRow(*orjson.loads(attempt)), at)


def heartbeat(db: Connection, now: float, reservation_id: str, ttl_s: float) -> bool:
    """Keep an open reservation for another `ttl_s`. Return False if there was none."""
    until = (now + ttl_s, reservation_id)
    return db.execute("UPDATE hold SET expires = ? WHERE id = ? AND open", until).rowcount == 1


def levels(db: Connection, now: float, charges: Sequence[Charge]) -> tuple[Level, ...]:
    """Return how full each charge's counter is; one that has no row yet is empty."""
    found = []
    for charge in charges:
        start, ends = bounds(charge.window, now)
        row = db.execute(_READ, (charge.counter, start)).fetchone()  # four of these are cheaper than one IN over rows
        used, spent, warned = row or (0, 0, 0)
        found.append(Level(charge, used, spent, ends, start, warned))
    return tuple(found)


def write(db: Connection, row: AttemptRow, at: float) -> None:
    """Write a usage row into the current epoch."""
    db.execute(_WRITE, (int(at * _MICRO), *row[:-1], at))


def _take_back(db: Connection, hold: str) -> None:
    """Delete the row that an expiry wrote."""
    db.execute(f"DELETE FROM attempt WHERE n = ({_FIND})", (hold,))  # noqa: S608 - a constant


def new_epoch(db: Connection, now: float) -> None:
    """Begin a new epoch."""
    db.execute(f"INSERT INTO epoch VALUES ({_EPOCH} + 1, ?)", (now,))  # noqa: S608 - a constant


def reset_limits(db: Connection, _now: float) -> None:
    """Set every counter to what open reservations hold."""
    db.execute("UPDATE counter SET used = 0, spent = 0, warned = 0")
    db.execute("DELETE FROM hold WHERE NOT open")
    for (taken,) in db.execute("SELECT taken FROM hold").fetchall():
        db.executemany(_CORRECT, [(amount, 0, name, start) for name, start, amount in orjson.loads(taken)])


def forget(db: Connection, now: float) -> None:
    """Drop counters of windows, and expired holds, that ended over a day ago."""
    db.execute("DELETE FROM counter WHERE ends < ?", (now - DAY_S,))
    db.execute("DELETE FROM hold WHERE NOT open AND expires < ?", (now - DAY_S,))


def facts(db: Connection, where: UsageFilter) -> list[tuple[Any, ...]]:
    """Return the columns that sums need, of the current epoch's rows that `where` keeps."""
    clause, values = _clause(where)
    return db.execute(f"SELECT {', '.join(FACTS)} FROM attempt {clause}", values).fetchall()  # noqa: S608 - no value is pasted


def rows(db: Connection, where: UsageFilter, *, limit: int = 100) -> tuple[AttemptRow, ...]:
    """Return the newest rows that `where` keeps."""
    clause, values = _clause(where)
    query = f"SELECT {', '.join(COLUMNS)} FROM attempt {clause} ORDER BY n DESC LIMIT ?"  # noqa: S608 - no value is pasted
    made = map(AttemptRow._make, db.execute(query, (*values, limit)))
    return tuple(row._replace(maybe_billed=bool(row.maybe_billed), cache_hit=bool(row.cache_hit)) for row in made)


def _clause(where: UsageFilter) -> tuple[str, list[object]]:
    wanted = where.model_dump(include={"provider", "model", "session", "project"}, exclude_none=True)
    terms: dict[str, object] = {f"{name} = ?": value for name, value in wanted.items()}
    if where.since is not None:
        since = timestamp(where.since)
        terms |= {"at >= ?": since, "n >= ?": int(since * _MICRO)}
    if where.until is not None:
        terms["at < ?"] = timestamp(where.until)
    return " AND ".join([f"WHERE epoch = {_EPOCH}", *terms]), list(terms.values())


def _take(db: Connection, now: float, found: Sequence[Level]) -> list[tuple[str, int, int]]:
    """Add to the counters and say what was taken from which; two limits on one counter take from it once."""
    level_of = {level.charge.counter: level for level in found}
    taken = [(name, level.start, level.charge.amount) for name, level in level_of.items()]
    forgettable = int(now) + 30 * DAY_S
    db.executemany(_TAKE, [(*item, level_of[item[0]].resets_at or forgettable) for item in taken])
    return taken


def _remember(db: Connection, reached: Sequence[Crossed]) -> None:
    """Note that thresholds were reported."""
    for level, _ in reached:
        db.execute(_WARNED, (level.spent, level.charge.counter, level.start))
