"""The built-in tools that run programs: `command` and `run_tests`."""

from __future__ import annotations

import os
import re
import resource
import shutil
import tempfile
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from blueprint_llm.tools import sandbox
from blueprint_llm.tools.arguments import BadArgumentsError
from blueprint_llm.tools.process import Job, Outcome, Spawner
from blueprint_llm.tools.registry import Claims, Ran, tool
from blueprint_llm.tools.tokens import Command, from_argv, from_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blueprint_llm.config.tool_blocks import Tools
    from blueprint_llm.tools.paths import Workspace

# Names that load code into programs or carry secrets: never passed on, whatever the configuration lists.
_NEVER = re.compile(
    r"(?i)LD_.*|DYLD_.*|PYTHON.*|GIT_.*|BASH_ENV|ENV|IFS|PS4|PROMPT_COMMAND|NODE_OPTIONS|PERL5.*|RUBYOPT|RUBYLIB|"
    r"JAVA_TOOL_OPTIONS|.*(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL).*"
)
_MB = 1 << 20


class CommandTools:
    """Tools bound to one workspace and one spawner."""

    def __init__(self, workspace: Workspace, settings: Tools, spawner: Spawner) -> None:
        self._workspace, self._settings, self._spawner = workspace, settings, spawner

    @tool(effect="execute")
    def command(self, argv: list[str] | None = None, command: str | None = None) -> Ran:
        """Run a program in the workspace, without a shell: its words in `argv`, or one plain `command` string."""
        return self._run(_understood(argv, command))

    @tool(effect="execute")
    def run_tests(self, args: list[str] | None = None) -> Ran:
        """Run pytest in the workspace with these further arguments; the result counts passed and failed tests."""
        ran = self._run(from_argv(["pytest", *(args or [])]))
        return Ran(status=ran.status, text=ran.text, facts={**ran.facts, "tests": _counts(ran.text)})

    @staticmethod
    def command_claims(arguments: Mapping[str, Any]) -> Claims:
        """The command that a call would run."""
        return Claims(command=_understood(arguments["argv"], arguments["command"]))

    @staticmethod
    def test_claims(arguments: Mapping[str, Any]) -> Claims:
        """The pytest command that a call would run."""
        return Claims(command=_understood(["pytest", *(arguments["args"] or [])], None))

    def environment(self) -> dict[str, str]:
        """The environment of a command: what the configuration passes on, with a PATH free of the workspace."""
        env = {
            name: os.environ[name]
            for name in self._settings.env.pass_
            if name in os.environ and not _NEVER.fullmatch(name)
        }
        if "PATH" in env:
            env["PATH"] = ":".join(folder for folder in env["PATH"].split(":") if self._trusted(folder))
        return env

    def _trusted(self, folder: str) -> bool:
        real = os.path.realpath(folder)
        return os.path.isabs(folder) and not f"{real}/".startswith(f"{self._workspace.root}/")  # noqa: PTH117 - a plain string

    def _run(self, command: Command) -> Ran:
        env, root = self.environment(), self._workspace.root
        name = command.argv[0]
        program = shutil.which(os.path.join(root, name) if "/" in name else name, path=env.get("PATH", os.defpath))  # noqa: PTH118 - a plain string
        if program is None:
            raise FileNotFoundError(2, "no such program", name)
        chosen = sandbox.backend(self._settings.sandbox)
        holder = tempfile.TemporaryDirectory() if chosen == "landlock" else nullcontext("")
        with holder as temporary:
            env |= {"TMPDIR": temporary} if temporary else {}
            fence = sandbox.fence(root, env, self._settings.sandbox, temporary)
            plan = sandbox.plan(chosen, fence, root)
            try:
                job = self._job(plan, program, command, env)
                return _told(self._spawner.run(job), self._settings, plan.in_force)
            finally:
                if plan.ruleset is not None:
                    os.close(plan.ruleset)

    def _job(self, plan: sandbox.Plan, program: str, command: Command, env: dict[str, str]) -> Job:
        limits = self._settings.limits
        argv = (*plan.prefix, program, *command.argv[1:]) if plan.prefix else command.argv
        return Job(
            program=plan.prefix[0] if plan.prefix else program,
            argv=argv,
            env=env,
            cwd=self._workspace.root,
            timeout_s=limits.timeout_s,
            limits={
                "DATA" if hasattr(resource, "RLIMIT_DATA") else "AS": limits.memory_mb * _MB,
                "FSIZE": limits.file_mb * _MB,
                "NPROC": limits.processes,
                "CORE": 0,
            },
            keep_bytes=limits.output_bytes,
            stop_bytes=limits.stop_output_mb * _MB,
            ruleset=plan.ruleset,
        )


def _understood(argv: list[str] | None, command: str | None) -> Command:
    if (argv is None) == (command is None):
        raise BadArgumentsError("argv: give either argv or command")
    if argv is not None and not (argv and argv[0]):
        raise BadArgumentsError("argv: is empty")
    try:
        return from_text(command or "") if argv is None else from_argv(argv)
    except ValueError as error:
        raise BadArgumentsError(f"{'command' if argv is None else 'argv'}: {error}") from None


def _told(outcome: Outcome, settings: Tools, in_force: str) -> Ran:
    limits = settings.limits
    headline = {
        "timeout": f"stopped after {limits.timeout_s:g} s",
        "output": f"stopped: more than {limits.stop_output_mb} MiB of output",
        "processes": f"stopped: limit of {limits.processes} processes",
        "failed": f"could not be started: {outcome.note}",
        "lost": "ended without a report",
    }.get(outcome.ended) or _exit_text(outcome.code)
    status = {"exit": "ok" if outcome.code == 0 else "error", "timeout": "timeout", "lost": "unknown"}.get(
        outcome.ended, "error"
    )
    left = (
        f"{outcome.orphans} process(es) it left running were killed\n"
        if outcome.orphans and outcome.ended == "exit"
        else ""
    )
    facts = {
        "exit_code": outcome.code,
        "ended": outcome.ended,
        "output_bytes": outcome.total_bytes,
        "orphans": outcome.orphans,
    }
    text = f"{headline}\n{left}{outcome.output.decode('utf-8', 'replace')}"
    return Ran(
        status=status, text=text, facts={**facts, "sandbox": in_force, "cut": outcome.total_bytes > limits.output_bytes}
    )


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
