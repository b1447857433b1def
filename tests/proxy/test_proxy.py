"""A real LiteLLM proxy with the plugin, driven by the vendor's client."""

import asyncio
import re
import urllib.error
import urllib.request
from pathlib import Path

import openai
import proxied
import pytest
from canary import find_canary
from endpoint_server import READ, WRITTEN
from proxied import CAP, MASTER_KEY, UPSTREAM_KEY, USED

from blueprint_llm.testing import Answer, BrokenTool, Cut, Status, ToolUse, numbered_text

pytestmark = pytest.mark.proxy

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
WEATHER = Answer("", tool_calls=(ToolUse("get_weather", {"city": "Paris"}, id="call_1"),), usage=(12, USED))


def asking(project, number=0, **more):
    """A request of one project; every number is another question, in a session of its own."""
    return {
        "model": "gpt",
        "messages": [{"role": "user", "content": f"{project} {number}"}],
        "metadata": {"project": project, "session_id": f"{project}-{number}"},
        "max_tokens": CAP,
        **more,
    }


def heard(stream):
    """A stream's text, and its finish reason."""
    choices = [choice for chunk in stream for choice in chunk.choices]
    text = "".join(choice.delta.content or "" for choice in choices)
    return text, next((choice.finish_reason for choice in choices if choice.finish_reason), None)


async def crowd(proxies, project, *, stream, size=50):
    """`size` calls at the same time, spread over the proxies: what became of each."""
    clients = [proxy.client(openai.AsyncOpenAI) for proxy in proxies]

    async def one(number):
        try:
            answer = await clients[number % len(clients)].chat.completions.create(
                **asking(project, number, stream=stream)
            )
            return (
                "".join([c.choices[0].delta.content or "" async for c in answer if c.choices])
                if stream
                else (answer.choices[0].message.content)
            )
        except openai.APIStatusError as error:
            return error

    try:
        return await asyncio.gather(*map(one, range(size)))
    finally:
        for client in clients:
            await client.close()


@pytest.mark.parametrize("stream", [pytest.param(False, id="whole"), pytest.param(True, id="streamed")])
async def test_budget_holds_under_concurrent_calls(proxy, upstream, stream):
    """Of 50 calls at once exactly the ten that the budget pays for reach the provider; the others hear of the limit."""
    project = f"crowd{stream}"

    results = await crowd([proxy], project, stream=stream)

    refused = [result for result in results if not isinstance(result, str)]
    assert [result for result in results if isinstance(result, str)] == ["Hello"] * 10
    assert len(upstream.asked(project)) == 10
    assert {(error.status_code, error.body["type"]) for error in refused} == {(422, "budget_exceeded")}
    told = re.compile(
        r"budget of project would be exceeded: [01]\.\d+ of 1\.040000 USD used or reserved; resets at \S+Z"
    )
    assert all(told.match(error.body["message"]) for error in refused)
    assert proxy.usage(project).cost_usd == pytest.approx(0.95)


async def test_two_proxies_share_a_budget(pair, upstream):
    """Proxies with one Redis between them let ten calls through together, not ten each."""
    results = await crowd(pair, "shared", stream=False)

    assert sum(isinstance(result, str) for result in results) == 10
    assert len(upstream.asked("shared")) == 10


def test_quota_refuses_with_429(proxy, upstream):
    """A session's fourth request is told when the quota resets, as a rate limit is."""
    for seed in range(3):
        proxy.ask(**asking("quota"), seed=seed)

    with pytest.raises(openai.RateLimitError) as refusal:
        proxy.ask(**asking("quota"), seed=3)

    assert refusal.value.body["message"].startswith("quota of session is used up: 3 of 3 requests; resets at ")
    assert int(refusal.value.response.headers["retry-after"]) > 0
    assert len(upstream.asked("quota")) == 3


def test_valid_tool_call_passes_unchanged(proxy, upstream):
    """A sound call arrives in its pieces, with the provider's id, and its finish reason after it."""
    upstream.steps["tools"] = WEATHER

    chunks = list(proxy.chunks(**asking("tools", tools=[TOOL])))

    pieces = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    assert "".join(piece.function.arguments for piece in pieces) == '{"city": "Paris"}'
    assert len(pieces) > 1
    assert (pieces[0].id, pieces[0].function.name) == ("call_1", "get_weather")
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "tool_calls"
    assert all(chunk.usage is None for chunk in chunks)


def test_malformed_streamed_tool_call_is_an_error_event(proxy, upstream):
    """Not a piece of a broken call reaches the client: the stream ends with an error, the provider's is closed."""
    broken = ToolUse("get_weather", '{"city": Paris' + " " * 4000)
    upstream.steps["broken"] = Answer("Let me look.", tool_calls=(broken,), pace_s=0.01, usage=(12, USED))
    seen = []

    with pytest.raises(openai.APIError) as error:
        seen.extend(proxy.chunks(**asking("broken", tools=[TOOL])))

    assert "in the arguments of 'get_weather'" in error.value.message
    assert error.value.body["code"] == "502"
    assert "".join(choice.delta.content or "" for chunk in seen for choice in chunk.choices) == "Let me look."
    assert not [chunk for chunk in seen for choice in chunk.choices if choice.delta.tool_calls or choice.finish_reason]
    upstream.wait_until(lambda requests: all(each.closed_early_at for each in requests if "broken" in str(each.body)))
    assert [row.category for row in proxy.rows("broken")] == ["malformed"]


def test_malformed_whole_tool_call_is_refused(proxy, upstream):
    """A broken call in one piece is an error, and was paid for."""
    upstream.steps["whole"] = BrokenTool()

    with pytest.raises(openai.InternalServerError, match="in the arguments of 'get_weather'"):
        proxy.ask(**asking("whole", tools=[TOOL]))

    assert [row.category for row in proxy.rows("whole")] == ["malformed"]


def test_stream_without_proof_of_its_end_is_an_error_event(proxy, upstream):
    """A connection that just ends is no answer, though LiteLLM makes up a finish reason for it."""
    upstream.steps["cut"] = Cut(3, answer=Answer(numbered_text(10)))
    seen = []

    with pytest.raises(openai.APIError, match="ended before a finish_reason"):
        seen.extend(proxy.chunks(**asking("cut")))

    assert heard(seen) == ("word0 word1 word2 ", None)
    assert [row.category for row in proxy.rows("cut")] == ["stream_broken"]


def test_hit_comes_from_our_cache(proxy, upstream):
    """The second of two equal requests is answered without the provider, whole or streamed, and costs nothing."""
    question = asking("cache")
    first = proxy.ask(**question)
    with proxy.client() as client:
        told = client.chat.completions.with_raw_response.create(**question)
    again = told.parse()

    assert again.choices[0].message.content == first.choices[0].message.content == "Hello"
    assert again.usage.total_tokens == first.usage.total_tokens
    assert float(told.headers.get("x-litellm-response-cost", 0)) == 0
    assert heard(proxy.chunks(**question)) == ("Hello", "stop")
    assert len(upstream.asked("cache")) == 1
    stats = proxy.usage("cache", calls=3)
    assert (stats.cache_hits, stats.cost_usd) == (2, pytest.approx(0.095))


def test_streamed_tool_call_comes_again_from_the_cache(proxy, upstream):
    """A hit for a stream of a tool call has the call."""
    upstream.steps["toolcache"] = WEATHER
    question = asking("toolcache", tools=[TOOL])
    first, again = (list(proxy.chunks(**question)) for _ in range(2))

    calls = [call for chunk in again for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    assert "".join(call.function.arguments for call in calls).replace(" ", "") == '{"city":"Paris"}'
    assert calls[0].id == "call_1"
    assert heard(again) == heard(first)
    assert len(upstream.asked("toolcache")) == 1


def test_abandoned_stream_is_closed_and_settled(proxy, upstream):
    """Who leaves in mid-stream frees the provider at once; what was seen is paid, and no reservation stays."""
    upstream.steps["leave"] = Answer(numbered_text(2000), pace_s=0.01)

    chunks = proxy.chunks(**asking("leave"))
    next(chunks)
    chunks.close()

    upstream.wait_until(lambda requests: any(each.closed_early_at for each in requests if "leave" in str(each.body)))
    assert proxy.usage("leave", calls=1).calls == 1
    assert [(row.category, row.maybe_billed) for row in proxy.rows("leave")] == [("abandoned", True)]


def test_abandoned_whole_call_is_settled(proxy, upstream):
    """A client that hangs up before the answer leaves no reservation either."""
    upstream.steps["hangup"] = Answer("late", delay_s=60)

    with pytest.raises(openai.APITimeoutError):
        proxy.ask(**asking("hangup"), timeout=1.0)

    assert proxy.usage("hangup", calls=1).calls == 1
    assert [row.category for row in proxy.rows("hangup")] == ["abandoned"]


@pytest.mark.parametrize("way", ["ask", "chunks"])
def test_failed_call_costs_nothing(proxy, upstream, way):
    """The provider's refusal passes as it is, and its reservation is given back."""
    upstream.steps[f"failed-{way}"] = Status(500, "boom")

    with pytest.raises(openai.InternalServerError, match="boom"):
        list(getattr(proxy, way)(**asking(f"failed-{way}")))

    rows = proxy.rows(f"failed-{way}")
    assert [(row.category, row.cost_nano) for row in rows] == [("unavailable", 0)]


def test_no_key_in_what_the_proxy_writes(proxy, upstream):
    """Neither the master key nor the provider's is in the proxy's output, after all of this and an error besides."""
    upstream.steps["leak"] = Status(401, f"Incorrect API key provided: {UPSTREAM_KEY}")

    with pytest.raises(openai.APIStatusError) as error:
        proxy.ask(**asking("leak"))

    assert "POST /v1/chat/completions" in proxy.log
    for key in (MASTER_KEY, UPSTREAM_KEY):
        assert not find_canary(proxy.log, key)
        assert not find_canary(str(error.value), key)


def test_other_endpoints_are_booked_and_limited(proxy, endpoints):
    """Responses, messages and embeddings are booked as their answers say, whole or streamed, and refused by a quota."""
    told = {"metadata": {"project": "others", "session_id": "o-1"}}
    with proxy.client(default_headers={"x-litellm-spend-logs-metadata": "{}"}) as client:
        client.responses.create(model="responses", input="hi", metadata=told["metadata"])
        list(client.responses.create(model="responses", input="hi", stream=True, metadata=told["metadata"]))
        client.embeddings.create(model="embeddings", input="hi", encoding_format="float", extra_body=told)
        with pytest.raises(openai.RateLimitError, match="quota of session is used up"):
            client.embeddings.create(model="embeddings", input="hi", encoding_format="float", extra_body=told)

    rows = [(row.prompt_tokens, row.completion_tokens, row.category) for row in proxy.rows("others")]
    assert rows == [(READ, 0, None), (READ, WRITTEN, None), (READ, WRITTEN, None)]
    assert len(endpoints.asked) == 3


@pytest.mark.parametrize("stream", [pytest.param(False, id="whole"), pytest.param(True, id="streamed")])
def test_messages_are_booked(proxy, endpoints, stream):
    """Anthropic's own route, too."""
    project = f"messages{stream}"
    asked = {"model": "claude", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    answer = proxy.post("/v1/messages", {**asked, "litellm_metadata": {"project": project}})

    assert "hi" in answer
    assert [(row.prompt_tokens, row.completion_tokens) for row in proxy.rows(project)] == [(READ, WRITTEN)]


@pytest.mark.parametrize("stream", [pytest.param(False, id="whole"), pytest.param(True, id="streamed")])
@pytest.mark.parametrize(("arguments", "is_valid"), [('{"city": "Paris"}', True), ('{"town": "Paris"}', False)])
@pytest.mark.parametrize("route", ["responses", "messages"])
def test_calls_of_other_endpoints_are_checked(proxy, endpoints, route, arguments, is_valid, stream):
    """A tool call reaches the client of either route complete and valid, or not at all."""
    endpoints.call, schema = ("get_weather", arguments), TOOL["function"]["parameters"]
    if route == "responses":
        tool = {"type": "function", "name": "get_weather", "parameters": schema}
        asked = {"model": "responses", "input": "hi"}
    else:
        tool = {"name": "get_weather", "input_schema": schema}
        asked = {"model": "claude", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
    project = f"{route}{stream}{is_valid}"
    account = {"project": project, "session_id": project}
    told = {"metadata": account} if route == "responses" else {"litellm_metadata": account}
    try:
        said = proxy.post(f"/v1/{route}", {**asked, **told, "tools": [tool], "stream": stream})
    except urllib.error.HTTPError as error:
        said = error.read().decode()

    assert ("Paris" in said) == is_valid
    assert {row.category for row in proxy.rows(project)} == {None if is_valid else "malformed"}


def test_the_file_of_the_page_starts_a_proxy(upstream, tmp_path):
    """The file in docs/proxy.md is a proxy's as it stands, its master key included."""
    page = (Path(__file__).parents[2] / "docs" / "proxy.md").read_text()
    (shown,) = re.findall(r"```yaml\n(model_list:(?:(?!```).)*callbacks: \[blueprint_llm.*?)```", page, re.DOTALL)
    with proxied.started(tmp_path / "page", shown, LITELLM_MASTER_KEY=MASTER_KEY, OPENAI_API_KEY=UPSTREAM_KEY) as url:
        request = urllib.request.Request(f"{url}/v1/models", headers={"Authorization": f"Bearer {MASTER_KEY}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert b"gpt-4o" in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{url}/v1/models", timeout=30)
