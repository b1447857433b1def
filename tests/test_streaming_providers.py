"""Broken and odd tool calls per kind of server: no broken call comes out, no good one is lost, however it is split."""

import json
import random

import pytest

from blueprint_llm.streaming import StreamingHandler, Verdict
from blueprint_llm.types import Tool

PATH = {
    "type": "object",
    "properties": {"path": {"type": "string"}},
    "required": ["path"],
    "additionalProperties": False,
}
TOOLS = {"write": PATH, "now": {"type": "object", "properties": {}}, "read": PATH, "read_all": PATH}
A, B = '{"path": "a"}', '{"path": "b"}'
WRITE_A, WRITE_B, NOW = ("write", {"path": "a"}), ("write", {"path": "b"}), ("now", {})


def piece(index=None, call_id=None, name=None, arguments=...):
    """One entry of `tool_calls`; what is not given is absent."""
    entry = {key: value for key, value in (("index", index), ("id", call_id)) if value is not None}
    said = {} if arguments is ... else {"arguments": arguments}
    return {**entry, "function": {**({} if name is None else {"name": name}), **said}}


def case(label, *pieces, calls=(), code=None, finish="tool_calls"):
    """A stream with one entry a chunk; `code` is the problem, None where `calls` must come out."""
    return pytest.param(list(pieces), finish, list(calls), code, id=label)


CASES = [
    case("OpenAI: two calls, interleaved", piece(0, "c1", "write", ""), piece(1, "c2", "write", ""),
         piece(0, arguments='{"path": '), piece(1, arguments='{"path"'), piece(0, arguments='"a"}'),
         piece(1, arguments=': "b"}'), calls=[WRITE_A, WRITE_B]),
    case("OpenAI: two no-argument calls", piece(0, "c1", "now", "{}"), piece(1, "c2", "now", "{}"), calls=[NOW, NOW]),
    case("OpenAI: index as text", piece("0", "c1", "write", '{"path": '), piece("1", "c2", "write", '{"path": '),
         piece("0", arguments='"a"}'), piece("1", arguments='"b"}'), calls=[WRITE_A, WRITE_B]),
    case("OpenAI: second call lost its name", piece(0, "c1", "write", A), piece(1, "c2", arguments=B),
         code="missing_name"),
    case("OpenAI: announced and never sent", piece(0, "c1", "write", A), piece(1, "c2", "write", ""),
         code="empty_arguments"),
    case("Azure: empty ids and names continue", piece(0, "c1", "write", ""), piece(0, "", "", '{"path": '),
         piece(0, "", "", '"a"}'), calls=[WRITE_A]),
    case("Anthropic: the index counts the text block", piece(1, "toolu_1", "write", ""), piece(1, arguments=""),
         piece(1, arguments=A), piece(2, "toolu_2", "write", ""), piece(2, arguments=B), calls=[WRITE_A, WRITE_B]),
    case("Anthropic: an empty input before the real one", piece(1, "toolu_1", "now", "{}"),
         piece(1, arguments='{"x": 1}'), code="concatenated_objects"),
    case("Anthropic: the last delta is lost", piece(1, "toolu_1", "write", '{"path": "a"'), code="unclosed_json"),
    case("Gemini: no index, whole arguments", piece(None, "g1", "write", A), piece(None, "g2", "write", B),
         calls=[WRITE_A, WRITE_B], finish="stop"),
    case("Gemini: empty ids on one index", piece(0, "", "write", A), piece(0, "", "write", B), code="ambiguous_calls"),
    case("Gemini: no arguments", piece(0, "g1", "now", None), calls=[NOW], finish="stop"),
    case("Gemini: malformed call", piece(0, "g1", "write", A), code="missing_finish", finish="MALFORMED_FUNCTION_CALL"),
    case("Mistral: arguments as an object", piece(0, "m12345678", "write", {"path": "a"}), calls=[WRITE_A]),
    case("Mistral: the id null, as text", piece(0, "null", "write", A), piece(1, "null", "write", B),
         calls=[WRITE_A, WRITE_B]),
    case("Mistral: cut by the window", piece(0, "m1", "write", A), code="truncated_length", finish="model_length"),
    case("Ollama: every call at index 0", piece(0, "o1", "write", {"path": "a"}),
         piece(0, "o2", "write", {"path": "b"}), calls=[WRITE_A, WRITE_B], finish="stop"),
    case("Ollama: a list for arguments", piece(0, "o1", "now", [1]), code="root_not_object"),
    case("Ollama: a number for arguments", piece(0, "o1", "now", 5), code="root_not_object"),
    case("Ollama: true for arguments", piece(0, "o1", "now", True), code="root_not_object"),
    case("Ollama: not a number inside the object", piece(0, "o1", "now", {"x": float("nan")}), code="expected_value"),
    case("DeepSeek: out of resources", piece(0, "d1", "write", A), code="missing_finish",
         finish="insufficient_system_resource"),
    case("DeepSeek: one id for all", piece(0, "d1", "write", A), piece(1, "d1", "write", B),
         piece(2, "d1", "now", "{}"), calls=[WRITE_A, WRITE_B, NOW]),
    case("DeepSeek: one id for all, openers empty", piece(0, "d1", "write", ""), piece(0, arguments=A),
         piece(1, "d1", "write", ""), piece(1, arguments=B), calls=[WRITE_A, WRITE_B]),
    case("DeepSeek: the same call again under its id", piece(0, "d1", "write", A), piece(1, "d1", "write", A),
         calls=[WRITE_A]),
    case("vLLM: another id on every delta, a bare one last", piece(0, "v1", "write", '{"path": '),
         piece(0, "v2", arguments='"a"}'), piece(0, "v3", arguments=""), calls=[WRITE_A]),
    case("vLLM: a bare id where a call should follow", piece(0, "v1", "write", A), piece(1, "v2"), code="missing_name"),
    case("vLLM: the last brace is lost", piece(0, "v1", "write", '{"path": "a'), piece(0, arguments='"'),
         code="unclosed_json"),
    case("vLLM: aborted", piece(0, "v1", "write", A), code="missing_finish", finish="abort"),
    case("llama.cpp: the name after the arguments", piece(0, "l1", arguments=A), piece(0, None, "write"),
         calls=[WRITE_A]),
    case("llama.cpp: encoded twice", piece(0, "l1", "write", json.dumps(A)), code="root_not_object"),
    case("llama.cpp: half of the name is a name", piece(0, "l1", "read", ""), piece(0, None, "_all", A),
         calls=[("read_all", {"path": "a"})]),
    case("cumulative from the bracket on", piece(0, "c1", "write", "{"), piece(0, arguments='{"pa'),
         piece(0, arguments=A), calls=[WRITE_A]),
    case("a doubled bracket", piece(0, "c1", "write", "{"), piece(0, arguments=A), code="expected_key"),
    case("a doubled bracket, closed", piece(0, "c1", "write", "{"), piece(0, arguments=A), piece(0, arguments="}"),
         code="expected_key"),
    case("OpenRouter: failed upstream", piece(0, "r1", "write", A), code="missing_finish", finish="error"),
    case("Cohere: the user went", piece(0, "h1", "write", A), code="missing_finish", finish="USER_CANCEL"),
    case("Bedrock: guarded", piece(0, "b1", "write", A), code="content_filter", finish="guardrail_intervened"),
    case("a byte order mark", piece(0, "c1", "write", "\ufeff" + A), code="root_not_object"),
    case("a zero byte", piece(0, "c1", "write", A + "\0"), code="extra_data"),
    case("a name with a blank", piece(0, "c1", " write", A), code="unknown_tool"),
    case("a name with its module", piece(0, "c1", "functions.write", A), code="unknown_tool"),
    case("a call and a copy without id", piece(0, None, "write", A), piece(0, "c1", "write", A), calls=[WRITE_A]),
    case("numbers for ids", piece(0, 5, "write", A), piece(1, 6, "write", B), calls=[WRITE_A, WRITE_B]),
    case("halves of a character", piece(0, "c1", "write", '{"path": "\ud83d'), piece(0, arguments='\ude00"}'),
         calls=[("write", {"path": "😀"})]),
    case("none though announced", code="missing_tool_call"),
]  # fmt: skip
# What is said twice, whole, is told from what is said once by the pieces: in characters it is no longer there.
WHOLE_ONLY = ("cumulative", "doubled bracket", "a copy without id")


def chunk(entries, finish=None, **delta):
    """A chunk in OpenAI's shape."""
    delta |= {"tool_calls": entries} if entries else {}
    return {"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def verdict_on(chunks, names=TOOLS):
    """The verdict at the end, and what was found before."""
    handler = StreamingHandler([Tool(name=name, parameters=parameters) for name, parameters in names.items()])
    early = [event for each in chunks for event in handler.feed(each) if isinstance(event, Verdict)]
    verdict = handler.close()
    assert not (early and verdict.tool_calls)
    return verdict


def require(verdict, calls, code):
    """The calls came out, each under an id of its own, or the problem was found and nothing came out."""
    assert [(call.name, call.arguments) for call in verdict.tool_calls] == calls
    assert len({call.id for call in verdict.tool_calls}) == len(calls)
    assert (verdict.problem and verdict.problem.code) == code
    assert (verdict.status == "ok") == (code is None)


@pytest.mark.parametrize(("pieces", "finish", "calls", "code"), CASES)
def test_odd_streams(pieces, finish, calls, code):
    """Each odd stream gives exactly its good calls, or its problem and none."""
    require(verdict_on([*(chunk([each]) for each in pieces), chunk([], finish)]), calls, code)


def characters(pieces):
    """Every text of arguments in single characters; id and name come with the first."""
    for each in pieces:
        said = each["function"].get("arguments")
        if not isinstance(said, str) or len(said) < 2:
            yield each
            continue
        yield {**each, "function": {**each["function"], "arguments": said[0]}}
        rest = {"index": each["index"]} if "index" in each else {"id": each["id"]}
        yield from ({**rest, "function": {"arguments": char}} for char in said[1:])


@pytest.mark.parametrize(("pieces", "finish", "calls", "code"), CASES)
def test_odd_streams_in_single_characters(pieces, finish, calls, code, request):
    """Split into characters a stream ends alike; where only the pieces told a copy, nothing is executed twice."""
    verdict = verdict_on([*(chunk([each]) for each in characters(pieces)), chunk([], finish)])

    if any(words in request.node.callspec.id for words in WHOLE_ONLY):
        assert len(verdict.tool_calls) <= len(calls)
    else:
        require(verdict, calls, code)


@pytest.mark.parametrize(("pieces", "finish", "calls", "code"), CASES)
def test_odd_streams_in_one_chunk(pieces, finish, calls, code):
    """Merged into one chunk, beside text, a stream ends alike."""
    require(verdict_on([chunk(pieces, finish, content="Now: " if pieces else None)]), calls, code)


@pytest.mark.parametrize(("pieces", "finish", "calls", "code"), CASES)
def test_odd_streams_under_other_names(pieces, finish, calls, code):
    """Ids and names mean nothing: with others a stream ends alike."""

    def renamed(each):
        entry = {**each, "function": {**each["function"]}}
        if isinstance(entry.get("id"), str) and entry["id"]:
            entry["id"] = f"zz-{entry['id'][::-1]}"
        if entry["function"].get("name") in TOOLS:
            entry["function"]["name"] = f"zz_{entry['function']['name']}"
        return entry

    names = {f"zz_{name}": parameters for name, parameters in TOOLS.items()}
    verdict = verdict_on([*(chunk([renamed(each)]) for each in pieces), chunk([], finish)], names)

    require(verdict, [(f"zz_{name}", arguments) for name, arguments in calls], code)


def test_alternatives_never_run_into_one_another():
    """Two answers without an index stay two: only the first one's call comes out, only its text is shown."""
    deltas = [
        {"content": "yes", "tool_calls": [piece(0, "c1", "write", A)]},
        {"content": "no", "tool_calls": [piece(0, "c2", "write", B)]},
    ]

    verdict = verdict_on([{"id": "x", "choices": [{"delta": delta, "finish_reason": "stop"} for delta in deltas]}])

    require(verdict, [WRITE_A], None)
    assert (verdict.text, [each.text for each in verdict.choices]) == ("yes", ["yes", "no"])


def test_old_and_new_form_of_one_call():
    """A server that says a call as `function_call` and again in `tool_calls` means it once."""
    old = {"id": "x", "choices": [{"index": 0, "delta": {"function_call": {"name": "write", "arguments": A}}}]}

    require(verdict_on([old, chunk([piece(0, "c1", "write", A)]), chunk([], "tool_calls")]), [WRITE_A], None)


@pytest.mark.parametrize(
    "text",
    [
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>write",
        "<｜DSML｜function_calls>",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.write:0",
        '<function_calls>\n<invoke name="write">',
        "<|tool_call|>[]",
        "<minimax:tool_call>",
        "<|channel|>commentary to=functions.write json<|message|>{}",
        '{"arguments": {"path": "a"}, "name": "write"}',
        'Calling {"tool": "write", "args": {}}',
    ],
)
def test_calls_in_the_text_are_suspect(text):
    """A call that a server's parser left in the text is said, in every model's own words, and never executed."""
    verdict = verdict_on([chunk([], content=text), chunk([], "stop")])

    assert (verdict.status, verdict.code, verdict.tool_calls) == ("suspect", "tool_call_in_content", ())


def _quirky(rng, calls):
    """A lossless way to send the calls: their deltas in random pieces, interleaved, with a server's habits."""
    has_index, every_id = rng.choice([(True, False), (True, True), (False, True)])
    every_name = rng.random() < 0.3
    late_name = has_index and rng.random() < 0.2
    queues = []
    for place, (name, text) in enumerate(calls):
        cuts = sorted(rng.sample(range(1, len(text)), min(rng.randrange(6), len(text) - 1)))
        said = [text[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]
        queue = []
        for n, arguments in enumerate(said):
            is_named = n == len(said) - 1 if late_name else n == 0 or every_name
            call_id = f"c{place}" if n == 0 or every_id else rng.choice([None, ""]) if has_index else None
            queue.append(piece(place if has_index else None, call_id, name if is_named else None, arguments))
        queues.append(queue)
    if rng.random() < 0.5:
        return [each for queue in queues for each in queue]
    order = [place for place, queue in enumerate(queues) for _ in queue]
    rng.shuffle(order)
    return [queues[place].pop(0) for place in order]


def _calls(rng):
    words = ["a", "ü/b", 'say "x"', "line\nbreak", "C:\\new", "😀", "{}", "} {"]
    values = [{"path": rng.choice(words) * rng.randrange(1, 3)} for _ in range(rng.randrange(1, 4))]
    return [(rng.choice(["write", "read"]), json.dumps(value, ensure_ascii=rng.random() < 0.5)) for value in values]


def test_good_calls_survive_every_habit():
    """Of 400 sets of calls, sent in random pieces with random lossless habits, not one is lost or changed."""
    for seed in range(400):
        rng = random.Random(seed)  # noqa: S311 - repeatable
        calls = _calls(rng)
        chunks = [chunk([each]) for each in _quirky(rng, calls)]

        verdict = verdict_on([*chunks, chunk([], "tool_calls")])

        found = [(call.name, call.arguments) for call in verdict.tool_calls]
        assert sorted(map(repr, found)) == sorted(repr((name, json.loads(text))) for name, text in calls), seed


def test_broken_calls_never_come_out():
    """Of 800 sets of calls with one character lost, added or changed, none is executed unless it is sound JSON."""
    broken = 0
    for seed in range(800):
        rng = random.Random(seed)  # noqa: S311 - repeatable
        calls = _calls(rng)
        name, text = calls[-1]
        at, char = rng.randrange(len(text)), rng.choice('{}[]",:\\ x0')
        text = text[:at] + rng.choice(["", char, char + text[at]]) + text[at + 1 :]
        sent = [*calls[:-1], (name, text)] if len(text) > 1 else calls
        chunks = [chunk([each]) for each in _quirky(rng, sent)]

        verdict = verdict_on([*chunks, chunk([], "tool_calls")])

        is_sound = all(_is_sound(said) for _, said in sent)
        broken += not is_sound
        assert bool(verdict.tool_calls) == is_sound, (seed, sent, verdict)
    assert broken > 400


def _is_sound(text):
    try:
        value = json.loads(text)
        value["path"].encode()  # no lone half of a character
    except (ValueError, TypeError, KeyError, AttributeError):
        return False
    return value.keys() == {"path"}
