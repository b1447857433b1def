"""What callers see of the cache: one entry for both ways of calling, only finished answers, nothing spent on a hit."""

import asyncio
import contextlib
import json
import subprocess
import sys
import time

import pytest
from asking import KINDS, asking
from driving import KEY

from blueprint_llm.cache import CacheManager
from blueprint_llm.config import load_config
from blueprint_llm.errors import CallError
from blueprint_llm.secret import Secret
from blueprint_llm.testing import (
    Answer,
    BrokenTool,
    Cut,
    Empty,
    FaultServer,
    NotJson,
    ScriptedAdapter,
    Status,
    ToolUse,
)

MESSAGES = [{"role": "user", "content": "What is a cache?"}]
TOOL = {
    "name": "read",
    "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
}


def configured(url="http://127.0.0.1:9/v1", *, cache=None, **blueprint):
    """One provider with the cache on."""
    block = {
        "providers": {"p0": {"model": "openai/gpt-4o", "api_base": url, "api_key": KEY}},
        "cache": {"enabled": True, **(cache or {})},
        "retry": {"max_attempts": 1},
        "streaming": {"reask": 0},
        **blueprint,
    }
    return {"blueprint": block}


@pytest.fixture(params=KINDS)
def kind(request):
    """Either client."""
    return request.param


@pytest.fixture
def p0():
    """A provider that always answers."""
    return ScriptedAdapter(default=Answer("A store of answers.", usage=(12, 9)))


def text(chunks):
    """What a stream said."""
    return "".join(chunk.delta for chunk in chunks)


def test_the_second_call_is_a_hit(kind, p0):
    """The same answer without a request: marked, traced, free, its saved cost counted, its key no secret."""
    with asking(kind, configured(), adapters={"p0": p0}) as ask:
        first, second = ask.chat(messages=MESSAGES), ask.chat(messages=MESSAGES)
        usage = ask.client.get_usage()

    assert len(p0.calls) == 1
    assert (first.metadata["cached"], second.metadata["cached"]) == (False, True)
    assert (second.content, second.finish_reason) == (first.content, "stop")
    assert (second.provider, second.model) == ("p0", "openai/gpt-4o")
    assert (second.usage.prompt_tokens, second.usage.estimated_cost) == (12, 0.0)
    assert first.trace["cache"] == {"hit": False, "key": second.trace["cache"]["key"]}
    assert second.trace["cache"]["hit"]
    assert (second.trace["attempts"], second.trace["served_by"]) == ([], "p0/openai/gpt-4o")
    assert (usage.calls, usage.cache_hits) == (2, 1)
    assert usage.saved_usd == pytest.approx(first.usage.estimated_cost)
    assert usage.cost_usd == pytest.approx(first.usage.estimated_cost)
    json.dumps(second.trace)


def test_hits_are_counted_however_quick_they_come(kind, p0):
    """Rows are written in groups; none is lost when the usage is asked for or the client closed."""
    with asking(kind, configured(), adapters={"p0": p0}) as ask:
        for _ in range(6):
            ask.chat(messages=MESSAGES)
        assert ask.client.get_usage().cache_hits == 5
        ask.chat(messages=MESSAGES)
        ask.chat(messages=MESSAGES)
    with asking(kind, configured(), adapters={"p0": p0}) as ask:
        assert ask.client.get_usage().cache_hits == 7
        ask.client.reset_usage()
        assert ask.client.get_usage().cache_hits == 0


def test_entries_outlive_the_client_and_the_process(p0):
    """Another client finds what the first one kept; the blocking one what the other one kept."""
    with asking("async", configured(), adapters={"p0": p0}) as ask:
        ask.chat(messages=MESSAGES)
    with asking("sync", configured(), adapters={"p0": p0}) as ask:
        assert ask.chat(messages=MESSAGES).metadata["cached"]


def test_a_stream_is_replayed_delta_by_delta(kind, p0):
    """The deltas come as they came, then one last chunk; the whole answer is a hit too, and of the same entry."""
    with asking(kind, configured(), adapters={"p0": p0}) as ask:
        first, _ = ask.stream(messages=MESSAGES)
        second, response = ask.stream(messages=MESSAGES)
        whole = ask.chat(messages=MESSAGES)

    assert len(p0.calls) == 1
    assert len(first) > 3
    assert [chunk.delta for chunk in second] == [chunk.delta for chunk in first]
    assert [chunk.is_done for chunk in second] == [False] * (len(first) - 1) + [True]
    assert response.metadata["cached"]
    assert whole.metadata["cached"]
    assert whole.content == text(first)


def test_a_whole_answer_is_replayed_as_a_stream(kind, p0):
    """The text in one piece, then the last chunk."""
    with asking(kind, configured(), adapters={"p0": p0}) as ask:
        whole = ask.chat(messages=MESSAGES)
        chunks, response = ask.stream(messages=MESSAGES)

    assert len(p0.calls) == 1
    assert [chunk.delta for chunk in chunks] == [whole.content, ""]
    assert chunks[-1].is_done
    assert response.metadata["cached"]


@pytest.mark.parametrize("streamed_first", [True, False])
def test_tool_calls_are_kept(kind, streamed_first):
    """Complete, valid calls come back in both ways of calling, the pieces as they came or in one."""
    p0 = ScriptedAdapter([Answer("", tool_calls=(ToolUse("read", {"path": "a/long/path.txt"}, id="c1"),))])
    with asking(kind, configured(), adapters={"p0": p0}) as ask:
        asked = {"messages": MESSAGES, "tools": [TOOL]}
        first = ask.stream(**asked)[1] if streamed_first else ask.chat(**asked)
        chunks, streamed = ask.stream(**asked)
        whole = ask.chat(**asked)

    assert [call.arguments for call in first.tool_calls] == [{"path": "a/long/path.txt"}]
    assert whole.tool_calls == streamed.tool_calls == list(chunks[-1].tool_calls) == first.tool_calls
    pieces = "".join(chunk.tool_call.arguments_delta for chunk in chunks if chunk.tool_call)
    assert pieces == '{"path": "a/long/path.txt"}'


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(Status(500), id="error"),
        pytest.param(Status(400), id="refused"),
        pytest.param(Answer("cut", finish_reason="length"), id="cut by length"),
        pytest.param(Answer("no", finish_reason="content_filter"), id="filtered"),
        pytest.param(Empty(), id="empty"),
        pytest.param(NotJson(), id="no JSON"),
        pytest.param(Cut(2), id="cut stream"),
        pytest.param(Cut(2, abrupt=True), id="cut connection"),
        pytest.param(BrokenTool(name="read", arguments='{"path": 1}'), id="invalid tool call"),
        pytest.param(Answer("", tool_calls=(ToolUse("write", {}),)), id="unknown tool"),
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
def test_what_is_not_finished_is_never_kept(kind, step, streamed):
    """The same call asks again."""
    p0 = ScriptedAdapter([step], default=Answer("Fine."))
    with asking(kind, configured(), adapters={"p0": p0}) as ask:
        for _ in range(2):
            with contextlib.suppress(CallError):
                (ask.stream if streamed else ask.chat)(messages=MESSAGES, tools=[TOOL])
        last = ask.chat(messages=MESSAGES, tools=[TOOL])

    assert len(p0.calls) == 2
    assert (last.content, last.metadata["cached"]) == ("Fine.", True)


def test_cut_streams_over_a_real_connection(kind, litellm_warm):
    """Also where LiteLLM makes up the end of an answer."""
    with FaultServer([Cut(3), Answer("Whole.")]) as server:
        with asking("sync", configured(server.url)) as ask:
            with pytest.raises(CallError):
                ask.stream(messages=MESSAGES)
            assert text(ask.stream(messages=MESSAGES)[0]) == "Whole."
            assert ask.stream(messages=MESSAGES)[1].metadata["cached"]
        assert len(server.requests) == 2


@pytest.mark.parametrize("streamed", [True, False])
def test_raw_is_rebuilt(streamed, litellm_warm):
    """LiteLLM's own object of a hit says what the first one said."""
    answer = Answer("Hello there", usage=(5, 3))
    with FaultServer([answer]) as server, asking("sync", configured(server.url)) as ask:
        first = ask.stream(messages=MESSAGES)[1] if streamed else ask.chat(messages=MESSAGES)
        second = ask.chat(messages=MESSAGES)

        assert second.metadata["cached"]
        assert type(second.raw) is type(first.raw)
        assert second.raw.choices[0].message.content == "Hello there"
        assert second.raw.usage.total_tokens == 8


class TwoChoices:
    """A provider that streams two answers to one request."""

    provider, ready, hidden_params = "p0", True, {}

    def __init__(self):
        deltas = [(0, "On", None), (1, "Tw", None), (0, "e", "stop"), (1, "o", "stop")]
        self._chunks = [
            {"choices": [{"index": n, "delta": {"content": text}, "finish_reason": end}]} for n, text, end in deltas
        ]

    async def open(self, call):
        """The stream is this object itself."""
        return self

    def __aiter__(self):
        return self

    async def __anext__(self):
        """The next chunk."""
        if not self._chunks:
            raise StopAsyncIteration
        return self._chunks.pop(0)

    async def aclose(self):
        """Nothing to close."""

    def usage(self):
        """None was sent."""

    def cost_of(self, answer, call):
        """Nobody knows."""

    def as_whole(self, merged):
        """Nothing is missing."""
        return merged

    def ended_by(self):
        """It said so."""
        return "terminal"


def test_all_choices_are_kept(litellm_warm):
    """With several answers to one request, `raw` has them all."""
    with asking("sync", configured(cache={"nondeterministic": True}), adapters={"p0": TwoChoices()}) as ask:
        ask.stream(messages=MESSAGES, n=2)
        again = ask.chat(messages=MESSAGES, n=2)

    assert again.metadata["cached"]
    assert [choice.message.content for choice in again.raw.choices] == ["One", "Two"]
    assert [choice.index for choice in again.raw.choices] == [0, 1]


def test_a_caller_may_bypass_the_cache(kind, p0):
    """`cache=False` neither reads nor keeps."""
    with asking(kind, configured(), adapters={"p0": p0}) as ask:
        answers = [ask.chat(messages=MESSAGES, cache=each) for each in (False, None, False, True)]

    assert [answer.metadata["cached"] for answer in answers] == [False, False, False, True]
    assert answers[0].trace["cache"] == {"hit": False, "key": None}
    assert len(p0.calls) == 3


def test_the_cache_is_off_unless_enabled(kind, p0, bare_environment):
    """Without the configuration's word nothing is kept, nor even a folder made."""
    with asking(kind, configured(cache={"enabled": False}), adapters={"p0": p0}) as ask:
        assert ask.client.explain(messages=MESSAGES).cache == "off"
        assert [ask.chat(messages=MESSAGES).metadata["cached"] for _ in range(2)] == [False, False]
    assert not list(bare_environment.rglob("cache.db"))


def test_explain_says_what_would_be_found(kind, p0):
    """hit, miss or off; asking changes nothing."""
    with asking(kind, configured(), adapters={"p0": p0}) as ask:
        before = ask.client.explain(messages=MESSAGES).cache
        ask.chat(messages=MESSAGES)
        found = [
            ask.client.explain(messages=MESSAGES, **more).cache for more in ({}, {"cache": False}, {"temperature": 1})
        ]

    assert (before, found) == ("miss", ["hit", "off", "off"])
    assert len(p0.calls) == 1


def test_a_call_has_its_own_time_to_live(kind, p0):
    """`cache_ttl_s` is how long an answer is kept, and the oldest that will do."""
    with asking(kind, configured(), adapters={"p0": p0}) as ask:
        clock = [1000.0]
        ask.client._runtime.clock = ask.client._runtime.cache._clock = lambda: clock[0]
        ask.chat(messages=MESSAGES)
        clock[0] += 60
        assert ask.chat(messages=MESSAGES, cache_ttl_s=100).metadata["cached"]
        assert not ask.chat(messages=MESSAGES, cache_ttl_s=30).metadata["cached"]
        assert ask.chat(messages=MESSAGES, cache_ttl_s=30).metadata["cached"]


def other(url="http://127.0.0.1:9/v1", **provider):
    """A configuration with another provider entry."""
    config = configured(url)
    config["blueprint"]["providers"]["p0"] |= provider
    return config


@pytest.mark.parametrize(
    ("config", "request_"),
    [
        pytest.param(other("http://127.0.0.1:9/v2"), {}, id="api_base"),
        pytest.param(other(api_key="sk-another-0123456789"), {}, id="credential"),
        pytest.param(other(organization="o"), {}, id="a deployment's parameter"),
        pytest.param(other(max_context_tokens=900), {}, id="window"),
        pytest.param(other(), {"project": "other"}, id="project"),
        pytest.param(other(), {"extra_headers": {"X": "2"}}, id="extra_headers"),
        pytest.param(other(), {"extra_body": {"x": 2}}, id="extra_body"),
        pytest.param(other(), {"brand_new": 2}, id="unknown parameter"),
        pytest.param(other(), {"seed": 2}, id="seed"),
        pytest.param(other(), {"tools": [TOOL]}, id="tools"),
        pytest.param(other(), {"response_format": {"type": "text"}}, id="response_format"),
        pytest.param(other(), {"max_tokens": 50}, id="max_tokens"),
        pytest.param(other(), {"api_key": "sk-of-the-call-0123456"}, id="a call's own key"),
        pytest.param(other(), {"context": [{"kind": "user", "source": "s", "text": "t"}]}, id="context"),
        pytest.param(other(), {"model": "openai/gpt-4o-mini", "provider": "p0"}, id="model"),
    ],
)
def test_no_wrong_hits(p0, config, request_):
    """Whatever else is asked, of whomever, with whatever key: another call."""
    with asking("sync", configured(), adapters={"p0": p0}) as ask:
        ask.chat(messages=MESSAGES)
    with asking("sync", config, adapters={"p0": p0}) as ask:
        assert not ask.chat(messages=MESSAGES, **request_).metadata["cached"]
        assert ask.chat(messages=MESSAGES, **request_).metadata["cached"]

    assert len(p0.calls) == 2


def test_the_address_in_the_environment_counts(p0, monkeypatch):
    """An address that a variable names is an address."""
    config = configured()
    config["blueprint"]["providers"]["p0"]["api_base"] = "os.environ/MY_BASE"
    found = []
    for url in ("http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1", "http://127.0.0.1:1/v1"):
        monkeypatch.setenv("MY_BASE", url)
        with asking("sync", config, adapters={"p0": p0}) as ask:
            found.append(ask.chat(messages=MESSAGES).metadata["cached"])

    assert found == [False, False, True]


def test_the_account_in_the_credentials_file_counts(p0, bare_environment):
    """So are another organisation, address or key id kept with the key."""
    config = configured()
    config["blueprint"]["providers"]["p0"] = {"model": "openai/gpt-4o"}
    file = bare_environment / "credentials.json"
    config["blueprint"]["credentials"] = {"file": str(file)}
    found = []
    for entry in ({}, {"base_url": "http://127.0.0.1:3"}, {"extra": {"organization": "o"}}, {}):
        file.write_text(json.dumps({"version": 1, "providers": {"p0": {"api_key": KEY, **entry}}}))
        file.chmod(0o600)
        with asking("sync", config, adapters={"p0": p0}) as ask:
            found.append(ask.chat(messages=MESSAGES).metadata["cached"])

    assert found == [False, False, False, True]


def test_equal_requests_meet(p0):
    """Key order, 1 and 1.0, and what no answer depends on make no difference."""
    base = {"messages": MESSAGES, "seed": 1, "response_format": {"type": "json_object", "strict": True}}
    same = (
        {**base, "seed": 1.0},
        {**base, "response_format": {"strict": True, "type": "json_object"}},
        {**base, "metadata": {"a": 1}, "session": "s", "deadline_s": 9, "timeout": 3},
        {**base, "messages": [{"content": "What is a cache?", "role": "user"}]},
        {**base, "messages": [{**MESSAGES[0], "cache_control": {"type": "ephemeral"}}]},
    )
    p0 = ScriptedAdapter(default=Answer('{"a": 1}'))
    with asking("sync", configured(), adapters={"p0": p0}) as ask:
        ask.chat(**base)
        assert [ask.chat(**request).metadata["cached"] for request in same] == [True] * 5


def test_the_second_target_is_looked_up_too(kind, p0):
    """After a failure the next target's kept answer serves; a stream that had spoken is restarted before it."""
    p1 = ScriptedAdapter([Answer("From p1.")])
    p0 = ScriptedAdapter([Cut(2), Cut(2)])
    config = configured()
    config["blueprint"]["providers"]["p1"] = {"model": "openai/gpt-4o-mini", "api_key": KEY}
    with asking(kind, config, adapters={"p0": p0, "p1": p1}) as ask:
        first, _ = ask.stream(messages=MESSAGES)
        second, response = ask.stream(messages=MESSAGES)

    assert len(p1.calls) == 1
    assert response.metadata["cached"]
    assert response.provider == "p1"
    assert [chunk.restart for chunk in second].count(True) == 1
    after = [chunk.delta for chunk in second][[chunk.restart for chunk in second].index(True) :]
    assert "".join(after) == "From p1."
    assert text(first).endswith("From p1.")
    assert response.trace["attempts"][0]["category"] == "stream_broken"


def test_only_the_last_try_of_a_healed_stream_is_replayed(kind):
    """What was void when it was streamed is not kept."""
    p0 = ScriptedAdapter([Cut(2), Answer("Whole again.")])
    config = configured(retry={"max_attempts": 2, "base_s": 0.001})
    with asking(kind, config, adapters={"p0": p0}) as ask:
        first, _ = ask.stream(messages=MESSAGES)
        second, _ = ask.stream(messages=MESSAGES)

    assert any(chunk.restart for chunk in first)
    assert text(second) == "Whole again."
    assert not any(chunk.restart for chunk in second)


def test_leaving_at_the_last_chunk_keeps_the_answer(kind, p0):
    """The answer is kept before the chunk that says it is done; leaving before that keeps nothing, and no lease."""
    with asking("sync", configured(), adapters={"p0": p0}) as ask:
        for _ in ask.client.stream(messages=MESSAGES):
            break
        assert ask.client.explain(messages=MESSAGES).cache == "miss"
        for chunk in ask.client.stream(messages=MESSAGES):
            if chunk.is_done:
                break
        assert ask.chat(messages=MESSAGES).metadata["cached"]
    assert len(p0.calls) == 2


def test_an_answer_that_repeats_a_key_is_not_kept(kind, bare_environment):
    """No secret reaches the cache's bytes."""
    p0 = ScriptedAdapter(default=Answer(f"Your key is {KEY}."))
    with asking(kind, configured(), adapters={"p0": p0}) as ask:
        assert not any(ask.chat(messages=MESSAGES).metadata["cached"] for _ in range(2))

    for path in bare_environment.rglob("cache.db*"):
        assert KEY.encode() not in path.read_bytes()


def test_a_hit_reveals_no_secret_and_reserves_nothing(kind, p0, monkeypatch):
    """Not even a closed budget or a key that cannot be read stands in its way."""
    budget = {"scope": "project", "limit_usd": 1, "window": "month"}
    with asking(kind, configured(budgets=[budget]), adapters={"p0": p0}) as ask:
        ask.chat(messages=MESSAGES, max_tokens=20)
    with asking(kind, configured(budgets=[{**budget, "limit_usd": 0}]), adapters={"p0": p0}) as ask:
        monkeypatch.setattr(Secret, "reveal", lambda _: pytest.fail("a secret was revealed"))
        assert ask.chat(messages=MESSAGES, max_tokens=20).metadata["cached"]


def test_a_hit_runs_no_key_program(kind, p0, bare_environment):
    """A key that a program prints is named by where it stands in the file; the program runs for a call only."""
    mark = bare_environment / "ran"
    script = f"import pathlib; pathlib.Path({str(mark)!r}).touch(); print('sk-printed-0123456789')"
    file = bare_environment / "credentials.json"
    entry = {"keys": [{"id": "k", "command": [sys.executable, "-c", script]}]}
    file.write_text(json.dumps({"version": 1, "providers": {"p0": entry}}))
    file.chmod(0o600)
    config = configured(credentials={"file": str(file)})
    config["blueprint"]["providers"]["p0"] = {"model": "openai/gpt-4o"}
    with asking(kind, config, adapters={"p0": p0}) as ask:
        ask.chat(messages=MESSAGES)
    assert mark.exists()
    mark.unlink()

    with asking(kind, config, adapters={"p0": p0}) as ask:
        assert ask.chat(messages=MESSAGES).metadata["cached"]
    assert not mark.exists()


HIT = """
import json, sys
from blueprint_llm import SyncLLMClient
with SyncLLMClient(json.loads(sys.argv[1])) as client:
    answer = client.chat(messages=json.loads(sys.argv[2]))
    stream = list(client.stream(messages=json.loads(sys.argv[2])))
print(answer.metadata["cached"], sorted({"litellm", "openai", "httpx"} & set(sys.modules)))
"""


def test_a_hit_never_imports_litellm(p0):
    """Another process with LiteLLM's adapter answers from the cache without loading it."""
    with asking("sync", configured(), adapters={"p0": p0}) as ask:
        ask.chat(messages=MESSAGES)

    command = [sys.executable, "-c", HIT, json.dumps(configured()), json.dumps(MESSAGES)]
    found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    assert found == "True []\n"


def test_a_lost_statistic_fails_no_hit(kind, p0, bare_environment):
    """The answer is there and costs nothing: a ledger in trouble does not withhold it."""
    events = []
    with asking(kind, configured(), adapters={"p0": p0}, on_event=events.append) as ask:
        ask.chat(messages=MESSAGES)
        asyncio.run(ask.client._runtime.store.aclose())
        ledger = next(bare_environment.rglob("ledger.sqlite"))
        ledger.write_bytes(b"no database" * 999)
        for path in ledger.parent.glob("ledger.sqlite-*"):
            path.unlink()
        assert ask.chat(messages=MESSAGES).metadata["cached"]
        assert "usage.lost" in [event.name for event in events]
        ledger.unlink()


def test_hits_in_memory(kind, p0, bare_environment):
    """With the ledger in memory the cache is too."""
    with asking(kind, configured(store={"url": "memory"}), adapters={"p0": p0}) as ask:
        assert [ask.chat(messages=MESSAGES).metadata["cached"] for _ in range(2)] == [False, True]
    assert not list(bare_environment.rglob("cache.db"))


def test_a_manager_of_the_configuration_sees_the_same_entries(p0):
    """`CacheManager` by itself opens the client's cache; nobody holds a lease any more."""
    with asking("sync", configured(project="acme"), adapters={"p0": p0}) as ask:
        key = ask.chat(messages=MESSAGES).trace["cache"]["key"]

    async def look():
        manager = CacheManager.of_config(load_config(configured()))
        content = (await manager.lookup(key)).content
        cleared = await manager.clear("acme")
        async with manager.flight(key, owner="me", until=time.monotonic() + 5) as flight:
            found = content, cleared, flight.entry, flight.leased
        await manager.aclose()
        return found

    assert asyncio.run(look()) == ("A store of answers.", 1, None, True)
