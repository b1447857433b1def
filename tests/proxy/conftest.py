"""The tests here start LiteLLM's proxy: they are collected only with BLUEPRINT_PROXY=1, as `nox -s proxy` sets it."""

import contextlib
import os

import proxied
import pytest
import redis_server
from endpoint_server import Endpoints
from serving import serving

# Read here: each test runs without any variable of this kind.
collect_ignore_glob = [] if os.environ.get("BLUEPRINT_PROXY") == "1" else ["test_*.py"]


@pytest.fixture(scope="session")
def upstream():
    """The provider behind every proxy."""
    with proxied.Upstream() as server:
        yield server


@pytest.fixture(scope="session")
def others():
    """The provider of the endpoints other than chat, and its address."""
    with serving(Endpoints) as found:
        yield found


@pytest.fixture
def endpoints(others):
    """The same, with nothing asked yet."""
    others[0].asked.clear()
    return others[0]


@pytest.fixture(scope="session")
def proxy(upstream, others, tmp_path_factory):
    """One proxy for the tests that keep apart by their projects: to start it is most of the time."""
    with proxied.running(tmp_path_factory.mktemp("one") / "proxy", upstream, others=others[1]) as started:
        yield started


@pytest.fixture
def pair(upstream, tmp_path):
    """Two proxies that share nothing but a Redis."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(redis_server.running(tmp_path))
        yield [stack.enter_context(proxied.running(tmp_path / name, upstream, url)) for name in ("left", "right")]
