"""A cache folder that somebody planted things in, damaged, locked or took away: no code runs, no call fails."""

import asyncio
import os
import pickle  # noqa: TID251 - what an attacker would plant
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest
from caching import entry_of

from blueprint_llm.cache import CacheManager
from blueprint_llm.cache.disk import BytesDisk, DiskCache, RefusedRowError
from blueprint_llm.errors import StoreError

KEY = "n:1"
ENTRY = entry_of("Hello")
WITHOUT_POWERS = ["setpriv", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"]


class Folder:
    """A cache folder with one entry, and what its managers told."""

    def __init__(self, path):
        self.path, self.events, self.managers = path, [], []

    def opened(self, wait_s=0.05):
        """A manager of its own, as a new process would have."""
        self.managers.append(CacheManager(DiskCache(self.path, wait_s=wait_s), on_event=self.events.append))
        return self.managers[-1]

    def sql(self, statement, *values):
        """Change the database behind the cache's back."""
        with sqlite3.connect(self.path / "cache.db") as db:
            db.execute(statement, values)
        db.close()

    def locked(self, *statements):
        """A connection that holds a lock on the database."""
        db = sqlite3.connect(self.path / "cache.db", isolation_level=None)
        for statement in statements:
            db.execute(statement)
        return db

    @property
    def failures(self):
        """How often trouble was told."""
        return [event.name for event in self.events].count("cache.failed")

    async def works_at_once(self):
        """Whether a new manager keeps and finds answers, from its first operation on."""
        manager = self.opened()
        await manager.keep("n:2", ENTRY)
        return await manager.lookup("n:2") == ENTRY

    async def aclose(self):
        """Close every manager."""
        for manager in self.managers:
            await manager.aclose()


@pytest.fixture
async def folder(tmp_path):
    """A used cache."""
    folder = Folder(tmp_path / "cache")
    manager = folder.opened()
    await manager.keep(KEY, ENTRY)
    await manager.aclose()
    yield folder
    await folder.aclose()


class Bomb:
    """Code in a pickle."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


async def test_a_planted_pickle_is_not_opened(folder, tmp_path):
    """A row of diskcache's pickle mode runs nothing: it is deleted, told once, and the call misses."""
    mark = tmp_path / "executed"
    value = pickle.dumps(Bomb(mark))  # the attack
    folder.sql("UPDATE Cache SET mode = 4, value = ?", value)
    manager = folder.opened()

    assert await manager.lookup(KEY) is None
    assert not mark.exists()
    assert [event.name for event in folder.events] == ["cache.failed", "cache.recovered"]
    await manager.keep(KEY, ENTRY)
    assert await manager.lookup(KEY) == ENTRY


async def test_a_planted_pickle_key_is_not_opened(folder, tmp_path):
    """Neither is one in a key."""
    mark = tmp_path / "executed"
    folder.sql("UPDATE Cache SET key = ?, raw = 0", pickle.dumps(Bomb(mark)))
    manager = folder.opened()

    assert await manager.lookup(KEY) is None
    assert await manager.clear() == 1
    assert not mark.exists()


@pytest.mark.parametrize("attack", ["get", "put", "cull", "clear", "lease"])
@pytest.mark.parametrize("name", ["../outside", "absolute"])
async def test_a_planted_filename_reads_and_deletes_nothing(folder, tmp_path, name, attack):
    """A row that names a file is refused; nothing that a cache does to it touches the file, whatever its mode."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    filename = str(outside) if name == "absolute" else name
    for mode in (1, 2, 3, 4):
        folder.sql("UPDATE Cache SET mode = ?, filename = ?, value = NULL", mode, filename)
        manager = folder.opened()
        match attack:
            case "get":
                assert await manager.lookup(KEY) is None
            case "cull":
                folder.sql("UPDATE Cache SET expire_time = 1")
            case "clear":
                await manager.clear()
            case "lease":
                folder.sql("UPDATE Cache SET key = CAST(? AS BLOB)", f"lease:{KEY}")
                async with manager.flight(KEY, owner="me", until=time.monotonic() + 5) as flight:
                    assert flight.entry is None
        await manager.keep(KEY, ENTRY)
        assert await manager.lookup(KEY) == ENTRY
        await manager.aclose()

    assert outside.read_bytes() == b"secret"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("_directory", "/elsewhere"),
        ("_disk", "x"),
        ("get", 1),
        ("disk_anything", 1),
        ("sqlite_temp_store", "2; DROP"),
    ],
)
async def test_planted_settings_are_refused(folder, name, value):
    """They would become attributes of the cache object: the database is set aside and begun anew, at once."""
    folder.sql("INSERT INTO Settings VALUES (?, ?)", name, value)

    assert await folder.works_at_once()
    assert folder.failures == 1
    assert (folder.path / "cache.db.broken").exists()


async def test_planted_counters_are_survived(folder):
    """A size that is a text breaks diskcache's arithmetic, not a call."""
    folder.sql("UPDATE Settings SET value = 'many' WHERE key = 'size'")

    assert await folder.works_at_once()


def test_the_disk_takes_bytes_only():
    """Every other road into diskcache's Disk is closed."""
    disk = BytesDisk("/nowhere")

    for refused in (
        lambda: disk.put("text"),
        lambda: disk.get(b"k", 0),
        lambda: disk.store("text", read=False),
        lambda: disk.store(b"x", read=True),
        lambda: disk.fetch(1, None, "text", read=False),
        lambda: disk.fetch(1, None, b"x", read=True),
    ):
        with pytest.raises(RefusedRowError):
            refused()
    assert disk.get(b"k", 1) == b"k"
    assert disk.remove("/etc/passwd") is None


async def flipped(folder, places):
    """Flip one byte at a time: what is found is right or nothing, and the cache works at once."""
    database = folder.path / "cache.db"
    data = database.read_bytes()
    for place in places:
        changed = bytearray(data)
        changed[place % len(data)] ^= 0x41
        for path in folder.path.glob("cache.db*"):
            path.unlink()
        database.write_bytes(changed)
        folder.events.clear()
        manager = folder.opened()
        assert await manager.lookup(KEY) in (None, ENTRY)
        await manager.keep("n:2", ENTRY)
        assert await manager.lookup("n:2") == ENTRY
        assert folder.failures <= 2
        await manager.aclose()


async def test_a_flipped_byte_never_shows(folder):
    """Whatever byte of the database is flipped, the answer is the right one or none, and the cache goes on."""
    await flipped(folder, range(0, 12288, 997))


@pytest.mark.slow
async def test_no_flipped_byte_ever_shows(folder):
    """The same for many more bytes."""
    await flipped(folder, range(0, 24576, 31))


async def test_flipped_bytes_of_the_value_are_refused(folder):
    """A changed answer is no answer."""
    folder.sql("UPDATE Cache SET value = replace(value, CAST('Hello' AS BLOB), CAST('Hallo' AS BLOB))")

    assert await folder.opened().lookup(KEY) is None
    assert folder.failures == 1


@pytest.mark.parametrize("keep", [0, 1, 100, 4096, 5000, 20000])
async def test_a_truncated_database(folder, keep):
    """What is left is set aside, or begun anew, and works at once."""
    os.truncate(folder.path / "cache.db", keep)

    assert await folder.works_at_once()
    assert folder.failures <= 1


async def test_a_zeroed_database(folder):
    """Zeros are no database: set aside, begun anew, told once, recovery told too."""
    size = (folder.path / "cache.db").stat().st_size
    (folder.path / "cache.db").write_bytes(bytes(size))

    assert await folder.works_at_once()
    assert [event.name for event in folder.events] == ["cache.failed", "cache.recovered"]
    assert "set aside" in folder.events[0].facts["reason"]


async def test_a_database_damaged_while_it_is_open(folder):
    """The same for one that is in use by two managers: each goes on, and one repair does not undo the other's."""
    managers = [folder.opened(), folder.opened()]
    assert [await manager.lookup(KEY) for manager in managers] == [ENTRY, ENTRY]
    size = (folder.path / "cache.db").stat().st_size
    with (folder.path / "cache.db").open("r+b") as file:
        file.write(b"\x55" * size)
    for suffix in ("-wal", "-shm"):
        (folder.path / f"cache.db{suffix}").unlink(missing_ok=True)

    for n, manager in enumerate(managers):
        await manager.keep(f"n:{n}", ENTRY)
    for n, manager in enumerate(managers):
        assert await manager.lookup(f"n:{n}") == ENTRY
    assert [await manager.lookup("n:1") for manager in managers] == [ENTRY, ENTRY]


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
async def test_a_locked_database_is_not_waited_for_long(folder, statement):
    """While somebody holds the lock, reading works, and writing gives up; one outage, one recovery."""
    manager = folder.opened()
    assert await manager.lookup(KEY) == ENTRY
    holder = folder.locked(statement)

    assert await manager.lookup(KEY) == ENTRY
    await manager.keep("n:2", ENTRY)
    manager._back_at = 0
    await manager.store.get(KEY)
    await manager.keep("n:2", ENTRY)
    assert [event.name for event in folder.events] == ["cache.failed"]
    holder.execute("ROLLBACK")
    holder.close()
    manager._back_at = 0
    await manager.keep("n:2", ENTRY)
    assert await manager.lookup("n:2") == ENTRY
    assert [event.name for event in folder.events] == ["cache.failed", "cache.recovered"]


@pytest.mark.parametrize("mode", ["EXCLUSIVE", "NORMAL"])
async def test_a_database_locked_from_the_start(folder, mode):
    """Opening gives up as well, where diskcache would retry for a minute."""
    holder = folder.locked(f"PRAGMA locking_mode = {mode}", "BEGIN EXCLUSIVE", "UPDATE Cache SET tag = tag")
    manager = folder.opened()

    assert await manager.lookup(KEY) is None
    assert folder.failures == 1
    holder.execute("ROLLBACK")
    holder.close()
    manager._back_at = 0
    assert await manager.lookup(KEY) == ENTRY


async def test_a_lock_file_that_somebody_holds(folder):
    """A stopped process that holds the lock of all writers: reading works, writing gives up."""
    manager = folder.opened()
    await manager.lookup(KEY)

    with filelock.FileLock(folder.path / "lock"):
        assert await manager.lookup(KEY) == ENTRY
        await manager.keep("n:2", ENTRY)
        assert folder.failures == 1
    manager._back_at = 0
    await manager.keep("n:2", ENTRY)
    assert await manager.lookup("n:2") == ENTRY


async def test_a_writer_is_waited_for_in_a_thread(folder):
    """A short transaction of another process delays a write; the event loop goes on, and reads are answered."""
    manager = folder.opened(wait_s=20)
    await manager.lookup(KEY)
    holder = folder.locked("BEGIN IMMEDIATE")

    writing = asyncio.create_task(manager.keep("n:2", ENTRY))
    for _ in range(5):
        await asyncio.sleep(0.01)
        assert await manager.lookup(KEY) == ENTRY
        assert not writing.done()
    holder.execute("ROLLBACK")
    await writing

    assert await manager.lookup("n:2") == ENTRY
    assert folder.events == []
    holder.close()


CALLING = """
import asyncio, resource, signal, sys
sys.path.insert(0, sys.argv[1])
from caching import entry_of
from blueprint_llm.cache import CacheManager
from blueprint_llm.cache.disk import DiskCache
events = []
if sys.argv[3:]:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
async def main():
    manager = CacheManager(DiskCache(sys.argv[2], wait_s=0.05), on_event=events.append)
    for n in range(3):
        await manager.lookup(f"n:{n}")
        async with manager.flight(f"n:{n}", owner="me", until=1e9) as flight:
            await manager.keep(f"n:{n}", entry_of("fine " * 9000))
        print("fine")
    await manager.aclose()
asyncio.run(main())
print([event.name for event in events])
"""


def calling(folder, *options, powers=()):
    """Three calls of another process that uses the folder; what it printed."""
    command = [*powers, sys.executable, "-c", CALLING, str(Path(__file__).parent), str(folder), *map(str, options)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split("\n")


@pytest.mark.parametrize("most_bytes", [0, 20_000, 70_000])
def test_a_full_disk(tmp_path, most_bytes):
    """No file may grow: every call goes on, with one warning."""
    assert calling(tmp_path / "cache", most_bytes)[:4] == ["fine", "fine", "fine", "['cache.failed']"]


def test_a_read_only_folder(tmp_path):
    """Nothing may be made: every call goes on, with one warning."""
    (tmp_path / "closed").mkdir(mode=0o500)

    found = calling(tmp_path / "closed" / "cache", powers=WITHOUT_POWERS)

    assert found[:4] == ["fine", "fine", "fine", "['cache.failed']"]


async def test_a_read_only_cache(folder):
    """An existing cache that may only be read fails no call either."""
    for path in folder.path.iterdir():
        path.chmod(0o400)
    folder.path.chmod(0o500)

    found = calling(folder.path, powers=WITHOUT_POWERS)

    folder.path.chmod(0o700)
    assert found[:4] == ["fine", "fine", "fine", "['cache.failed']"]


def test_a_folder_below_a_file(tmp_path):
    """A home that is no folder is no reason to fail."""
    (tmp_path / "home").write_text("a file")

    assert calling(tmp_path / "home" / "cache")[:4] == ["fine", "fine", "fine", "['cache.failed']"]


async def test_a_damaged_cache_that_cannot_be_set_aside(folder):
    """Then the error says so, and nothing is lost."""
    (folder.path / "cache.db").write_bytes(b"no database" * 1000)
    (folder.path / "cache.db.broken").mkdir()

    with pytest.raises(StoreError, match="cannot be set aside"):
        await DiskCache(folder.path).get(KEY)


async def test_a_linked_folder_is_refused(folder, tmp_path):
    """A symbolic link could lead anywhere."""
    (tmp_path / "link").symlink_to(folder.path)

    with pytest.raises(StoreError, match="symbolic link"):
        await DiskCache(tmp_path / "link").measure()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
async def test_a_folder_of_another_user_is_refused(folder):
    """Its owner could read every answer, and plant others."""
    os.chown(folder.path, 65534, -1)

    with pytest.raises(StoreError, match="belongs to another user"):
        await DiskCache(folder.path).measure()


@pytest.mark.parametrize("name", ["cache.db", "lock"])
async def test_a_linked_file_is_refused(tmp_path, name):
    """So could one in the place of the database, or of the lock: what it leads to stays as it is."""
    (tmp_path / "cache").mkdir()
    victim = tmp_path / "victim"
    victim.touch(mode=0o644)
    (tmp_path / "cache" / name).symlink_to(victim)

    with pytest.raises(StoreError):
        await DiskCache(tmp_path / "cache").put(KEY, b"x", 9)
    assert victim.read_bytes() == b""
    assert stat.S_IMODE(victim.stat().st_mode) == 0o644


@pytest.mark.parametrize(("kind", "mounts"), [("nfs4", True), ("fuse.sshfs", True), ("ext4", False)])
async def test_a_folder_on_the_network_is_refused(tmp_path, monkeypatch, kind, mounts):
    """SQLite's log needs shared memory: only local file systems have it."""
    table = f"none / ext4 rw 0 0\nserver:/x {tmp_path} {kind} rw 0 0\nnone {tmp_path}x nfs rw 0 0\n"
    real = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda path, *a: table if str(path) == "/proc/self/mounts" else real(path, *a)
    )
    store = DiskCache(tmp_path / "cache")

    if mounts:
        with pytest.raises(StoreError, match=kind):
            await store.measure()
    else:
        assert (await store.measure()).entries == 0
    await store.aclose()


async def test_modes_under_an_open_umask(tmp_path):
    """Folder 0700, every file 0600, also where the folder was there before; nobody else reads answers."""
    before = os.umask(0o022)
    try:
        (tmp_path / "cache").mkdir(mode=0o755)
        store = DiskCache(tmp_path / "cache")
        await store.put(KEY, b"x" * 9000, 60)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "cache").iterdir()}
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    assert set(modes) == {"cache.db", "cache.db-wal", "cache.db-shm", "lock"}
    assert set(modes.values()) == {0o600}
    await store.aclose()
    (tmp_path / "cache" / "cache.db").chmod(0o644)
    await store.measure()
    assert stat.S_IMODE((tmp_path / "cache" / "cache.db").stat().st_mode) == 0o600
    await store.aclose()


WRITER = """
import asyncio, os, sys
from blueprint_llm.cache.disk import DiskCache
async def main():
    store = DiskCache(sys.argv[1], size_limit_bytes=int(sys.argv[2]), wait_s=20)
    for n in range(250):
        await store.put(f"{sys.argv[3]}:{n}", os.urandom(1000 if n % 5 else 30000), 600)
        print(n, flush=True)
    await store.aclose()
asyncio.run(main())
"""


READER = """
import asyncio, sys
from blueprint_llm.cache.disk import DiskCache
async def main():
    store = DiskCache(sys.argv[1], size_limit_bytes=int(sys.argv[2]), wait_s=20)
    while True:
        for n in range(250):
            await store.get(f"1:{n}")
asyncio.run(main())
"""


@pytest.mark.slow
def test_the_size_cap_holds_under_four_writers(tmp_path):
    """The files together never exceed the cap, though others read all the time, and the newest entries survive."""
    limit = 1 << 20
    arguments = [str(tmp_path / "cache"), str(limit)]
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, *arguments, str(n)], stdout=subprocess.DEVNULL)
        for n in range(4)
    ]
    reader = subprocess.Popen([sys.executable, "-c", READER, *arguments])
    most = 0

    def size_of(name):
        try:
            return (tmp_path / "cache" / name).stat().st_size
        except FileNotFoundError:
            return 0

    while any(writer.poll() is None for writer in writers):
        most = max(most, sum(map(size_of, ("cache.db", "cache.db-wal"))))

    reader.kill()
    reader.wait()
    assert [writer.returncode for writer in writers] == [0, 0, 0, 0]
    assert 0 < most <= limit
    store = DiskCache(tmp_path / "cache", size_limit_bytes=limit)
    assert 200_000 < asyncio.run(store.measure()).bytes < limit
    asyncio.run(store.aclose())


@pytest.mark.slow
def test_killed_writers_leave_nothing_broken(tmp_path):
    """`kill -9` at any moment of a write: every entry is whole or absent, and nothing has to be repaired."""
    for n in range(10):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "cache"), str(1 << 24), str(n)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            for _ in range(5 * n + 1):
                writer.stdout.readline()
            writer.kill()
    store = DiskCache(tmp_path / "cache", size_limit_bytes=1 << 24)

    async def values():
        return [await store.get(f"{n}:{i}") for n in range(10) for i in range(250)]

    sizes = [(1000 if i % 5 else 30000) for _ in range(10) for i in range(250)]
    found = [(value, size) for value, size in zip(asyncio.run(values()), sizes, strict=True) if value is not None]
    assert len(found) >= 10
    assert all(len(value) == size for value, size in found)
    assert not (tmp_path / "cache" / "cache.db.broken").exists()
    asyncio.run(store.aclose())


async def test_a_value_too_large_for_the_cap_is_not_kept(tmp_path):
    """It would drive out everything else."""
    store = DiskCache(tmp_path / "cache", size_limit_bytes=1 << 20)
    await store.put(KEY, b"x" * (1 << 17), 60)

    assert (await store.measure()).entries == 0
    await store.aclose()


async def test_threads_share_a_store(tmp_path):
    """Event loops in many threads, one connection, nothing lost."""
    store = DiskCache(tmp_path / "cache", wait_s=20)

    async def work(n):
        for i in range(20):
            await store.put(f"{n}:{i}", b"x", 60)
            assert await store.lease(f"{n}:{i}", "me", 60)

    await asyncio.gather(*(asyncio.to_thread(asyncio.run, work(n)) for n in range(8)))

    assert (await store.measure()).entries == 160
    await store.aclose()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of forking with threads: that is the point
def test_a_forked_child_uses_its_own_connection(tmp_path):
    """Parent and child both go on, also where the parent's lock was held at the moment of the fork."""
    store = DiskCache(tmp_path / "cache")
    asyncio.run(store.put("n:parent", b"p", 60))
    store._lock.acquire()
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(store.put("n:child", asyncio.run(store.get("n:parent")), 60))
        finally:
            os._exit(0)
    store._lock.release()
    os.waitpid(child, 0)

    assert asyncio.run(store.get("n:child")) == b"p"
    assert asyncio.run(store.clear()) == 2
    asyncio.run(store.aclose())
