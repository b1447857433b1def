"""Our errors as code written for LiteLLM catches them: each is of its own class and of LiteLLM's for such trouble."""

from __future__ import annotations

import functools
from typing import Any

from blueprint_llm.adapters import litellm as _litellm
from blueprint_llm.errors import (
    BlueprintError,
    BudgetExceededError,
    CallError,
    ContextDoesNotFitError,
    CredentialsError,
    NoTargetError,
    QuotaExceededError,
    rebuild,
)

# The class of LiteLLM's that an error of ours also is: by category, else by our class.
CLASSES = {
    "refused": "AuthenticationError",
    "context_length": "ContextWindowExceededError",
    "content_policy": "ContentPolicyViolationError",
    "not_found": "NotFoundError",
    "rate_limited": "RateLimitError",
    "timeout": "Timeout",
    "malformed": "APIResponseValidationError",
    "stream_broken": "InternalServerError",
    "unavailable": "ServiceUnavailableError",
    "invalid_request": "BadRequestError",
    "unknown": "InternalServerError",
}
OTHERS: dict[type[BlueprintError], str] = {
    BudgetExceededError: "BudgetExceededError",
    QuotaExceededError: "CallerCredentialRateLimitError",
    ContextDoesNotFitError: "ContextWindowExceededError",
    CredentialsError: "AuthenticationError",
    NoTargetError: "BadRequestError",
}
# A quota is a RateLimitError of the caller's: for that the Router cools no deployment down, which others may still use.
# Only a deployment's own limit is one of the deployment.
# Asking again cannot help: LiteLLM's Router retries an error as often as its own `num_retries` says.
LIMITS = (BudgetExceededError, QuotaExceededError)


def both(error: BlueprintError) -> Any:
    """Return `error` as an instance of its own class and of LiteLLM's for such trouble, where there is one."""
    name = CLASSES[error.category] if isinstance(error, CallError) else OTHERS.get(type(error))
    if name is None:
        return error
    of_deployment = isinstance(error, LIMITS) and error.scope.startswith("deployment:")
    if of_deployment and isinstance(error, QuotaExceededError):
        name = "RateLimitError"
    if isinstance(error, BudgetExceededError):
        theirs = _class(name)(current_cost=error.used_usd, max_budget=error.limit_usd, message=str(error))
    else:
        theirs = _class(name)(
            message=str(error),
            model=getattr(error, "model", None) or "",
            llm_provider=getattr(error, "provider", None) or "blueprint",
        )
    twin = _joined(error, name, theirs)
    if isinstance(error, LIMITS) and not of_deployment:  # another deployment may have room
        twin.num_retries = 0
    return twin


def mid_stream(error: BlueprintError, stream: Any, *, shown: bool) -> Any:
    """Return `error` as the one by which LiteLLM's streams end; its Router falls back while nothing was `shown`."""
    name = "MidStreamFallbackError"
    theirs = _class(name)(
        message=str(error),
        model=getattr(stream, "model", None) or "",
        llm_provider=getattr(stream, "custom_llm_provider", None) or "",
        original_exception=both(error),
        generated_content=(getattr(stream, "response_uptil_now", "") if shown else ""),
        is_pre_first_chunk=not shown,
    )
    return _joined(error, name, theirs)


def is_litellms(error: BaseException) -> bool:
    """Return True for an exception of LiteLLM's or of the OpenAI client, on which a request with its key may hang."""
    return any(kind.__module__.partition(".")[0] in {"litellm", "openai"} for kind in type(error).__mro__)


def _joined(error: BlueprintError, name: str, theirs: Exception) -> Any:
    """Return the exception with the facts of both; ours count where they say something."""
    ours = {fact: value for fact, value in vars(error).items() if value is not None}
    kind: Any = type(error)
    return rebuild(_both_class(kind, name), error.args, {**vars(error), **vars(theirs), **ours})


def _class(name: str) -> Any:
    return getattr(_litellm.module().exceptions, name)


@functools.cache
def _both_class(ours: Any, name: str) -> type[BlueprintError]:
    """Return the class that is both."""
    return type(ours.__name__, (ours, _class(name)), {"__module__": ours.__module__, "__reduce__": _reduce})


def _reduce(error: Any) -> tuple[Any, ...]:
    ours, theirs = type(error).__bases__
    unpickled = {"request", "response", "message_received"}
    facts = {name: value for name, value in vars(error).items() if name not in unpickled}
    return _rebuilt, (ours, theirs.__name__, error.args, facts)


def _rebuilt(ours: Any, name: str, args: tuple[Any, ...], facts: dict[str, Any]) -> BlueprintError:
    return rebuild(_both_class(ours, name), args, facts)
