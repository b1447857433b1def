"""What a provider said and billed, end to end: in the next request of a run, in the ledger, in the response alike."""

import asyncio
import dataclasses

import litellm as theirs
import pytest
from asking import KINDS, asking
from driving import KEY, closing_clients
from provider_answers import ANSWERS, DEEPSEEK, MODELS, OPENROUTER, THINKING, TOOL, USED, WORDS, claude, openai, words

import blueprint_llm
from blueprint_llm import LLMClient, litellm
from blueprint_llm.compat.guarding import Guarding
from blueprint_llm.engine.guarded import build
from blueprint_llm.errors import ApprovalPending, BlueprintError, BudgetExceededError
from blueprint_llm.sync import run
from blueprint_llm.testing import Cut, FaultServer
from blueprint_llm.types import UsageFilter

# LiteLLM keeps connections of its own to some providers, which nothing closes.
pytestmark = [
    pytest.mark.usefixtures("collected", "litellm_warm"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]
ASKED = [{"role": "user", "content": "What is the weather in Paris?"}]
HIDDEN = {"type": "redacted_thinking", "data": "aGlkZGVu"}
THINKS = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2048}
PATIENT = {"total_s": 60, "first_token_s": 30, "idle_s": 10}
GOOD = openai({"content": "Fine."}, *words("Fi", "ne."))
FINE = claude({"type": "text", "text": "It is fine."})


def weather(city: str) -> str:
    """Tell the weather."""
    return f"Sunny in {city}"


@pytest.fixture(params=KINDS)
def kind(request):
    """Each client."""
    return request.param


@pytest.fixture(params=["provider", "group"])
def where(request):
    """A provider of a chain, and a group of a `model_list` behind LiteLLM's Router."""
    return request.param


def config(where, format_, server, **block):
    """One target that speaks a format and lives at a server."""
    model, path = MODELS[format_]
    model = model.replace("deepseek-reasoner", "deepseek-chat")  # which takes tools
    params = {"model": model, "api_key": KEY, "api_base": server.url.removesuffix("/v1") + path}
    block = {"retry": {"base_s": 0.001}, "deadline": PATIENT, **block}
    if where == "provider":
        return {"blueprint": {"providers": {"p0": params}, "chains": {"default": ["p0"]}, **block}}
    return {"model_list": [{"model_name": "p0", "litellm_params": params}], "blueprint": block}


def target(where):
    """How the target of `config` is asked for."""
    return {} if where == "provider" else {"model": "p0"}


def asked(client, *, streamed, **request):
    """The answer, whole or from a stream."""
    return client.stream(**request)[1] if streamed else client.chat(**request)


def chats(server):
    """The bodies of the requests for answers."""
    return [request.body for request in server.requests if "messages" in request.body]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("blocks", [(THINKING,), (THINKING, HIDDEN)], ids=["thinking", "hidden thinking"])
def test_claudes_thoughts_go_back_as_they_came(kind, where, streamed, blocks, tmp_path):
    """The second request of a run begins the assistant's turn with the thoughts, signatures unchanged."""
    heard = []
    with FaultServer([claude(*blocks, USED, stop="tool_use"), FINE]) as server:
        settings = config(where, "anthropic", server, tools={"workspace": str(tmp_path), "rules": [{"allow": "*"}]})
        with asking(kind, settings) as client:
            listener = {"on_chunk": heard.append} if streamed else {}
            result = client.run(messages=ASKED, tools=[weather], **THINKS, **listener, **target(where))

    assert (result.content, bool(heard)) == ("It is fine.", streamed)
    assert chats(server)[1]["messages"][1]["content"][: len(blocks)] == list(blocks)
    assert chats(server)[1]["messages"][1]["content"][-1]["input"] == {"city": "Paris"}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_run_that_waited_goes_on_with_the_thoughts(kind, streamed, tmp_path):
    """After an approval the next request begins the assistant's turn with the thoughts that came before it."""
    with FaultServer([claude(THINKING, USED, stop="tool_use"), FINE]) as server:
        settings = config("provider", "anthropic", server, tools={"workspace": str(tmp_path)})
        with asking(kind, settings) as client:
            listener = {"on_chunk": [].append} if streamed else {}
            with pytest.raises(ApprovalPending) as waiting:
                client.run(messages=ASKED, tools=[weather], **THINKS, **listener)
            client.resume(waiting.value.state_id, [True], **listener)

    assert chats(server)[1]["messages"][1]["content"][0] == THINKING


def test_a_run_that_waited_offers_what_it_offered(kind, tmp_path):
    """A provider's own tools and a mark beside a function are the same in every request of a run."""
    tools = [{"type": "web_search_20250305", "name": "web_search"}, {**TOOL, "cache_control": {"type": "ephemeral"}}]
    with FaultServer([claude(USED, stop="tool_use"), FINE]) as server:
        settings = config("provider", "anthropic", server, tools={"workspace": str(tmp_path)})
        with asking(kind, settings) as client:
            client.client.register_tool(weather)
            with pytest.raises(ApprovalPending) as waiting:
                client.run(messages=ASKED, tools=tools, max_tokens=10)
            client.resume(waiting.value.state_id, [True])

    first, second = (body["tools"] for body in chats(server))
    assert (first[0]["type"], first[1]["cache_control"]) == ("web_search_20250305", {"type": "ephemeral"})
    assert second == first


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("format_", "recorded", "needed"),
    [
        pytest.param("deepseek", DEEPSEEK["reasoning and a tool"][1], "reasoning_content", id="DeepSeek"),
        pytest.param("openrouter", OPENROUTER["reasoning details"][1], "reasoning_details", id="OpenRouter"),
        pytest.param("openrouter", OPENROUTER["sealed reasoning"][1], "reasoning_details", id="OpenRouter, sealed"),
    ],
)
def test_reasoning_before_a_call_goes_back(kind, where, streamed, format_, recorded, needed, tmp_path):
    """Reasoning in fields of OpenAI's format is sent back unchanged, and `content: null` stays null."""
    with FaultServer([recorded, GOOD]) as server:
        settings = config(where, format_, server, tools={"workspace": str(tmp_path), "rules": [{"allow": "*"}]})
        with asking(kind, settings) as client:
            listener = {"on_chunk": [].append} if streamed else {}
            client.run(messages=ASKED, tools=[weather], **listener, **target(where))

    said = recorded.whole["choices"][0]["message"]
    sent = chats(server)[1]["messages"][1]
    assert sent[needed] == said[needed]
    assert sent.get("content") == said["content"]
    assert sent["tool_calls"] == said["tool_calls"]


OFFERED = [
    pytest.param("openai", {"type": "custom", "custom": {"name": "patch"}}, id="custom"),
    pytest.param("openai", {**TOOL, "cache_control": {"type": "ephemeral"}}, id="OpenAI, cached"),
    pytest.param("anthropic", {**TOOL, "cache_control": {"type": "ephemeral"}}, id="Anthropic, cached"),
    pytest.param("anthropic", {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}, id="searches"),
    pytest.param("anthropic", {"name": "weather", "input_schema": TOOL["function"]["parameters"]}, id="Anthropic's"),
    pytest.param("gemini", {"googleSearch": {}}, id="Gemini's"),
]


@pytest.mark.parametrize(("format_", "tool"), OFFERED)
def test_a_tool_goes_out_as_litellm_sends_it(where, format_, tool):
    """What a provider runs itself, what is no function, and what stands beside one."""
    answer = next(iter(ANSWERS[format_].values()))[1]
    with FaultServer(default=answer) as server:
        settings = config(where, format_, server)
        place = settings["blueprint"].get("providers", {}).get("p0") or settings["model_list"][0]["litellm_params"]
        with asking("sync", settings) as client:
            client.chat(messages=ASKED, tools=[tool], max_tokens=10, **target(where))
        theirs.completion(messages=ASKED, tools=[tool], max_tokens=10, **place)

    ours, plain = (request.body["tools"] for request in server.requests)
    assert ours == plain


SOUND = {
    "prompt_tokens": 10_400,
    "completion_tokens": 1900,
    "total_tokens": 12_300,
    "prompt_tokens_details": {"audio_tokens": 9900, "text_tokens": 500},
    "completion_tokens_details": {"audio_tokens": 1900, "text_tokens": 0},
}
SPENT = {"prompt_tokens": 1000, "completion_tokens": 1000, "total_tokens": 2000}
BILLS = [
    pytest.param("gpt-audio", SOUND, {}, {}, 0.43965, id="sound"),
    pytest.param(
        "gpt-5", SPENT, {"service_tier": "default"}, {"service_tier": "flex"}, 0.01125, id="tier that answered"
    ),
    pytest.param("gpt-5", SPENT, {"service_tier": "flex"}, {"service_tier": "flex"}, 0.005625, id="tier asked for"),
]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(("model", "usage", "around", "params", "usd"), BILLS)
def test_one_cost_everywhere(kind, where, streamed, model, usage, around, params, usd):
    """The response, the ledger and the drop-in's `response_cost` say what LiteLLM says."""
    recorded = openai({"content": "".join(WORDS)}, *words(*WORDS), usage=usage, **around, model=model)
    with FaultServer(default=recorded) as server:
        settings = config(where, "openai", server)
        place = settings["blueprint"].get("providers", {}).get("p0") or settings["model_list"][0]["litellm_params"]
        place["model"] = f"openai/{model}"
        with asking(kind, settings) as client:
            response = asked(client, streamed=streamed, messages=ASKED, **params, **target(where))
            stats = client.client.get_usage()

    assert response.usage.estimated_cost == pytest.approx(usd)
    assert stats.cost_usd == pytest.approx(usd)


@pytest.mark.parametrize(("model", "usage", "around", "params", "usd"), BILLS)
def test_the_drop_in_says_what_litellm_says(model, usage, around, params, usd):
    """`_hidden_params["response_cost"]`, guarded or not."""
    recorded = openai({"content": "".join(WORDS)}, *words(*WORDS), usage=usage, **around, model=model)
    with FaultServer(default=recorded) as server:
        wire = {"model": f"openai/{model}", "api_key": KEY, "api_base": server.url, "messages": ASKED, **params}
        ours, plain = litellm.completion(**wire), theirs.completion(**wire)

    assert ours._hidden_params["response_cost"] == plain._hidden_params["response_cost"] == pytest.approx(usd)


@pytest.mark.parametrize("place", [0, 1, -1], ids=["first chunk", "second chunk", "last chunk"])
def test_a_tier_counts_wherever_a_stream_says_it(kind, where, place):
    """Also beside the usage, where LiteLLM reads nothing else; in the client's ledger and the drop-in's."""
    recorded = openai({"content": "".join(WORDS)}, *words(*WORDS), usage=SPENT, model="gpt-5")
    chunks = [dict(chunk) for chunk in recorded.chunks]
    chunks[place]["service_tier"] = "priority"
    with FaultServer(default=dataclasses.replace(recorded, chunks=tuple(chunks))) as server:
        settings = config(where, "openai", server)
        place = settings["blueprint"].get("providers", {}).get("p0") or settings["model_list"][0]["litellm_params"]
        place["model"] = "openai/gpt-5"
        with asking(kind, settings) as client:
            response = asked(client, streamed=True, messages=ASKED, **target(where))
        stream = litellm.completion(**place, messages=ASKED, stream=True)
        list(stream)

    assert response.usage.estimated_cost == pytest.approx(0.0225)
    assert stream._hidden_params["blueprint"]["attempts"][0]["cost_usd"] == pytest.approx(0.0225)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", ["anthropic/claude-sonnet-4.5", "zzz/nobody-knows"], ids=["known", "unknown"])
def test_what_the_provider_says_it_cost_counts(kind, where, streamed, name):
    """OpenRouter's own cost, also of a model without a price, under a budget that takes unknown prices for nothing."""
    recorded = openai({"content": "".join(WORDS)}, *words(*WORDS), usage={**SPENT, "cost": 0.0423}, model=name)
    budgets = [{"scope": "project", "limit_usd": 0.05}]
    with FaultServer(default=recorded) as server:
        settings = config(where, "openrouter", server, budgets=budgets, pricing={"unknown": "assume_zero"}, project="a")
        place = settings["blueprint"].get("providers", {}).get("p0") or settings["model_list"][0]["litellm_params"]
        place["model"] = f"openrouter/{name}"
        with asking(kind, settings) as client:
            ask = {"messages": ASKED, "max_tokens": 10, **target(where)}
            costs = [asked(client, streamed=streamed, **ask).usage.estimated_cost for _ in range(2)]
            with pytest.raises(BudgetExceededError):
                asked(client, streamed=streamed, **ask)
            stats = client.client.get_usage()

    assert costs == [0.0423, 0.0423]
    assert stats.cost_usd == pytest.approx(0.0846)


@pytest.mark.parametrize("way", ["client", "group", "drop-in", "router"])
def test_a_budget_bounds_what_sound_costs(way):
    """Of ten calls at once that ask for sound, a budget of 1 USD lets no more through than it pays for."""
    recorded = openai({"content": "".join(WORDS)}, *words(*WORDS), usage=SOUND, model="gpt-audio")
    sound = {"type": "input_audio", "input_audio": {"data": "AAAA" * 50_000, "format": "mp3"}}  # 198 s and more
    ask = {"messages": [{"role": "user", "content": [sound]}], "max_tokens": 2000}
    ask |= {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
    budgets = [{"scope": "project", "limit_usd": 1, "window": "day"}]
    with FaultServer(default=recorded) as server:
        settings = config("provider" if way == "client" else "group", "openai", server, budgets=budgets, project="a")
        place = settings["blueprint"].get("providers", {}).get("p0") or settings["model_list"][0]["litellm_params"]
        place["model"] = "openai/gpt-audio"
        refused = asyncio.run(closing_clients(ten_at_once(way, settings, place, ask)))

    assert len(server.requests) * 0.43965 <= 1
    assert len(server.requests) + refused == 10
    assert server.requests


async def ten_at_once(way, settings, place, ask):
    """How many of ten calls the budget refuses."""
    if way in {"client", "group"}:
        client = LLMClient(settings)
        call, model = client.chat, {} if way == "client" else {"model": "p0"}
    elif way == "router":
        router = blueprint_llm.Router(model_list=settings["model_list"], blueprint=settings["blueprint"])
        call, model = router.acompletion, {"model": "p0"}
    else:
        call, model = Guarding(lambda _: build(settings)).around("acompletion", theirs.acompletion), place
    answers = await asyncio.gather(*(call(**ask, **model) for _ in range(10)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, BudgetExceededError)]
    assert not [answer for answer in answers if isinstance(answer, Exception) and answer not in refused]
    if way in {"client", "group"}:
        await client.aclose()
    return len(refused)


def test_reasoning_that_breaks_off_is_paid_for(kind, where):
    """15,000 characters of reasoning, then nothing: booked as output that may have been billed."""
    thoughts = words(*["Let me think about it again. " * 10] * 52, field="reasoning_content")
    recorded = openai({"content": "Hi", "reasoning_content": "x"}, *thoughts, {"content": "Hi"})
    broken = Cut(50, answer=recorded, abrupt=True)
    with FaultServer(default=broken) as server:
        settings = config(where, "openai", server, retry={"max_attempts": 1, "base_s": 0.001})
        with asking(kind, settings) as client:
            with pytest.raises(BlueprintError):
                client.stream(messages=ASKED, **target(where))
            (row,) = (
                client._run(client.client._runtime.store.rows(UsageFilter()))
                if kind == "async"
                else run(client.client._runtime.store.rows(UsageFilter()))
            )

    assert row.maybe_billed
    assert row.usage_source == "estimated"
    assert row.completion_tokens >= 13_000 / 4
