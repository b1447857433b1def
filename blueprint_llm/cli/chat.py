"""`blueprint-llm chat`, `explain` and `models`: ask, and see beforehand whom a question would go to."""

from __future__ import annotations

import base64
import json
import mimetypes
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blueprint_llm.cli import options as given
from blueprint_llm.cli.output import Fallbacks, answer, print_json, print_table, say, wants_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from blueprint_llm import RouteDecision

_SCHEMA = "A JSON Schema that the answer must satisfy."
_OPTION = "Any other parameter of LiteLLM's, its value in JSON or as text; repeatable."


def _parameters(_ctx: click.Context, _option: click.Parameter, texts: Sequence[str]) -> dict[str, Any]:
    """`seed=7`, `stop=["a"]` or `user=me` as LiteLLM's parameters, for an option's `callback`."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"{text!r}: write NAME=VALUE, like seed=7")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _schema_in(_ctx: click.Context, _option: click.Parameter, path: str | None) -> dict[str, Any] | None:
    """The schema in a file as a `response_format`, for an option's `callback`."""
    if path is None:
        return None
    try:
        schema = json.loads(_bytes_of(path))
    except ValueError as error:
        raise click.BadParameter(f"{path} is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise click.BadParameter(f"{path}: a JSON Schema is an object")
    name = "".join(each if each.isalnum() else "_" for each in Path(path).stem)
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}


def _attached(_ctx: click.Context, _option: click.Parameter, paths: Sequence[str]) -> list[dict[str, Any]]:
    """Files as parts of a message: images and PDF as data, everything else as text; for an option's `callback`."""
    return [_part(path, _bytes_of(path)) for path in paths]


def _bytes_of(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}") from None


def _part(path: str, content: bytes) -> dict[str, Any]:
    kind, name = mimetypes.guess_type(path)[0] or "", Path(path).name
    url = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    if kind == "application/pdf":
        return {"type": "file", "file": {"filename": name, "file_data": url}}
    if kind.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": url}}
    try:
        return {"type": "text", "text": f"{name}:\n{content.decode()}"}
    except UnicodeDecodeError:
        raise click.BadParameter(f"{path} is no image, PDF or text") from None


@click.command("chat")
@click.argument("message", nargs=-1)
@given.model_option
@given.provider_option
@click.option(
    "--only", metavar="PROVIDER", shell_complete=given.complete_provider, help="This provider and no fallback."
)
@click.option("-s", "--system", help="A system message.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Most tokens of the answer.")
@click.option("-o", "--option", "params", multiple=True, callback=_parameters, metavar="NAME=VALUE", help=_OPTION)
@click.option("--schema", "response_format", callback=_schema_in, metavar="FILE", help=_SCHEMA)
@click.option("-a", "--attach", multiple=True, callback=_attached, metavar="FILE", help="An image, a PDF or a text.")
@click.option("--continue", "goes_on", is_flag=True, help="Go on with the last conversation.")
@click.option("--no-stream", is_flag=True, help="Print the answer when it is complete.")
@given.common_options
def chat(message: tuple[str, ...], *, attach: list[dict[str, Any]], **options: Any) -> None:
    """Ask a model. What is piped in is put before MESSAGE; on a terminal, no MESSAGE begins a conversation.

    Off a terminal standard output holds the final answer alone. The last conversation is kept for --continue in a file
    that only you can read.

    Example: git diff | blueprint-llm chat "write a commit message"
    """
    from blueprint_llm.cli.conversation import Conversation, ask, keep_conversation, last_conversation
    from blueprint_llm.cli.kept import offer_weights

    prompt = given.text_of(message)
    if not prompt and not attach and not given.on_terminal():
        raise click.UsageError('say something: blueprint-llm chat "a question", or pipe text in')
    first = last_conversation() if options.pop("goes_on") else []
    if system := options.pop("system"):
        first = [{"role": "system", "content": system}, *(each for each in first if each["role"] != "system")]
    if only := options.pop("only"):
        options |= {"provider": only, "fallback": False}
    session, options["as_json"] = uuid.uuid4().hex, wants_json()
    hook = None if sys.stdout.isatty() else Fallbacks()
    with given.open_client(session=session, on_event=hook) as client:
        offer_weights(client.list_models())
        if prompt or attach:
            content: Any = [{"type": "text", "text": prompt}, *attach] if attach else prompt
            asked = [*first, {"role": "user", "content": content}]
            keep_conversation([*asked, ask(client, asked, **options).message])
        else:
            Conversation(client, session, first, options).run()


@click.command("explain")
@click.argument("message", nargs=-1)
@given.model_option
@given.provider_option
@click.option("-t", "--task-type", help="What `routes` rules match on.")
@given.common_options
def explain(message: tuple[str, ...], **asked: Any) -> None:
    """Show which targets a request would try, in order, and why; sends nothing. Text may be piped in.

    Example: blueprint-llm explain --task-type lint "check this"
    """
    request = {name: value for name, value in asked.items() if value is not None}
    with given.open_client() as client:
        decision = client.explain(messages=[{"role": "user", "content": given.text_of(message) or "hello"}], **request)
    impossible = decision.estimate.get("error")
    if wants_json():
        wrong = {"error": {"type": "InvalidRequestError", "message": impossible}} if impossible else {}
        print_json({**decision.model_dump(mode="json"), **wrong})
        raise SystemExit(1 if impossible else 0)
    if impossible:
        raise click.ClickException(str(impossible))
    print_decision(decision)


def print_decision(decision: RouteDecision, *, err: bool = False) -> None:
    """The targets as a table, and a remark on rule, size and cost."""
    rows = [(row.verdict, row.provider, row.model, row.reason) for row in decision.considered]
    print_table(("VERDICT", "PROVIDER", "MODEL", "REASON"), rows, err=err)
    if decision.budgets:
        click.echo(err=err)
        print_table(("LIMIT", "USED", "OF", "UNIT", "RESETS"), map(_limit, decision.budgets), err=err)
    worst = decision.estimate.get("worst_cost_usd")
    cost = "unknown" if worst is None else f"at most ${worst:.6f}"
    say(f"rule: {decision.rule}; about {decision.estimate.get('input_tokens')} input tokens; cost {cost}")


def _limit(level: dict[str, Any]) -> tuple[str, ...]:
    """Return a limit that counts the request: how full it is, and when it is empty again."""
    amounts = [f"{level[name]:.6f}" if level["kind"] == "usd" else f"{level[name]:.0f}" for name in ("used", "limit")]
    resets = level.get("resets_at")
    when = f"{datetime.fromtimestamp(resets, UTC):%Y-%m-%d %H:%M:%S} UTC" if resets else "never"
    return (f"{level['scope']} per {level['window']}", *amounts, level["kind"], when)


@click.command("models")
@click.option("-p", "--provider", help="Only this provider.", shell_complete=given.complete_provider)
@given.common_options
def models(*, provider: str | None) -> None:
    """List the configured models; asks no network.

    Example: blueprint-llm models --provider cloud
    """
    with given.open_client() as client:
        found = client.list_models(provider)
    rows = [(m.provider, m.id, m.max_input_tokens or "?", "yes" if m.available else f"no: {m.reason}") for m in found]
    head = ("PROVIDER", "MODEL", "INPUT TOKENS", "AVAILABLE")
    answer([model.model_dump(mode="json") for model in found], lambda: print_table(head, rows))
