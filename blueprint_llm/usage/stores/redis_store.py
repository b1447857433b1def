"""The ledger in Redis, shared by machines: one Lua script a transaction, in the server's time.

All keys carry one hash tag, which keeps them on one node of a cluster.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from functools import lru_cache, partial
from importlib.resources import files
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import orjson

from blueprint_llm import sync
from blueprint_llm.errors import StoreError
from blueprint_llm.secret import Secret, revealed
from blueprint_llm.usage.stores import breaker, redis_client, totals
from blueprint_llm.usage.stores.ledger_sql import refusing
from blueprint_llm.usage.stores.protocol import WAITING
from blueprint_llm.usage.stores.records import AttemptRow, Crossed, Level, Reserved, Settled
from blueprint_llm.usage.stores.windows import timestamp
from blueprint_llm.usage.stores.writer import Busy, Job, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from blueprint_llm.types import UsageFilter, UsageStats, UsageTotals
    from blueprint_llm.usage.stores.records import (
        Breaker,
        Charge,
        Dimension,
        Reservation,
        Settlement,
    )

_PAGE = 1000
_SWAPS = 50
_LENGTHS = {"minute": 60, "hour": 3600, "day": 86400, "month": -1, "session": 0, "call": 0, "ever": 0}
_facts = attrgetter(*totals.FACTS)

T = TypeVar("T")


class RedisStore:
    """A store at `redis://host:port/n`; `clock` replaces the server's time in tests."""

    def __init__(
        self, url: str | Secret, *, prefix: str = "{blueprint}", clock: Callable[[], float] | None = None
    ) -> None:
        self._url, self._prefix, self._clock = url, prefix, clock
        where = urlsplit(revealed(url))
        self._place = f"the store at {where.hostname or where.path}:{where.port or 6379}"
        self._later = Writer(lambda: f"{self._place} does not answer", longest_pause_s=0.5)

    async def reserve(self, reservation: Reservation, *, force: bool = False) -> Reserved:
        """Ask the breaker and take every charge, or take nothing. Cancelled, it leaves nothing reserved."""
        try:
            return await self._reserve(reservation, force=force)
        except (StoreError, asyncio.CancelledError):  # the server may have done it, or do it yet
            self._book(partial(self._call, "release", {"id": reservation.id, "forbid": True}))
            raise

    async def settle(self, settlement: Settlement) -> Settled:
        """Replace a reservation's amounts by the true ones, write its row, tell the breaker."""
        return await self._surely(partial(self._settle, settlement))

    async def release(self, reservation_id: str) -> None:
        """Undo a reservation of which nothing was sent."""
        await self._surely(partial(self._call, "release", {"id": reservation_id}))

    async def heartbeat(self, reservation_id: str, ttl_s: float) -> bool:
        """Keep a reservation for another `ttl_s`. Return False if it was open no longer."""
        return bool((await self._call("heartbeat", {"id": reservation_id, "ttl_s": ttl_s}))["open"])

    async def levels(self, charges: Sequence[Charge]) -> tuple[Level, ...]:
        """Return how full each charge's counter is."""
        return tuple(_levels(charges, await self._call("levels", {"charges": [_charge(charge) for charge in charges]})))

    async def breakers(self, targets: Sequence[str]) -> dict[str, Breaker]:
        """Return the breakers of `targets`."""
        records, now = await self._peek(targets)
        return {
            target: breaker.view(breaker.load(record), now) for target, record in zip(targets, records, strict=True)
        }

    async def record(self, row: AttemptRow) -> None:
        """Write a usage row that has no reservation."""
        await self._surely(partial(self._call, "write", {"id": row.id, "row": _text(row)}))

    async def usage(self, where: UsageFilter) -> UsageStats:
        """Return the totals of the current epoch."""
        return totals.stats(await self._sums(where))

    async def usage_by_day(self, where: UsageFilter) -> dict[str, UsageTotals]:
        """Return the totals by UTC day."""
        return totals.by_day(await self._sums(where))

    async def usage_daily(self, where: UsageFilter, by: Dimension) -> dict[str, dict[str, UsageTotals]]:
        """Return the totals by UTC day for every value of `by`."""
        return totals.daily(await self._sums(where), by)

    async def rows(self, where: UsageFilter, *, limit: int = 100) -> tuple[AttemptRow, ...]:
        """Return the newest rows."""
        return tuple(await self._pages(where, newest=True, limit=limit))

    async def new_epoch(self) -> None:
        """Start counting usage afresh."""
        await self._call("epoch", {})

    async def reset_limits(self) -> None:
        """Empty every budget and quota but for what open reservations hold."""
        await self._call("reset", {})

    async def aclose(self) -> None:
        """Carry out what was booked and let go of this loop's idle connections."""
        await self._later.drain(redis_client.TIMEOUT_S)
        await redis_client.disconnect(self._url)

    async def _reserve(self, wanted: Reservation, *, force: bool) -> Reserved:
        charges = [
            {**_charge(charge), "limit": charge.limit, "refuses": charge.on_exceed != "warn"}
            for charge in wanted.charges
        ]
        row = {"id": wanted.id, "ttl_s": wanted.ttl_s, "row": _text(wanted.row), "target": wanted.target}
        record, now = "", 0.0  # most breakers are closed: that is tried without asking first
        for _ in range(_SWAPS):
            after, refused = breaker.admit(breaker.load(record), wanted, now)
            if refused and not force:
                return Reserved(breaker=refused)
            swap = {"breaker": _swap(wanted.target, record, after)} if wanted.target else {}
            reply = await self._call("reserve", {**row, "charges": charges, **swap})
            if "stale" not in reply:
                return _reserved(wanted.charges, reply)
            record, now = reply["stale"], float(reply["now"])
        raise self._contended(wanted.target)

    async def _settle(self, done: Settlement) -> Settled:
        told = done.report
        arguments = {"id": done.row.id, "row": _text(done.row), "charges": [_charge(charge) for charge in done.charges]}
        record, now = "", 0.0
        if told and told.ok is not True:  # a success closes what is closed; the rest needs the record and the time
            (record,), now = await self._peek([told.target])
        for _ in range(_SWAPS):
            swap = (
                {"breaker": _swap(told.target, record, breaker.report(breaker.load(record), told, now))} if told else {}
            )
            reply = await self._call("settle", {**arguments, **swap})
            if "stale" not in reply:
                crossed = _crossed(_levels(done.charges, reply), reply)
                return Settled(was=reply["was"], crossed=crossed)
            record, now = reply["stale"], float(reply["now"])
        raise self._contended(told.target if told else "")

    def _contended(self, target: str) -> StoreError:
        return StoreError(f"the breaker of {target} is contended beyond reason: look at what else writes to this Redis")

    async def _surely(self, act: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do it; if the server does not answer, or the caller leaves, it is done later."""
        try:
            return await act()
        except (StoreError, asyncio.CancelledError):
            self._book(act)
            raise

    def _book(self, act: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        """Try until it is done, in a thread: the caller's loop may be about to close."""

        def until_it_answers() -> None:
            try:
                sync.run(self._then_let_go(act))
            except StoreError:
                raise Busy from None

        with suppress(StoreError):  # no thread can begin: the reservation's expiry books it
            self._later.put(Job(until_it_answers))

    async def _then_let_go(self, act: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        try:
            await act()
        finally:
            await redis_client.disconnect(self._url)

    async def _peek(self, targets: Sequence[str]) -> tuple[list[str], float]:
        reply = await self._call("peek", {"targets": targets})
        return list(reply["records"] or ()), float(reply["now"])

    async def _pages(self, where: UsageFilter, *, newest: bool = False, limit: int | None = None) -> list[AttemptRow]:
        """Return the rows of the current epoch that `where` keeps, at most `limit`."""
        wanted = where.model_dump(include={"provider", "model", "session", "project"}, exclude_none=True).items()
        low = "-inf" if where.since is None else repr(timestamp(where.since))
        high = "+inf" if where.until is None else f"({timestamp(where.until)!r}"
        rows: list[AttemptRow] = []
        offset = 0
        page: list[Any] = [None]
        while page and (limit is None or len(rows) < limit):
            span = {"low": low, "high": high, "newest": newest, "offset": offset, "count": _PAGE}
            page = (await self._call("page", span))["page"] or []
            found = [{**orjson.loads(text), "at": float(at)} for at, text in page]
            rows += [AttemptRow(**row) for row in found if wanted <= row.items()]
            offset += _PAGE
        return rows[:limit]

    async def _sums(self, where: UsageFilter) -> list[totals.Fact]:
        return [_facts(row) for row in await self._pages(where)]

    async def _call(self, operation: str, arguments: Mapping[str, Any]) -> Any:
        """Run one operation of the script; StoreError, without the address's password, if the server cannot be used."""
        client, (script, digest) = redis_client.redis_client(self._url), _script()
        now = "" if self._clock is None else repr(self._clock())
        rest = (1, self._prefix, operation, now, orjson.dumps(arguments))
        try:
            try:
                return orjson.loads(await client.execute_command("EVALSHA", digest, *rest))
            except redis_client.no_script():
                return orjson.loads(await client.execute_command("EVAL", script, *rest))
        except redis_client.failures() as error:
            raise StoreError(
                f"{self._place} cannot be used ({type(error).__name__}): start the Redis server, mend "
                "blueprint.store.url, or set blueprint.store.on_failure: memory"
            ) from None
        except asyncio.CancelledError as cancelled:
            cancelled.add_note(f"{WAITING}{self._place} does not answer")
            raise


@lru_cache(maxsize=1)
def _script() -> tuple[str, str]:
    text = files("blueprint_llm.usage.stores").joinpath("ledger.lua").read_text()
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _swap(target: str, old: str, after: breaker.Record) -> dict[str, str]:
    return {"target": target, "old": old, "new": (breaker.dump(after) or b"").decode()}


def _reserved(charges: Sequence[Charge], reply: Mapping[str, Any]) -> Reserved:
    if reply.get("repeated"):
        return Reserved()
    levels = _levels(charges, reply)
    over = [levels[n - 1] for n in reply["over"]]
    denied = refusing([level.charge for level in over])
    return Reserved(
        denied=next((level for level in over if level.charge is denied), None),
        exceeded=() if denied else tuple(over),
        crossed=_crossed(levels, reply),
    )


def _charge(charge: Charge) -> dict[str, Any]:
    length = _LENGTHS.get(charge.window)
    return {
        "name": charge.counter,
        "length": int(charge.window[:-1]) if length is None else length,
        "amount": charge.amount,
        "marks": charge.warn_at,
    }


def _levels(charges: Sequence[Charge], reply: Mapping[str, Any]) -> list[Level]:
    rows = zip(charges, reply["levels"], strict=False)  # a settled attempt answers with none
    return [
        Level(charge=charge, used=int(used), spent=int(spent), resets_at=int(ends) if ends else None)
        for charge, (used, spent, ends) in rows
    ]


def _crossed(levels: list[Level], reply: Mapping[str, Any]) -> tuple[Crossed, ...]:
    return tuple(Crossed(level=levels[n - 1], threshold=int(mark)) for n, mark in reply["crossed"])


def _text(row: AttemptRow) -> str:
    return orjson.dumps(row._asdict()).decode()
