"""`blueprint-llm keys`: what people type, what they see, and that no key is ever printed."""

import json
import os
import pty
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from canary import KEYS, find_canary
from click.testing import CliRunner

from blueprint_llm.cli import main
from blueprint_llm.credentials import Keychain, Secret
from blueprint_llm.testing import Answer, FaultServer, Status

KEY = KEYS["sk"]
ROOT = Path(__file__).parents[1]


@pytest.fixture
def keys(tmp_path):
    """Run `blueprint-llm keys ...` in-process; no output may hold a key."""
    (tmp_path / "b.yaml").write_text("blueprint: {providers: {cloud: {model: openai/gpt-4o}}}\n")

    def run(*arguments, given=None):
        with_config = [*arguments, "--config", str(tmp_path / "b.yaml")]
        result = CliRunner().invoke(main, ["keys", *with_config], input=given)
        assert not any(find_canary(result.output, key) for key in KEYS.values())
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture
def stored(bare_environment):
    """The credentials file of the test's home."""
    return bare_environment / "blueprint_home" / "config" / "credentials.json"


@pytest.mark.parametrize("key", [pytest.param(key, id=name) for name, key in KEYS.items()])
def test_a_key_from_stdin_is_stored_listed_and_removed(keys, stored, key):
    """Piped in, shown by its end at most, gone after remove."""
    done = keys("set", "openai", given=f"{key}\n")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", f"stored a key for openai in {stored}\n")
    assert json.loads(stored.read_text())["providers"] == {"openai": {"api_key": key}}

    rows = json.loads(keys("list", "--json").stdout)
    hint = f"...{key[-4:]}" if len(key) >= 20 else "..."
    assert rows == [{"provider": "openai", "id": "openai#1", "source": "file", "hint": hint}]
    assert keys("list").stdout.splitlines()[1].split() == ["openai", "openai#1", "file", hint]

    assert keys("remove", "openai").exit_code == 0
    assert keys("list").stderr == "no keys: run blueprint-llm keys set PROVIDER\n"


def test_several_keys_have_ids(keys, stored):
    """`--id` adds beside, and removes one."""
    keys("set", "openai", "--id", "a", given=KEY)
    keys("set", "openai", "--id", "b", given=KEYS["plain32"])
    assert [row["id"] for row in json.loads(keys("list", "--json").stdout)] == ["openai#a", "openai#b"]

    keys("remove", "openai", "--id", "a")

    assert [row["id"] for row in json.loads(keys("list", "--json").stdout)] == ["openai#b"]


@pytest.mark.parametrize(
    ("arguments", "given", "says"),
    [
        pytest.param(["set", "openai"], "short", "Error: the key is shorter than 8 characters", id="short"),
        pytest.param(["set", "openai"], f"{KEY}\n{KEY}\n", "Error: the key holds a space, a newline", id="two lines"),
        pytest.param(["set", "a/b"], KEY, "Error: a provider's name has letters", id="name"),
        pytest.param(["remove", "openai"], None, "Error: there is no such key of 'openai'", id="nothing to remove"),
        pytest.param(["set", "openai", "--keyring"], KEY, "Error: the keychain backend", id="no keychain"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(keys, stored, monkeypatch, arguments, given, says):
    """Exit code 1, a sentence on stderr, nothing stored."""
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")

    failed = keys(*arguments, given=given)

    assert (failed.exit_code, failed.stdout) == (1, "")
    assert failed.stderr.startswith(says)
    assert failed.stderr.count("\n") == 1
    assert not stored.exists()


def test_check_says_what_is_wrong_and_how_to_mend_it(keys, stored):
    """Exit code 1 and the exact command, then 0 when it was run."""
    keys("set", "openai", given=KEY)
    stored.chmod(0o644)
    wrong = keys("check")
    stored.chmod(0o600)
    fine = keys("check", "--json")

    assert wrong.exit_code == 1
    assert f"WRONG {stored}: may be read or written by others (mode 0644)" in wrong.stdout
    assert f"      mend: chmod 600 {stored}" in wrong.stdout
    rows = {row["subject"]: row for row in json.loads(fine.stdout)}
    assert (rows["cloud"]["ok"], rows["cloud"]["message"]) == (True, "file:openai#1")
    assert fine.exit_code == (0 if all(row["ok"] for row in rows.values()) else 1)


def test_a_terminal_is_asked_without_echo(tmp_path):
    """At a prompt what is typed does not appear."""
    env = {**os.environ, "BLUEPRINT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    controller, terminal = pty.openpty()
    code = "from blueprint_llm.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "keys", "set", "openai"],
        stdin=terminal, stdout=terminal, stderr=terminal, env=env, start_new_session=True,
    ) as process:  # fmt: skip
        os.close(terminal)
        seen = _read_until(controller, b"API key for openai: ")
        os.write(controller, KEY.encode() + b"\n")
        seen += _read_until(controller, b"stored a key for openai")
        assert process.wait(timeout=60) == 0
    os.close(controller)

    assert not find_canary(seen, KEY)
    assert json.loads((tmp_path / "config" / "credentials.json").read_text())["providers"]["openai"]["api_key"] == KEY


def _read_until(controller, mark):
    seen = b""
    while mark not in seen:
        seen += os.read(controller, 4096)
    return seen


def test_no_command_takes_a_key_as_an_argument():
    """A key on the command line would stand in the process list and the shell's history."""
    result = CliRunner().invoke(main, ["keys", "set", "openai", KEY])

    assert result.exit_code == 2


def test_help_loads_neither_pydantic_nor_structlog():
    """The commands load what they need when they run, so that help and completion wait for nothing."""
    code = (
        "import sys; from blueprint_llm.cli import COMMANDS, main\n"
        "for words in [[], *([name] for name in COMMANDS)]:\n"
        "    try: main([*words, '--help'])\n"
        "    except SystemExit: pass\n"
        "print([n for n in ('pydantic', 'structlog', 'keyring', 'jinja2') if n in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)

    assert ran.stdout.splitlines()[-1] == "[]"


def test_check_online_makes_one_cheap_call_per_provider(keys, tmp_path, litellm_warm):
    """Each provider is sent one token's worth with its own key; who refuses it says so, without the key."""
    echo = Status(401, f"Incorrect API key provided: {KEYS['plain32']}", headers={"x-echo": KEYS["plain32"]})
    with (
        FaultServer(default=Answer("pong")) as good,
        FaultServer(default=echo) as bad,
        FaultServer(default=Status(503, "overloaded")) as busy,
    ):
        servers = {"cloud": good, "other": bad, "off": bad, "busy": busy}
        targets = {name: {"model": "openai/gpt-4o", "api_base": server.url} for name, server in servers.items()}
        targets["off"]["api_base"] = f"http://127.0.0.1:{closed_port()}/v1"
        block = {"providers": targets, "chains": {"default": [*targets]}, "cache": {"enabled": True}}
        (tmp_path / "b.yaml").write_text(yaml.safe_dump({"blueprint": block}))
        keys("set", "cloud", given=KEY)
        keys("set", "other", given=KEYS["plain32"])
        keys("set", "busy", given=KEY)

        result = keys("check", "--online")

    assert "ok    cloud (online): answered" in result.stdout
    assert "WRONG other (online): other (openai/gpt-4o): HTTP 401" in result.stdout
    assert "WRONG off (online): " in result.stdout
    assert result.exit_code == 1
    assert [request.headers["authorization"] for request in good.requests] == [f"Bearer {KEY}"]
    assert [request.headers["authorization"] for request in bad.requests] == [f"Bearer {KEYS['plain32']}"]
    assert {request.body["max_tokens"] for request in (*good.requests, *bad.requests)} == {1}
    assert len(busy.requests) == 1


def closed_port():
    """A port of this machine where nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def test_a_key_can_go_to_the_keychain(keys, monkeypatch):
    """`--keyring` stores there and says what the configuration still needs."""
    chain = {}
    monkeypatch.setattr(Keychain, "set", lambda self, name, secret: chain.update({name: secret}))

    done = keys("set", "openai", "--keyring", given=KEY)

    assert done.exit_code == 0
    assert chain == {"openai": Secret(KEY)}
    assert "set credentials: {keyring: true} in the block blueprint" in done.stderr
