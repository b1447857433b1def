"""Prices and the ledger's own thinking: what they cost a call, beside LiteLLM's price function and the yardstick."""

import os
from datetime import date

from measuring import limited, median_s, row

from blueprint_llm import models
from blueprint_llm.config.blocks import Budget, Pricing, Quota
from blueprint_llm.config.model import Config
from blueprint_llm.types import UsageInfo
from blueprint_llm.usage import Ledger, Outcome, Payer, demand
from blueprint_llm.usage.pricing import Prices

DAY = date(2026, 6, 15)
SHARE = 100 / 60  # at most 100 us where LiteLLM's own arithmetic takes 60: it takes twice that on a slower machine
MODEL = "openai/gpt-4o"
USAGE = UsageInfo(prompt_tokens=1000, completion_tokens=500, cached_tokens=100)


def litellm_price():
    """LiteLLM's own arithmetic for the same call."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm  # noqa: PLC0415 - seconds, and only this line needs it

    return median_s(lambda: litellm.cost_per_token(model=MODEL, prompt_tokens=1000, completion_tokens=500), 200)


def priced():
    """Looking a price up and computing what a call can cost at most."""
    prices, asked = Prices.load(Pricing()), demand({"messages": [{"role": "user", "content": "x" * 1000}]})

    def once():
        card = prices.price("cloud", MODEL, at=DAY)
        card.listed.worst_nano(asked, 4096)

    return median_s(once, 2000)


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

    return median_s(once, 2000)


def settled():
    """Rows: what LiteLLM's cost of an answer adds to settling it; of a whole one LiteLLM itself has counted it."""
    import litellm  # noqa: PLC0415 - is loaded by now

    from blueprint_llm.adapters import litellm as boundary  # noqa: PLC0415 - loads LiteLLM

    message = {"role": "assistant", "content": "word " * 50}
    usage = {"prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    answer = boundary.model_response({"model": "gpt-4o", "choices": choices, "usage": usage})

    def cost_s(hidden):
        answer._hidden_params = hidden
        return median_s(lambda: boundary.cost_of(answer, model=MODEL), 500) * 1e6

    whole, stream = cost_s({"response_cost": 0.01}), cost_s({})
    theirs = median_s(lambda: litellm.completion_cost(answer, model="gpt-4o", custom_llm_provider="openai"), 500) * 1e6
    return [
        limited("LiteLLM's cost of an answer, at settling", whole, 100, "us"),
        row("the same of a stream", stream, "litellm.completion_cost", theirs, SHARE, "us"),
    ]


def loaded():
    """Reading LiteLLM's map."""
    models.model_map.cache_clear()
    models.model_map()


def rows():
    """The table's lines."""
    theirs = litellm_price()
    return [
        row("price and worst cost of a call", priced() * 1e6, "litellm.cost_per_token", theirs * 1e6, 0.2, "us"),
        limited("ledger's decisions for an attempt, 4 limits", thought() * 1e6, 120, "us"),
        *settled(),
        limited("reading LiteLLM's map", median_s(loaded, 5) * 1e3, 40, "ms"),
    ]


if __name__ == "__main__":
    for line in rows():
        print(line)
