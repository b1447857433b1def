"""LiteLLM's tags: which deployments of a group a request may go to. Pure functions.

A request says tags in its metadata (`{"tags": ["paid"]}`; a fallback may bring its own), a deployment in its parameters
(`tags: [paid]`). A plain tag asks for a deployment that has it, `!tag` for one that has it not, `&tag` must be there
whatever else is asked. A request without tags, or with tags that the group has never heard of, goes to the deployments
tagged `default`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from blueprint_llm.routing.targets import by_group

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from blueprint_llm.config import Config
    from blueprint_llm.routing.targets import Target

DEFAULT = "default"


class Asked(NamedTuple):
    """What a request asks for.

    Attributes:
        plain, required, excluded: The tags without their marks.
        declared: Those that came with the prefix of `tag_routing_prefix`: meant for routing, whoever knows them.
        agent: The header that `tag_regex` of a deployment is matched with.
        match_any: One plain tag is enough; else a deployment must have them all.
    """

    plain: frozenset[str]
    required: frozenset[str]
    excluded: frozenset[str]
    declared: frozenset[str]
    agent: str | None
    match_any: bool


def split(
    targets: Iterable[Target], config: Config, metadata: Mapping[str, Any], *, named: str | None = None
) -> tuple[list[Target], list[Target]]:
    """The targets that a request may go to, and those that its tags leave out; `named`, one's own id, is let in."""
    kept: list[Target] = []
    left_out: list[Target] = []
    for members in by_group(targets):
        chosen = members
        if _is_on(members, config) and named not in {member.deployment for member in members}:
            chosen = admitted(members, asked(config, members[0].changes.get("metadata") or metadata))
        kept += chosen
        left_out += [member for member in members if member not in chosen]
    return kept, left_out


def _is_on(members: Sequence[Target], config: Config) -> bool:
    """Whether tags decide in this group: its own `model_info` says it, else the Router's setting."""
    if members[0].group is None:
        return False
    own = (member.info.get("enable_tag_filtering") for member in members)
    return next((said is True for said in own if said is not None), config.enable_tag_filtering)


def asked(config: Config, metadata: Mapping[str, Any]) -> Asked:
    """What the tags of a request's metadata mean; what is no list of texts asks for nothing."""
    given = metadata.get("tags")
    tags = [tag for tag in given if isinstance(tag, str)] if isinstance(given, list | tuple) else []
    prefix = config.tag_routing_prefix
    bare = [tag.removeprefix(prefix) for tag in tags]
    declared = [tag.removeprefix(prefix) for tag in tags if prefix and tag.startswith(prefix)]
    agent = metadata.get("user_agent")
    return Asked(
        plain=_plain(bare),
        required=_marked("&", bare),
        excluded=_marked("!", bare),
        declared=_plain(declared) | _marked("&", declared) | _marked("!", declared),
        agent=f"User-Agent: {agent}" if agent else None,
        match_any=config.tag_filtering_match_any,
    )


def _plain(tags: Iterable[str]) -> frozenset[str]:
    return frozenset(tag for tag in tags if not tag.startswith(("!", "&")))


def _marked(mark: str, tags: Iterable[str]) -> frozenset[str]:
    return frozenset(tag[1:] for tag in tags if tag.startswith(mark) and len(tag) > 1)


def admitted(members: Sequence[Target], ask: Asked) -> list[Target]:
    """The members of one group that serve what is asked for; none: nobody does."""
    candidates = _allowed(members, ask.required, ask.excluded)
    by_agent = ask.agent and not ask.required and any(map(_patterns, candidates))
    if ask.plain or by_agent:
        return _matching(candidates, members, ask) or _open(members, ask)
    if ask.required:
        return candidates or _open(members, ask)
    return _allowed(_defaults(members), frozenset(), ask.excluded) or _open(members, ask)


def _allowed(members: Sequence[Target], required: frozenset[str], excluded: frozenset[str]) -> list[Target]:
    return [member for member in members if required <= _tags(member) and not excluded & _tags(member)]


def _matching(candidates: Sequence[Target], members: Sequence[Target], ask: Asked) -> list[Target]:
    """Those with a tag that is asked for; where the group knows none of the tags, its default ones."""
    found = [member for member in candidates if _matches(member, ask)]
    if found or ask.plain & (_known(members) | ask.declared):
        return found
    return [member for member in candidates if DEFAULT in _tags(member)]


def _matches(member: Target, ask: Asked) -> bool:
    own = _tags(member)
    if own and ask.plain and (own & ask.plain if ask.match_any else ask.plain <= own):
        return True
    strict = bool(own) and not ask.match_any  # then a pattern may not let in what the tags keep out
    return ask.agent is not None and not strict and any(_found(each, ask.agent) for each in _patterns(member))


def _open(members: Sequence[Target], ask: Asked) -> list[Target]:
    """Whom a group that may fail open (`model_info: {allow_fail_open: true}`) lets serve what nobody serves."""
    known = ask.required & (_known(members) | ask.declared)
    if known and known != ask.required and _allowed(members, known, ask.excluded):
        return []  # only a made-up tag stood in the way: that must not open the rest
    return _defaults(members) if any(member.info.get("allow_fail_open") is True for member in members) else []


def _defaults(members: Sequence[Target]) -> list[Target]:
    return [member for member in members if DEFAULT in _tags(member)] or list(members)


def _known(members: Iterable[Target]) -> frozenset[str]:
    return frozenset[str]().union(*map(_tags, members))


def _tags(member: Target) -> frozenset[str]:
    return frozenset(member.params.get("tags") or ())


def _patterns(member: Target) -> Sequence[str]:
    return member.params.get("tag_regex") or ()


def _found(pattern: str, text: str) -> bool:
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return False
