"""The commands `check`, `init` and `schema`."""

import json
import re
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from blueprint_llm.cli.config import check, init, schema, trust
from blueprint_llm.config import load_config

CASES = Path(__file__).parent / "config_cases"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a command in an empty folder."""
    for name in ("BLUEPRINT_CONFIG", "BLUEPRINT_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    return lambda command, *args: CliRunner().invoke(command, args, catch_exceptions=False)


@pytest.fixture
def broken():
    """A file with six mistakes."""
    return str(CASES / "broken" / "several_mistakes_at_once.yaml")


def test_init_writes_what_loads(run):
    """The written file loads without a notice, is what runs without any file, and names its schema."""
    result = run(init)
    config = load_config("blueprint.yaml")
    first = Path("blueprint.yaml").read_text().splitlines()[0]

    assert result.exit_code == 0
    assert (result.stdout, "wrote blueprint.yaml" in result.stderr) == ("", True)
    assert config.notices == []
    assert first == "# yaml-language-server: $schema=blueprint.schema.json"
    assert json.loads(Path("blueprint.schema.json").read_text())["title"] == "blueprint_llm configuration"


def test_init_does_not_overwrite(run):
    """A file that is there is left alone unless --force is given."""
    Path("mine.yaml").write_text("precious")

    refused = run(init, "mine.yaml")

    assert refused.exit_code == 1
    assert "mine.yaml is already there: use --force" in refused.output
    assert Path("mine.yaml").read_text() == "precious"
    assert run(init, "mine.yaml", "--force").exit_code == 0
    assert load_config("mine.yaml").chains


def test_init_in_a_missing_folder(run):
    """A path that cannot be written is one clear line."""
    result = run(init, "no/such/blueprint.yaml")

    assert (result.exit_code, result.output) == (1, "Error: no/such/blueprint.yaml: No such file or directory\n")


def test_everything_in_the_template_is_right(run, tmp_path):
    """Each commented example of the written file is valid when its comment signs are removed."""
    run(init)
    text = Path("blueprint.yaml").read_text()
    Path("all.yaml").write_text(re.sub(r"(?m)^( *)# ( *(?:- )?(?:\{|[a-z_]+:).*)$", r"\1\2", text))

    config = load_config("all.yaml")

    assert config.model_groups
    assert config.routes
    assert config.budgets
    assert config.cache.enabled


def test_check_of_a_good_file(run):
    """A file without mistakes is `ok` with exit code 0."""
    run(init)

    result = run(check)

    assert (result.exit_code, result.output) == (0, "ok: blueprint.yaml\n")


def test_check_without_a_file(run):
    """Without any file the built-in configuration is checked."""
    assert run(check).output == "ok: (built in)\n"


def test_check_lists_every_problem(run, broken):
    """A broken file gives every problem on stdout, their number, and exit code 1."""
    result = run(check, "--config", broken)

    assert result.exit_code == 1
    assert result.stdout.count(f"{broken}:") == 6
    assert result.stdout.endswith("6 problems\n")


DOUBTS = """\
model_list:
  - {model_name: a, litellm_params: {model: openai/gpt-4o, api_key: x, api_bse: http://127.0.0.1}, modelinfo: {}}
"""


def test_check_shows_notices(run):
    """Doubts and ignored keys are shown, and the file is still ok."""
    Path("doubts.yaml").write_text(DOUBTS)
    result = run(check, "--config", "doubts.yaml")

    assert result.exit_code == 0
    assert result.stdout.count("notice: ") == 2
    assert "did you mean 'api_base'?" in result.stdout


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("litellm/misspelt.yaml", ["3:31: router_settings.num_retrys: ", "unexpected keyword argument 'num_retrys'"]),
        ("declined/unknown_strategy.yaml", ["2:37: router_settings.routing_strategy: ", "latency-based"]),
        ("declined/entry_with_rate_in_words.yaml", ["2:5: model_list[0]: ", "rpm", "valid integer"]),
    ],
)
def test_check_says_what_litellms_router_declines(path, said, run):
    """What LiteLLM itself would not take is a problem in its words, with the place that it is about."""
    result = run(check, "--config", str(CASES / path))

    assert result.exit_code == 1
    place, *words = said
    (line,) = [line for line in result.stdout.splitlines() if "LiteLLM's Router declines this: " in line]
    assert line.startswith(f"{CASES / path}:{place}")
    assert all(word in result.stdout for word in words)


def test_check_knows_the_files_own_providers(run):
    """A provider that `custom_provider_map` adds is none that LiteLLM misses; its handler is not imported."""
    text = "model_list: [{model_name: a, litellm_params: {model: their-llm/one}}]\n"
    own = "litellm_settings: {custom_provider_map: [{provider: their-llm, custom_handler: no_such_module.handler}]}\n"
    Path("without.yaml").write_text(text)
    Path("with.yaml").write_text(text + own)

    assert "LLM Provider NOT provided" in run(check, "--config", "without.yaml").stdout
    assert run(check, "--config", "with.yaml").output == "ok: with.yaml\n"
    assert "LLM Provider NOT provided" in run(check, "--config", "without.yaml").stdout


def test_check_says_all_at_once(run):
    """Every deployment and setting that LiteLLM declines is named, beside our own problems and the right words."""
    path = CASES / "declined" / "several.yaml"

    verdict = json.loads(run(check, "--json", "--config", str(path)).stdout)

    declined = [line for line in verdict["problems"] if "LiteLLM's Router declines this: " in line]
    places = [line.removeprefix(f"{path}:").split(": ")[1] for line in declined]
    assert places == ["model_list[2]", "model_list[3]", "router_settings.cooldown_time", "router_settings.fallbackz"]
    others = "\n".join(line for line in verdict["problems"] if line not in declined)
    assert "model_list[1].litellm_params: must be a mapping with a model in it" in others
    assert "did you mean 'max_attempts'?" in others
    assert any("did you mean 'fallbacks'?" in notice for notice in verdict["notices"])


@pytest.mark.parametrize("ok", [True, False])
def test_check_as_json(ok, run, broken):
    """With --json the verdict is one object."""
    Path("doubts.yaml").write_text(DOUBTS)
    path = "doubts.yaml" if ok else broken
    result = run(check, "--json", "--config", path)
    verdict = json.loads(result.stdout)

    assert (verdict["ok"], result.exit_code, verdict["source"]) == (ok, 0 if ok else 1, path)
    assert (len(verdict["problems"]), len(verdict["notices"])) == ((0, 2) if ok else (6, 0))


IN_USE = """\
model_list:
  - {model_name: g, litellm_params: {model: openai/gpt-4o, max_budget: 5, budget_duration: fortnight}}
blueprint:
  pricing: {files: [gone.yaml]}
  tools:
    rules:
      - {allow: command, argv: [git]}
      - {alow: command}
      - {allow: command, argv: 5}
      - {allow: command, argv: [git, status], match: ["git push"]}
"""


def test_check_finds_what_a_client_would_trip_over(run):
    """Limits in LiteLLM's words, price files and tool rules are tried too, rules with their place and near misses."""
    Path("trusted.yaml").write_text(IN_USE)

    result = run(check, "--config", "trusted.yaml")
    lines = result.stdout.splitlines()

    assert result.exit_code == 1
    assert lines[:3] == [
        "trusted.yaml:8:10: blueprint.tools.rules[1].alow: unknown key 'alow', did you mean 'allow'?",
        "trusted.yaml:9:32: blueprint.tools.rules[2].argv: must be a list, not 5",
        "model_list deployment g.budget_duration: 'fortnight' is no duration: use 30s, 30m, 12h, 7d, 2w or 1mo",
    ]
    assert lines[3] == "trusted.yaml:4:20: blueprint.pricing.files: gone.yaml: No such file or directory"
    assert lines[4].startswith("trusted.yaml:7:7: blueprint.tools.rules: the example 'git push' must be decided by")
    assert lines[5:] == ["5 problems"]


UNUSABLE = """\
model_list:
  - {model_name: g, litellm_params: {model: openai/gpt-4o, api_base: os.environ/UNSET_BASE}, model_info: 3}
blueprint:
  providers:
    p: {modle: openai/gpt-4o, api_key: os.environ/UNSET_KEY}
"""


def test_check_reads_on_in_what_it_cannot_use(run):
    """An entry that is wrong for one reason is looked through for others."""
    Path("unusable.yaml").write_text(UNUSABLE)

    lines = run(check, "--config", "unusable.yaml").stdout.splitlines()

    assert [line.partition(": ")[2] for line in lines[:-1]] == [
        "model_list[0].model_info: must be a mapping, not 3",
        "blueprint.providers.p.model: is missing: 'modle' looks like it",
        "unusable.yaml:2:70: model_list[0].litellm_params.api_base: the environment variable UNSET_BASE is not set",
        "unusable.yaml:5:40: blueprint.providers.p.api_key: the environment variable UNSET_KEY is not set",
    ]
    assert lines[-1] == "2 problems"


def test_check_of_a_missing_file(run):
    """A file that is not there is a problem of its own."""
    result = run(check, "--config", "gone.yaml")

    assert (result.exit_code, result.output) == (
        1,
        "gone.yaml: no such file: write one with `blueprint-llm init`\n1 problem\n",
    )


def test_schema_is_a_schema(run):
    """The output is a valid JSON Schema, and the template and LiteLLM's configurations satisfy it."""
    printed = json.loads(run(schema).stdout)
    jsonschema.Draft202012Validator.check_schema(printed)
    validator = jsonschema.Draft202012Validator(printed)
    run(init)

    assert not list(validator.iter_errors(yaml.safe_load(Path("blueprint.yaml").read_text())))
    for path in sorted((CASES / "litellm").glob("*.yaml")):
        assert not list(validator.iter_errors(yaml.safe_load(path.read_text()))), path.name


@pytest.mark.parametrize(
    "block",
    [
        pytest.param({"chains": {"default": "a"}}, id="one name"),
        pytest.param({"routes": [{"when": {"input_tokens": 5, "task_type": "x"}, "chain": "a"}]}, id="short forms"),
        pytest.param({"tools": {"env": {"pass": ["PATH"]}}}, id="alias"),
    ],
)
def test_schema_takes_the_short_forms(block, run):
    """Editors do not underline what the loader accepts."""
    jsonschema.validate({"blueprint": block}, json.loads(run(schema).stdout))


@pytest.mark.parametrize(
    "block",
    [
        pytest.param({"chain": {}}, id="unknown key"),
        pytest.param({"retry": {"max_attempts": 0}}, id="out of range"),
        pytest.param({"budgets": [{"limit_usd": 1}]}, id="missing key"),
        pytest.param({"tools": {"rules": [5]}}, id="a number for a rule"),
    ],
)
def test_schema_refuses_mistakes(block, run):
    """Editors underline what the loader refuses."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"blueprint": block}, json.loads(run(schema).stdout))


@pytest.mark.parametrize("command", [check, init, schema], ids=["check", "init", "schema"])
def test_help_has_an_example(command, run):
    """Each help text ends with an example."""
    assert f"Example: blueprint-llm {command.name}" in run(command, "--help").output


def test_check_misses_the_redis_that_a_store_needs(run, monkeypatch):
    """A store in Redis without its client is told with the place, before the first call fails of it."""
    Path("blueprint.yaml").write_text("blueprint:\n  store: {url: 'redis://127.0.0.1:1/0'}\n")
    path = ("--config", "blueprint.yaml")
    installed = run(check, *path)
    monkeypatch.setitem(sys.modules, "redis", None)
    missing = run(check, *path)

    assert (installed.exit_code, missing.exit_code) == (0, 1)
    told = "blueprint.yaml:2:16: blueprint.store.url: Redis is not installed: pip install 'blueprint-llm[redis]'\n"
    assert missing.stdout == f"{told}1 problem\n"


FOUND = """\
blueprint:
  providers:
    it: {model: openai/gpt-4o, api_base: "http://foreign.example/v1", api_key: os.environ/AWS_SECRET_ACCESS_KEY}
  tools: {mode: whitelist}
"""


def test_as_much_is_said_as_trust_marks(run):
    """The line about a file that is not trusted counts what `trust` shows as new."""
    Path("blueprint.yaml").write_text(FOUND)

    said = run(check).stderr
    marked = [line.strip(" +") for line in run(trust, "--show").stdout.splitlines() if line.startswith("  +")]

    assert said.startswith(f"blueprint.yaml is not trusted: it {marked[0]} and {len(marked) - 1} more; ")
