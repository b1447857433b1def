"""`explain` is the call: in drawn situations both say the same of every target, and errors leave none of them out."""

import random
import re

import pytest
from asking import KINDS, asking
from driving import KEY, MESSAGES

from blueprint_llm import sync
from blueprint_llm.errors import BlueprintError
from blueprint_llm.testing import Answer, FaultServer, ScriptedAdapter, Status
from blueprint_llm.usage.stores.breaker import BreakerReport
from blueprint_llm.usage.stores.records import AttemptRow, Reservation, Settlement

SEEDS = range(40)
MODELS = (
    *("openai/gpt-4o", "openai/gpt-4o-mini", "anthropic/claude-opus-4-5", "gemini/gemini-2.5-flash"),
    *("deepseek/deepseek-reasoner", "openai/nobody-knows-its-price"),  # takes no tools; has no price
)
TOOLS = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]
LONG = [{"role": "system", "content": "Obey. " * 400}, {"role": "user", "content": "hello"}]
# What the forty situations must have among them, as a target's reason says it.
KINDS_OF_REASON = {
    "a key": "no API key",
    "an open breaker": "circuit open for",
    "a half-open one": "while it is probed",
    "a quota of requests": " requests",
    "a quota of tokens": "of 1 tokens",
    "a budget": "budget of",
    "a degrade": "left out: a budget leads to",
    "a window": "the request needs",
    "an ability": "takes no tools",
    "a price": "no price is known",
}


class Situation:
    """A configuration, what happened before, and a request, all drawn from one seed."""

    def __init__(self, seed):
        self.draw = draw = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self.names = [f"p{n}" for n in range(draw.randint(1, 5))]
        self.providers = {name: self.provider() for name in self.names}
        self.breakers = {name: draw.choice(["closed", "closed", "closed", "open", "probed"]) for name in self.names}
        if draw.random() < 0.15:
            self.breakers = dict.fromkeys(self.names, "open")
        self.before = draw.choice([0, 0, 1, 2])
        self.request = self.asked()
        order = draw.sample(self.names, len(self.names))
        frugal = draw.sample(self.names, draw.randint(1, min(2, len(self.names))))
        self.block = {
            "project": "acme",
            "providers": self.providers,
            "chains": {"default": order, "frugal": frugal, "review": order[:1]},
            "routes": [{"when": {"budget_used": {"scope": "project", "gt": 0.5}}, "chain": ["frugal"]}],
            "quotas": apart(self.quota() for _ in range(draw.choice([0, 0, 1, 2]))),
            "budgets": apart([*(self.budget() for _ in range(draw.choice([0, 1, 1, 2]))), *self.degrade(order)]),
            "breaker": {"half_open_probes": 1},
            "retry": {"max_attempts": 1},
            "store": {"url": "memory"},
        }

    def provider(self):
        """One that may lack a key, or take little."""
        own = {"model": self.draw.choice(MODELS)}
        if self.draw.random() < 0.85:
            own["api_key"] = KEY
        if self.draw.random() < 0.25:
            own["max_context_tokens"] = 300
        return own

    def scope(self):
        """Whom a limit counts."""
        name = self.draw.choice(self.names)
        return self.draw.choice(
            ["project", "global", "session", f"provider:{name}", f"model:{self.providers[name]['model']}"]
        )

    def quota(self):
        """None at all, what the calls before may have used up, or plenty."""
        own = {"scope": self.scope(), "window": self.draw.choice(["day", "month", "3600s"])}
        if self.draw.random() < 0.6:
            return {**own, "requests": self.draw.choice([0, 1, 100])}
        return {**own, "tokens": self.draw.choice([1, 10**7])}

    def budget(self):
        """Too small, or plenty, with every way to end."""
        own = {"scope": self.scope(), "limit_usd": self.draw.choice([0, 1e-5, 1000]), "window": "day"}
        ends = {"block": {}, "warn": {}, "degrade": {"chain": self.draw.choice([["frugal"], self.names[-1:]])}}
        how = self.draw.choice([*ends])
        return {**own, "on_exceed": how, **ends[how]}

    def degrade(self, order):
        """Now and then the first of the chain has spent its budget, which leads away from the second."""
        if len(order) > 2 and self.draw.random() < 0.5:
            scope = f"provider:{order[0]}"
            yield {"scope": scope, "limit_usd": 0, "window": "month", "on_exceed": "degrade", "chain": order[2:]}

    def asked(self):
        """A request."""
        request = {"messages": LONG if self.draw.random() < 0.3 else MESSAGES}
        if self.draw.random() < 0.3:
            request["tools"] = TOOLS
        if self.draw.random() < 0.3:
            request["provider"] = self.draw.choice(self.names)
        elif self.draw.random() < 0.2:
            request["task_type"] = "review"
        if self.draw.random() < 0.15:
            request["fallback"] = False
        if self.draw.random() < 0.5:
            request["max_tokens"] = self.draw.choice([10, 500])
        return request

    def open(self, kind, step):
        """An open client whose targets all answer with `step`, after what happened before; and whom it asked."""
        asked, now = [], [Answer()]

        def respond(call):
            asked.append((call.provider, call.model))
            return now[0]

        adapter = ScriptedAdapter(respond)
        opened = asking(kind, {"blueprint": self.block}, adapters=dict.fromkeys(self.names, adapter))
        return opened, lambda client: self.prepare(client, step, asked, now)

    def prepare(self, client, step, asked, now):
        """Make the calls of before and set the breakers."""
        for _ in range(self.before):
            try:
                client.chat(messages=MESSAGES, max_tokens=10)
            except BlueprintError:
                break
        runtime = client.client._runtime
        for name, state in self.breakers.items():
            if state != "closed":
                sync.run(broken(runtime.store, runtime.table.of_name(name).key, state))
        asked.clear()
        now[0] = step
        return asked


def apart(limits):
    """One limit for each scope and window: two of them are a mistake."""
    return [*{(limit["scope"], limit["window"]): limit for limit in limits}.values()]


async def broken(store, key, state):
    """Open a target's breaker; `probed`: its time is over, and somebody is trying it."""
    report = BreakerReport(key, ok=False, failures=1, open_s=600 if state == "open" else 0)
    await store.settle(Settlement((), AttemptRow(id=f"failed {key}", call_id="before"), report))
    if state == "probed":
        row = AttemptRow(id=f"probe {key}", call_id="before")
        assert (await store.reserve(Reservation(row.id, (), 600, row, key))).ok


def plain(rows):
    """What was considered, without the seconds, which go on."""
    found = [row if isinstance(row, dict) else row.model_dump() for row in rows]
    return [{**row, "reason": re.sub(r"for [\d.]+ s", "for a while", row["reason"])} for row in found]


def target(row):
    """Provider and model."""
    return row["provider"], row["model"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_explain_and_the_call_agree(seed, kind):
    """Who is chosen answers; where nobody is, nothing is sent; up to there both have the same reasons."""
    situation = Situation(seed)
    opened, prepare = situation.open(kind, Answer())
    with opened as client:
        asked = prepare(client)
        decision = client.client.explain(**situation.request)
        try:
            trace = client.chat(**situation.request).trace
        except BlueprintError as error:
            trace = error.trace

    assert asked == [target(each) for each in decision.targets[:1]]
    told, done = plain(decision.considered), plain(trace["route"]["considered"])
    until = next((n for n, row in enumerate(told) if row["verdict"] == "chosen"), len(told)) + 1
    assert told[:until] == done[:until]
    assert (trace["route"]["rule"], trace["route"]["chain"]) == (decision.rule, decision.chain)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_explain_and_a_call_to_everyone_agree(seed, kind):
    """Where every target fails, all those and only those are asked that `explain` names, in its order.

    The trace then says the same of every target, and the error names each.
    """
    situation = Situation(seed)
    opened, prepare = situation.open(kind, Status(404))
    with opened as client:
        asked = prepare(client)
        decision = client.client.explain(**situation.request)
        with pytest.raises(BlueprintError) as failed:
            client.chat(**situation.request)

    assert asked == [target(each) for each in decision.targets]
    assert plain(failed.value.trace["route"]["considered"]) == plain(decision.considered)
    for row in decision.considered:
        assert re.search(rf"{row.provider} (\({row.model}\)|takes)", str(failed.value))
        assert row.verdict != "skipped" or row.reason.partition(" for ")[0] in str(failed.value)


def test_the_situations_have_every_reason():
    """The forty are no forty of one kind."""
    reasons = []
    for seed in SEEDS:
        situation = Situation(seed)
        opened, prepare = situation.open("sync", Answer())
        with opened as client:
            prepare(client)
            decision = client.client.explain(**situation.request)
        reasons += [row.reason for row in decision.considered]

    missing = [kind for kind, words in KINDS_OF_REASON.items() if not any(words in reason for reason in reasons)]
    assert missing == []


def group_of(url, *deployments, **block):
    """A configuration whose provider `cloud` is a group, with a provider behind it."""
    shared = {"model": "openai/gpt-4o", "api_base": url, "api_key": KEY}
    listed = [{"model_name": "g", "litellm_params": {**shared, **own}} for own in deployments or [{}]]
    providers = {"cloud": {"model": "g"}, "behind": {**shared, "model": "openai/gpt-4o-mini"}}
    own = {"project": "acme", "providers": providers, "chains": {"default": ["cloud", "behind"]}}
    settings = {"num_retries": 0, "enable_tag_filtering": True}
    return {
        "model_list": listed,
        "router_settings": settings,
        "blueprint": {**own, "store": {"url": "memory"}, **block},
    }


def spent(scope, **more):
    """A budget without money."""
    return {"budgets": [{"scope": scope, "limit_usd": 0, "window": "day", **more}]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("deployments", "block", "before", "request_", "provider"),
    [
        pytest.param([{}], {}, 0, {}, "cloud", id="nothing in the way"),
        pytest.param([{}], spent("provider:cloud"), 0, {}, "behind", id="a budget of the provider"),
        pytest.param([{}], spent("model:g"), 0, {}, "behind", id="a budget of the group"),
        pytest.param(
            [{}], spent("provider:cloud", on_exceed="degrade", chain=["behind"]), 0, {}, "behind", id="a degrade"
        ),
        pytest.param([{"rpm": 1}], {}, 1, {}, "behind", id="its only deployment's limit"),
        pytest.param([{"tpm": 5}], {}, 0, {}, "behind", id="a limit of tokens"),
        pytest.param(
            [{"rpm": 1}, {"rpm": 1, "timeout": 50}], {}, 1, {"max_tokens": 9}, None, id="one of two deployments' limits"
        ),
        pytest.param([{"tags": ["paid"]}], {}, 0, {"metadata": {"tags": ["free"]}}, "behind", id="another tag"),
        pytest.param([{"tags": ["paid"]}], {}, 0, {"metadata": {"tags": ["paid"]}}, "cloud", id="its tag"),
    ],
)
def test_explain_of_a_group(litellm_warm, deployments, block, before, request_, provider, kind):
    """A group is judged by its deployments' limits and tags, under the provider's name; the call goes the same way."""
    server = FaultServer(default=Answer())
    with server, asking(kind, group_of(server.url, *deployments, **block)) as client:
        for _ in range(before):
            client.chat(messages=MESSAGES, provider="cloud", fallback=False, max_tokens=9)
        decision = client.client.explain(messages=MESSAGES, **request_)
        answer = client.chat(messages=MESSAGES, **request_)

    chosen = next(row.provider for row in decision.considered if row.verdict == "chosen")
    assert chosen == (provider or "cloud")
    assert answer.provider == chosen or provider is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize(
    "limit",
    [{"rpm": 1}, {"tpm": 40}, {"max_budget": 4e-5, "budget_duration": "1d"}, {"max_parallel_requests": 0}],
    ids=str,
)
def test_a_group_with_full_deployments_answers_by_the_free_one(litellm_warm, limit, retries, streamed, kind):
    """Whichever deployments LiteLLM's Router picks first: one that is full sends nothing, the free one answers."""
    full, free = FaultServer(default=Answer()), FaultServer(default=Answer())
    with full, free:
        config = group_of(full.url, limit, {**limit, "timeout": 50}, {"api_base": free.url})
        config["router_settings"] |= {"num_retries": retries, "disable_cooldowns": True}
        config["blueprint"]["chains"]["default"] = ["cloud"]
        with asking(kind, config) as client:
            asked = client.chat if not streamed else lambda **request: client.stream(**request)[1]
            for _ in range(6):
                decision = client.client.explain(messages=MESSAGES, max_tokens=9)
                answer = asked(messages=MESSAGES, max_tokens=9)
                assert [row.verdict for row in decision.considered] == ["chosen"]
                assert answer.content

    assert len(full.requests) <= (2 if "rpm" in limit else 0)
    assert len(full.requests) + len(free.requests) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_deployment_costs_no_retry_of_the_others(litellm_warm, kind):
    """Behind a full deployment the free one is asked once where there are no retries, also when it fails."""
    server = FaultServer(default=Status(503))
    with server:
        config = group_of(server.url, {"rpm": 0}, {"timeout": 50})
        config["blueprint"]["chains"]["default"] = ["cloud"]
        with asking(kind, config) as client, pytest.raises(BlueprintError):
            client.chat(messages=MESSAGES)

    assert len(server.requests) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_with_a_resting_deployment_answers_by_the_other_one(litellm_warm, kind):
    """A circuit that is open closes its own deployment only, whatever `num_retries` says; all of them close a group."""
    bad, good = FaultServer(default=Status(500)), FaultServer(default=Answer())
    with bad, good:
        config = group_of(bad.url, {}, {"api_base": good.url}, breaker={"failures": 1, "open_s": 600})
        config["router_settings"] |= {"disable_cooldowns": True}
        config["blueprint"]["providers"]["behind"]["api_base"] = good.url
        with asking(kind, config) as client:
            for _ in range(12):  # until the Router has tried both
                client.chat(messages=MESSAGES)
            before = len(good.requests)
            for _ in range(6):
                assert client.client.explain(messages=MESSAGES).targets[0]["provider"] == "cloud"
                assert client.chat(messages=MESSAGES).provider == "cloud"

    assert (len(bad.requests), len(good.requests)) == (1, before + 6)
