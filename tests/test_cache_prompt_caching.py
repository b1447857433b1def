import pytest
from asking import KINDS, asking
from driving import KEY

from blueprint_llm.cache import with_breakpoints
from blueprint_llm.testing import Answer, ScriptedAdapter

MODEL = "anthropic/claude-opus-4-5"
MARK = {"type": "ephemeral"}
SYSTEM = {"role": "system", "content": "Be brief."}
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("a", "b")]


def history(turns, chars=2000):
    """A conversation of so many turns."""
    pairs = [[{"role": "user", "content": "u" * chars}, {"role": "assistant", "content": "a"}] for _ in range(turns)]
    return [SYSTEM, *(message for pair in pairs for message in pair)][: 2 * turns]


def marks(messages, tools):
    """Where breakpoints are: places of messages, then of tools."""
    parts = [
        n
        for n, each in enumerate(messages)
        if isinstance(each["content"], list)
        for p in each["content"]
        if "cache_control" in p
    ]
    own = [n for n, each in enumerate(messages) if "cache_control" in each]
    return sorted(parts + own), [n for n, tool in enumerate(tools) if "cache_control" in tool]


def test_short_requests_get_two_breakpoints():
    """The ends of system prompt and tools; a short history is not worth one."""
    messages, tools = with_breakpoints(MODEL, [SYSTEM, {"role": "user", "content": "Hi"}], TOOLS)

    assert marks(messages, tools) == ([0], [1])
    assert messages[0]["content"] == [{"type": "text", "text": "Be brief.", "cache_control": MARK}]


def test_long_histories_get_four_at_most():
    """The end of the history and of the turn before: the next request finds the one that this request writes."""
    messages, tools = with_breakpoints(MODEL, history(4), TOOLS)

    assert marks(messages, tools) == ([0, 5, 7], [1])


def test_a_tools_result_is_marked_on_its_message():
    """LiteLLM takes it from there; parts keep what they have."""
    result = {"role": "tool", "tool_call_id": "1", "content": "r" * 5000}
    picture = {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "image_url", "image_url": "u"}]}
    messages, _ = with_breakpoints(MODEL, [picture, result], [])

    assert messages[1] == {**result, "cache_control": MARK}
    assert messages[0]["content"][1] == {**picture["content"][1], "cache_control": MARK}
    assert messages[0]["content"][0] == picture["content"][0]


@pytest.mark.parametrize(
    ("messages", "tools"),
    [
        pytest.param([{**SYSTEM, "cache_control": MARK}], TOOLS, id="on a message"),
        pytest.param(
            [{"role": "user", "content": [{"type": "text", "text": "x", "cache_control": MARK}]}], TOOLS, id="on a part"
        ),
        pytest.param([SYSTEM], [{**TOOLS[0], "cache_control": MARK}], id="on a tool"),
        pytest.param([SYSTEM], [{"function": {"name": "a", "cache_control": MARK}}], id="on a function"),
    ],
)
def test_the_callers_own_hints_stay_alone(messages, tools):
    """Who sets breakpoints knows better."""
    assert with_breakpoints(MODEL, messages, tools) == (messages, tools)


@pytest.mark.parametrize(
    ("model", "marked"),
    [
        ("claude-opus-4-5", True),
        ("bedrock/us.anthropic.claude-3", True),
        ("openrouter/anthropic/claude-x", True),
        ("openai/claude-look-alike", False),
        ("openai/gpt-4o", False),
        ("deepseek/deepseek-chat", False),
    ],
)
def test_only_anthropics_models_are_marked(model, marked):
    """Other providers might refuse what they do not know."""
    messages, _ = with_breakpoints(model, [SYSTEM], [])

    assert (messages != [SYSTEM]) == marked


def test_odd_contents_are_left_alone():
    """A part that is no object cannot carry a mark."""
    odd = [{"role": "system", "content": ["text"]}]

    assert with_breakpoints(MODEL, odd, [])[0] == odd


@pytest.mark.parametrize("hints", ["auto", "pass"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_configuration_turns_hints_on(kind, hints):
    """The request that is sent carries breakpoints, or is as written; what they save shows in the usage."""
    details = {"prompt_tokens_details": {"cached_tokens": 8}}
    answer = Answer("Hello", usage={"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12, **details})
    adapter = ScriptedAdapter([answer])
    config = {
        "blueprint": {"providers": {"opus": {"model": MODEL, "api_key": KEY}}, "cache": {"provider_hints": hints}}
    }

    with asking(kind, config, adapters={"opus": adapter}) as ask:
        response = ask.chat(messages=[SYSTEM, {"role": "user", "content": "Hi"}])

    assert response.usage.cached_tokens == 8
    assert marks(adapter.calls[0].messages, [])[0] == ([0] if hints == "auto" else [])
