"""The scenes of the demo: each sets a fault, lets a client meet it, and returns the proof out of what was recorded.

`cloud` is a server on this machine that speaks OpenAI's format and fails as told; `local` is a real model in this
process.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from blueprint_llm.cli.chat import show, summary
from blueprint_llm.cli.options import print_table
from blueprint_llm.client import SyncLLMClient
from blueprint_llm.compat import install
from blueprint_llm.errors import BlueprintError, BudgetExceededError, QuotaExceededError
from blueprint_llm.testing import Answer, Cut, FaultServer, Status, ToolUse
from blueprint_llm.tools import ApprovalDecision, ApprovalRequest
from blueprint_llm.tools.engine import open_audit
from blueprint_llm.tools.terminal import TerminalApprover

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from blueprint_llm.events import Event

_NANO = 1e-9
QUESTION = "In one short sentence, what is a fallback?"
READ = {
    "name": "read_file",
    "parameters": {
        "type": "object",
        "properties": {"path": {"type": "string"}, "note": {"type": "string"}},
        "required": ["path"],
    },
}
NOTE = "A fallback is a plan B that is ready before it is needed.\n"


class NotProvenError(Exception):
    """A scene did not do what its headline says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where scenes play.

    Attributes:
        server: The cloud.
        workspace: The folder that tools may touch.
        asks: Whether a person is there to approve.
        events: What the clients told.
    """

    server: FaultServer
    workspace: Path
    asks: bool = False
    events: list[Event] = field(default_factory=list)

    def client(self, *, approver: Any = None, **blueprint: Any) -> SyncLLMClient:
        """A client of the cloud and the local model, in this order."""
        cloud = {"model": "openai/gpt-4o-mini", "api_base": self.server.url, "api_key": "demo"}
        providers = {"cloud": cloud, "local": {"model": "embedded/smollm2"}}
        block = {"project": "demo", "providers": providers, "retry": {"max_attempts": 1}, **blueprint}
        return SyncLLMClient({"blueprint": block}, approver=approver, on_event=self.events.append)


def require(condition: object, otherwise: str) -> None:
    """Raise NotProvenError unless `condition` holds."""
    if not condition:
        raise NotProvenError(otherwise)


def _asked(text: str) -> list[dict[str, str]]:
    click.secho(f"> {text}", dim=True)
    return [{"role": "user", "content": text}]


def _streamed(stage: Stage) -> dict[str, Any]:
    """Stream an answer to the screen; its trace."""
    with stage.client() as client:
        stream = client.stream(messages=_asked(QUESTION), max_tokens=60, temperature=0)
        show(stream)
    require(stream.response, "no answer came")
    return dict(stream.response.trace)  # type: ignore[union-attr] # required


def _served_locally_after(category: str, trace: dict[str, Any]) -> str:
    first, last = trace["attempts"][0], trace["attempts"][-1]
    require((first["provider"], first["category"]) == ("cloud", category), f"the cloud said {first['category']}")
    require((last["provider"], last["category"]) == ("local", None), "the local model did not answer")
    return summary(trace).replace("\n", "\n       ")


def fallback(stage: Stage) -> str:
    """The cloud is down."""
    stage.server.add(Status(503, "overloaded"))
    return _served_locally_after("unavailable", _streamed(stage))


def broken_stream(stage: Stage) -> str:
    """The cloud breaks off in the middle of its answer."""
    half = Answer("A fallback is what a system turns to when its first choice", pace_s=0.04)
    stage.server.add(Cut(8, answer=half))
    return _served_locally_after("stream_broken", _streamed(stage))


def caught_call(stage: Stage) -> str:
    """The cloud calls a tool with a number where the schema says string, then puts it right."""
    wrong = ToolUse("read_file", '{"path": 42, "note": "forty-two is no path, and nobody pays for the rest of this"}')
    stage.server.add(Answer("", tool_calls=(wrong,)), Answer("", tool_calls=(ToolUse("read_file", {"path": "notes"}),)))
    with stage.client(retry={"max_attempts": 2}) as client:
        stream = client.stream(messages=_asked("Read my notes."), tools=[READ], provider="cloud", max_tokens=200)
        calls = [call for chunk in stream for call in chunk.tool_calls]
    require(stream.response, "no answer came")
    attempts = stream.response.trace["attempts"]  # type: ignore[union-attr] # required
    codes = [row["code"] for row in attempts]
    require(codes == ["schema_type", None], f"the attempts were {codes}")
    require([call.arguments for call in calls] == [{"path": "notes"}], "the right call did not come out alone")
    click.echo(
        f"{wrong.wire_arguments[:11]}  refused at the first wrong character\n{calls[0].name}({calls[0].arguments})"
    )
    saved = attempts[0]["tokens_saved"]
    return f"attempt 1 {codes[0]}, stopped about {saved} tokens before its limit; attempt 2 valid; one call came out"


def approval(stage: Stage) -> str:
    """The cloud writes a file, which asks, and reads outside the workspace, which is denied."""
    write = ToolUse("write_file", {"path": "notes.txt", "content": NOTE})
    stage.server.add(
        Answer("", tool_calls=(write,)), Answer("", tool_calls=(ToolUse("read_file", {"path": "/etc/shadow"}),))
    )
    stage.server.add(Answer("Your note is written."))
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
    """A request that might cost more than is left is not sent."""
    before = len(stage.server.requests)
    limits = [{"scope": "project", "limit_usd": 0.0001, "window": "day"}]
    with stage.client(budgets=limits, project="thrifty") as client:
        try:
            client.chat(messages=_asked("Write a novel."), provider="cloud", fallback=False, max_tokens=4000)
        except BudgetExceededError as error:
            click.echo(str(error))
        else:
            raise NotProvenError("the budget let it through")
    sent = len(stage.server.requests) - before
    require(sent == 0, "a request was sent")
    return f"blocked before anything was sent: {sent} requests reached the cloud"


def cache_hit(stage: Stage) -> str:
    """The same question twice is one request."""
    stage.server.add(Answer("A fallback is a plan B."))
    before = len(stage.server.requests)
    with stage.client(cache={"enabled": True}) as client:
        first, second = (client.chat(messages=_asked(QUESTION)) for _ in range(2))
        saved = client.get_usage({"provider": "cloud"}).saved_usd
    sent = len(stage.server.requests) - before
    require(sent == 1, f"{sent} requests were sent")
    require(second.metadata["cached"] and second.content == first.content, "the second answer was not the first")
    click.echo(second.content)
    return f"trace: cache.hit {str(second.trace['cache']['hit']).lower()}; 1 request for 2 answers; ${saved:.6f} saved"


def plan(stage: Stage) -> str:
    """A plan that forgets a requirement is sent back, once."""
    steps = [
        {"id": "S1", "title": "Count requests by key", "covers": ["R1"], "acceptance": ["a counter a minute"]},
        {
            "id": "S2",
            "title": "Answer 429 above the limit",
            "covers": ["R2"],
            "acceptance": ["the 61st call is refused"],
        },
        {"id": "S3", "title": "Test both", "covers": ["R3"], "acceptance": ["the suite is green"]},
    ]
    whole = [
        {"description": step["title"], "depends_on": [f"S{n}"] if n else [], **step} for n, step in enumerate(steps)
    ]
    stage.server.add(*(_plan_answer(each) for each in (whole[:2], whole)))
    before = len(stage.server.requests)
    click.secho("> plan: Limit the API's rate (count by key, refuse above 60 a minute, tests)", dim=True)
    with stage.client(planning={"provider": "cloud"}) as client:
        made = client.planning_mode(
            goal="Limit the API's rate", requirements=["count by key", "refuse above 60", "tests"]
        )
    print_table(
        ("STEP", "TITLE", "AFTER", "COVERS"),
        ((s.id, s.title, ",".join(s.depends_on), ",".join(s.covers)) for s in made.steps),
    )
    sent = len(stage.server.requests) - before
    covered = {name for step in made.steps for name in step.covers}
    require(sent == 2, f"the plan took {sent} requests")  # noqa: PLR2004 - the first and the correction
    require(covered == {"R1", "R2", "R3"}, "a requirement is not covered")
    return f"the first answer left R3 uncovered and was sent back; {sent} requests, plan {made.hash[:12]} covers R1-R3"


def _plan_answer(steps: list[dict[str, Any]]) -> Answer:
    return Answer(json.dumps({"overview": "Limit the rate.", "estimated_complexity": "low", "steps": steps}))


PROGRAM = """\
import litellm

for _ in range(3):
    answer = litellm.completion(model="openai/gpt-4o-mini", messages=messages, api_base=cloud, api_key="demo")
    print(answer.choices[0].message.content)
"""


def drop_in(_: Stage) -> str:
    """A program that knows LiteLLM only meets a quota of two requests."""
    limit = {"project": "guest", "quotas": [{"scope": "project", "requests": 2, "window": "day"}]}
    click.secho(f"> blueprint_llm.install()\n{PROGRAM.rstrip()}", dim=True)
    names = {"messages": [{"role": "user", "content": QUESTION}], "print": click.echo}
    with FaultServer(default=Answer("A fallback is a plan B.")) as guest, install({"blueprint": limit}):
        try:
            exec(PROGRAM, {**names, "cloud": guest.url})  # noqa: S102 - the text above, as a program of its own
        except QuotaExceededError as error:
            click.echo(str(error))
            kinds = {each.__name__ for each in type(error).__mro__}
        else:
            raise NotProvenError("the quota let it through")
        sent = len(guest.requests)
    require(sent == 2, f"{sent} requests were sent")  # noqa: PLR2004 - the quota
    require("RateLimitError" in kinds, "a program of LiteLLM's does not know that error")
    return "2 of 3 calls were sent; `except litellm.RateLimitError` catches the third"


def explained(stage: Stage) -> str:
    """Nobody can answer: `explain` knows it before, the error says the same after."""
    before = len(stage.server.requests)
    cloud = {"model": "openai/gpt-4o-mini", "api_base": stage.server.url, "api_key": "demo"}
    work = {"model": "openai/gpt-4o", "api_key": "os.environ/BLUEPRINT_DEMO_KEY"}
    limits = [{"scope": "provider:cloud", "limit_usd": 0.0001, "window": "day"}]
    ask: dict[str, Any] = {"messages": _asked("Write a novel."), "max_tokens": 4000}
    with stage.client(providers={"work": work, "cloud": cloud}, budgets=limits) as client:
        said = [(row.provider, row.verdict, row.reason) for row in client.explain(**ask).considered]
        try:
            client.chat(**ask)
        except BlueprintError as error:
            considered = error.trace["route"]["considered"]
        else:
            raise NotProvenError("somebody answered")
    for provider, verdict, reason in said:
        click.echo(f"{provider}  {verdict}: {reason}")
    told = [(row["provider"], row["verdict"], row["reason"]) for row in considered]
    require(told == said, f"explain said {said}, the error {told}")
    require([verdict for _, verdict, _ in said] == ["skipped", "skipped"], "a target was not passed over")
    require(len(stage.server.requests) == before, "a request was sent")
    return "explain() and the error give the same reasons for both; nothing was sent"


def report(stage: Stage) -> str:
    """Every attempt of the scenes is in the ledger, the failed ones too."""
    with stage.client() as client:
        stats = client.get_usage({"project": "demo"})
    rows = [
        (
            name,
            each.calls,
            each.errors,
            each.cache_hits,
            each.prompt_tokens,
            each.completion_tokens,
            f"{each.cost_usd:.6f}",
        )
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


SCENES: tuple[tuple[str, Callable[[Stage], str]], ...] = (
    ("The cloud is down: the local model answers", fallback),
    ("A stream breaks off: it starts again elsewhere, and says so", broken_stream),
    ("A tool call goes wrong: caught at the first wrong character, asked again", caught_call),
    ("A tool wants to write: a person approves; outside the workspace nobody can", approval),
    ("A budget would be passed: nothing is sent", budget),
    ("The same question again: served from the cache", cache_hit),
    ("A plan, checked by code", plan),
    ("A LiteLLM program, unchanged, behind a quota", drop_in),
    ("Nobody may answer: why, before and after", explained),
    ("What it all cost", report),
)
