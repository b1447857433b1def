"""The tests here need Chromium: they are collected only with BLUEPRINT_PAGES=1, as `nox -s pages` sets it.

The browser is driven over its own pipes with the DevTools protocol: no port, no driver program.
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
from itertools import count
from pathlib import Path

import pytest

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-pipe"),
)

# Read here: each test runs without any variable of this kind.
collect_ignore_glob = [] if os.environ.get("BLUEPRINT_PAGES") == "1" else ["test_*.py"]
SHOTS = os.environ.get("PAGES_SHOTS")


def pytest_collection_modifyitems(items):
    """Every test of this folder needs a browser."""
    for item in items:
        if "pages" in item.path.parts:
            item.add_marker("pages")


class Browser:
    """A running Chromium; messages are JSON with a NUL behind, commands on its file 3, replies on its file 4."""

    def __init__(self, profile):
        there, self._commands = os.pipe()
        self._replies, back = os.pipe()
        program = shutil.which("chromium") or "chromium"
        line = f'exec "$0" "$@" 3<&{there} 4>&{back}'
        self._process = subprocess.Popen(
            ["bash", "-c", line, program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(there, back), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(there)
        os.close(back)
        self._numbers, self._buffer = count(1), b""

    def send(self, method, session=None, **parameters):
        """Run a command; its result, and what the browser told meanwhile is kept in the session's list."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (reply := self.read()).get("id") != number:
            pass
        assert "error" not in reply, reply
        return reply["result"]

    def read(self):
        """The next message; events go to the page's list too."""
        while b"\0" not in self._buffer:
            piece = os.read(self._replies, 1 << 16)
            assert piece, "the browser ended"
            self._buffer += piece
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        if "method" in message:
            self.events.append(message)
        return message

    events: list = []  # noqa: RUF012 - replaced by every page

    def close(self):
        """End it, and wait for its end."""
        try:
            self.send("Browser.close")
        finally:
            self._process.wait(timeout=30)
            os.close(self._commands)
            os.close(self._replies)


class Page:
    """One document in a browser, at a size and in a colour scheme."""

    def __init__(self, browser, path, *, width, scheme):
        self._browser = browser
        browser.events = []
        target = browser.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = browser.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
        self._send("Emulation.setDeviceMetricsOverride", **size)
        self._send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.url = path.as_uri()
        self._send("Page.navigate", url=self.url)
        while not any(event["method"] == "Page.loadEventFired" for event in browser.events):
            browser.read()

    def _send(self, method, **parameters):
        return self._browser.send(method, self._session, **parameters)

    def eval(self, expression):
        """The value of a JavaScript expression."""
        found = self._send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def box(self, selector):
        """Place and size of every element that fits, as `{x, y, width, height}`."""
        pick = "(({x, y, width, height}) => ({x, y, width, height}))(e.getBoundingClientRect())"
        return self.eval(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => {pick})")

    def style(self, selector, name):
        """A computed style of the first element that fits."""
        return self.eval(f"getComputedStyle(document.querySelector({json.dumps(selector)})).{name}")

    def requests(self):
        """Every address that was asked for."""
        sent = (event for event in self._browser.events if event["method"] == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self):
        """What the console says, and uncaught exceptions."""
        methods = {"Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"}
        return [event for event in self._browser.events if event["method"] in methods]

    def shoot(self, name):
        """Keep a picture where $PAGES_SHOTS says, for people to look at."""
        if SHOTS:
            picture = self._send("Page.captureScreenshot", captureBeyondViewport=True)["data"]
            Path(SHOTS).mkdir(parents=True, exist_ok=True)
            Path(SHOTS, f"{name}.png").write_bytes(base64.b64decode(picture))


@pytest.fixture(scope="session")
def browser():
    """One Chromium for all tests, with a new and empty profile."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        running = Browser(profile)
        try:
            yield running
        finally:
            running.close()


@pytest.fixture
def open_page(browser):
    """Open a file."""
    return lambda path, *, width=1160, scheme="light": Page(browser, path, width=width, scheme=scheme)
