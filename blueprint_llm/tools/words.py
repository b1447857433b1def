"""Split a command string into words the way a shell would, without ever being a shell; and show text safely.

What a shell would act on (`;`, `|`, `$`, a glob, ...) is reported, never interpreted: the words go to the program as
they are. For deny rules the same text is also cut at everything that could begin another command.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def word_set(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


# Text in which a shell would see words and nothing else.
_INACTIVE = re.compile(r"""(?:'[^']*'|"[^"$`\\]*"|\\[^\n\r]|(?<=\S)[~#!]|[^'"\\$`|&;<>(){}*?\[\]\n\r~#!])*""")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
_CUTS = re.compile(r"\$\(|[|&;<>(){}`\n\r]|(?<=\s)!|^!")
_OPERATOR = re.compile(r"\|{1,2}|\|&|&{1,2}|;{1,2}|\d*(?:<{1,3}|>{1,2})(?:&\d*)?|&>{1,2}")
_WIDE_GAP = 16
# What nobody writes: beyond it, looking for commands inside of commands would take too long, and such a one is refused.
_MAX_WORDS, _MAX_CHARS, _MAX_PARTS = 4096, 16_384, 1000
_TOO_LONG = "the command is too long to be looked through"
_FILLERS = frozenset("\u115f\u1160\u3164\uffa0\u2800")  # letters and symbols that show as nothing

# Programs that run another command found in their arguments.
_WRAPPERS = word_set(
    "env sudo doas su nice ionice chrt taskset timeout nohup setsid stdbuf time xargs exec command builtin eval "
    "chroot unshare nsenter busybox toybox sh bash dash ash zsh ksh fish csh tcsh watch strace ltrace gdb flock "
    "script parallel systemd-run runuser setpriv prlimit bwrap firejail find fd ssh su-exec gosu tini dumb-init "
    "entr git npx ! if then else elif while until do for case { coproc trap source ."
)
# Those that do so only after one of these words.
_PICKY = word_set("find fd git")
_STARTERS = word_set("-exec -execdir -ok -okdir -x --exec --exec-batch -X run foreach")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command as the model gave it."""

    argv: tuple[str, ...]
    doubts: tuple[str, ...]  # why a person must look at it, whatever the rules say
    parts: tuple[tuple[str, ...], ...]  # every piece of it that might run as a command of its own, for deny rules


def parse_command(given: str | Sequence[str]) -> Command:
    """Return a command given as words, or as one string. Raises ValueError if it cannot be one."""
    is_text = isinstance(given, str)
    if len(given) > (_MAX_CHARS if is_text else _MAX_WORDS):
        raise ValueError(_TOO_LONG)
    argv = tuple(shlex.split(given) if isinstance(given, str) else given)
    if not argv or not (is_text or argv[0]):
        raise ValueError("the command is empty")
    doubts, pieces = [], iter([argv])
    if not isinstance(given, str):
        doubts += [
            f"{word!r} is a shell operator, passed as a plain word"
            for index, word in enumerate(argv)
            if _OPERATOR.fullmatch(word) and not (word == ";" and _STARTERS & set(argv[:index]))  # ends `find -exec`
        ]
    else:
        if found := _active_syntax(given):
            doubts.append(f"shell syntax {found!r} is not interpreted: the words go to the program as they are")
        pieces = chain(pieces, _pieces(given)) if _CUTS.search(given) else pieces  # else the whole is the only piece
    parts = tuple(islice((part for piece in pieces for part in _commands_in(piece)), _MAX_PARTS + 1))
    if len(parts) > _MAX_PARTS:
        raise ValueError(_TOO_LONG)
    if _ASSIGNMENT.match(argv[0]):
        doubts.append(f"{argv[0]!r} would set an environment variable")
    return Command(argv=argv, doubts=(*doubts, *_spoofs(argv)), parts=parts)


def _active_syntax(text: str) -> str | None:
    """The first thing that a shell would act on and `shlex` does not."""
    end = _INACTIVE.match(text).end()  # type: ignore[union-attr] # it matches the empty text too
    # In double quotes, what is not inactive stands somewhere behind the quote.
    found = re.search(r"[$`\\]", text[end:]) if text[end : end + 1] == '"' else None
    return found[0] if found else text[end : end + 1] or None


def _pieces(text: str) -> Iterator[tuple[str, ...]]:
    """Every stretch between two places where a shell might begin a command, quoted or not."""
    for piece in _CUTS.split(text):
        try:
            words = shlex.split(piece)
        except ValueError:
            words = piece.replace("'", " ").replace('"', " ").split()
        if words:
            yield tuple(words)


def _commands_in(argv: tuple[str, ...], depth: int = 4) -> Iterator[tuple[str, ...]]:
    """The command itself, and whatever its wrapper (`env`, `sudo`, `sh -c`, ...) might run."""
    start = next((index for index, word in enumerate(argv) if not _ASSIGNMENT.match(word)), len(argv))
    if not (command := argv[start:]):
        return
    yield command
    program = program_name(command[0])
    for index, word in enumerate(command[1:], 1) if depth and program in _WRAPPERS else ():
        if len(word) > _MAX_CHARS:
            raise ValueError(_TOO_LONG)
        if not word.startswith("-") and (program not in _PICKY or command[index - 1] in _STARTERS):
            yield command[index:]
        if re.search(r"\s", word) or "!" in word:
            for piece in _pieces(word.replace("!", " ! ")):
                yield from _commands_in(piece, depth - 1)


@lru_cache(maxsize=4096)
def program_name(word: str) -> str:
    """Return the bare, lower-case name of a program: `/bin/RM` is `rm` where file systems ignore case."""
    return re.split(r"[/\\]", word)[-1].casefold().removesuffix(".exe")


def is_hidden(char: str) -> bool:
    """Return True if a character does not show as itself: controls, bidi marks, tags, odd spaces, fillers."""
    if char == " ":
        return False
    return not char.isprintable() or char in _FILLERS or unicodedata.category(char) in {"Zs", "Cf"}


def _spoofs(argv: Sequence[str]) -> Iterator[str]:
    if not (argv[0].isascii() and argv[0].isprintable()):
        yield f"the program name {argv[0]!a} is not plain ASCII"
    for word in argv:
        if not (word.isascii() and word.isprintable()):
            # A text may have lines: whoever is asked sees them as `\\n`.
            odd = (char for char in word if is_hidden(char) and char not in "\n\t")
            yield from (f"a word holds the invisible character {char!a}" for char in odd)
        if " " * _WIDE_GAP in word:
            yield "a word holds a wide gap that could push text out of sight"


# What would move the cursor, hide or reorder text: C0 and C1 controls but tab and newline, soft hyphen, zero-width and
# bidi marks, line separators, tags, surrogates.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202f\u205f-\u206f\u3164\ufeff"
    "\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff\ud800-\udfff]"
)


def visible(text: str) -> str:
    """The text with every control and invisible character escaped; line ends become newlines."""
    return _UNSAFE.sub(_escaped, text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """The text on one line, nothing left out: line ends and tabs are escaped too."""
    return visible(text.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r"))


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"  # noqa: PLR2004 - widths of escapes
