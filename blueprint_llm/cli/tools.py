"""`blueprint-llm tools list|check`: which tools there are, and what the rules say of a call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from blueprint_llm.cli.options import config_option, json_option, load, print_json, print_table

if TYPE_CHECKING:
    from blueprint_llm.tools import ToolDecision, ToolEngine


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
    from blueprint_llm import sync  # noqa: PLC0415 - --help does not need it

    with _engine(config) as engine:
        sync.run(engine.connect())
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

    For a command it also says its effects, and what the kernel here enforces. The exit code is 0 for allow, 1 for ask
    and deny.
    """
    from blueprint_llm.tools import sandbox  # noqa: PLC0415 - --help does not need it

    is_command = tool == "command" and not (len(arguments) == 1 and arguments[0].startswith("{"))
    given: object = {"argv": list(arguments)} if is_command else "".join(arguments)
    with _engine(config) as engine:
        decision = engine.check(tool, given)
        rule = engine.would_allow(tool, given) if decision.decision == "ask" else ""
        kernel = sandbox.describe(engine.settings.sandbox) if decision.effects else ""
    if as_json:
        facts = {"decision": decision.decision, "rule_id": decision.rule_id, "reasons": decision.reasons}
        print_json({**facts, "effects": decision.effects, "kernel": kernel, "would_allow": rule})
    else:
        _print_decision(decision, rule, kernel)
    if decision.decision != "allow":
        raise SystemExit(1)


def _print_decision(decision: ToolDecision, rule: str, kernel: str) -> None:
    from blueprint_llm.tools.show import one_line  # noqa: PLC0415 - --help does not need it

    by = f" by {decision.rule_id}" if decision.rule_id else ""
    lines = [decision.decision + by, *(f"  {one_line(reason)}" for reason in decision.reasons)]
    lines += [f"  effects: {', '.join(decision.effects)}", f"  kernel: {kernel}"] if decision.effects else []
    lines += [f"  a rule that would allow it: {one_line(rule)}"] if rule else []
    click.echo("\n".join(lines))


def _engine(config: str | None) -> ToolEngine:
    from blueprint_llm.tools.engine import ToolEngine  # noqa: PLC0415 - as above

    return ToolEngine(settings=load(config).tools)
