"""How long commands take that make no call, each in a fresh process, scaled by what `python -c pass` takes now."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import blueprint_llm

NOMINAL_S = 0.016  # `python -c pass` on the machine that the limits were set on
SCRIPT = "from blueprint_llm.cli import main; main()"
ROWS = 10_000
CONFIG = """
blueprint:
  version: 1
  project: acme
  providers: {cloud: {model: openai/gpt-4o-mini}, local: {model: embedded/smollm2}}
  budgets: [{scope: project, limit_usd: 20, window: month}]
"""
LIMITS = (
    *(("--help", 0.3), ("--version", 0.3), ("check", 0.6), ("explain hello", 0.6)),
    *(("usage", 0.6), ("usage --by model", 0.6)),
)
RUNS = 7


def timed(command, env, cwd):
    """Seconds from the start of a process to its end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", *command], env=env, cwd=cwd, check=True, capture_output=True)
    return time.perf_counter() - start


def fill(path):
    """A ledger of ten thousand attempts over two weeks."""
    from blueprint_llm import sync  # noqa: PLC0415 - likewise
    from blueprint_llm.usage.stores.records import AttemptRow  # noqa: PLC0415 - not what is measured
    from blueprint_llm.usage.stores.sqlite import SqliteStore  # noqa: PLC0415 - likewise

    now = time.time()
    clock = [now]
    store = SqliteStore(path, clock=lambda: clock[0])
    for day in range(14):
        clock[0] = now - day * 86400
        rows = [
            AttemptRow(id=f"{day}-{n}", call_id=f"{day}-{n}", provider="cloud", model=f"m{n % 5}", cost_nano=n)
            for n in range(ROWS // 14)
        ]
        for row in rows:
            sync.run(store.record(row))
    sync.run(store.aclose())


def rows():
    """The rows of this part."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "blueprint.yaml").write_text(CONFIG)
        (home / "state").mkdir(mode=0o700)
        fill(home / "state" / "ledger.sqlite")
        env = {**os.environ, "PYTHONPATH": str(Path(blueprint_llm.__file__).parents[1]), "BLUEPRINT_HOME": folder}
        return [row(words, limit, env, folder) for words, limit in LIMITS]


def row(words, limit, env, cwd):
    """One line of the table: the command against its limit, with the yardstick of the same moment."""
    runs = [(timed(["pass"], env, cwd), timed([SCRIPT, *words.split()], env, cwd)) for _ in range(RUNS)]
    yardstick, ours = (statistics.median(times) for times in zip(*runs, strict=True))
    scaled = limit * max(1.0, yardstick / NOMINAL_S)
    return {
        "name": f"cli: blueprint-llm {words}",
        "ours": ours,
        "peer": f"{limit} s, scaled by python -c pass",
        "peer_value": scaled,
        "ratio": ours / scaled,
        "target": 1.0,
        "ok": ours <= scaled,
        "unit": "s",
    }


if __name__ == "__main__":
    for line in rows():
        print(json.dumps(line))
