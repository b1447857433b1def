"""JsonMachine: the first hopeless character, whatever the split."""

import base64
import json
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streaming_texts import document, is_sound, judge, mutant, rng_of, splits

from blueprint_llm.streaming import JsonMachine, JsonRejected
from blueprint_llm.streaming.document import Document
from blueprint_llm.streaming.whole import MAX_BLANKS, MAX_CHARS, MAX_DEPTH, MAX_NUMBER_CHARS, Declined, parse_whole

CORPUS = Path(__file__).parents[2] / "shared" / "corpora" / "json_test_suite.json"


def verdict(pieces, **options):
    """`ok`, or the code and the offset of the rejection; offset None where only the end showed it."""
    machine = JsonMachine(**options)
    try:
        for piece in pieces:
            machine.feed(piece)
    except JsonRejected as error:
        return error.code, error.offset
    try:
        machine.close()
    except JsonRejected as error:
        return error.code, None
    return "ok", None


def pieces_of(text, size):
    """The text in pieces of one size."""
    return [text[at : at + size] for at in range(0, len(text), size)]


def every_split(text, sizes=(1, 2, 3, 4, 7)):
    """The verdicts on the text whole and in pieces of several sizes."""
    return {verdict([text]), *(verdict(pieces_of(text, size)) for size in sizes)}


def suite():
    """The cases of JSONTestSuite, each wrapped into an object."""
    if not CORPUS.exists():
        return []
    corpus = json.loads(CORPUS.read_text())
    before, after = corpus["wrap"]
    texts = [zlib.decompress(base64.b64decode(case["z"])).decode() for case in corpus["cases"]]
    return [
        pytest.param(case, f"{before}{text}{after}", id=case["n"])
        for case, text in zip(corpus["cases"], texts, strict=True)
    ]


def test_suite_is_there(capsys):
    """Say loudly when JSONTestSuite is not beside the repository."""
    if not CORPUS.exists():
        with capsys.disabled():
            print(f"\n!!! {CORPUS.name} IS ABSENT: only the repository's own JSON cases ran !!!")

    assert CORPUS.exists() == bool(suite())


@pytest.mark.parametrize(("case", "text"), suite() or [(None, "{}")])
def test_json_test_suite(case, text):
    """Every `n_` case is rejected at its first hopeless character, every `y_` accepted, for any split."""
    if case is None:
        assert not CORPUS.exists()
        return
    verdicts = every_split(text) if len(text) < 5000 else {verdict([text]), verdict(pieces_of(text, 4))}

    (code, offset) = verdicts.pop()
    assert not verdicts
    if case["n"].startswith("n_"):
        assert code != "ok"
        assert offset == case.get("alt", case["bad"])
    elif case["n"].startswith("y_"):
        assert code == case.get("policy", "ok")


@pytest.mark.parametrize(
    ("text", "code", "offset"),
    [
        pytest.param("", "empty", None, id="nothing"),
        pytest.param("  ", "unclosed_json", None, id="only blanks"),
        pytest.param("[]", "root_not_object", 0, id="a list"),
        pytest.param('"{}"', "root_not_object", 0, id="a string"),
        pytest.param("\ufeff{}", "root_not_object", 0, id="a byte order mark"),
        pytest.param("{", "unclosed_json", None, id="an open object"),
        pytest.param('{"a": "b', "unclosed_json", None, id="an open string"),
        pytest.param('{"a": tru', "unclosed_json", None, id="an open word"),
        pytest.param('{"a": 1', "unclosed_json", None, id="an open number"),
        pytest.param("{'a'", "expected_key", 1, id="single quotes"),
        pytest.param("{1:2}", "expected_key", 1, id="a number as key"),
        pytest.param('{"a" 1}', "expected_colon", 5, id="no colon"),
        pytest.param('{"a": }', "expected_value", 6, id="no value"),
        pytest.param('{"a": [,1]}', "expected_value", 7, id="a leading comma"),
        pytest.param('{"a": [1,]}', "expected_value", 9, id="a trailing comma in a list"),
        pytest.param('{"a":1,}', "expected_key", 7, id="a trailing comma"),
        pytest.param('{"a":1 "b":2}', "expected_comma_or_end", 7, id="no comma"),
        pytest.param('{"a":[1}', "expected_comma_or_end", 7, id="the wrong bracket"),
        pytest.param('{"a":1}}', "extra_data", 7, id="one bracket too many"),
        pytest.param('{"a":1}{"b":2}', "extra_data", 7, id="a second object"),
        pytest.param('{"a": nulL}', "bad_literal", 9, id="a misspelt word"),
        pytest.param('{"a": 01}', "bad_number", 7, id="a leading zero"),
        pytest.param('{"a": -}', "bad_number", 7, id="a lonely minus"),
        pytest.param('{"a": 1.}', "bad_number", 8, id="no digit after the point"),
        pytest.param('{"a": 1e+}', "bad_number", 9, id="no digit in the exponent"),
        pytest.param('{"a": 1.5.2}', "bad_number", 9, id="two points"),
        pytest.param('{"a": 1e999}', "number_overflow", 11, id="an overflowing number"),
        pytest.param('{"a": "\\x"}', "invalid_escape", 8, id="an unknown escape"),
        pytest.param('{"a": "\\u12g4"}', "invalid_escape", 11, id="a bad hexadecimal digit"),
        pytest.param('{"a": "\\udc00"}', "lone_surrogate", 10, id="a second half first"),
        pytest.param('{"a": "\\ud800 "}', "lone_surrogate", 13, id="a first half alone"),
        pytest.param('{"a": "\\ud800\\n"}', "lone_surrogate", 14, id="a first half and an escape"),
        pytest.param('{"a": "\\ud800\\u0041"}', "lone_surrogate", 15, id="a first half and a letter"),
        pytest.param('{"a": "\\ud800\\udbff"}', "lone_surrogate", 16, id="two first halves"),
        pytest.param('{"a": "\ud800"}', "lone_surrogate", 7, id="half a character"),
        pytest.param('{"a": "\t"}', "control_char_in_string", 7, id="a raw tab"),
        pytest.param('{"a": 1, "a": 2}', "duplicate_key", 11, id="a repeated key"),
        pytest.param('{"a": 1, "\\u0061": 2}', "duplicate_key", 16, id="a repeated key in disguise"),
        pytest.param('{"a": {"b": [{"a": 1}]}, "b": 1}', "ok", None, id="the same key elsewhere"),
        pytest.param('{"\\ud83d\\ude00": "\\ud83d\\ude00 \\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9"}', "ok", None, id="escapes"),
        pytest.param(' {"a" : [ -0.5e-3 , 0 , 1E5, true,false , null,{} ] } \n', "ok", None, id="blanks"),
    ],
)
def test_own_cases(text, code, offset):
    """The repository's own cases get one verdict for every split."""
    assert every_split(text) == {(code, offset)}


@given(seed=st.integers(0, 2**63))
@settings(max_examples=120, deadline=None, database=None)
def test_any_split_gives_the_judges_verdict(seed):
    """5,000 documents and 10,000 mutants: none missed, none wrongly rejected, one verdict for every split."""
    rng = rng_of(seed)
    for _ in range(20):
        text = document(rng)
        assert verdict(splits(rng, text)) == ("ok", None)
        for wrong, at in (mutant(rng, text), mutant(rng, text)):
            found = verdict(splits(rng, wrong))
            assert (found[0] == "ok") == is_sound(wrong), wrong
            assert found == verdict(splits(rng, wrong)) == verdict([wrong]) == verdict(list(wrong))
            assert found[1] is None or found[1] >= at, "what comes before the edit is sound"


@given(seed=st.integers(0, 2**63))
@settings(max_examples=60, deadline=None, database=None)
def test_whole_texts_agree_with_the_machine(seed):
    """The C parser's way for whole texts accepts nothing that the machine rejects, and gives the judge's value."""
    rng = rng_of(seed)
    for _ in range(20):
        text = document(rng)
        wrong, _ = mutant(rng, text)
        assert taken(text) in {json.dumps(judge(text)), None}
        assert taken(wrong) is None or verdict([wrong]) == ("ok", None)
    assert taken('{"a": "b\\u00e9", "c": [1, 2.5]}') is not None


def taken(text):
    """What `parse_whole` reads, as text; None where it declines."""
    try:
        return json.dumps(parse_whole(text))
    except Declined:
        return None


BLANKS_IN_TEXT = json.dumps({"a": " " * 1000})


@pytest.mark.parametrize(
    ("text", "code", "offset"),
    [
        pytest.param('{"a":' + "[" * 126 + "{}" + "]" * 126 + "}", "ok", None, id="as deep as allowed"),
        pytest.param('{"a":' + "[" * 128, "too_deep", 5 + MAX_DEPTH - 1, id="one too deep"),
        pytest.param('{"a":' + "[" * 127 + "{}" + "]" * 127 + "}", "too_deep", 132, id="one too deep and closed"),
        pytest.param('{"a":' + '{"a":[' * 64 + "]}" * 64 + "}", "too_deep", 5 + 63 * 6 + 5, id="too deep, mixed"),
        pytest.param('{"a": ' + "9" * MAX_NUMBER_CHARS + "}", "ok", None, id="a number as long as allowed"),
        pytest.param('{"a": ' + "9" * 401 + "}", "number_too_long", 406, id="a number too long"),
        pytest.param('{"a": 0.' + "9" * 401 + "}", "number_too_long", 406, id="a fraction too long"),
        pytest.param('{"a":' + " " * MAX_BLANKS + "1}", "ok", None, id="as many blanks as allowed"),
        pytest.param('{"a":' + " " * 257 + "1}", "runaway_whitespace", 5 + MAX_BLANKS, id="one blank too many"),
        pytest.param('{"a":' + "\n\t \r" * 65 + "1}", "runaway_whitespace", 5 + MAX_BLANKS, id="mixed blanks"),
        pytest.param('{"a":1}' + " " * 257, "runaway_whitespace", 7 + MAX_BLANKS, id="blanks after the end"),
        pytest.param("{" + " \n" * 128 + '"a"' + " " * 256 + ":1}", "ok", None, id="many blanks twice"),
        pytest.param(BLANKS_IN_TEXT, "ok", None, id="blanks in a string do not count"),
        pytest.param(json.dumps({"a": "[{" * 500 + "}"}), "ok", None, id="brackets in a string do not count"),
        pytest.param(json.dumps({"a": ["[{" * 500], "b": {}}), "ok", None, id="brackets in a nested string"),
    ],
)
def test_limits(text, code, offset):
    """Each limit holds to the character, for any split and for whole documents."""
    assert every_split(text) == {(code, offset)}
    assert document_code(text) == code


def document_code(text):
    """What a Document, which tries the C parser first, says of a whole text."""
    try:
        found = Document()
        found.feed(text)
    except JsonRejected as error:
        return error.code
    error = found.close()
    return error.code if error else "ok"


def test_the_size_cap_is_one_place():
    """The character over the cap is rejected wherever the deltas end, and a fault before it goes first."""
    text = '{"a": "' + "x" * 40 + '"}'

    assert every_split_of(text, max_chars=20) == {("too_large", 20)}
    assert every_split_of(text.replace("xx", "x\n", 1), max_chars=20) == {("control_char_in_string", 8)}
    assert every_split_of(text, max_chars=len(text)) == {("ok", None)}
    assert document_code('{"a": "' + "x" * MAX_CHARS + '"}') == "too_large"


def every_split_of(text, **options):
    """The verdicts on the text in several splits."""
    return {verdict(pieces_of(text, size), **options) for size in (1, 3, 4, 11, len(text))}


def test_bombs_cost_nothing():
    """100,000 brackets and 10 MB of argument neither crash nor recurse, and memory stays near the text's size."""
    assert verdict(["[" * 100_000], any_root=True) == ("too_deep", MAX_DEPTH)
    assert verdict('{"a":' + "[" * 100_000) == ("too_deep", 132)

    machine = JsonMachine()
    machine.feed('{"a": "')
    tracemalloc.start()
    for _ in range(160):
        machine.feed("some words " * 6000)
    machine.feed('"}')
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    machine.close()
    assert peak < 1_000_000


def test_a_rejection_is_final():
    """After a rejection every further piece is answered with the same one."""
    machine = JsonMachine()
    with pytest.raises(JsonRejected) as first:
        machine.feed('{"a": x')

    with pytest.raises(JsonRejected) as again:
        machine.feed('"b"}')
    with pytest.raises(JsonRejected) as closing:
        machine.close()
    assert first.value is again.value is closing.value
    assert (first.value.path, str(first.value)) == ("/a", "expected_value at character 6")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        pytest.param("{x", "", id="root"),
        pytest.param('{"a": {"b/c~": [1, {"d": x', "/a/b~1c~0/1/d", id="nested"),
        pytest.param('{"a": 1, x', "", id="next key"),
        pytest.param('{"a": [1, 2 x', "/a/1", id="after an item"),
    ],
)
def test_rejections_name_the_place(text, path):
    """A rejection carries the JSON pointer of its place."""
    machine = JsonMachine()

    with pytest.raises(JsonRejected) as found:
        machine.feed(text)

    assert found.value.path == path


@pytest.mark.parametrize(
    ("text", "code"),
    [
        pytest.param("12", "ok", id="number"),
        pytest.param("-", "bad_number", id="half a number"),
        pytest.param('"a"', "ok", id="string"),
        pytest.param("[1]", "ok", id="list"),
        pytest.param("nul", "bad_literal", id="half a word"),
    ],
)
def test_any_root(text, code):
    """With `any_root` a document may be any value; a number ends with the text."""
    assert verdict([text], any_root=True)[0] == code
    assert verdict(list(text), any_root=True)[0] == code
