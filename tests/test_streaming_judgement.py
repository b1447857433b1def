"""What an answer is: why it ended, then its calls, then its text; the same for whole and for streamed answers."""

import json

import pytest

from blueprint_llm.errors import AnswerInvalidError, CallError, StreamBrokenError, ToolCallInvalidError
from blueprint_llm.streaming import StreamingHandler, Verdict, judge, judge_early, progress
from blueprint_llm.types import Tool

PAY = Tool(
    name="pay", parameters={"type": "object", "properties": {"amount": {"type": "integer"}}, "required": ["amount"]}
)
NOW = Tool(name="now", parameters={"type": "object", "properties": {}})
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA}}
CUSTOM = {"id": "c9", "type": "custom", "custom": {"name": "patch", "input": "*** Begin {"}}
SERVER = {"id": "srvtoolu_1", "type": "function", "function": {"name": "web_search", "arguments": '{"query": '}}
COMPUTER = {"id": "c8", "type": "computer_call", "computer_call": {"action": "click"}}
BASH = {"type": "bash_20250124", "name": "bash"}


def call(name="pay", arguments='{"amount": 5}', index=0, call_id="c1"):
    """A function call as an entry of `tool_calls`."""
    given = {} if call_id is None else {"id": call_id}
    return {"index": index, **given, "type": "function", "function": {"name": name, "arguments": arguments}}


def calls(*entries):
    """A delta with these calls."""
    return {"tool_calls": list(entries)}


def streamed(deltas, finish, handler):
    """The judgement on an answer that comes delta by delta, which a finding in mid-stream may end."""
    for delta in [*deltas, {}]:
        part = {"index": 0, "delta": delta, "finish_reason": finish if not delta else None}
        for event in handler.feed({"id": "x", "choices": [part]}):
            if isinstance(event, Verdict) and (early := judge_early(event)):
                return early
    return judge(handler.close())


def whole(deltas, finish, handler):
    """The judgement on the same answer in one piece."""
    message = {"role": "assistant", "content": "".join(delta.get("content") or "" for delta in deltas) or None}
    entries = [entry for delta in deltas for entry in delta.get("tool_calls", ())]
    rest = {key: value for delta in deltas for key, value in delta.items() if key not in {"content", "tool_calls"}}
    message |= {"tool_calls": entries or None, **rest}
    handler.feed({"id": "x", "choices": [{"index": 0, "message": message, "finish_reason": finish}]})
    return judge(handler.close(ended_by="terminal" if finish else None))


def case(label, *deltas, finish="stop", kind="answer", code="ok", tools=(PAY, NOW), warns=(), **options):
    """One row: what comes, and what it is."""
    return pytest.param(list(deltas), finish, {"tools": tools, **options}, kind, code, set(warns), id=label)


PROSE, REASON = {"content": "Let me pay first."}, {"reasoning_content": "Hm."}
ROWS = [
    # Why it ended comes first.
    case("text", {"content": "Hi"}),
    case("refused with prose", {"content": "No."}, finish="content_filter", kind="refused", code="content_filter",
         warns=["content_filter"]),
    case("refused, nothing said", finish="content_filter", kind="refused", code="content_filter",
         warns=["content_filter"]),
    case("refused under a schema", {"content": "I cannot do "}, {"content": "that."}, finish="refusal", kind="refused",
         code="content_filter", response_format=FORMAT),
    case("refused in the middle of JSON", {"content": '{"ok": '}, finish="safety", kind="refused",
         code="content_filter", response_format=FORMAT),
    case("refused in the middle of a call", calls(call(arguments='{"amount')), finish="SAFETY", kind="refused",
         code="content_filter"),
    case("refused behind a whole call", calls(call()), finish="content_filter", kind="refused", code="content_filter"),
    case("OpenAI's refusal", {"refusal": "I cannot."}, kind="refused", code="content_filter", response_format=FORMAT,
         warns=["content_filter"]),
    case("cut text", {"content": "Hel"}, finish="length", kind="cut", code="truncated_length",
         warns=["truncated_length"]),
    case("cut JSON", {"content": '{"ok": tr'}, finish="length", kind="cut", code="truncated_length",
         response_format=FORMAT),
    case("all tokens spent on reasoning", REASON, finish="length", kind="cut", code="truncated_length",
         warns=["truncated_length"]),
    case("all tokens spent on reasoning, under a schema", REASON, finish="length", kind="cut", code="truncated_length",
         response_format=FORMAT, warns=["truncated_length"]),
    case("a cut call", calls(call(arguments='{"amount": 5')), finish="length", kind="invalid_call",
         code="truncated_length"),
    case("a whole call before a cut", calls(call()), finish="length", kind="invalid_call", code="truncated_length"),
    case("broken text", {"content": "Hel"}, finish=None, kind="broken", code="missing_finish"),
    case("a broken call", calls(call(arguments='{"amount"')), finish=None, kind="broken", code="missing_finish"),
    case("nothing and no proof", finish=None, kind="broken", code="empty_stream"),
    case("given up", {"content": "Hel"}, finish="error", kind="broken", code="missing_finish"),
    # Empty answers whose end is proven.
    case("empty", warns=["empty_answer"]),
    case("reasoning alone", REASON),
    case("audio alone", {"audio": {"id": "a", "data": "UklGRg=="}}),
    case("images alone", {"images": [{"image_url": {"url": "data:image/png;base64,AA"}}]}),
    case("a field that does not exist yet", {"hologram": {"frames": ["x"]}}),
    case("empty where JSON was asked for", kind="invalid_answer", code="empty_answer", response_format=FORMAT),
    # Calls come before the text.
    case("a call", calls(call()), finish="tool_calls"),
    case("a wrong call", calls(call(arguments='{"amount": "five"}')), finish="tool_calls", kind="invalid_call",
         code="schema_type"),
    case("an unknown tool", calls(call("steal")), finish="tool_calls", kind="invalid_call", code="unknown_tool"),
    case("announced and not sent", {"content": "One moment."}, finish="tool_calls", kind="invalid_call",
         code="missing_tool_call"),
    case("text beside a call under a schema", PROSE, calls(call()), finish="tool_calls", response_format=FORMAT,
         warns=["text_beside_call"]),
    case("JSON of another shape beside a call", {"content": '{"note": 1}'}, calls(call()), finish="tool_calls",
         response_format=FORMAT, warns=["text_beside_call"]),
    case("valid JSON beside a call", {"content": '{"ok": true}'}, calls(call()), finish="tool_calls",
         response_format=FORMAT),
    case("a wrong call beside text under a schema", PROSE, calls(call(arguments="{]")), finish="tool_calls",
         kind="invalid_call", code="expected_key", response_format=FORMAT),
    # The text comes last.
    case("valid JSON", {"content": '{"ok":'}, {"content": " true}"}, response_format=FORMAT),
    case("wrong JSON", {"content": '{"ok": 1}'}, kind="invalid_answer", code="schema_type", response_format=FORMAT),
    case("wrong JSON with nothing to call", {"content": '{"ok": 1}'}, kind="invalid_answer", code="schema_type",
         response_format=FORMAT, tools=()),
    case("prose in place of JSON", {"content": "Sure: it is"}, kind="invalid_answer", code="expected_value",
         response_format=FORMAT),
    case("fenced JSON", {"content": '```json\n{"ok": true}\n```'}, kind="invalid_answer", code="expected_value",
         response_format=FORMAT),
    case("JSON that is not closed", {"content": '{"ok": true'}, kind="invalid_answer", code="unclosed_json",
         response_format=FORMAT),
    case("blanks for ever in place of JSON", {"content": " " * 300}, kind="invalid_answer", code="runaway_whitespace",
         response_format=FORMAT),
    case("a call in the text", {"content": "<tool_call>{}"}, warns=["tool_call_in_content"]),
    # Odd and complete.
    case("reasoning before JSON", {"content": "<think>Is it? "}, {"content": 'Yes.</think>\n{"ok": true}'},
         response_format=FORMAT, warns=["reasoning_in_text"]),
    case("reasoning whose opening the template wrote", {"content": 'Is it?\n</think>{"ok": true}'},
         response_format=FORMAT, warns=["reasoning_in_text"]),
    case("reasoning before wrong JSON", {"content": '<thinking>x</thinking>{"ok": 1}'}, kind="invalid_answer",
         code="expected_value", response_format=FORMAT),
    case("reasoning before nothing", {"content": "<think>x</think>"}, kind="invalid_answer", code="expected_value",
         response_format=FORMAT),
    case("two calls on one index, without ids", calls(call("pay", call_id=None)),
         calls(call("now", "{}", call_id=None)), finish="tool_calls", warns=["split_by_name", "id_missing"]),
    case("no arguments: nothing", calls(call("now", "")), finish="tool_calls", warns=["empty_arguments"]),
    case("no arguments: null", calls(call("now", None)), finish="tool_calls", warns=["empty_arguments"]),
    case("no arguments: white space", calls(call("now", " \n")), finish="tool_calls", warns=["empty_arguments"]),
    case("no arguments: the word null", calls(call("now", "null")), finish="tool_calls", warns=["empty_arguments"]),
    case("no arguments where some are needed", calls(call("pay", "null")), finish="tool_calls", kind="invalid_call",
         code="root_not_object"),
    case("null and more", calls(call("now", "null"), call(None, "\ud83d")), finish="tool_calls", kind="invalid_call",
         code="root_not_object"),
    case("half a character", calls(call("now", "\ud83d")), finish="tool_calls", kind="invalid_call",
         code="root_not_object"),
    case("not quite null", calls(call("now", "nul")), finish="tool_calls", kind="invalid_call", code="root_not_object"),
    # Calls that are not ours to judge.
    case("a custom tool's call", calls(CUSTOM), finish="tool_calls"),
    case("a custom tool's call, cut", calls(CUSTOM), finish="length", kind="cut", code="truncated_length",
         warns=["truncated_length"]),
    case("a call of the provider's own tool", calls(SERVER), {"content": "Found."}),
    case("a call of a kind that does not exist yet", calls(COMPUTER), finish="tool_calls"),
    case("a custom call and a wrong one", calls(CUSTOM), calls(call(arguments="{]")), finish="tool_calls",
         kind="invalid_call", code="expected_key"),
    case("text beside a custom call under a schema", PROSE, calls(CUSTOM), finish="tool_calls", response_format=FORMAT,
         warns=["text_beside_call"]),
    case("a native tool's call", calls(call("bash", '{"command": "ls"}')), finish="tool_calls", tools=(PAY, BASH),
         warns=["passed_through"]),
    case("a native tool's call in words of its own", calls(call("bash", "ls -l")), finish="tool_calls",
         tools=(PAY, BASH), warns=["passed_through"]),
    case("a declared tool beside a native one", calls(call(arguments='{"amount": "x"}')), finish="tool_calls",
         tools=(PAY, BASH), kind="invalid_call", code="schema_type"),
    case("a tool that LiteLLM added", calls(call("litellm_web_search", '{"q": ')), finish="tool_calls",
         warns=["passed_through"]),
]  # fmt: skip


@pytest.mark.parametrize("how", [streamed, whole])
@pytest.mark.parametrize(("deltas", "finish", "options", "kind", "code", "warns"), ROWS)
def test_what_an_answer_is(how, deltas, finish, options, kind, code, warns):
    """Each answer is what the row says, whole and streamed, with its oddities as warnings."""
    if how is whole and "split_by_name" in warns:
        warns = {"id_missing"}  # in a whole message the place of a call is its index

    handler = StreamingHandler(**options)
    found = how(deltas, finish, handler)

    assert (found.kind, found.code) == (kind, code)
    if kind != "invalid_call":
        odd = {each.code for each in handler.close().verdicts if each.status not in {"invalid", "incomplete"}}
        assert odd == warns


def single(text):
    """The text in single characters, as deltas."""
    return [{"content": char} for char in text]


@pytest.mark.parametrize(("deltas", "finish", "options", "kind", "code", "warns"), ROWS)
def test_splits_do_not_matter(deltas, finish, options, kind, code, warns):
    """Text in single characters is judged alike."""
    split = [part for delta in deltas for part in (single(delta["content"]) if "content" in delta else [delta])]

    found = streamed(split, finish, StreamingHandler(**options))

    assert (found.kind, found.code) == (kind, code)


def verdict_of(deltas, finish="tool_calls", **options):
    """The verdict on a stream."""
    handler = StreamingHandler(**options)
    for delta in [*deltas, {}]:
        handler.feed({"id": "x", "choices": [{"delta": delta, "finish_reason": None if delta else finish}]})
    return handler.close()


def test_two_calls_on_one_index_come_out_as_two():
    """Whole calls of different tools on one index without ids are two calls with ids of their own."""
    found = verdict_of([calls(call("pay", call_id=None)), calls(call("now", "{}", call_id=None))], tools=[PAY, NOW])

    assert [(each.name, each.arguments) for each in found.tool_calls] == [("pay", {"amount": 5}), ("now", {})]
    assert len({each.id for each in found.tool_calls}) == 2


@pytest.mark.parametrize("first", ["", None, " ", "{}", "null"])
def test_no_argument_calls_on_one_index_come_out_as_two(first):
    """A no-argument call in every dress is whole before another tool's name."""
    found = verdict_of([calls(call("now", first, call_id=None)), calls(call("pay", call_id=None))], tools=[PAY, NOW])

    assert [(each.name, each.arguments) for each in found.tool_calls] == [("now", {}), ("pay", {"amount": 5})]


def test_half_names_are_no_calls_of_their_own():
    """Where two names may be one in pieces, nothing is guessed."""
    names = [Tool(name=name, parameters={"type": "object"}) for name in ("a", "b", "ab")]

    found = verdict_of([calls(call("a", "", call_id=None)), calls(call("b", "{}", call_id=None))], tools=names)

    assert (found.status, found.code) == ("invalid", "ambiguous_calls")


def test_custom_calls_in_pieces_are_passed_on():
    """The later pieces of a call that is not ours, known by its index alone, disturb nothing; ours come out."""
    pieces = [
        calls({"index": 0, "id": "c9", "type": "custom", "custom": {"name": "patch", "input": ""}}),
        calls({"index": 0, "custom": {"input": "*** Begin {"}}),
        calls({"index": 0, "function": {"arguments": "not JSON"}}),
        calls(call("pay", index=1)),
    ]

    found = verdict_of(pieces, tools=[PAY])

    assert judge(found).kind == "answer"
    assert [each.name for each in found.tool_calls] == ["pay"]


def test_native_calls_come_out_where_they_are_sound():
    """A call of a tool without a schema comes out as a ToolCall where its arguments are an object."""
    sound = verdict_of([calls(call("bash", '{"command": "ls"}'))], tools=[PAY, BASH])
    odd = [verdict_of([calls(call("bash", text))], tools=[PAY, BASH]) for text in ("ls -l", '{"command": "ls"} -l', "")]

    assert [each.arguments for each in sound.tool_calls] == [{"command": "ls"}]
    assert [(each.status, each.tool_calls) for each in odd] == [("ok", ())] * 3


def test_structured_text_without_its_reasoning():
    """What satisfies the schema stands apart from the reasoning before it; the text stays whole."""
    found = verdict_of([{"content": '<think>x</think>{"ok": true}'}], "stop", response_format=FORMAT)

    assert json.loads(found.structured) == {"ok": True}
    assert found.text.startswith("<think>")


def several(*parts):
    """The judgement on a stream of several answers: text and finish reason of each."""
    handler = StreamingHandler([PAY])
    for index, (delta, finish) in enumerate(parts):
        handler.feed({"id": "x", "choices": [{"index": index, "delta": delta, "finish_reason": finish}]})
    return judge(handler.close())


HI = ({"content": "Hi"}, "stop")


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        pytest.param([HI, HI], "answer", id="both"),
        pytest.param([HI, ({}, "stop")], "answer", id="one empty"),
        pytest.param([({}, "stop"), ({}, "stop")], "answer", id="both empty"),
        pytest.param([({}, "content_filter"), HI], "answer", id="one refused"),
        pytest.param([({}, "content_filter"), ({}, "content_filter")], "refused", id="both refused"),
        pytest.param([({"content": "Hi"}, "length"), HI], "answer", id="one cut"),
        pytest.param([({"content": "Hi"}, "length"), ({}, "content_filter")], "cut", id="one cut, one refused"),
        pytest.param([HI, ({"content": "Hi"}, None)], "broken", id="one broken"),
        pytest.param([HI, (calls(call(arguments="{")), "tool_calls")], "invalid_call", id="one wrong call"),
    ],
)
def test_several_answers(parts, kind):
    """Answers of one request are handed over together: one that is empty, cut or refused spoils no other."""
    assert several(*parts).kind == kind


def test_an_error_in_a_stream_breaks_it():
    """An error object where a chunk should be is a break, though an end came."""
    handler = StreamingHandler()
    handler.feed({"choices": [{"delta": {"content": "abc"}, "finish_reason": "stop"}]})
    handler.feed({"error": "unexpected EOF"})

    assert (judge(handler.close()).kind, judge(handler.close()).code) == ("broken", "error_object")


def test_no_answer_at_all_is_broken():
    """A response without any answer in it was not ended by one."""
    handler = StreamingHandler()
    handler.feed({"id": "x", "choices": []})

    assert judge(handler.close(ended_by="terminal")).code == "empty_stream"


@pytest.mark.parametrize("native", ["SENSITIVE", "refusal", "safety"])
def test_a_refusal_that_litellm_calls_stop(native):
    """Where LiteLLM writes "stop" for a reason it does not know, the provider's word beside it counts."""
    handler = StreamingHandler()
    aside = {"native_finish_reason": native}
    part = {"delta": {"content": "No."}, "finish_reason": "stop", "provider_specific_fields": aside}
    handler.feed({"choices": [part]})

    assert judge(handler.close()).kind == "refused"


@pytest.mark.parametrize(
    ("deltas", "finish", "kind", "category"),
    [
        pytest.param([calls(call(arguments="{]"))], "tool_calls", ToolCallInvalidError, "malformed", id="call"),
        pytest.param([{"content": "Sure"}], "stop", AnswerInvalidError, "malformed", id="answer"),
        pytest.param([{"content": "Sure"}], None, StreamBrokenError, "stream_broken", id="broken"),
        pytest.param([{"content": "No"}], "refusal", CallError, "content_policy", id="refused"),
        pytest.param([{"content": '{"ok": true}'}], "stop", type(None), None, id="answer that is valid"),
        pytest.param([{"content": '{"ok'}], "length", type(None), None, id="cut"),
    ],
)
def test_errors_are_named_for_what_happened(deltas, finish, kind, category):
    """Each judgement that is an error is the error of its own kind, with who, code and finding."""
    judgement = streamed(deltas, finish, StreamingHandler([PAY], FORMAT))

    error = judgement.error(provider="cloud", model="gpt-4o")

    assert type(error) is kind
    if error is not None:
        assert (error.category, error.code) == (category, judgement.code)
        assert str(error).startswith("cloud (gpt-4o): ")
        assert getattr(error, "verdict", judgement.first) is judgement.first


def test_an_error_says_where():
    """The words of an error name code, tool, place and what was expected; never what the model wrote."""
    judgement = streamed([calls(call(arguments='{"amount": "canary"}'))], "tool_calls", StreamingHandler([PAY]))

    assert str(judgement.error(provider="cloud", model="m")) == (
        "cloud (m): schema_type in the arguments of 'pay' at /amount, expected integer"
    )


def part(**delta):
    """A chunk with one delta."""
    return {"id": "x", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]}


NOT_PROGRESS = [
    pytest.param(part(), id="an empty delta"),
    pytest.param(part(role="assistant", content=""), id="a role"),
    pytest.param(part(content=None, tool_calls=None, function_call=None), id="nulls"),
    pytest.param(part(tool_calls=[]), id="no calls"),
    pytest.param(part(tool_calls=[{"index": 0, "type": "function", "function": {"arguments": ""}}]), id="empty call"),
    pytest.param(part(provider_specific_fields={"refusal": None, "citation": None}), id="empty fields aside"),
    pytest.param(part(thinking_blocks=[{"type": "thinking", "thinking": ""}]), id="an empty thinking block"),
    pytest.param({"id": "x", "choices": []}, id="no choice"),
    pytest.param({"id": "x", "choices": [], "usage": None}, id="no usage"),
    pytest.param({"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}, id="Azure's filter of the prompt"),
    pytest.param({"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}}, id="a usage of zeros"),
    pytest.param(None, id="nothing"),
    pytest.param("ping", id="a text"),
]
PROGRESS = [
    pytest.param(part(content="a"), id="text"),
    pytest.param(part(content=" "), id="a blank"),
    pytest.param(part(reasoning_content="Hm"), id="reasoning"),
    pytest.param(part(reasoning="Hm"), id="reasoning under another name"),
    pytest.param(part(thinking_blocks=[{"type": "thinking", "thinking": "Hm"}]), id="thinking"),
    pytest.param(part(thinking_blocks=[{"type": "thinking", "signature": "Eq"}]), id="a signature"),
    pytest.param(part(audio={"data": "UklG"}), id="audio"),
    pytest.param(part(images=[{"type": "image_url", "image_url": {"url": "data:"}}]), id="an image"),
    pytest.param(part(tool_calls=[{"index": 0, "function": {"arguments": "{"}}]), id="arguments"),
    pytest.param(part(tool_calls=[{"index": 0, "id": "c", "function": {"name": "pay"}}]), id="the name of a call"),
    pytest.param(part(tool_calls=[{"index": 0, "custom": {"input": "x"}}]), id="a custom call"),
    pytest.param(part(refusal="No"), id="a refusal"),
    pytest.param(part(provider_specific_fields={"citation": {"title": "x"}}), id="a field aside"),
    pytest.param(part(hologram={"frames": [{"pixels": "x"}]}), id="a field that does not exist yet"),
    pytest.param({"choices": [{"delta": {}, "finish_reason": "stop"}]}, id="an end"),
    pytest.param({"choices": [{"text": "a"}]}, id="a text completion"),
    pytest.param({"choices": [{"delta": {}, "logprobs": {"content": [{"token": "a"}]}}]}, id="log probabilities"),
    pytest.param({"choices": [], "usage": {"prompt_tokens": 3}}, id="usage"),
]


@pytest.mark.parametrize(("chunk", "carries"), [
    *(pytest.param(*each.values, False, id=each.id) for each in NOT_PROGRESS),
    *(pytest.param(*each.values, True, id=each.id) for each in PROGRESS),
])  # fmt: skip
def test_progress_is_what_arrives(chunk, carries):
    """Whatever carries something is progress, keep-alives and empty deltas are not."""
    assert progress(chunk) is carries


def test_progress_of_litellms_own_objects():
    """LiteLLM's chunks are read like dicts."""
    from litellm.types.utils import ModelResponseStream  # noqa: PLC0415 - takes seconds

    assert not progress(ModelResponseStream(**part(role="assistant", content="")))
    assert progress(ModelResponseStream(**part(reasoning_content="Hm")))
