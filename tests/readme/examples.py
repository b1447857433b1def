"""The examples of README and docs/: their blocks, and one module of all Python ones for the type checkers."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
# Names that examples use and do not make: what a reader has at hand.
HEAD = '''"""The Python examples of README and docs/, made by `nox -s readme`: type-checked, never run."""

from typing import Any

from blueprint_llm import ChatResponse, SyncLLMClient
from blueprint_llm.pytest_plugin import ScriptedClients
from blueprint_llm.testing import FaultServer
from blueprint_llm.tools import ApprovalDecision, ApprovalRequest

client: SyncLLMClient
config: dict[str, Any]
messages: list[dict[str, str]]
model_list: list[dict[str, Any]]
providers: dict[str, Any]
response: ChatResponse
tools: list[dict[str, Any]]


def ask_me(batch: list[ApprovalRequest]) -> list[ApprovalDecision]:
    """Approve nothing."""
    return [ApprovalDecision(decision="reject") for _ in batch]


def ask_my_program(api_base: str) -> str:
    """Stand for a program."""
    return api_base
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block of a page."""

    page: str
    number: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """The page and the number of the block among those of its language."""
        return f"{self.page.removesuffix('.md').lower()}_{self.number}"


def blocks(path: Path, language: str) -> list[Block]:
    """Return the fenced blocks of a language on a page, in order."""
    found = re.findall(rf"^```{language}\n(.*?)^```", path.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [Block(page=path.name, number=n, language=language, text=text) for n, text in enumerate(found, 1)]


def every(language: str) -> Iterator[Block]:
    """Yield the blocks of a language on all pages."""
    for path in PAGES:
        yield from blocks(path, language)


def typed() -> str:
    """Return a module that holds each Python example in a function of its own."""
    parts = [HEAD]
    for block in every("python"):
        lines = [f"async def {block.name}() -> None:", f'    """{block.page}, example {block.number}."""']
        parts.append("\n".join(lines) + "\n" + textwrap.indent(block.text, "    "))
    return "\n\n".join(part.rstrip("\n") + "\n" for part in parts)
