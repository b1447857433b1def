"""From LiteLLM's keywords to a request that reaches LiteLLM as it was written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blueprint_llm.credentials.document import protect
from blueprint_llm.types import ChatRequest

if TYPE_CHECKING:
    from collections.abc import Mapping


class Message:
    """One message, untouched: a dict, or an object of LiteLLM's as it stands in an earlier answer."""

    __slots__ = ("written",)

    def __init__(self, written: Any) -> None:
        self.written = written

    @property
    def content(self) -> Any:
        """The message's content."""
        return self.to_dict().get("content")

    def to_dict(self) -> Any:
        """What goes to LiteLLM, which makes the same of its own objects."""
        dump = getattr(self.written, "model_dump", None)
        return self.written if dump is None else dump(exclude_none=True)


def sealed(keywords: dict[str, Any]) -> dict[str, Any]:
    """Make Secrets of the keys in `keywords`, in place: a frame that raises must not show them."""
    for name in keywords.keys() - {"messages"}:
        keywords[name] = protect(name, keywords[name])
    return keywords


def request_of(keywords: Mapping[str, Any]) -> ChatRequest:
    """The request of sealed `keywords`; what is wrong with it LiteLLM will say in its own words."""
    params = {name: value for name, value in keywords.items() if name not in {"model", "messages"}}
    cap = params.get("max_tokens")
    return ChatRequest.model_construct(
        messages=[Message(message) for message in keywords.get("messages") or ()],
        model=_model(keywords),
        max_tokens=cap if type(cap) is int and cap > 0 else None,
        cache=False if _avoids_cache(params) else None,
        as_written=True,
        params=params,
    )


def _model(keywords: Mapping[str, Any]) -> str:
    """The model id with its vendor, which decides whose key is sent."""
    model, vendor = str(keywords.get("model") or ""), keywords.get("custom_llm_provider")
    return model if not vendor or model.startswith(f"{vendor}/") else f"{vendor}/{model}"


def _avoids_cache(params: Mapping[str, Any]) -> bool:
    control = params.get("cache")
    asked = isinstance(control, dict) and (control.get("no-cache") or control.get("no-store"))
    return bool(asked) or params.get("caching") is False
