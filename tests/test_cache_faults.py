"""A cache folder that somebody planted things in, damaged, locked or took away: no code runs, no call fails."""

import asyncio
import os
import pickle  # noqa: TID251 - what an attacker would plant
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from blueprint_llm.cache import CacheManager, Entry, Seal
from blueprint_llm.cache import disk as disk_module
from blueprint_llm.cache._diskcache import BytesDisk, RefusedRowError
from blueprint_llm.cache.disk import DiskCache
from blueprint_llm.cache.ops import Clear, Get, Lease, Measure, Put
from blueprint_llm.errors import StoreError
from blueprint_llm.types import UsageInfo

KEY = "n:1"
ENTRY = Entry(content="Hello", finish_reason="stop", usage=UsageInfo())
WITHOUT_POWERS = ["setpriv", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"]


class Folder:
    """A cache folder with one entry, its manager and what the manager told."""

    def __init__(self, path):
        self.path, self.events = path, []
        self.manager = self.opened()
        self.manager.put(KEY, ENTRY)
        self.manager.close()

    def opened(self):
        """A manager of its own, as a new process would have."""
        return CacheManager(DiskCache(self.path), seal=Seal(b"s" * 32), on_event=self.events.append)

    def sql(self, statement, *values):
        """Change the database behind the cache's back."""
        with sqlite3.connect(self.path / "cache.db") as db:
            db.execute(statement, values)
        db.close()

    def works(self):
        """Whether the cache keeps answers after at most one failed operation."""
        manager = self.opened()
        manager.get(KEY)
        manager._back_at = 0
        manager.put("n:2", ENTRY)
        found = manager.get("n:2")
        manager.close()
        return found == ENTRY


@pytest.fixture
def folder(tmp_path):
    """A used cache."""
    return Folder(tmp_path / "cache")


class Bomb:
    """Code in a pickle."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_a_planted_pickle_is_not_opened(folder, tmp_path):
    """A row of diskcache's pickle mode runs nothing: it is deleted, told once, and the call misses."""
    mark = tmp_path / "executed"
    value = pickle.dumps(Bomb(mark))  # the attack
    folder.sql("UPDATE Cache SET mode = 4, value = ?", value)
    manager = folder.opened()

    assert manager.get(KEY) is None
    assert not mark.exists()
    assert len(folder.events) == 1
    assert folder.works()
    manager.close()


def test_a_planted_pickle_key_is_not_opened(folder, tmp_path):
    """Neither is one in a key."""
    mark = tmp_path / "executed"
    key = pickle.dumps(Bomb(mark))
    folder.sql("UPDATE Cache SET key = ?, raw = 0", key)
    manager = folder.opened()

    assert manager.get(KEY) is None
    assert manager.clear() == 1
    assert not mark.exists()
    manager.close()


@pytest.mark.parametrize("mode", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["../outside", "absolute"])
def test_a_planted_filename_reads_and_deletes_nothing(folder, tmp_path, name, mode):
    """A row that names a file is refused; neither reading, replacing, evicting nor clearing touches the file."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"secret")
    filename = str(outside) if name == "absolute" else name
    for attack in ("get", "put", "cull", "clear"):
        folder.sql("UPDATE Cache SET mode = ?, filename = ?, value = NULL", mode, filename)
        manager = folder.opened()
        if attack == "get":
            assert manager.get(KEY) is None
            manager._back_at = 0
        elif attack == "cull":
            folder.sql("UPDATE Cache SET expire_time = 1")
        elif attack == "clear":
            manager.clear()
        manager.put(KEY, ENTRY)
        assert manager.get(KEY) == ENTRY
        manager.close()

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
def test_planted_settings_are_refused(folder, name, value):
    """They would become attributes of the cache object: the database is set aside and begun anew."""
    folder.sql("INSERT INTO Settings VALUES (?, ?)", name, value)

    assert folder.works()
    assert len(folder.events) == 1
    assert (folder.path / "cache.db.broken").exists()


def test_planted_counters_are_survived(folder):
    """A size that is a text breaks diskcache's arithmetic, not a call."""
    folder.sql("UPDATE Settings SET value = 'many' WHERE key = 'size'")
    manager = folder.opened()

    manager.put("n:2", ENTRY)

    assert folder.works()
    manager.close()


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
        disk.filename,
    ):
        with pytest.raises(RefusedRowError):
            refused()
    assert disk.get(b"k", 1) == b"k"
    assert disk.remove("/etc/passwd") is None


def database_bytes(folder):
    """The database file."""
    return (folder.path / "cache.db").read_bytes()


@pytest.mark.parametrize("place", range(0, 12288, 97))
def test_a_flipped_byte_never_shows(folder, place):
    """Whatever byte of the database is flipped, the answer is the right one or none, and the cache goes on."""
    data = bytearray(database_bytes(folder))
    data[place % len(data)] ^= 0x41
    (folder.path / "cache.db").write_bytes(data)
    manager = folder.opened()

    assert manager.get(KEY) in (None, ENTRY)
    manager.close()
    assert folder.works()
    assert len(folder.events) <= 2


def test_flipped_bytes_of_the_value_are_refused(folder):
    """A changed answer is no answer."""
    folder.sql("UPDATE Cache SET value = replace(value, CAST('Hello' AS BLOB), CAST('Hallo' AS BLOB))")
    manager = folder.opened()

    assert manager.get(KEY) is None
    assert len(folder.events) == 1
    manager.close()


@pytest.mark.parametrize("keep", [0, 1, 100, 4096, 5000, 20000])
def test_a_truncated_database(folder, keep):
    """What is left is set aside, or begun anew, and works."""
    os.truncate(folder.path / "cache.db", keep)

    assert folder.works()
    assert len(folder.events) <= 1


def test_a_zeroed_database(folder):
    """Zeros are no database."""
    size = (folder.path / "cache.db").stat().st_size
    (folder.path / "cache.db").write_bytes(bytes(size))

    assert folder.works()
    assert len(folder.events) == 1


def test_a_database_damaged_while_it_is_open(folder):
    """The same for one that is in use, by two managers at once: each recovers, the second finds it done."""
    managers = [folder.opened(), folder.opened()]
    assert [manager.get(KEY) for manager in managers] == [ENTRY, ENTRY]
    size = (folder.path / "cache.db").stat().st_size
    with (folder.path / "cache.db").open("r+b") as file:
        file.write(b"\x55" * size)
    for suffix in ("-wal", "-shm"):
        (folder.path / f"cache.db{suffix}").unlink(missing_ok=True)

    for manager in managers:
        manager.get("n:9")
        manager._back_at = 0
        manager.put("n:2", ENTRY)
        manager._back_at = 0
        manager.put("n:2", ENTRY)
    assert [manager.get("n:2") for manager in managers] == [ENTRY, ENTRY]
    for manager in managers:
        manager.close()


@pytest.mark.parametrize("statement", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
async def test_a_locked_database_is_not_waited_for_long(folder, statement, monkeypatch):
    """While somebody holds the lock, reading works, and writing gives up."""
    monkeypatch.setattr(disk_module, "BUSY_S", 0.1)
    manager = folder.opened()
    assert manager.get(KEY) == ENTRY
    holder = sqlite3.connect(folder.path / "cache.db", isolation_level=None)
    holder.execute(statement)

    assert manager.get(KEY) == ENTRY
    manager.put("n:2", ENTRY)
    assert [event.name for event in folder.events] == ["cache.failed"]
    manager._back_at = 0
    await manager.aexecute(Put(key="n:2", value=b"x", ttl_s=9))
    holder.execute("ROLLBACK")
    holder.close()
    manager._back_at = 0
    manager.put("n:2", ENTRY)
    assert manager.get("n:2") == ENTRY
    assert len(folder.events) == 1
    await manager.aclose()


@pytest.mark.parametrize("mode", ["EXCLUSIVE", "NORMAL"])
def test_a_database_locked_from_the_start(folder, mode, monkeypatch):
    """Opening gives up as well, where diskcache would retry for a minute."""
    monkeypatch.setattr(disk_module, "BUSY_S", 0.1)
    holder = sqlite3.connect(folder.path / "cache.db", isolation_level=None)
    holder.execute(f"PRAGMA locking_mode = {mode}")
    holder.execute("BEGIN EXCLUSIVE")
    holder.execute("UPDATE Cache SET tag = tag")
    manager = folder.opened()

    assert manager.get(KEY) is None
    assert len(folder.events) == 1
    holder.execute("ROLLBACK")
    holder.close()
    manager._back_at = 0
    assert manager.get(KEY) == ENTRY
    manager.close()


def test_a_coroutine_waits_for_a_writer_in_a_thread(folder):
    """A short transaction of another process delays a write, and does not block the event loop meanwhile."""
    store = DiskCache(folder.path)
    store.execute(Get(key=KEY))
    holder = sqlite3.connect(folder.path / "cache.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")

    async def write_while_held():
        writing = asyncio.create_task(store.aexecute(Put(key="n:2", value=b"x", ttl_s=60)))
        await asyncio.sleep(0.2)
        assert not writing.done()
        holder.execute("ROLLBACK")
        await writing

    asyncio.run(write_while_held())
    assert store.execute(Get(key="n:2")) == b"x"
    holder.close()
    store.close()


CALLING = """
import resource, signal, sys, warnings
from blueprint_llm import SyncLLMClient
from blueprint_llm.testing import Answer, ScriptedAdapter
events = []
cache = {"enabled": True, "directory": sys.argv[1]}
config = {"blueprint": {"providers": {"p": {"model": "openai/x", "api_key": "sk-012345678901"}}, "cache": cache,
          "store": {"url": "memory"}}}
adapters = {"p": ScriptedAdapter(default=Answer("fine " * 9000))}
if sys.argv[2:]:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
with SyncLLMClient(config, adapters=adapters, on_event=events.append) as client:
    for n in range(3):
        print(client.chat(messages=[{"role": "user", "content": str(n)}]).content[:4])
print([event.name for event in events if event.level == "warning"])
"""


def calling(folder, *options, powers=()):
    """Three calls of another process that uses the folder; what it printed."""
    command = [*powers, sys.executable, "-c", CALLING, str(folder), *map(str, options)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split("\n")


@pytest.mark.parametrize("most_bytes", [0, 20_000, 70_000])
def test_a_full_disk(tmp_path, most_bytes):
    """No file may grow: every call succeeds, with one warning."""
    assert calling(tmp_path / "cache", most_bytes)[:4] == ["fine", "fine", "fine", "['cache.failed']"]


def test_a_read_only_folder(tmp_path):
    """Nothing may be made: every call succeeds, with one warning."""
    (tmp_path / "closed").mkdir(mode=0o500)

    found = calling(tmp_path / "closed" / "cache", powers=WITHOUT_POWERS)

    assert found[:4] == ["fine", "fine", "fine", "['cache.failed']"]


def test_a_read_only_cache(folder):
    """An existing cache that may only be read fails no call either."""
    for path in folder.path.iterdir():
        path.chmod(0o400)
    folder.path.chmod(0o500)

    found = calling(folder.path, powers=WITHOUT_POWERS)

    folder.path.chmod(0o700)
    assert found[:4] == ["fine", "fine", "fine", "['cache.failed']"]


def test_a_damaged_cache_that_cannot_be_set_aside(folder, monkeypatch):
    """Then the error says so, and nothing is lost."""
    (folder.path / "cache.db").write_bytes(b"no database" * 1000)
    (folder.path / "cache.db.broken").mkdir()
    store = DiskCache(folder.path)

    with pytest.raises(StoreError, match="cannot be set aside"):
        store.execute(Get(key=KEY))


def test_a_linked_folder_is_refused(folder, tmp_path):
    """A symbolic link could lead anywhere."""
    (tmp_path / "link").symlink_to(folder.path)

    with pytest.raises(StoreError, match="symbolic link"):
        DiskCache(tmp_path / "link").execute(Measure())


def test_a_linked_database_is_refused(tmp_path):
    """So could one in the place of the database."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / "cache" / "cache.db").symlink_to(tmp_path / "victim")

    with pytest.raises(StoreError):
        DiskCache(tmp_path / "cache").execute(Put(key=KEY, value=b"x", ttl_s=9))
    assert (tmp_path / "victim").read_bytes() == b"mine"


@pytest.mark.parametrize(("kind", "mounts"), [("nfs4", True), ("fuse.sshfs", True), ("ext4", False)])
def test_a_folder_on_the_network_is_refused(tmp_path, monkeypatch, kind, mounts):
    """SQLite's log needs shared memory: only local file systems have it."""
    table = f"none / ext4 rw 0 0\nserver:/x {tmp_path} {kind} rw 0 0\nnone {tmp_path}x nfs rw 0 0\n"
    real = Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda path, *a: table if str(path) == "/proc/self/mounts" else real(path, *a)
    )
    store = DiskCache(tmp_path / "cache")

    if mounts:
        with pytest.raises(StoreError, match=kind):
            store.execute(Measure())
    else:
        assert store.execute(Measure()).entries == 0
    store.close()


def test_modes_under_an_open_umask(tmp_path):
    """Folder 0700, every file 0600, also where the folder was there before; nobody else reads answers."""
    before = os.umask(0o022)
    try:
        (tmp_path / "cache").mkdir(mode=0o755)
        store = DiskCache(tmp_path / "cache")
        store.execute(Put(key=KEY, value=b"x" * 9000, ttl_s=60))
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "cache").iterdir()}
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
    assert set(modes) == {"cache.db", "cache.db-wal", "cache.db-shm", "lock"}
    assert set(modes.values()) == {0o600}
    store.close()


WRITER = """
import os, sys
from blueprint_llm.cache.disk import DiskCache
from blueprint_llm.cache.ops import Put
store = DiskCache(sys.argv[1], size_limit_bytes=int(sys.argv[2]))
for n in range(250):
    store.execute(Put(key=f"{sys.argv[3]}:{n}", value=os.urandom(1000 if n % 5 else 30000), ttl_s=600))
store.close()
"""


READER = """
import sys
from blueprint_llm.cache.disk import DiskCache
from blueprint_llm.cache.ops import Get
store = DiskCache(sys.argv[1], size_limit_bytes=int(sys.argv[2]))
while True:
    for n in range(250):
        store.execute(Get(key=f"1:{n}"))
"""


def test_the_size_cap_holds_under_four_writers(tmp_path):
    """The files together never exceed the cap, though others read all the time, and the newest entries survive."""
    limit = 1 << 20
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "cache"), str(limit), str(n)]) for n in range(4)
    ]
    reader = subprocess.Popen([sys.executable, "-c", READER, str(tmp_path / "cache"), str(limit)])
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
    assert 200_000 < store.execute(Measure()).bytes < limit
    store.close()


def test_a_value_too_large_for_the_cap_is_not_kept(tmp_path):
    """It would drive out everything else."""
    store = DiskCache(tmp_path / "cache", size_limit_bytes=1 << 20)
    store.execute(Put(key=KEY, value=b"x" * (1 << 17), ttl_s=60))

    assert store.execute(Measure()).entries == 0
    store.close()


def test_threads_share_a_store(tmp_path):
    """Many threads, one connection, nothing lost."""
    store = DiskCache(tmp_path / "cache")

    def work(n):
        for i in range(20):
            store.execute(Put(key=f"{n}:{i}", value=b"x", ttl_s=60))
            store.execute(Lease(key=f"{n}:{i}", owner="me"))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert store.execute(Measure()).entries == 160
    store.close()


def test_a_forked_child_uses_its_own_connection(tmp_path):
    """Parent and child both go on."""
    store = DiskCache(tmp_path / "cache")
    store.execute(Put(key="n:parent", value=b"p", ttl_s=60))
    child = os.fork()
    if child == 0:
        try:
            store.execute(Put(key="n:child", value=store.execute(Get(key="n:parent")), ttl_s=60))
        finally:
            os._exit(0)
    os.waitpid(child, 0)

    assert store.execute(Get(key="n:child")) == b"p"
    assert store.execute(Clear()) == 2
    store.close()
