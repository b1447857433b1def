"""The installed `blueprint-llm` as a person meets it, on a pseudo-terminal, and as a script does, in a pipe."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = Path(sys.executable).with_name("blueprint-llm")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def piped(*arguments, given="", timeout_s=60, **keywords):
    """Run a command to its end with its three streams in pipes."""
    command = [str(PROGRAM), *map(str, arguments)]
    streams = {"input": given, "capture_output": True, "text": True}
    return subprocess.run(command, **streams, timeout=timeout_s, check=False, **keywords)


class Terminal:
    """A command whose input, output and errors are one terminal, its own: a typed Ctrl-C interrupts it."""

    def __init__(self, *arguments, stdout=None, **keywords):
        self._controller, terminal = pty.openpty()
        command = ["setsid", "--ctty", str(PROGRAM), *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=terminal, stdout=stdout or terminal, stderr=terminal, **keywords)
        os.close(terminal)
        self.raw = ""

    @property
    def text(self):
        """What is on the screen, roughly: without colours, cursor moves and carriage returns."""
        return ESCAPE.sub("", self.raw).replace("\r", "")

    def type(self, text):
        """Press keys."""
        os.write(self._controller, text.encode())

    def expect(self, text, timeout_s=60, after=0):
        """Read until `text` is on the screen behind the place `after`; the place behind it."""
        until = time.monotonic() + timeout_s
        while (found := self.text.find(text, after)) < 0:
            assert time.monotonic() < until, f"no {text!r} on the terminal: {self.text!r}"
            assert self._read(), f"it ended without {text!r}: {self.text!r}"
        return found + len(text)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Leave nothing running when a test has failed."""
        self.process.kill()
        self.process.wait()
        os.close(self._controller)

    def finish(self, timeout_s=60):
        """Read to the end; the exit code."""
        until = time.monotonic() + timeout_s
        while self._read():
            assert time.monotonic() < until, f"it does not end: {self.text!r}"
        return self.process.wait(timeout=timeout_s)

    def _read(self):
        """Take what there is, waiting a little; False: everybody has left the terminal."""
        if select.select([self._controller], [], [], 0.2)[0]:
            try:
                piece = os.read(self._controller, 65536)
            except OSError:  # how Linux says that the other side is closed
                return False
            self.raw += piece.decode(errors="replace")
            return bool(piece)
        return True
