"""A Secret shows itself to nobody, and only named places may open it."""

import ast
import copy
import inspect
import json
from pathlib import Path

import orjson
import pydantic
import pytest
from canary import KEYS, exposures, find_canary

import blueprint_llm
from blueprint_llm import redaction
from blueprint_llm.credentials import Credential, Secret

SHAPES = [pytest.param(key, id=name) for name, key in KEYS.items()]
PACKAGE = Path(blueprint_llm.__file__).parent

# The adapter sends the key; the other two store it where the user asked to have it stored.
MAY_REVEAL = {
    *(
        "adapters/litellm.py",
        "adapters/router.py",
        "adapters/settings.py",
        "compat/router.py",
        "engine/endpoints.py",
    ),  # to LiteLLM
    *("credentials/file.py", "credentials/keychain.py"),  # a user's own command to store it
    *("secret.py", "config/load.py", "config/blocks.py", "usage/stores/__init__.py"),  # an address, to see its kind
    "usage/stores/redis_store.py",  # to Redis
    *("cache/redis_store.py", "cache/manager.py"),  # likewise; its password seals the cache
    "tools/engine.py",  # to the MCP server whose environment it is
}
OPENING = {"reveal", "revealed", "_revealed"}


class Holder(pydantic.BaseModel):
    """A model that somebody puts a Secret into."""

    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

    key: Secret
    anything: object = None


def _raise_beside(secret):
    holder = {"key": secret, "credential": Credential(api_key=secret)}
    raise ValueError(f"{holder} {secret} {secret:>20}")


@pytest.mark.parametrize("key", SHAPES)
def test_no_view_of_a_secret_shows_it(key):
    """Strings, pickles, JSON, vars and pydantic dumps of a Secret and of its holders are free of the value."""
    secret = Secret(key)
    holders = [secret, [secret], {"key": secret}, Credential(api_key=secret), Holder(key=secret, anything=secret)]

    hits = [(sink, form) for holder in holders for sink, text in exposures(holder) for form in find_canary(text, key)]

    assert not hits
    assert secret.reveal() == key


@pytest.mark.parametrize("key", SHAPES)
def test_a_traceback_with_locals_does_not_show_it(key):
    """An exception raised beside a Secret carries nothing of it in its text, its frames or its locals."""
    with pytest.raises(ValueError, match="Secret") as caught:
        _raise_beside(Secret(key))
    error = caught.value.with_traceback(caught.value.__traceback__.tb_next)

    assert [form for _, text in exposures(error) for form in find_canary(text, key)] == []


@pytest.mark.parametrize("key", SHAPES)
def test_the_search_finds_a_plain_key(key):
    """The positive control: the same views of a plain value do show it."""
    sinks = {sink for sink, text in exposures({"key": key}) if find_canary(text, key)}

    assert {"str", "repr", "vars", "json", "pickle0", "pickle5"} <= sinks


def test_walking_its_members_finds_no_value():
    """Tools that list members see a function where the value is."""
    secret = Secret(KEYS["sk"])

    assert KEYS["sk"] not in repr(inspect.getmembers(secret))
    with pytest.raises(TypeError):
        vars(secret)


@pytest.mark.parametrize(
    "attempt",
    [
        pytest.param(json.dumps, id="json"),
        pytest.param(orjson.dumps, id="orjson"),
        pytest.param(hash, id="hash"),
        pytest.param(lambda secret: secret.__reduce__(), id="reduce"),
        pytest.param(lambda secret: secret.__getstate__(), id="getstate"),
        pytest.param(lambda secret: orjson.dumps(Credential(api_key=secret)), id="orjson dataclass"),
    ],
)
def test_it_refuses_to_be_stored(attempt):
    """JSON, pickle and hashing are refused with a TypeError."""
    with pytest.raises(TypeError):
        attempt(Secret(KEYS["sk"]))


def test_copies_are_the_secret_itself():
    """Copying a structure shares the Secret; equality compares values."""
    secret = Secret(KEYS["sk"])

    assert copy.copy(secret) is secret
    assert copy.deepcopy({"key": [secret]})["key"][0] is secret
    assert secret == Secret(KEYS["sk"])
    assert secret != Secret(KEYS["plain32"])
    assert secret != KEYS["sk"]


def test_a_hint_has_at_most_four_characters_of_a_long_key():
    """A short key gives nothing away."""
    assert Secret(KEYS["sk"]).hint() == "...fJs1"
    assert Secret(KEYS["short8"]).hint() == "..."


def test_a_mac_names_a_key_without_telling_it():
    """Equal keys have equal MACs, other keys or messages others."""
    one, other = Secret(KEYS["sk"]), Secret(KEYS["plain32"])

    assert one.mac(b"a") == Secret(KEYS["sk"]).mac(b"a")
    assert len({one.mac(b"a"), one.mac(b"b"), other.mac(b"a")}) == 3


def test_making_one_registers_it_for_redaction():
    """There is no Secret that the logs would not mask."""
    key = "fresh-key-never-seen-before"

    assert redaction.redact(f"x {key} y") == f"x {key} y"
    Secret(key)
    assert redaction.redact(f"x {key} y") == "x [redacted] y"


def test_only_named_modules_open_secrets():
    """`reveal` is used where a key is sent, and where a user's own command stores or shows it; nowhere else."""
    using = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (getattr(node, "attr", None) or getattr(node, "id", None)) in OPENING
    }

    assert using - MAY_REVEAL == set()
    assert "credentials/file.py" in using
