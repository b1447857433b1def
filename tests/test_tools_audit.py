"""The audit: recorded before it is done, and every tampering is found."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from blueprint_llm import sync
from blueprint_llm.cli.tools import audit as command
from blueprint_llm.config.blocks import Tools
from blueprint_llm.tools import ToolEngine
from blueprint_llm.tools.sealed import Audit

KEY = b"k" * 32
ROOT = Path(__file__).parents[1]


def execute(engine, call):
    """Run one call, from outside an event loop."""
    return sync.run(engine.execute(call))


@pytest.fixture
def audit(tmp_path):
    """A chain of five records."""
    chain = Audit(tmp_path / "audit.jsonl", KEY, lambda: 1000.0)
    for number in range(5):
        chain.append("outcome", {"number": number})
    return chain


def rewrite(audit, change):
    """Change the lines of the file."""
    audit.path.write_bytes(b"".join(change(audit.path.read_bytes().splitlines(keepends=True))))


def test_a_chain_that_nobody_touched_is_whole(audit):
    """Records are numbered from 1 and verify."""
    assert [record["seq"] for record in audit.records()] == [1, 2, 3, 4, 5]
    assert (audit.verify().ok, audit.verify().records) == (True, 5)
    assert Audit(audit.path.with_name("none"), KEY, lambda: 0.0).verify().ok


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        pytest.param(
            lambda rows: [*rows[:2], rows[2].replace(b'"number": 2', b'"number": 3'), *rows[3:]], 3, id="changed"
        ),
        pytest.param(lambda rows: [*rows[:2], *rows[3:]], 3, id="deleted"),
        pytest.param(lambda rows: [*rows[:1], rows[2], rows[1], *rows[3:]], 2, id="swapped"),
        pytest.param(lambda rows: [*rows[:3], rows[1], *rows[3:]], 4, id="inserted"),
        pytest.param(lambda rows: rows[:4], 5, id="tail cut"),
        pytest.param(lambda rows: [], 1, id="all cut"),
        pytest.param(lambda rows: [*rows[:2], b"junk\n", *rows[2:]], 3, id="junk"),
        pytest.param(lambda rows: rows[1:], 1, id="head cut"),
    ],
)
def test_rt037_tampering_is_found_where_it_begins(change, broken, audit):
    """Verification names the first record that is not as it was written."""
    rewrite(audit, change)

    found = audit.verify()
    assert (found.ok, found.broken_seq) == (False, broken)
    assert found.problem


@pytest.mark.parametrize(("place", "broken"), [(3, 5), (4, 5)], ids=["a middle one", "the last"])
def test_a_record_of_another_course_of_events_is_found(place, broken, audit):
    """A record that the same key sealed, at the same place of a history that was rolled back, does not fit in."""
    files = [audit.path, audit.path.with_name("audit.jsonl.head")]
    assert all(file.exists() for file in files)
    rows = audit.path.read_bytes().splitlines(keepends=True)
    fork = Audit(audit.path.with_name("fork.jsonl"), KEY, lambda: 2000.0)
    fork.path.write_bytes(b"".join(rows[:place]))
    fork.append("outcome", {"number": 99})
    other = fork.path.read_bytes().splitlines(keepends=True)[place]
    rewrite(audit, lambda own: [*own[:place], other, *own[place + 1 :]])

    found = audit.verify()

    assert json.loads(other)["seq"] == place + 1
    assert (found.ok, found.broken_seq) == (False, broken)


def test_rt037_every_flipped_byte_is_found(audit):
    """Whatever bit of whatever byte is flipped, the chain does not verify, and the record is the right one."""
    whole = audit.path.read_bytes()
    for place in range(0, len(whole), 7):
        audit.path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        found = audit.verify()
        assert not found.ok, place
        assert found.broken_seq in {whole[:place].count(b"\n") + 1, whole[:place].count(b"\n") + 2}


@pytest.mark.parametrize("content", [b"", b"x" * 100, None])
def test_a_damaged_head_is_found(content, audit):
    """Without a valid head a cut tail could not be seen, so that is trouble of its own."""
    head = audit.path.with_name("audit.jsonl.head")
    head.unlink()
    if content is not None:
        head.write_bytes(content)

    assert (audit.verify().ok, "head" in audit.verify().problem) == (False, True)


def test_another_key_verifies_nothing(audit):
    """Whoever lacks the key can neither forge nor verify."""
    assert not Audit(audit.path, b"x" * 32, lambda: 0.0).verify().ok


def test_a_writer_killed_between_record_and_head_is_mended(audit):
    """The next record goes on from what was really written; half a line is dropped."""
    head = audit.path.with_name("audit.jsonl.head")
    old = head.read_bytes()
    audit.append("outcome", {"number": 5})
    head.write_bytes(old)
    with audit.path.open("ab") as file:
        file.write(b'{"half')

    assert audit.append("outcome", {"number": 6}) == 7
    assert (audit.verify().ok, audit.verify().records) == (True, 7)


def test_a_cut_tail_is_not_mended_over(audit):
    """Appending after a cut does not heal the chain."""
    rewrite(audit, lambda rows: rows[:3])
    audit.append("outcome", {})

    assert not audit.verify().ok


WRITER = """
import sys
from pathlib import Path
from blueprint_llm.tools.sealed import Audit
audit = Audit(Path(sys.argv[1]), b"k" * 32, lambda: 0.0, "none")
for number in range(1000):
    audit.append("outcome", {"by": sys.argv[2], "number": number})
"""


@pytest.mark.slow
def test_rt039_two_processes_write_one_chain(tmp_path):
    """2,000 records of two processes make one unbroken chain, each in its own order."""
    place = tmp_path / "audit.jsonl"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(place), name], env=env) for name in "ab"]

    assert [writer.wait(60) for writer in writers] == [0, 0]
    chain = Audit(place, KEY, lambda: 0.0)
    assert (chain.verify().ok, chain.verify().records) == (True, 2000)
    assert [row["number"] for row in chain.records() if row["by"] == "a"] == list(range(1000))


@pytest.mark.parametrize(("sync", "expected"), [("intent", 1), ("all", 2), ("none", 0)])
def test_syncs_of_a_call(sync, expected, tmp_path, monkeypatch):
    """A call costs at most two syncs; by default its intent alone."""
    count = []
    monkeypatch.setattr(os, "fdatasync", count.append)
    settings = Tools.model_validate({"rules": [{"allow": "list_files"}], "audit": {"fsync": sync}})
    with ToolEngine(workspace=tmp_path, settings=settings) as engine:
        result = execute(engine, {"id": "1", "name": "list_files", "arguments": {"path": "."}})

    assert (result.status, result.audit_seq, len(count)) == ("ok", 2, expected)


def test_the_intent_is_on_disk_before_the_tool_runs(tmp_path):
    """While a tool runs, its intent is in the file already, with what decided it."""
    with ToolEngine([{"allow": "*", "id": "all"}], tmp_path) as engine:

        def look() -> str:
            """Look at the audit."""
            return json.dumps(list(engine.audit.records()))

        engine.register_tool(look)
        result = execute(engine, {"id": "7", "name": "look", "arguments": {}})

        seen = json.loads(result.content)
        assert [(row["event"], row["call"], row["rule"], row["decision"]) for row in seen] == [
            ("intent", "7", "all", "allow")
        ]
        assert [row["event"] for row in engine.audit.records()] == ["intent", "outcome"]


FULL = """
import resource, signal, sys
from blueprint_llm import sync
from blueprint_llm.cli.tools import audit as command
from blueprint_llm.config.blocks import Tools
from blueprint_llm.tools import ToolEngine
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
settings = Tools.model_validate({"rules": [{"allow": "*"}]})
with ToolEngine(workspace=sys.argv[1], settings=settings) as engine:
    ran = []
    def act() -> str:
        "Act."
        ran.append(1)
        return "x"
    engine.register_tool(act)
    sync.run(engine.execute({"id": "1", "name": "act", "arguments": {}}))
    size = engine.audit.path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, resource.RLIM_INFINITY))
    result = sync.run(engine.execute({"id": "2", "name": "act", "arguments": {}}))
    refused = sync.run(engine.execute({"id": "3", "name": "nothing", "arguments": {}}))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(len(ran), result.status, "audit" in result.content, "audit" in refused.content, engine.audit.verify().ok)
"""


def test_rt041_without_a_record_nothing_is_done(tmp_path):
    """When the intent cannot be written the tool does not run, the model is told, and the chain stays whole."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], env=env, capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == ["1", "error", "True", "True", "True"]


def test_an_outcome_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    """The result of a call that ran but could not be recorded says so."""
    with ToolEngine([{"allow": "*"}], tmp_path) as engine:
        original = engine.audit.append

        def failing(event, facts):
            if event == "outcome":
                raise OSError(28, "disk full")
            return original(event, facts)

        monkeypatch.setattr(engine.audit, "append", failing)
        result = execute(engine, {"id": "1", "name": "list_files", "arguments": {"path": "."}})

    assert (result.status, result.audit_seq) == ("ok", None)
    assert "could not be recorded" in result.metadata["audit"]


def test_long_arguments_are_shortened_and_fingerprinted(tmp_path):
    """The record of a large write holds the beginning and a digest, not megabytes."""
    with ToolEngine([{"allow": "*"}], tmp_path) as engine:
        execute(engine, {"id": "1", "name": "write_file", "arguments": {"path": "a", "content": "x" * 100_000}})
        record = next(engine.audit.records())

    assert len(record["arguments"]) < 5000
    assert len(record["arguments_sha256"]) == 64


def test_a_denied_call_is_recorded(tmp_path):
    """Refusals are part of the story."""
    with ToolEngine([{"deny": "list_files", "why": "no"}], tmp_path) as engine:
        result = execute(engine, {"id": "1", "name": "list_files", "arguments": {"path": "."}})
        events = [(row["event"], row["reason"]) for row in engine.audit.records()]

    assert (result.status, events) == ("denied", [("denied", "no")])


def test_cli_shows_and_verifies(audit, tmp_path):
    """`audit show` prints the records, `audit verify` tells whole from broken by its exit code."""
    with ToolEngine([{"allow": "*"}], tmp_path) as engine:
        execute(engine, {"id": "1", "name": "list_files", "arguments": {"path": "."}})
        place = engine.audit.path
    runner = CliRunner()

    shown = runner.invoke(command, ["show"])
    assert shown.exit_code == 0, shown.output
    assert "list_files" in shown.output
    assert [
        json.loads(line)["event"]
        for line in runner.invoke(command, ["show", "--json", "--last", "1"]).output.splitlines()
    ] == ["outcome"]
    assert runner.invoke(command, ["verify"]).exit_code == 0
    place.write_bytes(place.read_bytes().replace(b"list_files", b"read_files"))
    broken = runner.invoke(command, ["verify"])
    assert broken.exit_code == 1
    assert "record 1" in broken.output
    assert json.loads(runner.invoke(command, ["verify", "--json"]).output)["broken_seq"] == 1
