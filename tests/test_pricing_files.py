import json
import subprocess
import sys
from datetime import date

import jsonschema
import pytest
import yaml

from blueprint_llm.config.blocks import Pricing
from blueprint_llm.errors import ConfigError
from blueprint_llm.usage import pricing
from blueprint_llm.usage.pricing import Prices, files, shipped

DAY = date(2026, 6, 15)


def load(tmp_path, text, name="contract.yaml"):
    """Prices with one more file."""
    path = tmp_path / name
    path.write_text(text)
    return Prices.load(Pricing(files=[name]), folder=tmp_path)


PRICE = "prices_per_mtok: {input: 1, output: 2}, source: s"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param(f"- {{match: {{model: m}}, {PRICE}, colour: red}}", "entry 1.colour", id="unknown key"),
        pytest.param("- {match: {model: m}, free: true}", "entry 1.source", id="no source"),
        pytest.param("- {match: {model: m}, source: s}", "has no whole price", id="no price"),
        pytest.param(
            "- {match: {model: m}, prices_per_mtok: {input: 1}, source: s}", "no whole price", id="half a price"
        ),
        pytest.param(f"- {{match: {{model: m}}, free: true, {PRICE}}}", "free and has a price", id="free with a price"),
        pytest.param(
            "- {match: {model: m}, prices_per_mtok: {input: -1, output: 2}, source: s}", "greater than", id="negative"
        ),
        pytest.param(
            "- {match: {model: m}, prices_per_mtok: {input: 1001, output: 2}, source: s}",
            "allow: [expensive]",
            id="dear",
        ),
        pytest.param(
            f"- {{match: {{model: m}}, tiers: [{{above_input_tokens: 9, output: 2000}}], {PRICE}}}",
            "allow: [expensive]",
            id="dear tier",
        ),
        pytest.param(
            f"- {{match: {{model: m}}, effective_from: 2026-02-01, effective_to: 2026-02-01, {PRICE}}}",
            "ends before it begins",
            id="empty time",
        ),
        pytest.param(f"- {{match: {{model: m}}, effective_from: soon, {PRICE}}}", "effective_from", id="no date"),
        pytest.param("match: {model: m}", "valid tuple", id="no list"),
        pytest.param("- {", "while parsing", id="no yaml"),
        pytest.param(f"- {{match: {{model: m}}, {PRICE}}}\n" * 2, "overlaps", id="twice the same"),
        pytest.param(
            f"- {{match: {{model: 'gpt-*'}}, {PRICE}}}\n- {{match: {{model: '*-mini'}}, {PRICE}}}",
            "overlaps",
            id="globs",
        ),
        pytest.param(
            f"- {{match: {{model: m}}, effective_to: 2026-03-02, {PRICE}}}\n"
            f"- {{match: {{model: m}}, effective_from: 2026-03-01, {PRICE}}}",
            "overlaps",
            id="one day twice",
        ),
    ],
)
def test_mistake_is_named_with_its_file_and_entry(tmp_path, text, said):
    """A wrong price file is one ConfigError that says where and what."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)

    assert said in str(caught.value)
    assert "contract" in str(caught.value)


def test_every_mistake_is_listed(tmp_path):
    """All problems of all files come in one error."""
    text = "- {match: {model: a}, source: s}\n- {match: {model: b}, free: true}\n"

    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)

    assert [problem.split(": ")[1] for problem in caught.value.problems] == ["entry 1", "entry 2.source"]


def test_missing_file_is_an_error(tmp_path):
    """A file that pricing.files names must exist."""
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        Prices.load(Pricing(files=["nowhere.yaml"]), folder=tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            f"- {{match: {{model: m}}, effective_to: 2026-03-01, {PRICE}}}\n"
            f"- {{match: {{model: m}}, effective_from: 2026-03-01, {PRICE}}}",
            id="one after the other",
        ),
        pytest.param(
            f"- {{match: {{model: 'a*'}}, {PRICE}}}\n- {{match: {{model: ab}}, {PRICE}}}", id="exact in a glob"
        ),
        pytest.param(
            f"- {{match: {{model: 'a*c'}}, {PRICE}}}\n- {{match: {{model: 'a*d'}}, {PRICE}}}", id="disjoint globs"
        ),
        pytest.param(
            f"- {{match: {{model: m, provider: a}}, {PRICE}}}\n- {{match: {{model: m, provider: b}}, {PRICE}}}",
            id="two providers",
        ),
        pytest.param(
            f"- {{match: {{model: 'a*'}}, {PRICE}}}\n- {{match: {{model: '*a'}}, allow: [overlap], {PRICE}}}",
            id="allowed",
        ),
        pytest.param(
            f"- {{match: {{model: 'a*'}}, allow: [overlap], {PRICE}}}\n- {{match: {{model: '*a'}}, {PRICE}}}",
            id="allowed by the first",
        ),
        pytest.param(
            "- {match: {model: m}, prices_per_mtok: {input: 5000, output: 1}, allow: [expensive], source: s}",
            id="allowed to be dear",
        ),
        pytest.param("", id="empty file"),
    ],
)
def test_good_file_loads(tmp_path, text):
    """What cannot price one call in two ways is no mistake."""
    assert load(tmp_path, text)


def test_more_specific_entry_wins(tmp_path):
    """An exact name beats a glob, a provider beats none, a longer glob a shorter one that may overlap it."""
    entries = [("gpt*", None, 1), ("gpt-4*", None, 2), ("gpt-4o", None, 3), ("gpt-4o", "cloud", 4)]
    text = yaml.safe_dump(
        [
            {
                "match": {"model": model, **({"provider": provider} if provider else {})},
                "prices_per_mtok": {"input": price, "output": 0},
                "source": "s",
                "allow": ["overlap"],
            }
            for model, provider, price in entries
        ]
    )
    prices = load(tmp_path, text)

    found = [prices.price(*call, at=DAY).per_mtok()["input"] for call in [("x", "gpt-3"), ("x", "gpt-4x")]]
    exact = [prices.price(*call, at=DAY).per_mtok()["input"] for call in [("x", "gpt-4o"), ("cloud", "openai/gpt-4o")]]

    assert found + exact == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("name", "level"),
    [("contract-2026.yaml", "contract"), ("overrides.yaml", "override"), ("local.yaml", "local")],
)
def test_file_name_says_its_level(tmp_path, name, level):
    """Overrides and local prices are known by their names; every other file is a contract."""
    card = load(tmp_path, f"- {{match: {{model: mine}}, {PRICE}}}", name).price("x", "mine", at=DAY)

    assert card.version.startswith(f"{level}:{name}@")


def test_order_of_sources(tmp_path):
    """Contract before deployment, deployment before override, override before local, local before the map."""
    entry = "- {{match: {{model: gpt-4o}}, prices_per_mtok: {{input: {}, output: 0}}, source: s}}"
    named = {"contract.yaml": 1, "overrides-own.yaml": 3, "local-own.yaml": 4}
    for name, price in named.items():
        (tmp_path / name).write_text(entry.format(price))
    own = {"input_cost_per_token": 2e-06, "output_cost_per_token": 0}

    def price(*names, params=None):
        prices = Prices.load(Pricing(files=list(names)), folder=tmp_path)
        return prices.price("x", "openai/gpt-4o", at=DAY, params=params).per_mtok()["input"]

    assert price(*named, params=own) == 1
    assert price("overrides-own.yaml", "local-own.yaml", params=own) == 2
    assert price("local-own.yaml", "overrides-own.yaml") == 3
    assert price("local-own.yaml") == 4
    assert price() == 2.5


def test_entry_that_extends_an_unlisted_model_prices_nothing(tmp_path):
    """A discount on an unknown price is unknown."""
    text = "- {match: {model: unheard-of}, extends: litellm, multiply: {all: 0.5}, source: s}"

    assert load(tmp_path, text).price("x", "unheard-of", at=DAY) is None


def test_limits_come_with_the_price(tmp_path):
    """A contract's requests and tokens a minute are on the card."""
    card = load(tmp_path, f"- {{match: {{model: m}}, limits: {{rpm: 5, tpm: 6}}, {PRICE}}}").price("x", "m", at=DAY)

    assert (card.rpm, card.tpm) == (5, 6)


def test_shipped_files_are_valid_and_the_schema_is_theirs():
    """Every shipped price file passes the shipped schema, which is the one the loader checks by."""
    schema = json.loads((shipped() / "schema.json").read_text())

    ours = {"$schema": "https://json-schema.org/draft/2020-12/schema", **files.ENTRIES.json_schema()}
    assert schema == json.loads(json.dumps(ours))
    for path in shipped().rglob("*.yaml"):
        jsonschema.validate(json.loads(json.dumps(yaml.safe_load(path.read_text()), default=str)), schema)


def test_example_counts_only_when_named():
    """The shipped contract is an example: without being named it changes no price."""
    example = str(shipped() / "contracts" / "example.yaml")

    prices = [Prices.load(Pricing(files=named)).price("x", "openai/gpt-4o", at=DAY) for named in ([], [example])]

    assert [card.version.partition(":")[0] for card in prices] == ["litellm", "contract"]


def test_installed_folder_comes_first(tmp_path, monkeypatch):
    """In the wheel the price files lie inside the package; a checkout has them beside it."""
    package = tmp_path / "blueprint_llm"
    room = package / "usage" / "pricing"
    room.mkdir(parents=True)
    monkeypatch.setattr(pricing, "__file__", str(room / "__init__.py"))
    assert shipped() == tmp_path / "pricing"

    (package / "_pricing").mkdir()

    assert shipped() == package / "_pricing"


def test_prices_and_usage_need_no_litellm():
    """Loading prices, the map, ledger and usage imports neither LiteLLM nor Redis, keyring or httpx."""
    program = """
import sys
from datetime import date
from blueprint_llm import models, usage
from blueprint_llm.usage import pricing
from blueprint_llm.usage import stores
from blueprint_llm.config.blocks import Pricing
assert pricing.Prices.load(Pricing()).price("x", "openai/gpt-4o", at=date(2026, 1, 1))
usage.UsageTracker(stores.MemoryStore()).get_usage()
heavy = {"litellm", "openai", "httpx", "redis", "keyring", "diskcache", "jsonschema"}
print(sorted(heavy & set(sys.modules)))
"""

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_many_models_are_remembered_without_growing():
    """The remembered prices stay bounded however many models are asked for."""
    prices = Prices()

    for n in range(5000):
        prices.price("x", f"model-{n}", at=DAY)

    assert len(prices._known) <= 4096
