"""What a planner reads of a project: its text files, ranked by a goal, as many as fit, the others condensed.

Files are ranked by BM25 over their words and over those of their paths; one that the goal names comes first whatever
the words say.

The only module of `planning` that touches the disk of a project. A file that cannot be read is a note, not a failure;
a path that does not exist is. What is read leaves as typed parts, so that the policy of whichever provider is asked
decides anew what may pass.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from pathspec import GitIgnoreSpec

from blueprint_llm.context.tokens import BYTES_A_TOKEN, text_tokens
from blueprint_llm.errors import BlueprintError, PlanError
from blueprint_llm.types import ChatRequest, ChatResponse, ContextPart

# Larger files are generated, vendored or data far more often than code.
MAX_BYTES = 512 * 1024
# What no plan wants to read, even where nobody ignored it.
_ALWAYS = frozenset({".git", ".hg", ".svn", ".venv", "venv", "node_modules", "__pycache__", ".tox", ".mypy_cache"})
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{1,80}")
_PIECE = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_NAME = re.compile(r"[\w./\\@+-]*\w")
# Names with other characters in them, like `app/[id]/page.tsx`, stand between blanks or quotes.
_QUOTED = re.compile(r"([`\"'])(.+?)\1")
_LINE = re.compile(r"(:\d+)+$")
_AROUND = ".,;:!?`\"'"
_STOP = frozenset(
    "a an and are as at be by for from if in into is it its of on or that the this to when with not no do does "  # noqa: SIM905 - a word list reads best as words
    "make use add fix update support allow remove handle new change improve should must can".split()
)
_SHORTEST_PLURAL, _SHORTEST_PIECE = 4, 3
# Okapi BM25 (Robertson and Zaragoza 2009, k1 of 1.2 to 2). All four were chosen on the recorded commits of
# tests/planning_cases and on this project's own history, so that both gain; recall moves by 0.02 around them.
_K1, _B = 2.0, 0.6
_PATH_WEIGHT, _SIBLING_WEIGHT = 0.6, 0.8
# Shares of the room: a planner needs to know what exists, then the code it will change.
_MAP_SHARE = 0.1
_FRAME_TOKENS = 40
# So many files in a row that are too large end the search: the room is as good as full.
_MOST_MISSES = 5
# Bounds the cost of summaries: what ranks below this many files is left at its place in the project map.
_GROUPS, _FILES_A_GROUP, _HEAD_CHARS, _SUMMARY_TOKENS = 8, 12, 1500, 400
_TASK = "Say in at most ten short lines what the given parts of a project are for and how they depend on each other."

Rules = tuple[tuple[Path, GitIgnoreSpec], ...]
Chat = Callable[[ChatRequest], Awaitable[ChatResponse]]


class SourceFile(NamedTuple):
    """One text file: `path` is POSIX and relative to the codebase."""

    path: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Codebase:
    """What was read."""

    files: tuple[SourceFile, ...]  # the text files; once ranked, in the order in which they matter for a goal
    paths: frozenset[str]  # every path that exists
    notes: tuple[str, ...] = ()  # what could not be read
    named: frozenset[str] = frozenset()  # the paths that the goal names

    def ranked(self, query: str) -> Codebase:
        """Return the codebase with the files that the query is about first."""
        files = {file.path: file for file in self.files}
        best = CodeIndex(dict(self.files)).rank(query)
        order = [*best, *sorted(files.keys() - set(best))]
        named = frozenset(named_in(query, self.paths))
        return replace(self, files=tuple(files[path] for path in order), named=named)


def read_codebase(where: Path | Sequence[Path], progress: Callable[[int], None] | None = None) -> Codebase:
    """Read a folder, one file, or several of both (relative to the deepest folder that holds them all).

    `progress` is told how many files have been looked at. Raises PlanError if a path does not exist.
    """
    given = [where] if isinstance(where, Path) else list(where)
    missing = [str(path) for path in given if not path.exists()]
    if missing or not given:
        raise PlanError(f"codebase not found: {', '.join(missing) or 'the list of files is empty'}")
    given = [Path(os.path.normpath(path.absolute())) for path in given]
    if len(given) == 1:
        root = given[0] if given[0].is_dir() else given[0].parent
    else:
        root = Path(os.path.commonpath([str(path.parent) for path in given]))
    found = dict.fromkeys(path for item in given for path in (_walk(item, _above(item)) if item.is_dir() else [item]))
    files: list[SourceFile] = []
    names = {path: Path(os.path.relpath(path, root)).as_posix() for path in found}
    unsent = [path for path, name in names.items() if not name.isprintable()]
    notes = [f"{names.pop(path)!a}: not read (its name cannot be sent)" for path in unsent]
    for count, (path, name) in enumerate(names.items(), 1):
        try:
            text = _text(path)
        except OSError as error:
            notes.append(f"{name}: not read ({error.strerror})")
            continue
        if text is not None:
            files.append(SourceFile(name, text))
        if progress is not None:
            progress(count)
    return Codebase(files=tuple(files), paths=frozenset(names.values()), notes=tuple(notes))


def _text(path: Path) -> str | None:
    """Return the text of a file; None for binary and huge ones, and for pipes, which would never end."""
    if path.stat().st_size > MAX_BYTES or not path.is_file():
        return None
    content = path.read_bytes()
    return None if b"\0" in content[:8192] else content.decode("utf-8", "replace")


def _walk(folder: Path, rules: Rules) -> Iterator[Path]:
    """Yield every file under `folder` that no `.gitignore` leaves out; symbolic links are not followed."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:  # what may not be listed is not part of what can be planned
        return
    rules += _rules_in(folder)
    for entry in entries:
        if entry.is_symlink() or entry.name in _ALWAYS:
            continue
        is_folder = entry.is_dir()
        if _is_ignored(entry, rules, is_folder=is_folder):
            continue
        if is_folder:
            yield from _walk(entry, rules)
        else:
            yield entry


def _above(folder: Path) -> Rules:
    """Return the rules of the folders above one that is part of a repository."""
    places = [folder, *folder.parents]
    root = next((n for n, at in enumerate(places) if (at / ".git").exists()), 0)
    return tuple(rule for at in reversed(places[1 : root + 1]) for rule in _rules_in(at))


def _rules_in(folder: Path) -> Rules:
    """Return the rules of a folder's `.gitignore`; a pattern that is none matches nothing, as in git."""
    try:
        lines = (folder / ".gitignore").read_text("utf-8", "replace").split("\n")
    except OSError:
        return ()
    return ((folder, GitIgnoreSpec.from_lines(filter(_is_pattern, lines))),)


def _is_pattern(line: str) -> bool:
    try:
        GitIgnoreSpec.from_lines([line])
    except (ValueError, re.error):
        return False
    return True


def _is_ignored(path: Path, rules: Rules, *, is_folder: bool) -> bool:
    """Return True if the deepest `.gitignore` that says something of a path leaves it out."""
    checks = (spec.check_file(path.relative_to(at).as_posix() + "/" * is_folder) for at, spec in reversed(rules))
    return next((check.include for check in checks if check.include is not None), False)


def words(text: str) -> list[str]:
    """Return the words of a text: identifiers whole and in pieces (camelCase, snake_case), lower case, no plurals."""
    return [word for identifier in _IDENTIFIER.findall(text) for word in _words_of(identifier)]


def named_in(query: str, paths: Iterable[str]) -> list[str]:
    """Return the paths that a text names: whole, by their end (`app.py`, `Makefile`), or from the disk's root."""
    texts = [*_NAME.findall(query), *(_LINE.sub("", word.strip(_AROUND)) for word in query.split())]
    texts += [quoted for _, quoted in _QUOTED.findall(query)]
    names = {text.replace("\\", "/").removeprefix("./") for text in texts}
    # A bare word is only a file's name where it can hardly be anything else: `Makefile` is one, `src` or `test` is not.
    names = {name for name in names if "." in name.strip(".") or "/" in name or name[:1].isupper()}
    rooted = [name for name in names if name.startswith("/") or name[1:3] == ":/"]
    return [
        path
        for path in paths
        if not names.isdisjoint(_endings(path)) or any(name.endswith(f"/{path}") for name in rooted)
    ]


def _endings(path: str) -> list[str]:
    pieces = path.split("/")
    shouted = pieces[-1].split(".")[0]  # README, LICENSE
    return [*("/".join(pieces[n:]) for n in range(len(pieces))), *([shouted] if shouted.isupper() else [])]


def _word_counts(text: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for identifier, count in Counter(_IDENTIFIER.findall(text)).items():  # each is taken apart once
        for word in _words_of(identifier):
            counts[word] += count
    return counts


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

    def __init__(self, texts: Mapping[str, str]) -> None:
        """Index the texts of files by path."""
        self.paths = list(texts)
        counted = [_word_counts(text) for text in texts.values()]
        lengths = [counts.total() for counts in counted]
        average = sum(lengths) / (len(lengths) or 1) or 1.0
        self._norms = [_K1 * (1 - _B + _B * length / average) for length in lengths]
        self._stems = list(map(_stem, self.paths))
        self._in_text: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._in_path: dict[str, list[int]] = defaultdict(list)
        for n, (path, counts) in enumerate(zip(self.paths, counted, strict=True)):
            for word, count in counts.items():
                self._in_text[word].append((n, count))
            for word in set(words(path)):
                self._in_path[word].append(n)

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


def build_pack(codebase: Codebase, room_tokens: int) -> tuple[list[ContextPart], list[SourceFile]]:
    """Return the parts of a ranked codebase that fit a room, best first, and the files that are in none of them."""
    map_tokens = int(room_tokens * _MAP_SHARE)
    parts, room = [_map(sorted(codebase.paths), map_tokens)], room_tokens - map_tokens
    overflow: list[SourceFile] = []
    for file in codebase.files:
        part = ContextPart(kind="file", source=file.path, text=file.text)
        if part.tokens + _FRAME_TOKENS > room > 2 * _FRAME_TOKENS and file.path in codebase.named:
            part = _head(file, room - _FRAME_TOKENS)
        if len(overflow) <= _MOST_MISSES and part.tokens + _FRAME_TOKENS <= room:
            parts.append(part)
            room -= part.tokens + _FRAME_TOKENS
        else:
            overflow.append(file)
    return parts, overflow


def _head(file: SourceFile, room_tokens: int) -> ContextPart:
    """Return the beginning of a file: one that the goal names is never left out for its size."""
    cut = "\n[cut: the file goes on]"
    head = file.text.encode("utf-8", "replace")[: room_tokens * BYTES_A_TOKEN - len(cut)].decode("utf-8", "ignore")
    return ContextPart(kind="snippet", source=file.path, text=head + cut)


def _map(paths: Sequence[str], room: int) -> ContextPart:
    """Return every path, or as many as fit."""
    lines: list[str] = []
    for path in paths:
        room -= text_tokens(path + "\n")
        if room < 0:
            lines.append(f"... and {len(paths) - len(lines)} more files")
            break
        lines.append(path)
    return ContextPart(kind="project_map", source="files", text="\n".join(lines))


class Summaries:
    """Summaries by one provider, kept in a folder, one file each; without a folder they are not kept.

    A summary is named by the hash of what it is of, so an unchanged file is never paid for twice.
    """

    def __init__(self, chat: Chat, provider: str | None, folder: Path | None = None) -> None:
        self._chat, self._provider, self._folder = chat, provider, folder

    async def of(self, files: Sequence[SourceFile]) -> ContextPart | None:
        """Return one part that stands for the files; None where the provider could not be brought to say anything."""
        groups = [files[n : n + _FILES_A_GROUP] for n in range(0, len(files), _FILES_A_GROUP)][:_GROUPS]
        texts = []
        for group in groups:
            parts = [ContextPart(kind="snippet", source=file.path, text=file.text[:_HEAD_CHARS]) for file in group]
            texts.append(await self._summary(parts))
        known = [text for text in texts if text]
        if len(known) > 1:
            parts = [ContextPart(kind="memory", source=f"summary {n}", text=text) for n, text in enumerate(known, 1)]
            known = [await self._summary(parts) or "\n".join(known)]
        return ContextPart(kind="project_map", source="summary of further files", text=known[0]) if known else None

    async def _summary(self, parts: Sequence[ContextPart]) -> str:
        content = "\n".join([self._provider or "", *(f"{part.source}\n{part.text}" for part in parts)])
        name = hashlib.sha256(content.encode("utf-8", "replace")).hexdigest() + ".txt"
        kept = self._folder / name if self._folder is not None else None
        if kept is not None and kept.is_file():
            return kept.read_text("utf-8")
        request = planning_request(
            self._provider,
            messages=[{"role": "user", "content": _TASK}],
            context=tuple(parts),
            max_tokens=_SUMMARY_TOKENS,
        )
        try:
            response = await self._chat(request)
        except BlueprintError:
            return ""  # a plan without this summary is still a plan
        summary = str(response.content).strip()
        if kept is not None:
            kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = kept.with_name(f"{name}.{os.getpid()}.tmp")
            temporary.write_text(summary, "utf-8")
            temporary.replace(kept)
        return summary


def planning_request(provider: str | None, **asked: object) -> ChatRequest:
    """Return a request to one provider and no other; to None: to whom the client's routing chooses."""
    own = {"provider": provider, "fallback": provider is None, "temperature": 0, "task_type": "planning"}
    return ChatRequest.model_validate({**own, **asked})
