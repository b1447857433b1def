"""The ten likeliest mistakes: the first message says what happened, where, and one next step."""

import json

import pytest
from click.testing import CliRunner
from driving import KEY

from blueprint_llm.cli import main
from blueprint_llm.testing import FaultServer, Status

NOWHERE = "http://127.0.0.1:9"
SPENT = {"message": "You exceeded your current quota.", "type": "insufficient_quota", "code": "insufficient_quota"}


@pytest.fixture
def ask(tmp_path, litellm_warm, monkeypatch):
    """Run a command under a configuration; what it says on standard error, which must be all."""
    monkeypatch.setattr(litellm_warm, "suppress_debug_info", False)
    path = tmp_path / "b.yaml"

    def run(*words, url=NOWHERE, **block):
        known = {"p": {"model": "openai/gpt-4o", "api_base": url, "api_key": KEY}}
        blueprint = {"providers": known, "retry": {"max_attempts": 1}, **block}
        path.write_text(json.dumps({"blueprint": blueprint}))
        done = CliRunner().invoke(main, [*words, "--config", str(path)])
        assert (done.exit_code, done.stdout) == (1, "")
        return done.stderr

    return run


NO_KEY = {"q": {"model": "anthropic/claude-opus-4-5"}}
BUDGET = [{"scope": "project", "limit_usd": 0.0001, "window": "month"}]
QUOTA = [{"scope": "project", "tokens": 5, "window": "60s"}]


@pytest.mark.parametrize(
    ("words", "block", "says"),
    [
        pytest.param(["chat", "hi"], {"provders": {}}, ["b.yaml:", "did you mean 'providers'?"], id="a typo"),
        pytest.param(
            ["chat", "hi"],
            {"providers": NO_KEY},
            ["q (anthropic/claude-opus-4-5)", "set ANTHROPIC_API_KEY or run blueprint-llm keys set q"],
            id="no key",
        ),
        pytest.param(["chat", "hi", "-m", "gpt-4oo"], {}, ["no model 'gpt-4oo'", "did you mean 'gpt-4o'?"], id="model"),
        pytest.param(["chat", "hi", "-p", "pp"], {}, ["unknown provider 'pp'"], id="provider"),
        pytest.param(
            ["chat", "hi"],
            {"providers": {"p": {"model": "openai/gpt-4o", "api_base": "me:secret@localhost:8000/v1", "api_key": KEY}}},
            ["cannot reach localhost:8000/v1, which is no address like https://", "check the address"],
            id="an address without a scheme",
        ),
        pytest.param(["chat", "hi"], {"providers": {}}, ["no provider is configured: put one under"], id="nobody"),
        pytest.param(["chat", "hi"], {}, [f"cannot reach {NOWHERE}", "check the address"], id="no network"),
        pytest.param(
            ["chat", "hi"],
            {"budgets": BUDGET},
            ["budget of project", "this call reserves up to 0.0", "0.000100 is left", "lower its max_tokens or raise"],
            id="a budget",
        ),
        pytest.param(
            ["chat", "hi"],
            {"quotas": QUOTA},
            ["quota of project", "this call reserves up to ", "5 are left", "lower its max_tokens or raise the quota"],
            id="a quota",
        ),
        pytest.param(
            ["chat", "hi"],
            {"providers": {"l": {"model": "embedded/smollm2"}}},
            ["blueprint-llm local pull"],
            id="weights",
        ),
    ],
)
def test_before_anything_is_sent(ask, words, block, says):
    """What, where, and the step that mends it, in what is said first."""
    told = ask(*words, **block)

    assert [part for part in says if part not in told] == []
    assert "Traceback" not in told
    assert "me:secret" not in told


@pytest.mark.parametrize(
    ("answer", "says", "not_said"),
    [
        pytest.param(Status(401, "no"), ["HTTP 401", "replace it there", "keys set p"], "top it up", id="401"),
        pytest.param(
            Status(404, "The model `x` does not exist"), ["HTTP 404", "blueprint-llm models"], "key", id="404"
        ),
        pytest.param(
            Status(429, "Rate limit reached"), ["HTTP 429", "too many requests for now"], "top it up", id="429"
        ),
        pytest.param(
            Status(429, json.dumps({"error": SPENT})),
            ["HTTP 429", "no quota or credit left", "top it up"],
            "too many requests",
            id="an empty account",
        ),
    ],
)
def test_what_a_provider_refuses(ask, answer, says, not_said):
    """The status, the provider's words and the step; 429 for now and an empty account are told apart."""
    with FaultServer(default=answer) as server:
        told = ask("chat", "hi", url=server.url)

    assert [part for part in says if part not in told] == []
    assert "p (openai/gpt-4o)" in told
    assert not_said not in told
