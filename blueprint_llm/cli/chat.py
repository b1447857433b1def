"""`blueprint-llm chat`: ask, and watch the answer come."""

from __future__ import annotations

import sys
import uuid
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from blueprint_llm.cli.options import (
    config_option,
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


@click.command("chat")
@click.argument("message", nargs=-1)
@model_option
@provider_option
@click.option("-s", "--system", help="A system message.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Most tokens of the answer.")
@click.option("--no-stream", is_flag=True, help="Print the answer when it is complete.")
@json_option
@config_option
def command(message: tuple[str, ...], *, system: str | None, config: str | None, **options: Any) -> None:
    """Ask a model. What is piped in is put before MESSAGE; on a terminal, no MESSAGE begins a conversation.

    Example: git diff | blueprint-llm chat "write a commit message"
    """
    from blueprint_llm.cli.conversation import Conversation  # noqa: PLC0415 - --help does not need it
    from blueprint_llm.cli.local import offer_weights  # noqa: PLC0415 - likewise

    prompt = text_of(message)
    if not prompt and not on_terminal():
        raise click.UsageError('say something: blueprint-llm chat "a question", or pipe text in')
    first = [{"role": "system", "content": system}] if system else []
    session = uuid.uuid4().hex
    with open_client(config, session=session) as client:
        offer_weights(client.list_models())
        if prompt:
            ask(client, [*first, {"role": "user", "content": prompt}], **options)
        else:
            Conversation(client, session, first, options).run()


def ask(
    client: SyncLLMClient, messages: list[dict[str, Any]], *, as_json: bool, no_stream: bool, **asked: Any
) -> ChatResponse:
    """Send the messages and print the answer as it comes, or when it is whole."""
    request = {name: value for name, value in asked.items() if value is not None}
    if no_stream or as_json:
        with Progress("waiting for the answer"):
            response = client.chat(messages=messages, **request)
        print_json(response.model_dump(mode="json")) if as_json else click.echo(response.content)
        return response
    stream = client.stream(messages=messages, **request)
    show(stream)
    if sys.stderr.isatty():
        say(summary(stream.response.trace), dim=True)  # type: ignore[union-attr] # a stream that ended well has one
    return stream.response  # type: ignore[return-value] # likewise


def show(stream: Any) -> None:
    """Print a stream: text on standard output, everything else on standard error. Leaving it closes the upstream."""
    with Progress("waiting for the first words") as waiting, closing(iter(stream)) as chunks:
        for chunk in chunks:
            waiting.close()
            _show_chunk(chunk)
    click.echo()


def _show_chunk(chunk: StreamChunk) -> None:
    if chunk.restart:
        click.echo()
        say(f"-- the stream broke; {chunk.provider} starts the answer again ({chunk.error}) --", fg="yellow")
    click.echo(chunk.delta, nl=False)
    for call in chunk.tool_calls:
        click.echo(f"{call.name}({call.arguments})")


def summary(trace: Mapping[str, Any]) -> str:
    """The trace in a few lines: who was passed over and why, who failed, who answered."""
    skipped = [row for row in trace["route"]["considered"] if row["verdict"] == "skipped"]
    lines = [f"skipped {row['provider']} ({row['model']}): {row['reason']}" for row in skipped]
    lines += [_attempt_line(attempt) for attempt in trace["attempts"]]
    return "\n".join(lines)


def _attempt_line(attempt: Mapping[str, Any]) -> str:
    who = f"{attempt['provider']} ({attempt['model']})"
    if attempt["category"]:
        return f"failed {who}: {attempt['category']}"
    cost = "unknown cost" if attempt["cost_usd"] is None else f"${attempt['cost_usd']:.6f}"
    first = "" if attempt["ttft_s"] is None else f", first token after {attempt['ttft_s']:.2f} s"
    return f"served by {who} in {attempt['duration_s']:.2f} s{first}, {cost}"
