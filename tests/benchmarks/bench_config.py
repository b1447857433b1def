"""How long a large configuration takes to load, and a command that only reads it."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import blueprint_llm
from blueprint_llm.config import load_config

NOMINAL_US = 12.0
DOCUMENT = json.dumps({"rows": [{"key": n, "value": "x" * 20} for n in range(50)]})
ENTRY = """\
  - model_name: m{0}
    litellm_params:
      model: openai/gpt-{0}
      api_key: os.environ/K{0}
      rpm: {0}
"""


def best(call, times):
    """The shortest of several runs, in seconds."""
    runs = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        runs.append(time.perf_counter() - start)
    return min(runs)


def scale():
    """How much slower than nominal this machine is now: `json.loads` of 2 KB against 12 us."""
    return best(lambda: [json.loads(DOCUMENT) for _ in range(200)], 20) / 200 * 1e6 / NOMINAL_US


def row(name, ours, limit, unit):
    """One line of the table; an absolute limit is scaled by the yardstick of the same run."""
    scaled = limit * scale()
    return {
        "name": name,
        "ours": ours,
        "peer": "yardstick",
        "peer_value": scaled,
        "ratio": ours / scaled,
        "target": 1.0,
        "ok": ours <= scaled,
        "unit": unit,
    }


def check():
    """Run `check` on the built-in configuration in a fresh process."""
    script = "from blueprint_llm.cli.check import command; command([])"
    env = {**os.environ, "PYTHONPATH": str(Path(blueprint_llm.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", script], env=env, check=True, capture_output=True, cwd=tempfile.gettempdir())


def rows():
    """The rows of this part."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "blueprint.yaml")
        path.write_text("model_list:\n" + "".join(ENTRY.format(n) for n in range(500)))
        load = best(lambda: load_config(path), 10) * 1e3
    return [
        row("config: load 500 models", load, 35.0, "ms"),
        row("config: blueprint-llm check", best(check, 3), 0.6, "s"),
    ]


if __name__ == "__main__":
    for line in rows():
        print(json.dumps(line))
