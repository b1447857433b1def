"""The policies around single LiteLLM calls, with the real guard, real servers and LiteLLM's own functions."""

import asyncio
import itertools
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import litellm
import pytest
from compat_cases import HI, TOOL
from driving import KEY, closing_clients
from endpoint_server import EVENTS, PICTURE, READ, WRITTEN, Endpoints
from provider_answers import OPENROUTER, openai, words
from serving import serving

from blueprint_llm import Router, errors
from blueprint_llm import litellm as guarded
from blueprint_llm.compat import guarding as guards
from blueprint_llm.compat import install
from blueprint_llm.engine.answer import GuardedAnswer, is_plain
from blueprint_llm.engine.endpoints import target_of
from blueprint_llm.engine.guarded import PolicyGuard
from blueprint_llm.engine.reader import AnswerReader
from blueprint_llm.engine.runtime import Runtime
from blueprint_llm.streaming import StreamingHandler
from blueprint_llm.sync import run
from blueprint_llm.testing import Answer, BrokenTool, FaultServer, ToolUse
from blueprint_llm.types import UsageFilter
from blueprint_llm.usage import UsageTracker
from blueprint_llm.usage.ledger import Payer, charge_for, of_attempt
from blueprint_llm.usage.pricing.bounds import demand

pytestmark = [
    pytest.mark.usefixtures("litellm_warm", "collected"),
    pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning"),
]
# A call of chat costs at most 0.1 USD with this cap, and 0.01 each token that was written.
PRICE = {"input_cost_per_token": 0, "output_cost_per_token": 0.01}
# Of a deployment with a small `tpm` LiteLLM itself lets but one call at a time through.
MANY = 24_000
PRICED = {"api_key": KEY, "max_tokens": 10, **PRICE}


@pytest.fixture
def guard_of(monkeypatch):
    """Makes the guard that the functions share, out of our block."""

    def make(**blueprint):
        store = {"url": "memory"}
        made = PolicyGuard(Runtime({"blueprint": {"version": 1, "project": "acme", "store": store, **blueprint}}))
        monkeypatch.setattr(guards, "build", lambda config: made)
        guards.forget()
        return made

    return make


def stats_of(guard):
    """What the ledger says."""
    return UsageTracker(guard.runtime.store).get_usage(UsageFilter(project="acme"))


def rows_of(guard):
    """The attempts, newest first."""
    return UsageTracker(guard.runtime.store).newest(UsageFilter(project="acme"))


async def consumed(answer):
    """Read a stream of any endpoint to its end; a whole answer is one."""
    if hasattr(answer, "__anext__") or hasattr(answer, "__aiter__"):
        return [chunk async for chunk in answer]
    return [answer]


ENDPOINTS = [
    pytest.param("acompletion", {"model": "openai/gpt-4o", "messages": HI}, id="chat"),
    pytest.param("atext_completion", {"model": "openai/gpt-3.5-turbo-instruct", "prompt": "hi"}, id="text"),
    pytest.param(
        "atext_completion",
        {"model": "openai/gpt-3.5-turbo-instruct", "prompt": "hi", "stream": True},
        id="text-stream",
    ),
    pytest.param("aresponses", {"model": "openai/gpt-4o", "input": "hi"}, id="responses"),
    pytest.param("aresponses", {"model": "openai/gpt-4o", "input": "hi", "stream": True}, id="responses-stream"),
    pytest.param(
        "anthropic_messages",
        {"model": "anthropic/claude-sonnet-4-5", "messages": HI, "max_tokens": 10},
        id="messages",
    ),
    pytest.param(
        "anthropic_messages",
        {"model": "anthropic/claude-sonnet-4-5", "messages": HI, "max_tokens": 10, "stream": True},
        id="messages-stream",
    ),
]


def asked_of(url, **asked):
    """The keywords of a call to the loopback server."""
    is_claude = asked["model"].startswith("anthropic/")
    return {"api_base": url.removesuffix("/v1") if is_claude else url, "api_key": KEY, **asked}


@pytest.mark.parametrize(("operation", "asked"), ENDPOINTS)
def test_every_endpoint_is_booked_as_it_says(operation, asked, guard_of):
    """What an endpoint says was used is what the ledger has, whole or streamed, with its cost."""
    if operation == "anthropic_messages" and asked.get("stream"):
        pytest.importorskip("fastapi", reason="LiteLLM itself streams messages only where its proxy is installed")
    guard = guard_of()
    with serving(Endpoints) as (server, url):
        call = getattr(guarded, operation)

        async def work():
            await consumed(await call(**asked_of(url, **asked)))

        asyncio.run(closing_clients(work()))

    (row,) = rows_of(guard)
    assert (row.prompt_tokens, row.completion_tokens, row.category) == (READ, WRITTEN, None)
    assert row.cost_nano > 0
    assert len(server.asked) == 1


@pytest.mark.parametrize("kind", ["atext_completion", "aresponses"])
def test_an_abandoned_stream_is_booked_by_what_came(kind, guard_of):
    """Of a stream that is left before it says what was used, what it wrote counts, whatever its endpoint."""
    guard = guard_of()
    model, prompt = {"atext_completion": ("gpt-3.5-turbo-instruct", "prompt")}.get(kind, ("gpt-4o", "input"))
    with serving(Endpoints) as (_, url):

        async def work():
            stream = await getattr(guarded, kind)(
                **asked_of(url, model=f"openai/{model}", stream=True), **{prompt: "x"}
            )
            for _ in range(1 if kind == "atext_completion" else 2):
                await anext(stream)
            await stream.aclose()

        asyncio.run(closing_clients(work()))

    (row,) = rows_of(guard)
    assert (row.completion_tokens, row.category, row.maybe_billed) == (1, "abandoned", True)


def test_events_that_break_off_count_what_they_brought():
    """Anthropic says at the beginning what it has read; what it wrote by then is what came."""
    answer = GuardedAnswer(
        "anthropic_messages", {}, None, validates=True, is_inner=False, redirects=False, now=time.monotonic
    )
    answer.hear(None)
    text = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x" * 400}}
    for event in (EVENTS["messages"][0], text):
        answer.feed(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())

    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (READ, 100)
    for event in EVENTS["messages"][-2:]:
        answer.feed(event)
    assert answer.usage.completion_tokens == WRITTEN


def test_a_text_stream_shows_no_usage_that_nobody_asked_for(guard_of):
    """The usage is asked for by us; its caller sees what LiteLLM alone shows, and the trace."""
    asked = {"model": "openai/gpt-3.5-turbo-instruct", "prompt": "hi", "stream": True}
    with serving(Endpoints) as (server, url):
        guard_of()
        stream = guarded.text_completion(**asked_of(url, **asked))
        chunks = list(stream)

    assert "".join(chunk.choices[0].text or "" for chunk in chunks) == "hi"
    assert all(chunk.usage is None for chunk in chunks)
    assert server.asked[0][1]["stream_options"] == {"include_usage": True}
    assert stream._hidden_params["blueprint"]["attempts"][0]["usage_source"] == "provider"


@pytest.mark.parametrize(
    ("operation", "asked", "target", "cost_usd"),
    [
        ("moderation", {"input": "x"}, "openai/omni-moderation-latest", 0.0),
        ("search", {"query": "q", "search_provider": "tavily"}, "tavily/tavily/search", 0.008),
    ],
)
def test_calls_without_a_model_are_priced(operation, asked, target, cost_usd, guard_of):
    """Whom a call without a model asks is known, and what that costs; a budget lets it pass."""
    guard_of(budgets=[{"scope": "project", "limit_usd": 1, "window": "day"}])
    with serving(Endpoints) as (_, url):
        answer = getattr(guarded, operation)(**asked, api_base=url, api_key=KEY)

    trace = answer._hidden_params["blueprint"]
    assert (trace["served_by"], trace["attempts"][0]["cost_usd"]) == (target, cost_usd)


@pytest.mark.parametrize(
    ("operation", "odd"),
    [
        *(("completion", {"messages": value}) for value in ("x", [None], [5], ["x"])),
        *(("completion", {"max_tokens": value}) for value in ("x", "10", ["x"], {"a": 1}, -1, 2**70, float("nan"))),
        *(("completion", {"stream_options": value}) for value in ("x", 5, [])),
        *(("completion", {name: 5}) for name in ("model_info", "metadata", "litellm_metadata", "fallbacks")),
        *(("completion", {"modalities": value}) for value in (5, [[]])),
        ("completion", {"n": 2**70}),
        ("completion", {"input_cost_per_token": float("nan"), "output_cost_per_token": 0}),
        ("completion", {"input_cost_per_token": 2**70, "output_cost_per_token": 0}),
        ("text_completion", {"max_tokens": ["x"]}),
        ("responses", {"max_output_tokens": b"x"}),
        ("responses", {"tools": 5}),
    ],
)
def test_odd_values_are_litellms_to_judge(operation, odd, guard_of):
    """What is no value of its keyword is sent or refused as LiteLLM does it, under a budget, too."""
    guard_of(budgets=[{"scope": "project", "limit_usd": 10**9, "window": "day"}])
    usual = {"completion": {"messages": HI}, "text_completion": {"prompt": "x"}, "responses": {"input": "x"}}
    outcomes = []
    with serving(Endpoints) as (server, url):
        for module in (litellm, guarded):
            asked = {"model": "openai/gpt-4o", **usual[operation], "max_retries": 0, **odd}
            try:
                outcomes.append(type(getattr(module, operation)(**asked_of(url, **asked))).__name__)
            except Exception as error:  # noqa: BLE001 - whatever comes is the outcome
                outcomes.append((type(error).__name__, str(error)))

    assert outcomes[1] == outcomes[0]
    assert len(server.asked) in {0, 2}


def test_embeddings_are_booked(guard_of):
    """Embeddings write no tokens: what they read is what they cost."""
    guard = guard_of(quotas=[{"scope": "project", "requests": 2, "window": "day"}])
    with serving(Endpoints) as (server, url):
        asked = asked_of(url, model="openai/text-embedding-3-small", input=["x"])
        for _ in range(2):
            guarded.embedding(**asked)
        with pytest.raises(litellm.RateLimitError):
            guarded.embedding(**asked)

    assert [(row.prompt_tokens, row.completion_tokens) for row in rows_of(guard)] == [(READ, 0)] * 2
    assert len(server.asked) == 2


@pytest.mark.parametrize(("limit_usd", "made"), [(0.0001, 0), (10, 1)], ids=["too dear", "paid"])
def test_pictures_are_priced(limit_usd, made, guard_of):
    """A picture is reserved at its price and booked as LiteLLM counts it."""
    guard = guard_of(budgets=[{"scope": "project", "limit_usd": limit_usd, "window": "day"}])
    with serving(Endpoints) as (server, url):
        asked = asked_of(url, model="openai/gpt-image-1", prompt="a cat")
        if made:
            guarded.image_generation(**asked)
        else:
            with pytest.raises(litellm.BudgetExceededError):
                guarded.image_generation(**asked)

    assert len(server.asked) == made
    assert [row.cost_nano for row in rows_of(guard)] == [READ * 5_000 + PICTURE * 40_000] * made


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("way", ["module", "installed", "router"])
def test_a_budget_for_ten_lets_ten_of_fifty_through(way, stream, guard_of):
    """Of 50 calls at once exactly those reach the server that the budget pays for."""
    guard = guard_of(budgets=[{"scope": "project", "limit_usd": 1.04, "window": "day"}])
    with FaultServer(lambda request: Answer("Hello", usage=(1, 10))) as server:
        asked = {"model": "openai/gpt-4o", "messages": HI, "api_base": server.url, "stream": stream, **PRICED}
        if way == "router":
            listed = {**asked, "model": "openai/gpt-4o"}
            listed = [
                {"model_name": "g", "litellm_params": {name: listed[name] for name in (*PRICED, "model", "api_base")}}
            ]
            through, asked = Router(listed, num_retries=0, blueprint=guard), {**asked, "model": "g"}
            asked = {name: asked[name] for name in ("model", "messages", "stream")}
        else:
            through = litellm if way == "installed" else guarded
            if way == "installed":
                install(guard)

        async def one():
            try:
                await consumed(await through.acompletion(**asked))
            except litellm.BudgetExceededError:
                return False
            return True

        async def crowd():
            return await asyncio.gather(*(one() for _ in range(50)))

        answered = asyncio.run(closing_clients(crowd()))

    assert sum(answered) == 10
    assert len(server.requests) == 10
    assert stats_of(guard).cost_usd == pytest.approx(1.0)


@pytest.mark.parametrize("way", ["module", "installed", "router"])
def test_of_fifty_embeddings_ten_reach_the_server(way, guard_of):
    """A quota for ten holds for another endpoint, too, whichever way the guard came in."""
    guard = guard_of(quotas=[{"scope": "project", "requests": 10, "window": "day"}])
    with serving(Endpoints) as (server, url):
        asked = asked_of(url, model="openai/text-embedding-3-small", input=["x"])
        through = litellm if way == "installed" else guarded
        if way == "installed":
            install(guard)
        if way == "router":
            params = {name: asked[name] for name in ("model", "api_base", "api_key")}
            listed = [{"model_name": "e", "litellm_params": params}]
            through, asked = Router(listed, num_retries=0, blueprint=guard), {"model": "e", "input": ["x"]}

        async def one():
            try:
                await through.aembedding(**asked)
            except litellm.RateLimitError:
                return False
            return True

        async def crowd():
            return await asyncio.gather(*(one() for _ in range(50)))

        answered = asyncio.run(closing_clients(crowd()))

    assert sum(answered) == len(server.asked) == 10


def reserved_for(asked):
    """What is reserved for an embedding, in USD."""
    return guarded.embedding(**asked, mock_response=[0.5])._hidden_params["blueprint"]["attempts"][0]["reserved_usd"]


class _Gated(Endpoints):
    """Answers once the server's gate is open."""

    def do_POST(self):  # noqa: N802 - http.server's name
        """As the class says."""
        self.server.gate.wait(30)
        super().do_POST()


@pytest.mark.parametrize("way", ["module", "installed", "router"])
def test_of_fifty_embeddings_a_budget_pays_for_ten(way, guard_of):
    """What is under way is reserved: while ten are, a budget for ten refuses the other forty."""
    with serving(_Gated) as (server, url):
        server.gate, refused = threading.Event(), []
        params = {**asked_of(url, model="openai/text-embedding-3-small"), "input_cost_per_token": 0.01}
        guard_of()
        worst_usd = reserved_for({**params, "input": ["x"]})
        guard = guard_of(budgets=[{"scope": "project", "limit_usd": 10.5 * worst_usd, "window": "day"}])
        through, asked = (litellm if way == "installed" else guarded), {**params, "input": ["x"]}
        if way == "installed":
            install(guard)
        if way == "router":
            listed = [{"model_name": "e", "litellm_params": params}]
            through, asked = Router(listed, num_retries=0, blueprint=guard), {"model": "e", "input": ["x"]}

        async def one():
            try:
                await through.aembedding(**asked)
            except litellm.BudgetExceededError:
                refused.append(1)
                if len(refused) == 40:
                    server.gate.set()

        async def crowd():
            await asyncio.gather(*(one() for _ in range(50)))

        asyncio.run(closing_clients(crowd()))

    assert (len(refused), len(server.asked)) == (40, 10)
    assert [row.prompt_tokens for row in rows_of(guard)] == [READ] * 10


def test_a_refusal_has_its_trace(guard_of):
    """The error of a limit tells what was tried, and is LiteLLM's."""
    guard_of(budgets=[{"scope": "project", "limit_usd": 0.01, "window": "day"}])

    with pytest.raises(errors.BudgetExceededError) as refusal:
        guarded.completion(model="openai/gpt-4o", messages=HI, **PRICED)

    assert isinstance(refusal.value, litellm.BudgetExceededError)
    assert refusal.value.trace["attempts"] == []
    assert len(refusal.value.trace["id"]) == 32


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_the_trace_stands_beside_litellms(kind, stream, guard_of):
    """`_hidden_params` has the trace, of a stream complete once it has ended; the rest is what LiteLLM put there."""
    guard = guard_of()
    with FaultServer(lambda request: Answer("Hello", usage=(1, 10))) as server:
        asked = {"model": "openai/gpt-4o", "messages": HI, "api_base": server.url, "stream": stream, **PRICED}
        if kind == "sync":
            answer = guarded.completion(**asked)
            if stream:
                list(answer)
        else:

            async def work():
                found = await guarded.acompletion(**asked)
                await consumed(found)
                return found

            answer = asyncio.run(closing_clients(work()))

    trace = answer._hidden_params["blueprint"]
    assert trace["served_by"] == "openai/openai/gpt-4o"
    assert [(row["category"], row["cost_usd"]) for row in trace["attempts"]] == [(None, pytest.approx(0.1))]
    assert (trace["attempts"][0]["ttft_s"] is not None) == stream
    assert json.loads(json.dumps(trace)) == trace
    assert answer._hidden_params["litellm_call_id"]
    assert rows_of(guard)[0].trace_id == trace["id"]


def test_the_trace_of_the_routers_stream(guard_of):
    """The Router's stream has it, too."""
    guard = guard_of()
    with FaultServer(lambda request: Answer("Hello", usage=(1, 10))) as server:
        params = {"model": "openai/gpt-4o", "api_base": server.url, **PRICED}
        router = Router([{"model_name": "g", "litellm_params": params}], blueprint=guard)

        async def work():
            stream = await router.acompletion(model="g", messages=HI, stream=True)
            await consumed(stream)
            return stream

        stream = asyncio.run(closing_clients(work()))

    trace = stream._hidden_params["blueprint"]
    assert trace["served_by"] == "g/openai/gpt-4o"
    assert [row["category"] for row in trace["attempts"]] == [None]


@pytest.mark.parametrize("first", [BrokenTool(), Answer("", tool_calls=(ToolUse("get_weather", '{"city": 1'),))])
def test_a_malformed_call_in_the_routers_stream_falls_back(first, guard_of):
    """Nothing of a broken call is shown, and the Router goes on to its fallback; both attempts are booked."""
    guard = guard_of()
    with FaultServer([first]) as bad, FaultServer([Answer("Saved")]) as good:
        listed = [
            {"model_name": name, "litellm_params": {"model": "openai/gpt-4o", "api_base": server.url, "api_key": KEY}}
            for name, server in (("g", bad), ("h", good))
        ]
        router = Router(listed, fallbacks=[{"g": ["h"]}], num_retries=0, blueprint=guard)

        async def work():
            return await consumed(await router.acompletion(model="g", messages=HI, tools=[TOOL], stream=True))

        chunks = asyncio.run(closing_clients(work()))

    said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert said == "Saved"
    assert not [chunk for chunk in chunks for choice in chunk.choices if choice.delta.tool_calls]
    assert sorted(str(row.category) for row in rows_of(guard)) == ["None", "malformed"]


REFUSED = {
    "nothing said": openai({"content": ""}, finish="content_filter"),
    "a field of its own": openai({"refusal": "No."}, {"refusal": "N"}, {"refusal": "o."}),
    "a reason that LiteLLM calls stop": openai({"content": ""}, finish="safety"),
}


class TestRefusalsInTheRouter:
    """LiteLLM's `content_policy_fallbacks` are for refused answers, however they are refused; `fallbacks` are not."""

    def asked(self, kind, answer, *, stream, fallbacks, second="Saved"):
        """The text and the finish reason that come of it, and how often either server was asked."""
        with FaultServer(default=answer) as first, FaultServer(default=Answer(second)) as other:
            listed = [
                {"model_name": name, "litellm_params": {"model": "openai/gpt-4o", "api_base": url, "api_key": KEY}}
                for name, url in (("g", first.url), ("h", other.url))
            ]
            router = Router(
                listed, num_retries=0, blueprint={"store": {"url": "memory"}}, **{fallbacks: [{"g": ["h"]}]}
            )
            asked = {"model": "g", "messages": HI, "stream": stream}
            if kind == "sync":
                answer = router.completion(**asked)
                parts = list(answer) if stream else [answer]
            else:

                async def work():
                    return await consumed(await router.acompletion(**asked))

                parts = asyncio.run(closing_clients(work()))
            counts = len(first.requests), len(other.requests)
        choices = [choice for part in parts for choice in part.choices]
        texts = [(choice.delta if stream else choice.message).content or "" for choice in choices]
        return "".join(texts), next((each.finish_reason for each in choices if each.finish_reason), None), counts

    @pytest.mark.parametrize("answer", REFUSED.values(), ids=REFUSED)
    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
    @pytest.mark.parametrize("kind", ["sync", "async"])
    def test_they_go_to_their_fallbacks(self, kind, stream, answer):
        """Nothing of them was shown: the fallback answers."""
        found = self.asked(kind, answer, stream=stream, fallbacks="content_policy_fallbacks")

        assert found == ("Saved", "stop", (1, 1))

    @pytest.mark.parametrize("answer", REFUSED.values(), ids=REFUSED)
    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
    def test_plain_fallbacks_are_not_for_them(self, stream, answer):
        """They are handed over, once."""
        text, _, counts = self.asked("async", answer, stream=stream, fallbacks="fallbacks")

        assert (text, counts) == ("", (1, 0))

    def test_what_was_shown_stands(self):
        """A refusal in prose is out when its end shows what it was: it is handed over as it is."""
        prose = openai({"content": "Sorry."}, *words("Sor", "ry."), finish="content_filter")

        found = self.asked("async", prose, stream=True, fallbacks="content_policy_fallbacks")

        assert found == ("Sorry.", "content_filter", (1, 0))


def test_a_refused_answer_that_goes_elsewhere_was_paid_for(guard_of):
    """What a refusal took is booked as the answer that it is, though the Router goes on."""
    guard = guard_of()
    refused = openai({"content": ""}, finish="content_filter", usage={"prompt_tokens": 1, "completion_tokens": 10})
    with FaultServer(default=refused) as first, FaultServer(default=Answer("Saved", usage=(1, 10))) as other:
        listed = [
            {"model_name": name, "litellm_params": {"model": "openai/gpt-4o", "api_base": url, **PRICED}}
            for name, url in (("g", first.url), ("h", other.url))
        ]
        router = Router(listed, num_retries=0, content_policy_fallbacks=[{"g": ["h"]}], blueprint=guard)
        asked = {"model": "g", "messages": HI, "stream": True}
        assert len(list(router.completion(**asked))) > 1

    rows = [(row.category, row.completion_tokens, row.maybe_billed) for row in rows_of(guard)]
    assert sorted(rows, key=str) == [("content_policy", 10, False), (None, 10, False)]
    assert stats_of(guard).cost_usd == pytest.approx(0.2)


class TestCache:
    """Answers from our cache come as LiteLLM's own objects."""

    ASKED = {"model": "openai/gpt-4o", "messages": HI, "temperature": 0, **PRICED}  # noqa: RUF012 - never changed

    @pytest.mark.parametrize("again", [False, True], ids=["whole", "stream"])
    @pytest.mark.parametrize("first", [False, True], ids=["whole", "stream"])
    @pytest.mark.parametrize("kind", ["sync", "async"])
    def test_a_hit_is_litellms_own(self, first, again, kind, guard_of):
        """One entry serves whole and streamed calls; a hit is free and asks nobody."""
        guard = guard_of(cache={"enabled": True})
        with FaultServer(lambda request: Answer("Hello there", usage=(1, 10))) as server:
            said = [self.ask(kind, server, stream=stream) for stream in (first, again)]

        assert said[0][0] == said[1][0] == "Hello there"
        assert said[1][1]["cache_hit"] is True
        assert said[1][1]["blueprint"]["cache"]["hit"] is True
        assert len(server.requests) == 1
        stats = stats_of(guard)
        assert (stats.cache_hits, stats.cost_usd) == (1, pytest.approx(0.1))

    def ask(self, kind, server, *, stream, **more):
        """The text of an answer, and its hidden parameters."""
        asked = {**self.ASKED, "api_base": server.url, "stream": stream, **more}
        if kind == "sync":
            answer = guarded.completion(**asked)
            parts = list(answer) if stream else [answer]
        else:

            async def work():
                found = await guarded.acompletion(**asked)
                return found, await consumed(found) if stream else [found]

            answer, parts = asyncio.run(closing_clients(work()))
        assert type(answer).__name__ == ("CustomStreamWrapper" if stream else "ModelResponse")
        said = [choice.delta.content if stream else choice.message.content for part in parts for choice in part.choices]
        return "".join(filter(None, said)), answer._hidden_params

    @pytest.mark.parametrize(
        ("more", "requests"),
        [
            ({"cache": {"no-cache": True}}, 2),
            ({"cache": {"no-store": True}}, 2),
            ({"cache": {"s-maxage": 0}}, 2),
            ({"caching": False}, 2),
            ({"cache": {"ttl": 60}}, 1),
            ({"metadata": {"a": 1}}, 1),
        ],
        ids=str,
    )
    def test_litellms_words_about_caching_hold(self, more, requests, guard_of):
        """`cache={...}` and `caching=False` of a call are respected."""
        guard_of(cache={"enabled": True})
        with FaultServer(lambda request: Answer("Hello", usage=(1, 10))) as server:
            for _ in range(2):
                self.ask("sync", server, stream=False, **more)

        assert len(server.requests) == requests

    @pytest.mark.parametrize("again", [False, True], ids=["whole", "stream"])
    @pytest.mark.parametrize(
        ("model", "answer", "name"),
        [
            pytest.param("openai/gpt-4o", REFUSED["a field of its own"], "refusal", id="a refusal"),
            pytest.param("openrouter/x/y", OPENROUTER["reasoning details"][1], "reasoning_details", id="a signature"),
        ],
    )
    def test_what_litellm_leaves_out_of_a_stream_is_kept(self, model, answer, name, again, guard_of):
        """A hit has all that the provider sent with the stream, refusals and signatures as well."""
        guard_of(cache={"enabled": True})
        with FaultServer(default=answer) as server:
            asked = {"model": model, "messages": HI, "api_base": server.url, "api_key": KEY, "temperature": 0}
            list(guarded.completion(**asked, stream=True))
            found = guarded.completion(**asked, stream=again)
            said = list(found) if again else [found]

        message = answer.whole["choices"][0]["message"]
        kept = str([part.model_dump() for part in said])
        assert len(server.requests) == 1
        assert all(str(value) in kept for value in ([message[name]] if name == "refusal" else message[name]))

    def test_the_router_asks_the_cache(self, guard_of):
        """Although it says `caching=False` with every attempt."""
        guard = guard_of(cache={"enabled": True})
        with FaultServer(lambda request: Answer("Hello", usage=(1, 10))) as server:
            params = {"model": "openai/gpt-4o", "api_base": server.url, **PRICED}
            router = Router([{"model_name": "g", "litellm_params": params}], blueprint=guard)
            for _ in range(2):
                router.completion(model="g", messages=HI)

        assert len(server.requests) == 1

    def test_calls_at_once_ask_once(self, guard_of):
        """Identical calls at the same time wait for the first."""
        guard_of(cache={"enabled": True})
        with FaultServer(lambda request: Answer("Hello", usage=(1, 10), delay_s=0.2)) as server:
            asked = {**self.ASKED, "api_base": server.url}

            async def work():
                return await asyncio.gather(*(guarded.acompletion(**asked) for _ in range(5)))

            answers = asyncio.run(closing_clients(work()))

        assert {answer.choices[0].message.content for answer in answers} == {"Hello"}
        assert len(server.requests) == 1


class TestKeys:
    """A key of ours is handed over only where LiteLLM would not find one itself."""

    @pytest.fixture
    def used(self, monkeypatch, guard_of):
        """What the server was shown, for a call without a key of its own."""

        def ask(environ, *, stored=None, **more):
            for name, value in environ.items():
                monkeypatch.setenv(name, value)
            guard = guard_of()
            if stored:
                guard.runtime.credentials.set("openai", stored)
            with serving(Endpoints) as (server, url):
                guarded.completion(model="openai/gpt-4o", messages=HI, api_base=url, max_retries=0, **more)
            return server.asked[0][2].removeprefix("Bearer ")

        return ask

    OURS, THEIRS, OWN = (f"sk-{name}-0123456789abcdefghij" for name in ("ours", "theirs", "own"))

    def test_a_variable_of_ours(self, used):
        """`BLUEPRINT_OPENAI_API_KEY` is used."""
        assert used({"BLUEPRINT_OPENAI_API_KEY": self.OURS}) == self.OURS

    def test_the_credentials_file(self, used):
        """A stored key is used."""
        assert used({}, stored=self.OURS) == self.OURS

    def test_litellms_variable_comes_before_the_file(self, used):
        """What LiteLLM finds itself it uses."""
        assert used({"OPENAI_API_KEY": self.THEIRS}, stored=self.OURS) == self.THEIRS

    def test_the_calls_own_wins(self, used):
        """Over everything."""
        assert used({"BLUEPRINT_OPENAI_API_KEY": self.OURS}, stored=self.OURS, api_key=self.OWN) == self.OWN

    def test_none_is_litellms_to_say(self, used):
        """Without any key LiteLLM's own error comes."""
        with pytest.raises(litellm.InternalServerError, match="Missing credentials"):
            used({})


def test_fallbacks_of_a_call_reserve_for_the_dearest(guard_of):
    """A module's call with `fallbacks` may end at any of its models: the dearest must fit."""
    guard_of(budgets=[{"scope": "project", "limit_usd": 0.01, "window": "day"}])
    asked = {"messages": HI, "max_tokens": 500, "mock_response": "hi"}

    guarded.completion(model="openai/gpt-4o-mini", **asked)
    with pytest.raises(litellm.BudgetExceededError):
        guarded.completion(model="openai/gpt-4o-mini", fallbacks=["anthropic/claude-opus-4-5"], **asked)


def test_a_cap_is_sent_where_a_budget_needs_one(guard_of):
    """Without a cap of the caller's, one goes with every endpoint that writes; otherwise the request is as written."""
    seen = {}
    for budget in ([], [{"scope": "project", "limit_usd": 10, "window": "day"}]):
        guard_of(budgets=budget)
        with serving(Endpoints) as (server, url):
            guarded.completion(**asked_of(url, model="openai/gpt-4o", messages=HI))
            guarded.responses(**asked_of(url, model="openai/gpt-4o", input="hi"))
            guarded.embedding(**asked_of(url, model="openai/text-embedding-3-small", input="hi"))
        seen[bool(budget)] = [
            {name for name in body if name in {"max_tokens", "max_completion_tokens", "max_output_tokens"}}
            for _, body, _ in server.asked
        ]

    assert seen == {False: [set(), set(), set()], True: [{"max_tokens"}, {"max_output_tokens"}, set()]}


def test_the_store_is_closed_with_the_guard(guard_of):
    """Nothing stays reserved once everything has ended."""
    guard = guard_of(budgets=[{"scope": "project", "limit_usd": 1, "window": "day"}])
    with FaultServer([BrokenTool(), Answer("Hello", usage=(1, 10))]) as server:
        asked = {"model": "openai/gpt-4o", "messages": HI, "api_base": server.url, "tools": [TOOL], **PRICED}
        with pytest.raises(litellm.APIResponseValidationError):
            guarded.completion(**asked)
        guarded.completion(**asked)

    charges = guard.runtime.ledger.lasting()
    (level,) = [level for level in run(guard.runtime.store.levels(charges)) if level.charge.kind == "usd"]
    assert level.used == sum(row.cost_nano for row in rows_of(guard))


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("stream", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["whole", "stream"])
def test_a_long_call_stays_reserved(kind, stream, guard_of):
    """Nothing of ours bounds how long LiteLLM takes: what is under way counts for longer than a reservation lives."""
    guard = guard_of(store={"url": "memory", "reservation_ttl_s": 0.3})
    with FaultServer(lambda request: Answer("Hello", usage=(1, 10), delay_s=1.2)) as server:
        params = {"model": "openai/gpt-4o", "api_base": server.url, "max_parallel_requests": 1, **PRICED}
        listed = [{"model_name": "g", "litellm_params": params, "model_info": {"id": "one"}}]
        # Two of them, as in two processes: one alone waits by itself.
        first, second = (Router(listed, num_retries=0, blueprint=guard) for _ in range(2))

        def call():
            if kind == "async":
                return asyncio.run(closing_clients(answer()))
            found = first.completion(model="g", messages=HI, stream=stream)
            return list(found) if stream else found

        async def answer():
            return await consumed(await first.acompletion(model="g", messages=HI, stream=stream))

        with ThreadPoolExecutor(1) as pool:
            under_way = pool.submit(call)
            server.wait_until(lambda requests: requests)
            time.sleep(0.7)  # longer than a reservation lives without a heartbeat
            with pytest.raises(litellm.RateLimitError):
                second.completion(model="g", messages=HI)
            under_way.result()

    assert [(row.category, row.maybe_billed) for row in rows_of(guard)] == [(None, False)]


class TestDeployments:
    """The limits of a Router's deployments hold under concurrency."""

    def router(self, guard, url, *, default=None, **limits):
        """A Router with one limited deployment."""
        params = {"model": "openai/gpt-4o", "api_base": url, "api_key": KEY, **limits}
        more = {} if default is None else {"default_max_parallel_requests": default}
        return Router([{"model_name": "g", "litellm_params": params}], num_retries=0, blueprint=guard, **more)

    def crowd(self, router, *, size, **more):
        """How `size` calls at the same time end."""

        async def one():
            try:
                await consumed(await router.acompletion(model="g", messages=HI, **{"max_tokens": 10, **more}))
            except litellm.RateLimitError:
                return False
            return True

        async def run_all():
            return await asyncio.gather(*(one() for _ in range(size)))

        return asyncio.run(closing_clients(run_all()))

    @pytest.mark.parametrize(
        ("limits", "passed"),
        [({"rpm": 3}, 3), ({"tpm": 2 * (demand({"messages": HI}).input_tokens + MANY)}, 2)],
        ids=["rpm", "tpm"],
    )
    def test_a_minutes_limit_holds(self, limits, passed, guard_of):
        """`rpm: 3`: three of eight at once reach the server; `tpm` counts what was reserved."""
        guard = guard_of()
        with FaultServer(lambda request: Answer("Hello", usage=(1, 10), delay_s=0.1)) as server:
            answered = self.crowd(self.router(guard, server.url, **limits), size=8, max_tokens=MANY)

        assert len(server.requests) == sum(answered) == passed

    @pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
    @pytest.mark.parametrize("how", ["deployment", "default"])
    def test_no_more_than_two_are_under_way(self, how, stream, guard_of):
        """`max_parallel_requests: 2`: of eight calls at once never more than two are at the server."""
        guard = guard_of()
        limits = {"max_parallel_requests": 2} if how == "deployment" else {}
        with FaultServer(lambda request: Answer("Hello", usage=(1, 10), delay_s=0.1)) as server:
            router = self.router(guard, server.url, default=2 if how == "default" else None, **limits)
            first = self.crowd(router, size=8, stream=stream)

        at = sorted(request.at for request in server.requests)
        assert 2 <= sum(first) == len(server.requests)
        assert all(later - earlier >= 0.09 for earlier, later in zip(at, at[2:], strict=False))
        assert run(guard.runtime.store.levels(parallel_of(guard, router)))[0].used == 0

    def test_two_guards_on_one_store_share_a_limit(self, guard_of, tmp_path):
        """As two processes would."""
        stores = {"store": {"url": f"sqlite:{tmp_path / 'ledger.sqlite'}"}}
        with FaultServer(lambda request: Answer("Hello", usage=(1, 10))) as server:
            answered = [self.crowd(self.router(guard_of(**stores), server.url, rpm=3), size=4) for _ in range(2)]

        assert len(server.requests) == 3
        assert sum(map(sum, answered)) == 3


def parallel_of(guard, router):
    """The charge that counts what is under way at the Router's deployment."""
    (deployment,) = router.registry().deployments()
    (rule,) = of_attempt(deployment["model_info"]["id"], {"max_parallel_requests": 2})
    return [charge_for(rule, Payer(call_id="", provider="", model=""), 0)]


def test_a_call_is_of_its_own_deployment(guard_of):
    """Two deployments of one group and address are two targets, each the same object for every call that is equal."""
    runtime = guard_of().runtime

    def asked(deployment, **info):
        model_info = {"id": deployment, **info}
        return target_of(runtime, {"model": "openai/x", "metadata": {"model_group": "g"}, "model_info": model_info})

    one, other, dearer = asked("a"), asked("b"), asked("a", input_cost_per_token=1)

    assert (one.deployment, other.deployment) == ("a", "b")
    assert asked("b") is other
    assert (one.info, dearer.info) == ({"id": "a"}, {"id": "a", "input_cost_per_token": 1})


@pytest.mark.parametrize("options", [None, {"include_usage": True}], ids=["unasked", "asked"])
def test_a_streams_usage_is_booked_and_shown_to_who_asked(guard_of, options):
    """The guard asks for it anyway; the chunk that brings it is the caller's only where the caller wants it."""
    guard = guard_of()
    with FaultServer(default=Answer("hello")) as server:
        asked = asked_of(server.url, model="openai/gpt-4o", messages=HI, stream=True)
        chunks = list(guarded.completion(**asked, **({"stream_options": options} if options else {})))

    told = [chunk for chunk in chunks if getattr(chunk, "usage", None) is not None]
    assert bool(told) == (options is not None)
    assert chunks[-1 - len(told)].choices[0].finish_reason == "stop"
    assert rows_of(guard)[0].usage_source == "provider"


ENDS = ("stop", "length", "tool_calls", "content_filter", "error")
TEXTS = ("hello", "", " ", None, "<tool_call>{}", '{"open": ', "\ud83d")
ASIDES = {
    "nothing": {},
    "a call": {"tool_calls": [{"id": "c", "type": "function", "function": {"name": "x", "arguments": "{"}}]},
    "a legacy call": {"function_call": {"name": "x", "arguments": "{"}},
    "a refusal": {"provider_specific_fields": {"refusal": "no"}},
}
NATIVE = ({}, {"provider_specific_fields": {"native_finish_reason": "safety"}})


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("aside", ASIDES)
def test_what_is_plain_would_pass_the_validator(end, aside):
    """An answer that is handed over unread is one that nothing could be said against, and no refusal."""
    plain = []
    for text, native in itertools.product(TEXTS, NATIVE):
        message = {"role": "assistant", "content": text, **ASIDES[aside]}
        answer = litellm.ModelResponse(choices=[{"index": 0, "finish_reason": end, "message": message, **native}])
        if is_plain(answer, {}):
            reader = AnswerReader(StreamingHandler(), provider="p", model="m")
            reader.read_whole(answer)
            _, refusal = reader.close(None, "terminal")
            assert refusal is None
            plain.append(text)
            assert not is_plain(answer, {"response_format": {"type": "json_object"}})

    assert ("hello" in plain) == (end == "stop" and "call" not in aside)
    assert not {"", " ", None} & {*plain}
