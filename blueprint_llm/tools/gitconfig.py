"""Keep git from running the programs that a repository's configuration names.

`.git/config` may name programs for diffs, filters, hooks, signatures, pagers and transports, under names of its own
choice, so no list of switches turns them all off. A command sees a copy in its place, made of the keys that are known
to be inert, without passwords in addresses. `GIT_CONFIG_*` says the rest to git itself.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import lru_cache

_INERT = re.compile(
    r"core\.(?:repositoryformatversion|filemode|bare|logallrefupdates|ignorecase|precomposeunicode|symlinks|autocrlf|eol"
    r"|safecrlf|quotepath|abbrev|sparsecheckout|sparsecheckoutcone|worktree|whitespace|excludesfile|commentchar)"
    r"|extensions\.(?:objectformat|worktreeconfig|partialclone|noop|preciousobjects|compatobjectformat|refstorage"
    r"|relativeworktrees)|(?:user|author|committer)\.(?:name|email)|init\.defaultbranch|safe\.directory"
    r"|branch\..*\.(?:remote|merge|rebase|description|pushremote)"
    r"|remote\..*\.(?:url|pushurl|fetch|push|tagopt|prune|promisor|partialclonefilter)"
    r"|submodule\..*\.(?:url|active|branch|path)|(?:color|advice|column|i18n|status)\..*"
    r"|diff\.(?:algorithm|renames|renamelimit|mnemonicprefix|noprefix|context|interhunkcontext|colormoved"
    r"|colormovedws|wserrorhighlight|suppressblankempty|indentheuristic|submodule|ignoresubmodules)"
    r"|log\.(?:date|decorate|follow|abbrevcommit|mailmap)|pull\.(?:rebase|ff)|push\.(?:default|autosetupremote)"
    r"|merge\.(?:ff|conflictstyle|renames|log|stat)|rebase\.(?:autosquash|autostash|updaterefs)|fetch\.prune"
    r"|grep\.(?:linenumber|patterntype|extendregexp|column|fullname)|commit\.(?:verbose|cleanup|status)|tag\.sort"
)
# A command that may write checks files in and out, which filters (LFS) are there for; it is as confined as they are.
_FILTERS = re.compile(r"filter\..*\.(?:clean|smudge|process|required)|lfs\.repositoryformatversion")
# A file that is hidden keeps its size and time, so that git sees no change in it; both must be all that git compares.
_SETTINGS = {"core.checkstat": "minimal", "core.trustctime": "false", "core.fsmonitor": "false"}
_GLOBAL = {"safe.barerepository": "explicit", "log.showsignature": "false", **_SETTINGS}
_ASKS_NOBODY = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_PAGER": "cat",
    "GIT_EDITOR": "true",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_CONFIG_NOSYSTEM": "1",
}


def environment(global_config: str) -> dict[str, str]:
    """Return the variables for a git command; `global_config` takes the place of the user's own configuration."""
    pairs = [
        (f"GIT_CONFIG_{part}_{number}", text)
        for number, pair in enumerate(_GLOBAL.items())
        for part, text in zip(("KEY", "VALUE"), pair, strict=True)
    ]
    return {**_ASKS_NOBODY, "GIT_CONFIG_GLOBAL": global_config, "GIT_CONFIG_COUNT": str(len(_GLOBAL)), **dict(pairs)}


def inert_copy(path: str, *, write: bool, user: bool = False) -> tuple[str, bool]:
    """Return a configuration's text without what could run a program, and whether anything was left out.

    Args:
        path: The file; one that cannot be read counts as empty.
        write: The command may write, so filters stay.
        user: It is the user's own configuration and not a repository's.
    """
    try:
        stat = os.stat(path)  # noqa: PTH116 - a plain string
    except OSError:
        return _text(_GLOBAL if user else _SETTINGS), False
    kept, dropped = _read(path, stat.st_ctime_ns, stat.st_size)
    lines = [pair for pair in kept if write or not _FILTERS.fullmatch(pair[0])]
    return _text(dict(_GLOBAL if user else _SETTINGS), lines), dropped


@lru_cache(maxsize=256)
def _read(path: str, _changed_ns: int, _size: int) -> tuple[tuple[tuple[str, str], ...], bool]:
    """The inert settings of a file as git reads them, and whether there are others."""
    git = shutil.which("git", path=os.defpath + ":/usr/local/bin")
    if git is None:
        return (), True
    words = [git, "config", "--file", path, "--no-includes", "--null", "--list"]
    done = subprocess.run(words, capture_output=True, check=False, env={}, cwd="/", timeout=10)  # noqa: S603 - fixed words
    rows = [row.partition("\n") for row in done.stdout.decode("utf-8", "surrogateescape").split("\0") if row]
    kept = [
        (key, _without_password(value if separator else "true"))  # a key without a value is true
        for key, separator, value in rows
        if _INERT.fullmatch(key) or _FILTERS.fullmatch(key)
    ]
    dropped = done.returncode != 0 or any(not _INERT.fullmatch(key) for key, _, _ in rows)
    return tuple(kept), dropped


def _without_password(value: str) -> str:
    found = re.match(r"(\w+://)([^/@:]*)(?::[^/@]*)?@(.*)", value, re.DOTALL)
    if found is None:
        return value
    return f"{found[1]}{found[3]}" if found[1].startswith("http") else f"{found[1]}{found[2]}@{found[3]}"


def _text(settings: dict[str, str], rows: list[tuple[str, str]] | None = None) -> str:
    """Settings in git's own syntax, each quoted whole."""
    lines = []
    for key, value in [*(rows or []), *settings.items()]:
        section, _, name = key.rpartition(".")
        head, dot, sub = section.partition(".")
        title = f'{head} "{_escaped(sub)}"' if dot else head
        lines.append(f'[{title}]\n\t{name} = "{_escaped(value)}"\n')
    return "".join(lines)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
