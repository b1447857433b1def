"""Ask on the terminal: a diff or the words of a command, everything visible, one key to answer."""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from blueprint_llm.tools.approval import ApprovalDecision, ApprovalRequest
from blueprint_llm.tools.show import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

_SCOPES: dict[str, Literal["once", "session", "always"]] = {"y": "once", "s": "session", "a": "always"}
_KEYS = "y once, s this session, a always, n reject, e edit, l later"


class TerminalApprover:
    """Shows each request and reads an answer.

    Args:
        read: Prompts and returns a line; an end of input rejects.
        write: Shows a line.
        colour: Whether diffs are coloured, with rich where it is installed.
    """

    def __init__(
        self, read: Callable[[str], str] = input, write: Callable[[str], None] = print, *, colour: bool = False
    ) -> None:
        self._read, self._write = read, write
        self._colour = colour and find_spec("rich") is not None

    def decide(self, batch: list[ApprovalRequest]) -> list[ApprovalDecision]:
        """Return one decision per request."""
        found = []
        for number, request in enumerate(batch, 1):
            self._write(f"\n[{number}/{len(batch)}] {one_line(request.tool)}")
            for reason in request.reasons:
                self._write(f"  because {reason}")
            if request.effects:
                self._write(f"  it may: {', '.join(request.effects)}")
            self._show(request.preview)
            decision = None
            while decision is None:
                decision = self._answer(request)
            found.append(decision)
        return found

    def _show(self, text: str) -> None:
        if not self._colour:
            self._write(text)
            return
        from rich.console import Console  # noqa: PLC0415 - optional, loaded to show colour
        from rich.syntax import Syntax  # noqa: PLC0415 - as above

        Console(stderr=True).print(Syntax(text, "diff", word_wrap=True, background_color="default"))

    def _answer(self, request: ApprovalRequest) -> ApprovalDecision | None:
        """The decision that a line read makes; None: ask again."""
        try:
            answer = self._read(f"Run it? ({_KEYS}) ").strip().lower()[:1]
        except EOFError:
            return ApprovalDecision(reason="nobody answered", id=request.id)
        match answer:
            case "y" | "s" | "a":
                return ApprovalDecision(decision="approve", scope=_SCOPES[answer], id=request.id)
            case "n":
                return ApprovalDecision(reason=self._read("Why not (told to the model)? ").strip(), id=request.id)
            case "l":
                return ApprovalDecision(decision="later", id=request.id)
            case "e":
                self._write(one_line(json.dumps(request.arguments)))
                try:
                    arguments = json.loads(self._read("Arguments as JSON: "))
                    return ApprovalDecision(decision="edit", arguments=arguments, id=request.id)
                except ValueError:
                    self._write("not JSON")
        return None
