"""What providers really receive: the bodies of a loopback server, along random fallback chains."""

from __future__ import annotations

import contextlib
import json
import random
from typing import Any

import pytest
from driving import KEY

from blueprint_llm import SyncLLMClient
from blueprint_llm.errors import BlueprintError
from blueprint_llm.testing import Answer, FaultServer, Request, Status

KINDS = ["project_map", "file", "snippet", "diff", "tool_result", "memory", "user"]
PACKS = 10_000
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


@pytest.mark.parametrize("seed", range(4))
def test_bodies_on_the_wire_hold_only_what_each_provider_may_see(seed: int) -> None:
    """A provider that shares no code never receives a project part, also after a fallback from or to it."""
    draw = random.Random(seed)  # noqa: S311 - test data
    with FaultServer(reply) as server, SyncLLMClient.from_config(configuration(server.url)) as client:
        for n in range(PACKS // 4):
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
