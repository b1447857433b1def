"""Attacks on the boundary, written with the page on tools as their only guide: what they try does not happen."""

import contextlib
import ctypes
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from blueprint_llm import sync
from blueprint_llm.config.blocks import Tools
from blueprint_llm.tools import ToolEngine, sandbox

ESCAPES = Path(__file__).with_name("tool_cases") / "escapes.py"
CANARY = "canary-91b2c4"
PYTHON = "/usr/bin/python3"
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - another file system than that of temporary files

pytestmark = pytest.mark.skipif(not sandbox.offered("bubblewrap"), reason="bubblewrap does not work here")


@pytest.fixture
def workspace(tmp_path):
    """A workspace with a folder beside it."""
    (tmp_path / "ws/src").mkdir(parents=True)
    (tmp_path / "ws/src/a.py").write_text("x = 1\n")
    (tmp_path / "ws/mount").mkdir()
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside/file").write_text("outside")
    return tmp_path / "ws"


@pytest.fixture
def engine(workspace):
    """Make engines over the workspace that approve everything."""
    with contextlib.ExitStack() as made:

        def make(*rules, **block):
            settings = Tools.model_validate({"rules": list(rules), **block})
            approver = lambda batch: [True] * len(batch)  # noqa: E731 - as short as it is
            return made.enter_context(ToolEngine(workspace=workspace, settings=settings, approver=approver))

        yield make


def run(engine, *argv):
    """Run one command."""
    return sync.run(engine.execute({"id": "1", "name": "command", "arguments": {"argv": list(argv)}}))


def sh(engine, script):
    """Run one script."""
    return run(engine, "sh", "-c", script)


@pytest.fixture
def outside(workspace):
    """What of the user's an escape could reach: a process, sockets by name and by path, a queue, files."""
    queue = f"blueprint-{secrets.token_hex(4)}"
    libc = ctypes.CDLL(None, use_errno=True)
    number = {"x86_64": (240, 241), "aarch64": (180, 181)}[os.uname().machine]
    opened = libc.syscall(number[0], queue.encode(), os.O_CREAT | os.O_RDWR, 0o600, None)
    assert opened >= 0, os.strerror(ctypes.get_errno())
    shm = {"x86_64": (29, 31), "aarch64": (194, 195)}[os.uname().machine]
    segment = libc.syscall(shm[0], 0, 4096, 0o1600)
    victim = subprocess.Popen(["sleep", "64.31"])
    with socket.socket(socket.AF_UNIX) as abstract, socket.socket(socket.AF_UNIX) as named:
        abstract.bind(f"\0{queue}")
        named.bind(str(workspace.parent / "beside/s"))
        for server in (abstract, named):
            server.listen()
        yield {
            "victim": victim.pid,
            "abstract": queue,
            "socket": str(workspace.parent / "beside/s"),
            "queue": queue,
            "segment": segment,
            "outside": str(workspace.parent / "beside"),
            "file": str(workspace / "src/a.py"),
            "secret": str(workspace / "src/.env"),
            "mount": str(workspace / "mount"),
            "is_harmless": False,
        }
    victim.kill()
    victim.wait()
    libc.syscall(number[1], queue.encode())
    os.close(opened)
    libc.syscall(shm[1], segment, 0, None)  # IPC_RMID


@pytest.mark.parametrize(
    ("backend", "effects", "more"),
    [
        pytest.param("bubblewrap", ["read"], {}, id="bubblewrap, read"),
        pytest.param("bubblewrap", ["write"], {}, id="bubblewrap, write"),
        pytest.param("bubblewrap", ["write"], {"loopback": True}, id="bubblewrap, loopback"),
        pytest.param("bubblewrap", ["write", "network"], {}, id="bubblewrap, network"),
        pytest.param("landlock", ["read"], {}, id="Landlock, read"),
        pytest.param("landlock", ["write", "network"], {}, id="Landlock, approved to write and connect"),
    ],
)
def test_no_escape_works(backend, effects, more, engine, workspace, outside):
    """Descriptors, privileges, terminals, processes, sockets, queues, mounts, handles: nothing leads out."""
    if not sandbox.offered(backend):
        pytest.skip(f"{backend} does not work here")
    if backend == "bubblewrap":
        (workspace / "src/.env").write_text(CANARY)
    tools = engine({"allow": "command", "effects": effects}, sandbox={"backend": backend, **more})
    facts = {**outside, "reads": effects == ["read"]}
    result = run(tools, PYTHON, "-c", ESCAPES.read_text(), json.dumps(facts))

    assert "tried" in result.content, result.content
    assert [line for line in result.content.splitlines() if line.startswith("DID")] == []
    assert CANARY not in result.content
    assert result.metadata["sandbox"].startswith(backend)


def test_the_attempts_do_work_without_a_sandbox(engine, workspace, outside):
    """Unconfined, those that harm nobody do succeed: the test above could fail."""
    tools = engine({"allow": "command"}, sandbox={"backend": "none"})
    facts = {**outside, "reads": True, "is_harmless": True}
    result = run(tools, PYTHON, "-c", ESCAPES.read_text(), json.dumps(facts))

    for name in ("signal", "a socket by an abstract name", "a socket by a path outside", "a message queue",
                 "no filter", "watch the outside", "a program in memory", "list the outside",
                 "shared memory by number"):  # fmt: skip
        assert f"DID {name}" in result.content, name


@pytest.mark.parametrize("name", ["objects", "refs", "hooks", "node_modules", "site-packages"])
def test_a_denied_file_is_hidden_in_folders_of_any_name(name, engine, workspace):
    """A project may have a folder called as one of git's or of a package manager's; a rule holds in it too."""
    (workspace / f"src/{name}/deep").mkdir(parents=True)
    (workspace / f"src/{name}/deep/.env").write_text(CANARY)
    (workspace / f"src/{name}/deep/private.txt").write_text(CANARY)
    for other in ("HEAD", "refs/x", "objects/x", "commondir"):
        (workspace / "src" / other).parent.mkdir(exist_ok=True)
        (workspace / "src" / other).write_text("x")
    tools = engine({"allow": "command"}, {"deny": "*", "paths": ["**/private.txt", "**/.env*"]})

    assert CANARY not in run(tools, "grep", "-r", "canary", ".").content


SECRETS = [".env~", ".env2", ".environment", ".envrc.bak", "src/.env.prod.old", ".env\n", "x\n.pem"]
KEYS = ["id_rsa", "id_ed25519_sk", "id_rsa_work", "id_rsa-github", "id_ecdsa.old", "id_rsa.1", "id_dsa~", "id_xmss"]


@pytest.mark.parametrize("name", [*SECRETS, *KEYS])
def test_every_name_that_begins_as_a_secret_does_is_hidden(name, engine, workspace):
    """The page says `.env*`, and `id_*` of private keys."""
    (workspace / name).write_text(CANARY)

    assert CANARY not in run(engine({"allow": "command"}), "grep", "-r", "canary", ".").content


@pytest.mark.parametrize("name", ["id_rsa.pub", "id_ed25519_sk.pub", "id_rsa_parser.py", "id_card"])
def test_what_is_no_private_key_is_not_hidden(name, engine, workspace):
    """Public keys, and programs about keys, are files as others."""
    (workspace / name).write_text(CANARY)

    assert CANARY in run(engine({"allow": "command"}), "cat", name).content


def test_a_file_beside_a_folder_of_objects_is_no_git_configuration(engine, workspace):
    """Only what is a repository has its `config` replaced by an inert copy."""
    (workspace / "src/objects").mkdir()
    (workspace / "src/config").write_text("[section]\nprogram = mine\n")

    assert "program = mine" in run(engine({"allow": "command"}), "cat", "src/config").content


def test_a_command_cannot_change_the_engine_s_own_environment(engine, workspace, monkeypatch):
    """Where the running Python lies in the workspace, its files are kept: we load them, unconfined, in the same run."""
    packages = workspace / "env/lib/site-packages"
    packages.mkdir(parents=True)
    (packages / "later.py").write_text("mine")
    monkeypatch.setattr(sys, "prefix", str(workspace / "env"))
    script = (
        "echo x > env/lib/site-packages/later.py; echo x > env/lib/site-packages/new.pth; mv env other;"
        "rm -rf env; echo x > free"
    )
    sh(engine({"allow": "command", "effects": "write"}), script)

    assert {path.name: path.read_text() for path in packages.iterdir()} == {"later.py": "mine"}
    assert (workspace / "free").exists()


PLANTS = {
    "a git file to a repository with programs": (
        "mkdir -p sub evil/refs evil/objects; echo ref: refs/heads/x > evil/HEAD; echo 'gitdir: ../evil' > sub/.git;"
        "printf '[core]\\n fsmonitor = touch ../planted; false\\n' > evil/config"
    ),
    "a repository in a folder called objects": (
        "mkdir -p x/refs x/objects; git init -q x/objects/sub; cp -r x/objects/sub sub;"
        "git -C sub config core.fsmonitor 'touch ../planted; false'"
    ),
    "a submodule's repository": (
        "mkdir -p .git/modules/s sub; git init -q --bare .git/modules/s; echo 'gitdir: ../.git/modules/s' > sub/.git;"
        "git -C .git/modules/s config core.fsmonitor 'touch ../planted; false';"
        "git -C .git/modules/s config core.bare false; git -C .git/modules/s config core.worktree ../../../sub"
    ),
    "a worktree's configuration": (
        "git init -q sub; git -C sub config extensions.worktreeConfig true;"
        "printf '[core]\\n fsmonitor = touch ../planted; false\\n' > sub/.git/config.worktree"
    ),
    "an included file": (
        "git init -q sub; printf '[core]\\n fsmonitor = touch ../planted; false\\n' > inc;"
        "git -C sub config include.path ../../inc"
    ),
    "hooks elsewhere": (
        "git init -q sub; mkdir h; printf '#!/bin/sh\\ntouch ../planted\\n' > h/post-index-change; chmod +x h/*;"
        "git -C sub config core.hooksPath ../h"
    ),
    "hooks by a link": (
        "git init -q sub; rm -rf sub/.git/hooks; mkdir h; ln -s ../../h sub/.git/hooks;"
        "printf '#!/bin/sh\\ntouch ../planted\\n' > h/post-index-change; chmod +x h/*"
    ),
    "a hook": (
        "git init -q sub; printf '#!/bin/sh\\ntouch ../planted\\n' > sub/.git/hooks/post-index-change;"
        "chmod +x sub/.git/hooks/*"
    ),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_nothing_that_a_command_leaves_runs_when_the_user_calls_git(plant, engine, workspace):
    """Whatever repository it makes or changes, the user's own `git status` and `git add` there run no program of it."""
    subprocess.run(["git", "init", "-q", str(workspace)], check=True)
    sh(engine({"allow": "command", "effects": "write"}), PLANTS[plant])
    (workspace / "sub/new").write_text("x")
    for words in (["status"], ["add", "-A"], ["diff"]):
        subprocess.run(["git", *words], cwd=workspace / "sub", capture_output=True, check=False)

    assert not list(workspace.rglob("planted"))


@pytest.mark.parametrize("plant", ["a worktree's configuration", "hooks elsewhere", "hooks by a link", "a hook"])
def test_the_plants_would_run_without_a_sandbox(plant, engine, workspace):
    """Left by an unconfined command, the same plants do run: the test above could fail."""
    sh(engine({"allow": "command"}, sandbox={"backend": "none"}), PLANTS[plant])
    (workspace / "sub/new").write_text("x")
    for words in (["status"], ["add", "-A"]):
        subprocess.run(["git", *words], cwd=workspace / "sub", capture_output=True, check=False)

    assert list(workspace.rglob("planted"))


@pytest.mark.parametrize(("tree", "stays"), [("{beside}", False), ("../../../beside", False), ("..", True)])
def test_a_new_repository_s_working_tree_is_not_outside(tree, stays, engine, workspace):
    """The user's git would write there what a command has recorded."""
    place = tree.format(beside=workspace.parent / "beside")
    script = f"git init -q sub && git -C sub config core.worktree {place} && grep -c worktree sub/.git/config"
    result = sh(engine({"allow": "command", "effects": "write"}), script)

    assert result.content.startswith("exit code 0")
    assert ("worktree" in (workspace / "sub/.git/config").read_text()) is stays


def test_git_s_objects_are_what_the_page_says(engine, workspace):
    """What was committed can be printed from `.git`, also of a denied path; denying `.git` closes that."""
    subprocess.run(["git", "init", "-q", str(workspace)], check=True)
    (workspace / "private").mkdir()
    (workspace / "private/p.txt").write_text(CANARY)
    identity = ["-c", "user.name=u", "-c", "user.email=u@x"]
    for words in (["add", "-A"], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=workspace, check=True)
    private = {"deny": "*", "paths": ["private/**"]}
    log = ["git", "log", "-p", "--all"]

    assert CANARY in run(engine({"allow": "command"}, private), *log).content
    assert CANARY not in run(engine({"allow": "command"}, private), "grep", "-r", "canary", ".").content
    shut = engine({"allow": "command"}, private, {"deny": "*", "paths": [".git/**"]})
    assert CANARY not in run(shut, *log).content
    assert "find: " not in run(shut, "find", ".git", "-type", "f").content


def test_a_repository_s_alternates_lead_nowhere_outside(engine, workspace):
    """Objects of another repository of the user's are not in reach, though the repository names them."""
    other = workspace.parent / "beside/other"
    subprocess.run(["git", "init", "-q", str(other)], check=True)
    (other / "f").write_text(CANARY)
    identity = ["-c", "user.name=u", "-c", "user.email=u@x"]
    for words in (["add", "-A"], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=other, check=True)
    subprocess.run(["git", "clone", "-q", "-s", str(other), str(workspace / "clone")], check=True)

    assert CANARY not in run(engine({"allow": "command"}), "git", "-C", "clone", "show", "HEAD:f").content


def test_the_environment_holds_no_way_out(engine, workspace, monkeypatch):
    """Buses, agents, editors and pagers of the user are not named to a command, nor to git."""
    for name in ("DBUS_SESSION_BUS_ADDRESS", "SSH_AUTH_SOCK", "GPG_AGENT_INFO", "XDG_RUNTIME_DIR", "DISPLAY",
                 "WAYLAND_DISPLAY", "EDITOR", "VISUAL", "PAGER", "LESSOPEN", "GIT_EXTERNAL_DIFF", "GIT_SSH_COMMAND",
                 "GIT_ASKPASS", "SSH_ASKPASS", "RIPGREP_CONFIG_PATH", "PYTEST_PLUGINS", "PYTEST_ADDOPTS"):  # fmt: skip
        monkeypatch.setenv(name, CANARY)
    tools = engine({"allow": "command", "effects": ["write", "network"]})

    assert CANARY not in run(tools, "env").content
    assert CANARY not in run(tools, "git", "-c", "alias.e=!env", "e").content


LOADS_CODE = ["LD_PRELOAD", "GCONV_PATH", "BASH_FUNC_ls%%", "SHELLOPTS", "PERLLIB", "NODE_PATH", "_JAVA_OPTIONS"]
LOADS_CODE += ["TAR_OPTIONS", "RIPGREP_CONFIG_PATH", "MAKEFLAGS", "LUA_INIT", "DOTNET_STARTUP_HOOKS"]


@pytest.mark.parametrize("name", [*LOADS_CODE, "SSH_PASSPHRASE", "DB_PASS", "API_KEY"])
def test_what_loads_code_or_is_a_secret_is_not_passed_on_even_if_it_is_listed(name, engine, monkeypatch):
    """Beside `env.pass`, names of what programs load code by, and of secrets, are left out."""
    monkeypatch.setenv(name, CANARY)
    monkeypatch.setenv("PLAIN", "plain")
    tools = engine({"allow": "command"}, env={"pass": ["PATH", "PLAIN", name]})
    found = run(tools, "env").content

    assert "PLAIN=plain" in found
    assert CANARY not in found


def test_what_the_user_s_git_reads_and_runs_is_kept(engine, workspace):
    """Where the configuration names a folder of hooks or includes a file of the workspace, no command changes them."""
    subprocess.run(["git", "init", "-q", str(workspace)], check=True)
    (workspace / "tools/hooks").mkdir(parents=True)
    (workspace / "shared.cfg").write_text("[user]\nname = u\n")
    for key, value in (("core.hooksPath", "tools/hooks"), ("include.path", "../shared.cfg")):
        subprocess.run(["git", "config", key, value], cwd=workspace, check=True)
    script = "echo x > tools/hooks/pre-commit; mv tools t; rm shared.cfg; echo x >> shared.cfg; echo x > free"
    sh(engine({"allow": "command", "effects": "write"}), script)

    assert list((workspace / "tools/hooks").iterdir()) == []
    assert (workspace / "shared.cfg").read_text() == "[user]\nname = u\n"
    assert (workspace / "free").exists()


ODD = {
    "pipes of protected names": "mkfifo .bashrc .aaa",
    "a git configuration that is a pipe": "mkdir -p x/objects x/refs; mkfifo x/config",
    "an index that is a pipe": "rm -f .git/index; mkfifo .git/index",
    "an index that never ends": "rm -f .git/index; ln -s /dev/zero .git/index",
    "a socket": f"{PYTHON} -c \"import socket; socket.socket(socket.AF_UNIX).bind('.profile')\"",
    "a folder that cannot be written": "mkdir a; echo x > a/AGENTS.md; chmod 555 a",
    "a path too long to be named": (
        f"{PYTHON} -c \"import os\nfor n in range(40): os.mkdir('d' * 200); os.chdir('d' * 200)\nopen('.envrc', 'w')\""
    ),
    "a huge git configuration": "mkdir -p x/objects x/refs; head -c 3000000 /dev/zero > x/config",
    "names that are no text": "mkdir \"$(printf 'a\\377b')\"; echo x > \"$(printf 'a\\377b')/CLAUDE.md\"",
}


@pytest.mark.parametrize("odd", ODD)
def test_whatever_a_command_leaves_the_rest_is_put_right(odd, engine, workspace, monkeypatch, tmp_path_factory):
    """Pipes, sockets, endless files, folders of any depth: what is protected is taken out, and nothing hangs."""
    subprocess.run(["git", "init", "-q", str(workspace)], check=True)
    (workspace / ".env").write_text(CANARY)
    if Path(SHARED_MEMORY).is_dir():  # another file system than the workspace's: files there are copied, not renamed
        monkeypatch.setenv(
            "BLUEPRINT_HOME", f"{SHARED_MEMORY}/{tmp_path_factory.getbasetemp().name}-{secrets.token_hex(4)}"
        )
    tools = engine({"allow": "command", "effects": "write"})
    first = sh(tools, f"{ODD[odd]}; mkdir -p zzz/.vscode; echo x > zzz/.vscode/tasks.json; echo x > zzz/CLAUDE.md")
    again = run(tools, "cat", ".env")
    shutil.rmtree(os.environ["BLUEPRINT_HOME"], ignore_errors=True)

    assert "needs a person's yes" in first.content
    assert list((workspace / "zzz").iterdir()) == []
    names = {name for folder in os.walk(workspace) for name in folder[2]}
    assert not names & {"AGENTS.md", "CLAUDE.md", ".bashrc", ".profile"}
    assert CANARY not in again.content


def test_an_approval_holds_only_as_far_as_the_kernel_did(engine, workspace, monkeypatch):
    """Approved for always with a sandbox, a command asks again where there is none."""
    asked = []
    tools = engine({"ask": "command", "effects": "read"})
    tools.approver = lambda batch: asked.append(batch) or [{"decision": "approve", "scope": "always"}]
    run(tools, "ls")
    run(tools, "ls")
    assert len(asked) == 1

    monkeypatch.setattr(sandbox, "offered", lambda _: False)
    fresh = engine({"ask": "command", "effects": "read"})
    fresh.approver = lambda batch: asked.append(batch) or [False]
    assert run(fresh, "ls").status == "denied"
    assert "cannot confine" in "".join(asked[-1][0].reasons)


def test_rules_hold_whatever_the_case_where_files_have_none(engine, workspace, monkeypatch):
    """Where the file system ignores case (macOS), a denied folder is denied however it is spelled."""
    monkeypatch.setattr("blueprint_llm.tools.boundary._CASE", re.IGNORECASE)
    tools = engine({"allow": "read_file"}, {"deny": "read_file", "paths": ["private/**"]})

    assert tools.check("read_file", {"path": "PRIVATE/x"}).decision == "deny"
    assert tools.check("read_file", {"path": "src/a.py"}).decision == "allow"


def test_what_cannot_be_carried_away_loses_its_name(engine, workspace, monkeypatch):
    """Where the library's folder cannot take a protected file, it stays beside, under a name nobody acts on."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "move", full)
    result = sh(engine({"allow": "command", "effects": "write"}), "echo mine > CLAUDE.md")

    assert not (workspace / "CLAUDE.md").exists()
    assert [path.read_text() for path in workspace.glob("taken-*")] == ["mine\n"]
    assert "was moved to" in result.content


def test_what_cannot_be_taken_away_at_all_is_told(engine, workspace, monkeypatch):
    """A file that cannot even be renamed is named in the result."""

    def refused(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "rename", refused)
    result = sh(engine({"allow": "command", "effects": "write"}), "echo mine > CLAUDE.md")

    assert "CLAUDE.md, which the command made, needs a person's yes, and could not be taken away" in result.content


def test_a_hidden_folder_with_more_than_can_be_masked_is_covered_whole(engine, workspace):
    """A folder that git tracks shows stand-ins for its files, unless there are too many of them to be masked."""
    subprocess.run(["git", "init", "-q", str(workspace)], check=True)
    (workspace / "private").mkdir()
    for number in range(400):
        (workspace / f"private/{number}").write_text(CANARY)
    subprocess.run(["git", "add", "-A"], cwd=workspace, check=True)
    result = sh(engine({"allow": "command"}, {"deny": "*", "paths": ["private/**"]}), "ls pri*; grep -r canary .")

    assert result.content.splitlines()[0] == "exit code 1"
    assert CANARY not in result.content
    assert "399" not in result.content
