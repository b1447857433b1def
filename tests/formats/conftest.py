"""The tests here need Node and npm: they are collected only with BLUEPRINT_FORMATS=1, as `nox -s formats` sets it."""

import json
import os
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

AIMOCK = "@copilotkit/aimock@1.43"
ANSWERS = Path(__file__).with_name("aimock.json")

# Read here: each test runs without any variable of this kind.
collect_ignore_glob = [] if os.environ.get("BLUEPRINT_FORMATS") == "1" else ["test_*.py"]


@pytest.fixture(scope="session")
def aimock_program(tmp_path_factory):
    """The `llmock` program: npm's, or the one below $AIMOCK_PREFIX."""
    prefix = os.environ.get("AIMOCK_PREFIX")
    if prefix is None:
        prefix = tmp_path_factory.mktemp("aimock")
        command = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", prefix, AIMOCK]
        subprocess.run(command, check=True, timeout=300)
    return Path(prefix, "node_modules", ".bin", "llmock")


@pytest.fixture(scope="session")
def aimock(aimock_program, tmp_path_factory):
    """The root URL of a server that speaks five formats and gives the answers of `aimock.json`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = tmp_path_factory.mktemp("aimock") / "said.txt"
    command = ["node", aimock_program, "-h", "127.0.0.1", "-p", str(port), "-f", ANSWERS, "--validate-on-load"]
    with said.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as server:
        try:
            wait_until_open(port, server, said)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def wait_until_open(port, server, said, patience_s=60):
    """Wait until the server takes connections; what it said goes to a file, so that no full pipe can stop it."""
    until = time.monotonic() + patience_s
    while server.poll() is None and time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"aimock does not listen: {said.read_text()}")


@pytest.fixture
def journal(aimock):
    """Find the request that holds a text among all that aimock saw; it notes a stream only after its end."""

    def find(text, patience_s=10):
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            with urllib.request.urlopen(aimock + "/__aimock/journal", timeout=10) as reply:
                found = [entry for entry in json.load(reply) if text in json.dumps(entry["body"])]
            if found:
                return found[-1]
            time.sleep(0.02)
        raise AssertionError(f"aimock saw no request with {text!r}")

    return find


@pytest.fixture(autouse=True)
def litellm_clients():
    """Leave LiteLLM's clients in its cache: its own function for closing them, used here, misses some sockets."""
