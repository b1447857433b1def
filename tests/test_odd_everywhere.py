"""Answers that are odd and not broken, and those that are broken, by every way in: the same, for one request."""

import pytest
from provider_answers import claude, gemini, ollama, openai, words
from ways import BLOCK, STREAMS, WHOLE, ask, params_of

from blueprint_llm.compat import guarding as guards
from blueprint_llm.engine.guarded import PolicyGuard
from blueprint_llm.engine.runtime import Runtime
from blueprint_llm.testing import FaultServer, Recorded

# LiteLLM keeps connections of its own to some providers, and makes a session per key, which nothing closes.
pytestmark = [
    pytest.mark.usefixtures("collected", "litellm_warm"),
    pytest.mark.filterwarnings("ignore:(?i)unclosed:ResourceWarning"),
]


FAST = {"client whole", "client stream", "drop-in stream", "group stream"}
WAYS = [
    pytest.param(way, marks=[] if way in FAST else pytest.mark.slow)  # the others share their code
    for way in (*WHOLE, *STREAMS)
]


@pytest.fixture(autouse=True)
def _guard(monkeypatch):
    """The drop-in's guard; and for structured answers of Claude LiteLLM would fetch a list of headers from GitHub."""
    monkeypatch.setenv("LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS", "True")
    monkeypatch.setattr(guards, "build", lambda _: PolicyGuard(Runtime({"blueprint": BLOCK})))
    guards.forget()


def function(name, **properties):
    """A tool whose properties are all required."""
    schema = {"type": "object", "properties": properties, "required": [*properties]}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


PAY, NOW = function("pay", amount={"type": "integer"}), function("now")
FIVE = '{"amount": 5}'
PAID = [("pay", {"amount": 5})]
SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA}}
STAMP = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "m", "object": "chat.completion.chunk"}
GEMINI = {"responseId": "g", "modelVersion": "gemini-2.5-flash", "usageMetadata": {"promptTokenCount": 3}}
OLLAMA = {"model": "llama3.2", "created_at": "2026-01-01T00:00:00Z"}


def chunk(delta, finish=None, **more):
    """One chunk of OpenAI's with one choice."""
    return {**STAMP, "choices": [{"index": 0, "delta": delta, "finish_reason": finish, **more}]}


def call(arguments=FIVE, name="pay", place=0, **more):
    """A call as a chunk has it."""
    said = {"name": name} if arguments is ... else {"name": name, "arguments": arguments}
    return {"index": place, "id": f"c{place}", "type": "function", "function": said, **more}


def calling(*calls, finish="tool_calls", text=None):
    """An answer with calls, each in a chunk of its own."""
    said = [{"content": text}] if text else []
    return openai({"content": text, "tool_calls": list(calls)}, *said, *({"tool_calls": [each]} for each in calls),
                  finish=finish)  # fmt: skip


def said(*deltas, finish="stop", **message):
    """An answer in OpenAI's format: its message, and its deltas where they are not that message."""
    return openai(message, *(deltas or (message,)), finish=finish)


def raw(whole, *chunks):
    """An answer whose chunks are not those of `said`."""
    return Recorded(whole.whole, chunks)


def once(body):
    """An answer of Gemini's or Ollama's whose stream is one piece."""
    return Recorded(body, (body,))


HI, NOTHING = said(content="Hi"), Recorded({**openai({}).whole, "choices": []})
WEB = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "cats"}}
OURS = {"type": "tool_use", "id": "toolu_1", "name": "pay", "input": {"amount": 5}}
TOOLS = {"tools": [PAY, NOW]}


def on_one_index():
    """Two whole calls on one index, without ids."""
    first, second = ({**call(FIVE, name), "id": None, "index": 0} for name in ("pay", "pay2"))
    return calling({**first, "id": "c0"}, {**second, "id": "c1"}), [
        chunk({"tool_calls": [each]}) for each in (first, second)
    ]


def case(label, answer, *, format_="openai", text="", finish="stop", calls=(), asked=None):
    """One row: an answer and what it is, whichever way it came."""
    return pytest.param(format_, answer, asked or {}, (text, finish, [*calls]), id=label)


BOTH = on_one_index()
# Each was reported of a provider: of LiteLLM's users where no other place is named.
ANSWERS = [
    # Ends. Together says "eos" (vibrantlabsai/ragas#1548), xAI "end_turn" (genkit-ai/genkit#6259).
    case("a reason of its own: eos", said({"content": "Hi"}, content="Hi", finish="eos"), text="Hi"),
    case("a reason of its own: end_turn", said({"content": "Hi"}, content="Hi", finish="end_turn"), text="Hi"),
    case("the end beside the last text: vllm-project/vllm#36944", raw(HI, chunk({"content": "H"}),
         chunk({"content": "i"}, "stop")), text="Hi"),
    case("a cut beside the last text", raw(said(content="Hi", finish="length"), chunk({"content": "H"}),
         chunk({"content": "i"}, "length")), text="Hi", finish="length"),
    case("log probabilities beside the end: BerriAI/litellm#10686", raw(HI, chunk({"content": "H"}),
         chunk({"content": "i"}, "stop", logprobs={"content": [{"token": "i", "logprob": -0.1, "bytes": [1],
                                                                 "top_logprobs": []}]})), text="Hi"),
    case("no delta at the end: agentuniverse-ai/agentUniverse#772", raw(HI, chunk({"content": "Hi"}),
         chunk(None, "stop")), text="Hi"),
    case("a chunk whose choices are null: pydantic/pydantic-ai#5165", raw(HI, chunk({"content": "Hi"}),
         {**STAMP, "choices": None}, chunk({}, "stop")), text="Hi"),
    case("Azure's filter of the prompt before all", raw(HI, {**STAMP, "id": "", "model": "", "choices": [],
         "prompt_filter_results": [{"prompt_index": 0}]}, chunk({"content": "Hi"}), chunk({}, "stop")), text="Hi"),
    case("usage with every chunk", raw(HI, *({**chunk(*each), "usage": {"prompt_tokens": 1, "completion_tokens": 1,
         "total_tokens": 2}} for each in (({"content": "Hi"}, None), ({}, "stop")))), text="Hi"),
    case("the end twice", raw(HI, chunk({"content": "Hi"}), chunk({}, "stop"), chunk({}, "stop")), text="Hi"),
    case("Claude: a stop sequence", claude({"type": "text", "text": "Hi"}, stop="stop_sequence"), format_="anthropic",
         text="Hi"),
    case("Claude: the window is full", claude({"type": "text", "text": "Hi"}, stop="model_context_window_exceeded"),
         format_="anthropic", text="Hi", finish="length"),
    case("Claude: a turn that is paused", claude({"type": "text", "text": "Hi"}, stop="pause_turn"),
         format_="anthropic", text="Hi", finish="length"),
    # Empty, its end proven.
    case("empty", openai({"content": ""})),
    case("all spent on reasoning", said({"reasoning_content": "Hm"}, content="", reasoning_content="Hm",
         finish="length"), finish="length"),
    case("Claude: nothing", claude(), format_="anthropic"),
    case("Gemini: no content", once({**GEMINI, "candidates": [{"index": 0, "finishReason": "STOP"}]}),
         format_="gemini"),
    case("Gemini: no parts, cut", once({**GEMINI, "candidates": [{"index": 0, "content": {"role": "model"},
         "finishReason": "MAX_TOKENS"}]}), format_="gemini", finish="length"),
    case("Ollama: the model is loaded", once({**OLLAMA, "message": {"role": "assistant", "content": ""},
         "done_reason": "load", "done": True}), format_="ollama"),
    case("two whole calls on one index", raw(BOTH[0], *BOTH[1], chunk({}, "tool_calls")), finish="tool_calls",
         calls=[*PAID, ("pay2", {"amount": 5})], asked={"tools": [PAY, function("pay2", amount={"type": "integer"})]}),
    # Refusals.
    case("filtered", openai({"content": ""}, finish="content_filter"), finish="content_filter"),
    case("filtered, under a schema", said({"content": "No."}, content="No.", finish="content_filter"), text="No.",
         finish="content_filter", asked={"response_format": FORMAT}),
    case("a refusal in pieces, under a schema", said({"refusal": "N"}, {"refusal": "o."}, refusal="No."),
         asked={"response_format": FORMAT}),
    case("a refusal that LiteLLM calls stop, under a schema", openai({"content": ""}, finish="safety"),
         asked={"response_format": FORMAT}),
    case("Z.AI: sensitive", openai({"content": ""}, finish="sensitive"), finish="content_filter"),
    case("Claude: refusal", claude({"type": "text", "text": "No."}, stop="refusal"), format_="anthropic", text="No.",
         finish="content_filter", asked={"response_format": None}),
    case("Gemini: the prompt is blocked", once({**GEMINI, "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}),
         format_="gemini", finish="content_filter"),
    # Calls.
    case("a call that says stop", calling(call(), finish="stop"), finish="tool_calls", calls=PAID, asked=TOOLS),
    case("a call and the end in one chunk", raw(calling(call()), chunk({"tool_calls": [call()]}, "tool_calls")),
         finish="tool_calls", calls=PAID, asked=TOOLS),
    case("two calls and the end in one chunk: google/adk-python#7004",
         raw(calling(call(), call("{}", "now", 1)), chunk({"tool_calls": [call(), call("{}", "now", 1)]},
             "tool_calls")), finish="tool_calls", calls=[*PAID, ("now", {})], asked=TOOLS),
    case("no arguments: nothing: BerriAI/litellm#5064", calling(call("", "now")), finish="tool_calls",
         calls=[("now", {})], asked=TOOLS),
    case("no arguments: null: pipecat-ai/pipecat#4059", calling(call(None, "now")), finish="tool_calls",
         calls=[("now", {})], asked=TOOLS),
    case("no arguments: left out: ar-jan/llm-venice#41", calling(call(..., "now")), finish="tool_calls",
         calls=[("now", {})], asked=TOOLS),
    case("an id that is null", calling(call(id=None)), finish="tool_calls", calls=PAID, asked=TOOLS),
    case("no type", calling(call(type=None)), finish="tool_calls", calls=PAID, asked=TOOLS),
    case("another id in every delta: BerriAI/litellm#40040", raw(calling(call()), *(chunk({"tool_calls": [each]})
         for each in (call("", id="a"), call('{"amount"', "", id="b"), call(": 5}", "", id="c"))), chunk({}, "stop")),
         finish="tool_calls", calls=PAID, asked=TOOLS),
    case("an empty list of calls", said({"content": "Hi", "tool_calls": []}, content="Hi", tool_calls=[]), text="Hi",
         asked=TOOLS),
    case("text beside a call, under a schema", calling(call(), text="Let me."), text="Let me.", finish="tool_calls",
         calls=PAID, asked={**TOOLS, "response_format": FORMAT}),
    case("Claude: its own tool beside ours", claude(WEB, OURS, stop="tool_use"), format_="anthropic",
         finish="tool_calls", calls=PAID, asked=TOOLS),
    case("Gemini: one tool twice", gemini(*({"functionCall": {"name": "pay", "args": {"amount": each}}}
         for each in (5, 6))), format_="gemini", finish="tool_calls", calls=[*PAID, ("pay", {"amount": 6})],
         asked=TOOLS),
    case("Ollama: a call before its end: BerriAI/litellm#35663", ollama({"tool_calls": [{"function": {"name": "pay",
         "arguments": {"amount": 5}}}]}, {"tool_calls": [{"function": {"name": "pay", "arguments": {"amount": 5}}}]}),
         format_="ollama", finish="tool_calls", calls=PAID, asked=TOOLS),
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("format_", "answer", "asked", "expected"), ANSWERS)
def test_odd_answers_are_handed_over(way, format_, answer, asked, expected):
    """What is odd and complete comes out as it is, and costs one request."""
    with FaultServer(default=answer) as server:
        found = ask(way, params_of(format_, server.url), **asked)

    assert found.ended == "answer", found.error
    assert (found.text, found.finish, found.calls) == expected
    assert sum("/api/show" not in request.path for request in server.requests) == 1


CUSTOM = {"id": "c9", "type": "custom", "custom": {"name": "patch", "input": "*** {"}}
IN_PIECES = [
    {"index": 0, **CUSTOM, "custom": {"name": "patch", "input": ""}},
    {"index": 0, "custom": {"input": "*** {"}},
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pieces", [[{"index": 0, **CUSTOM}], IN_PIECES], ids=["one piece", "pieces"])
def test_custom_calls_are_passed_on(way, pieces):
    """A custom tool's call, in one piece or in several, is not judged and not lost."""
    answer = openai({"tool_calls": [CUSTOM]}, *({"tool_calls": [each]} for each in pieces), finish="tool_calls")
    with FaultServer(default=answer) as server:
        found = ask(way, params_of("openai", server.url), **TOOLS)

    assert (found.ended, found.finish, found.calls) == ("answer", "tool_calls", [])
    assert "patch" in str(found.message["tool_calls"])


def broken(label, answer, ended, *, format_="openai", asked=None):
    """One row: an answer that is none."""
    return pytest.param(format_, answer, asked or {}, ended, id=label)


BROKEN = [
    broken("OpenRouter: failed upstream", said({"content": "Hi"}, content="Hi", finish="error"), "stream_broken"),
    broken("aborted", said({"content": "Hi"}, content="Hi", finish="abort"), "stream_broken"),
    broken("DeepSeek: out of resources", said({"content": "Hi"}, content="Hi",
           finish="insufficient_system_resource"), "stream_broken"),
    broken("no choice at all", raw(NOTHING, {**STAMP, "choices": []}), "stream_broken"),
    broken("Gemini: malformed call: langchain-ai/langgraph#6574", once({**GEMINI, "candidates": [{"index": 0,
           "content": {}, "finishReason": "MALFORMED_FUNCTION_CALL"}]}), "stream_broken", format_="gemini",
           asked=TOOLS),
    broken("a call that is cut", calling(call('{"amount": '), finish="length"), "malformed", asked=TOOLS),
    broken("a call of another type", calling(call('{"amount": "five"}')), "malformed", asked=TOOLS),
    broken("arguments left out where some are needed", calling(call(...)), "malformed", asked=TOOLS),
    broken("a call that is announced and not sent", said({"content": "Hi"}, content="Hi", finish="tool_calls"),
           "malformed", asked=TOOLS),
    broken("wrong JSON", said({"content": '{"ok": 1}'}, content='{"ok": 1}'), "malformed",
           asked={"response_format": FORMAT}),
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("format_", "answer", "asked", "ended"), BROKEN)
def test_broken_answers_are_errors(way, format_, answer, asked, ended):
    """What was given up or is wrong is an error, for one request where nothing is configured to ask again."""
    with FaultServer(default=answer) as server:
        found = ask(way, params_of(format_, server.url), **asked)

    assert found.ended == ended, found
    assert len(server.requests) == 1


@pytest.mark.parametrize("way", WAYS)
def test_one_refusal_of_two_answers_spoils_no_other(way):
    """With `n` answers under a schema one that is a refusal in pieces is handed over beside the good one."""
    good = openai({"content": '{"ok": true}'}, *words('{"ok": ', "true}"))
    refused = openai({"refusal": "No."}, {"refusal": "N"}, {"refusal": "o."})
    second = [{**each, "choices": [{**each["choices"][0], "index": 1}]} for each in refused.chunks[:-1]]
    whole = {**good.whole, "choices": [*good.whole["choices"], {**refused.whole["choices"][0], "index": 1}]}
    answer = Recorded(whole, (*good.chunks[:2], *second, *good.chunks[2:]))
    with FaultServer(default=answer) as server:
        found = ask(way, params_of("openai", server.url), n=2, response_format=FORMAT)

    assert (found.ended, found.text) == ("answer", '{"ok": true}')
    assert len(server.requests) == 1
