"""Which key is taken, from where, and what is said when there is none."""

import ast
import importlib.util
import json
import os
import stat
import sys
import time
from pathlib import Path

import pytest
from canary import find_canary

import blueprint_llm.credentials
from blueprint_llm import redaction
from blueprint_llm.config import load_config
from blueprint_llm.config.model import Config
from blueprint_llm.credentials import CredentialsManager, Secret, is_loopback, providers
from blueprint_llm.credentials.sources import ask
from blueprint_llm.errors import CredentialsError

K = {name: f"sk-{name}-0123456789abcdefghij" for name in ("explicit", "config", "ours", "own", "file", "other", "cmd")}
PROVIDERS = {
    "cloud": {"model": "gpt-4o"},
    "opus": {"model": "anthropic/claude-opus-4-5", "credentials": "work"},
    "own": {"model": "openai/gpt-4o", "api_key": "os.environ/MY_KEY", "api_base": "https://own.example/v1"},
    "literal": {"model": "groq/llama", "api_key": K["config"]},
    "local": {"model": "embedded/smollm2"},
    "near": {"model": "openai/any", "api_base": "http://127.0.0.1:8080/v1"},
    "listed": {"model": "azure/gpt", "litellm_credential_name": "azure-one"},
    "alias": {"model": "azure/gpt", "credentials": "azure-one"},
}
GROUP = {"model_name": "gpt-4o", "litellm_params": {"model": "openai/gpt-4o-2024", "rpm": 5}}
LISTED = {
    "credential_name": "azure-one",
    "credential_values": {"api_key": "os.environ/AZ", "api_base": "https://az.example", "api_version": "1"},
}


def config(**more):
    """The configuration of most tests."""
    return load_config(
        {"model_list": [GROUP], "credential_list": [LISTED], "blueprint": {"providers": PROVIDERS, **more}}
    )


class Clock:
    """Seconds that pass when told."""

    now = 100.0

    def __call__(self):
        """The time."""
        return self.now


@pytest.fixture
def made(tmp_path):
    """Make a manager with the given entries in its file."""

    def make(entries=None, environ=None, *, configuration=None, **more):
        path = tmp_path / "credentials.json"
        if entries is not None:
            path.write_text(json.dumps({"version": 1, "providers": entries}))
            path.chmod(0o600)
        return CredentialsManager(configuration or config(), file=path, environ=environ or {}, **more)

    return make


def test_sources_come_in_order(made):
    """Explicit, environment (ours first), command, file: taking one away shows the next."""
    environ = {"BLUEPRINT_OPENAI_API_KEY": K["ours"], "OPENAI_API_KEY": K["own"]}
    entry = {"api_key": K["file"], "command": [sys.executable, "-c", f"print({K['cmd']!r})"]}
    explicit, seen = {"openai": K["explicit"]}, []
    for _ in range(5):
        manager = made({"openai": entry}, environ, explicit=explicit)
        seen.append((manager.get("openai").reference, manager.get("openai").api_key))
        explicit = {}
        if environ and len(seen) > 1:
            environ.pop(next(iter(environ)))
        elif len(seen) > 3:
            entry.pop("command", None)

    assert [key.reveal() for _, key in seen] == [K["explicit"], K["ours"], K["own"], K["cmd"], K["file"]]
    assert [reference for reference, _ in seen[1:]] == [
        "env:BLUEPRINT_OPENAI_API_KEY", "env:OPENAI_API_KEY", "command:openai#1", "file:openai#1",
    ]  # fmt: skip
    assert seen[0][0].startswith("explicit:")
    assert K["explicit"][-4:] not in seen[0][0]


@pytest.mark.parametrize(
    ("provider", "environ", "reference"),
    [
        pytest.param("cloud", {"BLUEPRINT_CLOUD_API_KEY": K["own"]}, "env:BLUEPRINT_CLOUD_API_KEY", id="by name"),
        pytest.param("cloud", {"OPENAI_API_KEY": K["own"]}, "env:OPENAI_API_KEY", id="by LiteLLM provider"),
        pytest.param("gpt-4o", {"OPENAI_API_KEY": K["own"]}, "env:OPENAI_API_KEY", id="a group"),
        pytest.param("own", {"MY_KEY": K["own"], "OPENAI_API_KEY": K["other"]}, "env:MY_KEY", id="declared"),
        pytest.param("literal", {"GROQ_API_KEY": K["other"]}, "config:", id="literal"),
        pytest.param("listed", {"AZ": K["own"]}, "env:AZ", id="credential_list"),
        pytest.param("alias", {"AZ": K["own"]}, "env:AZ", id="credentials names the list"),
        pytest.param("opus", {"BLUEPRINT_WORK_API_KEY": K["own"]}, "env:BLUEPRINT_WORK_API_KEY", id="credentials"),
        pytest.param("azure", {"AZURE_API_KEY": K["own"]}, "env:AZURE_API_KEY", id="azure"),
        pytest.param("gemini", {"GOOGLE_API_KEY": K["own"]}, "env:GOOGLE_API_KEY", id="gemini"),
        pytest.param("ollama_chat", {"OLLAMA_API_KEY": K["own"]}, "env:OLLAMA_API_KEY", id="ollama"),
        pytest.param("some-new.one", {"SOME_NEW_ONE_API_KEY": K["own"]}, "env:SOME_NEW_ONE_API_KEY", id="by rule"),
        pytest.param("openai", {"OPENAI_API_KEY": f" {K['own']}\n"}, "env:OPENAI_API_KEY", id="trailing newline"),
        pytest.param("near", {"OPENAI_API_KEY": K["own"]}, "env:OPENAI_API_KEY", id="loopback with a key"),
    ],
)
def test_a_provider_finds_its_key(made, provider, environ, reference):
    """Names of `providers`, groups, LiteLLM providers and their conventions all lead to the key."""
    manager = made(environ=environ)

    credential = manager.get(provider)

    assert credential.reference.startswith(reference)
    assert manager.reference(provider) == credential.reference
    assert manager.available(provider) is None
    assert credential.api_key == Secret(K["config"] if reference == "config:" else K["own"])
    assert (credential.provider, manager.is_slow(provider)) == (provider, False)


@pytest.mark.parametrize(
    ("provider", "environ", "says"),
    [
        pytest.param("openai", {}, "no API key for 'openai': set OPENAI_API_KEY or run blueprint-llm keys set openai",
                     id="seed's example"),
        pytest.param("cloud", {"OPENAI_API_KEY": " "}, "no API key for 'cloud': set OPENAI_API_KEY or run "
                     "blueprint-llm keys set cloud", id="blank variable"),
        pytest.param("own", {"OPENAI_API_KEY": K["other"]}, "no API key for 'own': set MY_KEY or run "
                     "blueprint-llm keys set own", id="declared keys are not replaced by others"),
        pytest.param("opus", {"ANTHROPIC_API_KEY": K["other"]}, "no API key for 'opus': set BLUEPRINT_WORK_API_KEY or "
                     "run blueprint-llm keys set work", id="named credentials are not replaced by others"),
        pytest.param("openai", {"OPENAI_API_KEY": f"{K['own']}\n{K['own']}"},
                     "the environment variable OPENAI_API_KEY holds a space or a newline: set it to the key alone",
                     id="two lines"),
    ],
)  # fmt: skip
def test_what_is_said_without_a_key(made, provider, environ, says):
    """`get` raises and `available` answers the same sentence, which says what to do."""
    manager = made(environ=environ)

    with pytest.raises(CredentialsError) as caught:
        manager.get(provider)

    assert str(caught.value) == manager.available(provider) == says
    assert (manager.reference(provider), manager.is_slow(provider), caught.value.__context__) == ("none", False, None)


@pytest.mark.parametrize("provider", ["local", "embedded", "near", "ollama", "ollama_chat", "bedrock", "hosted_vllm"])
def test_providers_without_keys_are_available(made, provider):
    """Embedded, Ollama, loopback hosts and clouds with their own logins need none."""
    manager = made()

    assert manager.available(provider) is None
    assert (manager.get(provider).api_key, manager.get(provider).source) == (None, "none")
    assert manager.reference(provider) == "none"
    assert manager.report(manager.get(provider), "refused") is False


def test_a_model_of_another_provider_gets_that_providers_key(made):
    """`model=` in a provider's place does not send one company's key to another."""
    environ = {"BLUEPRINT_CLOUD_API_KEY": K["own"], "ANTHROPIC_API_KEY": K["other"]}
    manager = made(environ=environ)

    assert manager.get("cloud", model="openai/gpt-5").id == "BLUEPRINT_CLOUD_API_KEY"
    assert manager.get("cloud", model="claude-opus-4-5").id == "ANTHROPIC_API_KEY"
    assert manager.get("cloud", params={"api_key": K["config"]}).source == "config"
    assert manager.get("gpt-4o", model="x", params={"custom_llm_provider": "anthropic"}).id == "ANTHROPIC_API_KEY"


@pytest.mark.parametrize(
    ("provider", "environ", "base_url"),
    [
        pytest.param("own", {"MY_KEY": K["own"], "OPENAI_BASE_URL": "https://x.example"}, "https://own.example/v1",
                     id="own"),
        pytest.param("openai", {"OPENAI_API_KEY": K["own"], "OPENAI_BASE_URL": "https://x.example"}, "https://x.example",
                     id="environment"),
        pytest.param("listed", {"AZ": K["own"]}, "https://az.example", id="credential_list"),
        pytest.param("ollama_chat", {"OLLAMA_API_BASE": "http://h:11434"}, "http://h:11434", id="ollama"),
        pytest.param("groq", {}, "https://file.example", id="file"),
        pytest.param("lm_studio", {}, "http://127.0.0.1:1234/v1", id="file without a key"),
        pytest.param("groq", {"GROQ_API_KEY": K["own"]}, None, id="a file's address goes with the file's key only"),
    ],
)  # fmt: skip
def test_where_the_address_comes_from(made, provider, environ, base_url):
    """The target's own, else the one kept with the key, else the environment's."""
    file = {
        "groq": {"api_key": K["file"], "base_url": "https://file.example"},
        "lm_studio": {"base_url": "http://127.0.0.1:1234/v1", "extra": {"num_ctx": 8}},
    }

    assert made(file, environ).get(provider).base_url == base_url


def test_settings_of_the_file_go_along_without_a_key_too(made):
    """`extra` of an entry reaches a provider that takes no key, and stands in its account."""
    manager = made({"lm_studio": {"base_url": "http://127.0.0.1:1234/v1", "extra": {"num_ctx": 8}}})

    credential = manager.get("lm_studio")

    assert (credential.api_key, credential.extra, credential.source) == (None, {"num_ctx": 8}, "none")
    assert manager.account("lm_studio") == ("none", "http://127.0.0.1:1234/v1", {"num_ctx": 8})


def test_an_address_with_a_key_in_it_is_masked(made):
    """A key in a base URL is registered for redaction."""
    made(environ={"OPENAI_API_KEY": K["own"], "OPENAI_BASE_URL": "https://h.example/v1?key=in-the-address-7"}).get(
        "openai"
    )

    assert redaction.redact("in-the-address-7") == "[redacted]"


def test_extras_go_with_the_key_and_keep_their_secrets(made):
    """`extra` reaches the adapter; what has a telling name is a Secret."""
    extra = {"organization": "org-1", "api_version": "2", "client_secret": "s3cr3t-value-1", "n": 3,
             "extra_headers": {"X-Team": "blue", "Authorization": "Bearer header-token-1"}}  # fmt: skip

    found = made({"openai": {"api_key": K["file"], "extra": extra}}).get("openai").extra

    assert (found["organization"], found["api_version"], found["n"]) == ("org-1", "2", 3)
    assert found["client_secret"] == Secret("s3cr3t-value-1")
    assert found["extra_headers"] == {"X-Team": "blue", "Authorization": Secret("Bearer header-token-1")}


def test_parameters_are_resolved_at_call_time(made):
    """Variables are read when asked, keys become Secrets, unset ones are left out, the rest is as written."""
    environ = {"AZ": K["own"], "REGION": "eu-west"}
    manager = made(environ=environ)
    params = {
        "model": "azure/x", "litellm_credential_name": "azure-one", "region_name": "os.environ/REGION", "rpm": 5,
        "api_version": "2", "organization": "os.environ/NOT_SET", "extra_headers": {"x-api-key": "os.environ/AZ"},
        "tags": ["os.environ/REGION", "b"], "aws_secret_access_key": "literal-secret",
    }  # fmt: skip

    resolved = manager.resolve_params(params)
    environ["REGION"] = "us"

    assert resolved == {
        "model": "azure/x", "api_key": Secret(K["own"]), "api_base": "https://az.example", "region_name": "eu-west",
        "rpm": 5, "api_version": "2", "extra_headers": {"x-api-key": Secret(K["own"])}, "tags": ["eu-west", "b"],
        "aws_secret_access_key": Secret("literal-secret"),
    }  # fmt: skip
    assert manager.resolve_params(params)["region_name"] == "us"
    assert params["litellm_credential_name"] == "azure-one"


def _three():
    return {"openai": {"keys": [{"id": name, "api_key": f"sk-{name}-0123456789abcdef"} for name in ("a", "b", "c")]}}


def test_keys_take_turns_after_401_and_429(made):
    """A refused key rests 300 s, a limited one as long as was asked; when all rest, the first to wake is used."""
    clock = Clock()
    manager = made(_three(), clock=clock)
    used = []
    for category, wait in (("rate_limited", 30.0), ("refused", None), ("timeout", None), ("rate_limited", None)):
        credential = manager.get("openai")
        used.append((credential.id, manager.report(credential, category, retry_after_s=wait)))

    assert used == [("openai#a", True), ("openai#b", True), ("openai#c", False), ("openai#c", False)]
    assert manager.get("openai").id == "openai#a"  # 30 s, the shortest rest
    clock.now += 31
    assert manager.get("openai").id == "openai#a"
    clock.now += 30
    manager.report(manager.get("openai"), "refused")
    assert manager.get("openai").id == "openai#c"
    assert manager.reference("openai") == "file:openai#a"


def test_an_edited_file_starts_afresh(made):
    """Whoever mended a key need not wait until it has rested."""
    manager = made(_three(), clock=Clock())
    manager.report(manager.get("openai"), "refused")
    assert manager.get("openai").id == "openai#b"

    manager.set("groq", K["file"])

    assert manager.get("openai").id == "openai#a"


def test_a_single_key_is_used_again(made):
    """With one key there is nothing to take turns with."""
    manager = made(environ={"OPENAI_API_KEY": K["own"]})

    assert manager.report(manager.get("openai"), "refused") is False
    assert manager.get("openai").id == "OPENAI_API_KEY"


def _counting(tmp_path, text):
    return [sys.executable, "-c", f"open({str(tmp_path / 'count')!r}, 'a').write('x'); print({text!r})"]


def test_a_command_is_asked_once_and_again_when_refused(made, tmp_path):
    """Its answer is kept 300 s; a 401 asks for a fresh one; naming it asks nobody."""
    clock = Clock()
    manager = made({"openai": {"command": _counting(tmp_path, K["cmd"])}}, clock=clock)
    asked = lambda: len((tmp_path / "count").read_text()) if (tmp_path / "count").exists() else 0  # noqa: E731

    assert (manager.available("openai"), manager.reference("openai"), manager.is_slow("openai")) == (
        None, "command:openai#1", True,
    )  # fmt: skip
    assert [row.source for row in manager.list() if row.provider == "openai"] == ["command"]
    assert asked() == 0
    for _ in range(3):
        assert manager.get("openai").api_key == Secret(K["cmd"])
    assert (asked(), manager.is_slow("openai")) == (1, False)
    manager.report(manager.get("openai"), "refused")
    manager.get("openai")
    assert asked() == 2
    clock.now += 301
    manager.get("openai")
    assert asked() == 3


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        pytest.param(["/no/such/program"], "the command /no/such/program cannot be started (No such", id="missing"),
        pytest.param(["sh", "-c", f"echo {K['cmd']}; exit 3"], "the command sh failed (exit code 3)", id="fails"),
        pytest.param(["sh", "-c", "echo short"], "what the command sh printed is shorter than 8", id="short"),
        pytest.param(["sh", "-c", f"echo {K['cmd']}; echo more"], "what the command sh printed holds", id="two lines"),
        pytest.param(["cat"], "what the command cat printed is shorter", id="no input to wait for"),
    ],
)
def test_a_command_that_gives_no_key(made, argv, says):
    """The sentence about the missing key says what the command did, without its output; the next source is asked."""
    manager = made({"openai": {"command": argv}})

    with pytest.raises(CredentialsError, match="no API key for 'openai'") as caught:
        manager.get("openai")

    assert says in str(caught.value)
    assert not find_canary(str(caught.value), K["cmd"])
    assert made({"openai": {"command": argv, "api_key": K["file"]}}).get("openai").reference == "file:openai#2"


def test_a_command_without_a_key_is_asked_again_soon(made, tmp_path):
    """Its failure is kept 60 s."""
    clock = Clock()
    manager = made({"openai": {"command": ["cat", str(tmp_path / "key")]}}, clock=clock)
    before = manager.available("openai"), _refusal(manager)
    (tmp_path / "key").write_text(K["cmd"])

    clock.now += 59
    soon = _refusal(manager)
    clock.now += 2

    assert (before[0], "failed" in before[1], "failed" in soon) == (None, True, True)
    assert manager.get("openai").api_key == Secret(K["cmd"])


def _refusal(manager):
    with pytest.raises(CredentialsError) as caught:
        manager.get("openai")
    return str(caught.value)


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path):
    """After its time the whole process group is gone, even a child that keeps the pipe open."""
    pids = tmp_path / "pids"
    argv = ["sh", "-c", f"sleep 600 & echo $! >> {pids}; echo $$ >> {pids}; wait"]

    secret, problem = ask(argv, dict(os.environ), timeout_s=1.0)

    assert (secret, problem) == (None, "the command sh gave no key within 1 s")
    assert [pid for pid in pids.read_text().split() if not _ends(pid)] == []


def _ends(pid):
    """Whether a process is gone, or dead and not yet collected, within 10 s."""
    for _ in range(500):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def test_a_commands_words_on_stderr_are_dropped(capfd):
    """What a program complains about does not reach ours."""
    secret, _ = ask(["sh", "-c", f"echo noise >&2; echo {K['cmd']}"], dict(os.environ))

    assert secret == Secret(K["cmd"])
    assert capfd.readouterr() == ("", "")


def test_an_entry_may_name_a_variable(made):
    """`env: NAME` in the file is read at call time."""
    manager = made({"openai": {"env": "TEAM_KEY"}}, {"TEAM_KEY": K["own"]})

    assert manager.get("openai").reference == "env:openai#1"


def test_listing_shows_at_most_four_characters(made):
    """Each key once, with its source; the value nowhere."""
    environ = {"OPENAI_API_KEY": K["own"], "MY_KEY": K["other"]}

    rows = made({"cloud": {"api_key": K["file"]}, "x": {"api_key": "12345678"}}, environ).list()

    assert {(row.source, row.id, row.hint) for row in rows} == {
        ("env", "OPENAI_API_KEY", "...ghij"), ("env", "MY_KEY", "...ghij"), ("file", "cloud#1", "...ghij"),
        ("file", "x#1", "..."), ("config", next(row.id for row in rows if row.source == "config"), "...ghij"),
    }  # fmt: skip
    assert not any(find_canary(repr(rows), key) for key in K.values())


def test_nothing_is_written_to_the_environment(made, monkeypatch):
    """Keys are handed to calls, never to `os.environ`, which every child process gets."""
    before = dict(os.environ)
    manager = made({"openai": {"api_key": K["file"]}})
    manager.get("openai"), manager.list(), manager.check(), manager.set("groq", K["other"])

    assert dict(os.environ) == before
    writes = [
        f"{path.name}:{node.lineno}"
        for path in Path(blueprint_llm.credentials.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in {"putenv", "setdefault"} and "environ" in ast.unparse(node)
    ]
    assert writes == []


def test_the_default_file_is_in_the_users_configuration(monkeypatch, tmp_path):
    """XDG_CONFIG_HOME is honoured, `credentials.file` wins over it, an argument over both."""
    monkeypatch.delenv("BLUEPRINT_HOME")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    chosen = Config.model_validate({"credentials": {"file": "~/keys.json"}})

    assert CredentialsManager().sources.file.path == tmp_path / "blueprint" / "credentials.json"
    assert CredentialsManager(chosen).sources.file.path == Path.home() / "keys.json"
    assert CredentialsManager(chosen, file="/x/y").sources.file.path == Path("/x/y")


def test_check_finds_what_is_wrong(made, tmp_path):
    """File, age, folders above and every provider, each with the command that mends it."""
    manager = made({"openai": {"api_key": K["file"]}}, {"MY_KEY": K["own"]})
    path = tmp_path / "credentials.json"
    good = {row.subject: row for row in manager.check()}
    path.chmod(0o644)
    tmp_path.chmod(0o777)
    spoilt = {row.subject: row for row in manager.check()}
    tmp_path.chmod(0o700)

    assert good[str(path)].message == "safe; providers: openai"
    assert (good["cloud"].ok, good["cloud"].message) == (True, "file:openai#1")
    assert good["opus"].mend == "set BLUEPRINT_WORK_API_KEY or run blueprint-llm keys set work"
    assert (spoilt[str(tmp_path)].ok, spoilt[str(tmp_path)].mend) == (False, f"chmod go-w {tmp_path}")
    assert not spoilt[str(path)].ok


def test_check_tells_old_files_and_none(made, tmp_path):
    """A file unchanged for half a year is mentioned; no file is fine."""
    manager = made({})
    path = tmp_path / "credentials.json"
    os.utime(path, (0, 1_000_000_000))
    ages = [row.message for row in manager.check(now=lambda: 1_000_000_000 + 200 * 86400)]
    path.unlink()

    assert "unchanged for 200 days: consider fresh keys" in ages
    assert "not there, which is fine" in [row.message for row in manager.check()]
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_check_without_providers_looks_at_groups(made):
    """Without a block of ours each group is a provider."""
    plain = load_config({"model_list": [GROUP]})

    assert "gpt-4o" in {row.subject for row in made(configuration=plain).check()}


@pytest.mark.parametrize(
    ("address", "near"),
    [
        pytest.param("http://localhost:1/v1", True, id="localhost"),
        pytest.param("http://a.localhost", True, id="subdomain"),
        pytest.param("http://127.9.9.9:80", True, id="127/8"),
        pytest.param("http://[::1]:80", True, id="IPv6"),
        pytest.param("http://10.0.0.1", False, id="private"),
        pytest.param("https://localhost.example.com", False, id="look-alike"),
        pytest.param("http://[bad", False, id="malformed"),
        pytest.param("", False, id="empty"),
        pytest.param(None, False, id="none"),
    ],
)
def test_which_addresses_are_this_machine(address, near):
    """Loopback hosts need no key."""
    assert is_loopback(address) is near


def test_the_tables_variables_are_litellms():
    """Every variable that the table names occurs in LiteLLM's source."""
    root = Path(importlib.util.find_spec("litellm").submodule_search_locations[0])
    sources = [root / "main.py", root / "utils.py", *root.glob("llms/**/*.py"), *root.glob("litellm_core_utils/*.py")]
    text = "\n".join(path.read_text(errors="replace") for path in sources)

    unknown = [
        name
        for entry in providers.TABLE.values()
        for name in (*entry.keys, *entry.bases)
        if f'"{name}"' not in text and not name.endswith("_API_BASE")
    ]
    assert unknown == []
