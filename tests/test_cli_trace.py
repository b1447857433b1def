"""`blueprint-llm trace`: what happened to one call; what is kept for it, and that no more is."""

import json
import stat

import pytest
from click.testing import CliRunner
from driving import configuration

from blueprint_llm import SyncLLMClient
from blueprint_llm.cli import main
from blueprint_llm.errors import BlueprintError
from blueprint_llm.testing import Answer, ScriptedAdapter, Status
from blueprint_llm.trace import AttemptTrace, Trace
from blueprint_llm.types import Considered
from blueprint_llm.usage import traces

ROUTE = [("a", "skipped"), ("b", "chosen"), ("c", "skipped")]
MESSAGES = [{"role": "user", "content": "a private question"}]


@pytest.fixture
def called(tmp_path):
    """Make one call that takes the given steps at p0 and p1; run `blueprint-llm trace ...` on it."""
    path = tmp_path / "b.yaml"
    path.write_text(json.dumps(configuration("http://127.0.0.1:9/v1", "http://127.0.0.1:9/v1")))

    def call(first, second=()):
        adapters = {"p0": ScriptedAdapter(first), "p1": ScriptedAdapter(second)}
        with SyncLLMClient(str(path), project="acme", adapters=adapters) as client:
            try:
                return client.chat(messages=MESSAGES).trace["id"]
            except BlueprintError as error:
                return error.trace["id"]

    def trace(*words):
        return CliRunner().invoke(main, ["trace", *words, "--config", str(path)])

    return call, trace


def test_a_call_that_fell_back(called):
    """Who was asked, why it failed, who answered and what it cost."""
    call, trace = called
    name = call([Status(401, "that key is no good")], [Answer("Fine.")])
    done = trace(name[:12])

    assert done.exit_code == 0, done.stderr
    assert f"call {name[:12]}" in done.stdout
    assert "served by p1/openai/gpt-4o" in done.stdout
    assert "refused" in done.stdout
    assert "#1 refused: the key or the account was turned down (HTTP 401" in done.stdout
    assert "cost in USD: 0.0" in done.stderr


def test_as_json(called):
    """One object: route, attempts with their failures, costs."""
    call, trace = called
    name = call([Status(401, "that key is no good")], [Answer("Fine.")])
    found = json.loads(trace(name, "--json").stdout)

    assert (found["id"], found["project"], found["failure"]) == (name, "acme", None)
    assert [row["verdict"] for row in found["route"]["considered"]] == ["chosen", "standby"]
    assert [(row["provider"], row["category"]) for row in found["attempts"]] == [("p0", "refused"), ("p1", None)]
    assert found["attempts"][0]["status"] == 401
    assert found["cost_usd"] > 0


def test_the_newest_call_needs_no_name(called):
    """Without an id it is the last call."""
    call, trace = called
    call([Answer("One.")])
    second = call([Answer("Two.")])

    assert f"call {second[:12]}" in trace().stdout


def test_a_call_that_failed(called):
    """It has no one who served it, and says so."""
    call, trace = called
    name = call([Status(401, "no")], [Status(403, "never")])
    found = json.loads(trace(name, "--json").stdout)

    assert (found["served_by"], found["failure"]) == (None, "ChainExhaustedError")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        pytest.param(["abc"], 2, "give at least 6 characters", id="too short"),
        pytest.param(["abcdef"], 1, "no call 'abcdef'", id="unknown"),
        pytest.param([], 1, "there was no call", id="none"),
    ],
)
def test_what_is_not_found(called, words, code, says):
    """Each is one line."""
    _, trace = called
    done = trace(*words)

    assert (done.exit_code, done.stdout) == (code, "")
    assert says in done.stderr


def test_nothing_is_kept_of_a_call_that_went_smoothly(called, bare_environment):
    """The ordinary call writes no file; one that fell back is kept without its text, for its owner alone."""
    call, _ = called
    kept = bare_environment / "blueprint_home" / "state" / traces.NAME
    call([Answer("Fine.")])

    assert not kept.exists()

    call([Status(401, "no")], [Answer("a private answer")])

    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "private" not in kept.read_text()


def test_what_stands_behind_the_one_who_served_was_not_passed_over():
    """A target without a key at the end of a chain is no fallback."""
    rows = [Considered(provider=name, model="m", verdict=verdict, reason="") for name, verdict in ROUTE]
    served, refused = Trace(id="a", policy_hash="p", served_by="b/m"), Trace(id="a", policy_hash="p")
    for trace in (served, refused):
        trace.set_route("default", None, rows)

    assert [row["provider"] for row in served.passed_over()] == ["a"]
    assert [row["provider"] for row in refused.passed_over()] == ["a", "c"]


def failed(name):
    """The trace of a call that failed."""
    trace = Trace(id=name, policy_hash="p")
    trace.attempts.append(AttemptTrace(n=1, provider="p", model="m", category="timeout"))
    return trace


def test_calls_that_the_ledger_does_not_know(called):
    """Of what was never sent the trace alone is kept: the newest needs no name, and a common beginning names no one."""
    _, trace = called
    for name in ("unsure-one", "unsure-two"):
        traces.keep_trace(failed(name), "TimeoutError")
    both = trace("unsure-o", "--json"), trace("unsure-t", "--json")

    assert trace().stdout == "call unsure-two, never sent: failed\n"
    assert [json.loads(done.stdout)["id"] for done in both] == ["unsure-one", "unsure-two"]
    assert "'unsure' is the beginning of 2 calls: unsure-two, unsure-one" in trace("unsure").stderr


def test_the_file_stays_small(monkeypatch):
    """Beyond its size the older half goes; the newest is found first."""
    monkeypatch.setattr(traces, "MOST_BYTES", 2000)
    for n in range(50):
        traces.keep_trace(failed(f"call{n:02}"), "TimeoutError")
    found = [trace["id"] for trace in traces.find_traces("")]

    assert found[0] == "call49"
    assert 2 < len(found) < 30


def test_a_trace_that_cannot_be_kept_costs_no_call(tmp_path, monkeypatch):
    """Where the folder cannot be, nothing is raised, and a torn line is passed over."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("BLUEPRINT_HOME", str(tmp_path / "file"))
    traces.keep_trace(failed("lost"), "TimeoutError")

    monkeypatch.setenv("BLUEPRINT_HOME", str(tmp_path))
    traces.keep_trace(failed("kept"), "TimeoutError")
    with (tmp_path / "state" / traces.NAME).open("a") as file:
        file.write('{"id": "to')

    assert [trace["id"] for trace in traces.find_traces("")] == ["kept"]
