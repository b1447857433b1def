"""The credentials file is read only when nobody else could have touched it, and is never half written."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from canary import exposures, find_canary

from blueprint_llm.config import private_file
from blueprint_llm.credentials import CredentialsManager
from blueprint_llm.errors import CredentialsError

KEY = "sk-file0123456789abcdefghijklmnop"
GOOD = {"version": 1, "providers": {"openai": {"api_key": KEY}}}
ROOT = Path(__file__).parents[1]

# What a child runs to try the file: prints the key's source, or the refusal.
TRY = """
    import sys
    from blueprint_llm.credentials import CredentialsManager
    from blueprint_llm.errors import CredentialsError
    try:
        print("took", CredentialsManager(file=sys.argv[1], environ={}).get("openai").reference)
    except CredentialsError as error:
        print(error)
"""


def unprivileged():
    """The start of a command line that runs without root's power over file modes: still root, but no capability."""
    if os.geteuid() != 0:
        return []
    assert shutil.which("setpriv"), "these tests need setpriv (util-linux) when run as root"
    return ["setpriv", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"]


def run(code, *arguments, env=None):
    """Run Python code in an unprivileged child and return what it printed."""
    ran = subprocess.run(
        [*unprivileged(), sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **(env or {})},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


@pytest.fixture
def folder():
    """A folder of the user that the children run as; not below pytest's, whose parents are not private."""
    with tempfile.TemporaryDirectory() as room:
        yield Path(room)


@pytest.fixture
def file(folder):
    """A good credentials file."""
    path = folder / "credentials.json"
    path.write_text(json.dumps(GOOD))
    path.chmod(0o600)
    return path


def _group_readable(file):
    file.chmod(0o640)


def _world_readable(file):
    file.chmod(0o644)


def _symlink(file):
    real = file.rename(file.with_name("real.json"))
    file.symlink_to(real)


def _hard_link(file):
    file.with_name("other.json").hardlink_to(file)


def _open_folder(file):
    file.parent.chmod(0o777)


def _sticky_open_folder(file):
    file.parent.chmod(0o1777)


def _group_folder(file):
    file.parent.chmod(0o770)


def _directory(file):
    file.unlink()
    file.mkdir(mode=0o700)


def _fifo(file):
    file.unlink()
    os.mkfifo(file, 0o600)


def _unreadable(file):
    file.chmod(0o000)


def _too_large(file):
    file.write_text(json.dumps(GOOD) + " " * (1 << 20))


REFUSALS = [
    pytest.param(_group_readable, "mode 0640): run chmod 600 {file}", id="mode 0640"),
    pytest.param(_world_readable, "mode 0644): run chmod 600 {file}", id="mode 0644"),
    pytest.param(
        _symlink, 'is a symbolic link: run cp --remove-destination "$(readlink -f {file})" {file}', id="symlink"
    ),
    pytest.param(_hard_link, "hard links): run cp -p {file} {file}.new && mv {file}.new {file}", id="hard link"),
    pytest.param(_open_folder, "may be written by others: run chmod go-w {folder}", id="world-writable parent"),
    pytest.param(_sticky_open_folder, "may be written by others: run chmod go-w {folder}", id="sticky parent"),
    pytest.param(_group_folder, "may be written by others: run chmod go-w {folder}", id="group-writable parent"),
    pytest.param(_directory, "is not a regular file: move it away (mv {file} {file}.old)", id="directory"),
    pytest.param(_fifo, "is not a regular file: move it away (mv {file} {file}.old)", id="fifo"),
    pytest.param(_too_large, "is larger than 1048576 bytes: move it away (mv {file} {file}.old)", id="too large"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("spoil", "says"), REFUSALS)
def test_an_unsafe_file_is_refused_with_its_mend(file, spoil, says):
    """One sentence names the file and the command; without root's privileges too."""
    spoil(file)

    said = run(TRY, file)

    assert says.format(file=file, folder=file.parent) in said
    assert "\n" not in said
    assert not find_canary(said, KEY)


def test_a_file_without_read_permission_is_refused(file):
    """What the system refuses to open becomes a sentence too."""
    _unreadable(file)

    assert run(TRY, file) == f"{file} cannot be used (Permission denied): check it with ls -ld {file}"


def test_a_good_file_is_taken(file):
    """The control: the same child takes the file when nothing is wrong with it."""
    assert run(TRY, file) == "took file:openai#1"


@pytest.mark.parametrize(
    ("spoil", "mend"),
    [
        pytest.param(_world_readable, "chmod 600 {file}", id="mode"),
        pytest.param(_hard_link, "cp -p {file} {file}.new && mv {file}.new {file}", id="hard link"),
        pytest.param(_symlink, 'cp --remove-destination "$(readlink -f {file})" {file}', id="symlink"),
        pytest.param(_open_folder, "chmod go-w {folder}", id="folder"),
    ],
)
def test_the_mend_mends(file, spoil, mend):
    """Running the command that the refusal names makes the file acceptable."""
    spoil(file)
    assert not run(TRY, file).startswith("took")

    command = mend.format(file=file, folder=file.parent)
    subprocess.run([*unprivileged(), "sh", "-c", command], check=True, env={**os.environ, "LC_ALL": "C"})

    assert run(TRY, file) == "took file:openai#1"


def test_somebody_elses_file_is_refused(file):
    """A file of another user is refused, also by root, who could read it."""
    if os.geteuid() == 0:
        os.chown(file, 65534, -1)
        with pytest.raises(CredentialsError, match=r"belongs to another user: run chown 0 "):
            CredentialsManager(file=file, environ={}).get("openai")
    else:
        assert "belongs to another user" in run(TRY, "/etc/hostname")


def test_somebody_elses_folder_is_refused(file, folder):
    """The owner of the folder could replace the file."""
    if os.geteuid() == 0:
        os.chown(file.parent, 65534, -1)
        with pytest.raises(CredentialsError, match="belongs to another user"):
            CredentialsManager(file=file, environ={}).get("openai")
    else:
        found = os.stat_result((0o40700, 1, 1, 1, os.geteuid() + 1, 0, 0, 0, 0, 0))
        assert "belongs to another user" in private_file.folder_problem(folder, found)


@pytest.mark.parametrize(("spoil", "says"), REFUSALS)
def test_an_unsafe_file_is_refused_in_this_process_too(mine, spoil, says):
    """Whoever runs the tests, root included, gets the same sentence."""
    _write(mine, json.dumps(GOOD))
    spoil_as_me = {
        _directory: lambda path: (path.unlink(), path.mkdir()),
        _fifo: lambda path: (path.unlink(), os.mkfifo(path)),
    }
    spoil_as_me.get(spoil, spoil)(mine)

    assert says.format(file=mine, folder=mine.parent) in CredentialsManager(file=mine, environ={}).available("openai")


def _write(path, text):
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.fixture
def mine(tmp_path):
    """A path for a credentials file of the user that runs the tests."""
    return tmp_path / "credentials.json"


BROKEN = [
    pytest.param("{", "is not valid JSON at line 1, column 2", id="invalid JSON"),
    pytest.param(f'{{"version": 1, "providers": {{"a": {{"api_key": "{KEY}"', "is not valid JSON", id="cut JSON"),
    pytest.param("", "is not valid JSON", id="empty file"),
    pytest.param("[]", 'has no "providers"', id="list"),
    pytest.param('{"version": 1}', 'has no "providers"', id="no providers"),
    pytest.param('{"version": 2, "providers": {}}', "has an unknown version", id="version 2"),
    pytest.param('{"version": true, "providers": {}}', "has an unknown version", id="version true"),
    pytest.param('{"providers": {}}', "has an unknown version", id="no version"),
]
ENTRIES = [
    pytest.param({"api_key": "short"}, "key 1: the API key is shorter than 8 characters", id="short"),
    pytest.param({"api_key": f"{KEY}\nx"}, "key 1: the API key holds a space, a newline", id="newline"),
    pytest.param({"api_key": f"{KEY} x"}, "key 1: the API key holds a space", id="space"),
    pytest.param({"api_key": f"{KEY}\N{EURO SIGN}"}, "key 1: the API key holds a space", id="not ASCII"),
    pytest.param({"api_key": "x" * 20000}, "key 1: the API key is longer than 16384", id="long"),
    pytest.param({"api_key": 12345678901}, "key 1: the API key is shorter", id="number"),
    pytest.param({"apikey": KEY}, "has an unknown field: allowed are api_key,", id="unknown field"),
    pytest.param(KEY, "is not an object", id="bare key"),
    pytest.param({"keys": {"api_key": KEY}}, "has keys that are no list", id="keys no list"),
    pytest.param({"keys": [KEY]}, "key 1 needs one of", id="key no object"),
    pytest.param({"keys": [{"api_key": KEY, "env": "X"}]}, "key 1 needs one of", id="two kinds"),
    pytest.param({"keys": [{"api_key": KEY, "x": KEY}]}, "key 1 needs one of", id="unknown field of a key"),
    pytest.param({"keys": [{"api_key": KEY, "id": f"{KEY} "}]}, "key 1 has an id that is no short name", id="id"),
    pytest.param({"keys": [{"api_key": KEY, "id": "a"}] * 2}, "has two keys of one id", id="same id"),
    pytest.param({"command": f"echo {KEY}"}, "key 1: command must be a list of words", id="command text"),
    pytest.param({"command": []}, "key 1: command must be a list of words", id="no command"),
    pytest.param({"env": 1}, "key 1: env and keyring must be names", id="env"),
    pytest.param({"keyring": ""}, "key 1: env and keyring must be names", id="keyring"),
    pytest.param({"api_key": KEY, "base_url": 1}, "extra must be an object and base_url text", id="base_url"),
    pytest.param({"api_key": KEY, "extra": KEY}, "extra must be an object", id="extra"),
]


def _refused(path):
    with pytest.raises(CredentialsError) as caught:
        CredentialsManager(file=path, environ={}).get("openai")
    error = caught.value.with_traceback(caught.value.__traceback__.tb_next)
    assert [form for _, text in exposures(error) for form in find_canary(text, KEY)] == []
    return str(error)


@pytest.mark.parametrize(("text", "says"), BROKEN)
def test_a_broken_file_is_refused(mine, text, says):
    """The sentence names the file and what is wrong, and no content is in it, its chain or its frames."""
    said = _refused(_write(mine, text))

    assert said.startswith(f"{mine}: ")
    assert says in said


@pytest.mark.parametrize(("entry", "says"), ENTRIES)
def test_a_broken_entry_is_refused(mine, entry, says):
    """The sentence names the provider and the key's number, and no content is in it, its chain or its frames."""
    said = _refused(_write(mine, json.dumps({"version": 1, "providers": {"openai": entry}})))

    assert said.startswith(f"{mine}: providers.openai")
    assert says in said


def test_a_key_in_the_place_of_a_name_is_not_repeated(mine):
    """A name with characters that no provider's has is not shown."""
    said = _refused(_write(mine, json.dumps({"version": 1, "providers": {f"{KEY}/+": {}}})))

    assert said == f"{mine}: a name under providers has characters that no provider's name has: rename it"


def test_no_posix_module_is_needed(mine):
    """Without `fcntl`, `resource`, `pwd` and owners, as on Windows, configuration and keys are read all the same."""
    code = """
        import os, sys
        for name in ("fcntl", "resource", "pwd", "grp", "termios"):
            sys.modules[name] = None
        for name in ("geteuid", "getuid", "killpg", "O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY"):
            delattr(os, name)
        from blueprint_llm.config import load_config, private_file
        private_file._POSIX = False
        from blueprint_llm.credentials import CredentialsManager
        manager = CredentialsManager(load_config({}), file=sys.argv[1], environ={})
        print(manager.get("openai").reference, all(finding.ok for finding in manager.check()))
    """

    assert run(code, _write(mine, json.dumps(GOOD))) == "file:openai#1 True"


def test_a_missing_file_has_no_keys(mine):
    """No file is no error."""
    assert CredentialsManager(file=mine, environ={}).available("openai").startswith("no API key for 'openai'")


def test_an_edit_is_seen_at_the_next_call(mine):
    """Changing, spoiling, mending and removing the file all show at once."""
    manager = CredentialsManager(file=_write(mine, json.dumps(GOOD)), environ={})
    seen = [manager.available("openai")]
    for change in (
        lambda: _write(mine, json.dumps(GOOD).replace("openai", "groq")),
        lambda: _write(mine, json.dumps(GOOD)),
        lambda: mine.chmod(0o644),
        lambda: mine.chmod(0o600),
        mine.unlink,
    ):
        change()
        seen.append(manager.available("openai"))

    missing = "no API key for 'openai': set OPENAI_API_KEY or run blueprint-llm keys set openai"
    refused = f"{mine} may be read or written by others (mode 0644): run chmod 600 {mine}"
    assert seen == [None, missing, None, refused, None, missing]


def test_what_is_written_is_private(tmp_path):
    """The folder is 0700, file and lock are 0600, whatever the umask."""
    path = tmp_path / "new" / "credentials.json"
    before = os.umask(0)
    try:
        CredentialsManager(file=path, environ={}).set("openai", KEY)
    finally:
        os.umask(before)

    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in (path.parent, *path.parent.iterdir())}
    assert modes == {"new": 0o700, "credentials.json": 0o600, "credentials.json.lock": 0o600}


def test_writing_keeps_what_it_does_not_change(mine):
    """Other providers, commands and extras survive set and remove as they were written."""
    kept = {"command": ["op", "read", "x"], "extra": {"organization": "o"}, "base_url": "https://a.example"}
    manager = CredentialsManager(
        file=_write(mine, json.dumps({"version": 1, "providers": {"cloud": kept}})), environ={}
    )

    manager.set("openai", KEY)
    manager.set("openai", KEY + "2", id="second")
    manager.set("openai", KEY + "3", id="third")
    manager.set("openai", KEY + "4", id="second")

    keys = [{"id": "third", "api_key": KEY + "3"}, {"id": "second", "api_key": KEY + "4"}]
    assert json.loads(mine.read_text())["providers"] == {"cloud": kept, "openai": {"api_key": KEY, "keys": keys}}
    assert [manager.remove("openai", id="nobody"), manager.remove("openai", id="second")] == [False, True]
    assert [manager.remove("openai"), manager.remove("openai"), manager.remove("openai", id="x")] == [
        True,
        False,
        False,
    ]
    assert json.loads(mine.read_text())["providers"] == {"cloud": kept}


@pytest.mark.parametrize(
    ("provider", "key", "identity", "says"),
    [
        pytest.param("openai", "short", None, "shorter than 8", id="short"),
        pytest.param("openai", f"{KEY}\n{KEY}", None, "holds a space, a newline", id="newline"),
        pytest.param("../etc", KEY, None, "a provider's name has", id="name"),
        pytest.param("openai", KEY, "a b", "a provider's name has", id="id"),
    ],
)
def test_an_unfit_key_is_not_stored(mine, provider, key, identity, says):
    """The refusal says what is wrong without the key, and nothing is written."""
    with pytest.raises(CredentialsError, match=says) as caught:
        CredentialsManager(file=mine, environ={}).set(provider, key, id=identity)
    error = caught.value.with_traceback(caught.value.__traceback__.tb_next)

    assert [form for _, text in exposures(error) for form in find_canary(text, KEY)] == []
    assert not mine.exists()


@pytest.mark.parametrize("spoil", [pytest.param(_world_readable, id="mode"), pytest.param(_symlink, id="symlink")])
def test_an_unsafe_file_is_not_written_either(mine, spoil):
    """`set` refuses what `get` refuses, and leaves the file as it was."""
    _write(mine, json.dumps(GOOD))
    spoil(mine)

    with pytest.raises(CredentialsError, match="run "):
        CredentialsManager(file=mine, environ={}).set("groq", KEY)

    assert json.loads(mine.read_text()) == GOOD


def test_a_malformed_file_is_not_overwritten(mine):
    """A file that cannot be understood is somebody's work: it stays."""
    _write(mine, "{broken")

    with pytest.raises(CredentialsError, match="is not valid JSON"):
        CredentialsManager(file=mine, environ={}).set("groq", KEY)

    assert mine.read_text() == "{broken"


def test_a_folder_that_cannot_be_made_is_a_sentence(folder):
    """A read-only place gives a refusal, not a traceback, and no key in it."""
    folder.chmod(0o500)
    code = """
        import sys
        from blueprint_llm.credentials import CredentialsManager
        from blueprint_llm.errors import CredentialsError
        for name in ("credentials.json", "deeper/credentials.json"):
            try:
                CredentialsManager(file=f"{sys.argv[1]}/{name}", environ={}).set("openai", sys.argv[2])
            except CredentialsError as error:
                print(error)
    """

    first, second = run(code, folder, KEY).splitlines()

    assert first.startswith(f"{folder}/credentials.json.lock cannot be used (Permission denied)")
    assert second.startswith(f"{folder}/deeper/credentials.json.lock cannot be used (Permission denied)")


def test_a_full_disk_leaves_the_old_file(mine):
    """When the new file cannot be written the old one stays, and the error holds no key."""
    code = """
        import resource, signal, sys
        from blueprint_llm.credentials import CredentialsManager
        from blueprint_llm.errors import CredentialsError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))
        try:
            CredentialsManager(file=sys.argv[1], environ={}).set("groq", "sk-other-key-0123456789")
        except CredentialsError as error:
            print(error)
    """
    _write(mine, json.dumps(GOOD))
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(mine)],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip

    assert ran.stdout.startswith(f"{mine} cannot be used (File too large)")
    assert json.loads(mine.read_text()) == GOOD


def test_a_held_lock_is_waited_for_and_then_named(mine):
    """A writer waits for another one, but not for ever; once it is free it is taken."""
    says = r"another process holds .*credentials\.json\.lock: find it with fuser"
    with (
        private_file.locked(mine),
        pytest.raises(private_file.Refused, match=says),
        private_file.locked(mine, timeout_s=0),
    ):
        pytest.fail("the lock was taken twice")

    with private_file.locked(mine, timeout_s=0):
        pass  # free again


WRITER = """
    import sys
    from blueprint_llm.credentials import CredentialsManager
    manager = CredentialsManager(file=sys.argv[1], environ={})
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(int(sys.argv[3])):
        manager.set(f"{sys.argv[2]}{number}", f"sk-key-of-{sys.argv[2]}-{number:06}")
    print("done", flush=True)
"""


def _writer(path, name, count):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(path), name, str(count)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
def test_two_processes_writing_at_once_lose_nothing(mine):
    """Every key that either process stored is in the file."""
    writers = [_writer(mine, name, 25) for name in ("a", "b")]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    ends = [writer.communicate(timeout=60)[0] for writer in writers]

    assert ends == ["done\n", "done\n"]
    assert set(json.loads(mine.read_text())["providers"]) == {f"{name}{n}" for name in "ab" for n in range(25)}


@pytest.mark.slow
def test_a_killed_writer_leaves_a_whole_file(mine):
    """Killed at any moment: the file is whole, the next writer works, and no half file is left."""
    for round_ in range(8):
        writer = _writer(mine, f"r{round_}n", 100_000)
        with writer:
            writer.stdin.write("go\n")
            writer.stdin.flush()
            while not (mine.exists() and f"r{round_}n{round_ + 1}" in mine.read_text()):
                assert writer.poll() is None
            writer.send_signal(signal.SIGKILL)
        manager = CredentialsManager(file=mine, environ={})
        assert manager.get(f"r{round_}n0").source == "file"
        manager.set("after", KEY)
        mine.unlink()

    assert {each.name for each in mine.parent.iterdir()} == {"credentials.json.lock"}


def test_what_cannot_be_locked_or_written_is_a_sentence(mine):
    """A folder in the way of the lock, or a file in the way of the folder."""
    mine.with_name("credentials.json.lock").mkdir()
    with pytest.raises(CredentialsError, match=r"credentials\.json\.lock cannot be used \(Is a directory\)"):
        CredentialsManager(file=mine, environ={}).set("openai", KEY)
    with pytest.raises(CredentialsError, match=r"cannot be used \(File exists\)"):
        CredentialsManager(file=_write(mine, "{}") / "deeper.json", environ={}).set("openai", KEY)
    nowhere = mine.parent / "no" / "such"
    assert private_file.replace(nowhere, b"x").startswith(f"{nowhere} cannot be used (No such file or directory)")


def test_a_writer_killed_before_the_rename_leaves_the_old_file(mine):
    """The worst moment: the new content is written, the name still means the old file."""
    code = """
        import os, signal, sys
        from blueprint_llm.credentials import CredentialsManager
        os.replace = lambda *args, **more: os.kill(os.getpid(), signal.SIGKILL)
        CredentialsManager(file=sys.argv[1], environ={}).set("groq", "sk-other-key-0123456789")
    """
    _write(mine, json.dumps(GOOD))
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(mine)], env=env, check=False)

    assert ran.returncode == -signal.SIGKILL
    assert json.loads(mine.read_text()) == GOOD
    assert mine.with_name("credentials.json.new").exists()
    CredentialsManager(file=mine, environ={}).set("groq", KEY)
    assert not mine.with_name("credentials.json.new").exists()
    assert set(json.loads(mine.read_text())["providers"]) == {"openai", "groq"}
