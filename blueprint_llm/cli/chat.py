"""`blueprint-llm chat`: ask, and watch the answer come."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from blueprint_llm.cli.options import config_option, json_option, open_client, print_json, say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blueprint_llm.types import ChatResponse, StreamChunk


@click.command("chat")
@click.argument("message", nargs=-1)
@click.option("-m", "--model", help="A model_list group or a LiteLLM model id.")
@click.option("-p", "--provider", help="A provider of the configuration: asked first.")
@click.option("-s", "--system", help="A system message.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Most tokens of the answer.")
@click.option("--no-stream", is_flag=True, help="Print the answer when it is complete.")
@json_option
@config_option
def command(message: tuple[str, ...], *, as_json: bool, no_stream: bool, config: str | None, **asked: Any) -> None:
    """Ask a model. What is piped in is put before MESSAGE.

    Example: git diff | blueprint-llm chat "write a commit message"
    """
    from blueprint_llm.cli.local import offer_weights  # noqa: PLC0415 - --help does not need it

    prompt = _prompt(message)
    request = {name: value for name, value in asked.items() if value is not None}
    with open_client(config) as client:
        offer_weights(client.list_models())
        if no_stream or as_json:
            response = client.generate(prompt, **request)
            print_json(_document(response)) if as_json else click.echo(response.content)
        else:
            stream = client.stream(messages=_messages(prompt, request.pop("system", None)), **request)
            show(stream)
            if stream.response is not None and sys.stderr.isatty():
                say(summary(stream.response.trace), dim=True)


def _prompt(words: tuple[str, ...]) -> str:
    piped = "" if sys.stdin.isatty() else sys.stdin.read().strip()
    prompt = "\n\n".join(filter(None, (piped, " ".join(words))))
    if not prompt:
        raise click.UsageError('say something: blueprint-llm chat "a question", or pipe text in')
    return prompt


def _messages(prompt: str, system: str | None) -> list[dict[str, str]]:
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": prompt}]


def _document(response: ChatResponse) -> dict[str, Any]:
    return response.model_dump(mode="json")


def show(stream: Any) -> None:
    """Print a stream: text on standard output, everything else on standard error."""
    for chunk in stream:
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
