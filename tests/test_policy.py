"""Decisions over one failed call: what it means, whether and when to try again, and what to change before that."""

from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blueprint_llm.errors import CATEGORIES, CallError, Failure, StreamBrokenError, ToolCallInvalidError
from blueprint_llm.policy import (
    UNCHANGED,
    Change,
    GoOn,
    Means,
    Progress,
    RetryHere,
    RetryRatio,
    RetryRules,
    Stop,
    backoff_s,
    classify,
    climb,
    decide,
    retry_after_s,
)
from blueprint_llm.streaming import Verdict

OPENAI_BASES = ("APIStatusError", "APIError", "OpenAIError", "Exception", "BaseException", "object")
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
RULES = RetryRules(max_attempts=3, base_s=1.0, cap_s=8.0, max_retry_after_s=20.0)


def failure(status=None, message="", classes=(), causes=()):
    """A failure as it arrives: the named classes above the bases that all of them have."""
    return Failure(classes=(*classes, *OPENAI_BASES), status=status, message=message, causes=causes)


# What LiteLLM says (1.106.2), and what it means.
MEANINGS = [
    pytest.param(
        failure(500, "No module named 'mcp'", ["InternalServerError"], ["ModuleNotFoundError"]),
        "invalid_request",
        "missing_dependency",
        id="a package is missing",
    ),
    pytest.param(
        failure(None, "install it", ["APIConnectionError"], ["ImportError"]),
        "invalid_request",
        "missing_dependency",
        id="an ImportError in the cause chain",
    ),
    pytest.param(
        Failure(classes=("TypeError", "Exception"), message="got an unexpected keyword"),
        "invalid_request",
        "rejected_by_litellm",
        id="a TypeError of LiteLLM itself",
    ),
    pytest.param(
        Failure(classes=("ValueError", "Exception"), message="bad argument"),
        "invalid_request",
        "rejected_by_litellm",
        id="a ValueError of LiteLLM itself",
    ),
    pytest.param(
        failure(500, "Missing credentials. Please pass an `api_key`", ["InternalServerError"]),
        "refused",
        "missing_credentials",
        id="no key, reported as 500",
    ),
    pytest.param(
        failure(500, "The api_key client option must be set either by passing api_key", ["InternalServerError"]),
        "refused",
        "api_key_client_option_must_be_set",
        id="no key in the client, reported as 500",
    ),
    pytest.param(
        failure(400, "API key not valid. Please pass a valid API key.", ["BadRequestError"]),
        "refused",
        "api_key_not_valid",
        id="a bad key, reported as 400",
    ),
    pytest.param(failure(401, "", ["AuthenticationError"]), "refused", None, id="401"),
    pytest.param(failure(403, "", ["PermissionDeniedError"]), "refused", None, id="403"),
    pytest.param(failure(402, "Insufficient Balance", ["BadRequestError"]), "refused", None, id="402 as a 400 class"),
    pytest.param(failure(402, "", ["PaymentRequiredError", "BadRequestError"]), "refused", None, id="402"),
    pytest.param(
        failure(429, "You exceeded your current quota. insufficient_quota", ["RateLimitError"]),
        "refused",
        "insufficient_quota",
        id="no quota, as 429",
    ),
    pytest.param(
        failure(400, "Your credit balance is too low", ["BadRequestError"]),
        "refused",
        "credit_balance",
        id="no credit, as 400",
    ),
    pytest.param(
        failure(429, "billing_hard_limit_reached", ["RateLimitError"]),
        "refused",
        "billing_hard_limit",
        id="billing limit, as 429",
    ),
    pytest.param(failure(404, "", ["NotFoundError"]), "not_found", None, id="404"),
    pytest.param(failure(404, "", ["BadRequestError"]), "not_found", None, id="404 as a 400 class"),
    pytest.param(failure(413, "", ["APIError"]), "context_length", None, id="413"),
    pytest.param(
        failure(400, "", ["ContextWindowExceededError", "BadRequestError"]), "context_length", None, id="context class"
    ),
    pytest.param(
        failure(400, "This model's maximum context length is 8192 tokens", ["BadRequestError"]),
        "context_length",
        "maximum_context_length",
        id="context, as a plain 400",
    ),
    pytest.param(
        failure(400, "", ["ContentPolicyViolationError", "BadRequestError"]), "content_policy", None, id="content"
    ),
    pytest.param(failure(429, "slow down", ["RateLimitError"]), "rate_limited", None, id="429"),
    pytest.param(failure(408, "", ["Timeout", "APITimeoutError", "APIConnectionError"]), "timeout", None, id="408"),
    pytest.param(failure(504, "", ["InternalServerError"]), "timeout", None, id="504 as a 500 class"),
    pytest.param(failure(409, "", ["APIError"]), "unavailable", None, id="409"),
    pytest.param(failure(500, "", ["InternalServerError"]), "unavailable", None, id="500"),
    pytest.param(failure(502, "<html>Bad Gateway</html>", ["InternalServerError"]), "unavailable", None, id="HTML 502"),
    pytest.param(failure(503, "", ["ServiceUnavailableError"]), "unavailable", None, id="503"),
    pytest.param(failure(529, "overloaded_error", ["InternalServerError"]), "unavailable", None, id="529"),
    pytest.param(
        failure(500, "Connection error.", ["InternalServerError"], ["APIConnectionError", "ConnectError"]),
        "unavailable",
        None,
        id="a refused connection",
    ),
    pytest.param(
        failure(500, "[Errno -2] Name or service not known", ["APIConnectionError"], ["ConnectError", "gaierror"]),
        "unavailable",
        None,
        id="a name that does not resolve",
    ),
    pytest.param(
        failure(500, "Expecting value: line 1", ["APIConnectionError"], ["JSONDecodeError"]),
        "malformed",
        "not_json",
        id="200 that is no JSON",
    ),
    pytest.param(failure(None, "", ["APIResponseValidationError"]), "malformed", None, id="an invalid response"),
    pytest.param(failure(400, "bad temperature", ["BadRequestError"]), "invalid_request", None, id="400"),
    pytest.param(failure(422, "", ["UnprocessableEntityError"]), "invalid_request", None, id="422"),
    pytest.param(
        failure(None, "", ["UnsupportedParamsError", "BadRequestError"]), "invalid_request", None, id="parameter"
    ),
    pytest.param(
        failure(500, "Object of type bytes is not JSON serializable", ["InternalServerError"], ["TypeError"]),
        "invalid_request",
        "is_not_json_serializable",
        id="a request that cannot be encoded, as 500",
    ),
    pytest.param(failure(418, "teapot", ["APIError"]), "unknown", None, id="a status nobody knows"),
    pytest.param(Failure(classes=("Surprise", "Exception")), "unknown", None, id="a class nobody knows"),
    pytest.param(Failure(classes=()), "unknown", None, id="nothing known"),
]


@pytest.mark.parametrize(("what", "category", "code"), MEANINGS)
def test_failure_is_sorted_into_its_row(what, category, code):
    """Phrases decide before local faults, these before classes, and classes before the status."""
    found = classify(what)

    assert (found.category.name, found.code) == (category, code)


def test_phrase_in_a_long_text_proves_nothing():
    """A phrase far behind the beginning of a message is taken for a quoted prompt."""
    quoted = failure(500, "x" * 5000 + "insufficient_quota", ["InternalServerError"])

    assert classify(quoted).category.name == "unavailable"


WAITS = [
    pytest.param({"retry-after": "2"}, 2.0, id="whole seconds"),
    pytest.param({"retry-after": " 1.5 "}, 1.5, id="parts of a second"),
    pytest.param({"retry-after": "0"}, 0.0, id="at once"),
    pytest.param({"retry-after-ms": "1500", "retry-after": "9"}, 1.5, id="milliseconds win"),
    pytest.param({"retry-after-ms": "soon", "retry-after": "9"}, 9.0, id="milliseconds nobody understands"),
    pytest.param({"retry-after": "Sun, 01 Mar 2026 12:00:30 GMT"}, 30.0, id="a date"),
    pytest.param({"retry-after": "Sun, 01 Mar 2026 11:00:00 GMT"}, 0.0, id="a date that is over"),
    pytest.param(
        {"retry-after": "Sun, 01 Mar 2026 12:00:30 GMT", "date": "Sun, 01 Mar 2026 12:00:20 GMT"},
        10.0,
        id="a date by the server's own clock",
    ),
    pytest.param({"retry-after": "-3"}, None, id="negative"),
    pytest.param({"retry-after": "nan"}, None, id="not a number"),
    pytest.param({"retry-after": "inf"}, None, id="endless"),
    pytest.param({"retry-after": ""}, None, id="empty"),
    pytest.param({}, None, id="nothing said"),
]


@pytest.mark.parametrize(("headers", "wait_s"), WAITS)
def test_retry_after_is_understood(headers, wait_s):
    """Every form of Retry-After gives its seconds, and nonsense gives none."""
    assert retry_after_s(headers, now=NOON.timestamp()) == wait_s


NAMES = st.sampled_from(["retry-after", "retry-after-ms", "date"])
DATES = st.datetimes(timezones=st.just(UTC)).map(format_datetime)


@given(st.dictionaries(NAMES, st.text() | st.integers().map(str) | st.floats().map(str) | DATES))
def test_any_retry_after_is_a_wait_or_nothing(headers):
    """No header makes it raise, and a wait is a finite number of seconds from zero up."""
    wait_s = retry_after_s(headers, now=NOON.timestamp())

    assert wait_s is None or 0 <= wait_s < float("inf")


@given(
    base_s=st.floats(0, 100),
    cap_s=st.floats(0, 100),
    retry=st.integers(1, 10_000),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_backoff_stays_within_its_bounds(base_s, cap_s, retry, draw):
    """Full jitter lies between nothing and the capped exponential, which is the wait without jitter."""
    rules = RetryRules(base_s=base_s, cap_s=cap_s)
    ceiling = backoff_s(replace(rules, jitter=False), retry=retry, draw=draw)

    assert 0 <= backoff_s(rules, retry=retry, draw=draw) <= ceiling <= cap_s


def test_backoff_doubles_up_to_its_cap():
    """Without jitter the waits double from the base to the cap."""
    rules = RetryRules(base_s=0.5, cap_s=3.0, jitter=False)

    assert [backoff_s(rules, retry=n, draw=0.9) for n in (1, 2, 3, 4, 5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_quiet_clients_may_retry_up_to_the_floor():
    """Without recent calls there are as many retries as the floor, and new ones when the window has passed."""
    ratio = RetryRatio(ratio=0.2, floor=10, window_s=10.0)

    assert [ratio.allow(0.0) for _ in range(12)] == [True] * 10 + [False] * 2
    assert ratio.allow(10.5)


def test_busy_clients_may_retry_their_share():
    """Above the floor, retries are at most the ratio's share of the calls within the window."""
    ratio = RetryRatio(ratio=0.2, floor=10, window_s=10.0)
    for n in range(100):
        ratio.record_call(n / 100)

    assert sum(ratio.allow(1.0) for _ in range(50)) == 20
    assert sum(ratio.allow(11.5) for _ in range(50)) == 10


def test_calls_are_forgotten_with_the_window():
    """What is remembered of calls does not grow beyond the window."""
    ratio = RetryRatio(ratio=0.2, window_s=1.0)
    for n in range(10_000):
        ratio.record_call(n / 100)

    assert len(ratio._calls) <= 102


def an_error(category, **facts):
    """A failed call of that category."""
    return CallError("it failed", category=category, **facts)


DECISIONS = [
    pytest.param(an_error("rate_limited"), {}, RetryHere(wait_s=0.5), id="retriable: retry after a jittered wait"),
    pytest.param(an_error("rate_limited"), {"attempts": 2}, RetryHere(wait_s=1.0), id="the second wait is longer"),
    pytest.param(an_error("rate_limited"), {"attempts": 3}, GoOn(), id="attempts are used up"),
    pytest.param(an_error("unavailable"), {"left_s": 0.5}, GoOn(), id="the wait does not fit"),
    pytest.param(an_error("rate_limited", retry_after_s=3), {}, RetryHere(wait_s=3), id="as long as was asked"),
    pytest.param(an_error("rate_limited", retry_after_s=21), {}, GoOn(), id="asked to wait too long"),
    pytest.param(an_error("rate_limited", retry_after_s=9), {"left_s": 8.0}, GoOn(), id="asked for more than is left"),
    pytest.param(an_error("rate_limited", retry_after_s=0), {}, RetryHere(wait_s=0), id="asked to come back at once"),
    pytest.param(an_error("refused"), {}, GoOn(), id="refused: the next target"),
    pytest.param(an_error("not_found"), {}, GoOn(), id="not found: the next target"),
    pytest.param(an_error("context_length"), {}, GoOn(), id="too long: the next target"),
    pytest.param(an_error("unknown"), {}, GoOn(), id="unknown: the next target"),
    pytest.param(an_error("invalid_request"), {}, Stop(), id="an invalid request: stop"),
    pytest.param(an_error("content_policy"), {}, Stop(), id="content policy: stop"),
    pytest.param(
        an_error("content_policy"),
        {"fallback_on": frozenset({"content_policy"})},
        GoOn(),
        id="content policy with fallbacks of its own",
    ),
]


@pytest.mark.parametrize(("error", "progress", "decision"), DECISIONS)
def test_decision(error, progress, decision):
    """A failure's row, the attempts made and the time left decide what comes next."""
    where = Progress(**{"attempts": 1, "left_s": 60.0, "draw": 0.5, **progress})

    assert decide(error, RULES, where) == decision


@pytest.mark.parametrize("category", CATEGORIES)
def test_no_category_is_retried_for_ever(category):
    """Whatever keeps failing, a target is left after its attempts."""
    error = an_error(category)
    decisions = [decide(error, RULES, Progress(attempts=n, left_s=1e9, draw=0.0)) for n in range(1, 5)]

    assert not isinstance(decisions[-1], RetryHere)
    assert sum(isinstance(each, RetryHere) for each in decisions) in {0, 2}


def invalid(code, *, retriable=True):
    """A tool call that was found to be invalid."""
    verdict = Verdict(status="invalid", code=code, tool="get_weather", retriable=retriable)
    return ToolCallInvalidError("not valid", verdict=verdict, code=code)


BROKEN = StreamBrokenError("it broke")
NOTE = invalid("not_json").verdict.clarification()

RUNGS = [
    pytest.param(an_error("rate_limited"), UNCHANGED, Means(), UNCHANGED, id="nothing to mend: as before"),
    pytest.param(an_error("malformed"), UNCHANGED, Means(), UNCHANGED, id="malformed without a verdict: as before"),
    pytest.param(
        invalid("truncated_length"), UNCHANGED, Means(max_tokens=100), Change(max_tokens=200), id="cut: twice the cap"
    ),
    pytest.param(
        invalid("truncated_length"), UNCHANGED, Means(), Change(max_tokens=8192), id="cut without a cap: twice 4096"
    ),
    pytest.param(
        invalid("truncated_length"),
        UNCHANGED,
        Means(max_tokens=100, most_tokens=150),
        Change(max_tokens=150),
        id="cut: no more than the model writes",
    ),
    pytest.param(
        invalid("truncated_length", retriable=False),
        UNCHANGED,
        Means(max_tokens=100, most_tokens=100),
        None,
        id="cut at the model's own limit: nothing helps",
    ),
    pytest.param(
        invalid("truncated_length", retriable=False),
        Change(max_tokens=200),
        Means(max_tokens=200),
        None,
        id="cut again: the cap is raised once",
    ),
    pytest.param(invalid("not_json"), UNCHANGED, Means(), Change(notes=(NOTE,)), id="malformed: a clarification"),
    pytest.param(invalid("not_json"), Change(notes=(NOTE,)), Means(reask=1), None, id="malformed again: enough"),
    pytest.param(
        invalid("not_json"), Change(notes=(NOTE,)), Means(reask=2), Change(notes=(NOTE, NOTE)), id="as often as allowed"
    ),
    pytest.param(invalid("not_json"), UNCHANGED, Means(reask=0), None, id="asking again is off"),
    pytest.param(invalid("x", retriable=False), UNCHANGED, Means(), None, id="a verdict that no retry mends"),
    pytest.param(BROKEN, UNCHANGED, Means(), Change(breaks=1), id="broken: again"),
    pytest.param(
        BROKEN, Change(breaks=1), Means(), Change(breaks=2, streamed=False), id="broken twice: without streaming"
    ),
    pytest.param(BROKEN, Change(breaks=2, streamed=False), Means(), None, id="broken without streaming: enough"),
    pytest.param(
        BROKEN,
        UNCHANGED,
        Means(can_continue=True, text="half"),
        Change(prefix="half", breaks=1),
        id="broken: continued where the model can",
    ),
    pytest.param(
        BROKEN,
        Change(prefix="half", breaks=1),
        Means(can_continue=True, text=" more"),
        Change(prefix="half more", breaks=2),
        id="broken again: continued again",
    ),
    pytest.param(
        BROKEN, UNCHANGED, Means(can_continue=True, text=" \n"), Change(breaks=1), id="nothing to continue: again"
    ),
]


@pytest.mark.parametrize(("error", "change", "means", "rung"), RUNGS)
def test_rung(error, change, means, rung):
    """Each failure changes one thing before the same model is asked again, or says that nothing more would help."""
    assert climb(error, change, means) == rung


@given(
    st.lists(st.sampled_from([invalid("truncated_length"), invalid("not_json"), BROKEN]), min_size=12, max_size=12),
    st.integers(0, 3),
)
def test_ladder_ends(errors, reask):
    """Any sequence of malformed answers and broken streams runs out of rungs."""
    change, means = UNCHANGED, Means(reask=reask, max_tokens=100)
    rungs = 0
    while change is not None and rungs < len(errors):
        change = climb(errors[rungs], change, means)
        rungs += 1

    assert change is None
    assert rungs <= 4 + reask
