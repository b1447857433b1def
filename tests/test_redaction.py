"""Registered values are masked in every form, everywhere a text leaves; nothing else is touched."""

import json
import logging
import subprocess
import sys
import threading

import pytest
import structlog
from canary import KEYS, find_canary, forms, logger_of, redaction_off, watched
from hypothesis import given
from hypothesis import strategies as st

from blueprint_llm import events, redaction

SHAPES = [pytest.param(key, id=name) for name, key in KEYS.items()]
ASCII = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=60)


@pytest.fixture(autouse=True)
def registered():
    """Every shape of key is known to the library."""
    for key in KEYS.values():
        redaction.register(key)


@pytest.mark.parametrize("key", SHAPES)
def test_every_form_is_masked(key):
    """Raw, in either case, URL-encoded, JSON-, repr- and HTML-escaped, in hexadecimal, base64 at any alignment."""
    for form in forms(key):
        assert redaction.redact(f"before {form} after") == f"before {redaction.MASK} after", form


@given(key=ASCII, before=st.text(max_size=40), after=st.text(max_size=40))
def test_no_key_survives_in_any_text(key, before, after):
    """Whatever a key is made of and whatever surrounds it (lone surrogates too), it is masked."""
    registry = redaction.Registry()
    registry.register(key)

    for form in forms(key):
        assert form not in registry.redact(before + form + after).replace(redaction.MASK, "\0")


@given(text=st.text(max_size=200))
def test_other_text_is_untouched(text):
    """A text without a key comes back as the same object."""
    registry = redaction.Registry()
    registry.register("never-in-a-random-text-0123456789")

    assert registry.redact(text) is text


def test_one_key_that_begins_another_hides_both():
    """The longer alternative wins, so that no tail is left."""
    registry = redaction.Registry()
    registry.register("abcdefgh")
    registry.register("abcdefgh12345678")

    assert registry.redact("abcdefgh12345678 abcdefgh") == "[redacted] [redacted]"


def test_a_short_value_is_not_hidden():
    """Seven characters are too common in plain text."""
    registry = redaction.Registry()
    registry.register("1234567")

    assert registry.redact("1234567") == "1234567"


def test_a_bearer_value_hides_its_token_too():
    """A header's value registers the token in it."""
    registry = redaction.Registry()
    registry.register("Bearer tokentoken1")

    assert registry.redact("x tokentoken1") == "x [redacted]"


def test_a_cleared_registry_hides_nothing():
    """Controls can forget what was registered."""
    registry = redaction.Registry()
    registry.register("abcdefgh")
    registry.clear()

    assert registry.redact("abcdefgh") == "abcdefgh"


@pytest.mark.slow
def test_registering_from_many_threads_loses_nothing():
    """Values registered while others search are found by the next search."""
    registry, values = redaction.Registry(), [f"thread-value-{number:04}" for number in range(100)]

    def work(part):
        for value in part:
            registry.register(value)
            assert value not in registry.redact(f"<{value}>")

    threads = [threading.Thread(target=work, args=(values[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert registry.redact(" ".join(values)) == " ".join(["[redacted]"] * 100)


def test_an_address_hides_what_it_carries():
    """A password and query values of a base URL are masked; its host stays readable."""
    redaction.register_url("https://user:hunter2hunter2@api.example.com/v1?key=queryvalue99")
    redaction.register_url("https://plain.example.com/v1")
    redaction.register_url("redis://:p%40ss%2Fword99@127.0.0.1/0")
    redaction.register_url("https://token-alone-77@git.example.com")
    redaction.register_url("https://[broken@?")

    assert redaction.redact("hunter2hunter2 queryvalue99 api.example.com") == "[redacted] [redacted] api.example.com"
    assert redaction.redact("p%40ss%2Fword99 p@ss/word99 token-alone-77") == "[redacted] [redacted] [redacted]"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("Incorrect API key provided: sk-proj-abcdefghijklmnop1234.", id="openai"),
        pytest.param("key AIzaSyA1234567890abcdefghijklmnopqrstu", id="google"),
        pytest.param("authorization: Bearer abcdef123456", id="bearer"),
        pytest.param("x-api-key: 0123456789abcdef", id="header"),
        pytest.param("'api_key': '0123456789abcdef'", id="python"),
        pytest.param("GET /v1beta/models?key=0123456789abcdef HTTP/1.1", id="query"),
        pytest.param("https://user:secretpassword@host/v1", id="userinfo"),
        pytest.param("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefghij", id="jwt"),
        pytest.param("ghp_abcdefghijklmnopqrst", id="github"),
        pytest.param("AKIAABCDEFGHIJKLMNOP", id="aws"),
    ],
)
def test_exceptions_are_also_masked_by_pattern(text):
    """What looks like a key is masked in errors and short values even if it was never loaded."""
    assert redaction.MASK in redaction.clean_exception_text(text)
    assert redaction.MASK in redaction.redact_value({"said": text})["said"]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("the quick brown fox asks for an API key", id="prose"),
        pytest.param("skip-this task-by-task, max_tokens: 4096", id="near words"),
        pytest.param("https://api.example.com/v1/chat?model=gpt-4o", id="address"),
        pytest.param("set OPENAI_API_KEY or run blueprint-llm keys set openai", id="our own mend"),
    ],
)
def test_plain_sentences_are_left_alone(text):
    """The patterns do not bite prose."""
    assert redaction.clean_exception_text(text) == text


def test_an_exception_text_is_cut_after_masking():
    """A long text is cut, and a key across the cut leaves no half."""
    text = redaction.clean_exception_text("x" * 1990 + KEYS["plain32"] + "y" * 5000)

    assert len(text) < 2010
    assert KEYS["plain32"][:8] not in text


def test_nested_values_are_masked_and_stay_json():
    """Strings and keys at any depth are masked; other values keep their type."""
    key = KEYS["symbols"]
    value = {"a": [1, None, True, 2.5, {key: f"x{key}"}], "b": (key,), "c": key.encode(), "d": ValueError(key)}

    clean = redaction.redact_value(value)

    assert not find_canary(json.dumps(clean), key)
    assert clean["a"][:4] == [1, None, True, 2.5]


def test_long_strings_are_masked_by_value_only():
    """Guessing patterns are kept away from long texts, exact values are not."""
    text = "z" * 5000 + " sk-proj-abcdefghijklmnop1234 " + KEYS["plain32"]

    clean = redaction.redact_value(text)

    assert "sk-proj-abcdefghijklmnop1234" in clean
    assert KEYS["plain32"] not in clean


class _Hostile:
    def __repr__(self):
        raise RuntimeError(KEYS["sk"])


def _log_everything(log, key):
    log.debug("plain %s", key)
    log.debug("headers %r", {"Authorization": f"Bearer {key}"})
    log.debug("wrong %d", key)
    log.debug("hostile %r and %s", _Hostile(), key)
    log.debug("extra", extra={"request": {"key": key}}, stack_info=True)
    try:
        int(key)
    except ValueError:
        log.exception("failed")
    log.debug(key, {"unused": key})


@pytest.mark.parametrize("name", [*redaction.LOGGERS, "openai.some.new_module", "litellm.proxy", "mcp.client"])
@pytest.mark.parametrize("key", SHAPES)
def test_foreign_loggers_write_no_key(key, name):
    """Messages, arguments, extras, tracebacks and broken formats of LiteLLM's family are masked."""
    log = logger_of(name)
    redaction.install_filter()

    with watched() as sinks:
        _log_everything(log, key)

    assert sinks.hits(key) == []
    assert any("plain" in text for sink, text in sinks.texts if sink == "log")


def test_with_redaction_off_the_same_search_finds_the_key():
    """The positive control of the test above."""
    redaction.install_filter()

    with watched() as sinks, redaction_off():
        logger_of("openai._base_client").debug("plain %s", KEYS["sk"])

    assert ("log", KEYS["sk"]) in sinks.hits(KEYS["sk"])


def test_the_filter_is_installed_once_and_nowhere_else():
    """Repeating adds nothing; the user's own loggers and the root stay as they were."""
    mine = logger_of("my.application")
    redaction.install_filter()
    redaction.install_filter()

    assert sum(isinstance(each, redaction.RedactingFilter) for each in logger_of("httpx").filters) == 1
    assert not any(isinstance(each, redaction.RedactingFilter) for each in (*mine.filters, *logging.root.filters))


@pytest.mark.parametrize("layout", ["console", "json"])
def test_events_are_masked_after_rendering(layout, capsys):
    """Keys in names, facts and exceptions are gone from what is written, escaped forms included."""
    key = KEYS["symbols"]
    log = events.get_logger(layout, "debug")

    events.emit(events.Event(name="attempt.failed", facts={"said": {"deep": key}, "n": 1}), format=layout)
    try:
        int(key)
    except ValueError:
        log.exception("attempt.broken")
    written = capsys.readouterr().err

    assert not find_canary(written, key)
    assert "attempt.failed" in written
    assert "ValueError" in written


def test_json_events_are_one_object_a_line(capsys):
    """Machines can read the log."""
    events.emit(events.Event(name="call.ended", facts={"n": 1}), format="json")

    row = json.loads(capsys.readouterr().err)
    assert (row["event"], row["n"], row["level"]) == ("call.ended", 1, "info")


def test_quiet_events_are_not_written_and_load_nothing():
    """An event below the level costs no import and prints nothing."""
    program = (
        "import sys; from blueprint_llm.events import Event, emit;"
        "emit(Event(name='a.b', level='debug')); print('structlog' in sys.modules)"
    )

    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert (ran.stdout, ran.stderr) == ("False\n", "")


def test_the_log_leaves_the_users_logging_alone():
    """Our events change no handler, level or structlog default of the program."""
    before = (list(logging.root.handlers), logging.root.level, structlog.is_configured())
    events.get_logger("json", "info").info("a.b")

    assert (list(logging.root.handlers), logging.root.level, structlog.is_configured()) == before


# How each character of a key may be written by itself.
ENCODED = {
    "percent": lambda char: f"%{ord(char):02X}",
    "percent, lower": lambda char: f"%{ord(char):02x}",
    "percent, twice": lambda char: f"%25{ord(char):02X}",
    "entity": lambda char: f"&#{ord(char)};",
    "entity, hexadecimal": lambda char: f"&#x{ord(char):x};",
    "entity, padded": lambda char: f"&#X{ord(char):06X};",
    "entity, escaped": lambda char: f"&amp;#{ord(char)};",
    "JSON": lambda char: f"\\u{ord(char):04x}",
    "JSON in JSON": lambda char: f"\\\\u{ord(char):04X}",
    "Python": lambda char: f"\\x{ord(char):02x}",
}


@pytest.mark.parametrize("how", ENCODED)
@pytest.mark.parametrize("key", SHAPES)
def test_a_key_encoded_in_full_is_masked(key, how):
    """Every character encoded, letters too, or only every other one."""
    encode = ENCODED[how]
    full = "".join(map(encode, key))
    mixed = "".join(encode(char) if place % 2 else char for place, char in enumerate(key))

    assert redaction.redact(f"before {full} after") == "before [redacted] after"
    assert redaction.redact(f"before {mixed} after") == "before [redacted] after"


BREAKS = ["\n", "\r\n", "\n    ", "=\r\n", "\\\n  ", "\\n", '"\n  "', "\n> "]


@pytest.mark.parametrize("line_end", BREAKS, ids=map(repr, BREAKS))
@pytest.mark.parametrize("key", SHAPES)
def test_a_key_broken_by_a_line_end_is_masked(key, line_end):
    """Wherever in the key the line ends, and however the next one begins."""
    for place in range(1, len(key)):
        broken = key[:place] + line_end + key[place:]
        if key not in broken:  # quoted-printable's sign may be the key's last one
            assert redaction.redact(f"before {broken} after") == "before [redacted] after", broken


@pytest.mark.parametrize("end", ["", "\n", "\nnext line", "...\n", "\N{HORIZONTAL ELLIPSIS}", '"', "'}\n"])
@pytest.mark.parametrize("key", [each for each in SHAPES if each.id != "short8"])
def test_a_key_cut_at_a_line_end_is_masked(key, end):
    """Its beginning, from 12 characters (of a short key: half of it) up to all but the last."""
    for size in range(min(12, len(key) // 2), len(key)):
        assert redaction.redact(f"Authorization: {key[:size]}{end}") == f"Authorization: [redacted]{end}"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("sk-cnry7Qw2Z and more", id="a beginning within a line"),
        pytest.param("sk-cnry7Qw2Zz9", id="another word at the end"),
        pytest.param("c4n4ry0", id="a short beginning"),
        pytest.param("100%25 of &amp; \\u0041\n  on two\nlines", id="encoded, but no key"),
    ],
)
def test_what_only_resembles_a_key_is_left_alone(text):
    """Another word that begins alike, and encoded text without a key."""
    assert redaction.redact(text) == text


@pytest.mark.parametrize(
    "disguise",
    [
        pytest.param(lambda key: key[::-1], id="reversed"),
        pytest.param(" ".join, id="spaced"),
        pytest.param(lambda key: key[-12:], id="the last 12 characters"),
    ],
)
def test_what_the_documentation_says_is_not_found(disguise):
    """The limits that docs/credentials.md states are the true ones."""
    text = disguise(KEYS["sk"])

    assert redaction.redact(text) == text
