"""Decide whether a command uses only known-safe flags, and which of its words are paths.

Nothing is guessed: a word that the program's table does not explain is a doubt, and one doubt makes the command ask.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from blueprint_llm.tools.tokens import word_set

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# A sed script that only selects, prints, quits and substitutes: no w, e, r, R, W and no flag that runs anything.
_RE = r"/(?:[^/\\\n]|\\[^\n])*/"
_ADDRESS = rf"(?:\d+(?:~\d+)?|\$|{_RE}I?)"
_TWICE = r"(?:(?:[^{0}\\\n]|\\[^\n])*{0}){{2}}"
_SUBSTITUTE = "|".join(re.escape(char) + _TWICE.format(re.escape(char)) for char in "/|#,@!%:")
_RANGE = rf"(?:{_ADDRESS}(?:\s*,\s*(?:{_ADDRESS}|[+~]\d+))?\s*!?\s*)?"
_SED_COMMAND = rf"{_RANGE}(?:[pdq=lnND]|s(?:{_SUBSTITUTE})[gpiI\d]*)"
_SED_BLOCK = rf"{_RANGE}\{{\s*{_SED_COMMAND}(?:\s*;\s*{_SED_COMMAND})*\s*;?\s*\}}"
_NAMED = {
    "SED": rf"\s*(?:{_SED_COMMAND}|{_SED_BLOCK})(?:\s*;\s*(?:{_SED_COMMAND}|{_SED_BLOCK}))*\s*;?\s*",
    # jq filters without modules, further input or the environment.
    "JQ": r"(?!.*(?:\$(?:ENV|__)|\b(?:env|inputs?|input_filename|import|include|modulemeta|get_search_list)\b)).*",
    # Formats of git that check no signature: that runs gpg, or whatever is configured in its place.
    "PRETTY": r"(?!.*(?:%G|%\(signature)).*",
}
_CARGO_TAIL = word_set("--nocapture --ignored --include-ignored --exact --list --show-output -q -D -W -A -F")
_LISTING = word_set("-l --list --contains --no-contains --merged --no-merged --points-at -n")
_ONE_DASH = frozenset({"find", "go"})  # long flags have one dash, short ones cannot be bundled
_WORD = r"[A-Za-z0-9_][\w.:+-]*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One row of the table, ready to use: flags with the kind of their value, and the kind of the operands."""

    command: str
    operands: str
    flags: Mapping[str, str]
    bundles: bool


@dataclass(slots=True)
class Reading:
    """What the words of a command mean."""

    doubts: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    revisions: list[str] = field(default_factory=list)
    operands: list[tuple[int, str]] = field(default_factory=list)
    tail: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)


def _flag_names(flag: str) -> tuple[str, ...]:
    return ("--" + flag[5:], "--no-" + flag[5:]) if flag.startswith("--no:") else (flag,)


def _parse_flags(text: str) -> dict[str, str]:
    flags: dict[str, str] = {}
    for entry in text.split():
        match = re.fullmatch(r"(-(?:-no:)?[^:?]*)(?::(.+)|(\?.*))?", entry)
        if match:
            flags |= dict.fromkeys(_flag_names(match[1]), match[2] or match[3] or "")
    return flags


@lru_cache(maxsize=1)
def _rows() -> dict[str, tuple[str, str]]:
    """The table: operands and flags by command."""
    text = Path(__file__).with_name("programs.txt").read_text(encoding="utf-8")
    lines = [line for line in text.replace("\n    ", " ").splitlines() if line and not line.startswith("#")]
    sets: dict[str, str] = {}
    rows: dict[str, tuple[str, str]] = {}
    for line in lines:
        if line.startswith("$"):
            name, _, flags = line.partition(" = ")
            sets[name] = _filled(flags, sets)
        else:
            command, operands, flags = (part.strip() for part in f"{line} ".split(" | ", 2))
            rows[command] = operands, _filled(flags, sets)
    return rows


def _filled(flags: str, sets: Mapping[str, str]) -> str:
    return " ".join(sets.get(word, word) for word in flags.split())


@lru_cache(maxsize=256)
def _spec(command: str) -> Spec | None:
    if command not in _rows():
        return None
    operands, flags = _rows()[command]
    return Spec(
        command=command,
        operands=operands,
        flags=_parse_flags(flags),
        bundles=command.partition(" ")[0] not in _ONE_DASH,
    )


def read_command(argv: Sequence[str], written: Sequence[str]) -> Reading | None:
    """What `argv` means by the table of its program; None when there is no table.

    Args:
        argv: The whole command.
        written: Its first words, as the user's rule spells them out.
    """
    if argv[0] == "tar" and re.fullmatch(r"[tvzjJ]+f?", "".join(argv[1:2])):
        argv = (argv[0], f"-{argv[1]}", *argv[2:])  # the old style
    spec, start, reading = _find_spec(argv, len(written))
    if spec is None:
        return None
    _read_words(argv, start, spec, reading)
    if tuple(argv) == tuple(written):
        reading.doubts.clear()  # the user wrote this very command
    _OPERANDS.get(spec.operands, _matching)(reading, spec, len(written))
    return reading


def _find_spec(argv: Sequence[str], written: int) -> tuple[Spec | None, int, Reading]:
    reading, index = Reading(), 1
    leading, own = (spec.flags if (spec := _spec(f"{argv[0]} {kind}")) else {} for kind in "+!")
    while index < len(argv) and argv[index].startswith("-"):
        if argv[index] in own and index + 1 < written:
            reading.paths.append(argv[index + 1])
            index += 2
        elif argv[index] in leading and not leading[argv[index]]:
            index += 1
        else:
            break
    for size in (2, 1, 0):
        command = " ".join([argv[0], *argv[index : index + size]])
        if len(argv) >= index + size and (spec := _spec(command)):
            return spec, index + size, reading
    return None, index, reading


def _read_words(argv: Sequence[str], index: int, spec: Spec, reading: Reading) -> None:
    while index < len(argv):
        word = argv[index]
        if word == "--":
            reading.tail = list(argv[index + 1 :])
            return
        if word.startswith("-") and word != "-":
            index += _read_flag(word, argv[index + 1 : index + 2], spec, reading)
        else:
            reading.operands.append((index, word))
        index += 1


def _read_flag(word: str, following: Sequence[str], spec: Spec, reading: Reading) -> int:
    """Read one flag word; the result is how many further words it takes."""
    name, attached, value = word.partition("=")
    if word.startswith("--") or not spec.bundles:
        kind = spec.flags.get(name)
    else:
        name, kind, attached, value = _unbundle(word, spec, reading)
    if kind is None:
        reading.doubts.append(f"{name} is not a known-safe flag of {spec.command}")
        return 0
    reading.seen.add(name)
    if not kind or kind[0] == "?":
        if attached and not kind:
            reading.doubts.append(f"{name} of {spec.command} takes no value")
        if attached and kind[1:]:
            _read_value(name, value, kind[1:], reading)
        return 0
    if not attached and not following:
        reading.doubts.append(f"{name} of {spec.command} lacks its value")
    _read_value(name, value if attached else "".join(following), kind, reading)
    return 0 if attached else 1


def _unbundle(word: str, spec: Spec, reading: Reading) -> tuple[str, str | None, str, str]:
    """Split `-rn5` into its flags; the last one is returned with its kind and attached value."""
    if word in spec.flags:
        return word, spec.flags[word], "", ""
    if "-#" in spec.flags and re.fullmatch(r"-\d+", word):
        return word, "", "", ""
    name = word
    for place in range(1, len(word)):
        name = "-" + word[place]
        kind = spec.flags.get(name)
        if kind or kind is None:
            rest = word[place + 1 :]
            return name, kind, rest, rest
        reading.seen.add(name)
    return name, "", "", ""


def _read_value(name: str, value: str, kind: str, reading: Reading) -> None:
    match kind:
        case "path":
            reading.paths.append(value)
        case "tests":
            reading.paths.append(value.partition("::")[0])
        case "pattern":
            reading.seen.add("pattern")
        case "text":
            pass
        case _ if not re.fullmatch(_regex(kind), value):
            reading.doubts.append(f"the value {value!r} of {name} is not known to be safe")
    if kind.startswith("{SED"):
        reading.seen.add("pattern")


def _regex(kind: str) -> str:
    return _NAMED.get(kind.strip("{}"), kind[1:-1])


def _all(reading: Reading) -> list[str]:
    return [word for _, word in reading.operands] + reading.tail


def _paths(reading: Reading, _spec: Spec, _written: int) -> None:
    reading.paths += [word for word in _all(reading) if word != "-"]


def _revs(reading: Reading, _spec: Spec, _written: int) -> None:
    reading.revisions += _all(reading)


def _pattern(reading: Reading, _spec: Spec, _written: int) -> None:
    given = "pattern" in reading.seen or reading.seen & {"--files", "--type-list"}
    reading.paths += [word for word in (_all(reading) if given else _all(reading)[1:]) if word != "-"]


def _text(_reading: Reading, _spec: Spec, _written: int) -> None:
    """Inert words."""


def _none(reading: Reading, spec: Spec, written: int) -> None:
    extra = [word for index, word in reading.operands if index >= written] + reading.tail
    if extra:
        reading.doubts.append(f"{extra[0]!r} is not expected after {spec.command}")


def _one(reading: Reading, spec: Spec, written: int) -> None:
    _paths(reading, spec, written)
    if len(_all(reading)) > 1:
        reading.doubts.append(f"the second operand of {spec.command} is a file that it writes")


def _listing(reading: Reading, spec: Spec, written: int) -> None:
    if not reading.seen & _LISTING:
        _none(reading, spec, written)


def _targets(reading: Reading, spec: Spec, written: int) -> None:
    """Words the rule does not spell out are targets only where the rule names none itself."""
    fixed = [word for index, word in reading.operands if index < written]
    extra = [word for index, word in reading.operands if index >= written] + reading.tail
    if fixed and extra:
        reading.doubts.append(f"the rule allows {spec.command} {fixed[0]}, not {extra[0]!r} as well")
    reading.doubts += [f"{word!r} is not a plain name" for word in extra if not re.fullmatch(_WORD, word)]


def _tests(reading: Reading, _spec: Spec, _written: int) -> None:
    words = _all(reading)
    reading.doubts += [f"{word!r} is read as a file of arguments" for word in words if word.startswith("@")]
    reading.paths += [word.partition("::")[0] for word in words]


def _formats(reading: Reading, spec: Spec, written: int) -> None:
    """Files that the command rewrites, which takes a rule that names the subcommand too, or a flag to only check."""
    if written <= 1 and not {"--check", "--diff"} & {*reading.seen, *reading.tail}:
        reading.doubts.append(f"{spec.command} rewrites files")
    reading.tail = [word for word in reading.tail if word != "--check"]
    _script(reading, spec, written)


def _message(reading: Reading, spec: Spec, written: int) -> None:
    _none(reading, spec, written)
    if not reading.seen & {"-m", "--message", "--dry-run"}:
        reading.doubts.append(f"{spec.command} without a message starts an editor")


def _script(reading: Reading, _spec: Spec, _written: int) -> None:
    words = _all(reading)
    reading.doubts += [f"{word!r} goes to a script that is not known" for word in words if word[:1] in {"-", "@"}]
    reading.paths += words


def _scripts(reading: Reading, spec: Spec, written: int) -> None:
    named = reading.operands[:1]
    reading.doubts += [f"{word!r} is not a plain name" for _, word in named if not re.fullmatch(_WORD, word)]
    reading.operands = reading.operands[1:]
    _script(reading, spec, written)


def _cargo(reading: Reading, _spec: Spec, _written: int) -> None:
    odd = [word for word in reading.tail if word.startswith("-") and word not in _CARGO_TAIL]
    reading.doubts += [f"{word} goes to a test program that is not known" for word in odd]


def _packages(reading: Reading, _spec: Spec, _written: int) -> None:
    reading.paths += [word.replace("...", "") or "." for word in _all(reading)]


def _find(reading: Reading, _spec: Spec, _written: int) -> None:
    reading.paths += [word for word in _all(reading) if word not in {"(", ")", "!", ","}]


def _matching(reading: Reading, spec: Spec, written: int) -> None:
    """`{regex}`: the first operand must match, the rest are paths; `{regex}*`: every operand must match."""
    words = _all(reading)
    if "pattern" in reading.seen:
        return _paths(reading, spec, written)
    checked = words if spec.operands.endswith("*") else words[:1]
    pattern = _regex(spec.operands.rstrip("*"))
    reading.doubts += [f"{word!r} is not known to be safe" for word in checked if not re.fullmatch(pattern, word)]
    reading.paths += [word for word in words[len(checked) :] if word != "-"]
    return None


_OPERANDS: dict[str, Callable[[Reading, Spec, int], None]] = {
    "paths": _paths,
    "revs": _revs,
    "pattern": _pattern,
    "text": _text,
    "none": _none,
    "one": _one,
    "listing": _listing,
    "targets": _targets,
    "tests": _tests,
    "sources": _tests,
    "formats": _formats,
    "message": _message,
    "script": _script,
    "scripts": _scripts,
    "cargo": _cargo,
    "packages": _packages,
    "find": _find,
}
