"""LiteLLM's configurations load with what LiteLLM's own Router makes of them."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from blueprint_llm import LLMClient
from blueprint_llm.adapters.known import litellm_names
from blueprint_llm.adapters.litellm import revealed
from blueprint_llm.config import load_config
from blueprint_llm.config.load import inspect_config
from blueprint_llm.config.sections import PROXY_SETTINGS, all_providers
from blueprint_llm.errors import ConfigError

CASES = Path(__file__).parent / "config_cases"
OWN = sorted((CASES / "litellm").glob("*.yaml"))
WHEEL = sorted(Path(find_spec("litellm").origin).parent.rglob("*.y*ml"))
CORPUS = Path(__file__).parents[2] / "shared" / "corpora" / "litellm_configs"
NAMED = {"CASE_MODEL": "openai/gpt-4o", "CASE_RPM": "7", "CASE_KEY": "canary-of-a-case"}  # what the cases refer to
ORACLE = json.loads((CORPUS / "oracle.json").read_text()) if CORPUS.is_dir() else {}


def facts(config):
    """The same facts as `router_facts.py` prints."""
    deployments = [one for group in config.model_groups.values() for one in group]
    return {
        "content_policy": config.content_policy_fallbacks or None,
        "each": sorted(([one.group, one.model] for one in deployments), key=repr),
        "max_fallbacks": config.max_fallbacks,
        "retry_after": config.retry_after,
        "stream_timeout": config.stream_timeout,
        "alias": config.model_group_alias or None,
        "allowed_fails": config.allowed_fails,
        "cooldown": config.cooldown_time,
        "cwf": config.context_window_fallbacks or None,
        "deployments": len(deployments),
        "fallbacks": config.fallbacks or None,
        "groups": sorted(config.model_groups),
        "num_retries": config.num_retries,
        "strategy": config.routing_strategy,
    }


def same_facts(config, said):
    """Compare those of LiteLLM's facts that a configuration has fields for; the rest is handed on as written."""
    ours = facts(config)
    said = {
        key: sorted([each[:2] for each in value], key=repr) if key == "each" else value for key, value in said.items()
    }
    shared = ours.keys() & said.keys()
    assert {key: ours[key] for key in shared} == {key: said[key] for key in shared}
    return len(shared) >= 9


@pytest.fixture(autouse=True)
def _named(monkeypatch):
    for name, value in NAMED.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def litellm_says():
    """What the installed LiteLLM makes of our own cases and of the YAML files in its wheel."""
    done = subprocess.run(
        [sys.executable, CASES / "router_facts.py"],
        input="\n".join(map(str, OWN + WHEEL)),
        env={**os.environ, **NAMED, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_own_cases_load_like_litellm(path, litellm_says):
    """A configuration with LiteLLM's keys gives the same groups, fallbacks and numbers as its Router."""
    assert same_facts(load_config(path), litellm_says["files"][str(path)])


def test_every_yaml_in_the_wheel_loads_like_litellm(litellm_says):
    """Whatever YAML file of LiteLLM's own package its Router loads, loads here with the same facts."""
    loaded = {path: said for path, said in litellm_says["files"].items() if "error" not in said}

    differing = {path: said for path, said in loaded.items() if not same_facts(load_config(path), said)}

    assert len(loaded) > 60
    assert not differing


@pytest.mark.parametrize("name", sorted(name for name, said in ORACLE.items() if "error" not in said) or [None])
def test_the_documentation_loads_like_litellm(name):
    """Each configuration from LiteLLM's documentation gives the facts its Router reported."""
    if name is None:
        assert not CORPUS.exists()
    else:
        assert same_facts(load_config(CORPUS / name), ORACLE[name])


def test_the_documentation_is_there(capsys):
    """Without the corpus the run says so; the cases of this repository stand on their own."""
    if not ORACLE:
        with capsys.disabled():
            print(f"\nWARNING: {CORPUS} is absent, 353 configurations were not compared")

    assert OWN


def test_every_provider_of_litellm_is_known(litellm_says):
    """What the installed LiteLLM takes for a provider is never doubted: extend `UNLISTED` for a newer one."""
    assert not set(litellm_says["keys"]["providers"]) - all_providers()


def test_what_only_the_proxy_reads_is_litellms(litellm_warm):
    """A setting that is said to be the proxy's alone is none of the Router's."""
    assert not PROXY_SETTINGS & litellm_names().router


@pytest.mark.slow
@pytest.mark.skipif(not ORACLE, reason="the corpus of LiteLLM's configurations is not on this machine")
def test_no_key_of_the_documentation_is_taken_for_a_misspelt_one(litellm_warm):
    """Of all keys in LiteLLM's own documentation two are accused, rightly."""
    accused = [
        notice
        for name in ORACLE
        for notice in inspect_config(CORPUS / name, litellm=litellm_names).notices
        if "unknown key" in notice and ("model_list[" in notice or "_settings." in notice)
    ]

    assert [notice.split(": ")[-2].rpartition(".")[2] + notice.rpartition(",")[2] for notice in accused] == [
        "aws_secret_access_id did you mean 'aws_secret_access_key'?",
        "cache_params did you mean 'cache_kwargs'?",
    ]


def test_a_model_may_come_from_the_environment():
    """`model: os.environ/NAME` is read at load and not doubted; a name that is not set is."""
    path = CASES / "litellm" / "from_environment.yaml"
    lost = {"model_name": "a", "litellm_params": {"model": "os.environ/CASE_NOT_SET"}}

    assert load_config(path).model_groups["a"][0].model == "openai/gpt-4o"
    assert not load_config(path).notices
    assert any("model" in line for line in load_config({"model_list": [lost]}).notices)


@pytest.mark.parametrize("name", ["default_fallbacks", "wildcards", "aliases", "anchors", "bare_models", "limits"])
def test_what_is_right_is_not_doubted(name):
    """Generic fallbacks, wildcards, aliases, anchors and bare ids that LiteLLM knows give no notice."""
    assert load_config(CASES / "litellm" / f"{name}.yaml").notices == []


def test_sections_are_kept_as_written(tmp_path):
    """What LiteLLM is handed is what stands in the file, whatever its keys are; keys are Secrets until then."""
    raw = yaml.safe_load(EVERYTHING)
    (tmp_path / "c.yaml").write_text(EVERYTHING)

    config = load_config(tmp_path / "c.yaml")

    assert revealed(config.model_list) == raw["model_list"]
    assert revealed(config.credential_list) == raw["credential_list"]
    assert (config.router_settings, config.litellm_settings) == (raw["router_settings"], raw["litellm_settings"])


EVERYTHING = """\
model_list:
  - model_name: a
    litellm_params: {model: openai/gpt-4o, api_key: sk-canary-0123456789, rpm: os.environ/CASE_RPM, organization: [o]}
    model_info: {id: first, a_new_fact: [1, {b: c}]}
    rpm: 4
    a_new_key: x
router_settings: {num_retries: '3', a_new_setting: {deep: [1]}}
litellm_settings: {a_new_setting: [x], modify_params: true}
credential_list: [{credential_name: c, credential_values: {api_base: http://127.0.0.1:9, a_new_value: 1}}]
"""


@pytest.mark.parametrize(
    ("here", "loaded"),
    [
        pytest.param("staging", ["b"], id="for another environment"),
        pytest.param("production", ["a", "b"], id="for this environment"),
        pytest.param("", ["a", "b"], id="environment unknown"),
    ],
)
def test_supported_environments(here, loaded, monkeypatch):
    """A deployment for other environments is left out, as LiteLLM does."""
    monkeypatch.setenv("LITELLM_ENVIRONMENT", here)
    only = {"supported_environments": ["production"]}
    entries = [
        {"model_name": "a", "litellm_params": {"model": "openai/x"}, "model_info": only},
        {"model_name": "b", "litellm_params": {"model": "openai/x"}},
    ]

    assert list(load_config({"model_list": entries}).model_groups) == loaded


def test_litellm_settings_stand_behind_router_settings():
    """The Router's own setting wins; the module's is taken where the Router has none."""
    config = load_config(CASES / "litellm" / "settings_behind_router.yaml")

    assert (config.num_retries, config.allowed_fails, config.timeout) == (1, 9, 30)
    assert config.litellm_settings["drop_params"] is True


def test_what_has_no_field_is_kept_as_written():
    """Retry policies and the like stay in the sections, for LiteLLM's Router; timeouts are ours too."""
    config = load_config(CASES / "litellm" / "retry_policies.yaml")

    assert config.router_settings["retry_policy"] == {"RateLimitErrorRetries": 3}
    assert config.router_settings["model_group_retry_policy"] == {"a": {"TimeoutErrorRetries": 1}}
    assert (config.timeout, config.stream_timeout) == (12, 3)


def test_proxy_keys_are_reported_once():
    """Keys only LiteLLM's proxy uses are one notice that names them all and shows no value."""
    config = load_config(CASES / "litellm" / "proxy_only.yaml")

    assert config.notices == [
        "ignored, only LiteLLM's proxy uses it: general_settings, environment_variables, guardrails"
    ]


def test_doubts_are_notices_with_places(litellm_warm):
    """What LiteLLM has no name for is a notice with file, line and suggestion, once LiteLLM is asked."""
    path = CASES / "litellm" / "misspelt.yaml"

    assert load_config(path).notices == []
    assert inspect_config(path, litellm=litellm_names).notices == [
        f"{path}:2:72: model_list[0].litellm_params.api_bse: unknown key 'api_bse', did you mean 'api_base'?",
        f"{path}:2:100: model_list[0].modelinfo: unknown key 'modelinfo', did you mean 'model_info'?",
        f"{path}:3:19: router_settings.num_retrys: unknown key 'num_retrys', did you mean 'num_retries'?",
    ]


def test_loading_asks_litellm_only_where_it_is_strict():
    """LiteLLM takes seconds to load: its names count in a strict configuration, and in `check`."""
    asked = []
    raw = {"router_settings": {"num_retrys": 3}}
    strict = {**raw, "blueprint": {"strict": True}}

    def names():
        asked.append(1)
        return litellm_names()

    load_config(raw, litellm=names)
    assert asked == []
    with pytest.raises(ConfigError, match="did you mean 'num_retries'"):
        load_config(strict, litellm=names)
    with pytest.raises(ConfigError, match="did you mean 'num_retries'"):
        LLMClient(strict)


@pytest.mark.parametrize(
    ("settings", "notice"),
    [
        pytest.param({"num_retries": "many"}, "num_retries: should be a number of at least 0", id="number in words"),
        pytest.param({"num_retries": -1}, "num_retries: should be a number of at least 0", id="negative number"),
        pytest.param({"fallbacks": [{"a": "a"}]}, "reads this letter by letter", id="fallback as text"),
        pytest.param({"fallbacks": [{"a": 3}]}, "should be a list of groups", id="fallback as number"),
        pytest.param({"fallbacks": [{"a": [3]}]}, "should be the name of a group", id="number as group"),
        pytest.param({"default_fallbacks": {"a": 1}}, "should be a list of groups", id="default fallbacks as mapping"),
        pytest.param({"context_window_fallbacks": [{"a": ["a"], "b": ["a"]}]}, "exactly one group", id="two groups"),
        pytest.param({"model_group_alias": [1]}, "model_group_alias: should be a mapping", id="alias as list"),
    ],
)
def test_doubtful_router_settings(settings, notice):
    """Router settings that LiteLLM takes without a word load, with a notice that says what is doubtful."""
    group = {"model_name": "a", "litellm_params": {"model": "openai/gpt-4o"}}

    notices = load_config({"model_list": [group], "router_settings": settings}).notices

    assert any(notice in line for line in notices), notices


@pytest.mark.parametrize(
    ("key", "said"),
    [
        pytest.param("num_retrys", "did you mean 'num_retries'?", id="the Router's"),
        pytest.param("modify_param", "did you mean 'modify_params'?", id="the module's"),
        pytest.param("cache_param", "did you mean 'cache_params'?", id="the cache's"),
        pytest.param("default_team_setting", "did you mean 'default_team_settings'?", id="the proxy's"),
    ],
)
def test_misspelt_module_setting(key, said, litellm_warm):
    """A setting that LiteLLM's module, Router and proxy have no name for is doubted, with the right one."""
    notices = inspect_config({"litellm_settings": {key: 3, "callbacks": ["x"]}}, litellm=litellm_names).notices

    (line,) = [line for line in notices if "unknown key" in line]
    assert line.startswith(f"litellm_settings.{key}: unknown key {key!r}")
    assert said in line


def test_own_providers_of_the_proxy_are_known():
    """A provider that `custom_provider_map` adds is not doubted; an unknown one is."""
    entry = {"model_name": "a", "litellm_params": {"model": "my-llm/one"}}
    own = {"custom_provider_map": [{"provider": "my-llm", "custom_handler": "x.y"}]}

    known = load_config({"model_list": [entry], "litellm_settings": own})

    assert not any("knows no provider" in line for line in known.notices)
    assert "knows no provider 'my-llm'" in load_config({"model_list": [entry]}).notices[0]


def test_without_providers_groups_may_be_chained():
    """A file with nothing of ours but a chain names its groups, aliases and wildcards."""
    raw = {
        "model_list": [{"model_name": name, "litellm_params": {"model": "openai/x"}} for name in ("a", "openai/*")],
        "router_settings": {"model_group_alias": {"b": "a"}},
        "blueprint": {"chains": {"default": ["a", "b", "openai/gpt-4o"]}},
    }

    assert load_config(raw).chains == {"default": ["a", "b", "openai/gpt-4o"]}

    raw["blueprint"]["chains"]["default"].append("c")
    with pytest.raises(ConfigError, match="unknown provider 'c'"):
        load_config(raw)
