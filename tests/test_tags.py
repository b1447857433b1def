"""Tags: the same deployments as LiteLLM's own filter, for any tags, and what a caller is told."""

import asyncio
import copy
from types import SimpleNamespace

import litellm
import pytest
from driving import KEY, MESSAGES
from hypothesis import given, settings
from hypothesis import strategies as st
from litellm.router_strategy.tag_based_routing import get_deployments_for_tag

from blueprint_llm import Router, SyncLLMClient, load_config, tags
from blueprint_llm.errors import NoTargetError
from blueprint_llm.routing.targets import TargetTable
from blueprint_llm.testing import Answer, FaultServer

NAMES = ("free", "paid", "eu", "default")
AGENTS = (None, "curl/8.0", "claude-code/1.2")
PATTERNS = ("^User-Agent: claude-code", "curl", "(")

some_tags = st.lists(st.sampled_from(NAMES), max_size=3)
deployments = st.lists(
    st.fixed_dictionaries(
        {"tags": some_tags, "opens": st.booleans()},
        optional={"tag_regex": st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=2)},
    ),
    min_size=1,
    max_size=4,
)
asked_tags = st.lists(
    st.builds(
        lambda *parts: "".join(parts),
        st.sampled_from(["", "r:"]),
        st.sampled_from(["", "&", "!"]),
        st.sampled_from([*NAMES, "odd", ""]),
    ),
    max_size=3,
)
settings_of_router = st.fixed_dictionaries(
    {
        "enable_tag_filtering": st.just(True),
        "tag_filtering_match_any": st.booleans(),
        "tag_routing_prefix": st.sampled_from(["", "r:"]),
    }
)


def entry(number, spec):
    """An entry of `model_list`."""
    params = {name: value for name, value in spec.items() if name != "opens"}
    info = {"id": str(number), "allow_fail_open": spec["opens"]}
    return {"model_name": "a", "litellm_params": {"model": f"openai/m{number}", **params}, "model_info": info}


def litellms(entries, metadata, router):
    """The ids that LiteLLM's filter leaves."""
    own = SimpleNamespace(**router, get_all_deployments=lambda model_name: entries)
    try:
        left = asyncio.run(get_deployments_for_tag(own, "a", entries, {"metadata": metadata}))
    except ValueError:
        return []
    return [each["model_info"]["id"] for each in left]


@settings(max_examples=1500, deadline=None)
@given(specs=deployments, wanted=asked_tags, agent=st.sampled_from(AGENTS), router=settings_of_router)
def test_the_deployments_are_litellms(specs, wanted, agent, router):
    """For any tags of a request and a group, and any settings."""
    entries = [entry(number, spec) for number, spec in enumerate(specs)]
    metadata = {"tags": wanted, **({"user_agent": agent} if agent else {})}
    config = load_config({"model_list": entries, "router_settings": router})
    kept, left_out = tags.split(TargetTable(config).of_group("a"), config, metadata)

    assert [target.deployment for target in kept] == litellms(entries, dict(metadata), router)
    assert {target.deployment for target in (*kept, *left_out)} == {str(number) for number in range(len(specs))}


@pytest.mark.parametrize("metadata", [{}, {"tags": None}, {"tags": "paid"}, {"tags": {"paid": 1}}, {"tags": [1, None]}])
def test_what_are_no_tags_asks_for_nothing(metadata):
    """As for LiteLLM: the default deployments serve it."""
    entries = [entry(0, {"tags": ["paid"], "opens": False}), entry(1, {"tags": ["default"], "opens": False})]
    config = load_config({"model_list": entries, "router_settings": {"enable_tag_filtering": True}})

    kept, _ = tags.split(TargetTable(config).of_group("a"), config, metadata)

    assert [target.deployment for target in kept] == ["1"]


def configuration(url, **router):
    """A group with two tagged deployments, and a provider without any."""
    entries = [entry(0, {"tags": ["free"], "opens": False}), entry(1, {"tags": ["paid"], "opens": False})]
    for each in entries:
        each["litellm_params"] |= {"api_base": url, "api_key": KEY}
    block = {"providers": {"tiers": {"model": "a"}, "other": {"model": "openai/o", "api_base": url, "api_key": KEY}}}
    chains = {"chains": {"default": ["tiers", "other"]}}
    return {"model_list": entries, "router_settings": router, "blueprint": {**block, **chains}}


def test_a_client_follows_tags_and_says_so():
    """`metadata` of a request decides, and `explain` names whom its tags leave out."""
    with FaultServer(default=Answer("Hi.")) as server:
        config = configuration(server.url, enable_tag_filtering=True)
        with SyncLLMClient.from_config(config) as client:
            for _ in range(4):
                client.chat(messages=MESSAGES, metadata={"tags": ["paid"]})
            decision = client.explain(messages=MESSAGES, metadata={"tags": ["paid"]})
        models = {request.body["model"] for request in server.requests}

    rows = [(row.model, row.verdict, row.reason) for row in decision.considered]
    assert models == {"m1"}
    assert rows[0][:2] == ("openai/m1", "chosen")
    assert rows[1][:2] == ("openai/o", "standby")
    assert rows[2] == ("openai/m0", "skipped", "the request's tags leave it out")


def test_without_the_setting_tags_decide_nothing():
    """As LiteLLM's default."""
    with SyncLLMClient.from_config(configuration("http://127.0.0.1:9")) as client:
        decision = client.explain(messages=MESSAGES, metadata={"tags": ["paid"]})

    assert {row.verdict for row in decision.considered} == {"chosen", "standby"}


def test_tags_that_nobody_has_are_one_clear_error():
    """Nothing is sent; a client and a Router say which deployments were left out, and why."""
    config = configuration("http://127.0.0.1:9", enable_tag_filtering=True)
    asked = {"messages": MESSAGES, "metadata": {"tags": ["&gold"]}}
    with SyncLLMClient.from_config(config) as client, pytest.raises(NoTargetError) as ours:
        client.chat(**asked, provider="tiers", fallback=False)
    with (
        Router(config["model_list"], enable_tag_filtering=True) as router,
        pytest.raises(litellm.BadRequestError) as theirs,
    ):
        router.completion("a", **asked)

    for error in (ours.value, theirs.value):
        assert str(error).count("the request's tags leave it out") == 2


def test_a_deployment_is_picked_by_the_tags_of_the_request():
    """`get_available_deployment` heeds them where LiteLLM takes them."""
    entries = [entry(0, {"tags": ["free"], "opens": False}), entry(1, {"tags": ["paid"], "opens": False})]
    asked = {"request_kwargs": {"metadata": {"tags": ["paid"]}, "api_key": KEY, "fallbacks": ["b"]}}
    before = copy.deepcopy(asked)
    with Router(entries, enable_tag_filtering=True) as router:
        picked = [router.get_available_deployment("a", **asked) for _ in range(8)]
        picked += [asyncio.run(router.async_get_available_deployment("a", **asked)) for _ in range(8)]

    assert {each["model_info"]["id"] for each in picked} == {"1"}
    assert asked == before
    assert type(asked["request_kwargs"]["api_key"]) is str


def test_tags_never_reach_a_provider():
    """Tags and patterns of a deployment are the Router's business."""
    with FaultServer(default=Answer("Hi.")) as server:
        own = {**entry(0, {"tags": ["x"], "tag_regex": ["y"], "opens": False})}
        own["litellm_params"] |= {"api_base": server.url, "api_key": KEY}
        with Router([own], enable_tag_filtering=True) as router:
            router.completion("a", messages=MESSAGES, metadata={"tags": ["x"]})
        [request] = server.requests

    assert set(request.body) == {"model", "messages"}
