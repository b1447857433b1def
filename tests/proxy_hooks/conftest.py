"""Worlds and servers for the hooks' tests."""

import contextlib

import litellm
import pytest
from driving import closing_clients
from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER
from routed import LISTS, World

from blueprint_llm.testing import FaultServer


@pytest.fixture
async def world(monkeypatch, litellm_warm):
    """Make a `World`; what LiteLLM keeps for the process is as before at the end."""
    for name in LISTS:
        monkeypatch.setattr(litellm, name, [])
    made = []

    def make(*args, **more):
        made.append(World(*args, **more))
        return made[-1]

    yield make
    await closing_clients(GLOBAL_LOGGING_WORKER.stop())
    for each in made:
        await each.close()


@pytest.fixture
def serve():
    """Servers that end with the test: `serve(steps...)`."""
    with contextlib.ExitStack() as stack:
        yield lambda *steps, **more: stack.enter_context(FaultServer(steps, **more))
