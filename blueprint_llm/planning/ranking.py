"""Ranks a project's files by how likely a goal is about them: BM25 over their words, and over those of their paths.

A file that the goal names comes first whatever the words say.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{1,80}")
_PIECE = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_NAME = re.compile(r"[\w./\\@+-]*\w")
_STOP = frozenset(
    "a an and are as at be by for from if in into is it its of on or that the this to when with not no do does "  # noqa: SIM905 - a word list reads best as words
    "make use add fix update support allow remove handle new change improve should must can".split()
)
_SHORTEST_PLURAL, _SHORTEST_PIECE = 4, 3
# Okapi BM25 (Robertson and Zaragoza 2009, k1 of 1.2 to 2). All four were chosen on the recorded commits of
# tests/planning_cases and on this project's own history, so that both gain; recall moves by 0.02 around them.
_K1, _B = 2.0, 0.6
_PATH_WEIGHT, _SIBLING_WEIGHT = 0.6, 0.8


def words(text: str) -> list[str]:
    """Return the words of a text: identifiers whole and in pieces (camelCase, snake_case), lower case, no plurals."""
    return [word for identifier in _IDENTIFIER.findall(text) for word in _words_of(identifier)]


def word_counts(identifiers: Mapping[str, int]) -> Counter[str]:
    """Return how often each word occurs in identifiers that occur so often."""
    counts: Counter[str] = Counter()
    for identifier, count in identifiers.items():
        for word in _words_of(identifier):
            counts[word] += count
    return counts


def named_in(query: str, paths: Iterable[str]) -> list[str]:
    """Return the paths that a text names: whole, or by their end (`app.py`, `src/app.py`, `Makefile`)."""
    names = {name.replace("\\", "/").removeprefix("./") for name in _NAME.findall(query)}
    # A bare word is only a file's name where it can hardly be anything else: `Makefile` is one, `src` or `test` is not.
    names = {name for name in names if "." in name.strip(".") or "/" in name or name[:1].isupper()}
    return [path for path in paths if not names.isdisjoint(_endings(path))]


def _endings(path: str) -> list[str]:
    pieces = path.split("/")
    shouted = pieces[-1].split(".")[0]  # README, LICENSE
    return [*("/".join(pieces[n:]) for n in range(len(pieces))), *([shouted] if shouted.isupper() else [])]


@lru_cache(maxsize=1 << 16)
def _words_of(identifier: str) -> tuple[str, ...]:
    pieces = [piece.lower() for piece in _PIECE.findall(identifier)]
    found = pieces if len(pieces) == 1 else [identifier.lower().replace("_", ""), *pieces]
    return tuple(_singular(word) for word in found if word not in _STOP)


def _singular(word: str) -> str:
    return word[:-1] if len(word) >= _SHORTEST_PLURAL and word.endswith("s") and not word.endswith("ss") else word


def _stem(path: str) -> str:
    """Return a file's name without folder, ending and `test`: what `bin.c`, `bin.h` and `test_bin.py` share."""
    name = re.sub(r"[^a-z0-9]", "", path.rpartition("/")[2].split(".")[0].lower())
    return name.removeprefix("test") or path


class CodeIndex:
    """An index over the words of a project's files, made once; `rank` is quick."""

    def __init__(self, files: Mapping[str, Mapping[str, int]]) -> None:
        """Index `files`: for each path its words and how often each occurs."""
        self.paths = list(files)
        lengths = [sum(counts.values()) for counts in files.values()]
        average = sum(lengths) / (len(lengths) or 1) or 1.0
        self._norms = [_K1 * (1 - _B + _B * length / average) for length in lengths]
        self._stems = list(map(_stem, self.paths))
        self._in_text: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._in_path: dict[str, list[int]] = defaultdict(list)
        for n, (path, counts) in enumerate(files.items()):
            for word, count in counts.items():
                self._in_text[word].append((n, count))
            for word in set(words(path)):
                self._in_path[word].append(n)

    @classmethod
    def of_texts(cls, texts: Mapping[str, str]) -> CodeIndex:
        """Return the index of texts by path."""
        return cls({path: word_counts(Counter(_IDENTIFIER.findall(text))) for path, text in texts.items()})

    def rank(self, query: str, limit: int | None = None) -> list[str]:
        """Return the paths that a query is about, best first: those it names, then the others by their score."""
        asked = frozenset(words(query))
        text, path = _scaled(self._by_text(asked)), _scaled(self._by_path(asked))
        scores = [a + _PATH_WEIGHT * b for a, b in zip(text, path, strict=True)]
        # A change to a file is a change to its header and its test.
        best: dict[str, float] = defaultdict(float)
        for stem, score in zip(self._stems, scores, strict=True):
            best[stem] = max(best[stem], score)
        scores = [max(score, _SIBLING_WEIGHT * best[stem]) for stem, score in zip(self._stems, scores, strict=True)]
        named = set(named_in(query, self.paths))
        order = sorted(range(len(scores)), key=lambda n: (self.paths[n] not in named, -scores[n], self.paths[n]))
        return [self.paths[n] for n in order[:limit] if scores[n] > 0 or self.paths[n] in named]

    def _by_text(self, asked: frozenset[str]) -> list[float]:
        scores = [0.0] * len(self.paths)
        for word in asked:
            found = self._in_text.get(word, [])
            for n, count in found:
                scores[n] += self._rarity(len(found)) * count * (_K1 + 1) / (count + self._norms[n])
        return scores

    def _by_path(self, asked: frozenset[str]) -> list[float]:
        """A word of the path counts whole, a piece of the file's name (`registry` in gstregistry.c) by its share."""
        scores = [0.0] * len(self.paths)
        for word in asked:
            whole = self._in_path.get(word, [])
            for n in whole:
                scores[n] += self._rarity(len(whole))
            within = [n for n, stem in enumerate(self._stems) if word in stem] if len(word) >= _SHORTEST_PIECE else []
            for n in within:
                scores[n] += self._rarity(len(within)) * len(word) / len(self._stems[n])
        return scores

    def _rarity(self, holders: int) -> float:
        return math.log(1 + (len(self.paths) - holders + 0.5) / (holders + 0.5))


def _scaled(scores: Sequence[float]) -> list[float]:
    top = max(scores, default=0.0) or 1.0
    return [score / top for score in scores]
