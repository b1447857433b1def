"""Streams through the proxy plugin's hooks, under LiteLLM's own Router."""

import asyncio

import pytest
from routed import TOOL, collected, refused, text_of

from blueprint_llm.testing import Answer, Cut, Reset, ToolUse, numbered_text


@pytest.mark.parametrize("asks", [False, True])
async def test_stream_passes_and_is_paid_for(world, serve, asks):
    """A stream passes chunk by chunk; the usage that we ask for is shown to those only who asked for it."""
    setting = world([("gpt", serve(Answer("Hello there", usage=(5, 20))))], {})
    options, chunks = {"stream_options": {"include_usage": True}} if asks else {}, []

    await collected(await setting.stream(**options), chunks)

    assert text_of(chunks) == "Hello there"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    assert [chunk.usage.completion_tokens for chunk in chunks if getattr(chunk, "usage", None)] == [20] * asks
    assert setting.rows == [("gpt", None, 20_000_000)]


async def test_tool_call_waits_for_its_verdict(world, serve):
    """Text passes at once; a broken call behind it never does."""
    broken = Answer("Let me look.", tool_calls=(ToolUse("get_weather", '{"city": Paris'),))
    setting, chunks = world([("gpt", serve(broken))], {}), []

    await refused(collected(await setting.stream(tools=[TOOL]), chunks))

    assert text_of(chunks) == "Let me look."
    assert not [chunk for chunk in chunks if chunk.choices[0].delta.tool_calls]


@pytest.mark.parametrize("fault", [Cut, Reset])
async def test_broken_stream_is_an_error(world, serve, fault):
    """A stream that ends without proof, or breaks, is an error after its text, never a finish reason."""
    setting, chunks = world([("gpt", serve(fault(3, answer=Answer(numbered_text(9)))))], {}), []

    await refused(collected(await setting.stream(), chunks))

    assert not [chunk for chunk in chunks if chunk.choices[0].finish_reason]
    assert [category for _, category, _ in setting.rows] == ["stream_broken"]


async def test_router_goes_on_before_the_first_text(world, serve):
    """Where a stream breaks before its text, LiteLLM's Router falls back inside of it; both attempts are settled."""
    servers = [("gpt", serve(Reset(0, answer=Answer("lost")))), ("spare", serve(Answer("found", usage=(5, 30))))]
    setting, chunks = world(servers, {}, fallbacks=[{"gpt": ["spare"]}]), []

    await collected(await setting.stream(), chunks)

    assert text_of(chunks) == "found"
    assert setting.rows[-1] == ("spare", None, 30_000_000)
    assert [category for _, category, _ in setting.rows[:-1]] == ["unavailable"]


async def test_router_goes_on_to_a_kept_answer(world, serve):
    """The fallback inside of a stream may be answered by the cache."""
    servers = [("gpt", serve(Reset(0, answer=Answer("lost")))), ("spare", serve(Answer("found", usage=(5, 30))))]
    setting, chunks = world(servers, {"cache": {"enabled": True}}, fallbacks=[{"gpt": ["spare"]}]), []
    await setting.ask(model="spare")

    await collected(await setting.stream(), chunks)

    assert text_of(chunks) == "found"
    assert len(servers[1][1].requests) == 1


async def test_left_stream_is_closed_and_settled(world, serve):
    """Closing the hook's stream closes the provider's and settles what was seen."""
    server = serve(Answer(numbered_text(500), pace_s=0.01))
    setting = world([("gpt", server)], {})
    stream = await setting.stream()

    await anext(stream)
    await stream.aclose()

    await asyncio.to_thread(server.wait_until, lambda requests: requests[0].closed_early_at)
    assert [category for _, category, _ in setting.rows] == ["abandoned"]


async def test_stream_under_other_wrappers_passes(world, serve):
    """Where LiteLLM's own stream is out of sight, its finish reason is taken for the end."""
    setting, chunks = world([("gpt", serve(Answer("Hello", usage=(5, 20))))], {}), []
    data, stream = await setting.opened()

    async def guarded(inside):
        async for chunk in inside:
            yield chunk

    await collected(setting.relayed(data, guarded(stream)), chunks)

    assert text_of(chunks) == "Hello"
    assert setting.rows == [("gpt", None, 20_000_000)]


async def test_stream_that_is_cut_on_the_way_is_an_error(world, serve):
    """Another hook that ends the stream early leaves it without its end."""
    setting, chunks = world([("gpt", serve(Answer("Hello there")))], {}), []
    data, stream = await setting.opened()

    async def cut(inside):
        yield await anext(inside)

    await refused(collected(setting.relayed(data, cut(stream)), chunks))

    assert text_of(chunks) == "Hello "
    assert [category for _, category, _ in setting.rows] == ["stream_broken"]


async def test_stream_of_another_route_passes(world, serve):
    """What was not reserved is not looked at."""
    chunks = []

    async def events():
        yield b"event: ping"

    await collected(world([("gpt", serve())], {}).relayed({}, events()), chunks)

    assert chunks == [b"event: ping"]
