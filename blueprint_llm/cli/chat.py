"""`blueprint-llm chat`: ask, and watch the answer come."""

from __future__ import annotations

import sys
import uuid
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from blueprint_llm.cli.asking import attached, keep_conversation, last_conversation, parameters, schema_in
from blueprint_llm.cli.options import (
    Fallbacks,
    complete_provider,
    config_option,
    failed_line,
    json_option,
    model_option,
    on_terminal,
    open_client,
    print_json,
    provider_option,
    say,
    text_of,
)
from blueprint_llm.cli.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blueprint_llm.client import SyncLLMClient
    from blueprint_llm.types import ChatResponse, StreamChunk

_SCHEMA = "A JSON Schema that the answer must satisfy."
_OPTION = "Any other parameter of LiteLLM's, its value in JSON or as text; repeatable."


@click.command("chat")
@click.argument("message", nargs=-1)
@model_option
@provider_option
@click.option("--only", metavar="PROVIDER", shell_complete=complete_provider, help="This provider and no fallback.")
@click.option("-s", "--system", help="A system message.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Most tokens of the answer.")
@click.option("-o", "--option", "params", multiple=True, callback=parameters, metavar="NAME=VALUE", help=_OPTION)
@click.option("--schema", "response_format", callback=schema_in, metavar="FILE", help=_SCHEMA)
@click.option("-a", "--attach", multiple=True, callback=attached, metavar="FILE", help="An image, a PDF or a text.")
@click.option("--continue", "goes_on", is_flag=True, help="Go on with the last conversation.")
@click.option("--no-stream", is_flag=True, help="Print the answer when it is complete.")
@json_option
@config_option
def command(
    message: tuple[str, ...],
    *,
    system: str | None,
    config: str | None,
    only: str | None,
    attach: list[dict[str, Any]],
    goes_on: bool,
    **options: Any,
) -> None:
    """Ask a model. What is piped in is put before MESSAGE; on a terminal, no MESSAGE begins a conversation.

    Off a terminal standard output holds the final answer alone. The last conversation is kept for --continue in a file
    that only you can read.

    Example: git diff | blueprint-llm chat "write a commit message"
    """
    from blueprint_llm.cli.conversation import Conversation  # noqa: PLC0415 - --help does not need it
    from blueprint_llm.cli.local import offer_weights  # noqa: PLC0415 - likewise

    prompt = text_of(message)
    if not prompt and not attach and not on_terminal():
        raise click.UsageError('say something: blueprint-llm chat "a question", or pipe text in')
    first = last_conversation() if goes_on else []
    if system:
        first = [{"role": "system", "content": system}, *(each for each in first if each["role"] != "system")]
    options |= {"provider": only, "fallback": False} if only else {}
    session = uuid.uuid4().hex
    hook = None if sys.stdout.isatty() else Fallbacks()
    with open_client(config, session=session, on_event=hook) as client:
        offer_weights(client.list_models())
        if prompt or attach:
            content: Any = [{"type": "text", "text": prompt}, *attach] if attach else prompt
            asked = [*first, {"role": "user", "content": content}]
            keep_conversation([*asked, ask(client, asked, **options).message])
        else:
            Conversation(client, session, first, options).run()


def ask(
    client: SyncLLMClient,
    messages: list[dict[str, Any]],
    *,
    as_json: bool,
    no_stream: bool,
    params: Mapping[str, Any] | None = None,
    **asked: Any,
) -> ChatResponse:
    """Send the messages and print the answer: on a terminal as it comes, elsewhere when it is whole."""
    given = {name: value for name, value in asked.items() if value is not None}
    request = {**(params or {}), **given, "messages": messages}
    if no_stream or as_json:
        with Progress("waiting for the answer"):
            response = client.chat(request)
        print_json(response.model_dump(mode="json")) if as_json else _print_whole(response)
        return response
    stream = client.stream(request)
    response = show(stream) if sys.stdout.isatty() else _read(stream)
    if sys.stderr.isatty():
        say(summary(response.trace), dim=True)
    return response


def _read(stream: Any) -> ChatResponse:
    """Read a stream and print its answer: what was void on the way, or of a call that failed, is never written."""
    for chunk in stream:
        if chunk.restart:
            say(_restarted(chunk))
    _print_whole(stream.response)
    return stream.response  # type: ignore[no-any-return] # a stream that ended well has one


def _print_whole(response: ChatResponse) -> None:
    click.echo(response.content)
    for call in response.tool_calls:
        click.echo(f"{call.name}({call.arguments})")


def show(stream: Any) -> ChatResponse:
    """Print a stream: text on standard output, everything else on standard error. Leaving it closes the upstream."""
    with Progress("waiting for the first words") as waiting, closing(iter(stream)) as chunks:
        for chunk in chunks:
            waiting.close()
            _show_chunk(chunk)
    click.echo()
    return stream.response  # type: ignore[no-any-return] # a stream that ended well has one


def _show_chunk(chunk: StreamChunk) -> None:
    if chunk.restart:
        click.echo()
        say(_restarted(chunk), fg="yellow")
    click.echo(chunk.delta, nl=False)
    for call in chunk.tool_calls:
        click.echo(f"{call.name}({call.arguments})")


def _restarted(chunk: StreamChunk) -> str:
    return f"-- the stream broke; {chunk.provider} starts the answer again ({chunk.error}) --"


def summary(trace: Mapping[str, Any]) -> str:
    """The trace in a few lines: who was passed over and why, who failed, who answered."""
    skipped = [row for row in trace["route"]["considered"] if row["verdict"] == "skipped"]
    lines = [f"skipped {row['provider']} ({row['model']}): {row['reason']}" for row in skipped]
    lines += [_attempt_line(attempt) for attempt in trace["attempts"]]
    return "\n".join(lines)


def _attempt_line(attempt: Mapping[str, Any]) -> str:
    if attempt["category"]:
        return failed_line(attempt)
    who = f"{attempt['provider']} ({attempt['model']})"
    cost = "unknown cost" if attempt["cost_usd"] is None else f"${attempt['cost_usd']:.6f}"
    first = "" if attempt["ttft_s"] is None else f", first token after {attempt['ttft_s']:.2f} s"
    return f"served by {who} in {attempt['duration_s']:.2f} s{first}, {cost}"
