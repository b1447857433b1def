"""Which parts of a project a provider may receive.

A local backend never gets the project, an unknown one gets nothing. A policy is looked up for every target, so a
fallback from or to a stricter provider cannot carry a part along.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from blueprint_llm.types import ContextPart

# In the reason why a part of a project was held back: the setting that lets it pass.
HELD_BACK = "share_codebase is off"
PROJECT_KINDS = frozenset({"project_map", "file", "snippet", "diff", "tool_result", "memory"})
# LiteLLM prefixes of servers that run on the user's own machine unless told otherwise.
_LOCAL_PREFIXES = frozenset({"embedded", "ollama", "ollama_chat", "llamafile", "lm_studio", "docker_model_runner"})
_LOCAL_NAMES = frozenset({"localhost", "ip6-localhost", "host.docker.internal"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextPolicy:
    """What one provider may receive: which kinds of part, each text rewritten by `redact` where there is one."""

    provider: str = "the provider"
    kinds: frozenset[str] = frozenset()
    local: bool = False
    redact: Callable[[str], str] | None = None

    @property
    def shares_codebase(self) -> bool:
        """Whether any part of a project may pass."""
        return bool(self.kinds & PROJECT_KINDS)


NOTHING = ContextPolicy()
EVERYTHING = ContextPolicy(kinds=PROJECT_KINDS | {"user"})


def is_local(model: str, api_base: str | None = None) -> bool:
    """Whether a LiteLLM model id and its server are on this machine; an Ollama `:cloud` model is not."""
    prefix, _, name = model.partition("/")
    if prefix in {"ollama", "ollama_chat"}:
        tag = name.rpartition(":")[2] if ":" in name else ""
        return tag != "cloud" and not tag.endswith("-cloud")
    return prefix in _LOCAL_PREFIXES or (api_base is not None and _is_loopback(api_base))


def _is_loopback(api_base: str) -> bool:
    """A base that cannot be read counts as loopback: whoever doubts holds back."""
    try:
        host = urlsplit(api_base if "//" in api_base else f"//{api_base}").hostname or "localhost"
    except ValueError:
        return True
    host = host.rstrip(".").lower()
    if host in _LOCAL_NAMES or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)


def policy_for(
    provider: str,
    model: str,
    *,
    api_base: str | None = None,
    share_codebase: bool | None = None,
    known: bool = True,
    redact: Callable[[str], str] | None = None,
) -> ContextPolicy:
    """Return the policy of one target.

    Args:
        provider: Its name, for reasons and errors.
        model: The LiteLLM model id that is sent.
        api_base: The resolved base URL, if one is set.
        share_codebase: What the configuration says; it wins over every guess.
        known: The configuration names this target; one that it does not gets nothing.
        redact: Takes secrets out of a text.
    """
    local = is_local(model, api_base)
    if share_codebase is None:
        share_codebase = known and not local
    kinds = EVERYTHING.kinds if share_codebase else frozenset({"user"} if known else ())
    return ContextPolicy(provider=provider, kinds=kinds, local=local, redact=redact)


def apply(parts: Iterable[ContextPart], policy: ContextPolicy) -> tuple[tuple[ContextPart, ...], tuple[str, ...]]:
    """Return the parts that may pass, in order, and why the others may not."""
    kept: list[ContextPart] = []
    refusals: list[str] = []
    for part in parts:
        if part.kind in policy.kinds:
            text = policy.redact(part.text) if policy.redact else part.text
            kept.append(part if text == part.text else part.model_copy(update={"text": text}))
        else:
            reason = f": {HELD_BACK}" if part.kind in PROJECT_KINDS else ""
            refusals.append(f"{part.kind}: not for {policy.provider}{reason}")
    return tuple(kept), tuple(refusals)


def render(parts: Iterable[ContextPart]) -> dict[str, Any]:
    """The parts as one user message, each between tags that name its kind and source."""
    blocks = [f"<{part.kind} source={part.source!r}>\n{part.text}\n</{part.kind}>" for part in parts]
    return {"role": "user", "content": "\n".join(["<context>", *blocks, "</context>"])}
