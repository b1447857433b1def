"""Price files: lists of entries in YAML, checked as a whole before any of them counts.

An entry says which models it prices and from when; two that could price the same call differently are an error.
"""

from __future__ import annotations

import hashlib
from datetime import date
from decimal import Decimal
from fnmatch import fnmatchcase
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from blueprint_llm.errors import ConfigError
from blueprint_llm.usage.money import ATTO, atto
from blueprint_llm.usage.pricing.card import PARTS, SECOND, Part, Sheet, times

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_MTOK = 10**6
_DEAR = ATTO // 1000  # one dollar per thousand tokens
Money = Annotated[Decimal, Field(ge=0)]
Level = Literal["contract", "override", "local"]
_LEVELS: tuple[tuple[str, Level], ...] = (("overrides", "override"), ("local", "local"))  # by how a file's name begins


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Match(_Part):
    """Which calls an entry prices: `model` is a glob over the model id, with or without its provider."""

    model: str = Field(min_length=1)
    provider: str | None = None
    tags: frozenset[str] = frozenset()

    @property
    def rank(self) -> tuple[bool, bool, int, int]:
        """More specific is greater: an exact name, a provider, tags; then the longer pattern."""
        return ("*" not in self.model, self.provider is not None, len(self.tags), len(self.model))


class PerMtok(_Part):
    """USD per million tokens; 0 is a price, absent is unknown."""

    input: Money | None = None
    output: Money | None = None
    cache_read: Money | None = None
    cache_write_5m: Money | None = None
    cache_write_1h: Money | None = None
    reasoning: Money | None = None
    audio_input: Money | None = None
    audio_output: Money | None = None

    def parts(self) -> dict[str, int]:
        """Return atto-USD per token by part."""
        given = ((part, getattr(self, part)) for part in PARTS)
        return {part: round(usd * ATTO / _MTOK) for part, usd in given if usd is not None}


class Tier(PerMtok):
    """Prices for a whole request whose prompt has more than `above_input_tokens`."""

    above_input_tokens: int = Field(ge=1)


class Limits(_Part):
    """What the contract or the machine allows: requests and tokens per minute."""

    rpm: int | None = Field(default=None, ge=0)
    tpm: int | None = Field(default=None, ge=0)


class Entry(_Part):
    """One priced set of models. Dates are half-open, in UTC; `source` says where the price stands."""

    match: Match
    effective_from: date | None = None
    effective_to: date | None = None
    extends: Literal["litellm"] | None = None
    multiply: dict[Literal["all", Part], Money] = Field(default_factory=dict)
    prices_per_mtok: PerMtok = PerMtok()
    tiers: tuple[Tier, ...] = ()
    per_second_usd: Money | None = None
    free: Literal[True] | None = None
    limits: Limits = Limits()
    source: str = Field(min_length=1)
    allow: frozenset[Literal["overlap", "expensive"]] = frozenset()

    @model_validator(mode="after")
    def _says_one_price(self) -> Self:
        own = self.prices_per_mtok.parts()
        if self.free and (own or self.tiers or self.extends or self.per_second_usd is not None):
            raise ValueError("is free and has a price: keep one")
        if not (self.free or self.extends or self.per_second_usd is not None) and not {"input", "output"} <= set(own):
            raise ValueError(
                "has no whole price: give input and output, per_second_usd, free: true or extends: litellm"
            )
        if self.effective_from and self.effective_to and self.effective_from >= self.effective_to:
            raise ValueError("ends before it begins: effective_to must be later than effective_from")
        dearest = max(
            price for prices in (self.prices_per_mtok, *self.tiers) for price in (0, *prices.parts().values())
        )
        if "expensive" not in self.allow and dearest > _DEAR:
            raise ValueError("costs more than 1 USD per 1,000 tokens: mend it, or say allow: [expensive]")
        return self

    def prices(self, names: set[str], providers: set[str], tags: frozenset[str], day: date) -> bool:
        """Return True if a call to a model of these names is meant, and the entry is in force that day."""
        match = self.match
        named = any(fnmatchcase(name, match.model) for name in names)
        meant = named and match.tags <= tags and (match.provider is None or match.provider in providers)
        return meant and (self.effective_from or date.min) <= day < (self.effective_to or date.max)

    def sheet(self, listed: Sheet) -> Sheet:
        """Return its prices; `listed` is LiteLLM's, for entries that extend it."""
        if self.free:
            return {(part, 0): 0 for part in PARTS}
        tables = [(0, self.prices_per_mtok), *((tier.above_input_tokens, tier) for tier in self.tiers)]
        own: dict[tuple[str, int], int]
        own = {(part, above): price for above, prices in tables for part, price in prices.parts().items()}
        if self.per_second_usd:
            own[SECOND] = atto(self.per_second_usd)
        return {**times(listed, self.multiply), **own} if self.extends else times(own, self.multiply)


class Filed(NamedTuple):
    """An entry and where it stands: `version` names the file and its content."""

    entry: Entry
    level: Level
    version: str
    number: int


ENTRIES = TypeAdapter(tuple[Entry, ...])


def load(paths: Sequence[Path]) -> list[Filed]:
    """Read price files; a ConfigError lists everything that is wrong in any of them."""
    problems: list[str] = []
    filed = [item for path in paths for item in _read(path, problems)]
    problems += [
        f"{other.version} entry {other.number}: overlaps {one.version} entry {one.number} "
        f"({one.entry.match.model}, {other.entry.match.model}): narrow one, or say allow: [overlap]"
        for one, other in combinations(filed, 2)
        if one.level == other.level and _compete(one.entry, other.entry)
    ]
    if problems:
        raise ConfigError("\n".join(["the price files are wrong:", *problems]), problems=problems)
    return filed


def _read(path: Path, problems: list[str]) -> list[Filed]:
    level: Level = next((level for start, level in _LEVELS if path.stem.startswith(start)), "contract")
    try:
        text = path.read_bytes()
        entries = ENTRIES.validate_python(yaml.safe_load(text) or ())
    except (OSError, yaml.YAMLError) as error:
        problems.append(f"{path}: {getattr(error, 'strerror', None) or ' '.join(str(error).split())}")
    except ValidationError as error:
        problems += [
            f"{path}: {_place(item['loc'])}: {item['msg'].removeprefix('Value error, ')}" for item in error.errors()
        ]
    else:
        version = f"{level}:{path.name}@{hashlib.sha256(text).hexdigest()[:8]}"
        return [Filed(entry, level, version, number) for number, entry in enumerate(entries, 1)]
    return []


def _place(loc: tuple[int | str, ...]) -> str:
    number, rest = (int(loc[0]) + 1, loc[1:]) if loc and isinstance(loc[0], int) else (0, loc)
    return ".".join([f"entry {number}" if number else "file", *map(str, rest)])


def _compete(one: Entry, other: Entry) -> bool:
    """Return True if both could price the same call, equally specific, on the same day."""
    return (
        "overlap" not in one.allow | other.allow
        and one.match.rank[:3] == other.match.rank[:3]
        and one.match.provider == other.match.provider
        and (one.effective_from or date.min) < (other.effective_to or date.max)
        and (other.effective_from or date.min) < (one.effective_to or date.max)
        and _intersect(one.match.model, other.match.model)
    )


def _intersect(one: str, other: str) -> bool:
    """Return True if some name matches both globs (`*` and `?`; a set is taken for any character)."""
    if not one or not other:
        return not (one + other).strip("*")
    if one[0] == "*":
        return _intersect(one[1:], other) or _intersect(one, other[1:])
    if other[0] == "*":
        return _intersect(other, one)
    return (one[0] == other[0] or "?" in (one[0], other[0])) and _intersect(one[1:], other[1:])
