"""The forms in which callers hand in what they ask: keywords, a mapping or a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from blueprint_llm.config.problems import hint
from blueprint_llm.config.secrets import seal
from blueprint_llm.engine.keywords import CHAT, GENERATE, PLAN, refuse_misspelt
from blueprint_llm.errors import InvalidRequestError
from blueprint_llm.types import ChatRequest, PlanningContext

_FIELDS = ChatRequest.__pydantic_fields__.keys()


def sealed(keywords: Any) -> dict[str, Any]:
    """Return the caller's keywords with Secrets for the keys in them: the same mapping.

    In place, so that no frame of ours that an exception shows holds a key.
    """
    own: dict[str, Any] = seal(keywords, but=_FIELDS)
    return own


def build_request(given: Any, keywords: dict[str, Any]) -> ChatRequest:
    """Return a request from a mapping, a record or keywords, which win and are sealed. Raises InvalidRequestError."""
    if isinstance(given, ChatRequest) and not keywords:
        return given
    values = _values(given, ChatRequest, "messages")
    refuse_misspelt(keywords, CHAT)
    refuse_misspelt(values, CHAT)
    request: ChatRequest = validated(ChatRequest, {**sealed(values), **sealed(keywords)})
    return request


def _values(given: Any, model: type[BaseModel], name: str) -> dict[str, Any]:
    """Return what a caller hands in by position, by name: a record, a mapping, or the field `name` alone."""
    if isinstance(given, model):
        return given.model_dump(exclude_unset=True)
    return dict(given) if isinstance(given, Mapping) else {} if given is None else {name: given}


def build_prompt(given: Any, keywords: dict[str, Any]) -> ChatRequest:
    """Return a request of one user message from a prompt, or a mapping with `prompt`. Raises InvalidRequestError."""
    sealed(keywords)
    values = {**given, **keywords} if isinstance(given, Mapping) else {"prompt": given, **keywords}
    refuse_misspelt(values, GENERATE)
    prompt = values.pop("prompt", None)
    if not isinstance(prompt, str) or not prompt:
        raise InvalidRequestError("generate needs a prompt: generate('...') or generate({'prompt': '...'})")
    system = values.pop("system", None)
    messages = [{"role": "system", "content": system}] if system else []
    return build_request(None, {**values, "messages": [*messages, {"role": "user", "content": prompt}]})


def validated(model: Any, values: Mapping[str, Any]) -> Any:
    """Return `values` as `model`. Raises InvalidRequestError, which names every mistake and no value."""
    if not isinstance(values, Mapping):
        raise InvalidRequestError(f"this takes a mapping or a {model.__name__}, not {type(values).__name__}")
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        rows = error.errors(include_input=False, include_url=False)
        lines = [f"{'.'.join(map(str, row['loc'])) or 'request'}: {_told(row, model)}" for row in rows]
    raise InvalidRequestError("the request is not valid: " + "; ".join(lines))


def _told(row: Any, model: Any) -> str:
    if row["type"] == "extra_forbidden" and len(row["loc"]) == 1:
        return f"unknown keyword{hint(str(row['loc'][0]), model.model_fields)}"
    return str(row["msg"])


def planning_context(given: Any, keywords: Mapping[str, Any]) -> PlanningContext:
    """Return what to plan, from a goal, a mapping, a record or keywords, which win. Raises InvalidRequestError."""
    if isinstance(given, PlanningContext) and not keywords:
        return given
    values = {**_values(given, PlanningContext, "goal"), **keywords}
    if unknown := [name for name in values if name not in PLAN]:
        raise InvalidRequestError(f"unknown keyword {unknown[0]!r}{hint(unknown[0], PLAN)}")
    context: PlanningContext = validated(PlanningContext, values)
    return context
