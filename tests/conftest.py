"""Every test runs in an empty home, without a provider's key, and cannot leave the loopback network.

The guard sits on `socket` itself, so it also sees what a library does behind a broad `except`: such an attempt raises
where it happens and fails the test at its end.
"""

import asyncio
import gc
import inspect
import ipaddress
import os
import re
import signal
import socket
import sys
import tempfile
from pathlib import Path

import pytest

from blueprint_llm import redaction, sync

DIRECT = "127.0.0.1,localhost,::1"
STATIC = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1", "NO_PROXY": DIRECT, "no_proxy": DIRECT}
HOMES = ("HOME", "BLUEPRINT_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")
KEYS = re.compile(
    r".*_(API_KEY|API_BASE|BASE_URL|API_TOKEN)$|^(OPENAI|ANTHROPIC|AZURE|AWS|VERTEX\w*|GEMINI|LITELLM|BLUEPRINT|OLLAMA)_"
    r"|^GOOGLE_APPLICATION_CREDENTIALS$"
)

# Test modules may import LiteLLM while they are collected, before any fixture runs.
os.environ |= STATIC
# A shell starts its background jobs deaf to Ctrl-C, and their children; tests of Ctrl-C send it to children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# LiteLLM's sync calls would make an event loop for this thread and leave it open; they cope without.
asyncio.set_event_loop(None)


class LeftLoopbackError(OSError):
    """A test tried to reach another host."""


def is_loopback(host):
    """Whether a host's name or address is this machine; None and "" ask for any local address."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in {None, "", "localhost"}:
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch):
    """Fail a test that connects to, or looks up, anything but the loopback network; AF_UNIX is free."""
    offences = []

    def check(host):
        if not is_loopback(host):
            offences.append(str(host))
            raise LeftLoopbackError(f"tests may only use the loopback network, this one tried {host!r}")

    def guarded(original):
        def connect(self, address):
            if self.family in {socket.AF_INET, socket.AF_INET6}:
                check(address[0])
            return original(self, address)

        return connect

    def getaddrinfo(host, *args, **keywords):
        check(host)
        return lookup(host, *args, **keywords)

    lookup = socket.getaddrinfo
    monkeypatch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield offences
    if offences:
        pytest.fail(f"this test tried to leave the loopback network: {', '.join(offences)}")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch, tmp_path_factory):
    """An empty home and no provider's variable, for the test and the processes that it starts."""
    home = tmp_path_factory.mktemp("home")
    for name in [name for name in os.environ if KEYS.match(name)]:
        monkeypatch.delenv(name)
    for name, value in STATIC.items():
        monkeypatch.setenv(name, value)
    for name in HOMES:
        monkeypatch.setenv(name, str(home if name == "HOME" else home / name.lower()))
    return home


@pytest.fixture(scope="session")
def litellm_warm():
    """LiteLLM imported and called once: its first call imports 500 modules more, which no deadline should see."""
    import litellm  # noqa: PLC0415 - only the tests that call it pay for it

    nowhere = {"model": "openai/warm", "messages": [], "api_base": "http://127.0.0.1:9", "api_key": "k"}
    with pytest.raises(litellm.InternalServerError):
        sync.run(litellm.acompletion(**nowhere, max_retries=0))
    return litellm


@pytest.fixture(autouse=True)
def litellm_clients():
    """LiteLLM keeps HTTP clients and callbacks for the life of the process; a test's go with it, so ours stand out."""
    yield
    litellm = sys.modules.get("litellm")
    if manager := getattr(litellm, "logging_callback_manager", None):
        manager._reset_all_callbacks()  # a Router with a strategy listens to every call of the process from then on
    cache = getattr(litellm, "in_memory_llm_clients_cache", None)
    if cache is not None:
        if cache.cache_dict:
            sync.run(litellm.close_litellm_async_clients())
        for client in list(cache.cache_dict.values()):
            close_sync(client)
        cache.flush_cache()


def close_sync(client):
    """Close a client of LiteLLM's cache unless it is an asynchronous one: those need their own event loop."""
    inner = getattr(client, "client", client)
    close = getattr(inner, "close", None)
    if close is not None and not inspect.iscoroutinefunction(close):
        close()


@pytest.fixture(autouse=True)
def forgotten_secrets():
    """What one test registers as a secret must not be masked in another's texts."""
    yield
    redaction._REGISTRY.clear()


@pytest.fixture(scope="module")
def collected():
    """What a module's tests leave to the garbage collector is found under that module's filter of warnings."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def forgotten_configuration():
    """The configuration that the drop-in functions found in one test is not the next one's."""
    yield
    compat = sys.modules.get("blueprint_llm.compat")
    if compat is not None:
        compat.uninstall()
        compat.guarding.forget()


@pytest.fixture
def shared_tmp():
    """A folder that other users may enter; pytest's own is closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
