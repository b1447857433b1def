"""Every error this library raises, and the one table that sorts what providers raise.

::

    BlueprintError
    ├── ConfigError
    ├── CredentialsError
    ├── BudgetExceededError
    ├── QuotaExceededError
    ├── StoreError
    ├── NoTargetError
    ├── ContextDoesNotFitError
    ├── ToolDeniedError
    ├── ToolError
    ├── ApprovalPending
    ├── PlanError
    └── CallError
        ├── InvalidRequestError
        ├── ToolCallInvalidError
        ├── AnswerInvalidError
        ├── StreamBrokenError
        ├── DeadlineExceededError
        └── ChainExhaustedError

An error carries facts (status, retry-after, attempts), never a key, a header, a request or prompt text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class BlueprintError(Exception):
    """The root of the tree.

    Attributes:
        trace: What the library did before it gave up (API section 6); empty where nothing was tried.
        chain: Of a limit that refused: where its configuration would rather go.
    """

    trace: Mapping[str, Any] = {}
    chain: Sequence[str] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild from attributes, so that errors with keyword-only facts survive a process pool."""
        return rebuild, (type(self), self.args, self.__dict__.copy())


def rebuild(kind: type[BlueprintError], args: tuple[Any, ...], facts: Mapping[str, Any]) -> BlueprintError:
    """Return an error of `kind` with these facts, without its constructor."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


class ConfigError(BlueprintError):
    """The configuration is wrong; the message lists every problem with its place and its mend."""

    def __init__(self, message: str, *, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems) or (message,)


class CredentialsError(BlueprintError):
    """A key is missing, unsafe to read, or cannot be stored; the message says how to mend it."""


class MissingKeyError(CredentialsError):
    """No source has a key for a provider that needs one."""


class BudgetExceededError(BlueprintError):
    """A USD budget leaves no target. Amounts in USD, `resets_at` in Unix seconds (None: never by itself).

    `needed_usd` is the most that the refused call could cost, which is what it reserves.
    """

    def __init__(
        self,
        *,
        scope: str,
        limit_usd: float,
        used_usd: float,
        resets_at: float | None,
        needed_usd: float | None = None,
    ) -> None:
        left = "" if needed_usd is None else f"{max(0.0, limit_usd - used_usd):.6f} is left"
        super().__init__(
            f"budget of {scope} would be exceeded: {used_usd:.6f} of {limit_usd:.6f} USD used or reserved"
            f"{_reset_text(resets_at)}{_cure(needed_usd, left, '.6f', 'limit_usd')}"
        )
        self.scope, self.limit_usd, self.used_usd, self.resets_at = scope, limit_usd, used_usd, resets_at
        self.needed_usd = needed_usd


class QuotaExceededError(BlueprintError):
    """A quota of requests or tokens leaves no target. `resets_at` in Unix seconds.

    `needed` is the most that the refused call could take, which is what it reserves.
    """

    def __init__(
        self, *, scope: str, kind: str, limit: int, used: int, resets_at: float | None, needed: int | None = None
    ) -> None:
        known = needed if kind == "tokens" else None  # a request is always one
        left = f"{max(0, limit - used)} are left"
        super().__init__(
            f"quota of {scope} is used up: {used} of {limit} {kind}{_reset_text(resets_at)}"
            f"{_cure(known, left, 'd', 'the quota')}"
        )
        self.scope, self.kind, self.limit, self.used, self.resets_at = scope, kind, limit, used, resets_at
        self.needed = needed


def _cure(needed: float | None, left: str, form: str, limit: str) -> str:
    """Return what the call would take, what is left, and the two numbers that can change."""
    if needed is None:
        return ""
    return f"; this call reserves up to {needed:{form}}, {left}: lower its max_tokens or raise {limit}"


def _reset_text(resets_at: float | None) -> str:
    from datetime import UTC, datetime  # noqa: PLC0415 - only an error pays for it

    return "" if resets_at is None else f"; resets at {datetime.fromtimestamp(resets_at, UTC):%Y-%m-%dT%H:%M:%SZ}"


class StoreError(BlueprintError):
    """The store of budgets and usage cannot be used; the message says what to do. Nothing passes unlimited."""


_NOBODY = "no provider is configured: put one under blueprint.providers or in model_list"


class NoTargetError(BlueprintError):
    """No configured target may serve the request; `considered` says why, target by target."""

    def __init__(self, considered: Sequence[Mapping[str, Any]] = (), *, more: str = "") -> None:
        rows = "; ".join(f"{row.get('provider')} ({row.get('model')}): {row.get('reason')}" for row in considered)
        super().__init__(f"no target can serve this request: {rows or _NOBODY}{more}")
        self.considered, self.more = [dict(row) for row in considered], more

    @property
    def reasons(self) -> str:
        """The text without what is said once to a newcomer."""
        return str(self).removesuffix(self.more)


class ContextDoesNotFitError(BlueprintError):
    """The parts that may not be dropped exceed a target's context. Both numbers in tokens."""

    def __init__(self, *, provider: str, needed_tokens: int, limit_tokens: int) -> None:
        super().__init__(f"the request needs {needed_tokens} tokens, {provider} takes {limit_tokens}: shorten it")
        self.provider, self.needed_tokens, self.limit_tokens = provider, needed_tokens, limit_tokens


class ToolDeniedError(BlueprintError):
    """Rules or a person refused a tool call."""


class ToolError(BlueprintError):
    """A tool cannot be registered or run."""


class ApprovalPending(BlueprintError):  # noqa: N818 - it is no failure
    """A run waits for decisions; hand `state_id` to `client.resume`."""

    def __init__(self, state_id: str) -> None:
        super().__init__(f"waiting for approval: call client.resume({state_id!r}, decisions)")
        self.state_id = state_id


class PlanError(BlueprintError):
    """No valid plan came out; `findings` lists what is wrong with the best one."""

    def __init__(self, message: str, *, findings: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.findings = list(findings)


class Kind(StrEnum):
    """What a category means for a request."""

    RETRIABLE = "retriable"
    PROVIDER_FAILURE = "provider_failure"
    FATAL = "fatal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """One row of the failure taxonomy."""

    name: str
    kind: Kind  # the coarse meaning
    retry_same: bool  # another try at the same model may help
    next_target: bool  # the next target of the chain may help
    breaker: bool  # counts as a failure of the target
    statuses: frozenset[int] = frozenset()  # HTTP statuses that belong here
    # names of LiteLLM, openai and httpx exception classes that belong here (matched along the MRO)
    classes: frozenset[str] = frozenset()


_PROVIDER, _RETRIABLE, _FATAL = Kind.PROVIDER_FAILURE, Kind.RETRIABLE, Kind.FATAL
# Name, kind, what follows (try again, go on, count against the breaker), statuses, classes.
#
# The order is the argument. What the provider says decides first (`policy.clues`): a key that was refused or an account
# without money is that, whatever status carried it. Then the most derived class that a row names; then, where that row
# is one of the last three, whose classes LiteLLM uses for anything, the HTTP status. `unknown` is last.
# A redirect to another host, which is not followed, says as much as a 404: not here.
_ROWS: tuple[tuple[str, Kind, str, set[int], str], ...] = (
    ("refused", _PROVIDER, "next breaker", {401, 402, 403},
     "AuthenticationError PermissionDeniedError PaymentRequiredError BudgetExceededError"),
    ("context_length", _PROVIDER, "next", {413}, "ContextWindowExceededError"),
    ("content_policy", _FATAL, "", set(),
     ("ContentPolicyViolationError RejectedRequestError GuardrailRaisedException BlockedPiiEntityError "
      "ModifyResponseException SensitiveDataRouteException")),
    ("not_found", _PROVIDER, "next", {404, 301, 302, 303, 307, 308}, "NotFoundError"),
    ("rate_limited", _RETRIABLE, "retry next breaker", {429},
     "RateLimitError RouterRateLimitError RouterRateLimitErrorBasic"),
    ("timeout", _RETRIABLE, "retry next breaker", {408, 504}, "Timeout APITimeoutError TimeoutException"),
    ("malformed", _RETRIABLE, "retry next", set(), "APIResponseValidationError JSONSchemaValidationError"),
    ("stream_broken", _RETRIABLE, "retry next breaker", set(), ""),
    ("unavailable", _RETRIABLE, "retry next breaker", {409, 500, 502, 503, 529},
     ("ServiceUnavailableError BadGatewayError InternalServerError APIConnectionError ConflictError "
      "MidStreamFallbackError TransportError")),
    ("invalid_request", _FATAL, "", {400, 405, 415, 422},
     ("BadRequestError UnprocessableEntityError UnsupportedParamsError InvalidRequestError ImageFetchError "
      "VectorStoreSearchError LiteLLMUnknownProvider ModelNotMappedError")),
    ("unknown", _PROVIDER, "next breaker", set(),
     ("APIError OpenAIError MockException APIStatusError HTTPError InvalidURL StreamError CookieConflict "
      "BaseLLMException ToolLoopMaxRoundsExceeded InvalidWebhookSignatureError")),
)  # fmt: skip
CATEGORIES: dict[str, Category] = {
    name: Category(
        name=name,
        kind=kind,
        retry_same="retry" in then,
        next_target="next" in then,
        breaker="breaker" in then,
        statuses=frozenset(statuses),
        classes=frozenset(classes.split()),
    )
    for name, kind, then, statuses, classes in _ROWS
}


class CallError(BlueprintError):
    """A call to a provider failed.

    Attributes:
        category: A key of `CATEGORIES`.
        kind: That row's meaning for the request.
        provider, model: Who failed; None where no single target did.
        status: The HTTP status, where there was one.
        retry_after_s: How long the provider asked us to wait, in seconds.
        code: A finer name of the trouble within the category (`bad_sse`, `insufficient_quota`, ...).
        elsewhere: Another target may take what this one turned down, although the category says stop.
        key: Which key was sent, and from which source (`env:OPENAI_API_KEY`); never the key itself.
        address: Where the connection failed: scheme, host and port.
        said: The provider's own words, masked, without what they repeat of the request.
        litellm_error: LiteLLM's exception without its secrets, where the call was one of LiteLLM's form.
    """

    default_category = "unknown"
    litellm_error: Exception | None = None

    def __init__(  # noqa: PLR0913 - a keyword for each fact
        self,
        message: str,
        *,
        category: str | None = None,
        provider: str | None = None,
        model: str | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
        code: str | None = None,
        elsewhere: bool = False,
        key: str | None = None,
        address: str | None = None,
        said: str | None = None,
    ) -> None:
        super().__init__(message)
        self.category = category or self.default_category
        self.kind = str(CATEGORIES[self.category].kind)
        self.provider, self.model, self.status = provider, model, status
        self.retry_after_s, self.code, self.elsewhere = retry_after_s, code, elsewhere
        self.key, self.address, self.said = key, address, said

    @property
    def row(self) -> Category:
        """This error's row of the table."""
        return CATEGORIES[self.category]


class InvalidRequestError(CallError, ValueError):
    """The request itself is wrong; nothing was sent."""

    default_category = "invalid_request"


class _OutputInvalidError(CallError):
    """What the model wrote is not valid.

    Attributes:
        verdict: Where and why.
        attempts: The errors of every attempt, where each of them ended like this one.
        message_received: The assistant's message as far as it came, secrets masked; in no text, and lost in a pickle.
    """

    default_category = "malformed"
    message_received: Mapping[str, Any] | None = None

    def __init__(
        self, message: str, *, verdict: Any = None, attempts: Sequence[BlueprintError] = (), **facts: Any
    ) -> None:
        super().__init__(message, **facts)
        self.verdict, self.attempts = verdict, list(attempts)

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild without what the model wrote."""
        rebuild, (kind, args, facts) = super().__reduce__()
        return rebuild, (kind, args, {name: value for name, value in facts.items() if name != "message_received"})


class ToolCallInvalidError(_OutputInvalidError):
    """The model's tool call is not valid; `verdict` says where and why."""


class AnswerInvalidError(_OutputInvalidError):
    """The model's structured answer is not valid; `verdict` says where and why."""


class StreamBrokenError(CallError):
    """A stream ended without proof of its end, or its transport was malformed."""

    default_category = "stream_broken"


class DeadlineExceededError(CallError):
    """The total deadline over waiting, retries and fallbacks has passed; `attempts` holds what failed before."""

    default_category = "timeout"

    def __init__(self, message: str, *, attempts: Sequence[BlueprintError] = (), **facts: Any) -> None:
        super().__init__(message, **facts)
        self.attempts = list(attempts)


class ChainExhaustedError(CallError):
    """Every target was tried; `attempts` holds each one's error in order.

    Category, status and provider are those of the first attempt: the first cause is the one to mend.

    Args:
        attempts: The errors.
        notes: What else the reader should know, a line each: targets passed over, retries held back, the trace's id.
    """

    def __init__(self, attempts: Sequence[BlueprintError], *, notes: Sequence[str] = ()) -> None:
        first = next((error for error in attempts if isinstance(error, CallError)), None)
        lines = [*(f"  {n}. {error}" for n, error in enumerate(attempts, 1)), *notes]
        shown = ("category", "provider", "model", "status", "retry_after_s")
        facts: dict[str, Any] = {name: getattr(first, name, None) for name in shown}
        super().__init__("\n".join([f"all {len(attempts)} attempts failed:", *lines]), **facts)
        self.attempts = list(attempts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What is known of a foreign exception, without the exception (it may hold keys)."""

    classes: tuple[str, ...]  # class names along its MRO, most derived first
    status: int | None = None  # HTTP status, if any
    message: str = ""  # the provider's words, for rules on text; never shown unredacted
    causes: tuple[str, ...] = ()  # class names of the exceptions in its cause and context chain
    headers: Mapping[str, str] = field(default_factory=dict)  # response headers, lower case
    codes: tuple[str, ...] = ()  # the error codes and types that LiteLLM keeps beside the message
    body: str = ""  # what the provider sent, of which LiteLLM's message may have no word
    address: str | None = None  # where the connection went: scheme, host and port
