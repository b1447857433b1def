"""LiteLLM's policies by exception as tables, and what its cooldown settings mean for our breaker."""

import pytest

from blueprint_llm.config import load_config
from blueprint_llm.errors import CATEGORIES, CallError
from blueprint_llm.policy import Progress, RetryHere, RetryRules, breaker_rules, decide, retry_rules
from blueprint_llm.policy.per_exception import FAILS, NEVER, RETRIES, number_for

EVERY = {
    f"{name}Retries": number
    for number, name in enumerate(
        (
            *("AuthenticationError", "TimeoutError", "RateLimitError", "ContentPolicyViolationError"),
            *("BadRequestError", "InternalServerError", "ServiceUnavailableError", "BadGatewayError", "NotFoundError"),
            "Default",
        )
    )
}


def failure(category, status=None):
    """A failed call."""
    return CallError("no", category=category, status=status)


@pytest.mark.parametrize(
    ("category", "status", "name"),
    [
        pytest.param("refused", 401, "AuthenticationError", id="401"),
        pytest.param("refused", 403, "Default", id="403 has no name"),
        pytest.param("refused", 429, "RateLimitError", id="an account without money, sent as 429"),
        pytest.param("rate_limited", 429, "RateLimitError", id="429"),
        pytest.param("timeout", None, "TimeoutError", id="a timeout without a status"),
        pytest.param("content_policy", 400, "ContentPolicyViolationError", id="content before bad request"),
        pytest.param("context_length", 400, "BadRequestError", id="a full window"),
        pytest.param("invalid_request", 422, "BadRequestError", id="422"),
        pytest.param("unavailable", 500, "InternalServerError", id="500"),
        pytest.param("unavailable", 503, "ServiceUnavailableError", id="503"),
        pytest.param("unavailable", 502, "BadGatewayError", id="502"),
        pytest.param("unavailable", None, "InternalServerError", id="no connection"),
        pytest.param("not_found", 404, "NotFoundError", id="404"),
        pytest.param("malformed", None, "Default", id="ours alone"),
    ],
)
def test_a_policy_names_exceptions_as_litellm_does(category, status, name):
    """Each failure is looked up under LiteLLM's name of its exception, the most specific first."""
    assert number_for(EVERY, failure(category, status), RETRIES) == EVERY[f"{name}Retries"]


def test_a_policy_that_does_not_name_it_says_nothing():
    """Without its name and without a default there is no number; a more general name is taken."""
    assert number_for({"TimeoutErrorRetries": 3}, failure("rate_limited", 429), RETRIES) is None
    assert number_for({"BadRequestErrorRetries": 3}, failure("content_policy", 400), RETRIES) == 3
    assert number_for({"RateLimitErrorRetries": 3}, failure("rate_limited", 429), FAILS) is None


def test_the_groups_policy_stands_in_place_of_the_general_one():
    """A group with a policy of its own takes nothing from the general one."""
    settings = {
        "retry_policy": {"RateLimitErrorRetries": 5, "TimeoutErrorRetries": 4},
        "model_group_retry_policy": {"a": {"RateLimitErrorRetries": 0}},
    }
    config, base = load_config({"router_settings": settings}), RetryRules(max_attempts=3)

    def attempts(group, category):
        rules = retry_rules(config, base, group, failure(category))
        return rules.max_attempts, rules.insist

    assert attempts("a", "rate_limited") == (1, False)
    assert attempts("a", "timeout") == (3, False)
    assert attempts("b", "rate_limited") == (6, True)
    assert attempts(None, "timeout") == (5, True)


def test_our_retry_block_wins_over_the_policies():
    """`blueprint.retry` decides alone."""
    raw = {"router_settings": {"retry_policy": {"DefaultRetries": 9}}, "blueprint": {"retry": {"max_attempts": 2}}}
    base = RetryRules(max_attempts=2)

    assert retry_rules(load_config(raw), base, "a", failure("timeout")) == base


@pytest.mark.parametrize(
    ("settings", "failures", "open_s"),
    [
        pytest.param({}, 3, 10, id="nothing said"),
        pytest.param({"allowed_fails": 0}, 1, 10, id="no failure allowed"),
        pytest.param({"allowed_fails": -1}, 1, 10, id="less than none"),
        pytest.param({"allowed_fails": 4, "cooldown_time": 60}, 5, 60, id="both"),
        pytest.param({"cooldown_time": 60}, 3, 60, id="time alone"),
        pytest.param({"allowed_fails_policy": {"RateLimitErrorAllowedFails": 7}}, 8, 10, id="by exception"),
        pytest.param({"allowed_fails_policy": {"TimeoutErrorAllowedFails": 7}}, 3, 10, id="by another exception"),
        pytest.param({"allowed_fails": 1, "disable_cooldowns": True}, NEVER, 10, id="switched off"),
    ],
)
def test_cooldowns_set_the_breaker(settings, failures, open_s):
    """`allowed_fails` failures are allowed, the next one opens the breaker for `cooldown_time`."""
    rules = breaker_rules(load_config({"router_settings": settings}), {}, failure("rate_limited", 429))

    assert (rules.failures, rules.open_s) == (failures, open_s)


def test_our_breaker_block_wins_over_cooldowns():
    """With `blueprint.breaker` LiteLLM's cooldown settings say nothing; a deployment's own time wins over theirs."""
    settings = {"allowed_fails": 0, "cooldown_time": 60}
    ours = load_config({"router_settings": settings, "blueprint": {"breaker": {"failures": 9}}})

    assert breaker_rules(ours, {}, None).failures == 9
    assert breaker_rules(load_config({"router_settings": settings}), {"cooldown_time": 5}, None).open_s == 5


def test_every_category_can_be_looked_up():
    """No category makes a policy stumble."""
    assert all(number_for(EVERY, failure(name), RETRIES) is not None for name in CATEGORIES)


@pytest.mark.parametrize("asked_s", [None, 0.5])
def test_a_wait_is_at_least_retry_after(asked_s):
    """LiteLLM's `retry_after` is the least wait, whatever was drawn or the provider asks for."""
    error = CallError("no", category="rate_limited", retry_after_s=asked_s)
    progress = Progress(attempts=1, left_s=60, draw=0.0)

    assert decide(error, RetryRules(min_s=3), progress) == RetryHere(wait_s=3)
    assert decide(error, RetryRules(), progress) == RetryHere(wait_s=asked_s or 0)
