"""Decide on one call: the user's rules first, then what no rule may wave through without a person.

The strictest rule that matches wins, and no match means the default. A rule that allows a command says by its effects
what the kernel lets the command do. Rules that deny commands by their words look through wrappers, chains and
substitutions; that is a convenience, and no wall. Rules that deny files are walls: what they name is hidden. Rules are
the user's: nothing in the workspace can add one.

Judging is pure: it reads the workspace, writes nothing, and a call it cannot understand is denied, never an error.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from blueprint_llm.config.blocks import Rule, Tools
from blueprint_llm.config.problems import dotted, mistakes
from blueprint_llm.errors import ConfigError
from blueprint_llm.tools.boundary import UNRULED, Effects, Patterns, protection, secrecy
from blueprint_llm.tools.patch import digest
from blueprint_llm.tools.registry import BadArgumentsError, Claims, Registered, read_arguments
from blueprint_llm.tools.sealed import fingerprint
from blueprint_llm.tools.words import Command, parse_command, program_name
from blueprint_llm.tools.workspace import Located, PathDeniedError, Workspace
from blueprint_llm.types import ToolCall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Mode = Literal["manual", "whitelist", "trust"]
Answer = Literal["allow", "ask", "deny"]
_STRICTNESS: dict[Answer, int] = {"allow": 0, "ask": 1, "deny": 2}
_READERS, _WRITERS = frozenset({"*", "read_file"}), frozenset({"write_file", "patch"})
_NO_GLOB = re.compile(r"^!|\\|\{[^{}]*,[^{}]*\}")  # excluded, escaped, listed
_NO_CALL = ToolCall(id="", name="", arguments={})


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDecision:
    """What becomes of a call, by which rule, and why."""

    decision: Answer = "ask"
    rule_id: str | None = None
    reasons: tuple[str, ...] = ()
    effects: tuple[str, ...] = ()  # what a command may do if it runs
    is_ruled: bool = field(default=True, repr=False)  # False where only the default spoke
    allowance: Effects = field(default=UNRULED, repr=False)  # the same as `effects`, for the kernel

    @property
    def strength(self) -> tuple[int, bool, bool, bool]:
        """How strict it is; of the equally strict, how much a command may do."""
        may = self.allowance
        return _STRICTNESS[self.decision], may.write, may.network, may.paths is None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Indexed:
    """A rule, ready to be matched."""

    verdict: ToolDecision
    argv: tuple[frozenset[str], ...]
    paths: Patterns | None

    @property
    def is_allow(self) -> bool:
        return self.verdict.decision == "allow"

    def covers(self, place: Located | None) -> bool:
        """Return True if the rule is about a path (None: about a call without one)."""
        # An allow rule is about where a path leads; any other about its name too, and a folder is what is in it.
        if self.paths is None or place is None:
            return self.paths is None
        if self.is_allow:
            return self.paths.match(place.path)
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
    """Read and prove the rules. Raises ConfigError listing all that are malformed or fail their own examples."""
    rules: list[Rule] = []
    problems: list[str] = []
    for number, item in enumerate(raw):
        try:
            rule = item if isinstance(item, Rule) else Rule.model_validate(item)
        except ValidationError as error:
            found = mistakes(error, Rule, ("tools", "rules", number))
            problems += [f"{dotted(path)}: {text}" for path, text, _ in found]
            continue
        try:
            paths = None if rule.paths is None else [_pattern(path, workspace) for path in rule.paths]
        except PathDeniedError as error:
            problems.append(f"tools.rules[{number}].paths: {error}")
            continue
        rules.append(rule.model_copy(update={"id": rule.id or f"rules[{number}]", "paths": paths}))
        problems += [f"tools.rules[{number}]: {text}" for text in _broken_examples(rules[-1], workspace)]
    if problems:
        raise ConfigError("; ".join(problems), problems=problems)
    return tuple(rules)


def _pattern(pattern: str, workspace: Workspace) -> str:
    """Return a glob relative to the workspace. Raises PathDeniedError where it could never match what it seems to."""
    if _NO_GLOB.search(pattern):
        raise PathDeniedError(f"{pattern!r}: only `*`, `?` and `**` stand for other names; write one glob for each")
    return workspace.relative(os.path.expanduser(pattern))  # noqa: PTH111 - a plain string


def _broken_examples(rule: Rule, workspace: Workspace) -> Iterator[str]:
    policy = Policy((rule,), workspace, Tools(), lambda _: [])
    wanted = [(example, True) for example in rule.match] + [(example, False) for example in rule.not_match]
    for example, is_wanted in wanted:
        try:
            if rule.argv is not None or "command" in rule.tools:
                verdict = policy.weigh_command(parse_command(example))
            else:
                verdict = policy.weigh(rule.tools[0], workspace.resolve("".join(example)))
        except PathDeniedError as error:
            verdict = ToolDecision(decision="deny", reasons=(str(error),), is_ruled=False)
        except ValueError as error:
            yield f"the example {example!r} is no command: {error}"
            continue
        if (verdict.is_ruled and verdict.decision == _answer(rule)) != is_wanted:
            must = "must" if is_wanted else "must not"
            yield f"the example {example!r} {must} be decided by this rule ({'; '.join(verdict.reasons) or 'is'})"


def _answer(rule: Rule) -> Answer:
    return "deny" if rule.deny else "ask" if rule.ask else "allow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A call and what was decided on it."""

    registered: Registered
    decision: ToolDecision
    call: ToolCall = _NO_CALL  # as it came; not there where nothing is to be run
    run: str = ""  # the run and its turn
    policy: str = ""  # a fingerprint of rules and mode
    arguments: dict[str, Any] = field(default_factory=dict)  # empty where they could not be read
    keywords: dict[str, Any] = field(default_factory=dict)  # the arguments as the handler gets them
    claims: Claims = field(default_factory=Claims)
    unenforced: tuple[str, ...] = ()  # why the kernel here cannot hold it to that

    @property
    def canonical(self) -> str:
        """The arguments as JSON with sorted keys."""
        return json.dumps(self.arguments, sort_keys=True)

    @property
    def grant(self) -> str:
        """What an approval beyond this call is for: tool, schema, arguments, files, effects, and what holds those."""
        effects = [self.decision.effects, self.claims.effects.paths, self.unenforced]
        places = [place.path for place in self.claims.places]  # a link in the arguments may lead elsewhere by then
        return fingerprint([self.registered.tool.model_dump(), self.arguments, places, effects])

    @property
    def binding(self) -> str:
        """What an approval is for: all of that, the policy, and the files to be changed."""
        files = [(item.path, digest(item.before)) for item in self.claims.staged]
        return fingerprint([self.grant, self.policy, files])

    @property
    def suggestion(self) -> dict[str, Any]:
        """A rule about the call, and little else, that allows it."""
        command, effects = self.claims.command, self.decision.effects
        if command is None:
            path = self.arguments.get("path")
            rule: dict[str, Any] = {"allow": self.registered.tool.name}
            rule |= {"paths": [path]} if isinstance(path, str) else {}
        else:
            words = [word for word in command.argv[:2] if word == command.argv[0] or word.isalpha()]
            rule = {"allow": "command", "argv": words, **({} if effects == ("read",) else {"effects": list(effects)})}
        return rule


class Policy:
    """Rules, mode and workspace in one place; the rules are indexed by the tool and the program that they are about.

    `doubts` says why the kernel here cannot hold a command to what it was allowed; empty: it can. No process may see
    what `hides` covers, nor change what `keeps` does: what rules deny to be read or written, or ask about, since in the
    middle of a command nobody can be asked.
    """

    def __init__(
        self, rules: tuple[Rule, ...], workspace: Workspace, settings: Tools, doubts: Callable[[Effects], list[str]]
    ) -> None:
        self._workspace, self._mode, self._sandbox, self._doubts = workspace, settings.mode, settings.sandbox, doubts
        self._digest = fingerprint([settings.mode, workspace.root, [rule.model_dump(mode="json") for rule in rules]])
        self._by_program: dict[str, list[_Indexed]] = {"*": []}
        self._by_tool: dict[str, list[_Indexed]] = {}
        hides: list[str] = []
        keeps: list[str] = []
        for rule in rules:
            answer, tools, allowance = _answer(rule), set(rule.tools), UNRULED
            paths = None if rule.paths is None else tuple(rule.paths)
            if answer == "allow" or "effects" in rule.model_fields_set:
                write, network = "write" in rule.effects, "network" in rule.effects
                allowance = Effects(write=write, network=network, paths=paths if answer == "allow" else None)
            why = (rule.why,) if rule.why else ()
            item = _Indexed(
                verdict=ToolDecision(decision=answer, rule_id=rule.id, reasons=why, allowance=allowance),
                argv=tuple(map(frozenset, rule.argv or ())),
                paths=None if paths is None else Patterns(paths),
            )
            programs = {program_name(name) for name in item.argv[0]} if item.argv else {"*"}
            if not {"command", "*"} & tools:
                programs = {"pytest"} if "run_tests" in tools and not item.argv else set()
            for program in programs:
                self._by_program.setdefault(program, []).append(item)
            for tool in tools:
                self._by_tool.setdefault(tool, []).append(item)
            if not item.is_allow and item.paths and not item.argv:
                is_hidden = tools & _READERS or (rule.deny and "command" in tools)
                hides += item.paths.texts if is_hidden else ()
                keeps += item.paths.texts if tools & _WRITERS else ()
        self.hides, self.keeps = Patterns(hides), Patterns(keeps)

    # What the rules say.

    def weigh(self, tool: str, place: Located | None) -> ToolDecision:
        """Return what the rules say of one path of a call, or of a call without paths and words."""
        found = [item.verdict for item in self._about(tool) if item.covers(place)]
        told = f"no rule is about {tool}" + (f" of {place.path}" if place else "")
        default = ToolDecision(reasons=(told,), is_ruled=False)
        return max(found, key=lambda verdict: _STRICTNESS[verdict.decision], default=default)

    def shuts(self, tool: str, path: str) -> bool:
        """Return True if a rule keeps a file that a walk came upon from a tool."""
        return any(not item.is_allow and item.paths and self._is_among(item, path) for item in self._about(tool))

    def _about(self, tool: str) -> list[_Indexed]:
        return [item for name in (tool, "*") for item in self._by_tool.get(name, ()) if not item.argv]

    def weigh_command(self, command: Command) -> ToolDecision:
        """Return what the rules say of a command: the strictest, and of those that allow it the most generous."""
        program = program_name(command.argv[0])
        named = dict.fromkeys(["*", *(program_name(part[0]) for part in command.parts)])
        rules = [item for name in named for item in self._by_program.get(name, ())]
        forbidding = [item.verdict for item in rules if not item.is_allow and self._forbids(item, command)]
        if forbidding:
            return max(forbidding, key=lambda verdict: verdict.strength)
        own = self._by_program["*"] + self._by_program.get(program, [])
        allowing = [item.verdict for item in own if item.is_allow and item.begins(command.argv)]
        if not allowing:
            return ToolDecision(reasons=(f"no rule allows {program}",), is_ruled=False)
        best = max(allowing, key=lambda verdict: verdict.strength)
        if command.doubts:
            return ToolDecision(reasons=command.doubts, is_ruled=False, allowance=best.allowance)
        return best

    def _forbids(self, item: _Indexed, command: Command) -> bool:
        if item.argv and not any(item.is_in(part) for part in command.parts):
            return False
        if item.paths is None:
            return True
        # Whatever may be a path: words, the values in them, and what follows a colon or a short flag.
        for word in dict.fromkeys(word for part in command.parts for word in part[1:]):
            value = word[2:] if word.startswith("-") and not word.startswith("--") else ""
            paths = {word, word.partition("=")[2], word.rpartition(":")[2], value} - {""}
            if any(self._is_among(item, path) for path in paths):
                return True
        return False

    def _is_among(self, item: _Indexed, path: str) -> bool:
        try:
            return item.covers(self._workspace.resolve(path))
        except PathDeniedError:
            return False

    # What becomes of a call.

    def judge(self, registered: Registered, arguments: object, *, tainted: bool = False) -> Judged:
        """Weigh a call; `tainted` when the model may have read text from outside."""
        plain: dict[str, Any] = {}
        try:
            plain = read_arguments(arguments)
            keywords = registered.check(plain)
            claims = self._claims(registered, keywords)
        except (BadArgumentsError, PathDeniedError, OSError) as error:
            why = f"{error.filename or ''}: {error.strerror}" if isinstance(error, OSError) else str(error)
            # A quote from the files is told only where reading them takes no question.
            if isinstance(error, BadArgumentsError) and error.quote and all(map(self._may_read, error.quoted)):
                why = f"{error} ({error.quote})"
            denied = ToolDecision(decision="deny", reasons=(why,))
            return Judged(registered=registered, decision=denied, arguments=plain)
        verdict = self._verdict(registered, claims, tainted=tainted)
        is_command = claims.command is not None and verdict.decision != "deny"
        is_waived = self._sandbox.backend == "none" and not self._sandbox.required
        unenforced = self._doubts(verdict.allowance) if is_command and not is_waived else []
        reasons = [*verdict.reasons, *unenforced]
        if unenforced:  # the kernel cannot hold the command to what was allowed
            verdict = replace(verdict, decision="deny" if self._sandbox.required else "ask")
        if verdict.decision == "ask":  # a person is told everything there is to say
            reasons += [*(claims.command.doubts if claims.command else ()), *_change_concerns(claims)]
        effects = verdict.allowance.names if is_command and verdict.decision != "deny" else ()
        return Judged(
            registered=registered,
            decision=replace(verdict, reasons=tuple(dict.fromkeys(reasons)), effects=effects),
            policy=self._digest,
            arguments=plain,
            keywords=keywords,
            claims=replace(claims, effects=verdict.allowance),
            unenforced=tuple(unenforced),
        )

    def _may_read(self, place: Located) -> bool:
        verdict = self.weigh("read_file", place)
        allowed = verdict.decision == "allow" if verdict.is_ruled else self._mode == "trust"
        return allowed and place.links <= 1 and not any(map(secrecy, place.names))

    def _claims(self, registered: Registered, keywords: Mapping[str, Any]) -> Claims:
        if registered.claims:
            return registered.claims(keywords)
        named = [keywords[name] for name in registered.traits.paths]
        paths = [str(path) for value in named for path in (value if isinstance(value, list | tuple) else [value])]
        return Claims(places=tuple(self._workspace.locate(path) for path in paths))

    def _verdict(self, registered: Registered, claims: Claims, *, tainted: bool) -> ToolDecision:
        """Return the strictest of what rules and mode say, an allowed call with concerns turned into a question."""
        traits = registered.traits
        if claims.command:
            verdict, is_inside = self.weigh_command(claims.command), not claims.command.doubts
        else:
            found = [self.weigh(registered.tool.name, place) for place in claims.places or (None,)]
            verdict = max(found, key=lambda verdict: _STRICTNESS[verdict.decision])
            is_inside = traits.effect == "read" or bool(traits.effect == "write" and claims.places)
        if not verdict.is_ruled and self._mode == "whitelist":
            verdict = replace(verdict, decision="deny")
        elif not verdict.is_ruled and self._mode == "trust" and is_inside and not traits.outside:
            verdict = replace(verdict, decision="allow")
        if verdict.decision != "allow":
            return verdict
        concerns = [f"{place.path} has {place.links} hard links" for place in claims.places if place.links > 1]
        if traits.effect == "read":
            concerns += filter(None, (secrecy(name) for place in claims.places for name in place.names))
        else:
            concerns += _change_concerns(claims)
            concerns += ["its declaration changed since it was first read"] if registered.changed else []
            concerns += [f"text from outside may have asked for this {traits.effect}"] if tainted else []
        return replace(verdict, decision="ask", reasons=(*verdict.reasons, *concerns)) if concerns else verdict


def _change_concerns(claims: Claims) -> list[str]:
    """Why a person must see a change before it is made."""
    reasons = (protection(name) for place in claims.places for name in place.names)
    return [reason for reason in dict.fromkeys(reasons) if reason]
