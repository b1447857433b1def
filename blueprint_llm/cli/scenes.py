"""The scenes of the demo: each sets a fault, lets a client meet it, and returns the proof out of what was recorded.

A scene's docstring is its headline. `cloud` is a server on this machine that speaks OpenAI's format and fails as told;
`local` is a real model in this process.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blueprint_llm.adapters import litellm as _litellm
from blueprint_llm.adapters.local import embedded, weights
from blueprint_llm.cli.conversation import show, summary
from blueprint_llm.cli.kept import ensure_weights, pull_weights
from blueprint_llm.cli.output import print_table
from blueprint_llm.client import SyncLLMClient
from blueprint_llm.compat import install
from blueprint_llm.errors import BlueprintError, BudgetExceededError, QuotaExceededError
from blueprint_llm.testing import Answer, Cut, FaultServer, Status, ToolUse
from blueprint_llm.tools import ApprovalDecision, ApprovalRequest
from blueprint_llm.tools.approval import TerminalApprover
from blueprint_llm.tools.engine import open_audit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blueprint_llm.events import Event

_NANO = 1e-9
QUESTION = "In one short sentence, what is a fallback?"
_STRINGS = {name: {"type": "string"} for name in ("path", "note")}
READ = {"name": "read_file", "parameters": {"type": "object", "properties": _STRINGS, "required": ["path"]}}
NOTE = "A fallback is a plan B that is ready before it is needed.\n"


class NotProvenError(Exception):
    """A scene did not do what its headline says."""


@dataclass(slots=True, kw_only=True)
class Stage:
    """Where scenes play."""

    server: FaultServer  # the cloud
    workspace: Path  # the folder that tools may touch
    asks: bool = False  # whether a person is there to approve
    events: list[Event] = field(default_factory=list)  # what the clients told
    _before: int = 0

    def cloud(self) -> dict[str, str]:
        """The settings of the cloud, for a client."""
        return {"model": "openai/gpt-4o-mini", "api_base": self.server.url, "api_key": "demo"}

    def client(self, *, approver: Any = None, **blueprint: Any) -> SyncLLMClient:
        """A client of the cloud and the local model, in this order."""
        self._before = len(self.server.requests)
        providers = {"cloud": self.cloud(), "local": {"model": "embedded/smollm2"}}
        block = {"project": "demo", "providers": providers, "retry": {"max_attempts": 1}, **blueprint}
        return SyncLLMClient({"blueprint": block}, approver=approver, on_event=self.events.append)

    def sent(self) -> int:
        """How many requests reached the cloud since the last client was made."""
        return len(self.server.requests) - self._before


def require(condition: object, otherwise: str) -> None:
    """Raise NotProvenError unless `condition` holds."""
    if not condition:
        raise NotProvenError(otherwise)


@contextmanager
def _refused(kind: type[BlueprintError], otherwise: str) -> Iterator[list[BlueprintError]]:
    """Give the error that the block ends with, once it has."""
    caught: list[BlueprintError] = []
    try:
        yield caught
    except kind as error:
        caught.append(error)
    require(caught, otherwise)


def _asked(text: str) -> list[dict[str, str]]:
    click.secho(f"> {text}", dim=True)
    return [{"role": "user", "content": text}]


def _served_locally_after(category: str, stage: Stage) -> str:
    """Stream an answer to the screen; the cloud failed, the local model answered."""
    with stage.client() as client:
        answer = show(client.stream(messages=_asked(QUESTION), max_tokens=60, temperature=0))
    first, last = answer.trace["attempts"][0], answer.trace["attempts"][-1]
    require((first["provider"], first["category"]) == ("cloud", category), f"the cloud said {first['category']}")
    require((last["provider"], last["category"]) == ("local", None), "the local model did not answer")
    return summary(answer.trace).replace("\n", "\n       ")


def fallback(stage: Stage) -> str:
    """The cloud is down: the local model answers."""
    stage.server.add(Status(503, "overloaded"))
    return _served_locally_after("unavailable", stage)


def broken_stream(stage: Stage) -> str:
    """A stream breaks off: it starts again elsewhere, and says so."""
    half = Answer("A fallback is what a system turns to when its first choice", pace_s=0.04)
    stage.server.add(Cut(8, answer=half))
    return _served_locally_after("stream_broken", stage)


def caught_call(stage: Stage) -> str:
    """A tool call goes wrong: caught at the first wrong character, asked again."""
    wrong = ToolUse("read_file", '{"path": 42, "note": "forty-two is no path, and nobody pays for the rest of this"}')
    stage.server.add(_calling(wrong), _calling(ToolUse("read_file", {"path": "notes"})))
    with stage.client(retry={"max_attempts": 2}) as client:
        stream = client.stream(messages=_asked("Read my notes."), tools=[READ], provider="cloud", max_tokens=200)
        calls = [call for chunk in stream for call in chunk.tool_calls]
    require(stream.response, "no answer came")
    attempts = stream.response.trace["attempts"]  # type: ignore[union-attr] # required
    codes = [row["code"] for row in attempts]
    require(codes == ["schema_type", None], f"the attempts were {codes}")
    require([call.arguments for call in calls] == [{"path": "notes"}], "the right call did not come out alone")
    click.echo(f"{wrong.wire_arguments[:11]}  refused at the first wrong character")
    click.echo(f"{calls[0].name}({calls[0].arguments})")
    saved = attempts[0]["tokens_saved"]
    return f"attempt 1 {codes[0]}, stopped about {saved} tokens before its limit; attempt 2 valid; one call came out"


def _calling(tool: ToolUse) -> Answer:
    return Answer("", tool_calls=(tool,))


def approval(stage: Stage) -> str:
    """A tool wants to write: a person approves; outside the workspace nobody can."""
    write = ToolUse("write_file", {"path": "notes.txt", "content": NOTE})
    read_away = ToolUse("read_file", {"path": "/etc/shadow"})
    stage.server.add(_calling(write), _calling(read_away), Answer("Your note is written."))
    approver = TerminalApprover(write=click.echo) if stage.asks else _approve_aloud
    with stage.client(approver=approver, tools={"workspace": str(stage.workspace)}) as client:
        result = client.run(messages=_asked("Write a note on fallbacks, then show me /etc/shadow."))
        audit = open_audit(client.config.tools).verify()
    require(len(result.tool_results) == 2, f"{len(result.tool_results)} calls")  # noqa: PLR2004 - a write and a read
    wrote, read = result.tool_results
    there = (stage.workspace / "notes.txt").is_file()
    require(there == (wrote.status == "ok"), "the file and the decision do not agree")
    require(stage.asks or there, "the approved file was not written")
    require(read.status == "denied", "the path outside the workspace was not denied")
    require(audit.ok, f"the audit is broken: {audit.problem}")
    return f"write_file {wrote.status}, read_file {read.status}; audit: {audit.records} records, chain whole"


def _approve_aloud(batch: list[ApprovalRequest]) -> list[ApprovalDecision]:
    for request in batch:
        click.echo(f"{request.tool} waits: {'; '.join(request.reasons)}\n{request.preview}")
        click.echo("approved by the demo; on a terminal, without --yes, you are asked")
    return [ApprovalDecision(decision="approve") for _ in batch]


def budget(stage: Stage) -> str:
    """A budget would be passed: nothing is sent."""
    limits = [{"scope": "project", "limit_usd": 0.0001, "window": "day"}]
    ask: dict[str, Any] = {"messages": _asked("Write a novel."), "max_tokens": 4000}
    refused = _refused(BudgetExceededError, "the budget let it through")
    with stage.client(budgets=limits, project="thrifty") as client, refused as caught:
        client.chat(**ask, provider="cloud", fallback=False)
    click.echo(str(caught[0]))
    require(stage.sent() == 0, "a request was sent")
    return f"blocked before anything was sent: {stage.sent()} requests reached the cloud"


def cache_hit(stage: Stage) -> str:
    """The same question again: served from the cache."""
    stage.server.add(Answer("A fallback is a plan B."))
    with stage.client(cache={"enabled": True}) as client:
        first, second = (client.chat(messages=_asked(QUESTION)) for _ in range(2))
        saved = client.get_usage({"provider": "cloud"}).saved_usd
    require(stage.sent() == 1, f"{stage.sent()} requests were sent")
    require(second.metadata["cached"] and second.content == first.content, "the second answer was not the first")
    click.echo(second.content)
    return f"trace: cache.hit {str(second.trace['cache']['hit']).lower()}; 1 request for 2 answers; ${saved:.6f} saved"


def plan(stage: Stage) -> str:
    """A plan, checked by code."""
    titles = {
        "Count requests by key": "a counter a minute",
        "Answer 429 above the limit": "the 61st call is refused",
        "Test both": "the suite is green",
    }
    steps = [
        {"id": f"S{n}", "title": title, "description": title, "covers": [f"R{n}"], "acceptance": [met]}
        | {"depends_on": [f"S{n - 1}"] if n > 1 else []}
        for n, (title, met) in enumerate(titles.items(), 1)
    ]
    whole = {"overview": "Limit the rate.", "estimated_complexity": "low", "steps": steps}
    stage.server.add(*(Answer(json.dumps({**whole, "steps": each})) for each in (steps[:2], steps)))
    click.secho("> plan: Limit the API's rate (count by key, refuse above 60 a minute, tests)", dim=True)
    needs = ["count by key", "refuse above 60", "tests"]
    with stage.client(planning={"provider": "cloud"}) as client:
        made = client.planning_mode(goal="Limit the API's rate", requirements=needs)
    rows = [(step.id, step.title, ",".join(step.depends_on), ",".join(step.covers)) for step in made.steps]
    print_table(("STEP", "TITLE", "AFTER", "COVERS"), rows)
    sent, covered = stage.sent(), {name for step in made.steps for name in step.covers}
    require(sent == 2, f"the plan took {sent} requests")  # noqa: PLR2004 - the first and the correction
    require(covered == {"R1", "R2", "R3"}, "a requirement is not covered")
    return f"the first answer left R3 uncovered and was sent back; {sent} requests, plan {made.hash[:12]} covers R1-R3"


PROGRAM = """\
import litellm

for _ in range(3):
    answer = litellm.completion(model="openai/gpt-4o-mini", messages=messages, api_base=cloud, api_key="demo")
    print(answer.choices[0].message.content)
"""


def drop_in(_: Stage) -> str:
    """A LiteLLM program, unchanged, behind a quota."""
    limit = {"project": "guest", "quotas": [{"scope": "project", "requests": 2, "window": "day"}]}
    click.secho(f"> blueprint_llm.install()\n{PROGRAM.rstrip()}", dim=True)
    names: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}], "print": click.echo}
    with FaultServer(default=Answer("A fallback is a plan B.")) as guest, install({"blueprint": limit}):
        names["cloud"] = guest.url
        with _refused(QuotaExceededError, "the quota let it through") as caught:
            exec(PROGRAM, names)  # noqa: S102 - the text above, as a program of its own
        sent = len(guest.requests)
    click.echo(str(caught[0]))
    require(sent == 2, f"{sent} requests were sent")  # noqa: PLR2004 - the quota
    kinds = {each.__name__ for each in type(caught[0]).__mro__}
    require("RateLimitError" in kinds, "a program of LiteLLM's does not know that error")
    return "2 of 3 calls were sent; `except litellm.RateLimitError` catches the third"


def explained(stage: Stage) -> str:
    """Nobody may answer: why, before and after."""
    work = {"model": "openai/gpt-4o", "api_key": "os.environ/BLUEPRINT_DEMO_KEY"}
    limits = [{"scope": "provider:cloud", "limit_usd": 0.0001, "window": "day"}]
    ask: dict[str, Any] = {"messages": _asked("Write a novel."), "max_tokens": 4000}
    with stage.client(providers={"work": work, "cloud": stage.cloud()}, budgets=limits) as client:
        said = [(row.provider, row.verdict, row.reason) for row in client.explain(**ask).considered]
        with _refused(BlueprintError, "somebody answered") as caught:
            client.chat(**ask)
    for provider, verdict, reason in said:
        click.echo(f"{provider}  {verdict}: {reason}")
    told = [(row["provider"], row["verdict"], row["reason"]) for row in caught[0].trace["route"]["considered"]]
    require(told == said, f"explain said {said}, the error {told}")
    require([verdict for _, verdict, _ in said] == ["skipped", "skipped"], "a target was not passed over")
    require(stage.sent() == 0, "a request was sent")
    return "explain() and the error give the same reasons for both; nothing was sent"


def report(stage: Stage) -> str:
    """What it all cost."""
    with stage.client() as client:
        stats = client.get_usage({"project": "demo"})
    counts = ("calls", "errors", "cache_hits", "prompt_tokens", "completion_tokens")
    rows = [
        (name, *(getattr(each, count) for count in counts), f"{each.cost_usd:.6f}")
        for name, each in sorted(stats.by_provider.items())
    ]
    print_table(("PROVIDER", "CALLS", "ERRORS", "HITS", "TOKENS IN", "OUT", "COST USD"), rows)
    tried = [event.facts for event in stage.events if event.name.startswith("attempt.")]
    sent, requests = sum(row["provider"] == "cloud" for row in tried), len(stage.server.requests)
    failed, cost = sum(row["category"] is not None for row in tried), sum(row["cost_usd"] or 0 for row in tried)
    require(sent == requests, f"{sent} attempts were told, {requests} requests reached the cloud")
    require(stats.errors == failed, f"{stats.errors} errors in the ledger, {failed} attempts failed")
    require(abs(stats.cost_usd - cost) < _NANO, f"${stats.cost_usd} in the ledger, ${cost} in the traces")
    stage.server.assert_done()
    return f"ledger, traces and cloud agree: {requests} requests, {failed} failed, ${stats.cost_usd:.6f} in all"


_PLAYED = (fallback, broken_stream, caught_call, approval, budget, cache_hit, plan, drop_in, explained, report)
SCENES = tuple((str(each.__doc__)[:-1], each) for each in _PLAYED)


def play(*, asks: bool) -> None:
    """Play every scene on its own server, model and home. Raise ClickException at the first that is not proven."""
    found = weights.find(weights.SMOLLM2)
    file = found or (ensure_weights("smollm2") if asks else pull_weights("smollm2"))
    _litellm.quiet()
    with _own_home(file) as home, FaultServer() as server:
        is_terminal = sys.stdin.isatty() and sys.stderr.isatty()
        stage = Stage(server=server, workspace=home / "workspace", asks=asks and is_terminal)
        for number, (headline, scene) in enumerate(SCENES, 1):
            click.secho(f"\n{number}/{len(SCENES)} {headline}", bold=True)
            try:
                click.echo(click.style("proof  ", fg="green") + scene(stage))
            except NotProvenError as error:
                raise click.ClickException(f"scene {number} did not do what it says: {error}") from None
    click.secho("\nAll of it held. Next: blueprint-llm init", bold=True)


@contextmanager
def _own_home(file: Path) -> Iterator[Path]:
    """A home that goes away with the demo: the user's ledger, cache and audit are not touched."""
    before = os.environ.get("BLUEPRINT_HOME")
    with tempfile.TemporaryDirectory(prefix="blueprint-demo-") as folder:
        os.environ["BLUEPRINT_HOME"] = folder
        try:
            weights.SMOLLM2.target.parent.mkdir(mode=0o700, parents=True)
            weights.SMOLLM2.target.symlink_to(file.absolute())
            Path(folder, "workspace").mkdir()
            yield Path(folder)
        finally:
            embedded.close_all()
            os.environ.pop("BLUEPRINT_HOME")
            if before is not None:
                os.environ["BLUEPRINT_HOME"] = before
