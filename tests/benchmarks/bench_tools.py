"""What judging, confining, recording and sandboxing a tool call cost."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from measuring import best_s, limited, median_s, row

from blueprint_llm import sync
from blueprint_llm.config.blocks import Tools
from blueprint_llm.tools import ToolEngine, sandbox
from blueprint_llm.tools.boundary import Effects, Patterns, Surveyor
from blueprint_llm.tools.registry import Claims
from blueprint_llm.tools.words import parse_command
from blueprint_llm.tools.workspace import Root

LS, READS = parse_command(["ls"]), Effects()
RULES = [{"allow": "command", "argv": [f"program{n}", "sub"]} for n in range(45)] + [
    {"allow": "command", "argv": ["git", ["status", "diff", "log"]]},
    {"allow": "command", "argv": ["pytest"]},
    {"allow": ["write_file", "patch"], "paths": ["src/**"]},
    {"deny": "command", "argv": ["git", "push"]},
    {"deny": "command", "argv": ["rm"]},
]


def checks(folder):
    """Judging calls under 50 rules."""
    calls = {
        "a command": ("command", {"argv": ["git", "diff", "--stat", "HEAD~1", "--", "src/a.py"]}),
        "a command string": ("command", {"command": "git diff --stat 'HEAD~1' -- src/a.py"}),
        "a denied command": ("command", {"argv": ["sudo", "rm", "-rf", "src"]}),
        "a write": ("write_file", {"path": "src/a.py", "content": "x"}),
    }
    with ToolEngine(RULES, folder) as engine:
        for name, call in calls.items():
            took = median_s(lambda call=call: engine.check(*call), 2000) * 1e6
            yield limited(f"check with 50 rules: {name}", took, 50, "us")


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

        yield row("confined open", best_s(ours, 100) * 5e3, "os.open", best_s(plain, 100) * 5e3, 1.5, "us")


def commands(folder):
    """A command that reads, in each sandbox, over a plain subprocess."""
    plain = best_s(lambda: subprocess.run(["ls"], check=True, capture_output=True, cwd=folder), 60) * 1e3
    for backend, limit in (("landlock", 3), ("bubblewrap", 45)):
        if not sandbox.offered(backend):
            print(f"NOTICE: this kernel refuses {backend}", file=sys.stderr)
            continue
        block = {"sandbox": {"backend": backend}, "rules": [{"allow": "command", "argv": ["ls"]}]}

        async def measured(block=block):
            async with ToolEngine(workspace=folder, settings=Tools.model_validate(block)) as engine:
                handler = partial(engine._tools["command"].handler, claims=Claims(command=LS, effects=READS))
                runs = []
                for _ in range(60):
                    start = time.perf_counter()
                    await handler(argv=["ls"])
                    runs.append(time.perf_counter() - start)
                return min(runs) * 1e3

        took = asyncio.run(measured())
        yield limited(f"{backend}, over a plain subprocess", took - plain, limit, "ms")


def side_by_side(folder):
    """Ten commands that each sleep a second, at once: how long they take together."""
    block = {"sandbox": {"backend": "auto"}, "rules": [{"allow": "command"}]}

    async def measured():
        async with ToolEngine(workspace=folder, settings=Tools.model_validate(block)) as engine:
            call = {"id": "1", "name": "command", "arguments": {"argv": ["sleep", "1"]}}
            await engine.execute(call)
            start = time.perf_counter()
            await asyncio.gather(*(engine.execute(call) for _ in range(10)))
            return time.perf_counter() - start

    yield row("ten sleeps of a second at once", asyncio.run(measured()), "one sleep", 1.0, 2.0, "s")


def surveys(folder):
    """Looking for what to hide in 20,000 files of 1,000 folders: for the first time, and again."""
    with tempfile.TemporaryDirectory() as large:
        for number in range(1000):
            Path(large, f"d{number % 40}", f"e{number}").mkdir(parents=True)
            for name in range(20):
                Path(large, f"d{number % 40}", f"e{number}", f"f{name}.py").touch()
        hides = Patterns(["private/**", "**/.env*"])
        time.sleep(0.1)
        first = best_s(lambda: Surveyor(large, hides, Patterns(()), Patterns(())).survey(), 3) * 1e3
        surveyor = Surveyor(large, hides, Patterns(()), Patterns(()))
        surveyor.survey()
        yield limited("survey of 20,000 files: the first", first, 300, "ms")
        yield limited("survey of 20,000 files: again", best_s(surveyor.survey, 20) * 1e3, 20, "ms")


def output(folder):
    """A gibibyte of output: how much memory it takes."""
    script = (
        "import re, sys; from pathlib import Path\n"
        "from blueprint_llm.tools import ToolEngine\n"
        "from blueprint_llm import sync\n"
        "from blueprint_llm.tools.boundary import Effects\n"
        "from blueprint_llm.tools.registry import Claims\n"
        "from blueprint_llm.tools.words import parse_command\n"
        "engine = ToolEngine([], sys.argv[1]); handler = engine._tools['command'].handler\n"
        "claims = lambda argv: Claims(command=parse_command(argv), effects=Effects())\n"
        "run = lambda argv: sync.run(handler(argv=argv, claims=claims(argv))); run(['true'])\n"
        "kb = lambda name: int(re.search(name + r':\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "before = kb('VmRSS'); run(['head', '-c', str(1 << 30), '/dev/zero']); print(kb('VmHWM') - before)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", script, folder], env=env, capture_output=True, text=True, check=True)
    yield row("memory for 1 GiB of output", int(done.stdout) / 1024, "16 MiB", 16, 1.0, "MiB")


def syncs(folder):
    """How many syncs a call costs, and how long the rest of it takes."""
    count = []
    original = os.fdatasync
    os.fdatasync = count.append
    try:
        with ToolEngine([{"allow": "list_files"}], folder) as engine:
            call = {"id": "1", "name": "list_files", "arguments": {"path": "src"}}
            sync.run(engine.execute(call))
            count.clear()
            sync.run(engine.execute(call))
            yield row("syncs a call", len(count), "limit", 2, 1.0, "syncs")
    finally:
        os.fdatasync = original


def rows():
    """The table."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as home:
        os.environ["BLUEPRINT_HOME"] = home
        Path(folder, "src").mkdir()
        Path(folder, "src/a.py").write_text("x = 1\n")
        return [row for part in (checks, opens, commands, side_by_side, surveys, output, syncs) for row in part(folder)]


if __name__ == "__main__":
    for row in rows():
        print(json.dumps(row))
