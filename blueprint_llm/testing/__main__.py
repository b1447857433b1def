"""`python -m blueprint_llm.testing --script file.json`: a fault server for several processes.

It prints its URL and serves until its standard input ends or it is interrupted; `GET /__requests` counts.
"""

import argparse
import contextlib
import sys
from pathlib import Path

from blueprint_llm.testing import FaultServer, Script, load_script
from blueprint_llm.testing.script import Answer


def main(arguments: list[str] | None = None) -> None:
    """Serve."""
    parser = argparse.ArgumentParser(prog="python -m blueprint_llm.testing", description=__doc__)
    parser.add_argument("--script", type=Path, help="steps as JSON; without it every request gets an answer")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    options = parser.parse_args(arguments)
    script = load_script(options.script) if options.script else Script(default=Answer())
    with FaultServer(script, port=options.port) as server, contextlib.suppress(KeyboardInterrupt):
        sys.stdout.write(server.url + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
