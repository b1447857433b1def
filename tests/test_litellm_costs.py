"""What an answer cost is LiteLLM's to say: by its whole usage, the tier that answered and what the provider states."""

import asyncio

import pytest
from driving import KEY, MESSAGES, closing_clients
from provider_answers import ANSWERS, MODELS

from blueprint_llm.adapters import Call, Merger
from blueprint_llm.adapters import litellm as boundary
from blueprint_llm.credentials import Credential, Secret
from blueprint_llm.testing import FaultServer

pytestmark = [pytest.mark.usefixtures("collected"), pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")]
SPENT = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
HOUR = {
    "prompt_tokens": 100_010,
    "completion_tokens": 6,
    "total_tokens": 100_016,
    "cache_creation_input_tokens": 100_000,
    "prompt_tokens_details": {
        "cached_tokens": 0,
        "cache_creation_tokens": 100_000,
        "cache_creation_token_details": {"ephemeral_1h_input_tokens": 100_000, "ephemeral_5m_input_tokens": 0},
    },
}
SOUND = {
    "prompt_tokens": 10_400,
    "completion_tokens": 1_900,
    "total_tokens": 12_300,
    "prompt_tokens_details": {"audio_tokens": 9_900, "text_tokens": 500},
    "completion_tokens_details": {"audio_tokens": 1_900, "text_tokens": 0},
}


def answer(served, usage, **more):
    """An answer by the model that served it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    return boundary.model_response({"model": served, "choices": [choice], "usage": usage, **more})


CASES = [
    pytest.param("openai/gpt-4o", "gpt-4o", SPENT, {}, {}, 0.0035, id="plain"),
    pytest.param("gpt-4o", "gpt-4o", SPENT, {}, {}, 0.0035, id="no provider in the name"),
    pytest.param("anthropic/claude-sonnet-4-5", "claude-sonnet-4-5", HOUR, {}, {}, 0.60012, id="one-hour cache writes"),
    pytest.param("openai/gpt-audio", "gpt-audio", SOUND, {}, {}, 0.43965, id="sound"),
    pytest.param("openai/gpt-5", "gpt-5", SPENT, {}, {"service_tier": "flex"}, 0.001125, id="the tier asked for"),
    pytest.param(
        "openai/gpt-5",
        "gpt-5",
        SPENT,
        {"service_tier": "default"},
        {"service_tier": "flex"},
        0.00225,
        id="the tier served",
    ),
    pytest.param(
        "openrouter/zzz/new", "zzz/new", {**SPENT, "cost": 0.0423}, {}, {}, 0.0423, id="stated by the provider"
    ),
    pytest.param("openrouter/zzz/new", "zzz/new", {**SPENT, "cost": 0}, {}, {}, 0.0, id="stated to be nothing"),
    pytest.param("openai/zzz", "zzz", SPENT, {}, {}, None, id="a model that no map knows"),
    pytest.param("snowflake/gemma-7b", "gemma-7b", SPENT, {}, {}, None, id="a model without a price"),
    pytest.param("gemini/gemini-exp-1114", "gemini-exp-1114", SPENT, {}, {}, 0.0, id="a model that costs nothing"),
    pytest.param("bedrock/*/1-month-commitment/cohere.command-text-v14", "m", SPENT, {}, {}, None, id="by the second"),
    pytest.param("ollama_chat/zzz", "zzz", SPENT, {}, {}, 0.0, id="the user's own machine"),
    pytest.param("embedded/smollm2", "smollm2", SPENT, {}, {}, 0.0, id="embedded"),
    pytest.param("openai/gpt-4o", "gpt-4o", None, {}, {}, None, id="no usage"),
]


@pytest.mark.parametrize(("model", "served", "usage", "around", "params", "usd"), CASES)
def test_costs(litellm_warm, capfd, model, served, usage, around, params, usd):
    """Each answer costs what LiteLLM says; what it does not know is None, never 0, and nothing is printed."""
    cost = boundary.cost_of(answer(served, usage, **around), model=model, params=params)

    assert cost == (usd if usd is None else pytest.approx(usd, rel=1e-9))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        pytest.param("openai", "text", id="openai"),
        pytest.param("anthropic", "text", id="anthropic, cached"),
        pytest.param("gemini", "grounding", id="gemini, with searches"),
        pytest.param("openrouter", "reasoning details", id="openrouter, stated"),
        pytest.param("ollama", "text", id="ollama"),
    ],
)
def test_a_stream_costs_what_the_answer_costs(litellm_warm, provider, name):
    """The same answer costs the same whole and streamed, and what LiteLLM itself reports of it."""
    params, recorded = ANSWERS[provider][name]
    model, path = MODELS[provider]

    async def costs(server):
        credential = Credential(api_key=Secret(KEY), base_url=server.url.removesuffix("/v1") + path)
        call = Call(provider="p", model=model, messages=MESSAGES, params=params, credential=credential)
        whole = await boundary.complete(call)
        stream, merger = await boundary.open_stream(call), Merger()
        async for chunk in stream:
            merger.add(chunk.model_dump())
        await stream.aclose()
        merged = boundary.model_response(stream.as_whole(merger.whole()))
        ours = [boundary.cost_of(each, model=model, params=params) for each in (whole, merged)]
        return whole._hidden_params["response_cost"], *ours

    with FaultServer([recorded, recorded]) as server:
        reported, whole, streamed = asyncio.run(closing_clients(costs(server)))

    assert whole == streamed == pytest.approx(reported or 0.0, rel=1e-9)
