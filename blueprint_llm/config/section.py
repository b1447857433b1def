"""What every section of the configuration is, and the values that several of them take."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from blueprint_llm.config.masking import masked
from blueprint_llm.config.secrets import Keyed

if TYPE_CHECKING:
    from collections.abc import Iterable


class Section(Keyed):
    """A frozen part of the configuration; unknown keys are mistakes, secrets never show."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return [(name, masked(value, name or "")) for name, value in super().__repr_args__()]


def _window(value: str) -> str:
    if value not in {"minute", "hour", "day", "month", "session"} and not re.fullmatch(r"[1-9]\d*s", value):
        raise ValueError("must be minute, hour, day, month, session or <n>s (60s)")
    return value


def _scope(value: str) -> str:
    if value not in {"call", "session", "project", "global"} and not re.fullmatch(r"(provider|model):.+", value):
        raise ValueError("must be call, session, project, global, provider:NAME or model:NAME")
    return value


def _many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Window = Annotated[str, AfterValidator(_window), Field(description="minute, hour, day, month, session or <n>s")]
Scope = Annotated[
    str,
    AfterValidator(_scope),
    Field(description="call, session, project, global, provider:NAME or model:NAME"),
]
Names = Annotated[list[str], BeforeValidator(_many)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
