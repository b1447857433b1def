"""Renews what README takes from elsewhere: the recorded session, the bench's numbers, the configuration's reference.

`python tests/readme/refresh.py` (`nox -s readme`) rewrites the parts between markers; with `--session` it also plays
the demo on a pseudo-terminal and draws what it showed. Tests compare README with what this would write.
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blueprint_llm.config.schema import file_schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
BENCH, SESSION = HERE / "bench.json", HERE / "session.svg"
COMMAND, SCENES, COLUMNS = "blueprint-llm demo --yes", 3, 112
# The bars that a reader asks for first: part, how its row begins, peer; README's words for it and for the ratio.
PROOF = (
    (
        "client",
        "client.chat p50, 4 budgets",
        "litellm.Router",
        "a call: within four budgets here, by a Router there",
        "{share:.2f} times",
    ),
    (
        "client",
        "client.stream per chunk",
        "iterating LiteLLM",
        "one chunk of a stream, everything included",
        "{share:.2f} times",
    ),
    (
        "streaming",
        "StreamingHandler, tool call",
        "LiteLLM",
        "one chunk of a tool call: checked here, made there",
        "{share:.1%} on top",
    ),
    (
        "cache",
        "whole hit against LiteLLM's disk",
        "LiteLLM, disk",
        "an answer from the disk cache",
        "{faster:.0f} times as fast",
    ),
    (
        "pricing",
        "price, worst and true cost",
        "litellm.cost_per_token",
        "what a call costs, worked out",
        "{faster:.0f} times as fast",
    ),
    ("client", "import, both clients", "import litellm", "the import", "{faster:.0f} times as fast"),
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


def reference() -> str:
    """The `blueprint:` block, a line for each key, out of its JSON Schema."""
    schema = file_schema()
    block, definitions = schema["properties"]["blueprint"], schema["$defs"]
    lines = ["| Key | Values | Default |", "|---|---|---|"]
    lines += [f"| {' | '.join(cells)} |" for cells in _rows("", block, definitions)]
    return "\n".join(lines) + "\n"


def _rows(path: str, node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    required = set(node.get("required", ()))
    for name, field in node["properties"].items():
        default = "required" if name in required else _default(field)
        inner, suffix = _section(field, definitions)
        if "properties" not in inner or "gt" in inner["properties"]:
            yield f"`{path}{name}`", _values(field, definitions), default
            continue
        yield f"**`{path}{name}{suffix}`**", _sentence(inner), default
        yield from _rows(f"{path}{name}{suffix}.", inner, definitions)


def _section(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """The section that a field holds, and what stands for the name or the place of one of several."""
    if "$ref" in field:
        return definitions[field["$ref"].rpartition("/")[2]], ""
    if isinstance(field.get("additionalProperties"), dict):
        return _section(field["additionalProperties"], definitions)[0], ".NAME"
    if "items" in field:
        return _section(field["items"], definitions)[0], "[]"
    found = [_section(each, definitions) for each in field.get("anyOf", ())]
    return next((each for each in found if "properties" in each[0]), ({}, ""))


def _sentence(section: Mapping[str, Any]) -> str:
    """What a section's own words say of it, without its list of attributes."""
    words = section.get("description", "").partition("\n\nAttributes:")[0]
    return " ".join(words.split()).replace("|", "\\|")


def _values(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "enum" in field or "const" in field:
        return ", ".join(f"`{each}`" for each in field.get("enum", [field.get("const")]))
    if "anyOf" in field:
        kinds = [_values(each, definitions) for each in field["anyOf"] if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "$ref" in field:
        return ", ".join(f"`{name}`" for name in _section(field, definitions)[0]["properties"])
    if field.get("type") == "array":
        return f"list of {_values(field['items'], definitions)}"
    if field.get("type") == "object":
        inner = field.get("additionalProperties")
        return f"{_values(inner, definitions)}, by name" if isinstance(inner, dict) else "a mapping"
    return field.get("description", "").replace("<", "&lt;") or _KINDS[field["type"]] + _bounds(field)


_KINDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true`, `false`"}


def _bounds(field: Mapping[str, Any]) -> str:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to"}
    return "".join(f" {word} {field[name]:g}" for name, word in words.items() if name in field)


def _default(field: Mapping[str, Any]) -> str:
    default = field.get("default")
    return "" if default is None or isinstance(default, dict) else f"`{json.dumps(default)}`"


def proof(document: Mapping[str, Any]) -> str:
    """The bench's rows for the first screen."""
    lines = ["| | blueprint_llm | LiteLLM | |", "|---|--:|--:|---|"]
    for part, name, peer, words, ratio in PROOF:
        for row in document["rows"]:
            if (row["part"], row["peer"]) == (part, peer) and row["name"].startswith(name):
                ours, theirs = (row[name] * _SECONDS[row["unit"]] for name in ("ours", "peer_value"))
                said = ratio.format(share=ours / theirs, faster=theirs / ours)
                lines.append(f"| {words} | {_time(ours)} | {_time(theirs)} | {said} |")
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
    """README with everything that comes from elsewhere brought up to date."""
    text = between("reference", text, reference())
    return between("bench", text, proof(json.loads(BENCH.read_text("utf-8")))) if BENCH.is_file() else text


def main() -> None:
    """Rewrite README, and with `--session` the picture too."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--session", action="store_true", help="play the demo and draw it")
    if parser.parse_args().session:
        SESSION.write_text(drawn(played()), "utf-8")
    README.write_text(renewed(README.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
