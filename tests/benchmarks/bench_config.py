"""How long a large configuration takes to load, and a command that only reads it."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import best_s, limited

import blueprint_llm
from blueprint_llm.config import load_config

ENTRY = """\
  - model_name: m{0}
    litellm_params:
      model: openai/gpt-{0}
      api_key: os.environ/K{0}
      rpm: {0}
"""


def check():
    """Run `check` on the built-in configuration in a fresh process."""
    script = "from blueprint_llm.cli.config import check; check([])"
    env = {**os.environ, "PYTHONPATH": str(Path(blueprint_llm.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", script], env=env, check=True, capture_output=True, cwd=tempfile.gettempdir())


def rows():
    """The rows of this part."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "blueprint.yaml")
        path.write_text("model_list:\n" + "".join(ENTRY.format(n) for n in range(500)))
        load = best_s(lambda: load_config(path), 10) * 1e3
    return [
        limited("config: load 500 models", load, 35.0, "ms"),
        limited("config: blueprint-llm check", best_s(check, 3), 0.6, "s"),
    ]


if __name__ == "__main__":
    for line in rows():
        print(json.dumps(line))
