"""Weigh what proves that an answer ended, and why it ended.

`finish_reason` alone proves little: servers report `tool_calls` for calls that the output limit cut.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from blueprint_llm.streaming.verdict import EndedBy, Why

_CUT = frozenset({"length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded"})
_REFUSED = frozenset(
    {
        *("content_filter", "content_filtered", "safety", "recitation", "blocklist", "prohibited_content", "refusal"),
        *("guardrail_intervened", "sensitive", "spii", "language", "error_toxic", "escalation"),
        *("image_safety", "image_prohibited_content", "image_recitation"),
    }
)
# The answer was given up: by the server, or because what the model wrote was no call.
_BROKEN = frozenset(
    {
        *("error", "error_limit", "abort", "aborted", "cancelled", "canceled", "user_cancel", "network_error"),
        *("insufficient_system_resource", "malformed_function_call", "malformed_response", "unexpected_tool_call"),
        *("too_many_tool_calls", "missing_thought_signature"),
    }
)
_CALLED = frozenset({"tool_calls", "function_call", "tool_use"})

# Beginnings of a call in the formats that servers parse; a name or a closing mark may follow.
_MARKS = (
    *("<tool_call>", "[TOOL_CALLS]", "<function=", "<function_calls>", "<invoke name=", "<minimax:tool_call>"),
    *("<|python_tag|>", "<|tool_call", "<｜tool▁call", "<｜DSML｜", "<|channel|>commentary to="),
)
_IS_CALL = re.compile(
    r"""\s*\[?\s*\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"[^"]+"\s*,\s*"(?:arguments|parameters)"\s*:"""
).match


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The evidence about the end of one answer.

    Attributes:
        ended_by: What proves that the stream ended at all.
        finish_reason: The provider's word.
        refusal: The answer is a refusal and nothing else.
        used_up: The answer has as many tokens as it may have.
    """

    ended_by: EndedBy
    finish_reason: str | None = None
    refusal: bool = False
    used_up: bool = False

    @property
    def why(self) -> Why:
        """Why the answer ended. A provider that says that it refused needs no other proof."""
        if self.refusal or says_refused(self.finish_reason):
            return "refused"
        if self.ended_by != "terminal":
            return "broken"
        return "cut" if says_cut(self.finish_reason) else "done"

    @property
    def says_called(self) -> bool:
        """True if the finish reason announces tool calls."""
        return (self.finish_reason or "").lower() in _CALLED

    @property
    def truncation(self) -> str | None:
        """Why the answer may lack its end; None when nothing says so."""
        code = {"refused": "content_filter", "broken": "missing_finish", "cut": "truncated_length"}.get(self.why)
        return "truncated_length" if code is None and self.used_up else code


def says_cut(reason: str | None) -> bool:
    """Return True if a finish reason says that a limit cut the answer."""
    return (reason or "").lower() in _CUT


def says_refused(reason: str | None) -> bool:
    """Return True if a finish reason says that the model or its provider refused."""
    return (reason or "").lower() in _REFUSED


def broke_off(reason: str | None) -> bool:
    """Return True if a finish reason says that the answer was given up."""
    return (reason or "").lower() in _BROKEN


def is_no_end(reason: str | None) -> bool:
    """Return True if a finish reason says that the answer did not end of itself."""
    return says_cut(reason) or says_refused(reason) or broke_off(reason)


def is_lost(reason: str | None) -> bool:
    """Return True if LiteLLM writes "stop" though the answer was given up, or cut by a limit it does not know."""
    return broke_off(reason) or (says_cut(reason) and reason not in {"length", "max_tokens"})


def leaks_call(text: str, names: Iterable[str]) -> bool:
    """Return True if a text looks like a tool call that the server's parser missed. Such calls are never parsed."""
    if any(map(text.__contains__, _MARKS)) or _IS_CALL(text):
        return True
    any_name = "|".join(map(re.escape, names))
    return bool(any_name) and re.search(rf'[{{,]\s*"(?:name|tool|tool_name)"\s*:\s*"(?:{any_name})"', text) is not None
