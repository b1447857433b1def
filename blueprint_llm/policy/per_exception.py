"""LiteLLM's policies by exception: `retry_policy` and `allowed_fails_policy`, looked up for one of our errors."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from blueprint_llm.config.blocks import Breaker
    from blueprint_llm.config.model import Config
    from blueprint_llm.errors import CallError
    from blueprint_llm.policy.retry import RetryRules

RETRIES, FAILS = "Retries", "AllowedFails"
NEVER = sys.maxsize


class _Row(NamedTuple):
    """LiteLLM's name of an exception, and the categories and statuses that it stands for here."""

    name: str
    categories: frozenset[str] = frozenset()
    statuses: frozenset[int] = frozenset()


# The most specific first, as along LiteLLM's classes: a content refusal is also a bad request.
_ROWS = (
    _Row("ContentPolicyViolationError", frozenset({"content_policy"})),
    _Row("NotFoundError", frozenset({"not_found"})),
    _Row("AuthenticationError", statuses=frozenset({401})),
    _Row("TimeoutError", frozenset({"timeout"})),
    _Row("RateLimitError", frozenset({"rate_limited"}), frozenset({429})),
    _Row("ServiceUnavailableError", statuses=frozenset({503})),
    _Row("BadGatewayError", statuses=frozenset({502})),
    _Row("InternalServerError", frozenset({"unavailable"})),
    _Row("BadRequestError", frozenset({"content_policy", "context_length", "invalid_request"})),
)


def number_for(policy: Any, error: CallError, suffix: str) -> int | None:
    """What `policy`, a mapping or LiteLLM's object, says of `error`: `RateLimitErrorRetries`, else `DefaultRetries`."""
    policy = policy if isinstance(policy, Mapping) else vars(policy)
    rows = (row for row in _ROWS if error.category in row.categories or error.status in row.statuses)
    found = (policy.get(f"{row.name}{suffix}") for row in rows)
    number = next((each for each in found if each is not None), policy.get(f"Default{suffix}"))
    return None if number is None else int(number)


def retry_rules(config: Config, rules: RetryRules, group: str | None, error: CallError) -> RetryRules:
    """`rules`; without `blueprint.retry`, with the number of retries that LiteLLM's policies have for `error`."""
    policy = config.model_group_retry_policy.get(group or "", config.retry_policy)
    number = None if config.retry is not None else number_for(policy or {}, error, RETRIES)
    return rules if number is None else replace(rules, max_attempts=number + 1, insist=number > 0)


def breaker_rules(config: Config, deployment: Mapping[str, Any], error: CallError | None) -> Breaker:
    """`blueprint.breaker`; without it, LiteLLM's cooldown settings where there are any.

    Args:
        config: The configuration.
        deployment: LiteLLM's settings of the deployment: its own `cooldown_time` wins.
        error: What failed; None: an answer.
    """
    given = config.model_fields_set
    if config.breaker.model_fields_set:
        return config.breaker
    fails = number_for(config.allowed_fails_policy, error, FAILS) if error else None
    if fails is None and "allowed_fails" in given:
        fails = config.allowed_fails
    open_s = deployment.get("cooldown_time") or (config.cooldown_time if "cooldown_time" in given else 0)
    changes: dict[str, Any] = {} if fails is None else {"failures": max(0, fails) + 1}
    changes |= {"open_s": float(open_s)} if open_s else {}
    changes |= {"failures": NEVER} if config.disable_cooldowns else {}
    return config.breaker.model_copy(update=changes) if changes else config.breaker
