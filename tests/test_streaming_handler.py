"""StreamingHandler: whole answers, from chunks to calls that may be executed."""

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from blueprint_llm import redaction
from blueprint_llm.errors import InvalidRequestError
from blueprint_llm.streaming import StreamingHandler, TextDelta, Verdict, check_tools
from blueprint_llm.types import PartialToolCall, Tool, ToolCall, UsageInfo

HERE = Path(__file__).parent
CORPUS = HERE.parents[1] / "shared" / "corpora" / "toolcalls.jsonl"


def read(path):
    """The lines of a JSONL file that may be absent."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def cases():
    """The repository's own cases and the corpus's; those without a schema take any arguments."""
    return [pytest.param(case, id=case["id"]) for case in [*read(HERE / "streaming_cases.jsonl"), *read(CORPUS)]]


def delta_of(piece):
    """A delta in OpenAI's shape."""
    if "content" in piece:
        return {"content": piece["content"]}
    entry = {name: piece[name] for name in ("index", "id") if name in piece}
    return {"tool_calls": [{**entry, "function": {key: piece[key] for key in ("name", "arguments") if key in piece}}]}


def chunk(delta, finish_reason=None):
    """A chunk in OpenAI's shape."""
    return {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def chunks_of(pieces, finish_reason):
    """A stream of the pieces with its end."""
    return [*(chunk(delta_of(piece)) for piece in pieces), chunk({}, finish_reason)]


def tools_of(case):
    """The tools that a case offers."""
    names = case.get("tools") or sorted({piece["name"] for piece in case["deltas"] if piece.get("name")})
    return [Tool(name=name, parameters=case["tool_schema"] or {"type": "object"}) for name in names]


def run(tools, chunks, **options):
    """The verdicts that came in mid-stream, and the verdict at the end."""
    handler = StreamingHandler(tools, **options)
    events = [event for each in chunks for event in handler.feed(each)]
    return [event for event in events if isinstance(event, Verdict)], handler.close()


def validate_message(message, finish_reason=None, tools=(), usage=None):
    """The verdict on a whole message; without a finish reason it counts as ended."""
    handler = StreamingHandler(tools)
    handler.feed({"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]})
    return handler.close(usage=usage, ended_by="terminal")


def test_corpus_is_there(capsys):
    """Say loudly when the corpus of real calls is not beside the repository."""
    if not CORPUS.exists():
        with capsys.disabled():
            print(f"\n!!! {CORPUS.name} IS ABSENT: only the repository's own tool calls ran !!!")

    assert len(cases()) >= 88


@pytest.mark.parametrize("case", cases())
def test_real_calls(case):
    """Each case ends as it must, and where its first wrong character is known, there."""
    early, verdict = run(tools_of(case), chunks_of(case["deltas"], case["finish_reason"]))

    wanted, first = case["expected_verdict"], case["first_error"]
    assert verdict.status == wanted["status"]
    assert verdict.code in wanted.get("accept_codes", [wanted["code"]])
    assert (
        len(verdict.tool_calls) == wanted["calls"]
        if "calls" in wanted
        else bool(verdict.tool_calls) == wanted["execute"]
    )
    assert len(early) == (wanted["status"] == "invalid" and bool(early))
    if first:
        assert (early[0].delta_no, early[0].char_offset) == (first["delta"], first["char"])


def characters(pieces):
    """Every delta in single characters; its id and name come with the first."""
    for piece in pieces:
        key = "content" if "content" in piece else "arguments"
        yield {**piece, key: piece[key][:1]}
        for char in piece[key][1:]:
            yield {key: char, **({"index": piece["index"]} if "index" in piece else {})}


def renamed(value):
    """The same case with other ids and names."""
    text = json.dumps(value)
    names = {each[key] for each in value for key in ("id", "name") if each.get(key)}
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(f'"{name}"', f'"zz_{name[::-1]}"')
    return json.loads(text)


@pytest.mark.parametrize("case", cases())
def test_real_calls_in_single_characters(case):
    """Split into single characters a case ends alike: nothing broken is executed, nothing good is lost."""
    whole = run(tools_of(case), chunks_of(case["deltas"], case["finish_reason"]))[1]
    split = run(tools_of(case), chunks_of(characters(case["deltas"]), case["finish_reason"]))[1]

    if whole.code == "cumulative_resend" or case["id"] == "cumulative deltas that go back":
        assert not split.tool_calls, "what is cumulative in pieces is broken in characters"
    else:
        assert (split.status, split.tool_calls) == (whole.status, whole.tool_calls)


@pytest.mark.parametrize("case", cases())
def test_real_calls_in_one_chunk(case):
    """With all its deltas in one chunk a case ends alike."""
    whole = run(tools_of(case), chunks_of(case["deltas"], case["finish_reason"]))[1]
    deltas = [delta_of(piece) for piece in case["deltas"]]
    entries = [entry for delta in deltas for entry in delta.get("tool_calls", ())]
    text = "".join(delta.get("content", "") for delta in deltas)

    merged = run(tools_of(case), [chunk({"content": text, "tool_calls": entries}, case["finish_reason"])])[1]

    assert (merged.status, merged.code, merged.tool_calls) == (whole.status, whole.code, whole.tool_calls)


@pytest.mark.parametrize("case", cases())
def test_real_calls_under_other_names(case):
    """Ids and names mean nothing: with others a case ends alike."""
    other = {**case, "deltas": renamed(case["deltas"]), "tools": None}
    tools = [Tool(name=f"zz_{tool.name[::-1]}", parameters=tool.parameters) for tool in tools_of(case)]
    if any(piece.get("name") not in {None, *(tool.name for tool in tools_of(case))} for piece in case["deltas"]):
        return  # halves of names and unknown names are about the names

    verdict = run(tools, chunks_of(other["deltas"], case["finish_reason"]))[1]

    assert (
        verdict.status == case["expected_verdict"]["status"]
        or case["expected_verdict"]["code"] == "tool_call_in_content"
    )


WRITE = Tool(
    name="write", parameters={"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
)
CALL = {"index": 0, "id": "call_1", "function": {"name": "write", "arguments": '{"path": "a"}'}}


def test_events_and_answer():
    """Text flows, pieces of calls are for display, and the calls come out at the end only."""
    handler = StreamingHandler([WRITE])

    events = [
        handler.feed(chunk({"role": "assistant", "content": ""})),
        handler.feed(chunk({"content": "I will "})),
        handler.feed(chunk({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "write", "arguments": ""}}]})),
        handler.feed(chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"path": "a"}'}}]})),
        handler.feed(chunk({}, "tool_calls")),
    ]
    verdict = handler.close()

    assert events == [
        [],
        [TextDelta(text="I will ")],
        [PartialToolCall(index=0, id="c", name="write")],
        [PartialToolCall(index=0, id="c", name="write", arguments_delta='{"path": "a"}')],
        [],
    ]
    assert verdict.tool_calls == (ToolCall(id="c", name="write", arguments={"path": "a"}),)
    assert (verdict.status, verdict.text, verdict.finish_reason) == ("ok", "I will ", "tool_calls")
    assert (verdict.ended_by, verdict.code, verdict.clarification()) == ("terminal", "ok", "")
    assert handler.close() is verdict


def test_a_problem_says_all():
    """A verdict carries place, expectation, what was got, what is saved, and a text for a second request."""
    early, verdict = run(
        [WRITE],
        [chunk({"tool_calls": [{**CALL, "function": {"name": "write", "arguments": '{"path": 7'}}]})],
        max_tokens=100,
    )

    assert early == [verdict.problem]
    assert early[0] == Verdict(
        status="invalid",
        code="schema_type",
        call_index=0,
        call_id="call_1",
        tool="write",
        path="/path",
        delta_no=0,
        char_offset=9,
        expected="string",
        got='{"path": 7',
        decided_by="schema",
        tokens_saved=98,
    )  # fmt: skip
    assert verdict.retriable
    assert verdict.clarification() == (
        "Your call of write was not valid at /path: wrong type, expected string, got '{\"path\": 7'. "
        "Send the whole call again as one valid JSON object."
    )


def test_what_was_got_holds_no_secret():
    """Registered secrets are masked in a verdict, also where the excerpt would have cut them."""
    secret = "canary-0123456789-abcdefghijklmnopqrstuvwxyz-0123456789"
    redaction.register(secret)

    early, _ = run(
        [WRITE],
        [chunk({"tool_calls": [{**CALL, "function": {"name": "write", "arguments": f'{{"path": "{secret}" x'}}]})],
    )

    assert secret[-20:] not in repr(early)
    assert len(early[0].got) <= 40


@pytest.mark.parametrize(
    ("ended_by", "finish_reason", "status", "code"),
    [
        pytest.param("terminal", None, "ok", "ok", id="a terminal event without a reason"),
        pytest.param("invented", "stop", "incomplete", "missing_finish", id="a reason that LiteLLM made up"),
        pytest.param("none", None, "incomplete", "missing_finish", id="nothing"),
        pytest.param(None, "stop", "ok", "ok", id="the reason is the proof"),
        pytest.param(None, None, "incomplete", "missing_finish", id="no proof"),
    ],
)
def test_the_end_must_be_proven(ended_by, finish_reason, status, code):
    """Without proof of its end an answer is incomplete, and its calls are not executed."""
    handler = StreamingHandler([WRITE])
    handler.feed(chunk({"tool_calls": [CALL]}, finish_reason))

    verdict = handler.close(ended_by=ended_by)

    assert (verdict.status, verdict.code) == (status, code)
    assert bool(verdict.tool_calls) == (status == "ok")


@pytest.mark.parametrize(
    ("used", "finish", "arguments", "status"),
    [
        pytest.param(49, "stop", '{"path": "a"}', "ok", id="below the cap"),
        pytest.param(50, "stop", '{"path": "a"}', "incomplete", id="at the cap, no call announced"),
        pytest.param(50, "tool_calls", '{"path": "a"}', "ok", id="at the cap, but whole and announced"),
        pytest.param(50, "tool_calls", '{"path": "a', "incomplete", id="at the cap and open"),
    ],
)
def test_used_up_tokens_are_a_cut(used, finish, arguments, status):
    """An answer that took all its tokens was cut, unless its call is whole and announced: reasoning counts on top."""
    handler = StreamingHandler([WRITE], max_tokens=50)
    call = {**CALL, "function": {"name": "write", "arguments": arguments}}
    handler.feed(chunk({"tool_calls": [call]}, finish))

    verdict = handler.close(usage={"prompt_tokens": 1, "completion_tokens": used})

    assert verdict.status == status
    assert verdict.code == ("ok" if used < 50 else "truncated_length")
    assert bool(verdict.tool_calls) == (status == "ok")


USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 3},
    "cache_creation_input_tokens": 2,
}


@pytest.mark.parametrize("shape", ["dict", "object", "info"])
def test_usage(shape):
    """The provider's usage in every shape becomes a UsageInfo."""
    wanted = UsageInfo(
        prompt_tokens=10,
        completion_tokens=5,
        total_tokens=15,
        cached_tokens=4,
        reasoning_tokens=3,
        cache_write_tokens=2,
    )
    as_object = json.loads(json.dumps(USAGE), object_hook=lambda fields: SimpleNamespace(**fields))
    handler = StreamingHandler()
    handler.feed(chunk({"content": "Hi"}, "stop"))
    handler.feed({"choices": [], "usage": {"dict": USAGE, "object": as_object, "info": wanted}[shape]})

    assert handler.close().usage == wanted


@pytest.mark.parametrize(
    ("usage", "wanted"),
    [
        pytest.param(None, None, id="the transport knows that there was none"),
        pytest.param({"prompt_tokens": 1, "total_tokens": 3}, UsageInfo(prompt_tokens=1, total_tokens=3), id="given"),
        pytest.param({"prompt_tokens": "many", "completion_tokens": -1}, None, id="nonsense"),
    ],
)
def test_usage_of_the_transport_wins(usage, wanted):
    """What `close` is told replaces what the chunks said."""
    handler = StreamingHandler()
    handler.feed({**chunk({"content": "Hi"}, "stop"), "usage": USAGE})

    assert handler.close(usage=usage).usage == wanted


def test_choices_have_their_own_state():
    """With several answers each has its text, its calls and its end; one bad answer spoils the whole."""

    def part(number, delta, finish=None):
        return {"choices": [{"index": number, "delta": delta, "finish_reason": finish}]}

    handler = StreamingHandler([WRITE])
    events = [
        *handler.feed(part(1, {"content": "B"})),
        *handler.feed(part(0, {"content": "A"})),
        *handler.feed(part(1, {"tool_calls": [CALL]})),
        *handler.feed(part(0, {"tool_calls": [CALL]}, "tool_calls")),
        *handler.feed(part(1, {}, "length")),
    ]
    verdict = handler.close()

    assert events[:2] == [TextDelta(text="B", choice=1), TextDelta(text="A")]
    assert [type(event) for event in events[2:]] == [PartialToolCall]
    assert (verdict.status, verdict.tool_calls, verdict.text) == ("incomplete", (), "A")
    assert [(each.status, each.text, len(each.tool_calls)) for each in verdict.choices] == [
        ("ok", "A", 1),
        ("incomplete", "B", 0),
    ]
    assert verdict.problem.choice == 1


def test_too_many_choices_and_calls_are_bounded():
    """A stream cannot make the handler keep endless state."""
    handler = StreamingHandler()
    for number in range(1000):
        handler.feed({"choices": [{"index": number, "delta": {"content": "x"}, "finish_reason": "stop"}]})
    for number in range(1000):
        handler.feed(chunk({"tool_calls": [{**CALL, "index": number, "id": f"call_{number}"}]}, "tool_calls"))

    verdict = handler.close()

    assert len(verdict.choices) == 128
    assert verdict.code == "too_many_calls"


REPLY = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}


class Reply(BaseModel):
    ok: bool


FORMATS = [
    pytest.param({"type": "json_schema", "json_schema": {"name": "reply", "schema": REPLY}}, id="schema"),
    pytest.param(Reply, id="model"),
]


@pytest.mark.parametrize("response_format", FORMATS)
def test_structured_answers(response_format):
    """A structured answer is checked as it streams, and its wrong character is not shown."""
    early, verdict = run(
        (), [chunk({"content": '{"ok": '}), chunk({"content": '"yes"}'})], response_format=response_format
    )

    assert [(each.code, each.path, each.char_offset, each.delta_no, each.tool) for each in early] == [
        ("schema_type", "/ok", 7, 1, None)
    ]
    assert verdict.status == "invalid"
    assert verdict.clarification().startswith("Your answer was not valid at /ok: wrong type, expected boolean")


@pytest.mark.parametrize(
    ("text", "finish", "status", "code"),
    [
        pytest.param('{"ok": true}', "stop", "ok", "ok", id="valid"),
        pytest.param('{"ok": true}\n', "stop", "ok", "ok", id="valid with a newline"),
        pytest.param('{"ok": tr', "length", "incomplete", "truncated_length", id="cut"),
        pytest.param('{"ok": tr', "stop", "incomplete", "unclosed_json", id="not closed"),
        pytest.param('{"ok": tr', None, "incomplete", "missing_finish", id="broken off"),
        pytest.param('```json\n{"ok": true}', "stop", "invalid", "expected_value", id="fenced"),
        pytest.param('{"ok": true} Done.', "stop", "invalid", "extra_data", id="with a comment"),
        pytest.param("[]", "stop", "invalid", "schema_type", id="not an object"),
        pytest.param("12", "stop", "invalid", "schema_type", id="a number"),
        pytest.param("{}", "stop", "invalid", "schema_required", id="missing key"),
        pytest.param("", "stop", "invalid", "empty_answer", id="nothing"),
    ],
)
@pytest.mark.parametrize("response_format", FORMATS[:1])
def test_structured_endings(text, finish, status, code, response_format):
    """Every way in which a structured answer can end, whole and in single characters."""
    whole = run((), [chunk({"content": text}, finish)], response_format=response_format)[1]
    split = run((), [*(chunk({"content": char}) for char in text), chunk({}, finish)], response_format=response_format)[
        1
    ]

    assert (whole.status, whole.code) == (split.status, split.code) == (status, code)
    assert whole.text == text


def test_structured_numbers_end_with_the_answer():
    """A number as the whole answer is held against the schema at the end."""
    response_format = {"type": "json_schema", "json_schema": {"schema": {"type": "number", "minimum": 5}}}

    assert run((), [chunk({"content": "12"}, "stop")], response_format=response_format)[1].status == "ok"
    assert run((), [chunk({"content": "3"}, "stop")], response_format=response_format)[1].code == "schema_minimum"


def test_json_object_answers():
    """`json_object` asks for any object; `text` for nothing."""
    assert (
        run((), [chunk({"content": "[1]"}, "stop")], response_format={"type": "json_object"})[1].code
        == "root_not_object"
    )
    assert run((), [chunk({"content": "[1]"}, "stop")], response_format={"type": "text"})[1].status == "ok"


@pytest.mark.parametrize(
    "response_format",
    [
        pytest.param({"type": "json_schema"}, id="no schema"),
        pytest.param({"type": "json_schema", "json_schema": {"schema": {"type": "objekt"}}}, id="no JSON Schema"),
    ],
)
def test_wrong_formats_are_refused(response_format):
    """A response format without a valid schema is the caller's mistake."""
    with pytest.raises(InvalidRequestError):
        StreamingHandler(response_format=response_format)


def test_a_tool_with_a_wrong_schema_is_never_called():
    """A handler for unchecked tools holds their calls back."""
    tool = {"name": "write", "parameters": {"type": "objekt"}}

    verdict = run([tool], [chunk({"tool_calls": [CALL]}, "tool_calls")])[1]

    assert (verdict.status, verdict.code, verdict.retriable) == ("invalid", "schema_unusable", False)
    with pytest.raises(InvalidRequestError):
        check_tools([tool])


MESSAGE = {
    "role": "assistant",
    "content": "Hi",
    "tool_calls": [{"id": "c", "type": "function", "function": CALL["function"]}],
}


def test_whole_messages():
    """A whole message goes through the same checks: the place of a call is its index."""
    sound = validate_message(MESSAGE, "tool_calls", [WRITE], usage=USAGE)
    twice = validate_message({**MESSAGE, "tool_calls": MESSAGE["tool_calls"] * 2}, None, [WRITE])
    wrong = validate_message(
        {"content": None, "tool_calls": [{"function": {"name": "write", "arguments": "{"}}]}, "stop", [WRITE]
    )

    assert (sound.status, sound.code, sound.text, sound.usage.completion_tokens) == ("ok", "ok", "Hi", 5)
    assert [call.arguments for call in sound.tool_calls] == [{"path": "a"}]
    assert (twice.status, len(twice.tool_calls)) == ("ok", 1)
    assert (wrong.status, wrong.code) == ("incomplete", "unclosed_json")


def test_legacy_function_calls():
    """`function_call` is read as the one call; its id is made, and the same for the same answer."""
    pieces = [{"name": "write", "arguments": ""}, {"arguments": '{"path"'}, {"arguments": ': "a"}'}]
    chunks = [*(chunk({"function_call": piece}) for piece in pieces), chunk({}, "function_call")]

    first, again = run([WRITE], chunks)[1], run([WRITE], chunks)[1]

    assert first.status == "ok"
    assert first.tool_calls == again.tool_calls
    assert first.tool_calls[0].id.startswith("call_")


def test_arguments_as_an_object():
    """Arguments that come as an object instead of a text are taken, with a warning."""
    verdict = validate_message(
        {"tool_calls": [{"id": "c", "function": {"name": "write", "arguments": {"path": "é"}}}]}, tools=[WRITE]
    )

    assert (verdict.status, verdict.code) == ("ok", "arguments_object")
    assert verdict.tool_calls[0].arguments == {"path": "é"}


def test_content_parts():
    """Content in parts is text."""
    parts = run((), [chunk({"content": [{"type": "text", "text": "Hi"}, {"type": "image"}]}, "stop")])[1]

    assert (parts.text, parts.status) == ("Hi", "ok")


def test_halves_of_characters_in_text():
    """An emoji in two halves is joined in the text, a lone half replaced."""
    handler = StreamingHandler()
    pieces = [handler.feed(chunk({"content": piece})) for piece in ("a\ud83d", "\ude00b", "\ude00", "c\ud83d")]

    assert [event.text for events in pieces for event in events] == ["a", "😀b", "\ufffd", "c"]
    assert handler.close().text == "a😀b\ufffdc\ufffd"


@pytest.mark.parametrize(
    ("odd", "code"),
    [
        pytest.param({"error": {"message": "overloaded"}}, "error_object", id="error object"),
        pytest.param("data: oops", "bad_chunk", id="text"),
        pytest.param(None, "bad_chunk", id="nothing"),
    ],
)
def test_odd_chunks(odd, code):
    """What is no chunk makes the answer incomplete, and is said once."""
    handler = StreamingHandler()
    handler.feed(chunk({"content": "Hi"}, "stop"))

    said = [*handler.feed(odd), *handler.feed(odd)]

    assert [(each.status, each.code) for each in said] == [("incomplete", code)]
    assert handler.close().status == "incomplete"


FIELDS = (
    "choices delta message content tool_calls function arguments name id index usage error finish_reason function_call "
    "text prompt_tokens completion_tokens_details"
)
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS.split()), inner, max_size=5),
    max_leaves=20,
)
CHUNKS = st.fixed_dictionaries({"choices": st.lists(st.fixed_dictionaries({"delta": JUNK}), max_size=2)})


@given(chunks=st.lists(CHUNKS | JUNK, max_size=4))
@settings(max_examples=150, deadline=None, database=None)
def test_nothing_in_a_stream_raises(chunks):
    """Whatever types and texts a stream holds, feeding and closing answer with verdicts that can be written down."""
    handler = StreamingHandler([WRITE])
    for each in chunks:
        for event in handler.feed(each):
            repr(event).encode()

    verdict = handler.close()

    assert verdict.status in {"ok", "invalid", "incomplete", "suspect"}
    repr(verdict).encode()
    assert math.isfinite(verdict.usage.total_tokens if verdict.usage else 0)


def test_litellm_and_openai_objects():
    """LiteLLM's and OpenAI's own objects are read like dicts, in streams and whole."""
    from litellm.types.utils import ModelResponse, ModelResponseStream  # noqa: PLC0415 - takes seconds
    from openai.types.chat import ChatCompletionChunk  # noqa: PLC0415 - takes seconds

    raw = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    entry = {**CALL, "type": "function"}
    parts = [
        {**raw, **chunk({"role": "assistant", "content": "Hi"})},
        {**raw, **chunk({"tool_calls": [entry]})},
        {**raw, **chunk({}, "tool_calls")},
        {**raw, "choices": [], "usage": {**USAGE, "total_tokens": 15}},
    ]
    whole = ModelResponse(
        choices=[{"index": 0, "message": MESSAGE, "finish_reason": "tool_calls"}], usage={**USAGE, "total_tokens": 15}
    )

    answers = [
        run([WRITE], [ModelResponseStream(**part) for part in parts])[1],
        run([WRITE], [ChatCompletionChunk.model_validate(part) for part in parts])[1],
        run([WRITE], [whole])[1],
    ]

    for answer in answers:
        assert (answer.status, answer.text, answer.finish_reason) == ("ok", "Hi", "tool_calls")
        assert [call.arguments for call in answer.tool_calls] == [{"path": "a"}]
        assert (answer.usage.prompt_tokens, answer.usage.cached_tokens) == (10, 4)


def test_importing_loads_no_heavy_library():
    """The package loads jsonschema and LiteLLM only when they are needed."""
    heavy = "{'jsonschema', 'litellm', 'openai', 'httpx'}"
    code = f"import sys, blueprint_llm.streaming; print(sorted({heavy} & set(sys.modules)))"

    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
