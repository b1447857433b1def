"""Ask a program for a key: `command: [op, read, op://vault/openai/key]`.

No shell, no input, its stderr dropped, ten seconds; then the whole process group ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

from blueprint_llm.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TIMEOUT_S = 10.0


def ask(
    argv: Sequence[str], *, environ: Mapping[str, str], timeout_s: float = TIMEOUT_S
) -> tuple[Secret | None, str | None]:
    """Return the key that the program prints, or what went wrong, in words without its output."""
    program = f"the command {argv[0]}"
    try:
        process = subprocess.Popen(  # noqa: S603 - argv from the user's own 0600 file, never through a shell
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=dict(environ), start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return None, f"{program} cannot be started ({error.strerror})"
    with process:
        try:
            printed = process.communicate(timeout=timeout_s)[0].decode("ascii", "replace").strip()
        except subprocess.TimeoutExpired:
            return None, f"{program} gave no key within {timeout_s:g} s"
        finally:
            # With all its children: one that it left behind would keep the pipe, and the key.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
    if process.returncode != 0:
        return None, f"{program} failed (exit code {process.returncode})"
    secret = Secret(printed)
    problem = secret.problem()
    return (None, f"what {program} printed {problem}") if problem else (secret, None)
