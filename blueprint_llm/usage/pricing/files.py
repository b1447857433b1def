"""Price files: lists of entries in YAML, checked as a whole before any of them counts.

An entry says which models it prices and from when; two that could price the same call differently are an error.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fnmatch import fnmatchcase
from itertools import combinations
from typing import TYPE_CHECKING, Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from blueprint_llm.errors import ConfigError
from blueprint_llm.usage.money import ATTO, atto
from blueprint_llm.usage.pricing.sheet import PARTS, Sheet

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_MTOK = 10**6
_DEAR_PER_MTOK = 1000  # one dollar per thousand tokens
Money = Annotated[Decimal, Field(ge=0)]
Level = Literal["contract", "override", "local"]
Part = Literal[
    "all",
    "input",
    "output",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "reasoning",
    "audio_input",
    "audio_output",
]


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

    def covers(self, names: Iterable[str], providers: Iterable[str], tags: frozenset[str]) -> bool:
        """Return True if a call to a model of these names is meant."""
        named = any(fnmatchcase(name, self.model) for name in names)
        return named and self.tags <= tags and (self.provider is None or self.provider in providers)


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
        """Atto-USD per token by part."""
        values = {part: getattr(self, part) for part in PARTS}
        return {part: round(value * ATTO / _MTOK) for part, value in values.items() if value is not None}


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
    multiply: dict[Part, Money] = Field(default_factory=dict)
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
        if "expensive" not in self.allow and self._dearest() > _DEAR_PER_MTOK:
            raise ValueError("costs more than 1 USD per 1,000 tokens: mend it, or say allow: [expensive]")
        return self

    def _dearest(self) -> Decimal:
        parts = [part for prices in (self.prices_per_mtok, *self.tiers) for part in prices.parts().values()]
        return Decimal(max(parts, default=0)) * _MTOK / ATTO

    def holds_on(self, day: date) -> bool:
        """Return True if the entry is in force that day."""
        return (self.effective_from or date.min) <= day < (self.effective_to or date.max)

    def sheet(self, listed: Sheet) -> Sheet:
        """Its prices; `listed` is LiteLLM's, for entries that extend it."""
        if self.free:
            return Sheet(base=dict.fromkeys(PARTS, 0))
        own = Sheet(
            base=self.prices_per_mtok.parts(),
            tiers={tier.above_input_tokens: tier.parts() for tier in self.tiers},
            per_second=atto(self.per_second_usd or 0),
        )
        return own.over(listed.times(self.multiply)) if self.extends else own.times(self.multiply)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceList:
    """A file's entries. `version` names the file and its content."""

    level: Level
    version: str
    entries: tuple[Entry, ...]


_ENTRIES = TypeAdapter(tuple[Entry, ...])


def schema() -> dict[str, object]:
    """Return the JSON Schema of a price file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_ENTRIES.json_schema()}


def load(paths: Sequence[Path]) -> tuple[PriceList, ...]:
    """Read price files; a ConfigError lists everything that is wrong in any of them."""
    problems: list[str] = []
    lists = [found for path in paths if (found := _read(path, problems)) is not None]
    for level in ("contract", "override", "local"):
        problems += _overlaps([found for found in lists if found.level == level])
    if problems:
        raise ConfigError("\n".join(["the price files are wrong:", *problems]), problems=problems)
    return tuple(lists)


def level(path: Path) -> Level:
    """Return what a file's name says it is: `overrides*`, `local*`, else a contract."""
    return "override" if path.stem.startswith("overrides") else "local" if path.stem.startswith("local") else "contract"


def _read(path: Path, problems: list[str]) -> PriceList | None:
    try:
        text = path.read_bytes()
        entries = _ENTRIES.validate_python(yaml.safe_load(text) or ())
    except (OSError, yaml.YAMLError) as error:
        problems.append(f"{path}: {error}")
    except ValidationError as error:
        problems += [
            f"{path}: {_place(item['loc'])}: {item['msg'].removeprefix('Value error, ')}" for item in error.errors()
        ]
    else:
        kind = level(path)
        version = f"{kind}:{path.name}@{hashlib.sha256(text).hexdigest()[:8]}"
        return PriceList(level=kind, version=version, entries=entries)
    return None


def _place(loc: tuple[int | str, ...]) -> str:
    number, rest = (int(loc[0]) + 1, loc[1:]) if loc and isinstance(loc[0], int) else (0, loc)
    return ".".join([f"entry {number}" if number else "file", *map(str, rest)])


def _overlaps(lists: Sequence[PriceList]) -> list[str]:
    """Pairs of entries of one level that could price the same call, equally specific, on the same day."""
    entries = [(entry, f"{found.version} entry {n}") for found in lists for n, entry in enumerate(found.entries, 1)]
    return [
        f"{there}: overlaps {here} ({one.match.model}, {other.match.model}): narrow one, or say allow: [overlap]"
        for (one, here), (other, there) in combinations(entries, 2)
        if "overlap" not in one.allow | other.allow and _compete(one, other)
    ]


def _compete(one: Entry, other: Entry) -> bool:
    return (
        one.match.rank[:3] == other.match.rank[:3]
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
