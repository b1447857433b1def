"""The ledger in Redis, shared by machines: one Lua script a transaction, in the server's time.

All keys carry one hash tag, which keeps them on one node of a cluster. A connection belongs to the event loop that made
it, so there is one client for each address and running loop; the cache shares it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from contextlib import suppress
from functools import lru_cache, partial
from importlib.resources import files
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import orjson

from blueprint_llm import sync
from blueprint_llm.errors import ConfigError, StoreError
from blueprint_llm.secret import Secret, revealed
from blueprint_llm.usage.stores import breaker
from blueprint_llm.usage.stores.ledger_sql import length, timestamp
from blueprint_llm.usage.stores.records import (
    FACTS,
    WAITING,
    AttemptRow,
    Level,
    Reserved,
    Settled,
    Store,
    crossed,
    reserved,
)
from blueprint_llm.usage.stores.writer import Busy, Job, Writer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence

    import redis.asyncio

    from blueprint_llm.types import UsageFilter
    from blueprint_llm.usage.stores.breaker import Breaker
    from blueprint_llm.usage.stores.records import Charge, Fact, Reservation, Settlement

    _Change = Callable[[Breaker, float], Breaker | None]

TIMEOUT_S = 2.0
_PAGE = 1000
_SWAPS = 50
_facts = attrgetter(*FACTS)

T = TypeVar("T")
_clients: dict[asyncio.AbstractEventLoop, dict[str, redis.asyncio.Redis]] = {}
_endings: dict[asyncio.AbstractEventLoop, AsyncGenerator[None, None]] = {}
_inherited: list[object] = []  # a forked child may neither use nor close its parent's connections


def redis_client(url: str | Secret) -> redis.asyncio.Redis:
    """Return the client for `url` on the running loop; nothing connects before it is used.

    Raises:
        ConfigError: The package is not installed.
    """
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        for closed in [known for known in list(_clients) if known.is_closed()]:  # its transports hold the loop alive
            _clients.pop(closed, None)
            _endings.pop(closed, None)
        _endings[loop] = _until_the_loop_ends(loop)
        with suppress(StopIteration):  # a step that waits for nothing: from now on the loop knows of it
            _endings[loop].__anext__().send(None)
    clients = _clients.setdefault(loop, {})
    address = revealed(url)
    if address not in clients:
        module, limits = _redis(), {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S}
        once = module.asyncio.retry.Retry(module.backoff.NoBackoff(), 1)
        clients[address] = module.asyncio.Redis.from_url(address, decode_responses=True, retry=once, **limits)
    return clients[address]


async def _until_the_loop_ends(loop: asyncio.AbstractEventLoop) -> AsyncGenerator[None, None]:
    """Close a loop's connections with it: whoever runs a loop closes the generators that are open at its end.

    A program that calls LiteLLM has nothing of ours to close.
    """
    try:
        yield
    finally:
        for client in _clients.pop(loop, {}).values():
            with suppress(*failures()):
                await client.aclose()


async def disconnect(url: str | Secret) -> None:
    """Close the running loop's idle connections to `url`; those in use are somebody else's, and go on."""
    client = _clients.get(asyncio.get_running_loop(), {}).get(revealed(url))
    if client is not None:
        await client.connection_pool.disconnect(inuse_connections=False)


def failures() -> tuple[type[Exception], ...]:
    """Return what a client raises when the server cannot be used."""
    return (_redis().exceptions.RedisError, OSError)


def _redis() -> Any:
    try:
        import redis.asyncio  # noqa: PLC0415 - only who uses Redis loads it
    except ImportError:
        raise ConfigError("store.url names Redis: pip install 'blueprint-llm[redis]'") from None
    return redis


class RedisStore(Store):
    """A store at `redis://host:port/n`; `clock` replaces the server's time in tests."""

    def __init__(
        self, url: str | Secret, *, prefix: str = "{blueprint}", clock: Callable[[], float] | None = None
    ) -> None:
        self._url, self._prefix, self._clock = url, prefix, clock
        try:
            where = urlsplit(revealed(url))
            self._place = f"the store at {where.hostname or where.path}:{where.port or 6379}"
        except ValueError:  # whose text holds a piece of the password
            text = "store.url is no address: a password's special characters are written %2F, %40, ..."
            raise ConfigError(text) from None
        self._later = Writer(lambda: f"{self._place} does not answer", longest_pause_s=0.5)

    async def reserve(self, reservation: Reservation, *, force: bool = False) -> Reserved:
        """Ask the breaker and take every charge, or take nothing. Cancelled, it leaves nothing reserved."""
        try:
            return await self._reserve(reservation, force=force)
        except (StoreError, asyncio.CancelledError):  # the server may have done it, or do it yet
            self._book(partial(self._call, "release", {"id": reservation.id}))
            raise

    async def settle(self, settlement: Settlement) -> Settled:
        """Replace a reservation's amounts by the true ones, write its row, tell the breaker."""
        return await self._surely(partial(self._settle, settlement))

    async def heartbeat(self, reservation_id: str, ttl_s: float) -> bool:
        """Keep a reservation for another `ttl_s`. Return False if it was open no longer."""
        return bool((await self._call("heartbeat", {"id": reservation_id, "ttl_s": ttl_s}))["open"])

    async def levels(self, charges: Sequence[Charge]) -> tuple[Level, ...]:
        """Return how full each charge's counter is."""
        return _levels(charges, await self._call("levels", {"charges": [_charge(charge) for charge in charges]}))

    async def breakers(self, targets: Sequence[str]) -> dict[str, Breaker]:
        """Return the breakers of `targets`."""
        records, now = await self._peek(targets)
        return {target: breaker.load(record, now) for target, record in zip(targets, records, strict=True)}

    async def record(self, row: AttemptRow) -> None:
        """Write a usage row that has no reservation."""
        await self._surely(partial(self._call, "write", {"id": row.id, "row": _text(row)}))

    async def facts(self, where: UsageFilter) -> list[Fact]:
        """Return what sums need of every row of the current epoch."""
        return [_facts(row) for row in await self._pages(where)]

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
        await self._later.drain(TIMEOUT_S)
        await disconnect(self._url)

    async def _reserve(self, wanted: Reservation, *, force: bool) -> Reserved:
        def admitted(before: Breaker, _now: float) -> Breaker | None:
            after = breaker.admit(before, wanted.id, probes=wanted.probes, ttl_s=wanted.ttl_s)
            return before if after is None and force else after

        arguments = {"id": wanted.id, "ttl_s": wanted.ttl_s, "row": _text(wanted.row), "target": wanted.target}
        arguments["charges"] = [_charge(charge) for charge in wanted.charges]
        # Most breakers are closed: that is tried without asking first.
        reply = await self._swapped("reserve", wanted.target, arguments, admitted, "", 0.0)
        if isinstance(reply, breaker.Breaker):
            return Reserved(breaker=reply)
        return reserved(_levels(wanted.charges, reply))

    async def _settle(self, done: Settlement) -> Settled:
        told, record, now = done.report, "", 0.0

        def reported(before: Breaker, now: float) -> Breaker:
            return breaker.report(before, told, now) if told else before

        arguments = {"id": done.row.id, "row": _text(done.row), "charges": [_charge(charge) for charge in done.charges]}
        if told and told.ok is not True:  # a success closes what is closed; the rest needs the record and the time
            (record,), now = await self._peek([told.target])
        target = told.target if told else ""
        reply = await self._swapped("settle", target, arguments, reported, record, now)
        return Settled(was=reply["was"], crossed=crossed(_levels(done.charges, reply)))

    async def _swapped(
        self, operation: str, target: str, arguments: Mapping[str, Any], change: _Change, record: str, now: float
    ) -> Any:
        """Run an operation with what `change` makes of a breaker, again if somebody else has changed it meanwhile.

        Where it makes nothing of it, the breaker is returned instead of the operation's reply.
        """
        for _ in range(_SWAPS):
            before = breaker.load(record, now)
            if (after := change(before, now)) is None:
                return before
            swap = {"target": target, "old": record, "new": (breaker.dump(after) or b"").decode()}
            reply = await self._call(operation, {**arguments, "breaker": swap} if target else arguments)
            if "stale" not in reply:
                return reply
            record, now = reply["stale"], float(reply["now"])
        raise StoreError(f"the breaker of {target} is contended beyond reason: look at what else writes to this Redis")

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
            await disconnect(self._url)

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

    async def _call(self, operation: str, arguments: Mapping[str, Any]) -> Any:
        """Run one operation of the script; StoreError, without the address's password, if the server cannot be used."""
        client, (script, digest) = redis_client(self._url), _script()
        now = "" if self._clock is None else repr(self._clock())
        rest = (1, self._prefix, operation, now, orjson.dumps(arguments))
        try:
            try:
                return orjson.loads(await client.execute_command("EVALSHA", digest, *rest))
            except _redis().exceptions.NoScriptError:
                return orjson.loads(await client.execute_command("EVAL", script, *rest))
        except failures() as error:
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


def _charge(charge: Charge) -> dict[str, Any]:
    facts = {"name": charge.counter, "length": length(charge.window), "amount": charge.amount}
    return {**facts, "marks": charge.warn_at, "limit": charge.limit, "refuses": charge.on_exceed != "warn"}


def _levels(charges: Sequence[Charge], reply: Mapping[str, Any]) -> tuple[Level, ...]:
    rows = zip(charges, reply["levels"], strict=False)  # what is settled, or was reserved before, answers with none
    return tuple(
        Level(charge, int(used), int(spent), int(ends) if ends else None, warned=int(warned))
        for charge, (used, spent, ends, warned) in rows
    )


def _text(row: AttemptRow) -> str:
    return orjson.dumps(row._asdict()).decode()


def _after_fork() -> None:
    _inherited.append((dict(_clients), dict(_endings)))
    _clients.clear()
    _endings.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
