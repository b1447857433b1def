"""Asking on the terminal: one question, or `blueprint-llm chat` without a message, which is a conversation.

In a conversation a line that begins with a slash is a command; each is a method whose docstring is its help. What is
typed is kept in a file that only its owner can read.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blueprint_llm.cli.chat import print_decision
from blueprint_llm.cli.options import model_names, provider_names
from blueprint_llm.cli.output import Progress, counted, failed_line, print_json, restarted_line, say, skipped_line, usd
from blueprint_llm.config.paths import folder, make_folder, writing
from blueprint_llm.config.problems import hint
from blueprint_llm.errors import BlueprintError, StoreError
from blueprint_llm.types import UsageFilter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from blueprint_llm.client import SyncLLMClient
    from blueprint_llm.types import ChatResponse

_LAST = "last_chat.json"
_FENCE = '"""'
_KEPT = 1000
_ANY = "the configuration's choice"


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
        if as_json:
            print_json(response.model_dump(mode="json"))
            return response
        _print_whole(response)
        _say_ending(response)
        return response
    stream: Any = client.stream(request)
    if sys.stdout.isatty():
        response = show(stream)
    else:  # what is void on the way, or of a call that fails, is never written
        for chunk in stream:
            if chunk.restart:
                say(restarted_line(chunk))
        response = stream.response
        _print_whole(response)
    _say_ending(response)
    if sys.stderr.isatty():
        say(summary(response.trace), dim=True)
    return response


def _print_whole(response: ChatResponse) -> None:
    click.echo(response.content)
    _print_calls(response)


def _say_ending(response: ChatResponse) -> None:
    """Say why there is no more, where that was not the model's choice."""
    from blueprint_llm.streaming.verdict import end_of

    ended = end_of(response.finish_reason)
    if ended == "cut":
        say("-- the answer was cut at its limit of tokens: raise --max-tokens --", fg="yellow")
    elif ended == "refused":
        say(f"-- the provider refused to go on ({response.finish_reason}) --", fg="yellow")
    elif not response.content and not response.tool_calls:
        say("-- the answer is empty --", fg="yellow")


def _print_calls(answer: Any) -> None:
    for call in answer.tool_calls:
        click.echo(f"{call.name}({call.arguments})")


def show(stream: Any) -> ChatResponse:
    """Print a stream: text on standard output, everything else on standard error. Leaving it closes the upstream."""
    with Progress("waiting for the first words") as waiting, closing(iter(stream)) as chunks:
        for chunk in chunks:
            waiting.close()
            if chunk.restart:
                click.echo()
                say(restarted_line(chunk), fg="yellow")
            click.echo(chunk.delta, nl=False)
            _print_calls(chunk)
    click.echo()
    return stream.response  # type: ignore[no-any-return] # a stream that ended well has one


def summary(trace: Mapping[str, Any]) -> str:
    """The trace in a few lines: who was passed over and why, who failed, who answered."""
    lines = [skipped_line(row) for row in trace["route"]["considered"] if row["verdict"] == "skipped"]
    for attempt in trace["attempts"]:
        if attempt["category"]:
            lines.append(failed_line(attempt))
            continue
        who = f"{attempt['provider']} ({attempt['model']})"
        cost = "unknown cost" if attempt["cost_usd"] is None else f"${attempt['cost_usd']:.6f}"
        first = "" if attempt["ttft_s"] is None else f", first token after {attempt['ttft_s']:.2f} s"
        lines.append(f"served by {who} in {attempt['duration_s']:.2f} s{first}, {cost}")
    return "\n".join(lines)


def last_conversation() -> list[dict[str, Any]]:
    """Return the messages of the last conversation."""
    try:
        messages: list[dict[str, Any]] = json.loads((folder("state") / _LAST).read_bytes())
    except (OSError, ValueError):
        raise click.UsageError("there is no conversation to go on with") from None
    return messages


def keep_conversation(messages: Sequence[dict[str, Any]]) -> None:
    """Keep a conversation for `--continue`, in place of the one before, readable by its owner only.

    The answer is out already: where it cannot be kept, that is only said.
    """
    try:
        path = make_folder("state") / _LAST
        fresh = path.with_suffix(f".{os.getpid()}")
        with writing("the conversation", path):
            with open(fresh, "w", encoding="utf-8", opener=partial(os.open, mode=0o600)) as file:
                json.dump(list(messages), file, default=str)
            fresh.replace(path)
    except StoreError as error:
        say(f"-- not kept for --continue: {error} --", dim=True)


class Conversation:
    """Messages that go back and forth. `options` are those of `chat`; /model and /provider change them."""

    def __init__(
        self, client: SyncLLMClient, session: str, messages: list[dict[str, Any]], options: dict[str, Any]
    ) -> None:
        self._client, self._session = client, session
        self._first, self._messages = list(messages), list(messages)
        self._options = options
        self._trace: Mapping[str, Any] | None = None
        self._open = True
        names = ("model", "provider", "cost", "explain", "new", "help", "quit")
        self._commands: dict[str, Callable[[str], None]] = {name: getattr(self, f"_{name}") for name in names}

    def run(self) -> None:
        """Answer until /quit or the end of the input; Ctrl-C stops an answer, not the conversation."""
        say("/help lists the commands, /quit or Ctrl-D ends", dim=True)
        try:
            typed = make_folder("state") / "chat_history"
        except StoreError:  # a conversation can do without
            typed = Path(os.devnull)
        with _history(typed):
            while self._open:
                try:
                    self._take(read_message(_read_line))
                except EOFError:
                    say("")
                    return
                except KeyboardInterrupt:
                    say("\n-- stopped --", fg="yellow")
                except BlueprintError as error:
                    say(f"Error: {error}", fg="red")

    def _take(self, text: str) -> None:
        if text.startswith("/"):
            name, _, argument = text[1:].partition(" ")
            command = self._commands.get(name)
            command(argument.strip()) if command else say(f"no command /{name}{hint(name, self._commands)}")
        elif text.strip():
            asked = [*self._messages, {"role": "user", "content": text}]
            response = ask(self._client, asked, **self._options)
            self._messages = [*asked, response.message or {"role": "assistant", "content": response.content}]
            keep_conversation(self._messages)
            self._trace = response.trace

    def _model(self, name: str) -> None:
        """Show the models, or ask NAME from now on; `-` leaves it to the configuration."""
        self._choose("model", name, model_names(self._client.config))

    def _provider(self, name: str) -> None:
        """Show the providers, or ask NAME first from now on; `-` leaves it to the configuration."""
        known = provider_names(self._client.config)
        if name in {"", "-", *known}:
            self._choose("provider", name, known)
        else:
            say(f"no provider {name!r}{hint(name, known)}")

    def _choose(self, what: str, name: str, known: list[str]) -> None:
        if name:
            self._options[what] = None if name == "-" else name
        say(f"{what}: {self._options[what] or _ANY}" + ("" if name else f"; known: {', '.join(known)}"))

    def _cost(self, _: str) -> None:
        """Show what this conversation has cost."""
        used = self._client.get_usage(UsageFilter(session=self._session))
        tokens = f"{used.prompt_tokens} tokens in, {used.completion_tokens} out"
        say(f"{counted(used.calls, 'call')}, {tokens}, cost in USD: {usd(used.cost_usd, used.unpriced)}")

    def _explain(self, text: str) -> None:
        """Say why the last answer came from where it came from, or whom TEXT would go to."""
        if text:
            target = {name: self._options[name] for name in ("model", "provider") if self._options[name]}
            asked = [*self._messages, {"role": "user", "content": text}]
            print_decision(self._client.explain(messages=asked, **target), err=True)
        else:
            say(summary(self._trace) if self._trace else "nothing was asked yet")

    def _new(self, _: str) -> None:
        """Forget what was said, and begin anew."""
        self._messages = list(self._first)
        say("forgotten")

    def _help(self, _: str) -> None:
        """List the commands."""
        for name, command in self._commands.items():
            say(f"/{name:<9} {command.__doc__}")
        say(f"A backslash at the end of a line, or {_FENCE} around several, makes one message of them.")

    def _quit(self, _: str) -> None:
        """End the conversation."""
        self._open = False


def read_message(read: Callable[[str], str]) -> str:
    """One message: a line, lines that end in a backslash and the next, or all between two lots of three quotes."""
    lines = [read("> ")]
    if lines[0].startswith(_FENCE):
        lines[0] = lines[0].removeprefix(_FENCE)
        while not lines[-1].rstrip().endswith(_FENCE):
            lines.append(read("... "))
        return "\n".join(lines).rstrip().removesuffix(_FENCE).strip("\n")
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(read("... "))
    return "\n".join(lines)


def _read_line(prompt: str) -> str:
    """A line of the terminal; where the answers go to a file, the prompt does not. Raises EOFError."""
    if sys.stdout.isatty():
        return input(prompt)
    say(prompt, nl=False)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")


@contextmanager
def _history(path: Path) -> Iterator[None]:
    """Arrow keys through what was typed, also in earlier conversations; `path` is readable by its owner only."""
    try:
        import readline  # not on every platform
    except ImportError:
        yield
        return
    with suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(_KEPT)
    try:
        yield
    finally:
        with suppress(OSError):
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            readline.write_history_file(path)
