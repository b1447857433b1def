"""Judge one call: rules first, then what no rule may wave through without a person.

Judging is pure: it reads the workspace, writes nothing, and a call it cannot understand is denied, never an error.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from blueprint_llm.tools.arguments import BadArgumentsError, read_arguments
from blueprint_llm.tools.boundary import secrecy
from blueprint_llm.tools.files import change_concerns
from blueprint_llm.tools.journal import digest
from blueprint_llm.tools.paths import PathDeniedError, Workspace
from blueprint_llm.tools.registry import Claims, Registered
from blueprint_llm.tools.rules import UNRULED, Level, Mode, Policy, ToolDecision, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from blueprint_llm.tools.boundary import Allowance, Effects
    from blueprint_llm.tools.paths import Located

_NOTHING = Claims()
_WORDS = {Level.ALLOW: "allow", Level.ASK: "ask", Level.DENY: "deny"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A call and what was decided on it.

    Attributes:
        policy: A fingerprint of rules and mode.
        arguments: As the model gave them; empty where they could not be read.
        keywords: The arguments as the handler gets them.
        allowance: What a command may do if it runs.
    """

    registered: Registered
    decision: ToolDecision
    policy: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)
    keywords: dict[str, Any] = field(default_factory=dict)
    claims: Claims = _NOTHING
    allowance: Allowance = UNRULED

    @property
    def canonical(self) -> str:
        """The arguments as JSON with sorted keys."""
        return json.dumps(self.arguments, sort_keys=True)

    @property
    def binding(self) -> str:
        """What an approval is for, as a fingerprint: tool, schema, arguments, policy, effects, files to be changed."""
        files = [(item.path, digest(item.before)) for item in self.claims.staged]
        effects = [self.decision.effects, self.allowance.paths]
        facts = [self.registered.tool.model_dump(), self.arguments, self.policy, effects, files]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


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
        except (BadArgumentsError, PathDeniedError) as error:
            return Judged(registered=registered, decision=_deny(self._told(error)), arguments=plain)
        except OSError as error:
            reason = f"{error.filename or ''}: {error.strerror}"
            return Judged(registered=registered, decision=_deny(reason), arguments=plain)
        verdict = self._verdict(registered, claims, tainted=tainted)
        decision = ToolDecision(
            decision=_WORDS[verdict.level],  # type: ignore[arg-type] # one of the three
            rule_id=verdict.rule_id,
            reasons=tuple(dict.fromkeys(verdict.reasons)),
            effects=verdict.allowance.effects.names if claims.command and verdict.level is not Level.DENY else (),
        )
        return Judged(
            registered=registered,
            decision=decision,
            policy=self.digest,
            arguments=plain,
            keywords=keywords,
            claims=claims,
            allowance=verdict.allowance,
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
        if claims.command and verdict.level is not Level.DENY:
            verdict = self._enforceable(verdict)
        if verdict.level is Level.ASK:  # a person is told everything there is to say
            doubts = claims.command.doubts if claims.command else ()
            verdict = replace(verdict, reasons=(*verdict.reasons, *doubts, *change_concerns(claims)))
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

    def _enforceable(self, verdict: Verdict) -> Verdict:
        """Ask where the kernel cannot hold a command to what was allowed, or deny where it must."""
        reasons = self.unenforced(verdict.allowance.effects)
        if not reasons:
            return verdict
        level = Level.DENY if self.refuses else Level.ASK
        return replace(verdict, level=level, reasons=(*verdict.reasons, *reasons))

    def _concerns(self, registered: Registered, claims: Claims, *, tainted: bool) -> list[str]:
        effect = registered.traits.effect
        concerns = [f"{place.path} has {place.links} hard links" for place in claims.places if place.links > 1]
        if effect == "read":
            return concerns + [text for place in claims.places for name in place.names if (text := secrecy(name))]
        concerns += change_concerns(claims)
        if registered.changed:
            concerns.append("its declaration changed since it was first read")
        if tainted:
            concerns.append(f"text from outside may have asked for this {effect}")
        return concerns


def _deny(reason: str) -> ToolDecision:
    return ToolDecision(decision="deny", rule_id=None, reasons=(reason,))
