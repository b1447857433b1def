"""What providers said may be kept and shown, without what it repeats of the request."""

import json
import re

import pytest
from click.testing import CliRunner
from driving import CALLERS, KEY, configuration
from hypothesis import example, given
from hypothesis import strategies as st

from blueprint_llm.cli import main
from blueprint_llm.policy.classification import unquoted, words_in
from blueprint_llm.testing import FaultServer, Status

SECRET = "the secret plan of the caller is to buy Rotterdam"
TALK = [
    {"role": "system", "content": "You are the caller's broker."},
    {"role": "user", "content": [{"type": "text", "text": f"Listen: {SECRET}\nby Monday"}]},
    {"role": "assistant", "tool_calls": [{"function": {"name": "order", "arguments": '{"city": "Antwerp"}'}}]},
    {"role": "user", "content": "go on"},
]


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        pytest.param(f"cannot parse: {SECRET} (field 3)", "cannot parse: … (field 3)", id="a run of words"),
        pytest.param("Bad: THE SECRET, plan\nof the caller!", "Bad: …!", id="written in another way"),
        pytest.param('no such city "Antwerp"', "no such city …", id="a quotation out of arguments"),
        pytest.param("'Rotterdam' is not allowed", "… is not allowed", id="a quotation of one word"),
        pytest.param("You are the caller's broker.", "…", id="a whole message"),
        pytest.param("The model `gpt-9` does not exist", "The model `gpt-9` does not exist", id="its own quotation"),
        pytest.param("the plan of the house", "the plan of the house", id="the same words otherwise"),
        pytest.param("buy Rotterdam by noon", "buy Rotterdam by noon", id="too few of them to tell"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_what_is_left_of_a_providers_words(said, kept):
    """Four words in a row, a quotation, a whole message go; what is the provider's own stays."""
    assert unquoted(said, TALK) == kept


WORDS = st.lists(st.text(st.characters(categories=["L", "N"]), min_size=2, max_size=8), min_size=4, max_size=30)


@example(prompt=["00", "00", "00", "0İ", "00", "00", "00"], before="", after="", start=0)
@given(prompt=WORDS, before=st.text(max_size=30), after=st.text(max_size=30), start=st.integers(0, 26))
def test_no_run_of_the_request_is_left(prompt, before, after, start):
    """Wherever a provider repeats at least four words of a message, they are gone."""
    echo = " ".join(prompt[start : start + 6])
    if len(prompt[start : start + 6]) < 4:
        return
    left = unquoted(f"{before} {echo} {after}", [{"role": "user", "content": " ".join(prompt)}])

    run = re.compile(r"[\W_]+".join(re.escape(word) for word in prompt[start : start + 4]), re.IGNORECASE)
    assert not run.search(left.replace("…", "\0"))


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.name)
def test_the_trace_and_the_error_say_it(caller, streamed, litellm_warm):
    """With the provider's reason, masked; neither holds what the caller wrote."""
    step = Status(400, f"field 3 of {SECRET} is too long for key {KEY}")
    with FaultServer(default=step) as server:
        ask = caller.stream if streamed else caller.chat
        error = ask(configuration(server.url), messages=TALK).error

    said = error.trace["attempts"][-1]["said"]
    assert said == "field 3 of … is too long for key [redacted]"
    assert "field 3 of … is too long" in str(error)
    assert error.said == said
    for text in (json.dumps(error.trace), str(error), repr(error)):
        assert "Rotterdam" not in text
        assert KEY not in text


def test_the_command_line_and_the_page_show_it(litellm_warm, tmp_path):
    """`trace` has a line for the words, the page has them beside the attempt, `trace --json` in its attempt."""
    with FaultServer(default=Status(404, "no deployment named gpt-4o in region north")) as server:
        path = tmp_path / "b.yaml"
        path.write_text(json.dumps(configuration(server.url)))
        CliRunner().invoke(main, ["chat", "hello", "--config", str(path)])

    told = CliRunner().invoke(main, ["trace", "--config", str(path)]).stdout
    found = json.loads(CliRunner().invoke(main, ["trace", "--json", "--config", str(path)]).stdout)
    CliRunner().invoke(main, ["usage", "--html", str(tmp_path / "page.html"), "--config", str(path)])

    for text in (told, found["attempts"][0]["said"], (tmp_path / "page.html").read_text()):
        assert "no deployment named gpt-4o in region north" in text


@pytest.mark.parametrize(
    ("message", "words"),
    [
        pytest.param("litellm.APIError: APIError: OpenAIException - no such model", "no such model", id="a prefix"),
        pytest.param(
            'litellm.BadRequestError: AnthropicException - {"type":"error","error":{"type":"x","message":"too long"}}',
            "too long",
            id="a body",
        ),
        pytest.param('b\'{"error": {"message": "spent"}}\'', "spent", id="bytes"),
        pytest.param("plain", "plain", id="nothing around it"),
    ],
)
def test_the_providers_own_words_in_a_message(message, words):
    """LiteLLM's prefix and the body's other fields are left out."""
    assert words_in(message) == words
