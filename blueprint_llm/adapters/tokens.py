"""Counts a prompt's tokens as LiteLLM does: offline, and for whatever a history may hold."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import orjson

from blueprint_llm.adapters.litellm import module
from blueprint_llm.context.tokens import estimate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# The encoding of OpenAI's that goes with the model's name; LiteLLM brings these along.
_OPENAIS = {"type": "openai_tokenizer", "tokenizer": None}
# LiteLLM brings these tokenizers along too; every other one it would load from the Hugging Face Hub.
_BUNDLED = frozenset({None, "anthropic", "deepseek"})
# Where a part keeps base64 or an address; it counts like LiteLLM's default of an image.
_MEDIA = frozenset({"data", "url", "file_data", "bytes"})
_MEDIUM, _MEDIUM_TOKENS = "<medium>", 250


def count_tokens(model: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] = ()) -> int:
    """Return the tokens of a prompt by LiteLLM's counter of `model`. Fetches nothing, never raises.

    Images count flat. What LiteLLM cannot count (audio, custom tool calls) goes by its JSON.
    """
    litellm = module()
    if litellm.disable_token_counter:  # its counter says 0 for everything then
        return estimate(messages, tools)
    is_fetched = litellm.utils.huggingface_tokenizer_kind(model) not in _BUNDLED
    counter = functools.partial(
        litellm.token_counter,
        model=model,
        custom_tokenizer=_OPENAIS if is_fetched else None,
        use_default_image_token_count=True,
    )
    try:
        return int(counter(messages=list(messages), tools=list(tools) or None))
    except Exception:  # noqa: BLE001 - ValueError, KeyError, pydantic's own: for every shape it does not know another
        primer = int(counter(messages=[]))
        schemas = int(counter(text=_text(tools))) if tools else 0
        return primer + schemas + sum(_tokens_of(counter, message) - primer for message in messages)


def _tokens_of(counter: Callable[..., Any], message: Mapping[str, Any]) -> int:
    """Return the tokens of a message alone, by its JSON where LiteLLM cannot count it."""
    try:
        return int(counter(messages=[message]))
    except Exception:  # noqa: BLE001 - as in `count_tokens`
        text = _text(_without_media(message))
        return int(counter(messages=[])) + int(counter(text=text)) + _MEDIUM_TOKENS * text.count(_MEDIUM)


def _without_media(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_media(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _MEDIUM if key in _MEDIA and isinstance(each, str) else _without_media(each) for key, each in value.items()
    }


def _text(value: Any) -> str:
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
