"""The forms in which callers hand in what they ask: keywords, a mapping or a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

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
    """A request from a mapping, a `ChatRequest` or keywords, which win and are sealed. Raises InvalidRequestError."""
    refuse_misspelt(keywords, CHAT)
    seal(keywords, but=_FIELDS)
    if isinstance(given, ChatRequest) and not keywords:
        return given
    if isinstance(given, ChatRequest):
        given = given.model_dump(exclude_unset=True)
    elif given is not None and not isinstance(given, Mapping):
        keywords = {"messages": given, **keywords}
        given = None
    elif given is not None:
        refuse_misspelt(given, CHAT)
    request: ChatRequest = validated(ChatRequest, {**seal(dict(given or {}), but=_FIELDS), **keywords})
    return request


def build_prompt(given: Any, keywords: dict[str, Any]) -> ChatRequest:
    """A request of one user message from a prompt, or from a mapping with `prompt`. Raises InvalidRequestError."""
    seal(keywords, but=_FIELDS)
    values = {**given, **keywords} if isinstance(given, Mapping) else {"prompt": given, **keywords}
    refuse_misspelt(values, GENERATE)
    prompt = values.pop("prompt", None)
    if not isinstance(prompt, str) or not prompt:
        raise InvalidRequestError("generate needs a prompt: generate('...') or generate({'prompt': '...'})")
    system = values.pop("system", None)
    messages = [{"role": "system", "content": system}] if system else []
    return build_request(None, {**values, "messages": [*messages, {"role": "user", "content": prompt}]})


def validated(model: Any, values: Mapping[str, Any]) -> Any:
    """`values` as `model`. Raises InvalidRequestError, which names every mistake and no value."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        rows = error.errors(include_input=False, include_url=False)
        lines = [f"{'.'.join(map(str, row['loc'])) or 'request'}: {row['msg']}" for row in rows]
    raise InvalidRequestError("the request is not valid: " + "; ".join(lines))


def planning_context(given: Any, keywords: Mapping[str, Any]) -> PlanningContext:
    """What to plan, from a goal, a mapping, a record or keywords; keywords win. Raises InvalidRequestError."""
    if isinstance(given, PlanningContext) and not keywords:
        return given
    if isinstance(given, PlanningContext):
        given = given.model_dump()
    elif given is not None and not isinstance(given, Mapping):
        given = {"goal": given}
    refuse_misspelt({**(given or {}), **keywords}, PLAN)
    context: PlanningContext = validated(PlanningContext, {**(given or {}), **keywords})
    return context
