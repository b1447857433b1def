"""Where a configuration comes from, what it holds, and what it never shows."""

import json
import traceback
from pathlib import Path, PurePosixPath

import pytest
from canary import Sinks

from blueprint_llm.config import Config, load_config
from blueprint_llm.config.load import TEMPLATE
from blueprint_llm.config.paths import folder, make_folder
from blueprint_llm.errors import ConfigError
from blueprint_llm.redaction import redact
from blueprint_llm.secret import Secret, revealed

MINIMAL = "blueprint:\n  providers: {{{name}: {{model: openai/gpt-4o}}}}\n  chains: {{default: [{name}]}}\n"
SECRET = "sk-canary-0123456789"
ODD_SECRET = "plain/canary+8="


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder and an empty home for configuration."""
    for name in ("BLUEPRINT_CONFIG", "BLUEPRINT_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    (tmp_path / "xdg" / "blueprint").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def write(path, text):
    """Write a file and return its path."""
    path.write_text(text)
    return path


def test_without_any_file_the_template_runs(here):
    """The embedded default asks a cloud model first and the embedded model after it."""
    config = load_config()

    assert config.source == "(built in)"
    assert config.chains == {"default": ["cloud", "local"]}
    assert [provider.model for provider in config.providers.values()] == ["openai/gpt-4o-mini", "embedded/smollm2"]
    assert not config.notices


def test_discovery_takes_the_first_place(here, monkeypatch):
    """$BLUEPRINT_CONFIG comes before the current folder, which comes before the user's folder."""
    write(here / "xdg" / "blueprint" / "blueprint.yaml", MINIMAL.format(name="user"))
    found = [next(iter(load_config().providers))]
    write(here / "work" / "blueprint.yaml", MINIMAL.format(name="folder"))
    found.append(next(iter(load_config().providers)))
    monkeypatch.setenv("BLUEPRINT_CONFIG", str(write(here / "named.yaml", MINIMAL.format(name="variable"))))
    found.append(next(iter(load_config().providers)))

    assert found == ["user", "folder", "variable"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param("nowhere.yaml", "nowhere.yaml: no such file: write one with `blueprint-llm init`", id="missing"),
        pytest.param(".", ".: Is a directory", id="folder"),
        pytest.param("a\0b", "a\0b: no file name", id="no name"),
    ],
)
def test_an_unreadable_file_is_one_clear_error(source, message, here):
    """A path that cannot be read is a ConfigError that names it."""
    with pytest.raises(ConfigError) as caught:
        load_config(source)

    assert str(caught.value) == message


def test_a_variable_that_names_no_file_is_an_error(here, monkeypatch):
    """A missing $BLUEPRINT_CONFIG is not silently replaced by another file."""
    monkeypatch.setenv("BLUEPRINT_CONFIG", "gone.yaml")

    with pytest.raises(ConfigError, match=r"gone\.yaml: no such file"):
        load_config()


def test_every_source_gives_the_same_configuration(tmp_path):
    """A path, text or object, and the mapping it holds load alike; a Config is returned as it is."""
    path = write(tmp_path / "a.yaml", MINIMAL.format(name="a"))
    mapping = {"blueprint": {"providers": {"a": {"model": "openai/gpt-4o"}}, "chains": {"default": ["a"]}}}
    config = load_config(path)

    assert load_config(str(path)).digest == load_config(mapping).digest == config.digest
    assert load_config(config) is config
    assert (config.source, load_config(mapping).source) == (str(path), None)


def test_python_shapes_are_taken():
    """Tuples, sets, paths and keys that are no text are welcome in a mapping."""
    raw = {"blueprint": {"providers": {1: {"model": "openai/x"}}, "chains": {"default": ("1",)}}}
    raw["blueprint"]["tools"] = {"workspace": PurePosixPath("/srv")}

    config = load_config(raw)

    assert (config.chains, config.tools.workspace) == ({"default": ["1"]}, "/srv")


def test_a_mapping_that_contains_itself_is_refused():
    """A cycle in a Python mapping is an error, not an endless walk."""
    raw = {"blueprint": {}}
    raw["blueprint"]["blueprint"] = raw

    with pytest.raises(ConfigError, match="contains itself"):
        load_config(raw)


def test_short_forms():
    """One name stands for a list of one, and a number for `more than` it."""
    raw = {
        "providers": {"a": {"model": "openai/x", "tasks": "review"}},
        "chains": {"default": "a"},
        "routes": [{"when": {"task_type": "lint", "input_tokens": 5}, "chain": "default"}],
    }

    config = load_config({"blueprint": raw})

    assert (config.chains["default"], config.providers["a"].tasks) == (["a"], ["review"])
    assert config.routes[0].when.input_tokens.gt == 5
    assert config.routes[0].chain == ["default"]


def test_unknown_keys_of_a_provider_go_to_litellm():
    """What a provider sets beside our keys is kept for the call."""
    config = load_config({"blueprint": {"providers": {"a": {"model": "openai/x", "temperature": 0.5}}}})

    assert config.providers["a"].model_extra == {"temperature": 0.5}


@pytest.mark.parametrize("model", ["openai/gpt-4o", "gpt-4o", "ft:gpt-4o:acme", "embedded:/w/m.gguf", "group", "alias"])
def test_what_a_provider_may_name(model):
    """A model is a LiteLLM id, a bare id LiteLLM knows, a file, a group or an alias of one."""
    raw = {
        "model_list": [{"model_name": "group", "litellm_params": {"model": "openai/x"}}],
        "router_settings": {"model_group_alias": {"alias": "group"}},
        "blueprint": {"providers": {"a": {"model": model}}},
    }

    assert load_config(raw).providers["a"].model == model


def test_a_custom_provider_takes_any_model():
    """With `custom_llm_provider` the model needs no provider in its name."""
    provider = {"model": "my-deployment", "custom_llm_provider": "azure"}

    assert load_config({"blueprint": {"providers": {"a": provider}}}).notices == []


def test_an_unset_variable_is_no_mistake():
    """`os.environ/NAME` stays as written: it is resolved when a call needs it."""
    params = {"model": "openai/x", "api_key": "os.environ/NOT_SET_ANYWHERE"}

    config = load_config({"model_list": [{"model_name": "a", "litellm_params": params}]})

    assert config.model_groups["a"][0].params["api_key"] == "os.environ/NOT_SET_ANYWHERE"


def test_dates_stay_text(tmp_path):
    """`api_version: 2024-10-21` is the text that was written, not a date."""
    text = "model_list:\n  - {model_name: a, litellm_params: {model: azure/x, api_version: 2024-10-21}}\n"

    config = load_config(write(tmp_path / "a.yaml", text))

    assert config.model_groups["a"][0].params["api_version"] == "2024-10-21"


def test_includes_are_joined(tmp_path):
    """Lists of included files are appended, the rest is replaced, each file counts once, also in a circle."""
    entry = "model_list:\n  - {{model_name: {0}, litellm_params: {{model: openai/x}}}}\n"
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub" / "b.yaml", "include: [c.yaml, ../a.yaml, b.yaml]\n" + entry.format("b"))
    write(tmp_path / "c.yaml", entry.format("c") + "router_settings: {num_retries: 7}\n")
    main = write(tmp_path / "a.yaml", "include: [sub/b.yaml, c.yaml]\nrouter_settings: {}\n" + entry.format("a"))

    config = load_config(main)

    assert list(config.model_groups) == ["a", "b", "c"]
    assert config.num_retries == 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("router_settings: {fallbacks: x}\n", "part.yaml:1:30: router_settings.fallbacks", id="wrong"),
        pytest.param("a: [\n", "part.yaml:2:1: this is not YAML", id="no YAML"),
        pytest.param("- 1\n", "main.yaml:1:11: include: part.yaml is not a mapping of settings", id="list"),
    ],
)
def test_mistakes_in_included_files_have_their_own_place(text, expected, tmp_path):
    """A problem names the file it stands in, not the one that includes it."""
    write(tmp_path / "part.yaml", text)
    main = write(tmp_path / "main.yaml", "include: [part.yaml]\n")

    with pytest.raises(ConfigError) as caught:
        load_config(main)

    assert expected in str(caught.value)


def test_merged_values_have_the_place_of_their_anchor(tmp_path):
    """A mistake that came in by `<<` is shown where it is written."""
    text = "x: &x\n  max_attempts: 0\nblueprint:\n  retry: {<<: *x}\n"

    with pytest.raises(ConfigError, match=r":2:17: blueprint\.retry\.max_attempts"):
        load_config(write(tmp_path / "a.yaml", text))


def test_the_digest_follows_meaning_not_secrets():
    """Equal settings have one digest whatever the key is; any other change makes a new one."""

    def digest(**provider):
        return load_config({"blueprint": {"providers": {"a": {"model": "openai/x", **provider}}}}).digest

    assert digest(api_key=SECRET) == digest(api_key="another")
    assert digest(api_key="os.environ/A") != digest(api_key="os.environ/B")
    assert len({digest(), digest(api_key=SECRET), digest(temperature=1), digest(max_context_tokens=5)}) == 4
    assert len(digest()) == 64


def test_defaults_written_out_change_no_digest():
    """Writing down a default is no change of policy."""
    written, absent = ({"blueprint": {"retry": retry}} for retry in ({"cap_s": 8}, {}))

    assert load_config(written).digest == load_config(absent).digest


def full_of_secrets(secret):
    """A configuration with a secret at every place that takes one."""
    return {
        "model_list": [
            {
                "model_name": "a",
                "litellm_params": {
                    "model": "openai/x",
                    "api_key": secret,
                    "extra_headers": {"Authorization": secret, "x-api-key": secret},
                    "aws_secret_access_key": secret,
                    "vertex_credentials": {"private_key": secret},
                },
            }
        ],
        "router_settings": {"redis_password": secret, "cache_kwargs": {"password": secret}},
        "litellm_settings": {"cache_params": {"password": secret}},
        "general_settings": {"master_key": secret},
        "environment_variables": {"OPENAI_API_KEY": secret},
        "credential_list": [{"credential_name": "c", "credential_values": {"api_key": secret, "x": secret}}],
        "blueprint": {
            "providers": {"p": {"model": "openai/x", "api_key": secret, "client_secret": secret}},
            "store": {"url": f"redis://user:{secret}@127.0.0.1/0"},
            "tools": {"mcp_servers": {"m": {"command": ["x"], "env": {"GITHUB_TOKEN": secret}}}},
        },
    }


@pytest.mark.parametrize("secret", [SECRET, ODD_SECRET])
def test_a_configuration_shows_no_secret(secret):
    """Neither the text of a Config and its parts nor its notices hold a key, nor what they hold; it opens on demand."""
    raw, sinks = full_of_secrets(secret), Sinks()
    config = load_config(raw)
    del raw["credential_list"][0]["credential_values"]["x"]  # its name tells nothing: masked in texts, held as written

    shown = [repr(config), str(config), str(config.providers), repr(config.model_groups), *config.notices]
    sinks.take(load_config(raw))

    assert secret not in "".join(shown)
    assert sinks.hits(secret) == []
    assert config.model_groups["a"][0].params["api_key"].reveal() == secret
    assert config.providers["p"].api_key.reveal() == secret
    assert config.store.url.reveal() == f"redis://user:{secret}@127.0.0.1/0"


def test_a_name_that_the_user_chose_tells_nothing():
    """Chains, groups, aliases and metadata may be called like a key: what stands under them is none."""
    fallback = {"model": "house-auth", "api_key": SECRET}
    config = load_config(
        {
            "model_list": [{"model_name": "house-auth", "litellm_params": {"model": "openai/x"}}],
            "router_settings": {
                "fallbacks": [{"house-auth": ["house-auth", fallback]}],
                "model_group_alias": {"key": "house-auth"},
            },
            "blueprint": {
                "chains": {"turnkey": ["house-auth"]},
                "routes": [{"when": {"metadata": {"team_key": "red"}}, "chain": ["turnkey"]}],
            },
        }
    )

    assert config.chains == {"turnkey": ["house-auth"]}
    assert redact("asked house-auth") == "asked house-auth"
    assert config.routes[0].when.metadata == {"team_key": "red"}
    assert config.model_group_alias == {"key": "house-auth"}
    assert config.fallbacks == [{"house-auth": ["house-auth", {"model": "house-auth", "api_key": Secret(SECRET)}]}]


@pytest.mark.parametrize("secret", [SECRET, ODD_SECRET])
@pytest.mark.parametrize("as_file", [True, False], ids=["file", "mapping"])
def test_an_error_shows_no_secret(secret, as_file, tmp_path):
    """Message, problems, cause, context and the locals of its frames hold no key of a broken configuration."""
    raw = full_of_secrets(secret)
    raw["blueprint"]["retry"] = {"max_attempts": 0}
    raw["blueprint"]["providers"]["p"]["api_key"] = [secret]

    try:
        load_config(write(tmp_path / "a.yaml", json.dumps(raw)) if as_file else raw)
    except ConfigError as error:
        caught = error
    report = "".join(traceback.TracebackException.from_exception(caught, capture_locals=True).format())
    ours = report.split("in load_config", 1)[1]

    assert len(caught.problems) == 2
    assert secret not in str(caught) + repr(caught) + "".join(caught.problems) + ours
    assert caught.__context__ is None


def test_of_two_merged_values_the_first_counts(tmp_path):
    """YAML's merge: a key of one's own wins, then the earlier of several sources."""
    text = "a: &a {cap_s: 1, base_s: 1}\nb: &b {cap_s: 2, ratio: 0.5}\nblueprint: {retry: {<<: [*a, *b], base_s: 3}}\n"

    retry = load_config(write(tmp_path / "a.yaml", text)).retry

    assert (retry.cap_s, retry.base_s, retry.ratio) == (1, 3, 0.5)


def test_prices_are_no_secrets():
    """A cost per token, written as text, still counts in the digest."""

    def digest(cost):
        params = {"model": "openai/x", "input_cost_per_token": cost}
        return load_config({"model_list": [{"model_name": "a", "litellm_params": params}]}).digest

    assert digest("1e-6") != digest("2e-6")


def test_a_config_is_frozen():
    """Reloading makes a new object; nobody changes the one that calls in flight hold."""
    config = load_config({})

    with pytest.raises(ValueError, match="frozen"):
        config.num_retries = 9
    assert isinstance(config, Config)
    assert Path(TEMPLATE).is_file()


def test_extension_keys_are_no_doubt(tmp_path):
    """Top-level keys that begin with `x-` are room for anchors, also under `strict`."""
    text = "x-defaults: &d {temperature: 0}\nblueprint:\n  strict: true\n  providers: {a: {<<: *d, model: openai/x}}\n"

    assert load_config(write(tmp_path / "a.yaml", text)).notices == []


def test_one_variable_moves_every_folder(here, monkeypatch):
    """BLUEPRINT_HOME replaces the XDG folders; a folder is made for its owner alone."""
    before = folder("config")
    monkeypatch.setenv("BLUEPRINT_HOME", str(here / "home"))

    assert before == here / "xdg" / "blueprint"
    assert folder("state") == here / "home" / "state"
    assert make_folder("state").stat().st_mode & 0o777 == 0o700


def test_folders_default_to_the_home(here, monkeypatch):
    """Without any variable the folders are the XDG defaults."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    assert folder("cache") == Path.home() / ".cache" / "blueprint"


def test_secrets_in_the_file_are_masked_from_then_on():
    """What stands under a telling name is registered as it is loaded; names of variables and plain settings are not."""
    params = {"model": "openai/gpt-4o", "api_base": "http://127.0.0.1:9/v1", "api_key": "inline-key-0001"}
    params["extra_headers"] = {"X-Auth": "header-value-0002", "X-Trace": "plain-value-0003"}
    server = {"command": ["server"], "env": {"GITHUB_TOKEN": "token-value-0004", "MODE": "plain-value-0005"}}
    load_config(
        {
            "model_list": [{"model_name": "m", "litellm_params": params}],
            "credential_list": [
                {"credential_name": "shared-0006", "credential_values": {"api_key": "listed-key-0007"}}
            ],
            "blueprint": {
                "providers": {"p": {"model": "m"}, "q": {"model": "openai/x", "api_key": "os.environ/SOME_NAME"}},
                "store": {"url": "redis://user:store-password-0008@127.0.0.1:9/0"},
                "tools": {"mcp_servers": {"s": server}},
            },
        }
    )

    kept = "127.0.0.1:9 plain-value-0003 plain-value-0005 shared-0006 os.environ/SOME_NAME"
    assert redact(kept) == kept
    for secret in (
        "inline-key-0001",
        "header-value-0002",
        "token-value-0004",
        "listed-key-0007",
        "store-password-0008",
    ):
        assert redact(f"a {secret} b") == "a [redacted] b"


@pytest.mark.parametrize(
    "url",
    [
        *("sqlite", "sqlite:", "sqlite:here.sqlite", "sqlite:///a/b:c.sqlite", "sqlite:C:/a@b:c.db", "memory"),
        *(
            "redis://host",
            "redis://host:1/0",
            "rediss://me:p@ss/w@host:1/0",
            "redis://[::1]:6379",
            "unix:///run/r:x.sock",
        ),
    ],
)
def test_every_kind_of_store_is_taken(url):
    """A colon in a path is no port, nor is one in a password."""
    assert revealed(load_config({"blueprint": {"store": {"url": url}}}).store.url) == url
