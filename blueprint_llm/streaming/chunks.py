"""Read the chunks of a stream, LiteLLM's and OpenAI's objects or dicts of that shape, and trust none of their types."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from blueprint_llm.streaming.text import printable
from blueprint_llm.types import UsageInfo

if TYPE_CHECKING:
    from collections.abc import Iterator


class Entry(NamedTuple):
    """One piece of a tool call as a chunk carries it; empty ids and names are None."""

    place: int | None
    id: str | None
    name: str | None
    arguments: str
    was_object: bool = False


def get(record: Any, name: str) -> Any:
    """A field of a dict or of an object; None where there is none.

    LiteLLM's and OpenAI's models keep most fields among pydantic's extras, where `getattr` takes up to 1 us.
    """
    if isinstance(record, dict):
        return record.get(name)
    extra = getattr(record, "__pydantic_extra__", None)
    if extra is None:
        return getattr(record, name, None)
    own = record.__dict__
    return own[name] if name in own else extra.get(name)


def sequence(value: Any) -> list[Any] | tuple[Any, ...]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list | tuple) else ()


def word(value: Any) -> str | None:
    """A non-empty string that any encoding can carry, else None."""
    return printable(value) if isinstance(value, str) and value else None


def count(value: Any) -> int:
    """A number of tokens; 0 for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def text_of(content: Any) -> str:
    """The text of a `content`, which may be a list of parts."""
    if isinstance(content, str):
        return content
    parts = (get(part, "text") for part in sequence(content))
    return "".join(part for part in parts if isinstance(part, str))


def entries(delta: Any, *, is_whole: bool) -> Iterator[Entry]:
    """The pieces of tool calls in a delta; in a whole message the place of a call is its index."""
    calls = sequence(get(delta, "tool_calls"))
    for place, call in enumerate(calls):
        index = place if is_whole else get(call, "index")
        yield _entry(get(call, "function") or call, index, word(get(call, "id")))
    legacy = None if calls else get(delta, "function_call")
    if legacy is not None:
        yield _entry(legacy, 0, None)


def _entry(function: Any, index: Any, call_id: str | None) -> Entry:
    arguments = get(function, "arguments")
    is_number = isinstance(index, int) and not isinstance(index, bool)
    return Entry(
        place=index if is_number else None,
        id=call_id,
        name=word(get(function, "name")),
        arguments=arguments if isinstance(arguments, str) else _encoded(arguments),
        was_object=isinstance(arguments, dict),
    )


def _encoded(arguments: Any) -> str:
    """Arguments that came as an object instead of a text."""
    if not isinstance(arguments, dict):
        return ""
    try:
        return json.dumps(arguments)
    except (TypeError, ValueError, RecursionError):
        return "?"  # no JSON: rejected at its first character


def answers_otherwise(delta: Any) -> bool:
    """Whether a delta carries a refusal or media instead of text."""
    if get(delta, "reasoning_content"):
        return False
    return bool(get(delta, "refusal") or get(delta, "audio") or get(delta, "images"))


def usage_info(usage: Any) -> UsageInfo | None:
    """A provider's usage object in our terms; None where it says nothing."""
    if isinstance(usage, UsageInfo) or usage is None:
        return usage
    prompt, completion = count(get(usage, "prompt_tokens")), count(get(usage, "completion_tokens"))
    total = count(get(usage, "total_tokens")) or prompt + completion
    if not total:
        return None
    asked, answered = get(usage, "prompt_tokens_details"), get(usage, "completion_tokens_details")
    return UsageInfo(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=total,
        cached_tokens=count(get(asked, "cached_tokens")) or count(get(usage, "cache_read_input_tokens")),
        reasoning_tokens=count(get(answered, "reasoning_tokens")),
        cache_write_tokens=count(get(usage, "cache_creation_input_tokens"))
        or count(get(asked, "cache_creation_tokens")),
        source="provider",
    )
