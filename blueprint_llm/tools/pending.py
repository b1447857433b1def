"""Keep a run that waits for a person: sealed, private, single-use, and good for a day.

What is kept cannot be forged or changed unnoticed, and keeps no power of its own: when the run goes on, every call is
judged again by the policy of that moment, and an approval counts only for exactly what was shown.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blueprint_llm.errors import ToolDeniedError, ToolError
from blueprint_llm.tools.secretbox import read_sealed, write_sealed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LIFETIME_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A stored run. `resumed_before`: an earlier resume began and did not come to its end."""

    state: dict[str, Any]
    resumed_before: bool


class PendingStore:
    """A folder of waiting runs.

    Args:
        folder: Private to the user.
        key: Seals them.
        clock: Unix time in seconds.
        random: Makes ids.
    """

    def __init__(self, folder: Path, key: bytes, clock: Callable[[], float], random: Callable[[int], bytes]) -> None:
        self._folder, self._key, self._clock, self._random = folder, key, clock, random

    def keep(self, state: dict[str, Any]) -> str:
        """Store a run; the id to resume it by."""
        identity = self._random(16).hex()
        wrapped = {"id": identity, "expires": self._clock() + LIFETIME_S, "state": state}
        write_sealed(self._place(identity), self._key, "pending", wrapped)
        return identity

    def claim(self, identity: str) -> Kept:
        """Take a run up.

        Raises:
            ToolDeniedError: When there is none (any more), it has expired, or it was changed.
        """
        try:
            wrapped = read_sealed(self._place(identity), self._key, "pending")
        except FileNotFoundError:
            raise ToolDeniedError("no run waits under this id: it was resumed already, or never was") from None
        except (ToolError, ValueError):
            raise ToolDeniedError("the stored run was changed after it was written: refused") from None
        if wrapped["id"] != identity:
            raise ToolDeniedError("the stored run belongs to another id: refused")
        if self._clock() >= wrapped["expires"]:
            self.forget(identity)
            raise ToolDeniedError("the stored run has expired: start it again")
        return Kept(state=wrapped["state"], resumed_before=not self._mark(identity))

    def forget(self, identity: str) -> None:
        """Delete a run that went on."""
        self._place(identity).unlink(missing_ok=True)
        self._place(identity).with_suffix(".claimed").unlink(missing_ok=True)

    def _mark(self, identity: str) -> bool:
        try:
            os.close(
                os.open(self._place(identity).with_suffix(".claimed"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            )
        except FileExistsError:
            return False
        return True

    def _place(self, identity: str) -> Path:
        if not re.fullmatch(r"[0-9a-f]{32}", identity):
            raise ToolDeniedError("that is no id of a waiting run")
        return self._folder / f"{identity}.json"
