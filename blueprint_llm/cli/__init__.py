"""The command line. This module imports click only: each command loads what it needs when it runs."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from contextlib import suppress
from typing import Any

import click

from blueprint_llm.cli.output import SHORT_ID, failure, print_json, wants_json

_MODULES = {
    "chat": ("chat", "explain", "models"),
    "config": ("check", "demo", "init", "schema", "trust"),
    "kept": ("cache", "keys", "local"),
    "plan": ("plan",),
    "tools": ("audit", "run", "tools"),
    "usage": ("trace", "usage"),
}
COMMANDS = {name: module for module, names in _MODULES.items() for name in names}
INTERRUPTED = 130  # what a shell says of a program that SIGINT ended


class LazyGroup(click.Group):
    """Commands by module name; errors of the library become one line, or one JSON object, and exit code 1."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run as a program, also where standard streams are closed or cannot be written to."""
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            if getattr(sys, name) is None:  # closed by the caller: as one that is empty, or that nobody reads
                setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115 - as long as the process
        try:
            return super().main(*args, **extra)
        except OSError as error:  # of the help, which click prints itself
            with suppress(OSError):
                click.echo(f"Error: {error.strerror}", err=True)
            sys.exit(1)
        finally:
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except OSError:  # else Python tries again at its end, and complains
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The names, sorted."""
        return sorted(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is meant; an unknown one is a mistake that names the nearest."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            from blueprint_llm.config.problems import hint

            ctx.fail(f"no command {name!r}{hint(name, COMMANDS)}")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import the module of one command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"blueprint_llm.cli.{COMMANDS[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run; a failure that the library or the system explains, and Ctrl-C, need no traceback."""
        from blueprint_llm.errors import BlueprintError

        if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
            ctx.color = False
        asks_json = "--json" in ctx.args  # also where the options themselves are wrong
        try:
            return super().invoke(ctx)
        except (BlueprintError, click.ClickException) as error:
            if asks_json or wants_json():
                print_json(failure(error))
                ctx.exit(getattr(error, "exit_code", 1))
            if isinstance(error, click.ClickException):
                raise
            known = str(error.trace.get("id", ""))
            more = f"\nmore: blueprint-llm trace {known[:SHORT_ID]}" if known else ""
            raise click.ClickException(f"{error}{more}") from None
        except OSError as error:  # a full disk, a folder that may not be written
            if error.errno == errno.EPIPE:
                raise  # click ends without a word when the reader of a pipe has left
            where = f"{error.filename}: " if error.filename else ""
            failed = click.ClickException(f"{where}{error.strerror or error}")
            if asks_json or wants_json():
                with suppress(OSError):  # standard output itself may be what is full
                    print_json(failure(failed))
                    ctx.exit(failed.exit_code)
            raise failed from None
        except KeyboardInterrupt:
            click.echo("\ninterrupted", err=True)
            ctx.exit(INTERRUPTED)


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
