"""Prices and the ledger's own thinking: what they cost a call, beside LiteLLM's price function and the yardstick."""

import json
import os
import statistics
import time
from datetime import date

from blueprint_llm import models
from blueprint_llm.config.blocks import Budget, Pricing, Quota
from blueprint_llm.config.model import Config
from blueprint_llm.types import UsageInfo
from blueprint_llm.usage import Ledger, Outcome, Payer, demand
from blueprint_llm.usage.pricing import Prices

NOMINAL_S = 12e-6
DAY = date(2026, 6, 15)
MODEL = "openai/gpt-4o"
USAGE = UsageInfo(prompt_tokens=1000, completion_tokens=500, cached_tokens=100)


def seconds(call, count=2000):
    """The median time of `call`."""
    times = []
    for _ in range(count):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def yardstick():
    """Seconds that this machine takes now for json.loads of a 2 KB answer, nominally 12 us."""
    call = {"id": "call_1", "type": "function", "function": {"name": "read_file", "arguments": '{"path": "src/a.py"}'}}
    message = {"role": "assistant", "content": "Lorem ipsum dolor sit amet. " * 4, "tool_calls": [call] * 3}
    choices = [{"index": n, "finish_reason": "stop", "message": message} for n in range(3)]
    usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
    text = json.dumps(
        {"id": "chatcmpl-1", "created": 1700000000, "model": "gpt-4o", "choices": choices, "usage": usage}
    )
    return seconds(lambda: json.loads(text))


def litellm_price():
    """LiteLLM's own arithmetic for the same call."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm  # noqa: PLC0415 - seconds, and only this line needs it

    return seconds(lambda: litellm.cost_per_token(model=MODEL, prompt_tokens=1000, completion_tokens=500), 200)


def priced():
    """Looking a price up and computing what a call can cost at most."""
    prices, asked = Prices.load(Pricing()), demand({"messages": [{"role": "user", "content": "x" * 1000}]})

    def once():
        card = prices.price("cloud", MODEL, at=DAY)
        card.listed.worst_nano(asked, 4096)

    return seconds(once)


def thought():
    """Everything the ledger decides for one attempt under four limits, without a store."""
    budgets = [Budget(scope=scope, limit_usd=1000) for scope in ("project", "session", "provider:cloud")]
    book = Ledger(Config(project="a", budgets=budgets, quotas=[Quota(scope="model:gpt-4o", requests=10**6)]))
    payer = Payer(call_id="c", provider="cloud", model=MODEL, session="s")
    card, facts = Prices().price("cloud", MODEL, at=DAY), models.info(MODEL)
    keywords = {"messages": [{"role": "user", "content": "x" * 1000}]}

    def once():
        asked = demand(keywords)
        cap = book.cap(payer, max_tokens=None, facts=facts, card=card, asked=asked)
        guess = book.estimate(card, asked=asked, output_tokens=cap.bound)
        book.settlement(book.reservation("1", payer, guess), Outcome(usage=USAGE, cost_usd=0.01, latency_s=1.0))

    return seconds(once)


def settled(hidden):
    """What LiteLLM's cost of an answer adds to settling it; of a whole one LiteLLM has counted it in `hidden`."""
    from blueprint_llm.adapters import litellm as boundary  # noqa: PLC0415 - loads LiteLLM

    message = {"role": "assistant", "content": "word " * 50}
    usage = {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    answer = boundary.model_response({"model": "gpt-4o", "choices": choices, "usage": usage})
    answer._hidden_params = hidden
    return seconds(lambda: boundary.cost_of(answer, model=MODEL), 500)


def loaded():
    """Reading LiteLLM's map."""
    models.model_map.cache_clear()
    return seconds(models.model_map, 1)


def rows():
    """The table's lines."""
    unit, theirs = yardstick(), litellm_price()
    scale, price = unit / NOMINAL_S, priced()
    return [
        {
            "name": "price and worst cost of a call", "ours": price * 1e6, "peer": "litellm.cost_per_token",
            "peer_value": theirs * 1e6, "ratio": price / theirs, "target": 0.2, "ok": price <= 0.2 * theirs,
            "unit": "us",
        },
        _scaled("ledger's decisions for an attempt, 4 limits", thought(), 120e-6 * scale, unit),
        _scaled("LiteLLM's cost of an answer, at settling", settled({"response_cost": 0.01}), 100e-6 * scale, unit),
        {**_scaled("the same of a stream", settled({}), 100e-6 * scale, unit), "target": None, "ok": None},
        _scaled("reading LiteLLM's map", statistics.median(loaded() for _ in range(5)), 40e-3 * scale, unit),
    ]  # fmt: skip


def _scaled(name, ours, target, unit):
    return {
        "name": name, "ours": ours * 1e6, "peer": "yardstick", "peer_value": unit * 1e6, "ratio": ours / unit,
        "target": target * 1e6, "ok": ours <= target, "unit": "us",
    }  # fmt: skip


if __name__ == "__main__":
    for line in rows():
        print(line)
