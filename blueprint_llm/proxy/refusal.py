"""What the proxy's client sees of our errors: LiteLLM's status and error type, our words, never a key."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import litellm

from blueprint_llm.errors import (
    BudgetExceededError,
    CallError,
    InvalidRequestError,
    NoTargetError,
    QuotaExceededError,
    StoreError,
)

if TYPE_CHECKING:
    from blueprint_llm.errors import BlueprintError

TOO_MANY = 429
# LiteLLM's Router neither asks again after it nor takes it for a failing deployment, but goes on to its fallbacks.
NOT_HERE = 400
_ANSWERS: tuple[tuple[type[BlueprintError], int, str], ...] = (
    (QuotaExceededError, TOO_MANY, "rate_limit_error"),
    (NoTargetError, 403, "permission_denied_error"),
    (StoreError, 503, "service_unavailable_error"),
    (InvalidRequestError, 400, "invalid_request_error"),
    (CallError, 502, "upstream_error"),
)


class Refusal(Exception):  # noqa: N818 - not every one is an error of somebody's
    """An error of ours on its way through LiteLLM.

    Attributes:
        status_code: What LiteLLM's Router goes by; `answer` turns it into the client's.
        message, type, headers: What LiteLLM's proxy tells the client.
    """

    def __init__(self, error: BlueprintError) -> None:
        super().__init__(str(error))
        self.message = str(error)
        self._status, self.type = _answer(error)
        # A deployment's own rate limit: another deployment of the group may have room.
        elsewhere = str(getattr(error, "scope", "")).startswith("deployment:")
        self.status_code = TOO_MANY if elsewhere else NOT_HERE
        self.headers = _retry_after(getattr(error, "resets_at", None))

    def answer(self) -> None:
        """From here on the status is the client's, and the words are ours alone: the Router adds its own."""
        self.status_code, self.message = self._status, str(self)


def _answer(error: BlueprintError) -> tuple[int, str]:
    if isinstance(error, BudgetExceededError):  # as the proxy answers for its own budgets
        return int(getattr(litellm, "budget_exceeded_status_code", TOO_MANY)), "budget_exceeded"
    return next(((status, kind) for cls, status, kind in _ANSWERS if isinstance(error, cls)), (500, "internal_error"))


def _retry_after(resets_at: float | None) -> dict[str, str]:
    return {} if resets_at is None else {"retry-after": str(max(1, math.ceil(resets_at - time.time())))}
