"""Every mistake in a configuration is found at once, named with its place, and answered with what is allowed."""

import json
from pathlib import Path

import pytest

from blueprint_llm.adapters.known import litellm_names
from blueprint_llm.config import load_config
from blueprint_llm.errors import ConfigError

FOLDER = Path(__file__).parent / "config_cases" / "broken"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_broken_configuration(name, monkeypatch):
    """A broken file is refused with exactly the expected lines, in the order of the file."""
    monkeypatch.chdir(FOLDER)

    with pytest.raises(ConfigError) as caught:
        load_config(f"{name}.yaml", litellm=litellm_names)

    assert list(caught.value.problems) == EXPECTED[name]
    assert str(caught.value) == "\n".join(EXPECTED[name])


def test_the_corpus_is_large_enough():
    """At least forty different mistakes are covered, and none is expected twice."""
    texts = [line.split(": ", 1)[1] for lines in EXPECTED.values() for line in lines]

    assert len(EXPECTED) >= 40
    assert set(EXPECTED) == {path.stem for path in FOLDER.glob("*.yaml")}
    assert len(set(texts)) > 80


def test_a_mapping_has_key_paths_only():
    """A mapping from Python has no lines: the key path alone says where the mistake is."""
    with pytest.raises(ConfigError) as caught:
        load_config({"blueprint": {"chains": {"default": ["nobody"]}, "retry": {"max_attempts": 0}}})

    assert caught.value.problems == (
        "blueprint.chains.default[0]: unknown provider 'nobody'",
        "blueprint.retry.max_attempts: must be at least 1, not 0",
    )
