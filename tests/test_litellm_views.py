"""Our records show a part of LiteLLM's objects and carry the whole."""

import pickle  # noqa: TID251 - a program may pickle our records
import subprocess
import sys

import pytest

from blueprint_llm.adapters import views
from blueprint_llm.types import ChatResponse, StreamChunk, ToolCall, UsageInfo, with_raw

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 4, "cache_creation_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


def answer(message=None, **more):
    """An answer as JSON."""
    choice = {"index": 0, "message": {"role": "assistant", **(message or {})}, "finish_reason": "stop"}
    return {"id": "i", "created": 1, "model": "m", "object": "chat.completion", "choices": [choice], **more}


def test_a_response_shows_the_answer_and_carries_it():
    """Content, reason, usage, message and reasoning are the answer's; the answer itself is at `raw`."""
    body = answer({"content": "Hi.", "reasoning_content": "hm"}, usage=USAGE)
    call = ToolCall(id="c1", name="f", arguments={})
    response = views.response_of(body, provider="p", model="openai/m", tool_calls=[call], metadata={"cached": True})

    assert (response.content, response.finish_reason, response.tool_calls) == ("Hi.", "stop", [call])
    assert (response.provider, response.model, response.metadata) == ("p", "openai/m", {"cached": True})
    assert (response.reasoning, response.message["content"]) == ("hm", "Hi.")
    assert response.usage == UsageInfo(
        prompt_tokens=10,
        completion_tokens=5,
        total_tokens=15,
        cached_tokens=4,
        reasoning_tokens=3,
        cache_write_tokens=2,
    )
    assert response.usage.raw == USAGE


def test_what_the_caller_knows_wins():
    """A text that was checked and a usage that was priced are taken as they are given."""
    usage = UsageInfo(total_tokens=1, estimated_cost=0.5)
    response = views.response_of(answer({"content": "Hi."}), provider="p", model="m", content="Ho.", usage=usage)

    assert (response.content, response.usage) == ("Ho.", usage)


def test_raw_is_litellms_object(litellm_warm):
    """LiteLLM's object is handed over as it is; of JSON it is made once, when somebody asks."""
    made = litellm_warm.ModelResponse(**answer({"content": "Hi."}))
    given = views.response_of(made, provider="p", model="m")
    stored = views.response_of(answer({"content": "Hi."}), provider="p", model="m")

    assert given.raw is made
    assert stored.raw is stored.raw
    assert stored.raw == made


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param(
            {"content": None, "tool_calls": [CALL]}, {"content": None, "tool_calls": [CALL]}, id="null content"
        ),
        pytest.param({"content": "", "tool_calls": None, "audio": None}, {"content": ""}, id="what was left out"),
        pytest.param(
            {
                "content": "a",
                "thinking_blocks": [{"type": "thinking", "thinking": "t", "signature": "s"}],
                "provider_specific_fields": {"citations": None, "x": 1},
            },
            {
                "content": "a",
                "thinking_blocks": [{"type": "thinking", "thinking": "t", "signature": "s"}],
                "provider_specific_fields": {"citations": None, "x": 1},
            },
            id="thoughts and provider fields",
        ),
        pytest.param({"refusal": "no", "hologram": 1}, {"content": None, "refusal": "no", "hologram": 1}, id="unknown"),
    ],
)
def test_the_message_is_sent_back_as_it_came(litellm_warm, message, expected):
    """Everything that was said stays, None is left out but for the content; of an object as of JSON."""
    expected = {"role": "assistant", **expected}

    assert views.message_of(answer(message)) == expected
    assert views.message_of(litellm_warm.ModelResponse(**answer(message))) == expected


def test_an_answer_without_choices_has_no_message():
    """There is nothing to send back then."""
    assert views.message_of({"choices": []}) == {}
    assert views.response_of({}, provider="p", model="m").content == ""


@pytest.mark.parametrize(
    ("said", "text"),
    [
        pytest.param({"reasoning_content": "a"}, "a", id="reasoning_content"),
        pytest.param({"reasoning": "a"}, "a", id="reasoning"),
        pytest.param({"reasoning_content": "a", "reasoning": "a"}, "a", id="said twice"),
        pytest.param({"thinking_blocks": [{"thinking": "a"}, {"data": "x"}, {"thinking": "b"}]}, "ab", id="blocks"),
        pytest.param({"content": "a"}, "", id="none"),
        pytest.param({"reasoning_content": 5, "thinking_blocks": "x"}, "", id="not what it should be"),
        pytest.param(None, "", id="nothing"),
    ],
)
def test_reasoning(litellm_warm, said, text):
    """The thoughts are found however the provider shows them."""
    assert views.reasoning_of(said) == text


def test_reasoning_of_a_delta(litellm_warm):
    """LiteLLM's own delta is read, too."""
    assert views.reasoning_of(litellm_warm.types.utils.Delta(reasoning_content="hm")) == "hm"


@pytest.mark.parametrize("usage", [None, {}, {"total_tokens": 0}, {"prompt_tokens": None}, {"prompt_tokens": "9"}, 7])
def test_usage_that_says_nothing(usage):
    """Without a count there is no usage."""
    assert views.usage_info(usage) is None


def test_anthropics_cache_counts():
    """Counts of the cache are found at either place."""
    usage = views.usage_info({"prompt_tokens": 9, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 4})

    assert (usage.total_tokens, usage.cached_tokens, usage.cache_write_tokens) == (9, 3, 4)


def test_the_original_shows_nowhere():
    """A view's original is in no repr and no dump, and does not tell two equal views apart."""
    secret = with_raw(
        ChatResponse(content="Hi.", provider="p", model="m", message={"a": 1}, reasoning="hm"), "original"
    )
    chunk = with_raw(StreamChunk(delta="a", reasoning="hm", provider="p"), "original")
    plain = ChatResponse(content="Hi.", provider="p", model="m", message={"a": 1}, reasoning="hm")

    for view in (secret, chunk):
        assert "original" not in repr(view) + str(view.model_dump()) + view.model_dump_json()
        assert "hm" not in repr(view)
    assert secret.model_dump()["message"] == {"a": 1}
    assert secret == plain
    assert secret != StreamChunk(provider="p")
    assert (secret.raw, plain.raw, secret.model_copy().raw) == ("original", None, "original")


def test_a_pickled_view_has_its_original():
    """What is still to be made is made for the pickle."""
    usage = with_raw(UsageInfo(total_tokens=1), make=lambda: {"total_tokens": 1})

    assert pickle.loads(pickle.dumps(usage)).raw == {"total_tokens": 1}  # noqa: S301 - its own


def test_an_answer_out_of_the_cache_needs_no_litellm():
    """Everything but the object itself is read without importing LiteLLM."""
    code = (
        "import sys\n"
        "from blueprint_llm.adapters import Merger, views\n"
        f"response = views.response_of({answer({'content': 'Hi.'}, usage=USAGE)!r}, provider='p', model='m')\n"
        "assert response.content == 'Hi.' and response.usage.raw and response.message\n"
        "assert not {'litellm', 'openai', 'httpx'} & sys.modules.keys()\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True)
