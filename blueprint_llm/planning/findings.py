"""What is wrong with a plan, said in one record that fits JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One defect: `code` names its kind, `message` says what to do; the rest says where."""

    code: str
    message: str
    step: str | None = None
    path: str | None = None
    requirement: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Only what is known."""
        return {key: value for key, value in asdict(self).items() if value is not None}
