"""Confinement: whatever is swapped meanwhile, no open leads outside."""

import ctypes
import errno
import os
import sys
import threading

import pytest

from blueprint_llm.tools.workspace import ConfinementError, Root

RACES = 100_000


@pytest.fixture
def tree(tmp_path):
    """A workspace and a secret outside it."""
    root = tmp_path / "ws"
    (root / "dir").mkdir(parents=True)
    (root / "dir/file").write_text("inside")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/file").write_text("SECRET")
    return root


@pytest.fixture(params=[False, True], ids=["kernel", "walk"])
def root(request, tree):
    """The workspace opened in both ways."""
    with Root(str(tree), portable=request.param) as opened:
        yield opened


@pytest.fixture(params=["file", "folder"])
def exchanging(request, tree, monkeypatch):
    """Another thread that swaps a file or its folder with a link to the outside, over and over."""
    victim = tree / ("dir" if request.param == "folder" else "dir/file")
    spare, link, stop = tree / "spare", tree / "link", threading.Event()

    def exchange():
        while not stop.is_set():
            link.symlink_to(tree.parent / "out" / ("" if request.param == "folder" else "file"))
            victim.rename(spare)
            link.rename(victim)
            victim.unlink()
            spare.rename(victim)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    worker = threading.Thread(target=exchange)
    worker.start()
    yield
    stop.set()
    worker.join()
    sys.setswitchinterval(interval)


def secrets_read(opener, times, enough):
    """How often an opener hands out the secret, at most until that is enough."""
    found = 0
    for _ in range(times):
        try:
            fd = opener()
        except OSError:
            continue
        found += os.pread(fd, 6, 0) == b"SECRET"
        os.close(fd)
        if found >= enough:
            break
    return found


@pytest.mark.slow
def test_exchanged_links_never_lead_outside(exchanging, root, tree):
    """100,000 opens under exchanged links read no secret, where a plain open in the same race soon does."""
    assert secrets_read(lambda: root.open("dir/file"), RACES // 4, enough=1) == 0
    assert secrets_read(lambda: os.open(tree / "dir/file", os.O_RDONLY), 10**6, enough=1) == 1


@pytest.mark.parametrize(
    ("make", "path"),
    [
        pytest.param(lambda ws: (ws / "l").symlink_to("../out/file"), "l", id="link to a file outside"),
        pytest.param(lambda ws: (ws / "l").symlink_to("../out"), "l/file", id="link to a folder outside"),
        pytest.param(lambda ws: (ws / "l").symlink_to("l"), "l", id="loop"),
        pytest.param(lambda ws: (ws / "l").symlink_to("/proc/self/root"), "l/etc/hostname", id="magic link"),
        pytest.param(lambda ws: None, "../out/file", id="dots"),
        pytest.param(lambda ws: None, "/etc/hostname", id="absolute"),
        pytest.param(lambda ws: None, "dir/file\0/../../x", id="NUL"),
    ],
)
def test_the_outside_is_refused(make, path, root, tree):
    """Links, dots, absolute paths and NUL are refused, each with its own error."""
    make(tree)

    with pytest.raises(ConfinementError):
        root.open(path)


def test_missing_files_are_missing(root):
    """A path that is not there is an ordinary error."""
    with pytest.raises(FileNotFoundError):
        root.open("none/x")


def test_only_plain_files_are_read(root, tree):
    """A pipe does not hang the reader, and a folder is no file."""
    os.mkfifo(tree / "pipe")
    for name in ("pipe", "dir"):
        with pytest.raises(ConfinementError) as caught:
            root.read(name, 10)
        assert caught.value.errno == errno.EINVAL
    assert root.read("dir/file", 3) == (b"insi", (tree / "dir/file").stat().st_mode & 0o777)


def test_folders_are_made_beneath(root, tree):
    """Missing folders are made on the way, and a link among them is refused."""
    with root.folder("a/b/c", create=True) as fd:
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    (tree / "l").symlink_to("../out")

    assert (tree / "a/b/c/f").exists()
    with pytest.raises(OSError, match=r"link|director"), root.folder("l/new", create=True):
        pass
    assert not (tree.parent / "out/new").exists()


def test_opening_gives_up_when_the_kernel_keeps_racing(tree, monkeypatch):
    """An endless EAGAIN of the kernel becomes an error after a bounded number of tries."""

    class Racing:
        calls = 0

        def syscall(self, *args):
            Racing.calls += 1
            ctypes.set_errno(errno.EAGAIN)
            return -1

    with Root(str(tree)) as root:
        monkeypatch.setattr(root, "_libc", Racing())
        with pytest.raises(BlockingIOError):
            root.open("dir/file")

    assert Racing.calls == 64
