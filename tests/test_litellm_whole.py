"""A streamed answer, merged, is what LiteLLM gives for the same answer in one piece, in five wire formats."""

import asyncio
import re

import pytest
from driving import KEY, MESSAGES, closing_clients
from provider_answers import ANSWERS, MODELS, TOOL, openai, words

from blueprint_llm.adapters import Call, Merger, views
from blueprint_llm.adapters import litellm as boundary
from blueprint_llm.credentials import Credential, Secret
from blueprint_llm.errors import CallError
from blueprint_llm.testing import FaultServer

# LiteLLM keeps connections of its own to some providers, which nothing closes.
pytestmark = [pytest.mark.usefixtures("collected"), pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")]
# What no two answers share; Gemini and Ollama send no id for a call, LiteLLM makes one up.
VOLATILE = r"^\.(id|created)$|tool_calls\[\d+\]\.id$"
# What LiteLLM does otherwise in a stream of a provider, and gives no sign of.
OTHERWISE = {
    "anthropic": (
        r"tool_calls\[\d+\]\.index$",  # the place among the blocks, in an answer that came whole only
        r"provider_specific_fields\.web_search_calls$",  # in OpenAI's terms, in a stream only
        r"citations\[\d+\]\[\d+\]\.supported_text$",  # the text of the cited block, added to a whole answer only
    ),
    "gemini": (
        r"tool_calls\[\d+\]\.index$",
        r"message\.thinking_blocks$",  # a whole answer has its thoughts twice, a stream as reasoning_content
        r"native_finish_reason|\.provider_specific_fields$",
        r"^\.vertex_ai_safety_ratings$",  # in a stream under both of its names
    ),
    "cohere": (r"tool_calls\[\d+\]\.index$",),  # in an answer that came whole only
    "ollama": (
        r"^\.model$",  # with the provider's name before it, in a whole answer only
        r"message\.content$",  # "" beside calls, in a whole answer only
    ),
}
CASES = [
    pytest.param(provider, *answers[name], id=f"{provider}: {name}")
    for provider, answers in ANSWERS.items()
    for name in answers
]


def call_to(server, provider="openai", **params):
    """A call of a provider's model at the server."""
    model, path = MODELS[provider]
    credential = Credential(api_key=Secret(KEY), base_url=server.url.removesuffix("/v1") + path)
    return Call(provider="p", model=model, messages=MESSAGES, params=params, credential=credential, timeout_s=10)


async def ask(call):
    """LiteLLM's whole answer, the merged stream, and the stream."""
    whole = await boundary.complete(call)
    stream, merger = await boundary.open_stream(call), Merger()
    await read(stream, merger)
    return whole, boundary.model_response(await as_whole(stream, merger)), stream


async def read(stream, merger):
    """Merge every chunk of a stream."""
    async for chunk in stream:
        merger.add(chunk.model_dump())


async def as_whole(stream, merger):
    """The stream closed, and its merged answer."""
    await stream.aclose()
    return stream.as_whole(merger.whole())


def both(provider, params, recorded):
    """The same answer asked for in both ways."""
    with FaultServer([recorded, recorded]) as server:
        return asyncio.run(closing_clients(ask(call_to(server, provider, **params))))


def paths(value, path=""):
    """Every leaf of a document by its path; what is empty or None says nothing."""
    if isinstance(value, dict):
        return {leaf: each for name in value for leaf, each in paths(value[name], f"{path}.{name}").items()}
    if isinstance(value, list):
        return {leaf: each for n, item in enumerate(value) for leaf, each in paths(item, f"{path}[{n}]").items()}
    return {} if value is None else {path: value}


def differences(whole, merged, expected):
    """The leaves that differ, without those that match an expected difference or lie below one."""
    left, right = paths(whole), paths(merged)
    differing = {path for path in left | right if left.get(path) != right.get(path)}
    parents = {path: [path, *(path[: found.start()] for found in re.finditer(r"[.\[]", path))] for path in differing}
    return {
        path: (left.get(path), right.get(path))
        for path in differing
        if not any(re.search(pattern, parent) for pattern in expected for parent in parents[path])
    }


@pytest.mark.parametrize(("provider", "params", "recorded"), CASES)
def test_a_stream_adds_up_to_the_answer(litellm_warm, provider, params, recorded):
    """Reasoning, signatures, calls, probabilities, citations, media and usage are as in the answer in one piece."""
    whole, merged, stream = both(provider, params, recorded)

    expected = (VOLATILE, *OTHERWISE.get(provider, ()))
    assert stream.ended_by() == "terminal"
    assert differences(whole.model_dump(), merged.model_dump(), expected) == {}
    assert views.usage_info(stream.usage()) == views.usage_info(whole.usage)


@pytest.mark.parametrize("name", ANSWERS["openai"])
def test_an_openai_stream_is_the_answer_to_the_letter(litellm_warm, name):
    """In OpenAI's format even what is empty is the same, but for id and time."""
    whole, merged, _ = both("openai", *ANSWERS["openai"][name])

    ours, theirs = ({**each.model_dump(), "id": "", "created": 0} for each in (merged, whole))
    assert ours == theirs


@pytest.mark.parametrize(
    ("provider", "name", "needed"),
    [
        pytest.param("anthropic", "thinking and a tool", ("First I think.", "c2lnbmF0dXJl", "toolu_1"), id="thinking"),
        pytest.param("anthropic", "hidden thinking", ("aGlkZGVu", "dG9v", "c2lnMg=="), id="redacted thinking"),
        pytest.param("openrouter", "reasoning details", ("reasoning.text", "c2ln", "call_0"), id="reasoning details"),
        pytest.param("openrouter", "sealed reasoning", ("reasoning.encrypted", "ZW5jcnlwdGVk"), id="sealed reasoning"),
        pytest.param("deepseek", "reasoning and a tool", ("First I think.", "call_0"), id="reasoning content"),
        pytest.param("gemini", "thoughts and a tool", ("__thought__c2ln",), id="thought signatures"),
    ],
)
def test_the_message_to_send_back_is_the_same(litellm_warm, provider, name, needed):
    """However it came, the message carries what the provider wants to see again, and no place of a stream."""
    whole, merged, _ = both(provider, *ANSWERS[provider][name])
    ours, theirs = views.message_of(merged), views.message_of(whole)

    assert differences(ours, theirs, (VOLATILE, r"\.index$", r"^\.thinking_blocks$|provider_specific_fields$")) == {}
    assert all(text in str(ours) for text in needed)
    assert ours["content"] is None or provider == "deepseek"  # whose own text is empty
    assert "index" not in ours["tool_calls"][0]
    assert not [block for block in ours.get("thinking_blocks", ()) if "index" in block]


def test_what_grows_from_chunk_to_chunk_is_not_told_twice(litellm_warm):
    """LiteLLM shows Anthropic's searches again, all so far, with every one that ends."""
    whole, merged, _ = both("anthropic", *ANSWERS["anthropic"]["two searches"])
    told = merged.choices[0].message.provider_specific_fields

    assert told["web_search_results"] == whole.choices[0].message.provider_specific_fields["web_search_results"]
    assert [call["action"]["query"] for call in told["web_search_calls"].values()] == ["cats 1", "cats 2"]


async def test_a_field_that_nobody_knows_survives_piece_by_piece(litellm_warm):
    """LiteLLM drops a piece without text or calls; an invented field still comes out whole and in order."""
    said = [{"content": "A"}, {"hologram": "one "}, {"hologram": "two ", "content": "B"}, {"hologram": "three"}]
    recorded = openai({"content": "AB", "hologram": "one two three"}, *said)
    with FaultServer([recorded, recorded]) as server:
        whole, merged, _ = await closing_clients(ask(call_to(server)))

    assert merged.choices[0].message.provider_specific_fields == {"hologram": "one two three"}
    assert merged.choices[0].message == whole.choices[0].message


async def test_an_answer_that_broke_off_is_what_had_come(litellm_warm):
    """The chunks of a broken stream are merged like any other's."""
    recorded = openai({"content": "no"}, *words("one ", "two"), {"reasoning_content": "hm"})
    with FaultServer([type(recorded)({}, recorded.chunks[:4])]) as server:
        stream, merger = await boundary.open_stream(call_to(server, tools=[TOOL])), Merger()
        with pytest.raises(CallError, match="finish_reason"):
            await read(stream, merger)
        whole = await closing_clients(as_whole(stream, merger))

    assert (whole["choices"][0]["message"]["content"], stream.usage()) == ("one two", None)
    assert views.message_of(whole)["reasoning_content"] == "hm"
