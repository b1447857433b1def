"""What is exchanged between a decision and its act, or by one command under another's feet, changes nothing."""

import contextlib
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from blueprint_llm import sync
from blueprint_llm.config.blocks import Tools
from blueprint_llm.tools import ApprovalDecision, ToolEngine, sandbox
from blueprint_llm.tools.execution import Surroundings
from blueprint_llm.tools.files import Journal

CANARY = "canary-5e1d77"
PYTHON = "/usr/bin/python3"
PRIVATE = {"deny": "*", "paths": ["private/**"]}
WRITING = {"allow": "command", "effects": "write"}
needs_bubblewrap = pytest.mark.skipif(not sandbox.offered("bubblewrap"), reason="bubblewrap does not work here")


@pytest.fixture
def workspace(tmp_path):
    """A workspace with a denied file, one that runs later, and a link to a harmless one."""
    root = tmp_path / "ws"
    (root / "private").mkdir(parents=True)
    (root / "private/p.txt").write_text(f"{CANARY}\n")
    (root / "conftest.py").write_text("mine\n")
    (root / "plain").write_text("mine\n")
    (root / "link").symlink_to("plain")
    return root


@pytest.fixture
def engine(workspace):
    """Make engines over the workspace; `meanwhile` runs once between a call's decision and its act."""
    with contextlib.ExitStack() as made:

        def make(*rules, meanwhile=lambda: None, approver=None, **block):
            left = [meanwhile]

            def clock():
                if left:
                    left.pop()()
                return time.time()

            settings = Tools.model_validate({"rules": list(rules), **block})
            world = Surroundings(clock=clock)
            return made.enter_context(
                ToolEngine(workspace=workspace, settings=settings, approver=approver, surroundings=world)
            )

        yield make


def call(engine, name, **arguments):
    """Run one call."""
    return sync.run(engine.execute({"id": "1", "name": name, "arguments": arguments}))


def sh(engine, script):
    """Run one script."""
    return call(engine, "command", argv=["sh", "-c", script])


def lead(link, target):
    """Have a link lead elsewhere."""
    link.unlink()
    link.symlink_to(target)


@pytest.mark.parametrize(
    ("tool", "arguments", "target"),
    [
        ("read_file", {"path": "link"}, "private/p.txt"),
        ("search_files", {"path": "link", "pattern": "canary"}, "private/p.txt"),
        ("write_file", {"path": "link", "content": "theirs\n"}, "conftest.py"),
        ("patch", {"patch": "*** Begin Patch\n*** Update File: link\n-mine\n+theirs\n*** End Patch"}, "conftest.py"),
    ],
)
def test_a_file_tool_acts_on_what_was_judged(tool, arguments, target, engine, workspace):
    """A link that leads elsewhere once its call is decided neither shows a denied file nor changes a protected one."""
    rules = [{"allow": ["read_file", "search_files", "write_file", "patch"]}]
    found = call(engine(*rules, PRIVATE, meanwhile=lambda: lead(workspace / "link", target)), tool, **arguments)

    assert CANARY not in found.content
    assert (workspace / "conftest.py").read_text() == "mine\n"


def test_an_approval_for_the_session_does_not_follow_a_link(engine, workspace):
    """The same arguments lead to another file: that is asked again."""
    asked = []

    def approve(batch):
        asked.extend(batch)
        return [ApprovalDecision(decision="approve", scope="session")] * len(batch)

    tools = engine(approver=approve)
    call(tools, "write_file", path="link", content="x")
    call(tools, "write_file", path="link", content="x")
    assert len(asked) == 1
    lead(workspace / "link", "conftest.py")
    call(tools, "write_file", path="link", content="x")

    assert [("conftest.py" in "".join(item.reasons)) for item in asked] == [False, True]


@pytest.mark.parametrize("gone", ["removed", "a link", "a file", "a folder of its name"])
def test_what_stands_in_the_way_of_recovery_stops_no_engine(gone, engine, workspace, monkeypatch):
    """A killed patch is finished as far as it can be, and the engine opens and writes."""
    for name in ("a", "b"):
        (workspace / name).mkdir()
        (workspace / name / "x").write_text("1\n")
    edits = "".join(f"*** Update File: {name}/x\n-1\n+2\n" for name in "ab")
    with monkeypatch.context() as killed:
        killed.setattr(Journal, "_finish", lambda *_: 1 / 0)
        call(engine({"allow": "*"}), "patch", patch=f"*** Begin Patch\n{edits}*** End Patch")
    shutil.rmtree(workspace / "a")
    if gone == "a link":
        (workspace / "a").symlink_to("/")
    elif gone == "a file":
        (workspace / "a").write_text("")
    elif gone == "a folder of its name":
        (workspace / "a/x/deep").mkdir(parents=True)
    tools = engine({"allow": "*"})

    assert (workspace / "b/x").read_text() == "2\n"
    assert call(tools, "write_file", path="c", content="x").status == "ok"
    assert not list(workspace.rglob(".blueprint-*"))


def test_a_search_does_not_read_a_denied_file_under_another_name(engine, workspace):
    """Files with several hard links are left out of a search, which says so."""
    os.link(workspace / "private/p.txt", workspace / "public.txt")
    found = call(engine({"allow": "search_files"}, PRIVATE), "search_files", pattern="canary")

    assert CANARY not in found.content
    assert "1 files with several hard links were not searched, such as public.txt" in found.content


@pytest.mark.slow
@needs_bubblewrap
def test_a_command_that_exchanges_folders_opens_no_way_out_for_another(engine, workspace):
    """Folders that a running command made, with names that have to be hidden, are mounted for no other one."""
    outside = workspace.parent / "outside"
    outside.mkdir()
    (workspace / "swap.py").write_text(
        "import ctypes, os, time\n"
        f"os.mkdir('x'); open('x/.env', 'w').close(); os.symlink({str(outside)!r}, 'y'); libc = ctypes.CDLL(None)\n"
        "end = time.time() + 4\n"
        "while time.time() < end: libc.renameat2(-100, b'x', -100, b'y', 2); time.sleep(0.001)\n"
    )
    tools = engine(WRITING, PRIVATE)
    swapping = threading.Thread(target=sh, args=(tools, f"exec {PYTHON} swap.py"))
    swapping.start()
    while not os.path.lexists(workspace / "y"):
        time.sleep(0.01)
    refused = []
    while swapping.is_alive():
        refused.append(sh(tools, "touch x/here y/here").content)
    swapping.join()

    assert list(outside.iterdir()) == []
    assert "made while a command runs" in "".join(refused)
    assert sh(tools, "ls").status == "ok"


@needs_bubblewrap
@pytest.mark.parametrize("first", ["a part of it", "all of it"])
def test_who_sees_a_part_and_who_may_write_run_by_turns(first, engine, workspace):
    """The part could be exchanged for a link out of the workspace while it is mounted."""
    part = {"allow": "command", "argv": ["cat"], "paths": ["pipes/**"]}
    tools = engine(part, {"allow": "command", "argv": ["sh"], "effects": "write"})
    (workspace / "pipes").mkdir()
    os.mkfifo(workspace / "pipes/p")
    cat = ["cat", "pipes/p"]
    words = [cat, ["sh", "-c", "ls"]] if first == "a part of it" else [["sh", "-c", "exec cat pipes/p"], cat]
    running = threading.Thread(target=call, args=(tools, "command"), kwargs={"argv": words[0]})
    running.start()
    with (workspace / "pipes/p").open("w"):  # which waits for its reader
        refused = call(tools, "command", argv=words[1])
    running.join()

    assert "run by turns" in refused.content
    assert call(tools, "command", argv=["sh", "-c", "ls"]).status == "ok"


# What git reads and runs.


GIT_PLANTS = {
    "a common folder elsewhere": (
        [],
        """mkdir -p node_modules/x/refs node_modules/x/objects; cp .git/HEAD node_modules/x
        echo ../node_modules/x > .git/commondir; echo "$EVIL" > node_modules/x/config""",
    ),
    "a file that an included one includes": (
        ["git config include.path ../a.inc", "printf '[include]\\n path = b.inc\\n' > a.inc", ": > b.inc"],
        'echo "$EVIL" > b.inc',
    ),
    "an included file that is not there yet": (["git config include.path ../a.inc"], 'echo "$EVIL" > a.inc'),
    "hooks that are not there yet": (
        ["git config core.hooksPath tools/h"],
        'mkdir -p tools/h; echo "$HOOK" > tools/h/post-index-change; chmod +x tools/h/*',
    ),
    "hooks that are not there yet, by a link": (
        ["git config core.hooksPath tools/h"],
        'mkdir -p x/h; ln -s x tools; echo "$HOOK" > x/h/post-index-change; chmod +x x/h/*',
    ),
    "a submodule that is called as a folder of packages": (
        [
            "git init -q --bare .git/modules/node_modules/x",
            "git config -f .git/modules/node_modules/x/config core.bare false",
            "mkdir sub; echo gitdir: ../.git/modules/node_modules/x > sub/.git",
            "git config -f .git/modules/node_modules/x/config core.worktree ../../../../sub",
        ],
        "git config -f .git/modules/node_modules/x/config core.fsmonitor 'touch planted; false'",
    ),
}


@needs_bubblewrap
@pytest.mark.parametrize("confined", [True, pytest.param(False, id="the plants would run without a sandbox")])
@pytest.mark.parametrize("plant", GIT_PLANTS)
def test_what_git_reads_from_elsewhere_is_kept(plant, confined, engine, workspace, monkeypatch):
    """A command neither changes nor makes what git's configuration leads to."""
    monkeypatch.setenv("EVIL", "[core]\n repositoryformatversion = 0\n fsmonitor = touch planted; false")
    monkeypatch.setenv("HOOK", "#!/bin/sh\ntouch planted")
    for script in ("git init -q", *GIT_PLANTS[plant][0]):
        subprocess.run(["sh", "-c", script], cwd=workspace, check=True)
    block = {} if confined else {"sandbox": {"backend": "none"}}
    sh(engine(WRITING, env={"pass": ["PATH", "EVIL", "HOOK"]}, **block), GIT_PLANTS[plant][1])
    place = workspace / "sub" if (workspace / "sub").is_dir() else workspace
    (place / "new").write_text("x")
    for words in (["status"], ["add", "new"]):
        subprocess.run(["git", *words], cwd=place, capture_output=True, check=False)

    assert bool(list(workspace.rglob("planted"))) is not confined


@needs_bubblewrap
@pytest.mark.parametrize("kind", ["a repository inside", "a submodule"])
def test_git_in_another_working_tree_records_no_hidden_file_as_empty(kind, engine, workspace):
    """Hidden files look unchanged there too, and with changes git does not run."""
    identity = ["-c", "user.name=u", "-c", "user.email=u@x"]
    sub = workspace / "sub"
    subprocess.run(["git", "init", "-q"], cwd=workspace, check=True)
    subprocess.run(["git", "init", "-q", str(sub)], check=True)
    if kind == "a submodule":
        subprocess.run(["git", "submodule", "absorbgitdirs"], cwd=workspace, check=True)
        (workspace / ".git/modules").mkdir(exist_ok=True)
        if (sub / ".git").is_dir():
            (sub / ".git").rename(workspace / ".git/modules/sub")
            (sub / ".git").write_text("gitdir: ../.git/modules/sub\n")
    for name, text in ((".env", CANARY), ("a", "1")):
        (sub / name).write_text(text)
        os.utime(sub / name, (1_600_000_000, 1_600_000_000))
    for words in (["add", "-A"], [*identity, "commit", "-qm", "1"]):
        subprocess.run(["git", *words], cwd=sub, check=True)
    (sub / "a").write_text("22")
    tools = engine(WRITING)
    commit = ["git", "-C", "sub", *identity, "commit", "-qam", "2"]
    call(tools, "command", argv=commit)
    shown = subprocess.run(["git", "show", "HEAD:.env"], cwd=sub, capture_output=True, text=True, check=True)
    changed = subprocess.run(["git", "show", "--stat"], cwd=sub, capture_output=True, text=True, check=True)
    (sub / ".env").write_text("changed")

    assert shown.stdout == CANARY
    assert "1 file changed" in changed.stdout
    assert "git would record it as empty" in call(tools, "command", argv=commit).content


# What is listed beside the workspace.


@needs_bubblewrap
@pytest.mark.parametrize("how", ["a folder above", "a link to it"])
@pytest.mark.parametrize("key", ["read", "write"])
def test_a_listed_folder_with_the_workspace_in_it_uncovers_nothing(how, key, engine, workspace):
    """Hidden, kept and unseen parts are so under every name, whatever is listed beside."""
    above = workspace.parent
    if how == "a link to it":
        above = workspace.parent.parent / f"{workspace.parent.name}-link"
        above.symlink_to(workspace.parent)
    (workspace.parent / "beside").write_text("beside")
    (workspace / ".bashrc").write_text("mine")
    (workspace / "src").mkdir()
    (workspace / "src/a").write_text("seen")
    ws = above / "ws"
    script = f"cat {above}/beside {ws}/src/a {ws}/pri*/p.txt {ws}/plain; echo x > {ws}/.bashrc; echo x > {ws}/new"
    block = {"sandbox": {key: [str(above)]}}
    whole = sh(engine(WRITING, PRIVATE, **block), script)
    part = sh(engine({**WRITING, "paths": ["src/**"]}, **block), script.replace("new", "other"))

    assert "besideseen" in whole.content
    assert "besideseen" in part.content
    assert CANARY not in whole.content + part.content
    assert "mine" not in part.content
    assert (workspace / ".bashrc").read_text() == "mine"
    assert not (workspace / "other").exists()


@needs_bubblewrap
@pytest.mark.parametrize("key", ["read", "write"])
def test_a_listed_folder_of_the_workspace_cannot_become_a_way_out(key, engine, workspace):
    """A command that exchanges it for a link gains nothing for the next one."""
    (workspace.parent / "outside").mkdir()
    (workspace.parent / "outside/file").write_text(CANARY)
    (workspace / "dist").mkdir()
    tools = engine(WRITING, sandbox={key: [str(workspace / "dist")]})
    first = sh(tools, f"rmdir dist && ln -s {workspace.parent}/outside dist")
    second = sh(tools, "cat dist/file; echo x > dist/new")

    assert first.status == "ok"
    assert CANARY not in second.content
    assert [path.name for path in (workspace.parent / "outside").iterdir()] == ["file"]


@needs_bubblewrap
def test_the_library_s_folders_are_hidden_under_another_name(engine, workspace, monkeypatch):
    """A listed link to where the keys lie shows none of them."""
    home = workspace.parent / "home/library"
    monkeypatch.setenv("BLUEPRINT_HOME", str(home))
    (workspace.parent / "link").symlink_to(workspace.parent / "home")
    tools = engine({"allow": "command"}, sandbox={"read": [str(workspace.parent / "link")]})
    call(tools, "command", argv=["ls"])
    found = call(tools, "command", argv=["find", f"{workspace.parent}/link/", "-type", "f"])

    assert list(home.rglob("tools.key"))
    assert "tools.key" not in found.content


@pytest.mark.parametrize("backend", [pytest.param("bubblewrap", marks=needs_bubblewrap), "landlock"])
def test_a_part_is_what_has_its_name_now(backend, engine, workspace):
    """Files and folders that were replaced since the last command are seen, and what was moved away is not."""
    if not sandbox.offered(backend):
        pytest.skip(f"{backend} does not work here")
    (workspace / "src").mkdir()
    (workspace / "src/a").write_text("old")
    rules = [{"allow": "command", "paths": ["src/**", "plain"]}, {"allow": "write_file"}]
    tools = engine(*rules, sandbox={"backend": backend})
    assert "old" in sh(tools, "cat src/a plain").content
    (workspace / "src").rename(workspace / "moved")
    (workspace / "src").mkdir()
    (workspace / "src/a").write_text("new")
    call(tools, "write_file", path="plain", content="written")
    found = sh(tools, "cat src/a plain moved/a")

    assert "newwritten" in found.content
    assert "old" not in found.content


@pytest.mark.skipif(not os.access("/opt", os.W_OK), reason="needs a workspace among the system's folders")
@pytest.mark.parametrize("backend", [pytest.param("bubblewrap", marks=needs_bubblewrap), "landlock"])
def test_a_part_of_a_workspace_among_the_system_s_folders(backend):
    """It is all that is seen of it, or the command asks."""
    if not sandbox.offered(backend):
        pytest.skip(f"{backend} does not work here")
    root = Path("/opt") / f"blueprint-{os.getpid()}"
    (root / "src").mkdir(parents=True)
    (root / "src/a").write_text("seen")
    (root / "other").write_text(CANARY)
    settings = Tools.model_validate(
        {"rules": [{"allow": "command", "paths": ["src/**"]}], "sandbox": {"backend": backend}}
    )
    with ToolEngine(workspace=root, settings=settings) as tools:
        decision = tools.check("command", {"argv": ["cat", "other"]})
        found = call(tools, "command", argv=["cat", "src/a", "other"])
    shutil.rmtree(root)

    assert CANARY not in found.content
    assert decision.decision == ("allow" if backend == "bubblewrap" else "ask")
    assert backend == "landlock" or "seen" in found.content
