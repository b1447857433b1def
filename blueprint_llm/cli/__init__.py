"""The command line. This module imports click only: each command loads what it needs when it runs."""

from __future__ import annotations

import errno
import importlib
import os
from typing import TYPE_CHECKING, Any

import click

from blueprint_llm.cli.options import AS_JSON, SHORT_ID, failure, print_json

if TYPE_CHECKING:
    from blueprint_llm.errors import BlueprintError

COMMANDS = {
    "audit": "audit",
    "cache": "cache",
    "chat": "chat",
    "check": "check",
    "demo": "demo",
    "explain": "explain",
    "init": "init",
    "keys": "keys",
    "local": "local",
    "models": "models",
    "plan": "plan",
    "run": "run",
    "schema": "schema",
    "tools": "tools",
    "trace": "trace",
    "trust": "trust",
    "usage": "usage",
}
INTERRUPTED = 130  # what a shell says of a program that SIGINT ended


class LazyGroup(click.Group):
    """Commands by module name; errors of the library become one line, or one JSON object, and exit code 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names, sorted."""
        return sorted(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is meant; an unknown one is a mistake that names the nearest."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            from blueprint_llm.config.problems import hint  # noqa: PLC0415 - only a mistake needs it

            ctx.fail(f"no command {name!r}{hint(name, COMMANDS)}")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import the module of one command."""
        home = COMMANDS.get(cmd_name)
        if home is None:
            return None
        command: click.Command = importlib.import_module(f"blueprint_llm.cli.{home}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run; a failure that the library or the system explains, and Ctrl-C, need no traceback."""
        from blueprint_llm.errors import BlueprintError  # noqa: PLC0415 - --help does not need it

        if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            ctx.color = False
        asks_json = "--json" in ctx.args  # also where the options themselves are wrong
        try:
            return super().invoke(ctx)
        except (BlueprintError, click.ClickException) as error:
            if asks_json or ctx.meta.get(AS_JSON):
                print_json(failure(error))
                ctx.exit(getattr(error, "exit_code", 1))
            if isinstance(error, click.ClickException):
                raise
            raise click.ClickException(_text(error)) from None
        except OSError as error:  # a full disk, a folder that may not be written
            if error.errno == errno.EPIPE:
                raise  # click ends without a word when the reader of a pipe has left
            where = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(f"{where}{error.strerror or error}") from None
        except KeyboardInterrupt:
            click.echo("\ninterrupted", err=True)
            ctx.exit(INTERRUPTED)


def _text(error: BlueprintError) -> str:
    """Return what is said of a failed call, and how to see more of it."""
    known = str(error.trace.get("id", ""))
    return f"{error}\nmore: blueprint-llm trace {known[:SHORT_ID]}" if known else str(error)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="blueprint-llm", prog_name="blueprint-llm")
def main() -> None:
    """The policy layer over LiteLLM: limits that hold, streams you can trust, answers to "why?".

    Answers go to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 misused, 130
    interrupted. NO_COLOR is respected.

    \b
    Example: blueprint-llm init && blueprint-llm check && blueprint-llm chat "Hello"

    \b
    Shell completion, also of providers and models:
      bash  eval "$(_BLUEPRINT_LLM_COMPLETE=bash_source blueprint-llm)"
      zsh   eval "$(_BLUEPRINT_LLM_COMPLETE=zsh_source blueprint-llm)"
      fish  _BLUEPRINT_LLM_COMPLETE=fish_source blueprint-llm | source
    """  # noqa: D301 - click's mark of what is not to be wrapped
