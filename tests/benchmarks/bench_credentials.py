"""Keys and masking: loading ten providers with all checks, noticing a change, masking events and long texts.

Absolute limits hold for a machine that parses 2 KB of JSON in 12 us; they are scaled by what this one takes.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from blueprint_llm import redaction
from blueprint_llm.credentials import CredentialsManager

NOMINAL_US = 12.0
DOCUMENT = json.dumps({f"key{number}": "v" * 20 for number in range(60)})
LINE = "2026-01-01T00:00:00Z [info] attempt.failed model=gpt-4o category=rate_limited wait_s=0.5 provider=cloud "


def microseconds(function, repeat):
    """One call's time, in microseconds."""
    began = time.perf_counter()
    for _ in range(repeat):
        function()
    return (time.perf_counter() - began) / repeat * 1e6


def row(name, limit_us, function, repeat, rounds=25):
    """One absolute limit against the yardstick, measured in turns; the best round of each: others use the machine."""
    pairs = [
        (microseconds(function, repeat), microseconds(lambda: json.loads(DOCUMENT), repeat)) for _ in range(rounds)
    ]
    ours, yardstick = (min(column) for column in zip(*pairs, strict=True))
    ratio, target = ours / yardstick, limit_us / NOMINAL_US
    return {
        "name": name, "ours": ours, "peer": "yardstick", "peer_value": yardstick, "ratio": ratio, "target": target,
        "ok": ratio <= target, "unit": "us",
    }  # fmt: skip


def keychain_row():
    """A keychain that hangs is given up; the import of keyring counts."""
    code = (
        "import time\n"
        "import keyring.backend\n"
        "class Ring(keyring.backend.KeyringBackend):\n"
        "    priority = 1\n"
        "    def get_password(self, service, username): time.sleep(600)\n"
        "    set_password = delete_password = get_password\n"
        "keyring.set_keyring(Ring())\n"
        "from blueprint_llm.credentials import Keychain\n"
        "from blueprint_llm.errors import CredentialsError\n"
        "began = time.monotonic()\n"
        "try: Keychain().get('openai')\n"
        "except CredentialsError: print(time.monotonic() - began)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    seconds = float(ran.stdout)
    return {
        "name": "a hanging keychain is given up", "ours": seconds, "peer": "limit", "peer_value": 2.5,
        "ratio": seconds / 2.5, "target": 1.0, "ok": seconds <= 2.5, "unit": "s",
    }  # fmt: skip


def rows():
    """All rows of this part."""
    with tempfile.TemporaryDirectory() as folder:
        manager = CredentialsManager(file=Path(folder) / "credentials.json", environ={})
        for number in range(10):
            manager.set(f"provider{number}", f"sk-bench-{number:02}-0123456789abcdefghijklmnopqrstuvwxyz")
        file = manager.sources.file

        def load():
            file._stamp = None
            file.entries()

        long = (LINE * 2000)[:200_000]
        return [
            row("load 10 providers, all checks", 100, load, 100),
            row("hot-reload check", 5, file.entries, 2000),
            row("mask a log event", 3, lambda: redaction.redact_rendered(None, "info", LINE), 2000),
            row("mask 200 KB", 100, lambda: redaction.redact(long), 50),
            keychain_row(),
        ]


if __name__ == "__main__":
    for each in rows():
        print("{name:32} {ours:9.2f} {unit:3} ratio {ratio:6.2f} target {target:6.2f} ok={ok}".format(**each))
