import dataclasses
import json
import random
from typing import NamedTuple

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blueprint_llm.cache import Facts, key_of, namespace_of
from blueprint_llm.secret import Secret

TOOL = {"type": "function", "function": {"name": "read", "parameters": {"type": "object", "properties": {}}}}
OTHER_TOOL = {"type": "function", "function": {"name": "write", "parameters": {"type": "object", "properties": {}}}}
PARAMS = {
    "temperature": 0,
    "seed": 1,
    "top_p": 1,
    "max_tokens": 100,
    "tools": [TOOL, OTHER_TOOL],
    "response_format": {"type": "json_object"},
    "extra_headers": {"X-Tenant": "a"},
    "extra_body": {"safe": True},
    "logit_bias": {"50256": -100},
    "brand_new_parameter": [1, 2],
}
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
BASE = Facts(
    model="openai/gpt-4o",
    account=("env:OPENAI_API_KEY", "https://a.example/v1", {}),
    project="acme",
    messages=MESSAGES,
    params=PARAMS,
    options=([], None, True, True),
)


def changed(**facts):
    """BASE with other facts; `params` are merged."""
    if "params" in facts:
        facts["params"] = {**PARAMS, **facts["params"]}
    return dataclasses.replace(BASE, **facts)


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param({"model": "openai/gpt-4o-mini"}, id="model"),
        pytest.param({"account": ("env:OPENAI_API_KEY", "https://b.example/v1", {})}, id="api_base"),
        pytest.param({"account": ("file:cloud#2", "https://a.example/v1", {})}, id="credential"),
        pytest.param({"account": (*BASE.account[:2], {"organization": "o"})}, id="the key's settings"),
        pytest.param({"account": (*BASE.account[:2], {"token": Secret("s" * 20)})}, id="a secret setting"),
        pytest.param({"project": "other"}, id="project"),
        pytest.param({"project": None}, id="no project"),
        pytest.param({"messages": MESSAGES[1:]}, id="a message less"),
        pytest.param({"messages": MESSAGES[::-1]}, id="order of messages"),
        pytest.param({"messages": [MESSAGES[0], {"role": "user", "content": "Hello "}]}, id="a space"),
        pytest.param({"messages": [MESSAGES[0], {**MESSAGES[1], "name": "x"}]}, id="a name"),
        pytest.param({"options": ([], 1000, True, True)}, id="the window"),
        pytest.param({"options": ([], None, True, False)}, id="validation"),
        pytest.param({"params": {"seed": 2}}, id="seed"),
        pytest.param({"params": {"temperature": 0.5}}, id="temperature"),
        pytest.param({"params": {"max_tokens": 101}}, id="max_tokens"),
        pytest.param({"params": {"stop": ["x"]}}, id="stop"),
        pytest.param({"params": {"tools": [OTHER_TOOL, TOOL]}}, id="order of tools"),
        pytest.param({"params": {"tools": [TOOL]}}, id="tools"),
        pytest.param({"params": {"tool_choice": "required"}}, id="tool_choice"),
        pytest.param({"params": {"response_format": {"type": "text"}}}, id="response_format"),
        pytest.param({"params": {"extra_headers": {"X-Tenant": "b"}}}, id="extra_headers"),
        pytest.param({"params": {"extra_body": {"safe": False}}}, id="extra_body"),
        pytest.param({"params": {"extra_body": {"safe": 1}}}, id="true is not 1"),
        pytest.param({"params": {"logit_bias": {"50256": -99}}}, id="logit_bias"),
        pytest.param({"params": {"brand_new_parameter": [2, 1]}}, id="unknown parameter"),
        pytest.param({"params": {"api_base": "https://c.example"}}, id="a call's own api_base"),
        pytest.param({"params": {"api_key": Secret("k" * 20)}}, id="a call's own key"),
        pytest.param({"params": {"user": "u"}}, id="user"),
    ],
)
def test_key_differs(facts):
    """Whatever could change the answer changes the key."""
    assert key_of(changed(**facts)) != key_of(BASE)


HINT = {"type": "ephemeral"}


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"params": dict(reversed(PARAMS.items()))}, id="order of keys"),
        pytest.param({"params": {"temperature": 0.0, "top_p": 1.0, "seed": 1.0}}, id="1.0 is 1"),
        pytest.param({"params": {"logit_bias": {"50256": -100.0}}}, id="1.0 is 1 one level down"),
        pytest.param({"params": {"timeout": 3, "num_retries": 2, "metadata": {"a": 1}, "stream": True}}, id="harmless"),
        pytest.param({"params": {"prompt_cache_key": "k", "cache_control": HINT}}, id="cache hints"),
        pytest.param({"params": {"tools": [{**TOOL, "cache_control": HINT}, OTHER_TOOL]}}, id="a tool's hint"),
        pytest.param(
            {"params": {"tools": [{**TOOL, "function": {**TOOL["function"], "cache_control": HINT}}, OTHER_TOOL]}},
            id="a function's hint",
        ),
        pytest.param({"messages": [{**MESSAGES[0], "cache_control": HINT}, MESSAGES[1]]}, id="a message's hint"),
    ],
)
def test_key_stays(facts):
    """What cannot change the answer does not change the key."""
    assert key_of(changed(**facts)) == key_of(BASE)


def test_hints_of_parts_do_not_count_but_their_text_does():
    """A content part loses its hint only."""
    part = {"type": "text", "text": "Hello"}
    plain, hinted, other = (
        key_of(changed(messages=[{"role": "user", "content": [each]}]))
        for each in (part, {**part, "cache_control": HINT}, {**part, "text": "Bye"})
    )

    assert plain == hinted != other


def test_a_schema_may_name_a_property_cache_control():
    """Only the provider's hint is left out, not a tool's parameter of that name."""
    schemas = ({"type": "string"}, {"type": "integer"})
    keys = {
        key_of(
            changed(params={"tools": [{"function": {"name": "f", "parameters": {"properties": {"cache_control": s}}}}]})
        )
        for s in schemas
    }

    assert len(keys) == 2


@pytest.mark.parametrize(
    ("params", "cacheable"),
    [
        pytest.param({}, True, id="nothing asked"),
        pytest.param({"temperature": 0}, True, id="temperature 0"),
        pytest.param({"temperature": 0.1}, False, id="temperature"),
        pytest.param({"temperature": 0.1, "seed": 0}, True, id="temperature with a seed"),
        pytest.param({"n": 2}, False, id="two answers"),
        pytest.param({"n": 1}, True, id="one answer"),
        pytest.param({"n": "two"}, False, id="no number"),
    ],
)
def test_chance_is_not_cached(params, cacheable):
    """Who asks for chance gets it, unless the configuration or a seed says otherwise."""
    facts = dataclasses.replace(BASE, params=params)

    assert (key_of(facts) is not None) == cacheable
    assert key_of(facts, nondeterministic=True) is not None


class Colour(pydantic.BaseModel):
    name: str


class Shade(pydantic.BaseModel):
    name: int


def test_schema_classes_count_by_their_schema():
    """A response format given as a class is what its schema is."""
    keys = {key_of(changed(params={"response_format": each})) for each in (Colour, Shade, Colour.model_json_schema())}

    assert len(keys) == 3
    assert None not in keys


@pytest.mark.parametrize(
    "value",
    [pytest.param(object(), id="object"), pytest.param(1 << 70, id="huge"), pytest.param("\ud800", id="surrogate")],
)
def test_what_has_no_json_is_not_cached(value):
    """A value that cannot be told apart from others makes the call uncacheable, not a crash."""
    assert key_of(changed(params={"thing": value})) is None


class Pair(NamedTuple):
    first: int
    second: int


def test_named_tuples_have_an_order():
    """Two members are not the same the other way round."""
    assert key_of(changed(params={"p": Pair(1, 2)})) != key_of(changed(params={"p": Pair(2, 1)})) is not None


def test_sets_have_no_order():
    """A set counts by its members."""
    assert key_of(changed(params={"s": {"a", "b"}})) == key_of(changed(params={"s": {"b", "a"}})) is not None


def test_namespaces_are_fit_for_any_store():
    """A project's name never reaches a store as it is."""
    assert namespace_of("a:*../x") != namespace_of("b")
    assert namespace_of("a:*../x").isalnum()
    assert key_of(BASE).startswith(f"{namespace_of('acme')}:")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def shuffled(value, rng):
    """The same JSON with its keys in another order."""
    if isinstance(value, list):
        return [shuffled(item, rng) for item in value]
    if isinstance(value, dict):
        items = [(name, shuffled(item, rng)) for name, item in value.items()]
        rng.shuffle(items)
        return dict(items)
    return value


@settings(max_examples=300, deadline=None)
@given(one=JSON, other=JSON, seed=st.integers(0, 99))
def test_two_parameters_have_one_key_exactly_if_they_are_equal(one, other, seed):
    """No two different requests meet, however their keys are ordered."""
    rng = random.Random(seed)  # noqa: S311 - an order, no secret
    first = key_of(changed(params={"x": one}))
    same = key_of(changed(params={"x": shuffled(one, rng)}))
    second = key_of(changed(params={"x": other}))

    assert first == same
    assert (first == second) == (json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True))
