"""Schema decisions in mid-stream: early where certain, never wrong."""

import http.server
import json
import sys
import threading

import jsonschema
import pytest
import referencing
from hypothesis import given, settings
from hypothesis import strategies as st
from streaming_schemas import schema, value
from streaming_texts import rng_of, splits

from blueprint_llm.errors import InvalidRequestError
from blueprint_llm.streaming import JsonRejected, check_tools, schema_check
from blueprint_llm.streaming.document import Document
from blueprint_llm.streaming.schema_check import CompiledSchema, compile_schema, for_validators, read_schema
from blueprint_llm.types import Tool


def decision(wanted, text, *, size=None):
    """The code and offset that the machine alone decides in mid-stream; None where it lets the text pass."""
    machine = compile_schema(wanted).machine(any_root=True)
    size = size or len(text)
    try:
        for at in range(0, len(text), size):
            machine.feed(text[at : at + size])
        machine.close()
    except JsonRejected as error:
        return error.code, error.offset
    return None


@given(seed=st.integers(0, 2**63))
@settings(max_examples=150, deadline=None, database=None)
def test_mid_stream_errors_are_sound(seed):
    """A text that jsonschema accepts is never rejected at any of its prefixes; one split decides like another."""
    rng = rng_of(seed)
    wanted, validator = _under_some_draft(rng, schema(rng))
    machine_of = CompiledSchema(wanted).machine
    for _ in range(12):
        instance = value(rng, wanted, wanted)
        text = json.dumps(instance, indent=rng.choice([None, 1]), ensure_ascii=rng.random() < 0.5)
        found = [_fed(machine_of(any_root=True), pieces) for pieces in ([text], list(text), splits(rng, text))]
        assert found[0] == found[1] == found[2]
        if validator.is_valid(instance):
            assert found[0] is None, (wanted, text)


DRAFTS = {
    "Draft202012Validator": "https://json-schema.org/draft/2020-12/schema",
    "Draft201909Validator": "https://json-schema.org/draft/2019-09/schema",
    "Draft7Validator": "http://json-schema.org/draft-07/schema#",
    "Draft6Validator": "http://json-schema.org/draft-06/schema#",
    "Draft4Validator": "http://json-schema.org/draft-04/schema#",
}


def _under_some_draft(rng, wanted):
    """The schema as one of a random draft that takes it (a plain one where none does), and that draft's validator."""
    kinds = {name: getattr(jsonschema, name) for name in rng.sample([*DRAFTS], len(DRAFTS))}
    # Older drafts do not look into `$defs`, and jsonschema stumbles over what it finds there.
    parts = (wanted, *wanted.get("$defs", {}).values())
    fit = (name for name, kind in kinds.items() if all(map(kind(kind.META_SCHEMA).is_valid, parts)))
    name = next(fit, None)
    if name is None:
        return _under_some_draft(rng, {"type": "object"})
    wanted, kind = {**wanted, "$schema": DRAFTS[name]}, kinds[name]
    return wanted, kind(wanted, registry=referencing.Registry())


def _fed(machine, pieces):
    try:
        for piece in pieces:
            machine.feed(piece)
        machine.close()
    except JsonRejected as error:
        return error.code, error.offset
    return None


@pytest.mark.slow
def test_fuzzed_errors_are_mostly_seen_in_mid_stream():
    """Without conditions and patterns, most wrong values are turned down before their end: the fuzz is not idle."""
    seen = missed = accepted = 0
    for seed in range(400):
        rng = rng_of(seed)
        wanted, validator = _under_some_draft(rng, schema(rng, depth=2))
        instance = value(rng, wanted, wanted)
        if validator.is_valid(instance):
            accepted += 1
        else:
            is_seen = decision(wanted, json.dumps(instance)) is not None
            seen, missed = seen + is_seen, missed + (not is_seen)

    assert accepted > 100
    assert seen > 2 * missed


OBJECT = {"type": "object", "properties": {"a": {"type": "string"}, "ab": {"type": "integer"}}, "required": ["a"]}
CLOSED = {**OBJECT, "additionalProperties": False}
PETS = {
    "anyOf": [
        {
            "type": "object",
            "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}},
            "required": ["lives"],
        },
        {"type": "object", "properties": {"kind": {"const": "cow"}, "milk": {"type": "boolean"}}, "required": ["milk"]},
    ]
}
TREE = {
    "type": "object",
    "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "v": {"$ref": "#/$defs/n~1a/0"}},
    "additionalProperties": False,
    "$defs": {"n/a": [{"type": "integer"}]},
}


@pytest.mark.parametrize(
    ("wanted", "text", "found"),
    [
        pytest.param(OBJECT, '{"a": 1', ("schema_type", 6), id="number for a string"),
        pytest.param(OBJECT, '{"ab": "', ("schema_type", 7), id="string for a number"),
        pytest.param(OBJECT, '{"ab": t', ("schema_type", 7), id="true for a number"),
        pytest.param(OBJECT, '{"ab": 1.5}', ("schema_type", 10), id="fraction for an integer"),
        pytest.param(OBJECT, '{"ab": 1.50e1, "a": ""}', None, id="an integer in disguise"),
        pytest.param(OBJECT, "{}", ("schema_required", 1), id="missing key"),
        pytest.param(OBJECT, '{"b": [], "a": ""}', None, id="an open object takes any key"),
        pytest.param(CLOSED, '{"ac', ("schema_unknown_property", 3), id="unknown key by prefix"),
        pytest.param(CLOSED, '{"abc', ("schema_unknown_property", 4), id="longer than any key"),
        pytest.param({**CLOSED, "properties": {"abc": {}}}, '{"ab"', ("schema_unknown_property", 4), id="shorter key"),
        pytest.param(CLOSED, '{"\\u0061": "", "\\u0061b": 1}', None, id="keys in escapes"),
        pytest.param(CLOSED, '{"\\u0062', ("schema_unknown_property", 7), id="unknown key in escapes"),
        pytest.param({"additionalProperties": False}, '{"', ("schema_unknown_property", 1), id="no key at all"),
        pytest.param({"additionalProperties": {"type": "null"}}, '{"x": 1', ("schema_type", 6), id="other keys' type"),
        pytest.param({"properties": {"x": False}}, '{"x": 1', ("schema_type", 6), id="a forbidden key"),
        pytest.param({"enum": ["red", "green"]}, '"re', None, id="listed so far"),
        pytest.param({"enum": ["red", "green"]}, '"rx', ("schema_enum", 2), id="not listed"),
        pytest.param({"enum": ["red", "green"]}, '"re"', ("schema_enum", 3), id="only the beginning of one"),
        pytest.param({"enum": ["red", 1]}, "t", ("schema_enum", 0), id="no listed value begins so"),
        pytest.param({"enum": [True, 5]}, "f", ("schema_enum", 0), id="the other truth value"),
        pytest.param({"enum": [1, None]}, "true", ("schema_enum", 0), id="true is not 1"),
        pytest.param({"enum": [1, False]}, "t", ("schema_enum", 0), id="nor beside the other truth value"),
        pytest.param({"enum": [1.0]}, "1", None, id="1 is 1.0"),
        pytest.param({"const": "é"}, '"\\u00e9"', None, id="a listed value in escapes"),
        pytest.param({"type": "string", "enum": ["a", 1]}, "1", ("schema_type", 0), id="type before list"),
        pytest.param({"items": {"type": "integer"}}, '[1, "', ("schema_type", 4), id="item"),
        pytest.param(
            {"prefixItems": [{"type": "null"}], "items": False}, "[null, 1", ("schema_type", 7), id="surplus item"
        ),
        pytest.param({"prefixItems": [{"type": "null"}]}, "[null, 1]", None, id="free items"),
        pytest.param(PETS, '{"kind": "cat", "lives": "', ("schema_type", 25), id="the union narrows by its tag"),
        pytest.param(PETS, '{"kind": "cow"}', ("schema_required", 14), id="the narrowed branch misses a key"),
        pytest.param(PETS, '{"kind": "dog', ("schema_enum", 10), id="no branch has this tag"),
        pytest.param(PETS, '{"kind": "cow", "lives": "9", "milk": true}', None, id="the other branch does not count"),
        pytest.param(TREE, '{"next": {"next": null, "w', ("schema_unknown_property", 25), id="recursion"),
        pytest.param(TREE, '{"v": "', ("schema_type", 6), id="a pointer with an escape"),
        pytest.param({"allOf": [OBJECT, {"required": ["b"]}]}, '{"a": ""}', ("schema_required", 8), id="both"),
        pytest.param(
            {"allOf": [CLOSED, {"properties": {"b": {}}}]}, '{"b', ("schema_unknown_property", 2), id="closed part"
        ),
        pytest.param({"patternProperties": {"^x": {}}, "additionalProperties": False}, '{"y": 1}', None, id="patterns"),
        pytest.param({"not": {"type": "string"}}, '"a"', None, id="a negation waits for the end"),
        pytest.param(
            {"$ref": "#/$defs/x", "$defs": {"x": {"$ref": "#/$defs/x"}}}, "1", None, id="an endless reference"
        ),
        pytest.param({"$schema": "draft-07", "prefixItems": [False]}, "[1]", None, id="a word that draft 7 lacks"),
        pytest.param({"$schema": "draft-04", "const": 2}, "1", None, id="a word that draft 4 lacks"),
        pytest.param({"$schema": "draft-06", "const": 2}, "1 ", ("schema_enum", 1), id="which draft 6 has"),
        pytest.param({"items": [{"type": "null"}], "additionalItems": False}, "[1", None, id="a tuple of draft 7"),
        pytest.param({"type": "string", "nullable": True}, "null", None, id="OpenAPI's nullable"),
        pytest.param({"type": "string", "nullable": True}, "1", ("schema_type", 0), id="nullable is not anything"),
        pytest.param({"type": "string", "nullable": False}, "n", ("schema_type", 0), id="not nullable"),
        pytest.param(False, "1", ("schema_type", 0), id="nothing is allowed"),
        pytest.param(True, "[1]", None, id="everything is allowed"),
    ],
)
def test_decisions(wanted, text, found):
    """What is certain is said at its character, the same for every split; what is not waits."""
    decided = {decision(wanted, text, size=size) for size in (1, 2, 3, len(text))}

    assert decided == {found} or (found is None and {each and each[0] for each in decided} == {"unclosed_json"})


def test_unions_beyond_reason_are_not_followed():
    """Alternatives that multiply are given up instead of costing time, and then nothing is forbidden early."""
    branch = {"type": "object", "properties": {"a": {"anyOf": [{"$ref": "#"}] * 5}}}
    wanted = {"anyOf": [branch] * 5, "$defs": {}}
    wide = {"allOf": [{"anyOf": [{"type": "string"}, {"type": "null"}]}] * 12}
    endless = {"allOf": [{"$ref": "#"}, {"$ref": "#"}, {"$ref": "#"}], "type": "object"}

    assert decision(wanted, '{"a":' * 100 + "{}" + "}" * 100) is None
    assert decision(wide, "1") is None
    assert decision(endless, "1") == ("schema_type", 0)


def test_long_values_leave_no_trace_in_a_schema():
    """However many items or unknown keys a value has, what is remembered of its schema stays small."""
    compiled = compile_schema(
        {"properties": {"a": {"items": {"type": "integer"}}}, "additionalProperties": {"maximum": 9}}
    )
    machine = compiled.machine()
    machine.feed('{"a": [' + ", ".join(["1"] * 500) + "]")
    machine.feed("".join(f', "k{n}": 1' for n in range(500)) + "}")

    (root,) = compiled._index.roots
    (items,) = root.children["a"]
    assert len(root.children) == 2
    assert len(items.children) == 1


@pytest.fixture(params=["jsonschema-rs", "jsonschema"])
def either_validator(request, monkeypatch):
    """With and without the extra `fast`; nothing compiled is kept."""
    if request.param == "jsonschema":
        monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    schema_check._compiled.cache_clear()
    yield request.param
    schema_check._compiled.cache_clear()


def prop(rule):
    """An object whose key `a` follows the rule."""
    return {"properties": {"a": rule}}


OLD = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    **prop({"$ref": "#/definitions/x", "type": "null"}),
    "definitions": {"x": {"minimum": 2}},
}
ELSEWHERE = prop({"$ref": "http://127.0.0.1:9/x.json#/y"})
HIDDEN = {"properties": {"default": {"$ref": "http://127.0.0.1:9/x.json"}}}
QUOTED = {"const": {"$ref": "http://127.0.0.1:9/x.json"}}
DRAFT_4 = "http://json-schema.org/draft-04/schema#"
DIALECT = {"$schema": "http://127.0.0.1:9/meta", "type": "object"}


@pytest.mark.parametrize(
    ("wanted", "instance", "code", "path"),
    [
        pytest.param(prop({"pattern": "^x"}), {"a": "y"}, "schema_pattern", "/a", id="pattern"),
        pytest.param(prop({"pattern": "^(?!x)y"}), {"a": "xy"}, "schema_pattern", "/a", id="lookahead"),
        pytest.param(prop({"maxLength": 2}), {"a": "xyz"}, "schema_max_length", "/a", id="length"),
        pytest.param(prop({"minimum": 2}), {"a": 1}, "schema_minimum", "/a", id="minimum"),
        pytest.param(prop({"uniqueItems": True}), {"a": [1, 1]}, "schema_unique_items", "/a", id="twins"),
        pytest.param(prop({"items": [{"type": "null"}]}), {"a": [1]}, "schema_type", "/a/0", id="draft 7"),
        pytest.param(prop({"items": {"minimum": 1}}), {"a": [1, 0]}, "schema_minimum", "/a/1", id="path"),
        pytest.param({"not": {"required": ["a"]}}, {"a": 1}, "schema_not", "", id="negation"),
        pytest.param({"enum": [{"a": 1}]}, {"a": 2}, "schema_enum", "", id="listed objects"),
        pytest.param(OLD, {"a": 1}, "schema_minimum", "/a", id="draft 7 reads only the reference"),
        pytest.param(prop({"format": "email"}), {"a": "x"}, None, "", id="formats do not forbid"),
        pytest.param(ELSEWHERE, {"a": 1}, None, "", id="a reference to elsewhere does not forbid"),
        pytest.param(HIDDEN, {"default": 1}, None, "", id="nor does one below a key like a keyword's name"),
        pytest.param(QUOTED, QUOTED["const"], None, "", id="a value that looks like a reference"),
        pytest.param(DIALECT, {"a": 1}, None, "", id="an unknown dialect is not fetched"),
        pytest.param({"dependencies": {"a": ["b"]}}, {"a": 1}, None, "", id="no word of this draft any more"),
        pytest.param(prop({"multipleOf": 0.01}), {"a": 19.99}, None, "", id="cents"),
        pytest.param(prop({"multipleOf": 0.1}), {"a": 0.3}, None, "", id="tenths"),
        pytest.param(prop({"multipleOf": 0.01}), {"a": 19.995}, "schema_multiple_of", "/a", id="no cents"),
        pytest.param(prop({"type": "integer"}), {"a": 5.0}, None, "", id="5.0 is an integer"),
        pytest.param({"$schema": DRAFT_4, **prop({"type": "integer"})}, {"a": 5.0}, None, "", id="in draft 4 as well"),
        pytest.param(
            {"$schema": DRAFT_4, **prop({"not": {"type": "integer"}})},
            {"a": 5.0},
            "schema_not",
            "/a",
            id="wherever it stands",
        ),
        pytest.param(
            {"$schema": DRAFT_4, **prop({"not": {"type": ["integer", "null"]}})}, {"a": 5.5}, None, "", id="5.5 is none"
        ),
        pytest.param(prop({"type": "string", "nullable": True}), {"a": None}, None, "", id="nullable"),
        pytest.param(prop({"enum": ["x"], "nullable": True}), {"a": None}, None, "", id="nullable among listed values"),
        pytest.param(prop({"const": "x", "nullable": True}), {"a": None}, None, "", id="nullable beside one value"),
        pytest.param(
            prop({"anyOf": [{"type": "string"}], "nullable": True}),
            {"a": None},
            None,
            "",
            id="nullable beside alternatives",
        ),
        pytest.param(
            {**prop({"$ref": "#/$defs/x", "nullable": True}), "$defs": {"x": {"type": "string"}}},
            {"a": None},
            None,
            "",
            id="nullable beside a reference",
        ),
        pytest.param(
            {**prop({"$ref": "#/$defs/x", "nullable": True}), "$defs": {"x": {"type": "string"}}},
            {"a": 1},
            "schema_type",
            "/a",
            id="nullable beside a reference is not anything",
        ),
        pytest.param(
            {"properties": {"nullable": True, "a": {"type": "string"}}},
            {"a": None},
            "schema_type",
            "/a",
            id="a key named nullable",
        ),
        pytest.param(
            {"properties": {"nullable": True, "type": {"type": "string"}}},
            {"type": None},
            "schema_type",
            "/type",
            id="keys named like keywords",
        ),
        pytest.param(
            {"properties": {"enum": {"type": "string", "nullable": True}}},
            {"enum": None},
            None,
            "",
            id="nullable below a key named like a keyword",
        ),
        pytest.param(
            prop({"not": {"type": "string", "nullable": True}}),
            {"a": None},
            "schema_not",
            "/a",
            id="nullable where only the end decides",
        ),
        pytest.param(prop({"pattern": r"^\d+$"}), {"a": "٣٤"}, "schema_pattern", "/a", id="digits are ASCII"),
        pytest.param(prop({"pattern": r"^[\w-]+$"}), {"a": "é"}, "schema_pattern", "/a", id="words are ASCII"),
        pytest.param(prop({"pattern": "^a$"}), {"a": "a\n"}, "schema_pattern", "/a", id="the end is the end"),
        pytest.param(prop({"pattern": r"^[^\W_]$"}), {"a": "é"}, "schema_pattern", "/a", id="in negated classes, too"),
        pytest.param(prop({"pattern": r"^\s[\s]$"}), {"a": "\u00a0\u00a0"}, None, "", id="blanks are Unicode's"),
        pytest.param(prop({"pattern": r"^[$][^$]$"}), {"a": "$a"}, None, "", id="a dollar in a class is one"),
        pytest.param(prop({"pattern": r"^\p{L}+$"}), {"a": "é"}, None, "", id="classes of Unicode do not forbid"),
        pytest.param(
            {"patternProperties": {r"^\w$": {"type": "null"}}, "additionalProperties": False},
            {"é": 1},
            "schema_unknown_property",
            "",
            id="nor do they in names",
        ),
        pytest.param(
            prop({"items": {"additionalProperties": False}}),
            {"a": [{"b": 1}]},
            "schema_unknown_property",
            "/a/0",
            id="an unknown key further inside",
        ),
        pytest.param({"not": {"properties": {"b": False}}}, {"a": 1}, "schema_not", "", id="a forbidden key, denied"),
        pytest.param(
            {"if": {"required": ["a"]}, "then": {"properties": {"b": False}}},
            {"a": 1, "b": 1},
            "schema_not",
            "/b",
            id="a key that is forbidden at times",
        ),
    ],
)
def test_the_last_word(either_validator, wanted, instance, code, path):
    """What cannot be decided early is decided at the end, alike by both validators, without a network."""
    text = json.dumps(instance)
    document = Document(compile_schema(wanted))

    error = rejection(document, text[:3], text[3:])

    assert (error.code if error else None) == code
    assert error is None or (error.path == path and error.expected)
    assert error or document.value == instance


def test_validators_agree():
    """Whatever the schema and the draft, both validators take the same values and blame the same places."""
    pytest.importorskip("jsonschema_rs")
    checked = 0
    for seed in range(120):
        rng = rng_of(seed)
        read, draft = read_schema(_under_some_draft(rng, schema(rng))[0])
        written = for_validators(read, draft)
        fast, slow = schema_check._validator(written, draft), schema_check._python_validator(written, draft)
        if draft == "Draft4":  # knows no `false`, which the generator puts where this draft does not look
            continue
        for _ in range(6):
            instance = value(rng, read, read)
            found, other = fast(instance), slow(instance)
            assert (found and (found.code, found.path)) == (other and (other.code, other.path)), (read, instance)
            checked += 1
    assert checked > 400


def test_one_schema_is_compiled_once():
    """However often a tool is offered, in whatever order its keys are written, its schema is compiled once."""
    first, again = compile_schema({"type": "object", "title": "x"}), compile_schema({"title": "x", "type": "object"})

    assert first is again


def test_nothing_is_fetched(either_validator):
    """No reference, wherever it stands, makes a validator ask a server."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/x.json"
        for name in ("a", "default"):
            wanted = {"$id": address, "properties": {name: {"$ref": address.replace("x", "y")}}}
            assert rejection(Document(compile_schema(wanted)), '{"a": 1, "default"', ": 1}") is None
        server.shutdown()

    assert not asked


def rejection(document, *pieces):
    """Why the document is rejected; None where it is not."""
    try:
        for piece in pieces:
            document.feed(piece)
    except JsonRejected as error:
        return error
    return None


def test_deep_values_do_not_break_the_validator(either_validator):
    """A recursive schema and the deepest allowed value end in a verdict."""
    wanted = {**prop({"$ref": "#"}), "additionalProperties": False, "anyOf": [{"type": "object"}] * 2}

    error = rejection(Document(compile_schema(wanted)), '{"a":' * 127 + "{}" + "}" * 127)

    assert error is None or error.code == "schema_too_deep"


def test_parts_of_another_draft_do_not_break_the_validator(either_validator):
    """A boolean schema behind a reference, which draft 4 does not know, ends in a verdict."""
    wanted = {"$schema": "draft-04", **prop({"$ref": "#/$defs/x"}), "$defs": {"x": {"items": False}}}

    error = rejection(Document(compile_schema(wanted)), '{"a": [1]}')

    assert error is None or error.code.startswith("schema_")


def test_numbers_beyond_floats_do_not_break_the_validator(either_validator):
    """An integer of 400 digits under a fractional `multipleOf` ends in a verdict."""
    error = rejection(Document(compile_schema(prop({"multipleOf": 0.1}))), '{"a": ', "9" * 400 + "}")

    assert error is None or error.code in {"number_overflow", "schema_multiple_of"}


def test_endless_references_end():
    """A schema that refers to itself at once ends in a verdict, and never in a crash."""
    wanted = {"$ref": "#/$defs/x", "$defs": {"x": {"allOf": [{"$ref": "#/$defs/x"}]}}}

    for compiled in (compile_schema(wanted), _slow(wanted)):
        error = rejection(Document(compiled), '{"a": 1}')
        assert error is None or error.code == "schema_too_deep"


def _slow(wanted):
    compiled = CompiledSchema(wanted)
    compiled.__dict__["_validate"] = schema_check._python_validator(wanted, "Draft202012")
    return compiled


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        pytest.param({"type": "strin"}, "strin", id="unknown type"),
        pytest.param({"properties": []}, "properties", id="list of properties"),
        pytest.param({"properties": {"a": {"$ref": "#/$defs/none"}}}, "points to nothing", id="dangling reference"),
        pytest.param(
            {"properties": {"a": {"$ref": "#/type/x"}}, "type": "object"}, "points to nothing", id="no schema"
        ),
        pytest.param({"default": {1, 2}}, "plain JSON", id="not JSON"),
        pytest.param({"maximum": float("nan")}, "plain JSON", id="not a number"),
    ],
)
def test_wrong_tools_are_refused(parameters, words):
    """A tool whose parameters are no JSON Schema is the caller's mistake, named before anything is sent."""
    with pytest.raises(InvalidRequestError, match=words) as error:
        check_tools([{"type": "function", "function": {"name": "write", "parameters": parameters}}])

    assert "write" in str(error.value)


@pytest.mark.parametrize(
    "tool",
    [
        pytest.param(Tool(name="a"), id="record"),
        pytest.param({"name": "a", "parameters": OBJECT}, id="flat dict"),
        pytest.param({"type": "function", "function": {"name": "a"}}, id="no parameters"),
        pytest.param({"name": "a", "parameters": {"exclusiveMinimum": True, "minimum": 1}}, id="draft 4"),
        pytest.param(
            {"name": "a", "parameters": {"$id": "http://x/y", "items": {"$id": "z", "$ref": "#/q"}}}, id="ids"
        ),
        pytest.param({"name": "a", "parameters": {"$ref": "#here", "$defs": {"x": {"$anchor": "here"}}}}, id="anchor"),
        pytest.param({"name": "a", "parameters": {"properties": {"$ref": {"type": "string"}}}}, id="a key named $ref"),
    ],
)
def test_sound_tools_pass(tool):
    """Tools in every accepted shape and draft pass the check."""
    check_tools([tool])


def test_a_tool_needs_a_name():
    """A tool without a name is refused."""
    with pytest.raises(InvalidRequestError, match="name"):
        check_tools([{"type": "function", "function": {"parameters": {}}}])
