"""Weigh a call against the user's rules: the strictest match wins, and no match means the default.

A rule that allows a command says by its effects what the kernel lets the command do. Rules that deny commands by their
words look through wrappers, chains and substitutions; that is a convenience, and no wall. Rules that deny files are
walls: what they name is hidden. Rules are the user's: nothing in the workspace can add one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from blueprint_llm.config.problems import Report
from blueprint_llm.config.tool_blocks import Rule
from blueprint_llm.config.tree import from_mapping
from blueprint_llm.config.wording import report_errors
from blueprint_llm.errors import ConfigError
from blueprint_llm.tools.boundary import Allowance, Effects
from blueprint_llm.tools.paths import Located, PathDeniedError, Workspace
from blueprint_llm.tools.survey import Patterns
from blueprint_llm.tools.tokens import Command, from_argv, from_text, program_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from blueprint_llm.types import Tool

Mode = Literal["manual", "whitelist", "trust"]
Effect = Literal["read", "write", "execute", "network"]
_READERS, _WRITERS = frozenset({"*", "read_file"}), frozenset({"write_file", "patch"})


class Level(IntEnum):
    """How strict an outcome is."""

    ALLOW = 0
    ASK = 1
    DENY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDecision:
    """What becomes of a call, by which rule, and why; `effects` is what a command may do if it runs."""

    decision: Literal["allow", "ask", "deny"]
    rule_id: str | None
    reasons: tuple[str, ...]
    effects: tuple[str, ...] = ()


# What a command may do that no rule is about, once a person has approved it.
UNRULED = Allowance(effects=Effects(write=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A weighed outcome. `decided` is False where only the default spoke."""

    level: Level
    rule_id: str | None = None
    reasons: tuple[str, ...] = ()
    decided: bool = True
    allowance: Allowance = UNRULED


@dataclass(frozen=True, slots=True, kw_only=True)
class _Indexed:
    """A rule, ready to be matched."""

    rule: Rule
    verdict: Verdict
    tools: frozenset[str]
    argv: tuple[frozenset[str], ...]
    paths: Patterns | None

    @property
    def level(self) -> Level:
        return self.verdict.level


def load_rules(raw: Sequence[Any], workspace: Workspace) -> tuple[Rule, ...]:
    """Read and prove the rules.

    Raises:
        ConfigError: Listing every rule that is malformed or fails its own examples.
    """
    rules: list[Rule] = []
    problems: list[str] = []
    for number, item in enumerate(raw):
        try:
            rule = item if isinstance(item, Rule) else Rule.model_validate(item)
        except ValidationError as error:
            report = Report(from_mapping({}))
            report_errors(error, Rule, ("tools", "rules", number), report)
            problems += map(str, report.problems)
            continue
        rules.append(rule.model_copy(update={"id": rule.id or f"rules[{number}]"}))
        problems += [f"tools.rules[{number}]: {text}" for text in _broken_examples(rules[-1], workspace)]
    if problems:
        raise ConfigError("; ".join(problems), problems=problems)
    return tuple(rules)


def _broken_examples(rule: Rule, workspace: Workspace) -> Iterator[str]:
    policy = Policy((rule,), workspace)
    for wanted, examples in ((True, rule.match), (False, rule.not_match)):
        for example in examples:
            try:
                verdict = policy.weigh_example(rule, example)
            except ValueError as error:
                yield f"the example {example!r} is no command: {error}"
                continue
            if (verdict.decided and verdict.level == _level(rule)) != wanted:
                must = "must" if wanted else "must not"
                yield f"the example {example!r} {must} be decided by this rule ({'; '.join(verdict.reasons) or 'is'})"


def _level(rule: Rule) -> Level:
    return Level.DENY if rule.deny else Level.ASK if rule.ask else Level.ALLOW


class Policy:
    """The rules, indexed by the program they are about.

    Attributes:
        hides: What no process may see: what rules deny to be read, or ask about, since in the middle of a command
            nobody can be asked.
        keeps: What no process may change: what rules deny to be written, or ask about.
    """

    def __init__(self, rules: tuple[Rule, ...], workspace: Workspace) -> None:
        self.rules, self._workspace = rules, workspace
        self._by_program: dict[str, list[_Indexed]] = {}
        self._any_program: list[_Indexed] = []
        self._by_tool: dict[str, list[_Indexed]] = {}
        indexed = [self._indexed(rule) for rule in rules]
        for item in indexed:
            self._index(item)
        bound = [item for item in indexed if item.level and item.paths and item.rule.argv is None]
        self.hides = Patterns(
            text
            for item in bound
            if item.paths and item.tools & (_READERS | ({"command"} if item.level is Level.DENY else set()))
            for text in item.paths.texts
        )
        self.keeps = Patterns(
            text for item in bound if item.paths and item.tools & _WRITERS for text in item.paths.texts
        )

    def _indexed(self, rule: Rule) -> _Indexed:
        paths = None if rule.paths is None else tuple(map(self._inside, rule.paths))
        level = _level(rule)
        allowance = Allowance(effects=Effects.of(rule.effects), paths=paths if level is Level.ALLOW else None)
        reasons = (rule.why,) if rule.why else ()
        stated = "effects" in rule.model_fields_set or level is Level.ALLOW
        return _Indexed(
            rule=rule,
            verdict=Verdict(level=level, rule_id=rule.id, reasons=reasons, allowance=allowance if stated else UNRULED),
            tools=frozenset(rule.tools),
            argv=tuple(map(frozenset, rule.argv or ())),
            paths=None if paths is None else Patterns(paths),
        )

    def _inside(self, pattern: str) -> str:
        """A pattern relative to the workspace."""
        root = self._workspace.root.rstrip("/")
        return pattern.removeprefix(f"{root}/") if pattern.startswith(f"{root}/") else pattern

    def _index(self, item: _Indexed) -> None:
        if "run_tests" in item.tools and not item.argv:
            self._by_program.setdefault("pytest", []).append(item)
        for tool in item.tools:
            self._by_tool.setdefault(tool, []).append(item)
        if not {"command", "*"} & item.tools:
            return
        programs = item.argv[0] if item.argv else ("*",)
        for program in programs:
            place = self._any_program if program == "*" else self._by_program.setdefault(program_name(program), [])
            place.append(item)

    def weigh_example(self, rule: Rule, example: str | list[str]) -> Verdict:
        """Return what the rules say of an example: words or a command string, or a path for tools that take one."""
        if rule.argv is not None or "command" in rule.tools:
            return self.weigh_command(from_text(example) if isinstance(example, str) else from_argv(example))
        try:
            return self.weigh_path(rule.tools[0], self._workspace.resolve("".join(example)))
        except PathDeniedError as error:
            return Verdict(level=Level.DENY, reasons=(str(error),), decided=False)

    def weigh_tool(self, tool: str) -> Verdict:
        """Return what the rules say of a call without paths or words."""
        plain = [item.verdict for item in self._about(tool) if item.paths is None and not item.argv]
        return _strictest(plain, f"no rule is about {tool}")

    def weigh_path(self, tool: str, place: Located) -> Verdict:
        """Return what the rules say of one path of a call."""
        found = [item.verdict for item in self._about(tool) if not item.argv and _covers(item, place)]
        return _strictest(found, f"no rule is about {tool} of {place.path}")

    def shuts(self, tool: str, path: str) -> bool:
        """Return True if a rule keeps a file that a walk came upon from a tool."""
        return any(item.level and item.paths and self._is_among(item.paths, path) for item in self._about(tool))

    def _about(self, tool: str) -> list[_Indexed]:
        return self._by_tool.get(tool, []) + self._by_tool.get("*", [])

    def weigh_command(self, command: Command) -> Verdict:
        """Return what the rules say of a command: the strictest, and of those that allow it the most generous."""
        program = program_name(command.argv[0])
        named = {program_name(part[0]) for part in command.parts}
        rules = self._any_program + [item for name in named for item in self._by_program.get(name, ())]
        forbidding = [item.verdict for item in rules if item.level and self._forbids(item, command)]
        allowing = [
            item.verdict
            for item in self._any_program + self._by_program.get(program, [])
            if not item.level and _begins(item, command.argv)
        ]
        best = max(allowing, key=_breadth, default=None)
        if forbidding:
            return max(forbidding, key=lambda verdict: (verdict.level, _breadth(verdict)))
        if best is None:
            return Verdict(level=Level.ASK, reasons=(f"no rule allows {program}",), decided=False)
        if command.doubts:
            return Verdict(level=Level.ASK, reasons=command.doubts, decided=False, allowance=best.allowance)
        return best

    def _forbids(self, item: _Indexed, command: Command) -> bool:
        if item.argv and not any(_found_in(item.argv, part) for part in command.parts):
            return False
        return item.paths is None or any(self._is_among(item.paths, word) for word in _path_words(command))

    def _is_among(self, patterns: Patterns, path: str) -> bool:
        try:
            place = self._workspace.resolve(path)
        except PathDeniedError:
            return False
        return any(patterns.match(name) or patterns.match_folder(name) for name in place.names)


def _strictest(found: list[Verdict], otherwise: str) -> Verdict:
    if not found:
        return Verdict(level=Level.ASK, reasons=(otherwise,), decided=False)
    return max(found, key=lambda verdict: verdict.level)


def _breadth(verdict: Verdict) -> tuple[bool, bool, bool]:
    effects = verdict.allowance.effects
    return effects.write, effects.network, verdict.allowance.paths is None


def _covers(item: _Indexed, place: Located) -> bool:
    if item.paths is None:
        return True
    # An allow rule is about where a path really leads; any other also about its name, and a folder is what is in it.
    if not item.level:
        return item.paths.match(place.path)
    return any(item.paths.match(name) or item.paths.match_folder(name) for name in place.names)


def _begins(item: _Indexed, argv: tuple[str, ...]) -> bool:
    """Return True if the command begins with the rule's words. The program must be spelled exactly."""
    return len(argv) >= len(item.argv) and all(
        "*" in choices or word in choices for choices, word in zip(item.argv, argv, strict=False)
    )


def _path_words(command: Command) -> Iterator[str]:
    """Whatever may be a path in a command: its words, the values in them, and what follows a colon or a short flag."""
    for word in dict.fromkeys(word for part in command.parts for word in part[1:]):
        value = word[2:] if word.startswith("-") and not word.startswith("--") else ""
        yield from filter(None, {word, word.partition("=")[2], word.rpartition(":")[2], value})


def _found_in(words: tuple[frozenset[str], ...], argv: tuple[str, ...]) -> bool:
    """Return True if a command is one of the rule: its program, the subcommand next to it, all other words anywhere."""
    if "*" not in words[0] and program_name(argv[0]) not in map(program_name, words[0]):
        return False
    rest = argv[1:]
    leading, others = words[1:2], words[2:]
    if leading and all(word.startswith("-") for word in leading[0]):
        leading, others = (), words[1:]
    return all(_leads(choices, rest) for choices in leading) and all(
        "*" in choices or not choices.isdisjoint(rest) for choices in others
    )


def _leads(choices: frozenset[str], words: tuple[str, ...]) -> bool:
    """Return True if one of the choices comes before any other word that is no flag and no flag's value."""
    previous = ""
    for word in words:
        if word in choices or "*" in choices:
            return True
        if not (word.startswith("-") or previous.startswith("-")):
            return False
        previous = word
    return False


def suggestion(tool: Tool, arguments: dict[str, Any], command: Command | None, effects: tuple[str, ...]) -> str:
    """Return the rule that would allow a call, as it is written in the file."""
    if command is None:
        paths = [arguments["path"]] if isinstance(arguments.get("path"), str) else []
        rule: dict[str, Any] = {"allow": tool.name, **({"paths": paths} if paths else {})}
    else:
        words = [word for word in command.argv[:2] if word == command.argv[0] or word.isalpha()]
        rule = {"allow": "command", "argv": words, **({} if effects == ("read",) else {"effects": list(effects)})}
    return "{" + ", ".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in rule.items()) + "}"
