"""Whatever stands in a configuration file, loading it gives a Config or one ConfigError, soon."""

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from blueprint_llm.config import Config, load_config
from blueprint_llm.errors import ConfigError

BUDGET = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
KEYS = st.sampled_from(
    [
        *("blueprint", "model_list", "router_settings", "litellm_settings", "credential_list", "providers", "chains"),
        *("default", "routes", "when", "chain", "budgets", "quotas", "scope", "model", "retry", "max_attempts"),
        *("fallbacks", "default_fallbacks", "model_group_alias", "num_retries", "cooldown_time", "routing_strategy"),
        *("model_name", "litellm_params", "model_info", "planning", "provider", "tools", "rules", "strict", "include"),
        *("input_tokens", "task_type", "organization", "rpm", "weight", "custom_provider_map", "id", "a", "b", "*"),
    ]
)
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), KEYS, st.dates(), st.binary(max_size=3)
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=25
)
FILES = st.dictionaries(KEYS, TREES, max_size=5)
PIECES = st.sampled_from(
    [
        *"[]{}:,-?&*!|>'\"%@`#<\n\t ",
        *("\n  ", "\n- ", ": ", "&a ", "*a", "<<: ", "!!int ", "!!map ", "!!binary ", "!x ", "a", "1", "blueprint"),
        *("chains", "model_list", "---\n", "2024-13-45", "0b_", "...\n", "=", "~", ".inf", "\x00", "\x85", "é"),
    ]
)
DOUBLED = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
MERGED = "a0: &a0 {k: v}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60))
CHAINED = "{a: &a0 {}, " + "".join(f"b{n}: &a{n} {{<<: *a{n - 1}}}, " for n in range(1, 300)) + "<<: *a299}"


def outcome(source):
    """What loading gives: a Config or its ConfigError."""
    try:
        return load_config(source)
    except ConfigError as error:
        return error


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file to write each example to."""
    return tmp_path_factory.mktemp("text") / "blueprint.yaml"


@given(text=st.one_of(st.text(), st.lists(PIECES).map("".join)))
@example(text="blueprint: &b {chains: *b}")
@example(text="? &a {? *a : b} : c")
@example(text="{[a]: b, {c: d}: e}")
@example(text="blueprint: {!!int x: 1, <<: [1, {a: b}]}")
@example(text="&a {<<: *a, b: &b {<<: [*a, *b]}}")
@BUDGET
def test_any_text_is_a_config_or_a_config_error(text, file):
    """No text of any kind makes loading raise anything but ConfigError."""
    file.write_bytes(text.encode("utf-8", "surrogatepass"))

    assert isinstance(outcome(file), Config | ConfigError)


@given(data=st.binary(max_size=80))
@BUDGET
def test_any_bytes_are_a_config_or_a_config_error(data, file):
    """Nor do bytes that are no text."""
    file.write_bytes(data)

    assert isinstance(outcome(file), Config | ConfigError)


@pytest.mark.slow
@given(raw=FILES)
@BUDGET
def test_any_shape_is_judged_alike_as_file_and_as_mapping(raw, file):
    """Any values at the places of ours are judged, with the same problems from YAML as from Python."""
    from_python = outcome(raw)
    file.write_text(yaml.safe_dump(raw, allow_unicode=True), encoding="utf-8")
    from_file = outcome(file)

    assert isinstance(from_python, Config | ConfigError)
    assert isinstance(from_file, Config | ConfigError)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 200_000, id="open brackets"),
        pytest.param("[" * 50_000 + "]" * 50_000, id="nested lists"),
        pytest.param("{a: " * 50_000 + "}" * 50_000, id="nested mappings"),
        pytest.param("- " * 50_000, id="nested dashes"),
        pytest.param("a: " + "[" * 1_200 + "]" * 1_200, id="deep but composable"),
        pytest.param(DOUBLED, id="billion values"),
        pytest.param(MERGED, id="billion merges"),
        pytest.param(CHAINED, id="chain of merges"),
    ],
)
def test_hostile_text_ends_soon(text, file):
    """Depth and repetition that would crash a parser or fill the memory are refused or read, at once."""
    file.write_text(text)

    assert isinstance(outcome(file), Config | ConfigError)
