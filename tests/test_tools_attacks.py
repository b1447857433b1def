"""Attacks are judged by what happens: nothing beyond the effects of the rule that let them run."""

import asyncio
import json
import shlex
import sys
from pathlib import Path

import pytest

from blueprint_llm import sync
from blueprint_llm.config.blocks import Tools
from blueprint_llm.tools import ToolEngine, sandbox

CASES = Path(__file__).with_name("tool_cases")
SHARED = next(
    (above / "shared" for above in Path(__file__).parents if (above / "shared/corpora").is_dir()), Path("none")
)
CORPUS = SHARED / "corpora/tool_rules.jsonl"
CANARY = "canary-20e1b7"
SETUP = {
    "files": {"src/app.py": "print(1)\n", "README.md": "hello\n", ".env": f"K={CANARY}\n", "private/p.txt": CANARY},
    "symlinks": {"link_etc": "/etc", "in": "src", "up": "..", "dangling": "/tmp/PWNED"},  # noqa: S108 - where attacks write
}
MARKS = [Path("/tmp/PWNED"), Path("/tmp/x"), Path("/tmp/z.zip")]  # noqa: S108 - where the attacks of the cases write
HIDES = {"deny": "*", "paths": ["private/**"]}

pytestmark = pytest.mark.skipif(not sandbox.offered("bubblewrap"), reason="bubblewrap does not work here")


def corpus():
    """The commands of the shared corpus that are attacks, and those that are harmless."""
    rows = [json.loads(line) for line in CORPUS.read_text().split("\n") if line] if CORPUS.exists() else []
    rows = [row for row in rows if row["tool"] == "command" and row["category"] != "validation"]
    return [row for row in rows if row["accept"] != ["allow"]], [row for row in rows if row["accept"] == ["allow"]]


def own_attacks():
    """The attacks of this repository."""
    lines = (CASES / "attacks.txt").read_text().splitlines()
    return [shlex.split(line) for line in lines if line and not line.startswith("#")]


def furnish(root):
    """Fill a workspace."""
    for name, text in SETUP["files"].items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name, target in SETUP["symlinks"].items():
        (root / name).symlink_to(target)
    (root / "bin").mkdir()
    for name in ("git", "pre"):
        (root / "bin" / name).write_text("#!/bin/sh\ntouch /tmp/PWNED\n")
        (root / "bin" / name).chmod(0o755)
    (root.parent / "outside.txt").write_text("root\n")


def state(root):
    """Everything of a folder that an attack could change."""
    found = {}
    for path in sorted(root.rglob("*")):
        content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else ""
        found[str(path)] = (path.lstat().st_mode, content)
    return found


async def carried_out(root, calls):
    """Run every call under its own rules, eight at a time; the results of those that a rule let run."""
    places, results = asyncio.Semaphore(8), []

    async def one(rules, arguments):
        settings = Tools.model_validate({"rules": rules, "limits": {"timeout_s": 3, "stop_output_mb": 1}})
        async with places, ToolEngine(workspace=root, settings=settings) as engine:
            if engine.check("command", arguments).decision == "allow":
                result = await engine.execute({"id": "1", "name": "command", "arguments": arguments})
                results.append((arguments, result))

    async with asyncio.TaskGroup() as group:
        for rules, arguments in calls:
            group.create_task(one(rules, arguments))
    return results


def assert_nothing_happened(root, home, calls):
    """Carry out calls that may read: no file is changed anywhere, and no hidden byte comes out."""
    marks = [mark for mark in MARKS if not mark.exists()]
    before, outside = state(root), state(home)
    results = sync.run(carried_out(root, calls))

    assert [mark for mark in marks if mark.exists()] == []
    assert state(root) == before
    assert {name: kept for name, kept in state(home).items() if "blueprint_home" not in name} == {
        name: kept for name, kept in outside.items() if "state" not in name
    }
    assert (root.parent / "outside.txt").read_text() == "root\n"
    assert [arguments for arguments, result in results if CANARY in result.content] == []
    assert {result.metadata["sandbox"] for _, result in results if "sandbox" in result.metadata} <= {
        "bubblewrap (read)"
    }
    return results


@pytest.fixture
def workspace(tmp_path):
    """A furnished workspace."""
    root = tmp_path / "ws"
    root.mkdir()
    furnish(root)
    return root


@pytest.mark.slow
def test_no_attack_of_the_corpus_has_an_effect_beyond_its_rule(workspace, bare_environment, capsys):
    """Each is carried out with the rule it abuses: it reads at most, and no denied file."""
    attacks, _ = corpus()
    if not attacks:
        with capsys.disabled():
            print(f"\nNOTICE: {CORPUS.name} is not beside this checkout; its attacks did not run", file=sys.stderr)
    calls = []
    for case in attacks:
        rules = [
            {kind: "command", "argv": row["argv"]}
            for kind in ("allow", "ask", "deny")
            for row in case["policy"][kind]
            if row["tool"] == "command" and "argv" in row
        ]
        arguments = json.loads(json.dumps(case["arguments"]).replace(case["workspace"], str(workspace)))
        calls.append(([*rules, HIDES], arguments))
    ran = assert_nothing_happened(workspace, bare_environment, calls)

    assert len(ran) > 40 or not attacks  # most are let run now: it is the kernel that keeps them harmless


def test_of_the_corpus_harmless_commands_at_most_two_in_a_hundred_ask(workspace):
    """What is harmless is not asked about."""
    _, harmless = corpus()
    asked = []
    for case in harmless:
        rules = [{"allow": "command", "argv": row["argv"]} for row in case["policy"]["allow"]]
        with ToolEngine(rules, workspace) as engine:
            if engine.check("command", case["arguments"]).decision != "allow":
                asked.append(case["arguments"])

    assert len(asked) * 50 <= len(harmless), asked


@pytest.mark.slow
def test_no_attack_of_ours_has_an_effect_beyond_its_rule(workspace, bare_environment):
    """Hundreds of commands that write, connect or leave the workspace do nothing under a rule that allows reading."""
    calls = [([{"allow": "command", "argv": [argv[0]]}, HIDES], {"argv": argv}) for argv in own_attacks()]
    ran = assert_nothing_happened(workspace, bare_environment, calls)

    assert len(ran) > 700


def test_a_sample_of_the_attacks_has_no_effect(workspace, bare_environment):
    """Every fortieth of them, for the quick run."""
    calls = [([{"allow": "command", "argv": [argv[0]]}, HIDES], {"argv": argv}) for argv in own_attacks()[::40]]

    assert assert_nothing_happened(workspace, bare_environment, calls)


def test_the_measure_finds_an_attack_that_works(workspace, bare_environment):
    """With the effect that it needs, an attack does change the workspace: the tests above could fail."""
    rules = [{"allow": "command", "effects": "write"}]
    with pytest.raises(AssertionError):
        assert_nothing_happened(workspace, bare_environment, [(rules, {"argv": ["touch", "new"]})])
    settings = Tools.model_validate({"rules": [{"allow": "command"}], "sandbox": {"backend": "none"}})
    with ToolEngine(workspace=workspace, settings=settings) as engine:
        call = {"id": "1", "name": "command", "arguments": {"argv": ["cat", "private/p.txt"]}}
        assert CANARY in sync.run(engine.execute(call)).content
