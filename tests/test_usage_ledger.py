from dataclasses import replace
from datetime import date

import pytest

from blueprint_llm import models
from blueprint_llm.config.blocks import Budget, Pricing, ProviderConfig, Quota, StoreConfig
from blueprint_llm.config.model import Config, Deployment
from blueprint_llm.errors import BudgetExceededError, ConfigError, QuotaExceededError
from blueprint_llm.models import ModelFacts
from blueprint_llm.types import UsageFilter, UsageInfo
from blueprint_llm.usage import Estimate, Ledger, Outcome, Payer, denial, standing, tokens_of
from blueprint_llm.usage.pricing import PriceCard, Prices, Tokens
from blueprint_llm.usage.stores import MemoryStore
from blueprint_llm.usage.stores.ops import Aggregate, Rows

GPT = Prices().price("cloud", "openai/gpt-4o", at=date(2026, 1, 1))  # 2.5 / 10 USD per Mtok
PAYER = Payer(
    call_id="c", provider="cloud", model="openai/gpt-4o", session="s", project="acme", group="gpt", deployment="d1",
    litellm_provider="openai",
)  # fmt: skip


def ledger(**settings):
    """A ledger over a configuration of these settings."""
    return Ledger(Config(**settings))


def estimate(card=GPT, usd=5000, **changes):
    """An estimate of 100 tokens in and 200 out."""
    return Estimate(**{"input_tokens": 100, "output_tokens": 200, "usd": usd, "card": card, **changes})


def taken(book, payer=PAYER):
    """(Subject, kind, window, limit) of every charge."""
    return [(item.subject, item.kind, item.window, item.limit) for item in book.charges(payer, estimate())]


@pytest.mark.parametrize(
    ("scope", "window", "subject", "counted"),
    [
        pytest.param("call", "day", "call:c", "call", id="call"),
        pytest.param("session", "day", "session:s", "day", id="session by day"),
        pytest.param("session", "session", "session:s", "session", id="session for its life"),
        pytest.param("project", "month", "project:acme", "month", id="project"),
        pytest.param("project", "session", "project:acme session:s", "session", id="project within a session"),
        pytest.param("global", "60s", "global", "60s", id="global"),
        pytest.param("provider:cloud", "day", "provider:cloud", "day", id="provider"),
        pytest.param("model:openai/gpt-4o", "day", "model:openai/gpt-4o", "day", id="model id"),
        pytest.param("model:gpt-4o", "day", "model:gpt-4o", "day", id="model without its provider"),
        pytest.param("model:gpt", "day", "model:gpt", "day", id="model group"),
    ],
)
def test_scope_names_who_is_counted(scope, window, subject, counted):
    """Every scope counts the subject it speaks of, in its window."""
    book = ledger(budgets=[Budget(scope=scope, limit_usd=1.5, window=window)])

    assert taken(book) == [(subject, "usd", counted, 1_500_000_000)]


@pytest.mark.parametrize("scope", ["provider:other", "model:other"])
def test_other_targets_limits_do_not_count(scope):
    """A limit on another provider or model leaves the attempt alone."""
    assert taken(ledger(budgets=[Budget(scope=scope, limit_usd=1)])) == []


def test_project_defaults_to_the_configuration():
    """A request without a project is on the configuration's account."""
    book = ledger(project="ours", budgets=[Budget(scope="project", limit_usd=1)])

    assert taken(book, PAYER._replace(project=None))[0][0] == "project:ours"
    assert book.reserve("1", PAYER._replace(project=None), estimate()).op.row.project == "ours"


def test_quota_charges_requests_and_tokens():
    """A quota takes one request, and the whole prompt and output cap in tokens."""
    book = ledger(quotas=[Quota(scope="global", requests=5, tokens=1000, window="60s")])

    assert [(item.kind, item.amount) for item in book.charges(PAYER, estimate())] == [("requests", 1), ("tokens", 300)]


def test_thresholds_are_amounts():
    """warn_at becomes ascending nano-USD amounts, exactly as written."""
    book = ledger(budgets=[Budget(scope="global", limit_usd=0.1, warn_at=[0.8, 0.5, 0])])

    assert book.charges(PAYER, estimate())[0].warn_at == (1, 50_000_000, 80_000_000)


LITELLM = {
    "model_groups": {
        "gpt": [
            Deployment(group="gpt", model="openai/gpt-4o", id="d1", params={"rpm": "6", "tpm": 90000}),
            Deployment(
                group="gpt", model="azure/gpt-4o", id="d2", params={"max_budget": 0.5, "budget_duration": "30d"}
            ),
            Deployment(group="gpt", model="azure/gpt-4o", id="d3", info={"max_budget": "2"}),
            Deployment(group="gpt", model="azure/gpt-4o", id="d4", params={"max_budget": 1, "budget_duration": "1mo"}),
        ]
    },
    "providers": {"cloud": ProviderConfig(model="gpt", rpm=7)},
    "router_settings": {
        "provider_budget_config": {
            "openai": {"budget_limit": 0.3, "time_period": "1d"},
            "azure": {"max_budget": 4, "budget_duration": "12h", "rpm_limit": 9},
        }
    },
    "litellm_settings": {"max_budget": 100},
}


@pytest.mark.parametrize(
    ("deployment", "provider", "expected"),
    [
        (
            "d1",
            "openai",
            [
                ("global", "usd", "ever", 100_000_000_000),
                ("provider:cloud", "requests", "minute", 7),
                ("deployment:d1", "requests", "minute", 6),
                ("deployment:d1", "tokens", "minute", 90000),
                ("litellm_provider:openai", "usd", "86400s", 300_000_000),
            ],
        ),
        (
            "d2",
            "azure",
            [
                ("global", "usd", "ever", 100_000_000_000),
                ("provider:cloud", "requests", "minute", 7),
                ("deployment:d2", "usd", "2592000s", 500_000_000),
                ("litellm_provider:azure", "requests", "minute", 9),
                ("litellm_provider:azure", "usd", "43200s", 4_000_000_000),
            ],
        ),
    ],
)
def test_litellm_limits_are_kept(deployment, provider, expected):
    """rpm, tpm, max_budget, budget_duration and provider_budget_config limit what LiteLLM says they limit."""
    payer = PAYER._replace(deployment=deployment, litellm_provider=provider)

    assert taken(Ledger(Config(**LITELLM)), payer) == expected


@pytest.mark.parametrize(("deployment", "window"), [("d3", "ever"), ("d4", "month")])
def test_litellm_budget_durations(deployment, window):
    """A budget without a duration never resets; one of a month follows the calendar."""
    found = taken(Ledger(Config(**LITELLM)), PAYER._replace(deployment=deployment, litellm_provider=""))

    assert found[-1][:3] == (f"deployment:{deployment}", "usd", window)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_budget": "much"}, "litellm_settings.max_budget: 'much' is no number"),
        ({"max_budget": 1, "budget_duration": "soon"}, "'soon' is no duration"),
    ],
)
def test_nonsense_limit_is_a_configuration_error(settings, said):
    """A limit that cannot be read is an error, not a limit that is not there."""
    with pytest.raises(ConfigError, match=said):
        ledger(litellm_settings=settings)


def test_price_brings_limits():
    """The requests and tokens a minute of a contract count for its model."""
    card = PriceCard(base=GPT.base, rpm=3, tpm=400)

    found = ledger().charges(PAYER, estimate(card=card))

    assert [(item.subject, item.kind, item.limit) for item in found] == [
        ("model:openai/gpt-4o", "requests", 3),
        ("model:openai/gpt-4o", "tokens", 400),
    ]


@pytest.mark.parametrize(
    ("limits", "facts", "max_tokens", "bound", "send"),
    [
        pytest.param({}, ModelFacts(max_output_tokens=500), None, 500, None, id="no limit: as written"),
        pytest.param({"requests": 1}, None, None, 4096, None, id="requests alone: as written"),
        pytest.param({"tokens": 20_000}, ModelFacts(max_output_tokens=500), None, 500, 500, id="model's most"),
        pytest.param({"tokens": 20_000}, None, None, 4096, 4096, id="unknown model"),
        pytest.param(
            {"tokens": 20_000},
            ModelFacts(max_output_tokens=9000, max_input_tokens=9000),
            None,
            4096,
            4096,
            id="shared window",
        ),
        pytest.param(
            {"tokens": 20_000},
            ModelFacts(max_output_tokens=90, max_input_tokens=90),
            None,
            90,
            90,
            id="small shared window",
        ),
        pytest.param({"tokens": 9}, None, None, 4, 4, id="half of a small limit: the prompt fits beside it"),
        pytest.param({"tokens": 20_000}, ModelFacts(max_output_tokens=500), 7, 7, None, id="caller's own"),
    ],
)
def test_output_cap(limits, facts, max_tokens, bound, send):
    """A cap is sent only when money or tokens are limited and the caller gave none."""
    book = ledger(quotas=[Quota(scope="global", **limits)] if limits else [])

    cap = book.cap(PAYER, max_tokens=max_tokens, facts=facts, card=GPT)

    assert (cap.bound, cap.send) == (bound, send)


def test_budget_sends_a_cap():
    """Under a USD budget too."""
    book = ledger(budgets=[Budget(scope="project", limit_usd=1)])

    assert book.cap(PAYER, max_tokens=None, facts=models.info("openai/gpt-4o"), card=GPT).send == 16384


def test_estimate_is_the_worst_case():
    """Input and every answer's cap at the worst rates."""
    found = ledger().estimate(GPT, input_tokens=1000, output_tokens=100, answers=3)

    assert (found.usd, found.output_tokens) == (1000 * 2500 + 300 * 10000, 300)


@pytest.mark.parametrize(
    ("unknown", "usd", "blocked", "cost"),
    [("block", None, True, None), ("warn", None, False, None), ("assume_zero", 0, False, 0)],
)
def test_unknown_price_is_a_policy(unknown, usd, blocked, cost):
    """Under a USD budget an unknown price blocks, warns or counts as zero, as configured; it is never a silent zero."""
    book = ledger(pricing=Pricing(unknown=unknown), budgets=[Budget(scope="project", limit_usd=1)])

    guess = book.estimate(None, input_tokens=10, output_tokens=10)

    assert guess.usd == usd
    assert bool(book.unpriced(PAYER, guess)) is blocked
    settled = book.settle(book.reserve("1", PAYER, guess), Outcome(tokens=Tokens(prompt=1)))
    assert (settled.row.cost_nano, settled.charges[0].amount) == (cost, 0)


def test_unknown_price_without_a_budget_is_no_obstacle():
    """Where no USD budget applies an unknown price is only unknown."""
    book = ledger(quotas=[Quota(scope="global", tokens=1)])

    assert book.unpriced(PAYER, book.estimate(None, input_tokens=1, output_tokens=1)) is None


def test_expiry_row_is_the_estimate():
    """What a store writes when nobody settles: the worst case, estimated, maybe billed."""
    row = ledger().reserve("c-1", PAYER, estimate(), attempt=2, trace="t").op.row

    assert (row.id, row.call_id, row.attempt, row.trace_id) == ("c-1", "c", 2, "t")
    assert (row.prompt_tokens, row.completion_tokens, row.cost_nano) == (100, 200, 5000)
    assert (row.category, row.usage_source, row.maybe_billed) == ("expired", "estimated", True)
    assert row.price_version == GPT.version


@pytest.mark.parametrize(
    ("outcome", "usd", "requests", "tokens"),
    [
        pytest.param(Outcome(tokens=Tokens(prompt=10, completion=20)), 225_000, 1, 30, id="answered"),
        pytest.param(Outcome(category="rate_limited"), 0, 1, 0, id="refused by the provider"),
        pytest.param(Outcome(category="unavailable", sent=False), 0, 0, 0, id="never sent"),
        pytest.param(
            Outcome(category="timeout", tokens=Tokens(prompt=10), maybe_billed=True), 25_000, 1, 10, id="cut off"
        ),
    ],
)
def test_settling_takes_what_was_true(outcome, usd, requests, tokens):
    """An answer costs its usage, a refusal nothing, a cut what was seen."""
    book = ledger(
        budgets=[Budget(scope="global", limit_usd=1)], quotas=[Quota(scope="global", requests=9, tokens=1000)]
    )

    settle = book.settle(book.reserve("1", PAYER, estimate()), outcome)

    assert [(item.kind, item.amount) for item in settle.charges] == [
        ("usd", usd),
        ("requests", requests),
        ("tokens", tokens),
    ]
    assert (settle.row.cost_nano, settle.row.category, settle.row.maybe_billed) == (
        usd,
        outcome.category,
        outcome.maybe_billed,
    )


def test_price_by_time_counts_the_seconds():
    """A machine that is paid by the second is settled by the call's latency and reserved by its longest time."""
    card = PriceCard(base=replace(GPT.base, input=0, output=0, cache_read=0, cache_write_5m=0, cache_write_1h=0, reasoning=0), per_second=10**15)  # fmt: skip # noqa: E501 - one free token price
    book = ledger()

    guess = book.estimate(card, input_tokens=1, output_tokens=1, seconds=30)
    settle = book.settle(book.reserve("1", PAYER, guess), Outcome(tokens=Tokens(), latency_s=2.5))

    assert (guess.usd, settle.row.cost_nano) == (30_000_000, 2_500_000)


def test_reservation_lives_past_the_deadline():
    """A reservation's time to live is the deadline and ten seconds, unless the configuration says otherwise."""
    beat = ledger().reserve("1", PAYER, estimate()).heartbeat()

    assert (beat.id, beat.ttl_s) == ("1", 130)
    assert ledger(store=StoreConfig(reservation_ttl_s=5)).ttl_s == 5


def test_denials_are_errors_with_their_facts():
    """A refused budget and a refused quota raise their own errors with scope, limit, use and reset time."""
    book = ledger(budgets=[Budget(scope="project", limit_usd=0.00001, window="day")])
    store = MemoryStore(clock=lambda: 100_000.0)
    assert store.execute(book.reserve("1", PAYER, estimate()).op).ok
    level = store.execute(book.reserve("2", PAYER, estimate(usd=6000)).op).denied

    error = denial(level)

    assert isinstance(error, BudgetExceededError)
    assert (error.scope, error.limit_usd, error.used_usd, error.resets_at) == ("project", 0.00001, 0.000005, 172800)
    quota = denial(replace(level, charge=level.charge._replace(kind="requests", limit=3), used=3))
    assert isinstance(quota, QuotaExceededError)
    assert (quota.kind, quota.limit, quota.used) == ("requests", 3, 3)
    assert standing(level) == {
        "scope": "project", "kind": "usd", "window": "day", "limit": 0.00001, "used": 0.000005, "share": 0.5,
        "resets_at": 172800,
    }  # fmt: skip
    assert replace(level, charge=level.charge._replace(limit=0)).share == 1.0
    store.close()


def test_whole_way_of_two_attempts():
    """A call that fails once and is answered then is one call, one error and the cost of the answer."""
    book, store = ledger(budgets=[Budget(scope="project", limit_usd=1)]), MemoryStore()
    for n, outcome in enumerate([Outcome(category="timeout"), Outcome(tokens=Tokens(prompt=100, completion=10))], 1):
        reservation = book.reserve(f"c-{n}", PAYER, estimate(), attempt=n)
        store.execute(reservation.op)
        store.execute(book.settle(reservation, outcome))

    stats = store.execute(Aggregate(where=UsageFilter(project="acme")))

    assert (stats.calls, stats.errors, stats.cost_usd) == (1, 1, 0.00035)
    assert [row.attempt for row in store.execute(Rows(where=UsageFilter()))] == [2, 1]
    store.close()


def test_provider_usage_is_translated():
    """A UsageInfo becomes the price list's tokens."""
    usage = UsageInfo(
        prompt_tokens=9, completion_tokens=5, cached_tokens=3, reasoning_tokens=2, cache_write_tokens=4, total_tokens=14
    )

    assert tokens_of(usage) == Tokens(prompt=9, completion=5, cached=3, cache_write_5m=4, reasoning=2)
