"""The boundary on a real disk: what is denied is hidden, what is kept is kept, and effects are all that happens."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from blueprint_llm import sync
from blueprint_llm.config.blocks import Sandbox, Tools
from blueprint_llm.tools import ToolEngine, sandbox
from blueprint_llm.tools.boundary import Patterns, Surveyor
from blueprint_llm.tools.sandbox import Confinement

SECRET = "canary-7f3a9b"
READERS = ["git", "rg", "grep", "find", "ls", "cat"]
HIDES = {"deny": "*", "paths": ["private/**", "**/.env*"]}
READING = [{"allow": "command", "argv": [READERS]}, HIDES]

pytestmark = pytest.mark.skipif(not sandbox.offered("bubblewrap"), reason="bubblewrap does not work here")


def git(workspace, *words):
    """Run git outside of any boundary, as the user would."""
    identity = ["-c", "user.name=u", "-c", "user.email=u@example.org"]
    env = {"PATH": os.environ["PATH"], "HOME": str(workspace.parent), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *identity, *words], cwd=workspace, env=env, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture
def workspace(tmp_path):
    """A repository with files that rules hide, some of them under other names."""
    root = tmp_path / "ws"
    (root / "private/deep").mkdir(parents=True)
    (root / "src/conf").mkdir(parents=True)
    for name in ("private/p.txt", "private/deep/q.txt", ".env", "src/.env.local", "src/conf/.env"):
        (root / name).write_text(f"KEY={SECRET}\n")
    (root / "src/a.py").write_text("x = 1\n")
    (root / "README.md").write_text("hello\n")
    (root / ".gitignore").write_text(".env*\nprivate/\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return root


@pytest.fixture
def engine(workspace):
    """Make engines over the workspace."""
    made = []

    def make(rules=READING, approver=None, **block):
        settings = Tools.model_validate({"rules": rules, **block})
        made.append(ToolEngine(workspace=workspace, settings=settings, approver=approver))
        return made[-1]

    yield make
    for one in made:
        one.close()


def run(engine, *argv):
    """Run one command."""
    return sync.run(engine.execute({"id": "1", "name": "command", "arguments": {"argv": list(argv)}}))


def snapshot(root):
    """Every file of a folder with its content and mode."""
    return {
        str(path.relative_to(root)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(root.rglob("*"))
        if not path.is_symlink() and path.exists()
    }


@pytest.mark.parametrize(
    "words",
    [
        "grep -r canary .",
        "grep -rn KEY -f private/../README.md .",
        "grep -nfREADME.md -r .",
        "rg --no-ignore --hidden canary",
        "rg -uuu KEY",
        "rg --pre cat KEY -uuu",
        "find . -type f -exec cat {} +",
        "find . -name *env -exec cat {} ;",
        "grep -nfprivate/p.txt x README.md",
        "find . -newer README.md -fprint /tmp/x -o -exec head {} ;",
        "cat src/.en?",
        "git grep --no-index canary",
        "git grep --untracked --no-exclude-standard KEY",
        "git diff --no-index README.md src",
        "git log -p --all",
        "git status --ignored",
        "git stash list",
        "ls -laR .",
        "find /tmp /home /root -name q.txt",
        "cat /proc/self/environ",
        "git -c core.pager=cat -c alias.x=!cat\\ .e* x",
        "find . -exec sh -c cat\\ .e*;cat\\ pri*/* ;",
        "find . -exec sh -c cd\\ src;cat\\ .e*l;ln\\ ../.e*\\ y ;",
    ],
)
def test_no_allowed_command_reads_a_denied_file_or_changes_anything(words, engine, workspace):
    """With rules for reading programs, a denied file's bytes never come out, and the workspace stays as it is."""
    before = snapshot(workspace)
    argv = [word.replace("\0", " ") for word in words.replace("\\ ", "\0").split()]
    result = run(engine(), *argv)

    assert result.status in {"ok", "error"}, result.content
    assert SECRET not in result.content
    assert snapshot(workspace) == before
    assert result.metadata["sandbox"] == "bubblewrap (read)"


@pytest.mark.parametrize(
    "words", ["cat private/p.txt", "grep -fprivate/p.txt x", "git show HEAD:private/p.txt", "cat .env"]
)
def test_naming_a_denied_file_is_denied(words, engine):
    """Where the words of a command already name a denied file, it is told so and not run."""
    result = run(engine(), *words.split())

    assert (result.status, SECRET in result.content) == ("denied", False)


def test_the_files_are_there_without_the_rule(engine, workspace):
    """What hides them is the rule: without it, the same command reads them; built-in secrets stay hidden."""
    found = run(engine([{"allow": "command"}]), "grep", "-rl", "canary", ".")

    assert sorted(found.content.split()[3:]) == ["./private/deep/q.txt", "./private/p.txt"]
    shown = run(engine([{"allow": "command"}], sandbox={"read": [".env"]}), "cat", ".env")
    assert SECRET in shown.content


def test_names_and_links_of_hidden_files(engine, workspace):
    """A link does not lead around the rule: its target is hidden too, also when the link's name is the denied one."""
    (workspace / "src/real.txt").write_text(SECRET)
    (workspace / "src/.env.link").symlink_to("real.txt")
    (workspace / "public").symlink_to("private")
    (workspace / "folder").mkdir()
    (workspace / "folder/x").write_text(SECRET)
    (workspace / "private/folder").symlink_to("../folder")
    tools = engine([*READING, {"deny": "read_file", "paths": ["alias"]}])
    (workspace / "alias").symlink_to("folder")

    for argv in (
        ["cat", "src/real.txt"],
        ["cat", "public/p.txt"],
        ["cat", "folder/x"],
        ["find", "-L", ".", "-exec", "cat", "{}", "+"],
    ):
        assert SECRET not in run(tools, *argv).content, argv


def test_what_cannot_be_hidden_is_not_run(engine, workspace):
    """A hard link to a denied file, or more files than can be covered, end the command before it starts."""
    tools = engine()
    os.link(workspace / "private/p.txt", workspace / "other.txt")
    assert run(tools, "ls").status == "ok"  # a whole folder is covered, and its files' other names are other files
    os.link(workspace / ".env", workspace / "second.txt")
    linked = run(tools, "ls")
    (workspace / "second.txt").unlink()
    for number in range(400):
        (workspace / f".env{number}").touch()
    many = run(tools, "ls")

    assert (linked.status, "2 hard links" in linked.content) == ("error", True)
    assert (many.status, "deny whole folders" in many.content) == ("error", True)


def test_a_new_secret_is_hidden_at_once(engine, workspace):
    """A file that appears between two commands is hidden from the second."""
    tools = engine()
    run(tools, "ls")
    (workspace / "src/conf/.env.new").write_text(SECRET)
    (workspace / "later").mkdir()
    (workspace / "later/.env").write_text(SECRET)

    assert SECRET not in run(tools, "grep", "-r", "canary", ".").content


def test_hidden_files_that_git_tracks_look_unchanged(engine, workspace):
    """Git neither prints them as deleted nor records them as empty; with changes of their own, git may not write."""
    (workspace / "private/t.txt").write_text(f"{SECRET}\n")
    (workspace / ".env.tracked").write_text(f"{SECRET}\n")
    git(workspace, "add", "-f", "private/t.txt", ".env.tracked")
    git(workspace, "commit", "-qm", "tracked")
    for name in ("private/t.txt", ".env.tracked"):
        os.utime(workspace / name, (1_700_000_000, 1_700_000_000))
    git(workspace, "status")
    writing = engine([{"allow": "command", "effects": "write"}, HIDES])

    assert "nothing to commit" in run(engine(), "git", "status").content
    assert run(engine(), "git", "diff").content == "exit code 0\n"
    (workspace / "README.md").write_text("changed\n")
    assert run(writing, "git", "add", "-A").status == "ok"
    assert git(workspace, "diff", "--cached", "--name-only") == "README.md\n"
    (workspace / ".env.tracked").write_text("something else\n")
    refused = run(writing, "git", "add", "-A")
    assert (refused.status, ".env.tracked is hidden" in refused.content) == ("error", True)
    assert run(writing, "ls").status == "ok"


PROGRAM = "#!/bin/sh\ntouch {mark}\necho RAN >&2\ncat\n"
CONFIGURED = {
    "core.fsmonitor": ["git", "status"],
    "diff.external": ["git", "diff"],
    "diff.own.textconv": ["git", "diff"],
    "diff.own.command": ["git", "diff"],
    "core.pager": ["git", "-p", "log"],
    "pager.log": ["git", "--paginate", "log"],
    "gpg.program": ["git", "log", "--show-signature"],
    "core.sshCommand": ["git", "fetch", "ssh://localhost/x"],
    "core.hooksPath": ["git", "checkout", "-q", "HEAD"],
    "alias.own": ["git", "own"],
    "credential.helper": ["git", "fetch", "http://localhost:1/x"],
    "core.editor": ["git", "commit", "--allow-empty"],
    "include.path": ["git", "status"],
}


def configure(workspace, key, program):
    """Have the repository's configuration name a program."""
    value = str(program)
    if key == "include.path":
        (workspace / "included").write_text(f'[core]\n\tfsmonitor = "{program}"\n')
        value = str(workspace / "included")
    if key == "core.hooksPath":
        (workspace / "hooked").mkdir()
        shutil.copy(program, workspace / "hooked/post-checkout")
        value = str(workspace / "hooked")
    if key == "gpg.program":
        (workspace / "signed").write_text("x")
        raw = git(workspace, "cat-file", "commit", "HEAD").replace(
            "\n\n", "\ngpgsig -----BEGIN PGP SIGNATURE-----\n x\n\n", 1
        )
        done = subprocess.run(
            ["git", "hash-object", "-t", "commit", "-w", "--stdin"],
            cwd=workspace,
            input=raw,
            text=True,
            capture_output=True,
            check=True,
        )
        git(workspace, "update-ref", "HEAD", done.stdout.strip())
    git(workspace, "config", key, f"!{value}" if key in {"alias.own", "credential.helper"} else value)


@pytest.mark.parametrize("key", CONFIGURED)
def test_no_program_that_git_configuration_names_is_run(key, engine, workspace):
    """Git runs it for the user, and for a command neither under `read` nor under `write`."""
    program, mark = workspace / "program", workspace / "mark"
    program.write_text(PROGRAM.format(mark=mark))
    program.chmod(0o755)
    (workspace / ".gitattributes").write_text("*.py diff=own\n")
    (workspace / "src/a.py").write_text("x = 2\n")
    configure(workspace, key, program)
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_TERMINAL_PROMPT": "0"}
    if key not in {"core.pager", "pager.log", "core.sshCommand", "credential.helper", "core.editor"}:  # need a terminal
        subprocess.run(CONFIGURED[key], cwd=workspace, env=environment, capture_output=True, check=False)
        assert mark.exists(), "the user's git does not run it either: the test would show nothing"
        mark.unlink()

    for effects in ("read", "write"):
        result = run(engine([{"allow": "command", "effects": effects}]), *CONFIGURED[key])
        assert "RAN" not in result.content
        assert not mark.exists()
    assert run(engine(), "git", "log").status == "ok"


@pytest.mark.parametrize("kind", ["clean", "smudge", "process"])
def test_filters_run_only_where_a_command_may_write(kind, engine, workspace):
    """A filter (LFS is one) is not run under `read`; under `write` it is, as confined as its command."""
    program = workspace / "program"
    program.write_text("#!/bin/sh\necho RAN >&2\ntouch " + str(workspace.parent / "escaped") + "\ncat\n")
    program.chmod(0o755)
    (workspace / ".gitattributes").write_text("*.py filter=own\n")
    (workspace / "src/a.py").write_text("x = 22\n")
    git(workspace, "config", f"filter.own.{kind}", str(program))

    reading = [
        run(engine(), "git", *words).content
        for words in (["diff"], ["status"], ["cat-file", "--filters", "HEAD:src/a.py"])
    ]
    run(engine([{"allow": "command", "effects": "write"}]), "git", "add", "-A")

    assert "RAN" not in "".join(reading)
    assert not (workspace.parent / "escaped").exists()


def test_other_repositories_below_are_guarded_too(engine, workspace):
    """A nested repository's, a worktree's and a bare repository's configuration are copied without programs as well."""
    program = workspace / "program"
    program.write_text("#!/bin/sh\necho RAN >&2\n")
    program.chmod(0o755)
    git(workspace, "init", "-q", "nested")
    git(workspace, "clone", "-q", "--bare", ".", "bare.git")
    git(workspace, "worktree", "add", "-q", "tree")
    git(workspace, "config", "extensions.worktreeConfig", "true")
    git(workspace / "tree", "config", "--worktree", "core.fsmonitor", str(program))
    for place in ("nested", "bare.git"):
        git(workspace / place, "config", "core.fsmonitor", str(program))

    for words in (
        ["-C", "nested", "status"],
        ["-C", "tree", "status"],
        ["--git-dir=bare.git", "--work-tree=.", "status"],
    ):
        assert "RAN" not in run(engine(), "git", *words).content, words


def test_passwords_in_git_configuration_are_not_shown(engine, workspace):
    """A remote keeps its address and loses its password; the user's own configuration loses its programs and tokens."""
    git(workspace, "remote", "add", "origin", f"https://me:{SECRET}@example.org/x.git")
    home = Path(os.environ["HOME"])
    (home / ".gitconfig").write_text(f'[user]\n\tname = Ann\n[url "https://{SECRET}@h/"]\n\tinsteadOf = h:\n')
    tools = engine()
    listed = run(tools, "git", "config", "--list").content
    nested = run(tools, "find", ".", "-maxdepth", "0", "-exec", "git", "config", "--list", ";").content

    for text in (listed, nested, run(tools, "cat", ".git/config").content):
        assert SECRET not in text
    assert "https://example.org/x.git" in listed
    assert "user.name=Ann" in listed
    assert "user.name=Ann" in nested


WRITING = [{"allow": "command", "effects": "write"}, HIDES]


def test_tests_run_under_write_and_nothing_else_is_written(engine, workspace, monkeypatch):
    """Pytest runs and keeps its cache; hooks, git's configuration, CI, the folder beside it and the home stay."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    (workspace / ".github/workflows").mkdir(parents=True)
    (workspace / ".github/workflows/ci.yml").write_text("on: push\n")
    outside, home = workspace.parent / "outside", Path(os.environ["HOME"])
    (workspace / "test_x.py").write_text(
        "import contextlib, os, pathlib\n"
        "def test_x():\n"
        "    ci = ('.github/workflows/ci.yml', '.github/new.yml')\n"
        f"    for name in ('.git/hooks/pre-commit', '.git/config', *ci, {str(outside)!r}):\n"
        "        with contextlib.suppress(OSError):\n"
        "            pathlib.Path(name).write_text('x')\n"
        "    pathlib.Path.home().joinpath('.bashrc').write_text('x')\n"
        "    pathlib.Path('made.txt').write_text('x')\n"
    )
    config = (workspace / ".git/config").read_text()
    rule = {"allow": "command", "argv": ["pytest"], "effects": "write"}
    result = run(engine([rule]), "pytest", "-q")

    assert (result.status, "1 passed" in result.content) == ("ok", True), result.content
    assert (workspace / ".pytest_cache").is_dir()
    assert (workspace / "made.txt").read_text() == "x"
    assert not (workspace / ".git/hooks/pre-commit").exists()
    assert (workspace / ".git/config").read_text() == config
    assert (workspace / ".github/workflows/ci.yml").read_text() == "on: push\n"
    assert not (workspace / ".github/new.yml").exists()
    assert not outside.exists()
    assert not (home / ".bashrc").exists()


@pytest.mark.parametrize(
    "script",
    [
        "mv .git old && mkdir -p .git/hooks && echo x > .git/hooks/pre-commit",
        "rm -rf .git/hooks; mkdir -p .git/hooks; echo x > .git/hooks/pre-commit",
        "mv private public; cat public/*",
        "mv src other; cat other/conf/.env",
        "rm -f .env; cp src/conf/.env y; ln src/conf/.env z; mv src/conf c; cat y z c/.env",
        "mv .vscode x; mkdir .vscode; echo x > .vscode/tasks.json",
        "ln -s .git/hooks h; echo x > h/pre-commit",
        "mount -t tmpfs x /mnt; umount .git/config; umount private; cat private/p.txt",
        "git config core.fsmonitor ./evil; git config --global core.fsmonitor ./evil",
        "unshare -Urm sh -c 'umount pri*; umount .e*; mount -o remount,rw .git/config; cat pri*/* .e*'",
        "cp -al pri* p2; cp -r pri* p3; tar cf t.tar .; cat p2/* p3/* t.tar; dd if=$(echo .e*v) of=o; cat o",
        "chmod 000 src/conf src private; ls src",
        "mkdir -p node_modules/p; mv private node_modules/p/; ln -s pri*/p.txt q; cat q",
        "mkdir -p evil/objects evil/refs; echo '[core] fsmonitor=ls' >evil/config; echo ../evil >.git/commondir",
    ],
)
def test_what_is_kept_or_hidden_cannot_be_moved_out_of_the_way(script, engine, workspace):
    """Renames, replacements and unmounts under `write` do not get at hidden files nor replace kept ones."""
    (workspace / ".vscode").mkdir()
    (workspace / ".vscode/tasks.json").write_text("{}")
    config = (workspace / ".git/config").read_text()
    tools = engine(WRITING)
    result = run(tools, "sh", "-c", script)
    after = run(tools, "grep", "-r", "canary", ".")

    assert SECRET not in result.content + after.content
    assert (workspace / ".git/config").read_text() == config
    assert not (workspace / ".git/hooks/pre-commit").exists()
    assert (workspace / ".vscode/tasks.json").read_text() == "{}"
    assert (workspace / "private/p.txt").read_text() == f"KEY={SECRET}\n"


def test_new_files_of_protected_names_do_not_stay(engine, workspace):
    """What the kernel cannot forbid to be made is moved away afterwards, and told; new repositories lose programs."""
    script = (
        "mkdir -p .claude sub/.vscode; echo x > .claude/settings.json; echo x > sub/.vscode/tasks.json;echo x > .envrc;"
        "echo x > .bashrc; echo x > CLAUDE.md; git init -q fresh; echo x > fresh/.git/hooks/pre-commit;"
        "git -C fresh config core.fsmonitor ./evil; git -C fresh config user.name Ann; echo x > plain.txt"
    )
    result = run(engine(WRITING), "sh", "-c", script)

    assert (workspace / "plain.txt").exists()
    for name in (".claude", "sub/.vscode", ".envrc", ".bashrc", "CLAUDE.md", "fresh/.git/hooks/pre-commit"):
        assert not (workspace / name).exists(), name
        assert name in result.content
    assert "fsmonitor = ./evil" not in (workspace / "fresh/.git/config").read_text()
    assert git(workspace, "config", "--file", "fresh/.git/config", "user.name") == "Ann\n"
    assert "moved to" in result.content


def test_a_link_of_a_hidden_name_is_put_back(engine, workspace):
    """Taking away the link that named a secret does not uncover it, and the link is made again."""
    (workspace / "conf.txt").write_text(SECRET)
    (workspace / ".env.real").symlink_to("conf.txt")
    tools = engine(WRITING)
    first = run(tools, "sh", "-c", "rm .e*l; cat conf.txt")
    second = run(tools, "cat", "conf.txt")

    assert SECRET not in first.content + second.content
    assert (workspace / ".env.real").readlink() == Path("conf.txt")
    assert "is again the link" in first.content


def test_putting_right_follows_no_link_out_of_the_workspace(engine, workspace):
    """A new configuration of git, or a folder, that is a link to the user's files does not have them changed."""
    home = Path(os.environ["HOME"])
    (home / ".bashrc").write_text("mine")
    (home / ".env.link").write_text("mine too")
    (workspace / "src/.env.link").symlink_to("a.py")
    script = (
        f"mkdir -p x/objects x/refs y/.git; ln -s {home}/.bashrc x/config; ln -s {home}/.bashrc y/.git/config;"
        f"mv src src2; rm src/.e*link; ln -s {home} z; ln -s {home}/.bashrc .bashrc"
    )
    run(engine(WRITING), "sh", "-c", script)

    assert (home / ".bashrc").read_text() == "mine"
    assert (home / ".env.link").read_text() == "mine too"
    assert (workspace / "src/.env.link").readlink() == Path("a.py")
    assert not (workspace / "x/config").is_symlink()
    assert not (workspace / ".bashrc").is_symlink()


def test_a_folder_that_cannot_be_listed_is_hidden_whole(workspace, monkeypatch):
    """A command could open it again, so what is in it is not shown."""
    real = os.scandir

    def scandir(path):
        if str(path).endswith("src/conf"):
            raise PermissionError(13, "no", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    surveyor = Surveyor(str(workspace), Patterns(()), Patterns(()), Patterns(()))

    assert "src/conf" in surveyor.survey().hidden
    assert "src/conf" in surveyor.survey().hidden


def test_a_hidden_link_into_a_hidden_folder_breaks_nothing(engine, workspace):
    """What lies in a covered folder needs no cover of its own."""
    (workspace / "src/.env.link").symlink_to("../private/p.txt")
    (workspace / "private/.git").mkdir()
    (workspace / "private/.git/config").write_text("[core]\n\tfsmonitor = x\n")

    result = run(engine(WRITING), "sh", "-c", "cat src/.e*; cat pri*/*; ls")
    assert SECRET not in result.content
    assert "README.md" in result.content


def test_a_rule_that_denies_writing_keeps_files(engine, workspace):
    """What `write_file` may not change, a command with `effects: write` may not change either."""
    (workspace / "dist").mkdir()
    (workspace / "dist/a").write_text("a")
    tools = engine([{"allow": "command", "effects": "write"}, {"deny": "write_file", "paths": ["dist/**", "LICENSE"]}])
    result = run(tools, "sh", "-c", "echo b > dist/a; echo b > dist/new; echo x > LICENSE; echo x > free")

    assert {path.name: path.read_text() for path in (workspace / "dist").iterdir()} == {"a": "a"}
    assert not (workspace / "LICENSE").exists()
    assert (workspace / "free").exists()
    assert "Read-only" in result.content


def test_paths_of_an_allowing_rule_are_all_that_a_command_sees(engine, workspace):
    """A rule that allows a command for some paths shows it nothing else of the workspace."""
    rules = [{"allow": "command", "argv": [["cat", "ls", "sh"]], "paths": ["src/**"], "effects": "write"}, HIDES]
    tools = engine(rules)
    seen = run(tools, "sh", "-c", "ls -A; cat README.md; cat src/a.py; cat src/.e*; echo y > src/new; echo z > top")

    assert seen.content.splitlines()[-4:] != []
    assert "hello" not in seen.content
    assert "x = 1" in seen.content
    assert SECRET not in seen.content
    assert (workspace / "src/new").exists()
    assert not (workspace / "top").exists()
    assert "match nothing" in run(engine([{"allow": "command", "paths": ["none/**"]}]), "ls").content


@pytest.mark.parametrize("effects", ["read", "write"])
def test_no_connection_without_the_effect(effects, engine, workspace):
    """Neither TCP nor UDP nor a socket of the workspace under `read`; `network` opens them, and the result says so."""
    script = (
        "import socket,sys; s=socket.socket(socket.AF_INET, int(sys.argv[1]));"
        "s.connect(('127.0.0.1', int(sys.argv[2]))); s.send(b'x')"
    )
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(0.05)
        for kind, server in ((socket.SOCK_STREAM, tcp), (socket.SOCK_DGRAM, udp)):
            words = ["/usr/bin/python3", "-c", script, str(int(kind)), str(server.getsockname()[1])]
            closed = run(engine([{"allow": "command", "effects": effects}]), *words)
            opened = run(engine([{"allow": "command", "effects": [effects, "network"]}]), *words)

            assert (closed.status, opened.status) == ("error", "ok"), (closed.content, opened.content)
            assert "ask for `effects: network`" in closed.content
        assert udp.recv(10) == b"x"


def test_sockets_by_path_are_closed_under_read(engine, workspace):
    """A server that listens in the workspace is out of reach of a command that only reads, and in reach under write."""
    place = workspace / "s"
    script = "import socket; socket.socket(socket.AF_UNIX).connect('s'); print('through')"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))
        server.listen()
        reading = run(engine([{"allow": "command"}]), "/usr/bin/python3", "-c", script)
        writing = run(engine([{"allow": "command", "effects": "write"}]), "/usr/bin/python3", "-c", script)

    assert ("through" in reading.content, "through" in writing.content) == (False, True)


def test_a_private_loopback_where_it_is_asked_for(engine):
    """With `sandbox.loopback`, tests may start servers of their own, and reach nobody else's."""
    script = (
        "import socket; s=socket.create_server(('127.0.0.1',0))\n"
        "socket.create_connection(s.getsockname()); print('own')\n"
        "socket.create_connection(('127.0.0.1', {}))"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        words = ["/usr/bin/python3", "-c", script.format(server.getsockname()[1])]
        result = run(engine([{"allow": "command", "effects": "write"}], sandbox={"loopback": True}), *words)

    assert "own" in result.content
    assert "refused" in result.content


@pytest.mark.parametrize("backend", ["bubblewrap", "landlock"])
def test_the_user_s_keyring_and_shared_memory_are_closed(backend, engine, workspace):
    """System calls that reach beyond files and sockets are refused inside either sandbox."""
    (workspace / ".env").unlink()
    for name in ("src/.env.local", "src/conf/.env"):
        (workspace / name).unlink()
    script = (
        "import ctypes, platform; libc=ctypes.CDLL(None, use_errno=True)\n"
        "numbers={'x86_64': (250, 29, 425), 'aarch64': (219, 194, 425)}[platform.machine()]\n"
        "print([(libc.syscall(n, 0, 0, 0, 0), ctypes.get_errno()) for n in numbers])"
    )
    result = run(engine([{"allow": "command"}], sandbox={"backend": backend}), "/usr/bin/python3", "-c", script)

    assert "[(-1, 38), (-1, 38), (-1, 38)]" in result.content, result.content


def test_what_the_kernel_refused_is_told(engine):
    """One sentence lets a model go on."""
    assert (
        "the rule allows reading only; ask for `effects: write`"
        in run(engine([{"allow": "command"}]), "touch", "x").content
    )
    outside = run(engine([{"allow": "command", "effects": "write"}]), "touch", "/usr/x")
    assert "read-only" in outside.content


def test_the_library_s_own_state_is_hidden(workspace, monkeypatch):
    """Keys, audit and pending approvals are out of reach, wherever they lie."""
    monkeypatch.setenv("BLUEPRINT_HOME", str(workspace / "home"))
    with ToolEngine([{"allow": "command", "effects": "write"}], workspace) as engine:
        run(engine, "true")
        assert (workspace / "home/state/tools/tools.key").exists()
        found = run(engine, "sh", "-c", "find home -name tools.key; ls home/state; rm -rf home/state; mv home x; ls")

    assert "tools.key" not in found.content
    assert (workspace / "home/state/tools/tools.key").exists()


def test_root_reads_no_secrets_of_the_system(engine, workspace):
    """An engine of root's shows no password hashes, neither with bubblewrap nor with Landlock."""
    for name in (".env", "src/.env.local", "src/conf/.env"):
        (workspace / name).unlink()
    for backend in ("bubblewrap", "landlock"):
        result = run(
            engine([{"allow": "command"}], sandbox={"backend": backend}), "sh", "-c", "cat /etc/shadow; cat /etc/passwd"
        )
        assert "root:x:" in result.content
        assert "root:*" not in result.content
        assert "$" not in result.content.replace("$0", "")


@pytest.mark.parametrize("backend", ["bubblewrap", "landlock"])
def test_nothing_of_the_kernel_is_writable(backend, engine, workspace):
    """No setting below /proc, /sys or /dev can be opened for writing, also where the engine runs as root."""
    plain(workspace)
    script = (
        "import os\n"
        "flags = os.O_WRONLY | os.O_NONBLOCK\n"
        "for top in ('/proc', '/sys'):\n"
        "    for folder, folders, files in os.walk(top):\n"
        "        if folder == '/proc': folders[:] = [n for n in folders if n in ('sys', 'irq', 'bus', 'fs')]\n"
        "        if folder == '/sys': folders[:] = [n for n in folders if n in ('kernel', 'power', 'module')]\n"
        "        for name in files:\n"
        "            try: os.close(os.open(f'{folder}/{name}', flags)); print('WRITABLE', folder, name)\n"
        "            except OSError: pass\n"
        "print('looked')\n"
    )
    tools = engine([{"allow": "command", "effects": "write"}], lambda batch: [True], sandbox={"backend": backend})
    result = run(tools, "/usr/bin/python3", "-c", script)

    assert "looked" in result.content
    assert "WRITABLE" not in result.content


@pytest.mark.parametrize("backend", ["bubblewrap", "landlock"])
def test_other_processes_are_out_of_reach(backend, engine, workspace):
    """A process of the same user can be neither read, signalled nor slowed down."""
    plain(workspace)
    victim = subprocess.Popen(["sleep", "64.01"], env={"PATH": os.environ["PATH"], "CANARY": SECRET})
    script = (
        "import os, resource, sys; pid = int(sys.argv[1])\n"
        "def attempt(act):\n"
        "    try: print('DID', act())\n"
        "    except (OSError, PermissionError): pass\n"
        "attempt(lambda: open(f'/proc/{pid}/environ').read())\n"
        "attempt(lambda: open(f'/proc/{pid}/mem'))\n"
        "attempt(lambda: os.kill(pid, 15))\n"
        "attempt(lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))\n"
        "attempt(lambda: os.sched_setaffinity(pid, [0]))\n"
        "attempt(lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (5, 5)))\n"
    )
    result = run(
        engine([{"allow": "command"}], sandbox={"backend": backend}), "/usr/bin/python3", "-c", script, str(victim.pid)
    )
    alive = victim.poll() is None
    victim.kill()
    victim.wait()

    assert result.metadata["sandbox"].startswith(backend)
    assert "DID" not in result.content
    assert alive


def only(monkeypatch, *names):
    """A system that offers these backends alone."""
    real = sandbox.offered
    monkeypatch.setattr(sandbox, "offered", lambda name: name in names and real(name))


def plain(workspace):
    """Take everything away that would have to be hidden."""
    shutil.rmtree(workspace / "private")
    for name in (".env", "src/.env.local", "src/conf/.env"):
        (workspace / name).unlink()


@pytest.mark.parametrize("effects", [["read"], ["write"], ["read", "network"], ["write", "network"]])
def test_with_bubblewrap_alone(effects, engine, workspace, monkeypatch):
    """Without Landlock every effect is enforced all the same, and the system's own sockets are closed."""
    only(monkeypatch, "bubblewrap")
    monkeypatch.setattr(sandbox, "landlock_version", lambda: 0)
    tools = engine([{"allow": "command", "effects": effects}, HIDES])
    script = (
        "import socket, sys\n"
        "places = {socket.AF_UNIX: '\\0' + sys.argv[1], socket.AF_INET: ('127.0.0.1', int(sys.argv[2]))}\n"
        "for family, place in places.items():\n"
        "    try: socket.socket(family).connect(place); print('reached', family.name)\n"
        "    except OSError: pass\n"
        "try: open('made', 'w'); print('made')\n"
        "except OSError: pass\n"
    )
    assert tools.check("command", {"argv": ["ls"]}).decision == "allow"
    with socket.socket(socket.AF_UNIX) as abstract, socket.create_server(("127.0.0.1", 0)) as server:
        abstract.bind(f"\0{workspace}")
        abstract.listen()
        words = [str(workspace), str(server.getsockname()[1])]
        result = run(tools, "/usr/bin/python3", "-c", script, *words)

    expected = ["reached AF_INET"] * ("network" in effects) + ["made"] * ("write" in effects)
    assert result.content.splitlines()[1:] == expected
    assert SECRET not in run(tools, "grep", "-r", "canary", ".").content


@pytest.mark.parametrize(
    ("rule", "decision"),
    [
        pytest.param({"allow": "command"}, "allow", id="reading runs"),
        pytest.param({"allow": "command", "effects": "write"}, "ask", id="writing asks"),
        pytest.param({"allow": "command", "effects": "network"}, "ask", id="network asks"),
        pytest.param({"allow": "command", "effects": ["write", "network"]}, "ask", id="both ask"),
    ],
)
def test_with_landlock_alone(rule, decision, engine, workspace, monkeypatch):
    """Reading is enforced, where nothing has to be hidden; what Landlock cannot hold asks."""
    only(monkeypatch, "landlock")
    plain(workspace)
    tools = engine([rule])
    check = ["command", {"argv": ["ls"]}]

    assert tools.check(*check).decision == decision
    if decision == "ask":
        assert "Landlock alone cannot" in "".join(tools.check(*check).reasons)
        return
    before = snapshot(workspace)
    script = (
        "echo x > new; echo x >> README.md; mkdir d; rm README.md; touch ../beside; chmod 777 README.md; chmod 700 ..;"
        "touch -d 2001-01-01 README.md; chown 1:1 README.md; mv README.md r; ln README.md r; cat src/a.py"
    )
    times = (workspace / "README.md").stat().st_mtime_ns, (workspace.parent).stat().st_mode
    result = run(tools, "sh", "-c", script)
    assert ((workspace / "README.md").stat().st_mtime_ns, (workspace.parent).stat().st_mode) == times
    assert "x = 1" in result.content
    assert result.metadata["sandbox"].startswith("landlock")
    assert snapshot(workspace) == before
    assert not (workspace.parent / "beside").exists()


@pytest.mark.parametrize(
    "why",
    ["a deny rule", "a secret", "a program of git", "the library's folder", "that folder beside, shown by `read`"],
)
def test_with_landlock_alone_what_must_be_hidden_asks(why, engine, workspace, monkeypatch):
    """Landlock cannot hide a file below an allowed folder, so a command asks wherever one has to be hidden."""
    only(monkeypatch, "landlock")
    plain(workspace)
    rules = [{"allow": "command"}]
    if why == "a deny rule":
        rules.append({"deny": "*", "paths": ["nothing/there/**"]})
    if why == "a secret":
        (workspace / "src/.env").write_text("x")
    if why == "a program of git":
        git(workspace, "config", "core.fsmonitor", "./x")
    if why == "the library's folder":
        monkeypatch.setenv("BLUEPRINT_HOME", str(workspace))
        (workspace / "state").mkdir()
    block = {}
    if why.startswith("that"):
        monkeypatch.setenv("BLUEPRINT_HOME", str(workspace.parent / "shown/home"))
        (workspace.parent / "shown/home/state").mkdir(parents=True)
        block["sandbox"] = {"read": [str(workspace.parent / "shown")]}
    found = engine(rules, **block).check("command", {"argv": ["ls"]})

    assert (found.decision, "cannot hide" in "".join(found.reasons)) == ("ask", True)


@pytest.mark.parametrize("effects", ["read", "write"])
def test_without_any_sandbox_every_command_asks(effects, engine, workspace, monkeypatch):
    """Nothing runs by itself; with `required` it is denied, and with `backend: none` the user has chosen."""
    only(monkeypatch)
    rules = [{"allow": "command", "effects": effects}, {"allow": ["write_file", "read_file"]}]
    asking, refusing = engine(rules), engine(rules, sandbox={"required": True})
    waived = engine(rules, sandbox={"backend": "none"})
    call = ["command", {"argv": ["ls"]}]

    assert asking.check(*call).decision == "ask"
    assert "cannot confine" in "".join(asking.check(*call).reasons)
    assert run(asking, "touch", "x").status == "denied"
    assert refusing.check(*call).decision == "deny"
    assert waived.check(*call).decision == "allow"
    assert run(waived, "touch", "y").metadata["sandbox"] == "none"
    assert asking.check("write_file", {"path": "a.txt", "content": ""}).decision == "allow"
    assert {path.name for path in workspace.iterdir()} & {"x", "y"} == {"y"}


def test_trust_mode_confines_too(engine, workspace):
    """What no rule decides may write the workspace in `trust`, and stays inside it."""
    tools = engine([], mode="trust")
    result = run(tools, "sh", "-c", "echo x > inside; echo x > ../beside; cat .env")

    assert (workspace / "inside").exists()
    assert not (workspace.parent / "beside").exists()
    assert SECRET not in result.content


def test_an_approved_command_is_held_to_what_was_shown(engine, workspace):
    """The person sees the effects; the approval is for them, and for no more when the rules change meanwhile."""
    shown = []
    tools = engine([{"ask": "command", "effects": "read"}], approver=lambda batch: shown.extend(batch) or [True])
    result = run(tools, "touch", "x")

    assert shown[0].effects == ("read",)
    assert (result.status, (workspace / "x").exists()) == ("error", False)


def test_ten_commands_at_once_do_not_queue(engine):
    """Commands that each wait for all others to have begun come to their end."""
    tools = engine([{"allow": "command", "effects": "write"}])
    script = "touch began.$0; while [ $(ls began.* | wc -l) -lt 10 ]; do sleep 0.02; done"
    calls = [{"id": str(n), "name": "command", "arguments": {"argv": ["sh", "-c", script, str(n)]}} for n in range(10)]

    async def all_at_once():
        return await asyncio.gather(*map(tools.execute, calls))

    assert {result.status for result in sync.run(all_at_once())} == {"ok"}


def test_what_stands_in_for_something_is_whole_for_commands_that_start_at_once(tmp_path, monkeypatch):
    """While one command's copy of a configuration is being written, another that needs it too waits for it."""
    confinement = Confinement(str(tmp_path), Sandbox(), Patterns([]), Patterns([]))
    begun, write = threading.Event(), Path.write_text

    def write_slowly(path, *arguments):
        path.touch()
        begun.set()
        time.sleep(0.3)
        return write(path, *arguments)

    monkeypatch.setattr(Path, "write_text", write_slowly)
    first = threading.Thread(target=confinement._text, args=("whole",))
    first.start()
    begun.wait(20)

    assert Path(confinement._text("whole")).read_text() == "whole"
    first.join(20)
    confinement.close()
