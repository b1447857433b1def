"""The traces of calls that did not go smoothly, so that `blueprint-llm trace` can say later what happened.

A file in the state folder that only its owner can read; it holds no message text and no secret, as no trace does. What
went smoothly is in the ledger alone: the ordinary call pays nothing for this.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from blueprint_llm.config.paths import folder, make_folder
from blueprint_llm.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

    from blueprint_llm.trace import Trace

MOST_BYTES = 1 << 20  # of each of two files, the newer and the one before it
NAME = "traces.jsonl"


def keep_trace(trace: Trace, failure: str = "") -> None:
    """Keep the trace of a call that failed or fell back; one that cannot be kept is lost, never the call."""
    if not failure and not trace.passed_over() and all(row.category is None for row in trace.attempts):
        return
    line = json.dumps({**trace.to_dict(), "failure": failure or None}, default=str) + "\n"
    with suppress(OSError, StoreError):
        path = make_folder("state") / NAME
        if path.exists() and path.stat().st_size > MOST_BYTES:
            path.replace(_older(path))
        handle = os.open(path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            os.write(handle, line.encode())  # one write: lines of several processes do not mix
        finally:
            os.close(handle)


def find_traces(prefix: str) -> list[dict[str, Any]]:
    """Return the kept traces whose id begins with `prefix`, newest first; "" finds all."""
    path, found = folder("state") / NAME, []
    for each in (path, _older(path)):
        with suppress(OSError):
            for line in reversed(each.read_text(encoding="utf-8").splitlines()):
                with suppress(ValueError):  # torn by a full disk
                    found.append(json.loads(line))
    return [trace for trace in found if str(trace.get("id", "")).startswith(prefix)]


def _older(path: Path) -> Path:
    return path.with_suffix(".1.jsonl")
