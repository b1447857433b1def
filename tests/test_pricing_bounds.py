"""What is reserved is never less than what LiteLLM says that an answer costs, whatever the provider may bill for."""

import random
from datetime import date

import pytest

from blueprint_llm import models
from blueprint_llm.usage import Demand, demand
from blueprint_llm.usage.pricing import Prices

DAY = date(2026, 6, 15)
# LiteLLM prices this id by the entry `perplexity/sonar`; its own entry is of another, cheaper offer.
ELSEWHERE = {"perplexity/perplexity/sonar"}
TIERS = {None: [None, "priority", "default"], "default": ["default"], "flex": ["flex", "default"]}
TIERS |= {"priority": ["priority", "default"]}


def chat_models():
    """Every model of LiteLLM's map that answers in tokens."""
    entries = models.model_map().items()
    return [name for name, entry in entries if entry.get("mode") in {"chat", "responses", "completion"}]


def worst(model, asked, output_tokens, seconds=0.0):
    """The bound in USD; None: no price."""
    card = Prices().price("p", model, at=DAY)
    found = card and card.listed.worst_nano(asked, output_tokens, seconds=seconds)
    return None if found is None else found / 1e9


def answer(litellm, chance, model):
    """An answer of LiteLLM's with a usage of many kinds, and what its request asked for."""
    kinds = litellm.types.utils
    prompt, output = chance.choice([1000, 50_000, 300_000]), chance.choice([10, 5000])
    some = lambda part: chance.choice([0, 0, part])  # noqa: E731 - short words for a table of chances
    audio, image, cached = some(prompt // 3), some(prompt // 4), some(prompt // 5)
    minutes, hour, spoken, thought = some(prompt // 6), some(prompt // 7), some(output // 3), some(output // 2)
    tier, searches = chance.choice(list(TIERS)), some(3)
    usage = kinds.Usage(
        prompt_tokens=prompt,
        completion_tokens=output,
        total_tokens=prompt + output,
        cache_creation_input_tokens=minutes + hour,
        cache_read_input_tokens=cached,
        prompt_tokens_details=kinds.PromptTokensDetailsWrapper(
            cached_tokens=cached,
            audio_tokens=audio,
            image_tokens=image,
            text_tokens=prompt - audio - image - cached - minutes - hour,
            cache_creation_tokens=minutes + hour,
            cache_creation_token_details=kinds.CacheCreationTokenDetails(
                ephemeral_5m_input_tokens=minutes, ephemeral_1h_input_tokens=hour
            ),
        ),
        completion_tokens_details=kinds.CompletionTokensDetailsWrapper(
            reasoning_tokens=thought, audio_tokens=spoken, text_tokens=output - thought - spoken
        ),
    )
    if searches:
        usage.server_tool_use = kinds.ServerToolUse(web_search_requests=searches)
    choices = [{"message": {"role": "assistant", "content": "x"}}]
    response = kinds.ModelResponse(model=model, usage=usage, choices=choices)
    if billed := chance.choice(TIERS[tier]):
        response.service_tier = billed
    asked = Demand(
        text_tokens=prompt - audio - image,
        audio_tokens=audio,
        images=-(-image // 5000),
        speaks=spoken > 0,
        searches=searches,
        is_open=searches > 0,
        keeps_cache=hour > 0,
        tier=tier,
    )
    return response, asked, output


def check(litellm, names, seed):
    """Draw an answer of each model and compare; how many were compared."""
    chance, compared, wrong = random.Random(seed), 0, []  # noqa: S311 - a seed, so that a failure can be repeated
    for name in names:
        response, asked, output = answer(litellm, chance, name)
        provider = models.model_map()[name].get("litellm_provider")
        optional = {"service_tier": asked.tier} if asked.tier else {}
        billed = litellm.completion_cost(
            completion_response=response, model=name, custom_llm_provider=provider, optional_params=optional
        )
        reserved = worst(name, asked, output, seconds=600)
        if reserved is None:
            # Together's models are priced by their size, which only LiteLLM's code knows: `pricing.unknown` decides.
            assert billed == 0 or provider == "together_ai", f"{name} costs {billed} and has no bound"
        elif billed > reserved + 1e-9 and name not in ELSEWHERE:
            wrong.append((name, billed, reserved, asked))
        compared += 1
    assert not wrong
    return compared


def test_some_models_cost_no_more_than_is_reserved(litellm_warm):
    """A hundred models drawn from LiteLLM's map, any modality, tier, cache write, search and length."""
    chance = random.Random(11)  # noqa: S311 - a seed, so that a failure can be repeated

    assert check(litellm_warm, chance.sample(chat_models(), 100), seed=11) == 100


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Items .* on TypedDict class:UserWarning")  # LiteLLM's own models
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_model_costs_more_than_is_reserved(litellm_warm, seed):
    """The whole map."""
    assert check(litellm_warm, chat_models(), seed=seed) > 3000


SONNET, GPT5, AUDIO = "anthropic/claude-sonnet-4-5", "openai/gpt-5", "openai/gpt-audio"


@pytest.mark.parametrize(
    ("model", "asked", "output", "usd"),
    [
        pytest.param(SONNET, Demand(text_tokens=100_000), 8, 0.37512, id="five minutes of cache"),
        pytest.param(SONNET, Demand(text_tokens=100_000, keeps_cache=True), 8, 0.60012, id="an hour of cache"),
        pytest.param(AUDIO, Demand(text_tokens=100, audio_tokens=9900), 100, 0.31805, id="sound in"),
        pytest.param(AUDIO, Demand(text_tokens=100, speaks=True), 2000, 0.12825, id="sound out"),
        pytest.param(GPT5, Demand(text_tokens=1000, tier="default"), 1000, 0.01125, id="the tier asked for"),
        pytest.param(GPT5, Demand(text_tokens=1000, tier="flex"), 1000, 0.01125, id="flex may be answered as default"),
        pytest.param(GPT5, Demand(text_tokens=1000, tier="priority"), 1000, 0.0225, id="priority"),
        pytest.param(GPT5, Demand(text_tokens=1000), 1000, 0.0225, id="no tier: the account may be set to priority"),
        pytest.param("gemini/gemini-2.5-pro", Demand(text_tokens=199_999, tier="x"), 0, 0.24999875, id="short"),
        pytest.param("gemini/gemini-2.5-pro", Demand(text_tokens=200_000, tier="x"), 0, 0.5, id="long"),
        pytest.param("dashscope/qwen-flash", Demand(text_tokens=256_000), 0, 0.064, id="a table of ranges"),
        pytest.param(SONNET, Demand(text_tokens=1, searches=3, is_open=True), 0, 0.78, id="the window, and searches"),
        pytest.param("openai/gpt-4o-search-preview", Demand(tier="default"), 0, 0.345, id="searches by itself"),
        pytest.param("claude-opus-4-6", Demand(text_tokens=1000), 0, 0.006875, id="a region's surcharge"),
        pytest.param("claude-opus-4-8", Demand(text_tokens=1000, is_fast=True), 0, 0.01375, id="fast mode"),
        pytest.param(GPT5, Demand(text_tokens=1000, tier="default", is_elsewhere=True), 0, 0.001375, id="an address"),
    ],
)
def test_bound_of(model, asked, output, usd):
    """What is reserved for a request, worked out by hand."""
    assert worst(model, asked, output) == pytest.approx(usd, abs=1e-9)


@pytest.mark.parametrize(
    ("model", "keywords", "output", "least", "most"),
    [
        pytest.param("openai/text-embedding-3-small", {"input": ["x" * 1000]}, 0, 2e-6, 3e-5, id="embedding"),
        pytest.param("openai/whisper-1", {"file": b"x" * 320_000}, 0, 0.002, 0.1, id="20 s of transcription"),
        pytest.param("openai/gpt-4o-transcribe", {"file": b"x" * 320_000}, 2000, 0.02, 0.2, id="by token"),
        pytest.param("openai/tts-1", {"input": "x" * 1000}, 0, 0.015, 0.02, id="speech by the character"),
        pytest.param("openai/gpt-4o-mini-tts", {"input": "x" * 1000}, 1000, 0.01, 0.2, id="speech by the second"),
        pytest.param("openai/gpt-image-1", {"prompt": "a cat", "n": 2}, 0, 0.5, 0.8, id="pictures by token"),
        pytest.param("cohere/rerank-english-v3.0", {"documents": ["x"] * 250}, 0, 0.006, 0.01, id="three rerankings"),
        pytest.param("perplexity/sonar-deep-research", {"messages": []}, 1000, 0.25, 2, id="research"),
        pytest.param("openai/gpt-5", {"tools": [{"type": "code_interpreter"}]}, 0, 0.03, 3, id="their code"),
        pytest.param("openai/sora-2", {"prompt": "x", "seconds": "8"}, 0, 0.8, 0.8, id="eight seconds of video"),
        pytest.param("openai/sora-2", {"prompt": "x"}, 0, 0.8, 6, id="video of any length"),
        pytest.param("gemini/veo-3.1-generate-preview", {"seconds": 8}, 0, 4.8, 4.8, id="video in any resolution"),
        pytest.param("mistral/mistral-ocr-latest", {"document": {}, "pages": [0, 3]}, 0, 0.018, 0.018, id="two pages"),
        pytest.param("mistral/mistral-ocr-latest", {"document": {}}, 0, 4, 20, id="a document"),
        pytest.param("exa_ai/search", {"query": "q"}, 0, 0.025, 0.025, id="a search of any number of results"),
        pytest.param("perplexity/search", {"query": ["q"] * 5}, 0, 0.025, 0.025, id="five searches"),
        pytest.param("azure/dall-e-3", {"prompt": "x", "quality": "hd"}, 0, 0.088, 0.4, id="listed by size only"),
        pytest.param("fal_ai/openai/gpt-image-2/edit", {"prompt": "x"}, 0, 0.413, 0.413, id="by quality and size"),
    ],
)
def test_other_endpoints_are_bounded_too(model, keywords, output, least, most):
    """Whatever is billed by the second, the character, the picture or the query has a bound, and not a silly one."""
    assert least - 1e-9 <= worst(model, demand(keywords), output) <= most + 1e-9


@pytest.mark.parametrize(
    ("model", "listed"),
    [
        ("anthropic/claude-sonnet-latest", "anthropic/claude-sonnet-4-5"),
        ("text-completion-openai/gpt-3.5-turbo-instruct", "gpt-3.5-turbo-instruct"),
        ("openai/gpt-3.5-turbo-instruct", "gpt-3.5-turbo-instruct"),
        ("openai/ft:gpt-4o-2024-08-06:my-org::abc123", "ft:gpt-4o-2024-08-06"),
        ("ft:gpt-4o-2024-08-06:my-org:suffix:abc123", "ft:gpt-4o-2024-08-06"),
        ("azure/GPT-4o", "azure/gpt-4o"),
        ("azure/gpt-5-pro-2025-10-06", "azure/gpt-5-pro"),
        ("litellm_proxy/gpt-4o", "gpt-4o"),
    ],
)
def test_other_spellings_are_priced(model, listed, litellm_warm):
    """A name that LiteLLM prices by another's entry has that entry's price."""
    card = Prices().price("p", model, at=DAY)

    assert card is not None
    if "latest" not in model:
        assert card.rates == Prices().price("p", listed, at=DAY).rates


def test_what_a_program_registers_is_priced(litellm_warm, monkeypatch):
    """Prices given to LiteLLM count from then on, also where another one was known."""
    monkeypatch.setattr(litellm_warm, "model_cost", dict(litellm_warm.model_cost))
    prices = Prices()
    before = prices.price("p", "openai/gpt-4o", at=DAY)
    own = {"input_cost_per_token": 1.0, "output_cost_per_token": 2.0, "litellm_provider": "openai", "mode": "chat"}
    litellm_warm.model_cost |= {"openai/never-heard-of": own, "gpt-4o": own}

    assert before.per_mtok()["input"] < 10
    for model in ("openai/never-heard-of", "openai/gpt-4o"):
        assert prices.price("p", model, at=DAY).per_mtok()["input"] == 1e6


@pytest.mark.parametrize(
    "own", [{"output_cost_per_image": 0.5}, {"input_cost_per_query": 0.5}, {"ocr_cost_per_page": 0.5}]
)
def test_prices_by_the_piece_on_a_deployment(own):
    """A deployment's price of a picture, a query or a page bounds it, though nothing is billed by the token."""
    card = Prices().price("p", "openai/never-heard-of", at=DAY, info=own)

    assert card.listed.worst_nano(demand({"prompt": "x", "pages": [0]}), 0) == 500_000_000


@pytest.mark.parametrize("model", ["openai/never-heard-of", "reducto/parse-v3"])
def test_what_nobody_can_bound_has_no_price(model):
    """A model that is not listed, or billed by what no request tells, is unknown rather than free."""
    assert worst(model, Demand(), 0) is None


def test_prices_on_a_deployment_stand_in_for_the_maps():
    """A deployment's own price bounds, and the map's other prices still count."""
    own = {"input_cost_per_token": 1e-5, "output_cost_per_token": 2e-5}

    card = Prices().price("p", AUDIO, at=DAY, params=own)

    assert card.listed.worst_nano(Demand(text_tokens=1000), 1000) == 30_000_000
    assert card.listed.worst_nano(Demand(audio_tokens=1000, speaks=True), 1000) == 96_000_000
