"""LiteLLM's proxy with the plugin as a process of its own, and the provider behind it."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import openai

from blueprint_llm import UsageFilter, UsageTracker
from blueprint_llm.testing import Answer, FaultServer
from blueprint_llm.usage.stores import SqliteStore
from blueprint_llm.usage.stores.redis_store import RedisStore

MASTER_KEY = "sk-cnryPm4sT3rKeyQw2ZxV9bT4mKp8Lr"
UPSTREAM_KEY = "sk-cnryUp5tReAmKeyN3yHd6GfJs1Zx0V"
# A call costs at most 0.1 USD, and 0.095 when it is done: the budget pays for ten, one after the other or at once.
PRICE = {"input_cost_per_token": 0, "output_cost_per_token": 0.001}
CAP, USED, BUDGET = 100, 95, 1.04
BLUEPRINT = {
    "budgets": [{"scope": "project", "limit_usd": BUDGET, "window": "day"}],
    "quotas": [{"scope": "session", "requests": 3, "window": "day"}],
    "cache": {"enabled": True},
}


class Proxy:
    """A running LiteLLM proxy with the plugin."""

    def __init__(self, url, log, store):
        self.url, self._log, self._store = url, log, store

    @property
    def log(self):
        """What it has written so far, on either output."""
        return self._log.read_text()

    def client(self, kind=openai.OpenAI, **keywords):
        """The vendor's client; it tries once."""
        return kind(base_url=f"{self.url}/v1", api_key=MASTER_KEY, max_retries=0, **keywords)

    def post(self, path, body):
        """What a route answers."""
        headers = {"Authorization": f"Bearer {MASTER_KEY}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()

    def ask(self, **request):
        """A whole answer."""
        with self.client() as client:
            return client.chat.completions.create(**request)

    def chunks(self, **request):
        """The chunks of a streamed answer, as they come."""
        with self.client() as client, client.chat.completions.create(**request, stream=True) as stream:
            yield from stream

    def usage(self, project, *, calls=0, timeout_s=10.0):
        """What the ledger says of a project, once it has `calls`."""
        tracker, until = UsageTracker(self._store()), time.monotonic() + timeout_s
        while (stats := tracker.get_usage(UsageFilter(project=project))).calls < calls and time.monotonic() < until:
            time.sleep(0.05)
        return stats

    def rows(self, project):
        """A project's attempts, newest first."""
        return UsageTracker(self._store()).newest(UsageFilter(project=project))


class Upstream(FaultServer):
    """Answers each test as it was told for that test's project, which is the user message's first word."""

    def __init__(self):
        self.steps = {}
        super().__init__(lambda request: self.steps.get(spoken(request), Answer("Hello", usage=(12, USED))))

    def asked(self, project):
        """The requests of one project."""
        return [request for request in self.requests if spoken(request) == project]


def spoken(request):
    """The first word of a request's last message."""
    messages = request.body.get("messages") or [{"content": ""}]
    return messages[-1]["content"].partition(" ")[0]


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(folder, upstream, redis_url=None, *, others=None):
    """A proxy in front of `upstream`, in a process of its own that is gone at the end; `others`: more endpoints."""
    ledger = folder / "ledger.sqlite"
    deployment = {"model": "openai/gpt-4o-mini", "api_key": "os.environ/UPSTREAM_KEY", "api_base": upstream.url}
    listed = [{"model_name": "gpt", "litellm_params": {**deployment, **PRICE}}]
    models = {
        "responses": "openai/gpt-4o",
        "embeddings": "openai/text-embedding-3-small",
        "claude": "anthropic/claude-sonnet-4-5",
    }
    for name, model in models.items() if others else ():
        address = others.removesuffix("/v1") if name == "claude" else others
        listed.append({"model_name": name, "litellm_params": {**deployment, "model": model, "api_base": address}})
    document = {
        "model_list": listed,
        "litellm_settings": {"callbacks": ["blueprint_llm.proxy.hooks"], "num_retries": 0},
        "general_settings": {"master_key": MASTER_KEY, "cancel_on_disconnect": True},
        "blueprint": {"version": 1, "store": {"url": redis_url or f"sqlite:{ledger}"}, **BLUEPRINT},
    }
    store = lambda: RedisStore(redis_url) if redis_url else SqliteStore(ledger)  # noqa: E731 - made anew for each look
    with started(folder, json.dumps(document), UPSTREAM_KEY=UPSTREAM_KEY) as url:  # JSON is YAML
        yield Proxy(url, folder / "log", store)


@contextlib.contextmanager
def started(folder, text, **environ):
    """The address of a proxy of this configuration, in a process of its own."""
    folder.mkdir()
    config, log, port = folder / "proxy.yaml", folder / "log", free_port()
    config.write_text(text)
    command = [str(Path(sys.executable).with_name("litellm")), "--config", str(config)]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=output,
            env={
                **os.environ,
                "BLUEPRINT_HOME": str(folder),
                "HOME": str(folder),
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                **environ,
            },
            cwd=folder,
        )
        try:
            wait_until_alive(process, port, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=30)


def wait_until_alive(process, port, log, timeout_s=120):
    """Wait until the proxy answers; starting takes it about ten seconds."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=5).close()
            return
        time.sleep(0.2)
    raise AssertionError(f"the proxy did not start:\n{log.read_text()}")
