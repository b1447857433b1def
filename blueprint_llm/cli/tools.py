"""`blueprint-llm tools list|check`: which tools there are, and what the rules say of a call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blueprint_llm.cli.options import config_option, json_option, print_json, print_table

if TYPE_CHECKING:
    from blueprint_llm.tools import ToolEngine


@click.group("tools")
def command() -> None:
    """Look at tools and rules; nothing is run.

    Example: blueprint-llm tools list
    """


@command.command("list")
@json_option
@config_option
def list_tools(*, as_json: bool, config: str | None) -> None:
    """Print the tools that a run offers.

    Example: blueprint-llm tools list --json
    """
    with _engine(config) as engine:
        engine.connect()
        found = [(item.name, engine.effect(item.name), item.description) for item in engine.tools()]
    if as_json:
        print_json([dict(zip(("name", "effect", "description"), row, strict=True)) for row in found])
    else:
        print_table(["TOOL", "EFFECT", "DESCRIPTION"], found)


@command.command("check", context_settings={"ignore_unknown_options": True})
@click.argument("tool")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@json_option
@config_option
def check(tool: str, arguments: tuple[str, ...], *, as_json: bool, config: str | None) -> None:
    """Say what would become of a call: TOOL and its arguments as JSON, or `command` and its words.

    Example: blueprint-llm tools check command -- git diff --output=x

    The exit code is 0 for allow, 1 for ask and deny.
    """
    is_command = tool == "command" and not (len(arguments) == 1 and arguments[0].startswith("{"))
    given: object = {"argv": list(arguments)} if is_command else "".join(arguments)
    with _engine(config) as engine:
        decision = engine.check(tool, given)
    if as_json:
        print_json({"decision": decision.decision, "rule_id": decision.rule_id, "reasons": decision.reasons})
    else:
        from blueprint_llm.tools.show import one_line  # noqa: PLC0415 - --help does not need it

        rule = f" by {decision.rule_id}" if decision.rule_id else ""
        click.echo("\n".join([decision.decision + rule, *(f"  {one_line(reason)}" for reason in decision.reasons)]))
    if decision.decision != "allow":
        raise SystemExit(1)


def _engine(config: str | None) -> ToolEngine:
    from blueprint_llm.config import load_config  # noqa: PLC0415 - --help does not need it
    from blueprint_llm.tools.engine import ToolEngine  # noqa: PLC0415 - as above

    return ToolEngine(settings=load_config(config).tools)
