"""Read the chunks of a stream, LiteLLM's and OpenAI's objects or dicts of that shape, and trust none of their types."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from blueprint_llm.streaming.document import printable
from blueprint_llm.types import UsageInfo

if TYPE_CHECKING:
    from collections.abc import Mapping


class Entry(NamedTuple):
    """One piece of a tool call as a chunk carries it; empty ids and names are None."""

    place: int | None
    id: str | None
    name: str | None
    arguments: str
    was_object: bool = False
    is_other: bool = False  # no function call for the caller to execute: a custom tool's, or one of the provider's own


_FUNCTION = frozenset({"", "function"})
_SERVER_TOOL = "srvtoolu_"  # the ids of Anthropic's own tools, which LiteLLM shows as function calls

# What a delta has whether it carries anything or not.
_ENVELOPE = frozenset({"role", "index", "type", "object", "content_filter_results", "content_filter_offsets"})


def fields(record: Any) -> Mapping[str, Any]:
    """Return the fields of a dict or of an object; those of anything else are none.

    LiteLLM's and OpenAI's models keep most of theirs among pydantic's extras, where `getattr` takes up to 1 us.
    """
    if isinstance(record, dict):
        return record
    extra = getattr(record, "__pydantic_extra__", None)
    return {**record.__dict__, **extra} if extra else getattr(record, "__dict__", {})


def sequence(value: Any) -> list[Any] | tuple[Any, ...]:
    """Return the value if it is a list, else an empty one."""
    return value if isinstance(value, list | tuple) else ()


def word(value: Any) -> str | None:
    """Return a non-empty string that any encoding can carry, else None."""
    return printable(value) if isinstance(value, str) and value else None


def count(value: Any) -> int:
    """Return a number of tokens; 0 for anything else."""
    return value if type(value) is int and value > 0 else 0


def text_of(content: Any) -> str:
    """Return the text of a `content`, which may be a list of parts."""
    if isinstance(content, str):
        return content
    parts = (fields(part).get("text") for part in sequence(content))
    return "".join(part for part in parts if isinstance(part, str))


def entries(delta: Mapping[str, Any], *, is_whole: bool) -> list[Entry]:
    """Return the pieces of tool calls in a delta; in a whole message the place of a call is its index."""
    calls = delta.get("tool_calls")
    if calls:
        return [_entry(fields(call), place if is_whole else None) for place, call in enumerate(sequence(calls))]
    legacy = delta.get("function_call")
    return [] if legacy is None else [_entry({"function": legacy}, 0)]


def _entry(call: Mapping[str, Any], place: int | None) -> Entry:
    function = call.get("function")
    said = call if function is None else fields(function)
    index = call.get("index") if place is None else place
    call_id, name, arguments = word(call.get("id")), word(said.get("name")), said.get("arguments")
    if isinstance(index, str) and index.isdecimal():
        index = int(index)
    kind = call.get("type")
    return Entry(
        index if isinstance(index, int) and not isinstance(index, bool) else None,
        call_id,
        name,
        arguments if isinstance(arguments, str) else _encoded(arguments),
        isinstance(arguments, dict),
        is_other=(isinstance(kind, str) and kind not in _FUNCTION)
        or (function is None and call.get("custom") is not None)
        or (call_id is not None and call_id.startswith(_SERVER_TOOL)),
    )


def _encoded(arguments: Any) -> str:
    """Return arguments that came as a value as a text; whatever is not an object is then rejected like its text."""
    try:
        return "" if arguments is None else json.dumps(arguments)
    except (TypeError, ValueError, RecursionError):
        return "?"  # no JSON: rejected at its first character


def refusal_in(delta: Mapping[str, Any]) -> bool:
    """Return True if a delta carries a refusal; LiteLLM keeps a whole answer's aside."""
    aside = delta.get("provider_specific_fields")
    return bool(delta.get("refusal") or (aside.get("refusal") if isinstance(aside, dict) else None))


def progress(chunk: Any) -> bool:
    """Return True if a chunk carries anything: text, reasoning, audio, tool arguments, an end, usage.

    By shape, so that a field that does not exist yet counts; keep-alives and empty deltas do not.
    """
    said = fields(chunk)
    choices = sequence(said.get("choices"))
    return any(map(carries, choices)) or carries(said.get("usage"))


def carries(value: Any) -> bool:
    """Return True if a value holds anything beside an envelope."""
    if value is None or isinstance(value, str | int | float):
        return bool(value)
    if isinstance(value, list | tuple):
        return any(map(carries, value))
    return any(name not in _ENVELOPE and carries(each) for name, each in fields(value).items())


def usage_info(usage: Any) -> UsageInfo | None:
    """Return a provider's usage object in our terms; None where it says nothing."""
    if isinstance(usage, UsageInfo) or usage is None:
        return usage
    said = fields(usage)
    prompt, completion = count(said.get("prompt_tokens")), count(said.get("completion_tokens"))
    total = count(said.get("total_tokens")) or prompt + completion
    if not total:
        return None
    asked, answered = fields(said.get("prompt_tokens_details")), fields(said.get("completion_tokens_details"))
    return UsageInfo(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=total,
        cached_tokens=count(asked.get("cached_tokens")) or count(said.get("cache_read_input_tokens")),
        reasoning_tokens=count(answered.get("reasoning_tokens")),
        cache_write_tokens=count(said.get("cache_creation_input_tokens")) or count(asked.get("cache_creation_tokens")),
        source="provider",
    )
