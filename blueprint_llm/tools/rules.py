"""Weigh a call against the user's rules: the strictest match wins, and no match means the default.

A rule that allows a command allows it only with known-safe flags and operands inside the workspace; one that denies
also looks through wrappers, chains and substitutions. Rules are the user's: nothing in the workspace can add one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from blueprint_llm.config.problems import Report
from blueprint_llm.config.tree import from_mapping
from blueprint_llm.config.wording import report_errors
from blueprint_llm.errors import ConfigError
from blueprint_llm.tools.flags import read_command
from blueprint_llm.tools.paths import Located, PathDeniedError, Workspace, glob, secrecy
from blueprint_llm.tools.tokens import Command, from_argv, from_text, program_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Mode = Literal["manual", "whitelist", "trust"]
Effect = Literal["read", "write", "execute", "network"]


class Level(IntEnum):
    """How strict an outcome is."""

    ALLOW = 0
    ASK = 1
    DENY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDecision:
    """What becomes of a call, by which rule, and why."""

    decision: Literal["allow", "ask", "deny"]
    rule_id: str | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A weighed outcome. `decided` is False where only the default spoke."""

    level: Level
    rule_id: str | None = None
    reasons: tuple[str, ...] = ()
    decided: bool = True


def _many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], BeforeValidator(_many)]


class Rule(BaseModel):
    """One rule of the user.

    Attributes:
        allow, ask, deny: Exactly one of them, naming the tools it is about (`*`: any).
        argv: The first words of the command; a list in place of a word means any of them, `*` any word.
        paths: Patterns; every path of the call or command must match one (for ask and deny: any).
        flags: `safe` allows known-safe flags only, `any` leaves flags and operands unchecked.
        match, not_match: Commands or paths that the rule must and must not decide; checked when it loads.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    allow: Words | None = None
    ask: Words | None = None
    deny: Words | None = None
    argv: tuple[Words, ...] | None = None
    paths: Words | None = None
    flags: Literal["safe", "any"] = "safe"
    why: str = ""
    id: str | None = None
    match: tuple[str | tuple[str, ...], ...] = ()
    not_match: tuple[str | tuple[str, ...], ...] = ()

    @model_validator(mode="after")
    def _one_effect(self) -> Rule:
        if sum(names is not None for names in (self.allow, self.ask, self.deny)) != 1:
            raise ValueError("needs exactly one of allow, ask and deny")
        return self

    @property
    def level(self) -> Level:
        """What the rule says."""
        return Level.DENY if self.deny else Level.ASK if self.ask else Level.ALLOW

    @property
    def tools(self) -> tuple[str, ...]:
        """The tools it is about."""
        return self.allow or self.ask or self.deny or ()


def load_rules(raw: Sequence[Any], workspace: Workspace) -> tuple[Rule, ...]:
    """Read and prove the rules.

    Raises:
        ConfigError: Listing every rule that is malformed or fails its own examples.
    """
    rules: list[Rule] = []
    problems: list[str] = []
    for number, item in enumerate(raw):
        try:
            rule = Rule.model_validate(item)
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
            verdict = policy.weigh_example(rule, example)
            if (verdict.decided and verdict.level == rule.level) != wanted:
                must = "must" if wanted else "must not"
                yield f"the example {example!r} {must} be decided by this rule ({'; '.join(verdict.reasons) or 'is'})"


class Policy:
    """The rules, indexed by the program they are about."""

    def __init__(self, rules: tuple[Rule, ...], workspace: Workspace) -> None:
        self.rules, self._workspace = rules, workspace
        self._by_program: dict[str, list[Rule]] = {}
        self._any_program: list[Rule] = []
        self._by_tool: dict[str, list[Rule]] = {}
        for rule in rules:
            self._index(rule)

    def _index(self, rule: Rule) -> None:
        if "run_tests" in rule.tools and rule.argv is None:
            self._by_program.setdefault("pytest", []).append(rule.model_copy(update={"argv": (("pytest",),)}))
        for tool in rule.tools:
            self._by_tool.setdefault(tool, []).append(rule)
        if not {"command", "*"} & set(rule.tools):
            return
        programs = rule.argv[0] if rule.argv else ("*",)
        for program in programs:
            place = self._any_program if program == "*" else self._by_program.setdefault(program_name(program), [])
            place.append(rule)

    def weigh_example(self, rule: Rule, example: str | tuple[str, ...]) -> Verdict:
        """What the rules say of an example: words or a command string, or a path for tools that take one."""
        if rule.argv is not None or "command" in rule.tools:
            return self.weigh_command(from_text(example) if isinstance(example, str) else from_argv(example))
        try:
            return self.weigh_path(rule.tools[0], self._workspace.resolve("".join(example)))
        except PathDeniedError as error:
            return Verdict(level=Level.DENY, reasons=(str(error),), decided=False)

    def weigh_tool(self, tool: str) -> Verdict:
        """What the rules say of a call without paths or words."""
        rules = self._by_tool.get(tool, []) + self._by_tool.get("*", [])
        plain = [rule for rule in rules if rule.paths is None and rule.argv is None]
        return _strictest([_verdict(rule) for rule in plain], f"no rule is about {tool}")

    def weigh_path(self, tool: str, place: Located) -> Verdict:
        """What the rules say of one path of a call."""
        rules = self._by_tool.get(tool, []) + self._by_tool.get("*", [])
        found = [_verdict(rule) for rule in rules if rule.argv is None and _covers(rule, place)]
        return _strictest(found, f"no rule is about {tool} of {place.path}")

    def shuts(self, tool: str, path: str) -> bool:
        """Whether a rule keeps a file that a walk came upon from a tool."""
        rules = self._by_tool.get(tool, []) + self._by_tool.get("*", [])
        return any(rule.level and rule.paths is not None and self._is_among(rule, path) for rule in rules)

    def weigh_command(self, command: Command) -> Verdict:
        """What the rules say of a command."""
        program = program_name(command.argv[0])
        named = {program_name(part[0]) for part in command.parts}
        rules = self._any_program + [rule for name in named for rule in self._by_program.get(name, ())]
        found = [_verdict(rule) for rule in rules if rule.level and self._forbids(rule, command)]
        doubts: list[str] = []
        for rule in self._any_program + self._by_program.get(program, []):
            if not rule.level and (length := _prefix(rule, command.argv)) is not None:
                troubles = self._doubts(rule, command, length)
                doubts += troubles
                found += [] if troubles else [_verdict(rule)]
        verdict = _strictest(found, f"no rule allows {program}")
        return verdict if verdict.decided or not doubts else _asking(doubts)

    def _forbids(self, rule: Rule, command: Command) -> bool:
        named = rule.argv is None or any(_found_in(rule.argv, part) for part in command.parts)
        return named and (rule.paths is None or any(self._is_among(rule, word) for word in _path_words(command)))

    def _doubts(self, rule: Rule, command: Command, length: int) -> list[str]:
        argv = command.argv
        if command.doubts or (rule.flags == "any" and rule.paths is None):
            return list(command.doubts)
        reading = read_command(argv, argv[:length])
        if reading is None:
            return [f"no table of safe flags for {argv[0]}: a rule with `flags: any` would allow it unchecked"]
        odd = [self._odd_path(path, colons=False) for path in reading.paths]
        odd += [self._odd_path(path, colons=True) for path in reading.revisions]
        unsafe = [] if rule.flags == "any" else reading.doubts + [text for text in odd if text]
        places = [*reading.paths, *map(_place_in, reading.revisions)] or ["."]
        return unsafe + [f"{path!r} is not among the rule's paths" for path in places if not self._is_among(rule, path)]

    def _is_among(self, rule: Rule, path: str) -> bool:
        try:
            return rule.paths is None or _covers(rule, self._workspace.resolve(path))
        except PathDeniedError:
            return False

    def _odd_path(self, path: str, *, colons: bool) -> str | None:
        if ":" in path and not colons:
            return f"{path!r} holds a colon, which some programs read as a host"
        try:
            return secrecy(self._workspace.resolve(_place_in(path)).path)
        except PathDeniedError as error:
            return str(error)


def _place_in(word: str) -> str:
    """The path in a revision (`HEAD:path`) or a pathspec of git: `:(top)path` starts at the root of its repository."""
    magic = re.fullmatch(r":\((.*?)\)(.*)", word, re.DOTALL)
    if magic is None:
        return word.rpartition(":")[2]
    return f"/{magic[2]}" if "top" in magic[1] else magic[2]


def _verdict(rule: Rule) -> Verdict:
    return Verdict(level=rule.level, rule_id=rule.id, reasons=(rule.why,) if rule.why else ())


def _asking(doubts: list[str]) -> Verdict:
    return Verdict(level=Level.ASK, reasons=tuple(dict.fromkeys(doubts)), decided=False)


def _strictest(found: list[Verdict], otherwise: str) -> Verdict:
    if not found:
        return Verdict(level=Level.ASK, reasons=(otherwise,), decided=False)
    return max(found, key=lambda verdict: verdict.level)


def _covers(rule: Rule, place: Located) -> bool:
    if rule.paths is None:
        return True
    patterns = [glob(pattern) for pattern in rule.paths]
    # An allow rule is about where a path really leads; any other also about its name, and a folder is what is in it.
    names = [*place.names, *(f"{name}/" for name in place.names)] if rule.level else [place.path]
    return any(pattern.match(name) for pattern in patterns for name in names)


def _prefix(rule: Rule, argv: tuple[str, ...]) -> int | None:
    """How many words the rule spells out, if `argv` begins with them. The program must be spelled exactly."""
    words = rule.argv or (("*",),)
    if len(argv) < len(words) or (words[0] == ("*",) and "/" in argv[0] and rule.flags == "safe"):
        return None
    fits = all("*" in choices or word in choices for choices, word in zip(words, argv, strict=False))
    return len(words) if fits else None


def _path_words(command: Command) -> Iterator[str]:
    """Whatever may be a path in a command: its words, the values in them, and what follows a colon or a short flag."""
    for word in dict.fromkeys(word for part in command.parts for word in part[1:]):
        yield from filter(None, {word, word.partition("=")[2], _place_in(word), word[2:] if word[0] == "-" else ""})


def _found_in(words: tuple[Words, ...], argv: tuple[str, ...]) -> bool:
    """Whether the rule's words occur in order, with nothing but flags and their values between them."""
    if "*" not in words[0] and program_name(argv[0]) not in map(program_name, words[0]):
        return False
    place, wanted = 1, 1
    while wanted < len(words) and place < len(argv):
        if argv[place] in words[wanted] or "*" in words[wanted]:
            wanted += 1
        elif not (argv[place].startswith("-") or argv[place - 1].startswith("-")):
            return False
        place += 1
    return wanted == len(words)
