"""Fixtures for the tests of programs that use this library; pytest loads them by itself.

`scripted_client` makes a client whose only provider answers by script, without a socket; `fault_server` is a provider
on the loopback network that fails as it is told. Both fail a test whose script was not used up. The library loads with
the first fixture that is asked for, so a suite that uses none pays for none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import blueprint_llm  # its names load on first use

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from blueprint_llm.adapters import Call
    from blueprint_llm.testing import FaultServer, ScriptedAdapter, Step


class ScriptedClients:
    """Makes clients whose only provider, `scripted`, answers by script: `client = scripted_client(Answer("Hello"))`."""

    def __init__(self) -> None:
        self._adapters: list[ScriptedAdapter] = []
        self._clients: list[blueprint_llm.SyncLLMClient] = []

    def __call__(self, *steps: Step, **blueprint: Any) -> blueprint_llm.SyncLLMClient:
        """A blocking client; keywords are keys of the configuration's `blueprint:` block. The test's end closes it."""
        self._clients.append(blueprint_llm.SyncLLMClient(_configured(blueprint), adapters=self._scripted(steps)))
        return self._clients[-1]

    def asynchronous(self, *steps: Step, **blueprint: Any) -> blueprint_llm.LLMClient:
        """The same as `LLMClient`, for `async with`."""
        return blueprint_llm.LLMClient(_configured(blueprint), adapters=self._scripted(steps))

    @property
    def calls(self) -> list[Call]:
        """What was asked so far, by all clients of the test."""
        return [call for adapter in self._adapters for call in adapter.calls]

    def _scripted(self, steps: tuple[Step, ...]) -> dict[str, ScriptedAdapter]:
        from blueprint_llm.testing import ScriptedAdapter

        self._adapters.append(ScriptedAdapter(steps))
        return {"scripted": self._adapters[-1]}

    def close(self) -> None:
        """Close the blocking clients, then require that every script was used up."""
        for client in self._clients:
            client.close()
        for adapter in self._adapters:
            adapter.assert_done()


def _configured(blueprint: dict[str, Any]) -> dict[str, Any]:
    """One provider; retries wait for nothing, so that a test does not."""
    provider = {"model": "openai/gpt-4o", "api_key": "not-used"}
    return {"blueprint": {"providers": {"scripted": provider}, "retry": {"base_s": 0}, **blueprint}}


@pytest.fixture
def blueprint_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home for ledger, cache and audit: a test neither reads nor writes the user's own."""
    home = tmp_path_factory.mktemp("blueprint")
    monkeypatch.setenv("BLUEPRINT_HOME", str(home))
    return home


@pytest.fixture
def scripted_client(blueprint_home: Path) -> Iterator[ScriptedClients]:  # noqa: ARG001 - asked for its effect
    """Makes clients that answer by script, without a socket: `scripted_client(Status(429), Answer("Hello"))`."""
    clients = ScriptedClients()
    yield clients
    clients.close()


@pytest.fixture
def fault_server(blueprint_home: Path) -> Iterator[FaultServer]:  # noqa: ARG001 - asked for its effect
    """A server at `fault_server.url` that answers as told: `fault_server.add(Status(429), Cut(3), Answer("Hello"))`."""
    from blueprint_llm.testing import FaultServer

    with FaultServer() as server:
        yield server
    server.assert_done()
