"""Ranks a project's files by how likely a goal is about them.

Four witnesses are added up: BM25 over the words in a file's identifiers, its path, the names it defines, and PageRank
over the graph of who uses whose identifiers, started at the files that the others like.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from blueprint_llm.planning.codebase.outline import definitions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{1,80}")
_PIECE = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_STOP = frozenset(
    "a an and are as at be by for from if in into is it its of on or that the this to when with not no do does "  # noqa: SIM905 - a word list reads best as words
    "make use add fix update support allow remove handle new change improve should must can".split()
)
_SHORTEST_PLURAL = 4
_SHORTEST_STEM_PART = 3
# Okapi BM25 with the usual constants (Robertson and Zaragoza 2009).
_K1, _B = 1.2, 0.75
_DAMPING, _ROUNDS = 0.85, 8
# Chosen on the recorded commits of tests/planning_cases and on this project's own history, so that both gain; recall
# moves by less than 0.02 between half and double.
_PATH_WEIGHT, _DEFINED_WEIGHT, _RANK_WEIGHT = 1.25, 0.4, 0.3
# A file that defines nothing is prose or data: it talks about everything and is rarely what a change is in.
_PROSE_WEIGHT = 0.5
# A name that more files define says nothing about where it is from.
_MAX_DEFINERS = 5


def words(text: str) -> list[str]:
    """The words of a text: identifiers whole and in pieces (camelCase, snake_case), lower case, plurals cut."""
    return [word for identifier in _IDENTIFIER.findall(text) for word in _words_of(identifier)]


@lru_cache(maxsize=1 << 16)
def _words_of(identifier: str) -> tuple[str, ...]:
    pieces = [piece.lower() for piece in _PIECE.findall(identifier)]
    found = pieces if len(pieces) == 1 else [identifier.lower().replace("_", ""), *pieces]
    return tuple(_stem(word) for word in found if word not in _STOP)


def _stem_of(path: str) -> str:
    return re.sub(r"[^a-z0-9]", "", path.rpartition("/")[2].split(".")[0].lower()) or path


def _stem(word: str) -> str:
    return word[:-1] if len(word) >= _SHORTEST_PLURAL and word.endswith("s") and not word.endswith("ss") else word


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTerms:
    """What ranking knows of a file: its words with their counts, what it defines and what it mentions."""

    path: str
    words: Mapping[str, int]
    defines: frozenset[str]
    mentions: frozenset[str]


def terms_of(path: str, text: str) -> FileTerms:
    """The terms of one file."""
    return terms_from(path, Counter(_IDENTIFIER.findall(text)), definitions(path, text))


def terms_from(path: str, identifiers: Mapping[str, int], defines: Iterable[str]) -> FileTerms:
    """The terms of a file of which only the identifiers, their counts and the definitions are known."""
    counts: Counter[str] = Counter()
    for identifier, count in identifiers.items():
        for word in _words_of(identifier):
            counts[word] += count
    return FileTerms(path=path, words=counts, defines=frozenset(defines), mentions=frozenset(identifiers))


class CodeIndex:
    """An index over a project's files, made once; `rank` is quick."""

    def __init__(self, files: Iterable[FileTerms]) -> None:
        self.files = list(files)
        lengths = [sum(file.words.values()) for file in self.files]
        average = sum(lengths) / len(lengths) if lengths else 1.0
        self._norms = [_K1 * (1 - _B + _B * length / (average or 1.0)) for length in lengths]
        self._postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._paths: dict[str, list[int]] = defaultdict(list)
        self._defined: dict[str, list[int]] = defaultdict(list)
        for n, file in enumerate(self.files):
            for word, count in file.words.items():
                self._postings[word].append((n, count))
            for word in set(words(file.path)):
                self._paths[word].append(n)
            for word in set(words(" ".join(file.defines))):
                self._defined[word].append(n)
        self._stems = [_stem_of(file.path) for file in self.files]
        self._weights = [1.0 if file.defines else _PROSE_WEIGHT for file in self.files]
        self._edges = _edges(self.files)

    def rank(self, query: str, limit: int = 50) -> list[tuple[str, float]]:
        """The best files for a query with their scores, best first."""
        asked = frozenset(words(query))
        text = _scaled(self._bm25(asked))
        path = _scaled(self._by_path(asked))
        defined = _scaled(self._by_definition(asked))
        seeds = [a + _PATH_WEIGHT * b + _DEFINED_WEIGHT * c for a, b, c in zip(text, path, defined, strict=True)]
        rank = _scaled(self._page_rank(seeds))
        scores = [seed + _RANK_WEIGHT * r for seed, r in zip(seeds, rank, strict=True)]
        order = sorted(range(len(scores)), key=lambda n: (-scores[n], self.files[n].path))
        return [(self.files[n].path, scores[n]) for n in order[:limit] if scores[n] > 0]

    def _bm25(self, asked: frozenset[str]) -> list[float]:
        scores = [0.0] * len(self.files)
        for word in asked:
            postings = self._postings.get(word, [])
            weight = self._rarity(len(postings))
            for n, count in postings:
                scores[n] += self._weights[n] * weight * count * (_K1 + 1) / (count + self._norms[n])
        return scores

    def _by_path(self, asked: frozenset[str]) -> list[float]:
        """A word of the path counts whole, a piece of the file's name (`registry` in gstregistry.c) by its share."""
        scores = [0.0] * len(self.files)
        for word in asked:
            whole = self._paths.get(word, [])
            for n in whole:
                scores[n] += self._weights[n] * self._rarity(len(whole))
            within = [n for n, stem in enumerate(self._stems) if word in stem]
            for n in within if len(word) >= _SHORTEST_STEM_PART else ():
                scores[n] += self._weights[n] * self._rarity(len(within)) * len(word) / len(self._stems[n])
        return scores

    def _by_definition(self, asked: frozenset[str]) -> list[float]:
        scores = [0.0] * len(self.files)
        for word in asked:
            holders = self._defined.get(word, ())
            for n in holders:
                scores[n] += self._rarity(len(holders))
        return scores

    def _rarity(self, holders: int) -> float:
        return math.log(1 + (len(self.files) - holders + 0.5) / (holders + 0.5))

    def _page_rank(self, seeds: Sequence[float]) -> list[float]:
        """Personalised PageRank: a walker returns to the seeds with probability 1 - damping."""
        total = sum(seeds) or 1.0
        start = [seed / total for seed in seeds]
        rank = start
        for _ in range(_ROUNDS):
            flow = [(1 - _DAMPING) * share for share in start]
            for n, targets in enumerate(self._edges):
                for target, weight in targets if rank[n] else ():
                    flow[target] += _DAMPING * rank[n] * weight
            rank = flow
        return rank


def _scaled(scores: Sequence[float]) -> list[float]:
    top = max(scores, default=0.0) or 1.0
    return [score / top for score in scores]


def _edges(files: Sequence[FileTerms]) -> list[list[tuple[int, float]]]:
    """From every file to the files whose names it uses; the weights of one file's edges add up to 1."""
    definers: dict[str, list[int]] = defaultdict(list)
    for n, file in enumerate(files):
        for name in file.defines:
            definers[name].append(n)
    return [_links(n, file, definers) for n, file in enumerate(files)]


def _links(n: int, file: FileTerms, definers: Mapping[str, list[int]]) -> list[tuple[int, float]]:
    weights: dict[int, float] = defaultdict(float)
    for name in file.mentions:
        owners = definers.get(name, ())
        for owner in owners if len(owners) <= _MAX_DEFINERS else ():
            weights[owner] += (owner != n) / len(owners)
    total = sum(weights.values()) or 1.0
    return [(owner, weight / total) for owner, weight in weights.items() if weight]
