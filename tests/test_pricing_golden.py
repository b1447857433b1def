"""Costs worked out by hand from published prices, to the nano-USD."""

from datetime import date
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blueprint_llm.config.blocks import Pricing
from blueprint_llm.types import UsageInfo
from blueprint_llm.usage.money import atto
from blueprint_llm.usage.pricing import PriceCard, Prices, cost, worst_cost
from blueprint_llm.usage.pricing.card import PARTS, tokens_of

DAY = date(2026, 6, 15)
CONTRACT = """
- match: {model: negotiated, provider: acme}
  prices_per_mtok: {input: 2.5, output: 10, cache_read: 1.25}
  multiply: {all: 0.85, output: 0.8}
  effective_from: 2026-01-01
  effective_to: 2026-07-01
  source: contract
- match: {model: negotiated, provider: acme}
  prices_per_mtok: {input: 3, output: 12}
  effective_from: 2026-07-01
  source: contract, second half
- {match: {model: "gpt-4o"}, extends: litellm, multiply: {all: 0.9}, source: reseller}
- {match: {model: "gpt-4o", tags: [eu]}, extends: litellm, multiply: {all: 1.1}, source: reseller}
- {match: {model: "vertex_ai/gemini-2.5-pro"}, extends: litellm, prices_per_mtok: {output: 8}, source: reseller}
- {match: {model: "tiny"}, prices_per_mtok: {input: 0.0075, output: 0.0015}, source: below a nano-USD a token}
- match: {model: "tiered"}
  prices_per_mtok: {input: 1, output: 4, cache_read: 0.1, reasoning: 6}
  tiers:
    - {above_input_tokens: 128000, input: 2}
    - {above_input_tokens: 200000, input: 3, output: 8, cache_read: 0.3}
  source: two steps
- {match: {model: "rack/*"}, per_second_usd: 0.0004, source: power and wear}
- {match: {model: "both"}, prices_per_mtok: {input: 1, output: 1}, per_second_usd: 0.001, source: tokens and time}
- {match: {model: "ours/*"}, free: true, source: own machine}
"""
SONNET = "anthropic/claude-sonnet-4-5"  # 3 / 15, read 0.3, write 3.75 (5m) and 6 (1h) per Mtok
OPUS = "anthropic/claude-opus-4-5"  # 5 / 25, read 0.5, write 6.25 and 10
GEMINI = "gemini/gemini-2.5-pro"  # 1.25 / 10, read 0.125; above 200k 2.5 / 15, read 0.25
GPT5 = "openai/gpt-5"  # 1.25 / 10, read 0.125; flex and batch half, priority double
DEEPSEEK = "deepseek/deepseek-chat"  # 0.28 / 0.42, read 0.028
QWEN = "dashscope/qwen-flash"  # 0.05 / 0.4; above 256k 0.25 / 2
FLEX, BATCH, PRIORITY, EU = (frozenset({tag}) for tag in ("flex", "batch", "priority", "eu"))


@pytest.fixture(scope="module")
def prices(tmp_path_factory):
    """The shipped files, LiteLLM's map and a contract."""
    path = tmp_path_factory.mktemp("prices") / "contract.yaml"
    path.write_text(CONTRACT)
    return Prices.load(Pricing(files=[str(path)]))


def used(
    prompt=0, completion=0, *, cached=0, cache_write_5m=0, cache_write_1h=0, reasoning=0, audio_input=0, audio_output=0
):
    """A usage as LiteLLM reports it; prompt and completion include all the others."""
    details = {"cache_creation_token_details": {"ephemeral_1h_input_tokens": cache_write_1h}}
    return SimpleNamespace(
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=cached,
        cache_write_tokens=cache_write_5m + cache_write_1h,
        reasoning_tokens=reasoning,
        raw={
            "prompt_tokens_details": {"audio_tokens": audio_input, **details},
            "completion_tokens_details": {"audio_tokens": audio_output},
        },
    )


def case(name, model, nano, *, tags=frozenset(), at=DAY, seconds=0.0, deployment=None, **tokens):
    """One line of the table; tokens in the provider's words."""
    return pytest.param(model, tags, at, seconds, deployment, used(**tokens), nano, id=name)


@pytest.mark.parametrize(
    ("model", "tags", "at", "seconds", "deployment", "tokens", "nano"),
    [
        case("nothing", SONNET, 0),
        case("one-input-token", SONNET, 3_000, prompt=1),
        case("one-output-token", SONNET, 15_000, completion=1),
        case("plain", SONNET, 10_500_000, prompt=1000, completion=500),
        case("cache-read", SONNET, 3_300_000, prompt=2000, cached=1000),
        case("cache-write-5m", SONNET, 6_750_000, prompt=2000, cache_write_5m=1000),
        case("cache-write-1h", SONNET, 9_000_000, prompt=2000, cache_write_1h=1000),
        case(
            "cache-all", SONNET, 16_050_000, prompt=4000, cached=1000, cache_write_5m=1000, cache_write_1h=1000,
            completion=200,
        ),
        case("everything-cached", SONNET, 300_000, prompt=1000, cached=1000),
        case("batch", SONNET, 5_250_000, tags=BATCH, prompt=1000, completion=500),
        case("batch-cache", SONNET, 2_025_000, tags=BATCH, prompt=2000, cached=1000, cache_write_5m=1000),
        case("batch-cache-read-only", SONNET, 1_650_000, tags=BATCH, prompt=2000, cached=1000),
        case("opus", OPUS, 30_000_000, prompt=1000, completion=1000),
        case("opus-cache-1h", OPUS, 10_500_000, prompt=2000, cached=1000, cache_write_1h=1000),
        case("bare-model-name", "claude-opus-4-5", 30_000_000, prompt=1000, completion=1000),
        case("tier-not-reached", GEMINI, 250_010_000, prompt=200_000, completion=1),
        case("tier-reached", GEMINI, 500_017_500, prompt=200_001, completion=1),
        case("tier-cache-read", GEMINI, 275_002_500, prompt=200_001, cached=100_000, completion=0, reasoning=0),
        case("tier-whole-request", GEMINI, 640_000_000, prompt=250_000, completion=1000),
        case("reasoning-as-output", GPT5, 11_250_000, prompt=1000, completion=1000, reasoning=900),
        case("flex", GPT5, 5_625_000, tags=FLEX, prompt=1000, completion=1000),
        case("flex-cache", GPT5, 687_500, tags=FLEX, prompt=2000, cached=1000),
        case("priority", GPT5, 22_500_000, tags=PRIORITY, prompt=1000, completion=1000),
        case("batch-openai", GPT5, 5_625_000, tags=BATCH, prompt=1000, completion=1000),
        case("unknown-tag", GPT5, 11_250_000, tags=frozenset({"blue"}), prompt=1000, completion=1000),
        case("below-a-micro-dollar", DEEPSEEK, 28, prompt=1, cached=1),
        case("deepseek", DEEPSEEK, 728_000, prompt=1100, cached=0, completion=1000),
        case("range-table-low", QWEN, 12_800_400, prompt=256_000, completion=1),
        case("range-table-high", QWEN, 64_002_250, prompt=256_001, completion=1),
        case("range-table-cache-as-input", QWEN, 50_000, prompt=1000, cached=1000),
        case("embedded-is-free", "embedded/smollm2", 0, prompt=10**6, completion=10**6),
        case("own-machine-is-free", "ours/llama", 0, prompt=10**6, completion=10**6),
        case("per-second", "rack/llama", 1_000_000, seconds=2.5, prompt=10**6),
        case("per-second-of-a-moment", "rack/llama", 400, seconds=0.001),
        case("tokens-and-time", "both", 3_000_000, seconds=1.0, prompt=1000, completion=1000),
        case("discount", "negotiated", 10_125_000, prompt=1000, completion=1000),
        case("discount-cache-read", "negotiated", 1_062_500, prompt=1000, cached=1000),
        case("discount-last-day", "negotiated", 2_125_000, at=date(2026, 6, 30), prompt=1000),
        case("price-changes-by-date", "negotiated", 3_000_000, at=date(2026, 7, 1), prompt=1000),
        case("new-price-cache-as-input", "negotiated", 3_000_000, at=date(2026, 8, 1), prompt=1000, cached=1000),
        case("discount-on-list", "openai/gpt-4o", 11_250_000, prompt=1000, completion=1000),
        case("surcharge-by-tag", "openai/gpt-4o", 13_750_000, tags=EU, prompt=1000, completion=1000),
        case("discount-on-flexible-tag", "openai/gpt-4o", 19_125_000, tags=PRIORITY, prompt=1000, completion=1000),
        case("one-part-overridden", "vertex_ai/gemini-2.5-pro", 9_250_000, prompt=1000, completion=1000),
        case("sub-nano-rounds-once", "tiny", 8, prompt=1),
        case("sub-nano-adds-up", "tiny", 7_500, prompt=1000),
        case("sub-nano-half-up", "tiny", 2, completion=1),
        case("first-tier-input-only", "tiered", 256_010_000, prompt=128_001, completion=2, reasoning=0),
        case("second-tier", "tiered", 600_011_000, prompt=200_001, completion=1),
        case("tier-reasoning-of-the-base", "tiered", 600_009_000, prompt=200_001, completion=1, reasoning=1),
        case("reasoning-rate", "tiered", 6_400_000, prompt=0, completion=1100, reasoning=1000),
        case("override-of-the-map", "azure_ai/jais-30b-chat", 12_910_000, prompt=1000, completion=1000),
        case(
            "deployment-prices", "openai/gpt-5", 3_000_000, prompt=1000, completion=1000,
            deployment={"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06},
        ),
        case(
            "deployment-zero-is-a-price", "openai/gpt-5", 0, prompt=1000, completion=1000,
            deployment={"input_cost_per_token": 0, "output_cost_per_token": 0.0},
        ),
        case(
            "deployment-rest-from-the-map", "openai/gpt-5", 11_000_000, prompt=1000, completion=1000,
            deployment={"input_cost_per_token": "0.000001"},
        ),
        case(
            "deployment-by-base-model", "azure/my-name", 10_000_000, prompt=1000, completion=1000,
            deployment={"base_model": "azure/gpt-4.1"},
        ),
        case(
            "contract-over-deployment", "openai/gpt-4o", 2_250_000, prompt=1000,
            deployment={"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06},
        ),
    ],
)  # fmt: skip
def test_cost(prices, model, tags, at, seconds, deployment, tokens, nano):
    """A call costs exactly this many nano-USD."""
    card = prices.price("acme", model, at=at, params=deployment, tags=tags)

    assert cost(card, tokens, seconds=seconds) == nano


def test_unlisted_model_has_no_price(prices):
    """A model that nobody prices has no card: not even Ollama's, which LiteLLM would count as free."""
    assert prices.price("acme", "ollama/never-heard-of", at=DAY) is None
    assert prices.price("acme", "openai/never-heard-of", at=DAY) is None
    assert prices.price("other", "negotiated", at=DAY) is None


def test_version_and_source_say_which_price(prices):
    """A card names the file and its content, the deployment, or LiteLLM's release."""
    own = {"input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06}
    cards = [
        prices.price("acme", "negotiated", at=DAY),
        prices.price("acme", "openai/gpt-5", at=DAY, params=own),
        prices.price("acme", "azure_ai/jais-30b-chat", at=DAY),
        prices.price("acme", "embedded/x", at=DAY),
        prices.price("acme", "openai/gpt-5", at=DAY),
    ]

    assert [card.version.partition(":")[0] for card in cards] == [
        "contract",
        "deployment",
        "override",
        "local",
        "litellm",
    ]
    assert cards[0].version.startswith("contract:contract.yaml@")
    assert cards[0].source == "contract"


def test_price_is_shown_per_million_tokens(prices):
    """A card shows its base rates in USD per million tokens."""
    shown = prices.price("acme", OPUS, at=DAY).per_mtok()

    assert (shown["input"], shown["output"], shown["cache_write_1h"]) == (5.0, 25.0, 10.0)


RATES = st.fixed_dictionaries(dict.fromkeys(PARTS, st.integers(0, 10**13)))
CARDS = st.builds(
    PriceCard,
    rates=st.tuples(RATES, st.lists(st.tuples(st.integers(1, 2000), RATES), max_size=2)).map(
        lambda drawn: ((0, drawn[0]), *sorted(drawn[1], key=lambda tier: tier[0]))
    ),
    per_second=st.integers(0, 10**15),
    per_request=st.integers(0, 10**15),
)


@given(card=CARDS, cut=st.lists(st.integers(0, 1000), min_size=8, max_size=8), seconds=st.floats(0, 100))
def test_worst_cost_is_never_exceeded(card, cut, seconds):
    """Whatever a provider reports within the bounds, it costs no more than was reserved."""
    fresh, cached, written, kept, text, reasoning, heard, spoken = cut
    prompt, completion = fresh + cached + written + kept + heard, text + reasoning + spoken
    usage = used(
        prompt=prompt,
        completion=completion,
        cached=cached,
        cache_write_5m=written,
        cache_write_1h=kept,
        reasoning=reasoning,
        audio_input=heard,
        audio_output=spoken,
    )

    worst = worst_cost(card, prompt + 100, completion, seconds=seconds + 1)

    assert cost(card, usage, seconds=seconds) <= worst


def test_worst_cost_takes_the_dearest_reachable_rate(prices):
    """Cache writes, reasoning and every tier the prompt may fall into are priced."""
    opus, gemini = (prices.price("acme", model, at=DAY) for model in (OPUS, GEMINI))

    assert worst_cost(opus, 1000, 1000) == 1000 * 10_000 + 1000 * 25_000
    assert worst_cost(gemini, 200_000, 0) == 250_000_000
    assert worst_cost(gemini, 200_001, 0) == 500_002_500


def test_cheaper_high_tier_does_not_lower_the_worst_cost():
    """A volume discount above a threshold cannot be counted on: the prompt may turn out shorter."""
    sheet = {("input", 0): atto("1e-6"), ("output", 0): 0, ("input", 100): atto("1e-7")}
    card = PriceCard.of(sheet, version="", source="")

    assert worst_cost(card, 200, 0) == 200_000


@pytest.mark.parametrize("shape", [dict, SimpleNamespace], ids=["as JSON", "as LiteLLM's object"])
def test_tokens_of_an_answer_keep_what_only_the_provider_says(shape):
    """Sound and caches that live for an hour are priced as such, wherever the provider's own usage stands."""
    kept = shape(ephemeral_5m_input_tokens=20, ephemeral_1h_input_tokens=30)
    raw = shape(
        prompt_tokens_details=shape(audio_tokens=7, cache_creation_token_details=kept),
        completion_tokens_details=shape(audio_tokens=9),
    )
    counts = {"prompt_tokens": 100, "completion_tokens": 40, "cached_tokens": 10, "reasoning_tokens": 5}

    found = tokens_of(SimpleNamespace(**counts, cache_write_tokens=50, raw=raw))

    assert found == {
        "input": 33, "cache_read": 10, "cache_write_5m": 20, "cache_write_1h": 30, "audio_input": 7,
        "output": 26, "reasoning": 5, "audio_output": 9,
    }  # fmt: skip
    short = tokens_of(UsageInfo(prompt_tokens=3, cache_write_tokens=2))
    assert {part: count for part, count in short.items() if count} == {"input": 1, "cache_write_5m": 2}
