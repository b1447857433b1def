"""What judging, confining, recording and sandboxing a tool call cost."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from blueprint_llm.config.tool_blocks import Tools
from blueprint_llm.tools import ToolEngine, sandbox
from blueprint_llm.tools.confine import Root

NOMINAL_US = 12.0
DOCUMENT = json.dumps({"rows": [{"key": n, "value": "x" * 20} for n in range(50)]})
RULES = [{"allow": "command", "argv": [f"program{n}", "sub"]} for n in range(45)] + [
    {"allow": "command", "argv": ["git", ["status", "diff", "log"]]},
    {"allow": "command", "argv": ["pytest"]},
    {"allow": ["write_file", "patch"], "paths": ["src/**"]},
    {"deny": "command", "argv": ["git", "push"]},
    {"deny": "command", "argv": ["rm"]},
]


def median(call, times):
    """The median of several runs, in seconds."""
    runs = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        runs.append(time.perf_counter() - start)
    return sorted(runs)[times // 2]


def best(call, times):
    """The shortest of several runs, in seconds: what the thing itself costs on a machine that is shared."""
    return min(median(call, 1) for _ in range(times))


def yardstick():
    """How much slower than nominal this machine is now: `json.loads` of 2 KB against 12 us."""
    return median(lambda: [json.loads(DOCUMENT) for _ in range(100)], 15) / 100 * 1e6 / NOMINAL_US


def absolute(name, ours, limit, unit):
    """A row against a limit that is scaled by the yardstick of the same run."""
    scaled = limit * max(1.0, yardstick())
    return line(name, ours, "yardstick", scaled, 1.0, unit)


def line(name, ours, peer, peer_value, target, unit):
    """One line of the table."""
    ratio = ours / peer_value if peer_value else 0.0
    return {
        "name": name,
        "ours": ours,
        "peer": peer,
        "peer_value": peer_value,
        "ratio": ratio,
        "target": target,
        "ok": ratio <= target,
        "unit": unit,
    }


def checks(folder):
    """Judging calls under 50 rules."""
    calls = {
        "a command": ("command", {"argv": ["git", "diff", "--stat", "HEAD~1", "--", "src/a.py"]}),
        "a denied command": ("command", {"argv": ["sudo", "rm", "-rf", "src"]}),
        "a write": ("write_file", {"path": "src/a.py", "content": "x"}),
    }
    with ToolEngine(RULES, folder) as engine:
        for name, call in calls.items():
            took = median(lambda call=call: engine.check(*call), 2000) * 1e6
            yield absolute(f"check with 50 rules: {name}", took, 50, "us")


def opens(folder):
    """Opening a file beneath the workspace, against a plain open."""
    path = str(Path(folder, "src/a.py"))
    with Root(folder) as root:

        def ours():
            for _ in range(200):
                os.close(root.open("src/a.py"))

        def plain():
            for _ in range(200):
                os.close(os.open(path, os.O_RDONLY))

        yield line(
            f"confined open ({root.method})", best(ours, 100) * 5e3, "os.open", best(plain, 100) * 5e3, 1.5, "us"
        )


def commands(folder):
    """A command in each sandbox, over a plain subprocess."""
    plain = best(lambda: subprocess.run(["true"], check=True, capture_output=True), 60) * 1e3
    for backend, limit in (("landlock", 6), ("bubblewrap", 60)):
        if not sandbox._offered(backend):
            print(f"NOTICE: this kernel refuses {backend}", file=sys.stderr)
            continue
        block = {"sandbox": {"backend": backend}, "rules": [{"allow": "command", "argv": ["true"]}]}
        with ToolEngine(workspace=folder, settings=Tools.model_validate(block)) as engine:
            ready = engine._tools["command"].handler
            took = best(lambda ready=ready: ready(argv=["true"]), 60) * 1e3
            yield absolute(f"{backend}, over a plain subprocess", took - plain, limit, "ms")


def output(folder):
    """A gibibyte of output: how much memory it takes."""
    script = (
        "import re, sys; from pathlib import Path\n"
        "from blueprint_llm.tools import ToolEngine\n"
        "engine = ToolEngine([], sys.argv[1]); run = engine._tools['command'].handler; run(argv=['true'])\n"
        "kb = lambda name: int(re.search(name + r':\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "before = kb('VmRSS'); run(argv=['head', '-c', str(1 << 30), '/dev/zero']); print(kb('VmHWM') - before)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", script, folder], env=env, capture_output=True, text=True, check=True)
    yield line("memory for 1 GiB of output", int(done.stdout) / 1024, "16 MiB", 16, 1.0, "MiB")


def syncs(folder):
    """How many syncs a call costs, and how long the rest of it takes."""
    count = []
    original = os.fdatasync
    os.fdatasync = count.append
    try:
        with ToolEngine([{"allow": "list_files"}], folder) as engine:
            call = {"id": "1", "name": "list_files", "arguments": {"path": "src"}}
            engine.execute(call)
            count.clear()
            engine.execute(call)
            yield line("syncs a call", len(count), "limit", 2, 1.0, "syncs")
    finally:
        os.fdatasync = original


def rows():
    """The table."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as home:
        os.environ["BLUEPRINT_HOME"] = home
        Path(folder, "src").mkdir()
        Path(folder, "src/a.py").write_text("x = 1\n")
        return [row for part in (checks, opens, commands, output, syncs) for row in part(folder)]


if __name__ == "__main__":
    for row in rows():
        print(json.dumps(row))
