"""Renew what README and docs/ take from elsewhere: the bench's numbers, three reference pages, examples to type-check.

`python tests/readme/refresh.py` (`nox -s readme`) rewrites them; with `--session` it also plays the demo on a
pseudo-terminal and draws what it showed. Tests compare the files with what this would write.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import pty
import re
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import examples
import reference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
README = ROOT / "README.md"
BENCH, SESSION = HERE / "bench.json", ROOT / "docs" / "session.svg"
COMMAND, SCENES, COLUMNS = "blueprint-llm demo --yes", 3, 112
# The bars that a reader asks for first: part, how its row begins, peer; README's words for it.
PROOF = (
    ("client", "client.chat p50, 4 budgets", "litellm.Router", "a call: within four budgets here, by a Router there"),
    ("client", "client.stream per chunk", "iterating LiteLLM", "one chunk of a stream, everything included"),
    ("streaming", "StreamingHandler, tool call", "LiteLLM", "one chunk of a tool call: checked here, made there"),
    (
        "cache",
        "whole hit against LiteLLM's memory",
        "LiteLLM, memory",
        "an answer: from the disk here, from memory there",
    ),
    ("pricing", "price and worst cost", "litellm.cost_per_token", "what a call costs: also at worst here"),
    ("client", "import, both clients", "import litellm", "the import"),
)


def between(mark: str, text: str, content: str | None = None) -> str:
    """What stands between the markers of `mark`; with `content`, the whole text with that in its place.

    Raises:
        ValueError: `text` has no such markers.
    """
    found = re.search(rf"(<!-- {mark}:begin[^>]*-->\n)(.*?)(<!-- {mark}:end -->)", text, re.DOTALL)
    if found is None:
        raise ValueError(f"README has no markers of {mark}")
    return found[2] if content is None else text[: found.start(2)] + content + text[found.end(2) :]


def proof(document: Mapping[str, Any]) -> str:
    """The bench's rows for the first screen."""
    lines = ["| | blueprint_llm | LiteLLM | share |", "|---|--:|--:|--:|"]
    for part, name, peer, words in PROOF:
        for row in document["rows"]:
            if (row["part"], row["peer"]) == (part, peer) and row["name"].startswith(name):
                ours, theirs = (row[name] * _SECONDS[row["unit"]] for name in ("ours", "peer_value"))
                lines.append(f"| {words} | {_time(ours)} | {_time(theirs)} | {ours / theirs:.1%} |")
    return "\n".join(lines) + "\n"


_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def _time(seconds: float) -> str:
    unit = next((unit for unit, size in _SECONDS.items() if seconds >= size), "ns")
    return f"{seconds / _SECONDS[unit]:.3g} {unit.replace('u', 'µ')}"


def played() -> str:
    """What the demo shows on a terminal of `COLUMNS` columns, with its colours. Raises SystemExit if it fails."""
    program = str(Path(sys.executable).with_name("blueprint-llm"))
    child, terminal = pty.fork()
    if child == 0:
        os.environ["COLUMNS"] = str(COLUMNS)
        os.execv(program, [program, *COMMAND.split()[1:]])  # noqa: S606 - the child of a fork
    shown = b""
    while block := _read(terminal):
        shown += block
    if os.waitpid(child, 0)[1]:
        raise SystemExit(f"the demo failed:\n{shown.decode()}")
    return shown.decode().replace("\r\n", "\n")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other end is closed
        return b""


def drawn(shown: str) -> str:
    """The first scenes as a picture of a terminal."""
    from rich.console import Console  # noqa: PLC0415 - only the recording needs it
    from rich.text import Text  # noqa: PLC0415 - likewise

    console = Console(record=True, width=COLUMNS, file=Path(os.devnull).open("w"), force_terminal=True)  # noqa: SIM115 - kept open
    first = re.split(rf"\n(?=[^\n]*{SCENES + 1}/\d)", shown)[0].rstrip()
    console.print(Text.assemble(("$ ", "green"), (COMMAND, "bold")))
    console.print(Text.from_ansi(first))
    picture = console.export_svg(title="blueprint-llm", unique_id="demo")
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)  # nothing is fetched to show it


def renewed(text: str) -> str:
    """README with the bench's numbers brought up to date."""
    return between("bench", text, proof(json.loads(BENCH.read_text("utf-8"))))


def made() -> dict[Path, Callable[[], str]]:
    """What makes each file; llms.txt quotes the pages, so it comes behind them."""
    summary = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["description"]
    return {
        ROOT / "docs" / "configuration.md": reference.configuration,
        ROOT / "docs" / "commands.md": reference.commands,
        ROOT / "docs" / "api.md": reference.names,
        ROOT / "docs" / "llms.txt": functools.partial(reference.llms, ROOT / "docs", summary),
        ROOT / "tests" / "typing" / "examples.py": examples.typed,
    }


def main() -> None:
    """Rewrite what is made, and with `--session` the picture too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--session", action="store_true", help="play the demo and draw it")
    if parser.parse_args().session:
        SESSION.write_text(drawn(played()), "utf-8")
    README.write_text(renewed(README.read_text("utf-8")), "utf-8")
    for file, make in made().items():
        file.write_text(make(), "utf-8")


if __name__ == "__main__":
    main()
