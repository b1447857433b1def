"""The keychain may be absent, broken, forgetful or asleep: each ends in one sentence, in time, and loses nothing."""

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import keyring
import keyring.backend
import keyring.backends.null
import pytest
from canary import find_canary

from blueprint_llm.config import Config
from blueprint_llm.credentials import CredentialsManager, Keychain, Secret
from blueprint_llm.errors import CredentialsError

KEY = "sk-chain0123456789abcdefghijklmnop"
ROOT = Path(__file__).parents[1]

# Real keyring backends, in a module that the children load by name.
BACKENDS = '''
    import json, os, time
    from keyring.backend import KeyringBackend

    class File(KeyringBackend):
        """Keeps passwords in a file."""
        priority = 9
        def _all(self):
            return json.load(open(os.environ["RING"])) if os.path.exists(os.environ["RING"]) else {}
        def get_password(self, service, username):
            return self._all().get(f"{service}/{username}")
        def set_password(self, service, username, password):
            json.dump({**self._all(), f"{service}/{username}": password}, open(os.environ["RING"], "w"))
        def delete_password(self, service, username):
            rest = self._all(); del rest[f"{service}/{username}"]
            json.dump(rest, open(os.environ["RING"], "w"))

    class Forgetful(File):
        """Takes everything, keeps nothing."""
        def set_password(self, service, username, password): pass

    class Hanging(File):
        """Waits for somebody to click."""
        def get_password(self, service, username): time.sleep(600)
        def set_password(self, service, username, password): time.sleep(600)

    class Telling(File):
        """Fails and says the password."""
        def set_password(self, service, username, password): raise RuntimeError(password)

    class Leaving(File):
        """Ends the program."""
        def get_password(self, service, username): raise SystemExit(3)

    class Plaintext(File):
        """Says by its name that it keeps no secrets."""
'''
PROGRAM = """
    import sys, time
    import keyring  # its import is not what is timed
    from blueprint_llm.config import Config
    from blueprint_llm.credentials import CredentialsManager, Keychain
    from blueprint_llm.errors import CredentialsError
    config = Config.model_validate({"credentials": {"keyring": True, "file": sys.argv[2]}})
    manager = CredentialsManager(config, environ={}, keychain=Keychain(deadline_s=float(sys.argv[3])))
    began = time.monotonic()
    try:
        print(eval(sys.argv[1]))
    except CredentialsError as error:
        print(error)
    print(time.monotonic() - began)
"""
GET = "manager.get('openai').reference"
SET = f"manager.set('openai', {KEY!r}, keyring=True)"


@pytest.fixture
def ask(tmp_path):
    """Evaluate an expression with a manager whose keychain has the given backend; what it printed, and seconds."""
    (tmp_path / "rings.py").write_text(textwrap.dedent(BACKENDS))

    def run(backend, expression, deadline_s=30.0):
        env = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}", "RING": str(tmp_path / "ring.json")}
        env |= {"PYTHON_KEYRING_BACKEND": backend} if backend else {}
        ran = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), expression, str(tmp_path / "c.json"), str(deadline_s)],
            env=env, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (ran.returncode, ran.stderr) == (0, "")
        *said, seconds = ran.stdout.splitlines()
        return "\n".join(said), float(seconds)

    return run


@pytest.mark.slow
def test_a_key_goes_in_and_comes_out(ask):
    """Stored, found before the file, listed without itself, removed once."""
    assert ask("rings.File", SET)[0] == "None"
    assert ask("rings.File", GET)[0] == "keychain:openai"
    assert ask("rings.File", "manager.get('openai').api_key.hint()")[0] == "...mnop"
    listed = ask("rings.File", "[row for row in manager.list() if row.source == 'keychain']")[0]
    assert listed == "[KeyInfo(provider='openai', id='openai', source='keychain', hint='...mnop')]"
    assert ask("rings.File", "[manager.remove('openai', keyring=True) for _ in range(2)]")[0] == "[True, False]"


MISSING = "no API key for 'openai': set OPENAI_API_KEY or run blueprint-llm keys set openai; "
MEND = "use the credentials file (credentials.keyring: false)"
TROUBLES = [
    pytest.param("keyring.backends.null.Keyring", "the keychain backend keyring.backends.null.Keyring", id="null"),
    pytest.param("keyring.backends.fail.Keyring", "the keychain backend keyring.backends.fail.Keyring", id="fail"),
    pytest.param("rings.Plaintext", "the keychain backend rings.Plaintext does not keep secrets", id="plain text"),
    pytest.param("no.such.Backend", "the keychain cannot be used (ModuleNotFoundError)", id="bogus module"),
    pytest.param("rings.NoSuch", "the keychain cannot be used (AttributeError)", id="bogus class"),
    pytest.param("", "the keychain backend keyring.backends.fail.Keyring does not", id="headless"),
]


@pytest.mark.parametrize(("backend", "says"), TROUBLES)
@pytest.mark.parametrize("expression", [pytest.param(GET, id="get"), pytest.param(SET, id="set")])
def test_a_useless_keychain_is_a_sentence(ask, backend, says, expression):
    """No backend, a bogus one, one that forgets or stores in plain text: refused by name, with a way out."""
    said, _ = ask(backend, expression)

    assert said.removeprefix(MISSING).startswith(says)
    assert said.endswith(MEND)
    assert "\n" not in said


def test_a_forgetful_keychain_is_found_out(ask):
    """What was stored is read back: a silent loss is an error."""
    said, _ = ask("rings.Forgetful", SET)

    assert said == f"the keychain backend rings.Forgetful lost the key it was given: {MEND}"


@pytest.mark.parametrize(
    "backend", [pytest.param("rings.Telling", id="raises with the key"), pytest.param("rings.Leaving", id="exits")]
)
def test_a_backend_that_raises_anything_is_a_sentence(ask, backend):
    """Its own words, which may hold the key, are not repeated."""
    said, _ = ask(backend, SET if backend.endswith("Telling") else GET)

    assert "the keychain cannot be used (" in said
    assert not find_canary(said, KEY)


@pytest.mark.parametrize(
    "expression", [pytest.param(GET, id="get"), pytest.param(SET, id="set", marks=pytest.mark.slow)]
)
def test_a_hanging_keychain_is_given_up(ask, expression):
    """The sentence is there while the backend still sleeps (the bench holds it to 2.5 s), and the program can end."""
    said, _ = ask("rings.Hanging", expression, deadline_s=2.0)

    assert said.removeprefix(MISSING) == f"the keychain did not answer within 2 s: unlock it, or {MEND}"


@pytest.mark.slow
def test_a_hanging_keychain_is_not_waited_for_again(ask):
    """The second question answers at once: the first thread is still waiting."""
    twice = "[manager.available('openai'), manager.available('groq'), manager.check()[-1].message] if "
    said, seconds = ask("rings.Hanging", twice + "manager.get('openai', params={'api_base': 'http://127.0.0.1'})"
                        ".api_key is None else 0", deadline_s=5.0)  # fmt: skip

    assert "did not answer" in said
    assert seconds < 10  # three questions, one wait


@pytest.mark.slow
def test_trouble_with_the_keychain_does_not_hide_the_file(ask, tmp_path):
    """The next source is asked, and the trouble is told by `check`."""
    CredentialsManager(file=tmp_path / "c.json", environ={}).set("openai", KEY)

    assert ask("no.such.Backend", GET)[0] == "file:openai#1"
    assert "ok=False" in ask("no.such.Backend", "[row for row in manager.check() if row.subject == 'keychain']")[0]
    assert "rings.File" in ask("rings.File", "[row for row in manager.check() if row.subject == 'keychain']")[0]


def test_an_entry_of_the_file_may_point_to_the_keychain(ask, tmp_path):
    """`keyring: NAME` in the file names where the key is, without the key."""
    path = tmp_path / "c.json"
    path.write_text('{"version": 1, "providers": {"groq": {"keyring": "openai", "base_url": "https://a.example"}}}')
    path.chmod(0o600)
    ask("rings.File", SET)

    assert ask("rings.File", "manager.get('groq').reference")[0] == "keychain:groq#1"


def test_keyring_is_not_imported_unless_configured():
    """Without the opt-in nobody pays its half second."""
    code = (
        "import sys; from blueprint_llm.credentials import CredentialsManager as M;"
        "m = M(file='/nonexistent/c.json', environ={}); m.available('openai'); m.list(); m.check();"
        "print([name for name in ('keyring', 'litellm', 'openai', 'httpx') if name in sys.modules])"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}

    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)

    assert ran.stdout == "[]\n"


class Memory(keyring.backend.KeyringBackend):
    """A keychain in this process, for what needs no other one."""

    priority = 1

    def __init__(self):
        self.kept, self.forgets, self.release = {}, False, None
        super().__init__()

    def get_password(self, service, username):
        """What was stored; with `release`, only after it is set."""
        if self.release:
            self.release.wait(60)
        return self.kept.get((service, username))

    def set_password(self, service, username, password):
        """Keep it, or forget it."""
        if not self.forgets:
            self.kept[service, username] = password

    def delete_password(self, service, username):
        """Forget it."""
        del self.kept[service, username]


@pytest.fixture
def memory():
    """The backend of this process while a test runs."""
    before, backend = keyring.core._keyring_backend, Memory()
    keyring.set_keyring(backend)
    yield backend
    keyring.core._keyring_backend = before


@pytest.fixture
def manager(memory, tmp_path):
    """A manager that asks the keychain."""
    config = Config.model_validate({"credentials": {"keyring": True, "file": str(tmp_path / "c.json")}})
    return CredentialsManager(config, environ={}, keychain=Keychain(deadline_s=30))


def test_the_keychain_is_asked_once_until_a_key_is_refused(manager, memory):
    """Its answer is remembered, told to be quick then, and forgotten after a 401, a set and a remove."""
    assert (manager.is_slow("openai"), manager.available("openai")) == (True, None)
    manager.set("openai", KEY, keyring=True)
    assert manager.get("openai").reference == manager.reference("openai") == "keychain:openai"
    assert not manager.is_slow("openai")
    memory.kept["blueprint-llm", "openai"] = KEY + "-fresh"
    assert manager.get("openai").api_key == Secret(KEY)
    assert manager.report(manager.get("openai"), "refused") is False
    assert manager.get("openai").api_key == Secret(KEY + "-fresh")
    assert [manager.remove("openai", keyring=True), manager.remove("openai", keyring=True)] == [True, False]
    assert manager.available("openai") is None  # it might be there: nobody has looked
    with pytest.raises(CredentialsError, match="no API key for 'openai'"):
        manager.get("openai")
    assert manager.available("openai").startswith("no API key for 'openai'")


def test_a_loss_is_an_error(manager, memory):
    """A keychain that forgets is not believed."""
    memory.forgets = True

    with pytest.raises(CredentialsError, match="lost the key it was given"):
        manager.set("openai", KEY, keyring=True)


def test_a_late_answer_wakes_the_keychain_up_again(memory):
    """While one question hangs others fail at once; when it is answered the keychain is used again."""
    chain, memory.release = Keychain(deadline_s=0.05), threading.Event()
    for _ in range(3):
        with pytest.raises(CredentialsError, match=r"did not answer within 0\.05 s"):
            chain.get("openai")
    assert sum(thread.name == "blueprint-keychain" for thread in threading.enumerate()) == 1

    memory.release.set()
    chain._last.result(30)
    memory.release, chain._deadline_s = None, 30

    assert chain.get("openai") is None


def test_check_names_the_keychain(manager, memory):
    """`keys check` shows which backend is used, or what is wrong with it."""
    found = {row.subject: row for row in manager.check()}
    keyring.set_keyring(keyring.backends.null.Keyring())
    wrong = {row.subject: row for row in manager.check()}

    assert found["keychain"].message.endswith(".Memory")
    assert (wrong["keychain"].ok, "does not keep secrets" in wrong["keychain"].message) == (False, True)
    with pytest.raises(CredentialsError, match="does not keep secrets"):
        manager.set("openai", KEY, keyring=True)
