"""`keys check`: look at every place that holds keys and say how to mend what is wrong."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING

from blueprint_llm.config import private_file
from blueprint_llm.credentials.credential import Finding
from blueprint_llm.errors import CredentialsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from blueprint_llm.credentials.manager import CredentialsManager

OLD_DAYS = 180
_DAY_S = 86400


def findings(manager: CredentialsManager, *, now: Callable[[], float] = time.time) -> list[Finding]:
    """Return the rows of `keys check`."""
    path, config = manager.sources.file.path, manager.config
    rows = [*_file(manager, path, now())]
    if manager.sources.use_keychain:
        try:
            rows.append(Finding(subject="keychain", ok=True, message=manager.sources.keychain.describe()))
        except CredentialsError as error:
            rows.append(_bad("keychain", str(error)))
    for name in config.providers or config.model_groups:
        problem = manager.available(name)
        row = Finding(subject=name, ok=True, message="" if problem else manager.reference(name))
        rows.append(_bad(name, problem) if problem else row)
    return rows


def _file(manager: CredentialsManager, path: Path | None, now: float) -> Iterator[Finding]:
    if path is None:
        yield Finding(subject="credentials file", ok=True, message="none, for want of a home folder")
        return
    try:
        entries = manager.sources.file.entries()
    except CredentialsError as error:
        yield _bad(str(path), str(error))
    else:
        is_there = private_file.stamp(str(path)) is not None
        text = f"safe; providers: {', '.join(entries) or 'none'}" if is_there else "not there, which is fine"
        yield Finding(subject=str(path), ok=True, message=text)
    found = private_file.stamp(str(path))
    days = int((now - found[0] / 1e9) // _DAY_S) if found else 0
    if days >= OLD_DAYS:
        yield Finding(subject=str(path), ok=True, message=f"unchanged for {days} days: consider fresh keys")
    yield from _parents(path)


def _bad(subject: str, sentence: str) -> Finding:
    message, _, mend = sentence.removeprefix(f"{subject}: ").removeprefix(f"{subject} ").rpartition(": ")
    return Finding(subject=subject, ok=False, message=message, mend=mend.removeprefix("run "))


def _parents(path: Path) -> Iterator[Finding]:
    """Folders above in which somebody else could put another folder in the place of ours."""
    for folder in path.absolute().parents:
        found = folder.stat() if os.path.exists(folder) else None  # noqa: PTH110 - it never raises
        if found is None or (found.st_mode & stat.S_ISVTX and private_file.is_ours(found)):
            continue  # a sticky folder (/tmp) lets nobody rename what is ours
        if problem := private_file.folder_problem(folder, found):
            yield _bad(str(folder), problem)
