"""The ledger in Redis, shared by machines: one Lua script a transaction, in the server's time.

An operation is a generator of commands, so the blocking and the async client run the same logic. All keys carry one
hash tag, which keeps them on one node of a cluster.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from importlib.resources import files
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import orjson

from blueprint_llm.errors import ConfigError, StoreError
from blueprint_llm.secret import Secret, revealed
from blueprint_llm.usage.stores import breaker, totals
from blueprint_llm.usage.stores.ledger_sql import refusing
from blueprint_llm.usage.stores.ops import (
    Aggregate,
    AttemptRow,
    Batch,
    BreakerProbe,
    BreakerReport,
    BreakerStates,
    ByDay,
    Charge,
    Crossed,
    Daily,
    Heartbeat,
    Level,
    NewEpoch,
    Op,
    Release,
    Reserve,
    Reserved,
    ResetLimits,
    Rows,
    Settle,
    Settled,
    Standing,
    WriteRow,
)
from blueprint_llm.usage.stores.windows import timestamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from blueprint_llm.types import UsageFilter

_TIMEOUT_S = 2.0
_PAGE = 1000
_SWAPS = 50
_LENGTHS = {"minute": 60, "hour": 3600, "day": 86400, "month": -1, "session": 0, "call": 0, "ever": 0}

Command = tuple[Any, ...]
Plan = Generator[Command, Any, Any]

_facts = attrgetter(*totals.FACTS)


class RedisStore:
    """A store at `redis://host:port/n`; `clock` replaces the server's time in tests."""

    def __init__(
        self, url: str | Secret, *, prefix: str = "{blueprint}", clock: Callable[[], float] | None = None
    ) -> None:
        self._url, self._prefix, self._clock = url, prefix, clock
        self._client: Any = None
        self._aclients: WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = WeakKeyDictionary()

    def execute(self, op: Op) -> Any:
        """Run `op`; raises StoreError when the server cannot be used."""
        with self._explained():
            if self._client is None:
                self._client = _redis().Redis.from_url(revealed(self._url), **_settings())
            return self._run(_plan(op))

    async def aexecute(self, op: Op) -> Any:
        """Run `op`; raises StoreError when the server cannot be used."""
        with self._explained():
            loop = asyncio.get_running_loop()  # a connection belongs to the loop that made it
            if loop not in self._aclients:
                self._aclients[loop] = _redis().asyncio.Redis.from_url(revealed(self._url), **_settings())
            return await self._arun(_plan(op), self._aclients[loop])

    def close(self) -> None:
        """Let go of the blocking connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    async def aclose(self) -> None:
        """Let go of the blocking connections and of this loop's."""
        self.close()
        client = self._aclients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def _run(self, plan: Plan) -> Any:
        reply = None
        while True:
            try:
                command = plan.send(reply)
            except StopIteration as end:
                return end.value
            try:
                reply = self._client.execute_command(*self._wire(command))
            except _redis().exceptions.NoScriptError:
                reply = self._client.execute_command(*self._wire(command, source=True))

    async def _arun(self, plan: Plan, client: Any) -> Any:
        reply = None
        while True:
            try:
                command = plan.send(reply)
            except StopIteration as end:
                return end.value
            try:
                reply = await client.execute_command(*self._wire(command))
            except _redis().exceptions.NoScriptError:
                reply = await client.execute_command(*self._wire(command, source=True))

    def _wire(self, command: Command, *, source: bool = False) -> Command:
        """`("LEDGER", operation, arguments)` calls the script; other commands name their key second."""
        name, key, *rest = command
        if name != "LEDGER":
            return (name, f"{self._prefix}:{key}", *rest)
        script, digest = _script()
        now = "" if self._clock is None else repr(self._clock())
        head = ("EVAL", script) if source else ("EVALSHA", digest)
        return (*head, 1, self._prefix, key, now, orjson.dumps(rest[0]))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the client's errors into one that says what to do, without the URL's password."""
        try:
            yield
        except (_redis().exceptions.RedisError, OSError) as error:
            where = urlsplit(revealed(self._url))
            raise StoreError(
                f"the store at {where.hostname}:{where.port or 6379} cannot be used ({type(error).__name__}): start "
                "the Redis server, mend blueprint.store.url, or set blueprint.store.on_failure: memory"
            ) from None


def _redis() -> Any:
    try:
        import redis.asyncio  # noqa: PLC0415 - only who uses Redis loads it
    except ImportError:
        raise ConfigError("store.url names Redis: pip install 'blueprint-llm[redis]'") from None
    return redis


def _settings() -> Mapping[str, Any]:
    from redis.backoff import NoBackoff  # noqa: PLC0415 - only who uses Redis loads it
    from redis.retry import Retry  # noqa: PLC0415 - only who uses Redis loads it

    limits = {"socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S}
    return {"decode_responses": True, "retry": Retry(NoBackoff(), 1), **limits}


@lru_cache(maxsize=1)
def _script() -> tuple[str, str]:
    text = files("blueprint_llm.usage.stores").joinpath("ledger.lua").read_text()
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _plan(op: Op) -> Plan:  # noqa: PLR0911 - one line an operation
    match op:
        case Reserve():
            return _reserve(op)
        case Settle():
            return _settle(op)
        case Release():
            return _field("", "release", {"id": op.id})
        case Heartbeat():
            return _field("open", "heartbeat", {"id": op.id, "ttl_s": op.ttl_s})
        case Standing():
            return _standing(op)
        case WriteRow():
            return _field("", "write", {"id": op.row.id, "row": _text(op.row)})
        case BreakerStates():
            return _breakers(op)
        case BreakerProbe() | BreakerReport():
            return _step_breaker(op)
        case Batch():
            return _batch(op)
        case _:
            return _plan_report(op)


def _plan_report(op: Op) -> Plan:
    match op:
        case Aggregate():
            return _sums(op.where, totals.stats)
        case ByDay():
            return _sums(op.where, totals.by_day)
        case Daily():
            return _sums(op.where, partial(totals.daily, dimension=op.by))
        case Rows():
            return _newest(op)
        case NewEpoch():
            return _command("INCR", "epoch")
        case ResetLimits():
            return _field("", "reset", {})
    raise TypeError(f"{op!r} is no operation of a store")


def _call(name: str, arguments: Mapping[str, Any]) -> Plan:
    return orjson.loads((yield "LEDGER", name, arguments))


def _command(*command: Any) -> Plan:
    yield command


def _field(field: str, name: str, arguments: Mapping[str, Any]) -> Plan:
    """One call of the script whose result is one field of its reply."""
    reply = yield from _call(name, arguments)
    return reply.get(field)


def _batch(op: Batch) -> Plan:
    results = []
    for item in op.ops:
        results.append((yield from _plan(item)))  # noqa: PERF401 - a comprehension cannot yield
    return tuple(results)


def _reserve(op: Reserve) -> Plan:
    charges = [
        {**_charge(charge), "limit": charge.limit, "refuses": charge.on_exceed != "warn"} for charge in op.charges
    ]
    arguments = {"id": op.id, "ttl_s": op.ttl_s, "row": _text(op.row), "charges": charges}
    reply = yield from _call("reserve", arguments)
    if reply.get("repeated"):
        return Reserved()
    levels = _levels(op.charges, reply)
    over = [levels[n - 1] for n in reply["over"]]
    denied = refusing([level.charge for level in over])
    return Reserved(
        denied=next((level for level in over if level.charge is denied), None),
        exceeded=() if denied else tuple(over),
        crossed=_crossed(levels, reply),
    )


def _settle(op: Settle) -> Plan:
    charges = [_charge(charge) for charge in op.charges]
    reply = yield from _call("settle", {"id": op.row.id, "row": _text(op.row), "charges": charges})
    return Settled(was=reply["was"], crossed=_crossed(_levels(op.charges, reply), reply))


def _standing(op: Standing) -> Plan:
    reply = yield from _call("standing", {"charges": [_charge(charge) for charge in op.charges]})
    return tuple(_levels(op.charges, reply))


def _charge(charge: Charge) -> dict[str, Any]:
    length = _LENGTHS.get(charge.window)
    return {
        "name": charge.counter,
        "length": int(charge.window[:-1]) if length is None else length,
        "amount": charge.amount,
        "marks": charge.warn_at,
    }


def _levels(charges: tuple[Charge, ...], reply: Mapping[str, Any]) -> list[Level]:
    rows = zip(charges, reply["levels"], strict=False)  # a settled attempt answers with none
    return [
        Level(charge=charge, used=int(used), spent=int(spent), resets_at=int(ends) if ends else None)
        for charge, (used, spent, ends) in rows
    ]


def _crossed(levels: list[Level], reply: Mapping[str, Any]) -> tuple[Crossed, ...]:
    return tuple(Crossed(level=levels[n - 1], threshold=int(mark)) for n, mark in reply["crossed"])


def _text(row: AttemptRow) -> str:
    return orjson.dumps(row._asdict()).decode()


def _pages(where: UsageFilter, *, newest: bool = False, limit: int | None = None) -> Plan:
    """The rows of the current epoch that `where` keeps, at most `limit`."""
    wanted = where.model_dump(include={"provider", "model", "session", "project"}, exclude_none=True).items()
    low = "-inf" if where.since is None else repr(timestamp(where.since))
    high = "+inf" if where.until is None else f"({timestamp(where.until)!r}"
    rows: list[AttemptRow] = []
    offset = 0
    page: list[Any] = [None]
    while page and (limit is None or len(rows) < limit):
        span = {"low": low, "high": high, "newest": newest, "offset": offset, "count": _PAGE}
        page = (yield from _field("page", "page", span)) or []
        found = [{**orjson.loads(text), "at": float(at)} for at, text in page]
        rows += [AttemptRow(**row) for row in found if wanted <= row.items()]
        offset += _PAGE
    return rows[:limit]


def _sums(where: UsageFilter, summed: Callable[[list[totals.Fact]], Any]) -> Plan:
    rows = yield from _pages(where)
    return summed([_facts(row) for row in rows])


def _newest(op: Rows) -> Plan:
    return tuple((yield from _pages(op.where, newest=True, limit=op.limit)))


def _breakers(op: BreakerStates) -> Plan:
    reply = yield from _call("peek", {"keys": [f"b:{target}" for target in op.targets]})
    records = zip(op.targets, reply["records"], strict=False)
    return {target: breaker.view(breaker.load(record), float(reply["now"])) for target, record in records}


def _step_breaker(op: BreakerProbe | BreakerReport) -> Plan:
    """Compute the next record here, store it if nobody was faster, else start over."""
    key = f"b:{op.target}"
    for _ in range(_SWAPS):
        reply = yield from _call("peek", {"keys": [key]})
        before = reply["records"][0]
        record = breaker.load(before)
        after, result = breaker.step(record, op, float(reply["now"]))
        if after == record:
            return result
        new = (breaker.dump(after) or b"").decode()
        if (yield from _field("swapped", "swap", {"key": key, "old": before, "new": new})):
            return result
    raise StoreError(f"the breaker of {op.target} is contended beyond reason: look at what else writes to this Redis")
