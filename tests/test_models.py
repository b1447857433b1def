import pytest

from blueprint_llm import models
from blueprint_llm.models import ModelFacts


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        pytest.param("gpt-4o", "openai", id="bare"),
        pytest.param("openai/gpt-4o", "openai", id="provider before a bare entry"),
        pytest.param("azure/gpt-4o", "azure", id="entry with its provider"),
        pytest.param("anthropic/claude-opus-4-5", "anthropic", id="anthropic"),
        pytest.param("vertex_ai/gemini-2.5-pro", "vertex_ai-language-models", id="family of a provider"),
        pytest.param("bedrock/converse/us.anthropic.claude-3-5-sonnet-20240620-v1:0", "bedrock", id="two parts before"),
        pytest.param("ollama_chat/llama3", "ollama", id="second spelling of a provider"),
    ],
)
def test_model_is_found_under_its_spellings(model, provider):
    """A LiteLLM model id finds the entry that LiteLLM would use."""
    assert models.known(model)
    assert models.entry(model)["litellm_provider"] == provider


@pytest.mark.parametrize(
    "model", ["", "nonsense", "openai/nonsense", "deepseek/gpt-4o", "sample_spec", "ollama/nonsense"]
)
def test_unlisted_model_is_unknown(model):
    """Nothing is guessed: another provider's model of that name, or the map's own sample, does not count."""
    assert not models.known(model)
    assert models.info(model) is None


def test_facts_of_a_model():
    """Windows and abilities come from the map."""
    assert models.info("openai/gpt-4o") == ModelFacts(
        max_input_tokens=128000,
        max_output_tokens=16384,
        supports_tools=True,
        supports_vision=True,
    )


def test_entry_without_numbers_says_so(monkeypatch):
    """What the map leaves out or has as text is None."""
    monkeypatch.setattr(models, "model_map", lambda: {"odd": {"max_output_tokens": "many", "max_tokens": 0}})
    models.entry.cache_clear()

    assert models.info("odd") == ModelFacts()
    models.entry.cache_clear()
    models.info.cache_clear()


def test_without_litellm_nothing_is_known(monkeypatch):
    """Where LiteLLM is not installed the map is empty and its version absent."""
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    monkeypatch.setattr(models, "version", _missing)
    for cached in (models.model_map, models.map_version):
        cached.cache_clear()

    assert models.model_map() == {}
    assert models.map_version() == "absent"
    for cached in (models.model_map, models.map_version):
        cached.cache_clear()


def _missing(name):
    raise models.PackageNotFoundError(name)
