"""What a file takes from the environment and is not there is never the default."""

import copy
import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from driving import KEY, MESSAGES, AsyncCaller, SyncCaller

from blueprint_llm import Router, SyncLLMClient, completion
from blueprint_llm.adapters import litellm as _litellm
from blueprint_llm.adapters.contract import Call
from blueprint_llm.cli import main
from blueprint_llm.config import load_config
from blueprint_llm.config.document import Reference
from blueprint_llm.config.environment import closed, unset
from blueprint_llm.credentials import Credential, CredentialsManager
from blueprint_llm.errors import BlueprintError, CredentialsError
from blueprint_llm.testing import Answer, FaultServer

UNSET = "os.environ/THEIR_ADDRESS"
SAID = "the environment variable THEIR_ADDRESS is not set"


def provider(**params):
    """A provider `p` alone."""
    block = {"providers": {"p": {"model": "openai/gpt-4o", **params}}, "chains": {"default": ["p"]}}
    return {"blueprint": {**block, "retry": {"max_attempts": 1}}}


def group(**params):
    """A group as the only target."""
    entry = {"model_name": "p", "litellm_params": {"model": "openai/gpt-4o", **params}}
    return {"model_list": [entry], "blueprint": {"chains": {"default": ["p"]}, "retry": {"max_attempts": 1}}}


def listed():
    """A group whose address stands in `credential_list`."""
    values = {"api_base": UNSET, "api_key": KEY}
    found = {"credential_list": [{"credential_name": "c", "credential_values": values}]}
    return {**group(litellm_credential_name="c"), **found}


def over_a_group():
    """A provider that replaces its group's address."""
    raw = group(api_base="http://127.0.0.1:9/v1", api_key=KEY)
    raw["blueprint"]["providers"] = {"q": {"model": "p", "api_base": UNSET}}
    raw["blueprint"]["chains"] = {"default": ["q"]}
    return raw


CLOSED = {
    "provider": lambda: provider(api_base=UNSET, api_key=KEY),
    "base_url": lambda: provider(base_url=UNSET, api_key=KEY),
    "group": lambda: group(api_base=UNSET, api_key=KEY),
    "credential_list": listed,
    "provider over a group": over_a_group,
    "whose API it is": lambda: group(custom_llm_provider=UNSET, api_key=KEY),
    "model": lambda: group(model=UNSET, api_key=KEY),
    "no key": lambda: provider(api_base=UNSET),
}


@pytest.fixture
def written(tmp_path):
    """Write a configuration; its path."""

    def write(raw):
        path = tmp_path / "b.yaml"
        path.write_text(yaml.safe_dump(raw, sort_keys=False))
        return path

    return write


def line_of(path, text=UNSET):
    """The place of a text in a file, as it is told."""
    number, line = next((n, line) for n, line in enumerate(path.read_text().splitlines(), 1) if text in line)
    return f"{path}:{number}:{line.index(text) + 1}"


@pytest.mark.parametrize("ask", ["chat", "stream"])
@pytest.mark.parametrize("caller", [SyncCaller(), AsyncCaller()], ids=["sync", "async"])
@pytest.mark.parametrize("case", CLOSED)
def test_an_address_that_is_not_set_is_no_request(written, monkeypatch, litellm_warm, case, caller, ask):
    """One error with file, line and variable; nothing goes to the vendor (to look up its host would fail the test)."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    path = written(CLOSED[case]())

    heard = getattr(caller, ask)(str(path))

    assert f"{line_of(path)}: " in str(heard.error)
    assert SAID in str(heard.error)
    assert heard.response is None


@pytest.mark.parametrize("case", CLOSED)
def test_a_second_target_answers_and_explain_says_why(written, case):
    """A closed target is passed over; the decision names the place and the variable."""
    with FaultServer(default=Answer("from the second")) as server:
        raw = CLOSED[case]()
        block = raw["blueprint"]
        second = {"model": "openai/gpt-4o", "api_base": server.url, "api_key": KEY}
        block["providers"] = {**block.get("providers", {}), "second": second}
        block["chains"]["default"] += ["second"]
        path = written(raw)
        with SyncLLMClient(path) as client:
            decision = client.explain(messages=MESSAGES)
            response = client.chat(messages=MESSAGES)

    (first,) = [each for each in decision.considered if each.provider != "second"]
    assert first.verdict == "skipped"
    assert f"{line_of(path)}: " in first.reason
    assert SAID in first.reason
    assert (response.content, response.provider) == ("from the second", "second")


@pytest.mark.parametrize("name", ["api_base", "base_url"])
def test_a_router_asks_nobody_in_its_place(name, monkeypatch, litellm_warm):
    """A program's own Router: one error that names the variable, or the deployment beside it."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def router(**deployments):
        listed = [
            {"model_name": group, "litellm_params": {"model": "openai/gpt-4o", "api_key": KEY, **own}}
            for group, own in deployments.items()
        ]
        fallbacks = [{"g": [*deployments][1:]}]
        return Router(model_list=listed, num_retries=0, fallbacks=fallbacks, blueprint={"store": {"url": "memory"}})

    with FaultServer(default=Answer("from the second")) as server:
        with pytest.raises(CredentialsError, match=f"'g' cannot be called: {SAID}"):
            router(g={name: UNSET}).completion(model="g", messages=MESSAGES)
        answer = router(g={name: UNSET}, second={"api_base": server.url}).completion(model="g", messages=MESSAGES)

    assert answer.choices[0].message.content == "from the second"


def test_the_drop_in_asks_nobody_in_its_place(written, monkeypatch, litellm_warm):
    """Neither for a provider of the configuration nor for an address among a call's keywords."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("BLUEPRINT_CONFIG", str(written(provider(api_base=UNSET, api_key=KEY))))

    for own in ({}, {"api_base": UNSET}):
        with pytest.raises(CredentialsError, match=SAID):
            completion(model="openai/gpt-4o", messages=MESSAGES, max_retries=0, **own)


def test_what_is_set_later_counts_from_then_on(written, monkeypatch):
    """The environment is asked at every call."""
    with FaultServer(default=Answer("here")) as server, SyncLLMClient(written(CLOSED["provider"]())) as client:
        with pytest.raises(BlueprintError, match=SAID):
            client.chat(messages=MESSAGES)
        monkeypatch.setenv("THEIR_ADDRESS", server.url)

        assert client.chat(messages=MESSAGES).content == "here"


def test_an_empty_variable_is_not_set(monkeypatch):
    """`THEIR_ADDRESS=` would be the default as well."""
    monkeypatch.setenv("THEIR_ADDRESS", "")

    with pytest.raises(CredentialsError, match=SAID):
        CredentialsManager(load_config(CLOSED["provider"]())).get("p")


@pytest.mark.parametrize(
    "case", ["provider", "base_url", "group", "credential_list", "provider over a group", "no key"]
)
def test_no_answer_of_the_vendor_is_taken_from_the_cache(case, monkeypatch):
    """What stands for the address in the cache's keys is not the vendor's either, nor the environment's."""
    monkeypatch.setenv("OPENAI_BASE_URL", "https://gateway.example/v1")
    manager = CredentialsManager(load_config(CLOSED[case]()))

    assert manager.account("q" if case == "provider over a group" else "p")[1] == UNSET


@pytest.mark.parametrize("case", CLOSED)
def test_check_and_keys_check_say_it(written, case):
    """Both name file, line and variable, with exit code 1."""
    path = written(CLOSED[case]())

    checked = CliRunner().invoke(main, ["check", "--config", str(path)], catch_exceptions=False)
    keys = CliRunner().invoke(main, ["keys", "check", "--config", str(path)], catch_exceptions=False)

    (line,) = [line for line in checked.stdout.splitlines() if SAID in line]
    assert line.startswith(f"{line_of(path)}: ")
    both = "2 problems" if case == "model" else "1 problem"  # LiteLLM's Router declines a model of no provider, too
    assert (checked.exit_code, checked.stdout.splitlines()[-1]) == (1, both)
    assert keys.exit_code == 1
    assert f"{line_of(path)}: " in keys.stdout


def test_a_key_that_is_not_set_is_a_notice(written):
    """A file may be checked where its keys are not: each variable is named once, with its place."""
    raw = provider(api_key="os.environ/THEIR_KEY", extra_headers={"X": "os.environ/THEIR_HEADER"})
    raw["model_list"] = group(api_key="os.environ/THEIR_KEY", api_base="http://127.0.0.1:9")["model_list"]
    path = written(raw)

    done = CliRunner().invoke(main, ["check", "--json", "--config", str(path)], catch_exceptions=False)

    verdict = json.loads(done.stdout)
    assert (verdict["ok"], verdict["problems"]) == (True, [])
    assert sorted(notice.rpartition(": ")[2].split()[3] for notice in verdict["notices"]) == [
        *("THEIR_HEADER", "THEIR_KEY", "THEIR_KEY"),
    ]
    assert all(notice.startswith(f"{path}:") for notice in verdict["notices"])


def test_a_mapping_has_key_paths_for_places():
    """Where there is no file, the path of the key says where."""
    (target,) = load_config(group(api_base=UNSET)).targets()

    assert closed(target, {}) == f"model_list[0].litellm_params.api_base: {SAID}"


@pytest.mark.parametrize(
    ("params", "environ", "expected"),
    [
        pytest.param({"model": "openai/x"}, {}, None, id="nothing borrowed"),
        pytest.param({"api_base": UNSET}, {"THEIR_ADDRESS": "http://x"}, None, id="set"),
        pytest.param({"api_base": UNSET}, {"THEIR_ADDRESS": ""}, SAID, id="empty"),
        pytest.param({"api_base": UNSET}, {}, SAID, id="unset"),
        pytest.param({"api_key": UNSET}, {}, None, id="a key has other sources"),
        pytest.param({"aws_bedrock_runtime_endpoint": UNSET}, {}, SAID, id="an endpoint"),
        pytest.param({"model": UNSET}, {"THEIR_ADDRESS": "late"}, SAID, id="a model is read when it is loaded"),
    ],
)
def test_what_closes_a_target(params, environ, expected):
    """A pure decision over a target's parameters and an environment."""
    assert closed(params, environ) == expected


def test_a_reference_is_the_text_that_was_written():
    """It compares, hashes and serialises as the text, and says where it stands."""
    reference = Reference.at(UNSET, yaml.Mark("b.yaml", 0, 0, 1, None, None), ("key",))

    assert reference == UNSET
    assert hash(reference) == hash(UNSET)
    assert (copy.copy(reference), type(copy.copy(reference))) == (UNSET, str)
    assert json.dumps([reference]) == f'["{UNSET}"]'
    assert unset({"a": [{"b": reference}]}, {}) == [f"b.yaml:1:2: key: {SAID}"]


@pytest.mark.parametrize(
    ("address", "sent"),
    [
        pytest.param("http://127.0.0.1:9/v1", "none", id="loopback"),
        pytest.param("http://localhost:9/v1", "none", id="localhost"),
        pytest.param("http://10.0.0.7:8000/v1", None, id="the local network"),
        pytest.param("https://api.example.com/v1", None, id="elsewhere"),
    ],
)
def test_no_key_is_told_to_this_machine_only(address, sent):
    """`Bearer none` goes to loopback alone."""
    credential = Credential(base_url=address, provider="p")
    call = Call(provider="p", model="hosted_vllm/x", messages=[], credential=credential)

    assert _litellm._keywords(call).get("api_key") == sent


def test_every_problem_and_every_notice_in_one_run(tmp_path, monkeypatch):
    """A misspelt key, an ignored section and a missing price file are all named, beside an unknown store key."""
    monkeypatch.chdir(tmp_path)
    text = """\
    general_settings: {master_key: x}
    model_list:
      - {model_name: g, litellm_params: {model: openai/gpt-4o, api_key: os.environ/THEIR_KEY, api_bse: x}}
    blueprint:
      retry: {max_atempts: 3}
      pricing: {files: [gone.yaml]}
      cache: {ttl_s: fast, enabled: true}
      tools: {rules: [{alow: command}]}
    """
    Path("b.yaml").write_text("\n".join(line[4:] for line in text.splitlines()))

    done = CliRunner().invoke(main, ["check", "--json", "--config", "b.yaml"], catch_exceptions=False)

    verdict = json.loads(done.stdout)
    problems, notices = "\n".join(verdict["problems"]), "\n".join(verdict["notices"])
    assert "unknown key 'max_atempts', did you mean 'max_attempts'?" in problems
    assert "blueprint.cache.ttl_s: must be a number, not 'fast'" in problems
    assert "gone.yaml: " in problems
    assert "blueprint.tools.rules[0].alow: unknown key 'alow'" in problems
    assert len(verdict["problems"]) == 4
    assert "general_settings" in notices
    assert "unknown key 'api_bse', did you mean 'api_base'?" in notices
    assert "THEIR_KEY is not set" in notices
    assert len(verdict["notices"]) == 3
