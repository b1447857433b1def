"""From our errors to what code written for LiteLLM catches."""

from __future__ import annotations

from typing import Any

from blueprint_llm.adapters import litellm as _litellm
from blueprint_llm.errors import (
    BlueprintError,
    BudgetExceededError,
    CallError,
    ChainExhaustedError,
    ContextDoesNotFitError,
    CredentialsError,
    NoTargetError,
    QuotaExceededError,
)
from blueprint_llm.routing.targets import litellm_provider

# The class of LiteLLM's that an error of ours also is, by category.
CLASSES = {
    "refused": "AuthenticationError",
    "context_length": "ContextWindowExceededError",
    "content_policy": "ContentPolicyViolationError",
    "not_found": "NotFoundError",
    "rate_limited": "RateLimitError",
    "timeout": "Timeout",
    "malformed": "APIResponseValidationError",
    "stream_broken": "MidStreamFallbackError",
    "unavailable": "ServiceUnavailableError",
    "invalid_request": "BadRequestError",
    "unknown": "InternalServerError",
}
OTHERS: dict[type[BlueprintError], str] = {
    BudgetExceededError: "BudgetExceededError",
    QuotaExceededError: "RateLimitError",
    ContextDoesNotFitError: "ContextWindowExceededError",
    CredentialsError: "AuthenticationError",
    NoTargetError: "BadRequestError",
}


def litellm_failure(error: BlueprintError, *, first: bool) -> Exception:
    """What to raise for `error`: LiteLLM's own exception, else one that is both ours and LiteLLM's.

    Args:
        error: How the walk ended.
        first: Where all attempts failed, the first one's exception is raised, else the last one's.
    """
    if isinstance(error, ChainExhaustedError):
        return _with_trace(litellm_failure(error.attempts[0 if first else -1], first=first), error)
    original = getattr(error, "litellm_error", None)
    return _with_trace(original or both(error), error)


def _with_trace(failure: Any, error: BlueprintError) -> Exception:
    failure.trace = error.trace
    return failure  # type: ignore[no-any-return] # an exception either way


def both(error: BlueprintError) -> Exception:
    """`error` as an instance of its own class and of LiteLLM's for such trouble."""
    name = CLASSES[error.category] if isinstance(error, CallError) else OTHERS.get(type(error))
    if name is None:
        return error
    kind = both_class(type(error), name)
    twin: Any = kind.__new__(kind)
    twin.args = error.args
    twin.__dict__ |= vars(error) | vars(_theirs(name, error))
    twin.__dict__ |= {fact: value for fact, value in vars(error).items() if value is not None}
    return twin  # type: ignore[no-any-return] # made above


def _theirs(name: str, error: BlueprintError) -> Any:
    """LiteLLM's exception with the facts of `error`."""
    kind, text = _class(name), str(error)
    if isinstance(error, BudgetExceededError):
        return kind(current_cost=error.used_usd, max_budget=error.limit_usd, message=text)
    tried = (getattr(each, "model", None) for each in (error, *getattr(error, "attempts", ())))
    model = next(filter(None, tried), "")
    return kind(message=text, model=model, llm_provider=litellm_provider(model) if model else "")


def _class(name: str) -> Any:
    return getattr(_litellm.module().exceptions, name)


_MADE: dict[tuple[str, str], type[BlueprintError]] = {}


def both_class(ours: type[BlueprintError], theirs: str) -> type[BlueprintError]:
    """The class that is both, one for each pair."""
    key = (ours.__name__, theirs)
    if key not in _MADE:
        made = type(ours.__name__, (ours, _class(theirs)), {"__module__": ours.__module__, "__reduce__": _reduce})
        return _MADE.setdefault(key, made)
    return _MADE[key]


def _reduce(error: Any) -> tuple[Any, ...]:
    ours, theirs = type(error).__mro__[1], type(error).__bases__[1].__name__
    return _rebuilt, (ours, theirs, error.args, _picklable(vars(error)))


def _picklable(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts without LiteLLM's HTTP messages, which no pickle can carry."""
    return {name: value for name, value in facts.items() if name not in {"request", "response"}}


def _rebuilt(ours: type[BlueprintError], theirs: str, args: tuple[Any, ...], facts: dict[str, Any]) -> Any:
    kind = both_class(ours, theirs)
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(facts)
    return error
