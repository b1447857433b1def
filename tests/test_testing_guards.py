import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest


def dial(family, address, verb):
    """Connect one way or the other."""
    with socket.socket(family) as connection:
        getattr(connection, verb)(address)


@pytest.mark.parametrize(
    "attempt",
    [
        pytest.param(lambda: dial(socket.AF_INET, ("192.0.2.1", 80), "connect"), id="connect by address"),
        pytest.param(lambda: dial(socket.AF_INET, ("192.0.2.1", 80), "connect_ex"), id="connect_ex"),
        pytest.param(lambda: dial(socket.AF_INET6, ("2001:db8::1", 80), "connect"), id="IPv6"),
        pytest.param(lambda: socket.getaddrinfo("example.com", 443), id="look a name up"),
        pytest.param(lambda: urllib.request.urlopen("http://example.com", timeout=1), id="urllib"),
    ],
)
def test_leaving_loopback_is_an_error_and_is_remembered(loopback_only, attempt):
    """An attempt to reach another host raises at once and is noted for the test's end."""
    with pytest.raises(OSError, match="loopback"):
        attempt()

    assert loopback_only
    loopback_only.clear()  # this test meant it


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_is_open(host):
    """Local names and addresses pass the guard."""
    assert socket.getaddrinfo(host, 80)


def test_unix_sockets_are_free(tmp_path):
    """A Unix socket is no way out of the machine and is left alone."""
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "s"))
        server.listen()
        client.connect(str(tmp_path / "s"))

        assert client.getpeername().endswith("/s")


def test_the_home_is_empty_and_no_key_is_set(bare_environment):
    """A test sees an empty home folder, and none of the machine's provider keys."""
    assert Path.home() == bare_environment
    assert not list(bare_environment.iterdir())
    assert not [name for name in os.environ if name.endswith("_API_KEY")]
    assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "True"


@pytest.mark.slow
def test_a_swallowed_attempt_fails_the_test(tmp_path):
    """Code that tries another host behind a broad except does not get away with it."""
    (tmp_path / "conftest.py").write_text(Path(__file__).with_name("conftest.py").read_text())
    (tmp_path / "test_quiet.py").write_text(
        "import contextlib, socket\n"
        "def test_quiet():\n"
        "    with contextlib.suppress(Exception):\n"
        "        socket.getaddrinfo('example.com', 80)\n"
    )

    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, str(tmp_path)]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert outcome.returncode == pytest.ExitCode.TESTS_FAILED
    assert "tried to leave the loopback network: example.com" in outcome.stdout
