"""What providers really receive: the bodies of a loopback server, along random fallback chains."""

from __future__ import annotations

import contextlib
import json
import random
from typing import Any

import litellm
import pytest
from context_histories import Gemini, OpenAI, history
from driving import KEY

from blueprint_llm import SyncLLMClient
from blueprint_llm.context.shaping import broken_pairs
from blueprint_llm.errors import BlueprintError
from blueprint_llm.testing import Answer, FaultServer, Request, Status

KINDS = ["project_map", "file", "snippet", "diff", "tool_result", "memory", "user"]
PACKS, QUICK = 10_000, 60
PROVIDERS = {
    "open_ok": True,
    "open_down": True,
    "shut_ok": False,
    "shut_down": False,
    "loopback_ok": None,
    "loopback_down": None,
}


def reply(request: Request) -> Any:
    """Down or up, as the model's name says."""
    return Status(503) if request.body["model"].endswith("down") else Answer("ok")


def configuration(url: str) -> dict[str, Any]:
    """Providers that may see code, may not, or are loopback hosts of which nothing is said."""
    providers = {
        name: {"model": f"openai/{name}", "api_base": url, "api_key": KEY, "share_codebase": share}
        for name, share in PROVIDERS.items()
    }
    limits = {"retry": {"max_attempts": 1}, "breaker": {"failures": 1_000_000}}
    return {"blueprint": {"version": 1, "providers": providers, "chains": {"default": list(providers)}, **limits}}


@pytest.mark.parametrize(
    ("seed", "packs"),
    [
        pytest.param(0, QUICK, id="quick"),
        *(pytest.param(seed, PACKS // 4, id=f"seed {seed}", marks=pytest.mark.slow) for seed in range(1, 5)),
    ],
)
def test_bodies_on_the_wire_hold_only_what_each_provider_may_see(seed: int, packs: int) -> None:
    """A provider that shares no code never receives a project part, also after a fallback from or to it."""
    draw = random.Random(seed)  # noqa: S311 - test data
    with FaultServer(reply) as server, SyncLLMClient.from_config(configuration(server.url)) as client:
        for n in range(packs):
            parts = [
                {"kind": draw.choice(KINDS), "source": f"s{i}", "text": f"part-{n}-{i}-"}
                for i in range(draw.randint(1, 6))
            ]
            client.set_fallback_chain(draw.sample(sorted(PROVIDERS), draw.randint(1, 4)))
            before = len(server.requests)
            with contextlib.suppress(BlueprintError):
                client.chat(messages=[{"role": "user", "content": "q"}], context=parts)
            bodies = [request.body for request in server.requests[before:]]

            assert bodies
            for body in bodies:
                text = json.dumps(body["messages"])
                for part in parts:
                    allowed = part["kind"] == "user" or body["model"].startswith("open")
                    assert (part["text"] in text) is allowed


def test_the_window_on_the_wire_is_used(litellm_warm: None) -> None:
    """What a server receives of histories that are too long fills its window by the tokenizer, and is whole."""
    draw = random.Random(3)  # noqa: S311 - test data
    fills = []
    for _ in range(12):
        messages, window = history(draw, (OpenAI, Gemini)), draw.randint(1500, 3000)
        provider = {"model": "openai/gpt-4o-mini", "api_key": KEY, "max_context_tokens": window}
        with FaultServer([Answer("ok")]) as server:
            blueprint = {"version": 1, "providers": {"small": {**provider, "api_base": server.url}}}
            with SyncLLMClient.from_config({"blueprint": blueprint}) as client:
                client.chat(messages=messages)
            sent = server.requests[0].body["messages"]
        tokens = litellm.token_counter(model="gpt-4o-mini", messages=sent)
        assert tokens <= window
        assert not broken_pairs(sent)
        if litellm.token_counter(model="gpt-4o-mini", messages=messages) > window:
            fills.append(tokens / window)

    assert len(fills) > 5
    assert sum(fills) / len(fills) >= 0.85


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_a_window_is_filled_to_what_the_provider_counts(*, streamed: bool, litellm_warm: None) -> None:
    """A provider that counts 1.4 times as many tokens gets so much less from the second request on."""
    sent: list[int] = []

    def reply(request: Request) -> Any:
        sent.append(litellm.token_counter(model="gpt-4o-mini", messages=request.body["messages"]))
        return Answer("ok", usage=(int(sent[-1] * 1.4), 1))

    messages = history(random.Random(5), (OpenAI,))  # noqa: S311 - test data
    provider = {"model": "openai/gpt-4o-mini", "api_key": KEY, "max_context_tokens": 2000}
    with FaultServer(reply) as server:
        blueprint = {"version": 1, "providers": {"other": {**provider, "api_base": server.url}}}
        with SyncLLMClient.from_config({"blueprint": blueprint}) as client:
            for _ in range(2):
                if streamed:
                    list(client.stream(messages=messages))
                else:
                    client.chat(messages=messages)

    assert 1700 < sent[0] <= 2000
    assert 1700 < sent[1] * 1.4 <= 2000
