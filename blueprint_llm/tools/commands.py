"""The built-in tools that run programs: `command` and `run_tests`."""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING, Any, Literal

from blueprint_llm.errors import ToolError
from blueprint_llm.tools.arguments import BadArgumentsError
from blueprint_llm.tools.boundary import Allowance  # noqa: TC001 - the schema is read from the signature
from blueprint_llm.tools.process import request_for
from blueprint_llm.tools.registry import Claims, Ran, tool
from blueprint_llm.tools.sandbox import Confinement, git_environment
from blueprint_llm.tools.words import Command, from_argv, from_text, program_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blueprint_llm.config.tool_blocks import Tools
    from blueprint_llm.tools.boundary import Effects
    from blueprint_llm.tools.process import Flight, Outcome, Spawner
    from blueprint_llm.tools.workspace import Workspace

# Names that load code into programs or carry secrets: never passed on, whatever the configuration lists.
_NEVER = re.compile(
    r"(?i)LD_.*|DYLD_.*|PYTHON.*|GIT_.*|BASH_ENV|ENV|IFS|PS4|PROMPT_COMMAND|NODE_OPTIONS|PERL5.*|RUBYOPT|RUBYLIB|"
    r"JAVA_TOOL_OPTIONS|.*(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL).*"
)
_WRITE_REFUSED = re.compile(r"Read-only file system|read-only|EROFS|Errno 30\b")
_NETWORK_REFUSED = re.compile(
    r"Network is unreachable|name resolution|resolve host|ENETUNREACH|EAI_AGAIN|ENOTFOUND|getaddrinfo"
    r"|[Uu]nable to connect|socket.*(?:Permission denied|Errno 13|EACCES)|(?:Permission denied|EACCES).*socket",
    re.DOTALL,
)
_REFUSED_BY_LANDLOCK = re.compile(r"Permission denied|EACCES|Errno 13\b")


class CommandTools:
    """Tools bound to one workspace and one spawner."""

    def __init__(self, workspace: Workspace, settings: Tools, spawner: Spawner, confinement: Confinement) -> None:
        self._workspace, self._settings, self._spawner, self._confinement = workspace, settings, spawner, confinement
        self._searched: dict[str, str] = {}  # PATH, and what of it is trusted

    @tool(effect="execute", confined=True)
    async def command(self, argv: list[str] | None = None, command: str | None = None, *, allowance: Allowance) -> Ran:
        """Run a program in the workspace, without a shell: its words in `argv`, or one plain `command` string."""
        return await self._run(_understood(argv, command), allowance)

    @tool(effect="execute", confined=True)
    async def run_tests(self, args: list[str] | None = None, *, allowance: Allowance) -> Ran:
        """Run pytest in the workspace with these further arguments; the result counts passed and failed tests."""
        ran = await self._run(from_argv(["pytest", *(args or [])]), allowance)
        return Ran(status=ran.status, text=ran.text, facts={**ran.facts, "tests": _counts(ran.text)})

    @staticmethod
    def command_claims(arguments: Mapping[str, Any]) -> Claims:
        """Return the command that a call would run."""
        return Claims(command=_understood(arguments["argv"], arguments["command"]))

    @staticmethod
    def test_claims(arguments: Mapping[str, Any]) -> Claims:
        """Return the pytest command that a call would run."""
        return Claims(command=_understood(["pytest", *(arguments["args"] or [])], None))

    def environment(self) -> dict[str, str]:
        """Return the environment of a command: what the configuration passes on, its PATH free of the workspace."""
        names = (name for name in self._settings.env.pass_ if not _NEVER.fullmatch(name))
        env = {name: os.environ[name] for name in names if name in os.environ}
        if "PATH" in env:
            if env["PATH"] not in self._searched:
                inside = f"{self._workspace.root}/"
                folders = (folder for folder in env["PATH"].split(":") if os.path.isabs(folder))  # noqa: PTH117 - plain strings
                trusted = (folder for folder in folders if not f"{os.path.realpath(folder)}/".startswith(inside))
                self._searched[env["PATH"]] = ":".join(trusted)
            env["PATH"] = self._searched[env["PATH"]]
        return env

    async def _run(self, command: Command, allowance: Allowance) -> Ran:
        return await self._spawner.call(lambda flight: self._run_to_its_end(command, allowance, flight))

    def _run_to_its_end(self, command: Command, allowance: Allowance, flight: Flight) -> Ran:
        env, root, limits = self.environment(), self._workspace.root, self._settings.limits
        name = command.argv[0]
        program = shutil.which(os.path.join(root, name) if "/" in name else name, path=env.get("PATH", os.defpath))  # noqa: PTH118 - a plain string
        if program is None:
            raise FileNotFoundError(2, "no such program", name)
        plan = self._confinement.plan(allowance, env)
        if program_name(name) == "git" and plan.in_force != "none":
            if plan.unsettled:
                raise ToolError(
                    f"{plan.unsettled[0]} is hidden and has unrecorded changes: git would record it as empty"
                )
            env |= git_environment(self._confinement.global_git_config(env.get("HOME", "")))
        request = request_for(command.argv, program, root, env, plan, limits)
        try:
            outcome = self._spawner.run(request, plan.ruleset, limits, flight)
        finally:
            told = self._confinement.put_right(plan.before)
        return self._told(outcome, allowance, plan.in_force, told)

    def _told(self, outcome: Outcome, allowance: Allowance, in_force: str, notes: list[str]) -> Ran:
        """Return what is told of a command's end: how it ended, what the kernel refused, its output."""
        limits = self._settings.limits
        output = outcome.output.decode("utf-8", "replace")
        headline = {
            "timeout": f"stopped after {limits.timeout_s:g} s",
            "output": f"stopped: more than {limits.stop_output_mb} MiB of output",
            "processes": f"stopped: limit of {limits.processes} processes",
            "stopped": "stopped by its caller",
            "failed": f"could not be started: {outcome.note}",
            "lost": "ended without a report",
        }.get(outcome.ended) or _exit_text(outcome.code)
        statuses: dict[str, Literal["ok", "timeout", "unknown"]] = {"timeout": "timeout", "lost": "unknown"}
        statuses |= {"exit": "ok"} if outcome.code == 0 else {}
        lines = [headline]
        if outcome.orphans and outcome.ended == "exit":
            lines.append(f"{outcome.orphans} process(es) it left running were killed")
        if outcome.code != 0 and in_force != "none":
            lines += _refused(output, allowance.effects, in_force)
        facts = {
            "exit_code": outcome.code,
            "ended": outcome.ended,
            "output_bytes": outcome.total_bytes,
            "orphans": outcome.orphans,
            "sandbox": in_force,
            "effects": list(allowance.effects.names),
            "cut": outcome.total_bytes > limits.output_bytes,
        }
        text = "\n".join([*lines, *notes, output])
        return Ran(status=statuses.get(outcome.ended, "error"), text=text, facts=facts)


def _understood(argv: list[str] | None, command: str | None) -> Command:
    if (argv is None) == (command is None):
        raise BadArgumentsError("argv: give either argv or command")
    if argv is not None and not (argv and argv[0]):
        raise BadArgumentsError("argv: is empty")
    try:
        return from_text(command or "") if argv is None else from_argv(argv)
    except ValueError as error:
        raise BadArgumentsError(f"{'command' if argv is None else 'argv'}: {error}") from None


def _refused(output: str, effects: Effects, in_force: str) -> list[str]:
    """What the kernel seems to have refused, so that a model can go on."""
    found = []
    is_landlock = in_force.startswith("landlock")
    if not effects.write and (_WRITE_REFUSED.search(output) or (is_landlock and _REFUSED_BY_LANDLOCK.search(output))):
        found.append("(the rule allows reading only; ask for `effects: write`)")
    if not effects.network and _NETWORK_REFUSED.search(output):
        found.append("(the rule keeps the network closed; ask for `effects: network`)")
    if effects.write and _WRITE_REFUSED.search(output):
        found.append(
            "(files outside the workspace and those that act by themselves, such as .git/hooks, are read-only)"
        )
    return found


def _exit_text(code: int | None) -> str:
    if code is not None and code < 0:
        names = {25: "limit of file size", 9: "killed", 11: "crashed", 24: "limit of processor time"}
        return f"ended by signal {-code}" + (f" ({names[-code]})" if -code in names else "")
    return f"exit code {code}"


def _counts(text: str) -> dict[str, int]:
    """What pytest's last line counts."""
    return {
        kind.removesuffix("s") if kind == "errors" else kind: int(count)
        for count, kind in re.findall(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed|deselected)", text[-2000:])
    }
