"""Decide on one call: the user's rules first, then what no rule may wave through without a person.

The strictest rule that matches wins, and no match means the default. A rule that allows a command says by its effects
what the kernel lets the command do. Rules that deny commands by their words look through wrappers, chains and
substitutions; that is a convenience, and no wall. Rules that deny files are walls: what they name is hidden. Rules are
the user's: nothing in the workspace can add one.

Judging is pure: it reads the workspace, writes nothing, and a call it cannot understand is denied, never an error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from blueprint_llm.config.problems import Report
from blueprint_llm.config.tool_blocks import Rule
from blueprint_llm.config.tree import from_mapping
from blueprint_llm.config.wording import report_errors
from blueprint_llm.errors import ConfigError
from blueprint_llm.tools.arguments import BadArgumentsError, read_arguments
from blueprint_llm.tools.boundary import Allowance, Effects, Patterns, protection, secrecy
from blueprint_llm.tools.patch import digest
from blueprint_llm.tools.registry import Claims, Registered
from blueprint_llm.tools.sealed import fingerprint
from blueprint_llm.tools.words import Command, from_argv, from_text, program_name
from blueprint_llm.tools.workspace import Located, PathDeniedError, Workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Mode = Literal["manual", "whitelist", "trust"]
_READERS, _WRITERS = frozenset({"*", "read_file"}), frozenset({"write_file", "patch"})


class Level(IntEnum):
    """How strict an outcome is."""

    ALLOW = 0
    ASK = 1
    DENY = 2

    @property
    def word(self) -> Literal["allow", "ask", "deny"]:
        """The outcome as a decision spells it."""
        return self.name.lower()  # type: ignore[return-value] # one of the three


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

    @property
    def strength(self) -> tuple[int, bool, bool, bool]:
        """How strict it is; of the equally strict, how much a command may do."""
        effects = self.allowance.effects
        return self.level, effects.write, effects.network, self.allowance.paths is None


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

    def covers(self, place: Located) -> bool:
        """Return True if the rule is about a path, or about all."""
        # An allow rule is about where a path leads; any other about its name too, and a folder is what is in it.
        if self.paths is None or not self.level:
            return self.paths is None or self.paths.match(place.path)
        return any(self.paths.match(name) or self.paths.match_folder(name) for name in place.names)

    def begins(self, argv: tuple[str, ...]) -> bool:
        """Return True if the command begins with the rule's words. The program must be spelled exactly."""
        return len(argv) >= len(self.argv) and all(
            "*" in choices or word in choices for choices, word in zip(self.argv, argv, strict=False)
        )

    def is_in(self, argv: tuple[str, ...]) -> bool:
        """Return True if a command is one of the rule: its program, the subcommand next, all other words anywhere."""
        programs, *others = self.argv
        if "*" not in programs and program_name(argv[0]) not in map(program_name, programs):
            return False
        rest = argv[1:]
        if others and not all(word.startswith("-") for word in others[0]) and not _leads(others.pop(0), rest):
            return False
        return all("*" in choices or not choices.isdisjoint(rest) for choices in others)


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
    """The rules, indexed by the tool and the program that they are about.

    Attributes:
        hides: What no process may see: what rules deny to be read, or ask about, since in the middle of a command
            nobody can be asked.
        keeps: What no process may change: what rules deny to be written, or ask about.
    """

    def __init__(self, rules: tuple[Rule, ...], workspace: Workspace) -> None:
        self.rules, self._workspace = rules, workspace
        self._by_program: dict[str, list[_Indexed]] = {"*": []}
        self._by_tool: dict[str, list[_Indexed]] = {}
        hides: list[str] = []
        keeps: list[str] = []
        for item in map(self._indexed, rules):
            programs = {program_name(name) for name in item.argv[0]} if item.argv else {"*"}
            if not {"command", "*"} & item.tools:
                programs = {"pytest"} if "run_tests" in item.tools and not item.argv else set()
            for program in programs:
                self._by_program.setdefault(program, []).append(item)
            for tool in item.tools:
                self._by_tool.setdefault(tool, []).append(item)
            if item.level and item.paths and not item.argv:
                is_hidden = item.tools & _READERS or (item.level is Level.DENY and "command" in item.tools)
                hides += item.paths.texts if is_hidden else ()
                keeps += item.paths.texts if item.tools & _WRITERS else ()
        self.hides, self.keeps = Patterns(hides), Patterns(keeps)

    def _indexed(self, rule: Rule) -> _Indexed:
        above = self._workspace.root.rstrip("/") + "/"  # patterns may be absolute
        paths = None if rule.paths is None else tuple(pattern.removeprefix(above) for pattern in rule.paths)
        level = _level(rule)
        effects = Effects(write="write" in rule.effects, network="network" in rule.effects)
        allowance = Allowance(effects=effects, paths=paths if level is Level.ALLOW else None)
        is_stated = "effects" in rule.model_fields_set or level is Level.ALLOW
        return _Indexed(
            rule=rule,
            verdict=Verdict(
                level=level,
                rule_id=rule.id,
                reasons=(rule.why,) if rule.why else (),
                allowance=allowance if is_stated else UNRULED,
            ),
            tools=frozenset(rule.tools),
            argv=tuple(map(frozenset, rule.argv or ())),
            paths=None if paths is None else Patterns(paths),
        )

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
        return _strictest((item for item in self._about(tool) if item.paths is None), f"no rule is about {tool}")

    def weigh_path(self, tool: str, place: Located) -> Verdict:
        """Return what the rules say of one path of a call."""
        covering = (item for item in self._about(tool) if item.covers(place))
        return _strictest(covering, f"no rule is about {tool} of {place.path}")

    def shuts(self, tool: str, path: str) -> bool:
        """Return True if a rule keeps a file that a walk came upon from a tool."""
        return any(item.level and item.paths and self._is_among(item, path) for item in self._about(tool))

    def _about(self, tool: str) -> list[_Indexed]:
        return [item for name in (tool, "*") for item in self._by_tool.get(name, ()) if not item.argv]

    def weigh_command(self, command: Command) -> Verdict:
        """Return what the rules say of a command: the strictest, and of those that allow it the most generous."""
        program = program_name(command.argv[0])
        named = dict.fromkeys(["*", *(program_name(part[0]) for part in command.parts)])
        rules = [item for name in named for item in self._by_program.get(name, ())]
        forbidding = [item.verdict for item in rules if item.level and self._forbids(item, command)]
        allowing = [
            item.verdict
            for item in self._by_program["*"] + self._by_program.get(program, [])
            if not item.level and item.begins(command.argv)
        ]
        best = max(allowing, key=lambda verdict: verdict.strength, default=None)
        if forbidding:
            return max(forbidding, key=lambda verdict: verdict.strength)
        if best is None:
            return Verdict(level=Level.ASK, reasons=(f"no rule allows {program}",), decided=False)
        if command.doubts:
            return Verdict(level=Level.ASK, reasons=command.doubts, decided=False, allowance=best.allowance)
        return best

    def _forbids(self, item: _Indexed, command: Command) -> bool:
        if item.argv and not any(item.is_in(part) for part in command.parts):
            return False
        return item.paths is None or any(self._is_among(item, word) for word in _path_words(command))

    def _is_among(self, item: _Indexed, path: str) -> bool:
        try:
            return item.covers(self._workspace.resolve(path))
        except PathDeniedError:
            return False


def _strictest(found: Iterator[_Indexed], otherwise: str) -> Verdict:
    default = Verdict(level=Level.ASK, reasons=(otherwise,), decided=False)
    return max((item.verdict for item in found), key=lambda verdict: verdict.level, default=default)


def _path_words(command: Command) -> Iterator[str]:
    """Whatever may be a path in a command: its words, the values in them, and what follows a colon or a short flag."""
    for word in dict.fromkeys(word for part in command.parts for word in part[1:]):
        value = word[2:] if word.startswith("-") and not word.startswith("--") else ""
        yield from filter(None, {word, word.partition("=")[2], word.rpartition(":")[2], value})


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A call and what was decided on it.

    Attributes:
        policy: A fingerprint of rules and mode.
        arguments: As the model gave them; empty where they could not be read.
        keywords: The arguments as the handler gets them.
        allowance: What a command may do if it runs.
        unenforced: Why the kernel here cannot hold it to that.
    """

    registered: Registered
    decision: ToolDecision
    policy: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    keywords: dict[str, Any] = field(default_factory=dict)
    claims: Claims = field(default_factory=Claims)
    allowance: Allowance = UNRULED
    unenforced: tuple[str, ...] = ()

    @property
    def canonical(self) -> str:
        """The arguments as JSON with sorted keys."""
        return json.dumps(self.arguments, sort_keys=True)

    @property
    def grant(self) -> str:
        """What an approval beyond this call is for: tool, schema, arguments, effects, and how the kernel holds them."""
        effects = [self.decision.effects, self.allowance.paths, self.unenforced]
        return fingerprint([self.registered.tool.model_dump(), self.arguments, effects])

    @property
    def binding(self) -> str:
        """What an approval is for: all of that, the policy, and the files to be changed."""
        files = [(item.path, digest(item.before)) for item in self.claims.staged]
        return fingerprint([self.grant, self.policy, files])


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Rules, mode and workspace in one place.

    Attributes:
        unenforced: Why the kernel here cannot hold a command to some effects; empty: it can.
        refuses: Whether a command that cannot be confined is denied in place of asked about (`required: true`).
        digest: A fingerprint of rules and mode.
    """

    policy: Policy
    mode: Mode
    workspace: Workspace
    unenforced: Callable[[Effects], list[str]]
    refuses: bool
    digest: str

    def judge(self, registered: Registered, arguments: object, *, tainted: bool = False) -> Judged:
        """Weigh a call; `tainted` when the model may have read text from outside."""
        plain: dict[str, Any] = {}
        try:
            plain = read_arguments(arguments)
            keywords = registered.check(plain)
            claims = self._claims(registered, keywords)
        except (BadArgumentsError, PathDeniedError, OSError) as error:
            why = f"{error.filename or ''}: {error.strerror}" if isinstance(error, OSError) else self._told(error)
            denied = ToolDecision(decision="deny", rule_id=None, reasons=(why,))
            return Judged(registered=registered, decision=denied, arguments=plain)
        verdict = self._verdict(registered, claims, tainted=tainted)
        is_command = claims.command is not None and verdict.level is not Level.DENY
        unenforced = self.unenforced(verdict.allowance.effects) if is_command else []
        if unenforced:  # the kernel cannot hold the command to what was allowed
            level = Level.DENY if self.refuses else Level.ASK
            verdict = replace(verdict, level=level, reasons=(*verdict.reasons, *unenforced))
        if verdict.level is Level.ASK:  # a person is told everything there is to say
            doubts = claims.command.doubts if claims.command else ()
            verdict = replace(verdict, reasons=(*verdict.reasons, *doubts, *_change_concerns(claims)))
        decision = ToolDecision(
            decision=verdict.level.word,
            rule_id=verdict.rule_id,
            reasons=tuple(dict.fromkeys(verdict.reasons)),
            effects=verdict.allowance.effects.names if is_command and verdict.level is not Level.DENY else (),
        )
        return Judged(
            registered=registered,
            decision=decision,
            policy=self.digest,
            arguments=plain,
            keywords=keywords,
            claims=claims,
            allowance=verdict.allowance,
            unenforced=tuple(unenforced),
        )

    def _told(self, error: BadArgumentsError | PathDeniedError) -> str:
        """What is wrong; with a quote from the files only where reading them takes no question."""
        if isinstance(error, BadArgumentsError) and error.quote and all(map(self._may_read, error.quoted)):
            return f"{error} ({error.quote})"
        return str(error)

    def _may_read(self, place: Located) -> bool:
        verdict = self.policy.weigh_path("read_file", place)
        allowed = verdict.level is Level.ALLOW if verdict.decided else self.mode == "trust"
        return allowed and place.links <= 1 and not any(map(secrecy, place.names))

    def _claims(self, registered: Registered, keywords: Mapping[str, Any]) -> Claims:
        if registered.claims:
            return registered.claims(keywords)
        named = [keywords[name] for name in registered.traits.paths]
        paths = [str(path) for value in named for path in (value if isinstance(value, list | tuple) else [value])]
        return Claims(places=tuple(self.workspace.locate(path) for path in paths))

    def _verdict(self, registered: Registered, claims: Claims, *, tainted: bool) -> Verdict:
        verdict = self._weigh(registered, claims)
        if not verdict.decided:
            verdict = replace(verdict, level=self._default(registered, claims))
        if verdict.level is Level.ALLOW and (concerns := self._concerns(registered, claims, tainted=tainted)):
            verdict = replace(verdict, level=Level.ASK, reasons=(*verdict.reasons, *concerns))
        return verdict

    def _weigh(self, registered: Registered, claims: Claims) -> Verdict:
        name = registered.tool.name
        if claims.command:
            return self.policy.weigh_command(claims.command)
        if not claims.places:
            return self.policy.weigh_tool(name)
        verdicts = [self.policy.weigh_path(name, place) for place in claims.places]
        return max(verdicts, key=lambda verdict: verdict.level)

    def _default(self, registered: Registered, claims: Claims) -> Level:
        """What no rule decides: ask, deny in `whitelist`, and in `trust` allow what stays inside."""
        if self.mode != "trust":
            return Level.DENY if self.mode == "whitelist" else Level.ASK
        if claims.command:
            return Level.ASK if claims.command.doubts else Level.ALLOW
        inside = registered.traits.effect == "read" or (registered.traits.effect == "write" and claims.places)
        return Level.ALLOW if inside and not registered.traits.outside else Level.ASK

    def _concerns(self, registered: Registered, claims: Claims, *, tainted: bool) -> list[str]:
        effect = registered.traits.effect
        concerns = [f"{place.path} has {place.links} hard links" for place in claims.places if place.links > 1]
        if effect == "read":
            return concerns + [text for place in claims.places for name in place.names if (text := secrecy(name))]
        concerns += _change_concerns(claims)
        if registered.changed:
            concerns.append("its declaration changed since it was first read")
        if tainted:
            concerns.append(f"text from outside may have asked for this {effect}")
        return concerns


def _change_concerns(claims: Claims) -> list[str]:
    """Why a person must see a change before it is made."""
    reasons = (protection(name) for place in claims.places for name in place.names)
    return [reason for reason in dict.fromkeys(reasons) if reason]


def suggestion(judged: Judged) -> str:
    """Return the rule that would allow a call, as it is written in the file."""
    command, effects = judged.claims.command, judged.decision.effects
    if command is None:
        path = judged.arguments.get("path")
        rule: dict[str, Any] = {"allow": judged.registered.tool.name}
        rule |= {"paths": [path]} if isinstance(path, str) else {}
    else:
        words = [word for word in command.argv[:2] if word == command.argv[0] or word.isalpha()]
        rule = {"allow": "command", "argv": words, **({} if effects == ("read",) else {"effects": list(effects)})}
    return "{" + ", ".join(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in rule.items()) + "}"
