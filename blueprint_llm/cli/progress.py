"""One line on standard error while something takes over a second: none in a pipe or on a dumb terminal, none stays."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from typing import Self

PATIENCE_S = 1.0
_EVERY_S = 0.1
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_WIDTH = 24


class Progress:
    """The line while a `with` block runs; once `update` has told how far it is, with a bar."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._share: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._draw, daemon=True)

    def update(self, done: int, total: int) -> None:
        """Say how far it is."""
        self._share = done / total if total else None

    def close(self) -> None:
        """Erase the line; once is enough."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _draw(self) -> None:
        start = time.monotonic()
        if self._over.wait(PATIENCE_S):
            return
        for frame in itertools.cycle(_SPINNER):
            _write(f"\r{frame} {self._label}{self._bar()} {time.monotonic() - start:.0f} s\x1b[K")
            if self._over.wait(_EVERY_S):
                break
        _write("\r\x1b[K")

    def _bar(self) -> str:
        if self._share is None:
            return ""
        full = round(self._share * _WIDTH)
        return f" {'━' * full}{'─' * (_WIDTH - full)} {self._share:4.0%}"


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
