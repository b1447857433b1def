"""Limits hold through the client, on SQLite and on Redis: 200 calls at once from 4 processes, and 300 killed ones."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import redis_server
from driving import KEY, MESSAGES

from blueprint_llm import SyncLLMClient
from blueprint_llm.errors import BudgetExceededError
from blueprint_llm.testing import Answer, FaultServer, Status

OUTPUT_TOKENS, USD_PER_TOKEN = 10, 0.001  # a call is reserved at 0.01 USD
LIMIT_USD = 50 * OUTPUT_TOKENS * USD_PER_TOKEN
PROCESSES, CALLS = 4, 50
pytestmark = pytest.mark.slow

CALLER = """
import asyncio, collections, json, sys
from blueprint_llm import LLMClient
from blueprint_llm.errors import BlueprintError
config, calls = json.loads(sys.argv[1]), int(sys.argv[2])
async def call(client):
    try:
        await client.chat(messages=[{"role": "user", "content": "hello"}], max_tokens=10)
        return "ok"
    except BlueprintError as error:
        names = ("scope", "limit", "limit_usd", "resets_at")
        return json.dumps([type(error).__name__, {name: getattr(error, name, None) for name in names}])
async def main():
    async with LLMClient(config) as client:
        client.explain(messages=[{"role": "user", "content": "hello"}])
        print("ready", flush=True)
        sys.stdin.readline()
        said = collections.Counter(await asyncio.gather(*(call(client) for _ in range(calls))))
    print(json.dumps(said), flush=True)
asyncio.run(main())
"""

ROUNDS, VICTIMS = 75, 4  # 300 kills
BILLED_TOKENS, TTL_S = 7, 1.0
# A parent that has called once, and closed its connection, forks a victim for every line it reads, and names its pid. A
# victim calls through the client that it inherits until it is killed.
FORKER = """
import json, os, signal, sys, time
from blueprint_llm import SyncLLMClient
from blueprint_llm.errors import BlueprintError, BudgetExceededError
client = SyncLLMClient(json.loads(sys.argv[1]))
def call():
    client.chat(messages=[{"role": "user", "content": "hello"}], max_tokens=10)
def victim():
    os.dup2(2, 1)  # LiteLLM prints hints
    until = time.monotonic() + 10  # a test that failed kills nobody
    while time.monotonic() < until:
        try:
            call()
        except BudgetExceededError:
            os.write(denials, b"d")
        except BlueprintError:
            pass
    os._exit(0)
call()
denials = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead need not be waited for
while sys.stdin.readline():
    print(os.fork() or victim(), flush=True)
"""


@pytest.fixture(params=["sqlite", "redis"])
def store(request, tmp_path):
    """The URL of an empty store that processes share."""
    if request.param == "sqlite":
        yield f"sqlite:{tmp_path}/ledger.sqlite"
        return
    with redis_server.running(tmp_path) as url:
        yield url


def configuration(url, store, **limits):
    """One provider whose answers cost money by the output token only.

    Not a group of `model_list`: LiteLLM's Router works in no process that was forked after its first call.
    """
    priced = {"input_cost_per_token": 0, "output_cost_per_token": USD_PER_TOKEN}
    provider = {"model": "openai/priced", "api_base": url, "api_key": KEY, **priced}
    block = {"version": 1, "project": "acme", "providers": {"priced": provider}, "store": {"url": store}, **limits}
    return {"blueprint": block}


def rush(config):
    """What all callers heard together."""
    command = [sys.executable, "-W", "ignore", "-c", CALLER, json.dumps(config), str(CALLS)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": dict(os.environ)}
    callers = [subprocess.Popen(command, **pipes) for _ in range(PROCESSES)]
    for caller in callers:
        assert caller.stdout.readline() == "ready\n"
    for caller in callers:
        caller.stdin.write("go\n")
        caller.stdin.flush()
    heard = {}
    for caller in callers:
        output, _ = caller.communicate(timeout=120)
        for said, count in json.loads(output.splitlines()[-1]).items():
            heard[said] = heard.get(said, 0) + count
    return heard


def test_a_quota_of_50_requests_lets_50_through(store):
    """Exactly 50 of 200 calls reach the server; the others say which quota, how much and until when."""
    with FaultServer(default=Answer("x", usage=(5, 10), delay_s=0.05)) as server:
        config = configuration(server.url, store, quotas=[{"scope": "project", "requests": 50, "window": "month"}])

        heard = rush(config)

        assert len(server.requests) == 50
    assert heard.pop("ok") == 50
    ((kind, facts),) = [json.loads(said) for said in heard]
    assert kind == "QuotaExceededError"
    assert (facts["scope"], facts["limit"]) == ("project", 50)
    assert facts["resets_at"]


def test_a_budget_of_50_worst_costs_lets_50_through(store):
    """The server bills exactly what was reserved: 50 calls, and the budget is spent to the last nano-USD."""
    with FaultServer(default=Answer("x", usage=(5, OUTPUT_TOKENS), delay_s=0.05)) as server:
        config = configuration(server.url, store, budgets=[{"scope": "project", "limit_usd": LIMIT_USD}])

        heard = rush(config)

        assert len(server.requests) == 50
        with SyncLLMClient(config) as client:
            assert client.get_usage().cost_usd == pytest.approx(LIMIT_USD, abs=1e-9)
    assert heard.pop("ok") == 50
    ((kind, facts),) = [json.loads(said) for said in heard]
    assert kind == "BudgetExceededError"
    assert facts["limit_usd"] == LIMIT_USD


def test_freed_money_is_usable_and_never_too_much(store, litellm_warm):
    """The server bills less than was reserved: never over the limit, and what was freed is spent afterwards."""
    with FaultServer(default=Answer("x", usage=(5, 4), delay_s=0.02)) as server:
        config = configuration(server.url, store, budgets=[{"scope": "project", "limit_usd": LIMIT_USD}])

        heard = rush(config)

        assert heard["ok"] >= 50
        with SyncLLMClient(config) as client:
            while True:
                try:
                    client.chat(messages=MESSAGES, max_tokens=OUTPUT_TOKENS)
                except BudgetExceededError:
                    break
            spent = client.get_usage().cost_usd
        assert len(server.requests) == round(spent / (4 * USD_PER_TOKEN))
    assert LIMIT_USD - OUTPUT_TOKENS * USD_PER_TOKEN < spent <= LIMIT_USD


def test_300_killed_callers_leave_no_hole(store, tmp_path):
    """Killed at any moment of `chat`: never over a limit, never below what the server billed, no leak after TTL + 1 s.

    A month's budget holds the whole truth; one of two seconds is used up over and over.
    """
    chance = random.Random(7)  # noqa: S311 - a seed, so that a failure can be repeated
    billed, denials = [], tmp_path / "denials"

    def step(request):
        if billed and chance.random() < 0.2:
            return Status(500)  # not billed, and tried again
        billed.append(request)
        return Answer("x", usage=(5, BILLED_TOKENS), headers={"connection": "close"})

    with FaultServer(step) as server:
        month = {"scope": "project", "limit_usd": 1000.0, "window": "month"}
        moment = {"scope": "global", "limit_usd": 30 * OUTPUT_TOKENS * USD_PER_TOKEN, "window": "2s"}
        config = configuration(server.url, store, budgets=[month, moment])
        config["blueprint"]["store"]["reservation_ttl_s"] = TTL_S
        config["blueprint"]["retry"] = {"base_s": 0.001}
        with SyncLLMClient(config) as client, forking(config, denials) as parent:
            for _ in range(ROUNDS):
                for victim in [forked(parent) for _ in range(VICTIMS)]:
                    time.sleep(chance.uniform(0, 0.2))  # a child needs a loop and a client of its own first
                    check_bounds(client, billed)
                    os.kill(victim, signal.SIGKILL)
            time.sleep(TTL_S + 1)
            used, usage = check_bounds(client, billed), client.get_usage()
    assert used == pytest.approx(usage.cost_usd, abs=1e-9)  # nothing is reserved any more
    assert usage.errors > usage.calls - len(billed) > 0  # some died between reserving and settling
    assert denials.stat().st_size > 0


@contextmanager
def forking(config, denials):
    """A process that forks victims; it ends with its input."""
    command = [sys.executable, "-W", "ignore", "-c", FORKER, json.dumps(config), str(denials)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, **pipes) as parent:
        yield parent


def forked(parent):
    """The pid of a new victim."""
    parent.stdin.write("\n")
    parent.stdin.flush()
    return int(parent.stdout.readline())


def check_bounds(client, billed):
    """What the month's budget holds now, in USD; no limit is exceeded, and nothing that was billed is missing."""
    least = len(billed) * BILLED_TOKENS * USD_PER_TOKEN  # read first: what comes later only adds to the budget's
    levels = {level["scope"]: level for level in client.explain(messages=MESSAGES, max_tokens=OUTPUT_TOKENS).budgets}
    assert all(level["used"] <= level["limit"] + 1e-9 for level in levels.values())
    assert levels["project"]["used"] >= least - 1e-9
    return levels["project"]["used"]
