"""Scenarios that run in a process of their own, without root's privileges; prints what happened as JSON."""

import contextlib
import json
import os
import re
import sys
import time
from pathlib import Path

from blueprint_llm import sync
from blueprint_llm.config.blocks import Tools
from blueprint_llm.tools import ToolEngine

BOMB = "b() { b & b & sleep 3; }; b"


def engine(workspace, backend, **limits):
    """An engine that runs anything, under one backend."""
    settings = {"sandbox": {"backend": backend}, "limits": limits, "rules": [{"allow": "command", "effects": "write"}]}
    return ToolEngine(
        workspace=workspace, settings=Tools.model_validate(settings), approver=yes if backend == "landlock" else None
    )


def yes(batch):
    """Approve everything: Landlock alone asks about what may write."""
    return [True] * len(batch)


def run(tools, *argv):
    """One command and what became of it."""
    began = time.monotonic()
    result = sync.run(tools.execute({"id": "1", "name": "command", "arguments": {"argv": list(argv)}}))
    return {**result.metadata, "status": result.status, "text": result.content, "took_s": time.monotonic() - began}


def memory_kb(field):
    """One of this process's memory figures, in KiB."""
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def left_over(mark):
    """How many processes have the mark on their command line."""
    found = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += mark.encode() in path.read_bytes().split(b"\0")
    return found


def bomb(workspace, backend):
    """A fork bomb against a limit of 40 processes."""
    mark = f"bomb-{os.getpid()}"
    with engine(workspace, backend, processes=40, timeout_s=2) as tools:
        found = run(tools, "sh", "-c", BOMB, mark)
        found["alive"] = run(tools, "echo", "still here")["text"]
        found["left"] = left_over(mark)
    return found


def confined(workspace, backend):
    """What a confined command can reach."""
    secret = Path(workspace).parent / "secret.txt"
    with engine(workspace, backend) as tools:
        probe = f"cat {secret}; echo x > {secret.parent}/new; echo y > inside; cat inside"
        connect = "import socket; socket.create_connection(('127.0.0.1', 1), timeout=1)"
        return {"files": run(tools, "sh", "-c", probe), "net": run(tools, "python3", "-c", connect)}


def output(workspace, backend):
    """A gibibyte of output, and how much memory it took."""
    with engine(workspace, backend, timeout_s=60, stop_output_mb=2048) as tools:
        run(tools, "true")
        before = memory_kb("VmRSS")
        found = run(tools, "head", "-c", str(1 << 30), "/dev/zero")
        return {
            "grown_kb": memory_kb("VmHWM") - before,
            "output_bytes": found["output_bytes"],
            "status": found["status"],
        }


if __name__ == "__main__":
    print(json.dumps({"bomb": bomb, "confined": confined, "output": output}[sys.argv[1]](sys.argv[2], sys.argv[3])))
