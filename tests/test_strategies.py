"""The routing strategies as tables: who is asked first, and in which order the rest."""

from collections import Counter
from dataclasses import dataclass, field

import pytest

from blueprint_llm.config import load_config
from blueprint_llm.routing.targets import Target, TargetTable
from blueprint_llm.strategies import STRATEGIES, arranged, of_name, shuffled
from blueprint_llm.traffic import KEPT, LATE_S, Traffic


def draws(n):
    """Evenly spread random numbers."""
    return [(number + 0.5) / n for number in range(n)]


def firsts(targets, n=1000):
    """How often each deployment comes first."""
    return Counter(order(targets, draw)[0].deployment for draw in draws(n))


def member(name, weight=None, group="g", **settings):
    """A deployment of a group."""
    return Target(provider=group, group=group, model="openai/x", deployment=name, weight=weight, **settings)


@dataclass
class Seen:
    """What is known, by deployment."""

    busy: dict = field(default_factory=dict)
    latencies: dict = field(default_factory=dict)
    used: dict = field(default_factory=dict)
    prices: dict = field(default_factory=dict)

    def in_flight(self, target):
        """Calls that have not ended."""
        return self.busy.get(target.deployment, 0)

    def latency_s(self, target):
        """Seconds."""
        return self.latencies.get(target.deployment, 0.0)

    def tokens(self, target):
        """Tokens of this minute."""
        return self.used.get(target.deployment, 0)

    def price(self, target):
        """USD."""
        return self.prices.get(target.deployment, float("inf"))


def order(targets, draw, strategy=shuffled, **known):
    """The targets as a strategy arranges them."""
    return arranged(targets, draw, strategy, Seen(**known))


def orders(names, strategy, n=60, **known):
    """How often each order of one group comes, over many draws."""
    members = [member(name) for name in names]
    return Counter("".join(t.deployment for t in order(members, draw, strategy, **known)) for draw in draws(n))


def test_shuffle_follows_the_weights():
    """Deployments come first as often as their weights say, and every draw names each of them once."""
    members = [member("a", 1), member("b", 3), member("c", 6)]
    found = firsts(members)

    assert found == {"a": 100, "b": 300, "c": 600}
    assert all(sorted(t.deployment for t in order(members, draw)) == ["a", "b", "c"] for draw in draws(50))


def test_shuffle_orders_the_rest_by_weight_too():
    """Behind the first, the others come in every order."""
    members = [member("a"), member("b"), member("c")]
    seconds = Counter(tuple(target.deployment for target in order(members, draw)) for draw in draws(3000))

    assert len(seconds) == 6
    assert min(seconds.values()) > 3000 / 6 / 2


def test_shuffle_asks_lower_orders_first():
    """A higher order is only asked after all of a lower one, and those without one last."""
    members = [member("late", 100, order=2), member("a", order=1), member("none"), member("b", order=1)]

    assert all([t.deployment for t in order(members, draw)][2:] == ["late", "none"] for draw in draws(20))


def test_shuffle_keeps_the_groups_in_place():
    """Only deployments of one group change places."""
    members = [member("a"), member("x", group="h"), member("b"), member("y", group="i")]

    assert {tuple(t.group for t in order(members, draw)) for draw in draws(20)} == {("g", "g", "h", "i")}


def test_zero_weights_are_still_asked():
    """A deployment of weight zero comes last, and a group of nothing else keeps its order."""
    drained = [member("a", 0), member("b", 2)]

    assert firsts(drained) == {"b": 1000}
    assert len(order([member("a", 0), member("b", 0)], 0.5)) == 2


def test_weights_come_from_litellms_settings():
    """`weight`, `rpm`, `tpm` and `order` of a deployment are LiteLLM's settings, as numbers."""
    settings = ({"weight": 7, "rpm": "1"}, {"rpm": 5, "tpm": 9}, {"tpm": 9, "order": 2}, {})
    params = [{"model": f"openai/{number}", **each} for number, each in enumerate(settings)]
    config = load_config({"model_list": [{"model_name": "g", "litellm_params": each} for each in params]})

    found = [(each.weight, each.rpm, each.tpm, each.order) for each in TargetTable(config).of_group("g")]
    assert found == [(7, 1, None, None), (None, 5, 9, None), (None, None, 9, 2), (None, None, None, None)]


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        pytest.param(({"weight": 1}, {"weight": 3}), 0.75, id="weights"),
        pytest.param(({"rpm": 1}, {"rpm": 3}), 0.75, id="requests"),
        pytest.param(({"tpm": 1}, {"tpm": 3}), 0.75, id="tokens"),
        pytest.param(({"weight": 1, "rpm": 1}, {"weight": 1, "rpm": 99}), 0.5, id="weights before requests"),
        pytest.param(({"weight": 1}, {"rpm": 99}), 0.0, id="one with a weight takes all"),
        pytest.param(({"weight": -1}, {"weight": 2}), 1.0, id="a negative weight is none"),
        pytest.param(({}, {}), 0.5, id="all alike"),
    ],
)
def test_shuffle_weighs_by_one_metric_as_litellm_does(settings, share):
    """The first of weight, rpm and tpm that any deployment has weighs the whole group."""
    members = [member(name, **each) for name, each in zip("ab", settings, strict=True)]

    assert firsts(members)["b"] == 1000 * share


def test_least_busy_asks_who_has_least_in_flight():
    """Fewest calls in flight first; equals come in every order."""
    assert orders("abc", STRATEGIES["least-busy"], busy={"a": 2, "c": 1}) == {"bca": 60}
    assert len(orders("abc", STRATEGIES["least-busy"], n=600)) == 6


def test_cost_asks_the_cheapest():
    """Lowest price first, a free one before all, an unknown price last."""
    assert orders("abcd", STRATEGIES["cost-based-routing"], prices={"b": 3, "c": 2, "d": 0}) == {"dcba": 60}


@pytest.mark.parametrize("name", ["usage-based-routing", "usage-based-routing-v2"])
def test_usage_asks_the_least_used(name):
    """Fewest tokens in this minute first; equals come in every order."""
    assert orders("ab", STRATEGIES[name], used={"a": 10}) == {"ba": 60}
    assert orders("abc", STRATEGIES[name], used={"c": 1}).keys() == {"abc", "bac"}


def test_latency_asks_the_fastest():
    """The fastest first and the slowest last; one that has never answered is tried before all."""
    strategy = of_name("latency-based-routing", {})

    assert orders("abc", strategy, latencies={"a": 3.0, "b": 1.0, "c": 2.0}) == {"bca": 60}
    assert orders("abc", strategy, latencies={"a": 3.0, "b": 1.0}) == {"cba": 60}


def test_latency_buffer_lets_nearly_equals_share():
    """Within `lowest_latency_buffer` of the fastest, chance decides."""
    strategy = of_name("latency-based-routing", {"lowest_latency_buffer": 0.5})

    assert orders("abc", strategy, latencies={"a": 1.4, "b": 1.0, "c": 1.6}).keys() == {"abc", "bac"}


def test_an_unknown_strategy_shuffles():
    """LiteLLM's `lar1`, which needs a service of its own, shuffles."""
    assert of_name("lar1", {}) is shuffled


def test_traffic_counts_calls_in_flight():
    """A call counts from its beginning to its end."""
    traffic = Traffic()
    traffic.begin("a")
    traffic.begin("a")
    traffic.end("a")

    assert (traffic.in_flight("a"), traffic.in_flight("b")) == (1, 0)


def test_traffic_forgets_the_tokens_of_the_last_minute():
    """Tokens count for the minute they were used in."""
    traffic = Traffic()
    for now in (0.0, 59.0, 61.0):
        traffic.answered("a", now=now, duration_s=1, ttft_s=None, tokens=(2, 3))

    assert traffic.tokens("a", now=61.0) == 5
    assert traffic.tokens("a", now=59.0) == 0
    assert traffic.tokens("b", now=61.0) == 0


def test_traffic_measures_seconds_per_token():
    """Speed is seconds per output token over the last answers; of streams, the time to the first token."""
    traffic = Traffic(ttl_s=100)
    traffic.answered("a", now=0, duration_s=4, ttft_s=None, tokens=(1, 2))
    traffic.answered("a", now=0, duration_s=4, ttft_s=0.5, tokens=(1, 1))

    assert traffic.latency_s("a", now=1, streamed=False) == 3
    assert traffic.latency_s("a", now=1, streamed=True) == 0.5
    assert traffic.latency_s("b", now=1, streamed=True) == 0
    assert traffic.latency_s("a", now=101, streamed=False) == 0


def test_traffic_keeps_the_last_answers_only():
    """An answer that came late weighs until enough others have come."""
    traffic = Traffic()
    traffic.late("a", now=0)
    assert traffic.latency_s("a", now=1, streamed=True) == LATE_S

    for _ in range(KEPT):
        traffic.answered("a", now=0, duration_s=1, ttft_s=None, tokens=(1, 1))
    assert traffic.latency_s("a", now=1, streamed=False) == 1
