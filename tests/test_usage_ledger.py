import asyncio
from datetime import date

import pytest

from blueprint_llm import models
from blueprint_llm.config.blocks import Budget, Pricing, ProviderConfig, Quota, StoreConfig
from blueprint_llm.config.model import Config
from blueprint_llm.errors import BudgetExceededError, ConfigError, QuotaExceededError
from blueprint_llm.models import ModelFacts
from blueprint_llm.types import UsageFilter, UsageInfo
from blueprint_llm.usage import Demand, Estimate, Ledger, Outcome, Payer, demand, denial, standing
from blueprint_llm.usage.ledger import of_attempt
from blueprint_llm.usage.pricing import PriceCard, Prices
from blueprint_llm.usage.pricing.card import PARTS
from blueprint_llm.usage.stores import MemoryStore
from blueprint_llm.usage.stores.breaker import BreakerReport

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
    assert book.reservation("1", PAYER._replace(project=None), estimate()).row.project == "ours"


def test_quota_charges_requests_and_tokens():
    """A quota takes one request, and the whole prompt and output cap in tokens."""
    book = ledger(quotas=[Quota(scope="global", requests=5, tokens=1000, window="60s")])

    assert [(item.kind, item.amount) for item in book.charges(PAYER, estimate())] == [("requests", 1), ("tokens", 300)]


def test_thresholds_are_amounts():
    """warn_at becomes ascending nano-USD amounts, exactly as written."""
    book = ledger(budgets=[Budget(scope="global", limit_usd=0.1, warn_at=[0.8, 0.5, 0])])

    assert book.charges(PAYER, estimate())[0].warn_at == (1, 50_000_000, 80_000_000)


# What LiteLLM's Router says with each attempt of the deployment that it has chosen.
DEPLOYMENTS = {
    "d1": {"rpm": "6", "tpm": 90000},
    "d2": {"max_budget": 0.5, "budget_duration": "30d"},
    "d3": {"max_budget": "2"},
    "d4": {"max_budget": 1, "budget_duration": "1mo"},
}
LITELLM = {
    "providers": {"cloud": ProviderConfig(model="gpt", rpm=7)},
    "router_settings": {
        "provider_budget_config": {
            "openai": {"budget_limit": 0.3, "time_period": "1d"},
            "azure": {"max_budget": 4, "budget_duration": "12h", "rpm_limit": 9, "tpm_limit": 90},
        }
    },
    "litellm_settings": {"max_budget": 100},
}


def attempt_at(deployment, provider):
    """Who pays for an attempt at a deployment."""
    limits = of_attempt(deployment, DEPLOYMENTS[deployment])
    return PAYER._replace(deployment=deployment, litellm_provider=provider, own=limits)


@pytest.mark.parametrize(
    ("deployment", "provider", "expected"),
    [
        (
            "d1",
            "openai",
            [
                ("global", "usd", "ever", 100_000_000_000),
                ("provider:cloud", "requests", "minute", 7),
                ("litellm_provider:openai", "usd", "86400s", 300_000_000),
                ("deployment:d1", "requests", "minute", 6),
                ("deployment:d1", "tokens", "minute", 90000),
            ],
        ),
        (
            "d2",
            "azure",
            [
                ("global", "usd", "ever", 100_000_000_000),
                ("provider:cloud", "requests", "minute", 7),
                ("litellm_provider:azure", "requests", "minute", 9),
                ("litellm_provider:azure", "tokens", "minute", 90),
                ("litellm_provider:azure", "usd", "43200s", 4_000_000_000),
                ("deployment:d2", "usd", "2592000s", 500_000_000),
            ],
        ),
    ],
)
def test_litellm_limits_are_kept(deployment, provider, expected):
    """rpm, tpm, max_budget, budget_duration and provider_budget_config limit what LiteLLM says they limit, once."""
    assert taken(Ledger(Config(**LITELLM)), attempt_at(deployment, provider)) == expected


@pytest.mark.parametrize(("deployment", "window"), [("d3", "ever"), ("d4", "month")])
def test_litellm_budget_durations(deployment, window):
    """A budget without a duration never resets; one of a month follows the calendar."""
    found = taken(Ledger(Config(**LITELLM)), attempt_at(deployment, ""))

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
    card = PriceCard(rates=GPT.rates, rpm=3, tpm=400)

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


def test_budget_buys_the_answer_with_half_of_its_limit():
    """A limit that the model's longest answer would exceed lets a shorter one through; a tiny one refuses."""
    facts = models.info("openai/gpt-audio")
    card = Prices().price("cloud", "openai/gpt-audio", at=date(2026, 1, 1))

    def send(usd, **budget):
        book = ledger(budgets=[Budget(scope="project", limit_usd=usd, **budget)])
        return book.cap(PAYER, max_tokens=None, facts=facts, card=card, asked=Demand(speaks=True)).send

    assert send(1) == 0.5 / 64e-6 // 1
    assert send(100) == 16384
    assert send(0.001) == 256
    assert send(1, on_exceed="warn") == 16384


def test_estimate_is_the_worst_case():
    """Input and every answer's cap at the worst rates of the tier asked for."""
    found = ledger().estimate(GPT, asked=Demand(text_tokens=1000, answers=3, tier="default"), output_tokens=100)

    assert (found.usd, found.output_tokens) == (1000 * 2500 + 300 * 10000, 300)


@pytest.mark.parametrize(
    ("unknown", "usd", "blocked"), [("block", None, True), ("warn", None, False), ("assume_zero", 0, False)]
)
def test_unknown_price_is_a_policy(unknown, usd, blocked):
    """Under a USD budget an unknown price blocks, warns or reserves nothing, as configured; the cost stays unknown."""
    book = ledger(pricing=Pricing(unknown=unknown), budgets=[Budget(scope="project", limit_usd=1)])

    guess = book.estimate(None, output_tokens=10, asked=Demand(text_tokens=10))

    assert guess.usd == usd
    assert bool(book.unpriced(PAYER, guess)) is blocked
    done = book.settlement(book.reservation("1", PAYER, guess), Outcome(usage=UsageInfo(prompt_tokens=1)))
    assert (done.row.cost_nano, done.charges[0].amount) == (None, 0)


def test_cost_that_a_provider_states_counts_for_a_model_nobody_knows():
    """OpenRouter's `usage.cost` is charged to the budget though no price was known before."""
    book = ledger(pricing=Pricing(unknown="assume_zero"), budgets=[Budget(scope="project", limit_usd=1)])
    reservation = book.reservation("1", PAYER, book.estimate(None, output_tokens=10, asked=Demand(text_tokens=10)))

    done = book.settlement(reservation, Outcome(usage=UsageInfo(prompt_tokens=1), cost_usd=0.0423))

    assert (done.row.cost_nano, done.charges[0].amount) == (42_300_000, 42_300_000)


def test_unknown_price_without_a_budget_is_no_obstacle():
    """Where no USD budget applies an unknown price is only unknown."""
    book = ledger(quotas=[Quota(scope="global", tokens=1)])

    assert book.unpriced(PAYER, book.estimate(None, output_tokens=1, asked=Demand(text_tokens=1))) is None


def test_expiry_row_is_the_estimate():
    """What a store writes when nobody settles: the worst case, estimated, maybe billed."""
    reservation = ledger().reservation("c-1", PAYER, estimate(), target="t", probes=2, attempt=2)
    row = reservation.row

    assert (row.id, row.call_id, row.attempt, row.trace_id) == ("c-1", "c", 2, "c")
    assert (row.prompt_tokens, row.completion_tokens, row.cost_nano) == (100, 200, 5000)
    assert (row.category, row.usage_source, row.maybe_billed) == ("expired", "estimated", True)
    assert row.price_version == GPT.version
    assert (reservation.target, reservation.probes) == ("t", 2)


SEEN = UsageInfo(prompt_tokens=10, completion_tokens=20, cached_tokens=3, reasoning_tokens=2, cache_write_tokens=4)


@pytest.mark.parametrize(
    ("outcome", "row_nano", "usd", "requests", "tokens"),
    [
        pytest.param(Outcome(usage=SEEN, cost_usd=0.000225), 225_000, 225_000, 1, 30, id="answered"),
        pytest.param(Outcome(usage=SEEN), None, 5000, 1, 30, id="answered at an unknown cost: the estimate stays"),
        pytest.param(Outcome(), None, 5000, 1, 0, id="an answer without tokens or price: the estimate stays"),
        pytest.param(Outcome(cost_usd=0.04), 40_000_000, 40_000_000, 1, 0, id="a picture that costs so much"),
        pytest.param(Outcome(category="rate_limited"), 0, 0, 1, 0, id="refused by the provider"),
        pytest.param(
            Outcome(category="timeout", usage=UsageInfo(prompt_tokens=10), cost_usd=0.000025, maybe_billed=True),
            25_000, 25_000, 1, 10, id="cut off",
        ),
        pytest.param(Outcome(category="timeout", maybe_billed=True), None, 5000, 1, 0, id="cut off, nothing seen"),
    ],
)  # fmt: skip
def test_settling_takes_what_was_true(outcome, row_nano, usd, requests, tokens):
    """An answer costs what its caller says, a refusal nothing; what is unknown stays at what was reserved."""
    book = ledger(
        budgets=[Budget(scope="global", limit_usd=1)], quotas=[Quota(scope="global", requests=9, tokens=1000)]
    )

    done = book.settlement(book.reservation("1", PAYER, estimate()), outcome, BreakerReport("t", ok=True))

    assert [(item.kind, item.amount) for item in done.charges] == [
        ("usd", usd),
        ("requests", requests),
        ("tokens", tokens),
    ]
    assert (done.row.cost_nano, done.row.category, done.row.maybe_billed) == (
        row_nano,
        outcome.category,
        outcome.maybe_billed,
    )
    assert done.report == BreakerReport("t", ok=True)


def test_usage_goes_into_the_row():
    """Every count of an answer's usage, and who counted, stands in its row."""
    row = ledger().settlement(ledger().reservation("1", PAYER, estimate()), Outcome(usage=SEEN)).row

    assert (row.prompt_tokens, row.completion_tokens, row.cached_tokens) == (10, 20, 3)
    assert (row.reasoning_tokens, row.cache_write_tokens, row.usage_source) == (2, 4, "provider")


def test_price_by_time_reserves_the_longest_time():
    """A machine that is paid by the second is reserved for the longest time that the call may take."""
    card = PriceCard(rates=((0, dict.fromkeys(PARTS, 0)),), per_second=10**15)

    guess = ledger().estimate(card, output_tokens=1, asked=Demand(text_tokens=1), seconds=30)

    assert guess.usd == 30_000_000


def test_reservation_lives_past_the_deadline():
    """A reservation's time to live is the deadline and ten seconds, unless the configuration says otherwise."""
    config = Config()

    assert Ledger(config).reservation("1", PAYER, estimate()).ttl_s == config.deadline.total_s + 10
    assert ledger(store=StoreConfig(reservation_ttl_s=5)).ttl_s == 5


async def test_denials_are_errors_with_their_facts():
    """A refused budget and a refused quota raise their own errors with scope, limit, use and reset time."""
    book = ledger(budgets=[Budget(scope="project", limit_usd=0.00001, window="day")])
    store = MemoryStore(clock=lambda: 100_000.0)
    assert (await store.reserve(book.reservation("1", PAYER, estimate()))).ok
    level = (await store.reserve(book.reservation("2", PAYER, estimate(usd=6000)))).denied

    error = denial(level)

    assert isinstance(error, BudgetExceededError)
    assert (error.scope, error.limit_usd, error.used_usd, error.resets_at) == ("project", 0.00001, 0.000005, 172800)
    quota = denial(level._replace(charge=level.charge._replace(kind="requests", limit=3), used=3))
    assert isinstance(quota, QuotaExceededError)
    assert (quota.kind, quota.limit, quota.used) == ("requests", 3, 3)
    assert standing(level) == {
        "scope": "project", "kind": "usd", "window": "day", "limit": 0.00001, "used": 0.000005, "share": 0.5,
        "resets_at": 172800,
    }  # fmt: skip
    assert level._replace(charge=level.charge._replace(limit=0)).share == 1.0


async def test_whole_way_of_two_attempts():
    """A call that fails once and is answered then is one call, one error and the cost of the answer."""
    book, store = ledger(budgets=[Budget(scope="project", limit_usd=1)]), MemoryStore()
    for n, outcome in enumerate([Outcome(category="timeout"), Outcome(usage=SEEN, cost_usd=0.00035)], 1):
        reservation = book.reservation(f"c-{n}", PAYER, estimate(), attempt=n)
        await store.reserve(reservation)
        await store.settle(book.settlement(reservation, outcome))

    stats = await store.usage(UsageFilter(project="acme"))

    assert (stats.calls, stats.errors, stats.cost_usd, stats.unpriced) == (1, 1, 0.00035, 0)
    assert [row.attempt for row in await store.rows(UsageFilter())] == [2, 1]


@pytest.mark.parametrize("at_once", [1, 50])
@pytest.mark.parametrize("max_tokens", [None, 2000])
async def test_a_budget_of_a_dollar_lets_a_dollar_of_sound_through(at_once, max_tokens):
    """Calls whose sound costs 0.43965 each, one after another or at once: some go, and never more than the budget."""
    model = "openai/gpt-audio"
    card, facts = Prices().price("cloud", model, at=date(2026, 1, 1)), models.info(model)
    sound = {"type": "input_audio", "input_audio": {"data": "A" * 198_000, "format": "mp3"}}  # 9,900 tokens at most
    asked = demand({"messages": [{"role": "user", "content": [sound]}], "modalities": ["text", "audio"]})
    book, store = ledger(budgets=[Budget(scope="project", limit_usd=1)]), MemoryStore()

    async def call(name):
        cap = book.cap(PAYER, max_tokens=max_tokens, facts=facts, card=card, asked=asked)
        guess = book.estimate(card, asked=asked, output_tokens=cap.bound)
        reservation = book.reservation(name, PAYER, guess)
        if not (await store.reserve(reservation)).ok:
            return 0
        await asyncio.sleep(0)
        assert guess.usd >= 439_650_000
        await store.settle(book.settlement(reservation, Outcome(usage=SEEN, cost_usd=0.43965)))
        return 1

    went = 0
    for n in range(4):
        went += sum(await asyncio.gather(*(call(f"{n}-{k}") for k in range(at_once))))

    (level,) = await store.levels(book.charges(PAYER, estimate(usd=0)))
    assert level.spent == went * 439_650_000
    assert went in {1, 2}
