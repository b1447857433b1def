"""Choose how the kernel confines a command, and say what is in force.

One fence (what may be read and written, and whether the network is open) for two backends: Landlock costs next to
nothing and guards files and TCP; bubblewrap adds own process and network namespaces. `auto` takes both where it can.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from blueprint_llm.errors import ToolError
from blueprint_llm.tools import landlock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from blueprint_llm.config.tool_blocks import Sandbox

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/opt", "/nix", "/run/current-system", "/snap")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/shm", "/dev/fd")  # noqa: S108 - a device of the system
_HOME_FILES = (".gitconfig", ".config/git")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fence:
    """What a command may touch. Paths are absolute."""

    workspace: str
    read: tuple[str, ...]
    write: tuple[str, ...]
    network: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a command is confined.

    Attributes:
        prefix: Words before the command.
        ruleset: A Landlock descriptor to take on, owned by the plan's user.
        in_force: What the kernel enforces, for the result and the audit.
    """

    prefix: tuple[str, ...]
    ruleset: int | None
    in_force: str


def backend(settings: Sandbox) -> str:
    """The backend that will be used: `bubblewrap`, `landlock` or `none`.

    Raises:
        ToolError: When the configuration requires one that this system does not offer.
    """
    wanted = ["bubblewrap", "landlock"] if settings.backend == "auto" else [settings.backend]
    chosen = next((name for name in wanted if _offered(name)), "none")
    if chosen == "none" and settings.required:
        raise ToolError(f"tools.sandbox.required: this system offers no {' or '.join(wanted)}; nothing is run without")
    return chosen


def _offered(name: str) -> bool:
    return (name == "landlock" and landlock.version() > 0) or (name == "bubblewrap" and bubblewrap() is not None)


@lru_cache(maxsize=1)
def bubblewrap() -> str | None:
    """The path of a bubblewrap that works here: present, and allowed to make namespaces."""
    found = shutil.which("bwrap") if sys.platform == "linux" else None
    if found is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - fixed words
            [found, *_NAMESPACES, "--ro-bind", "/", "/", "true"], check=False, capture_output=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found if done.returncode == 0 else None


_NAMESPACES = (
    "--unshare-user",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--die-with-parent",
    "--cap-drop",
    "ALL",
)


def fence(workspace: str, env: Mapping[str, str], settings: Sandbox, temporary: str) -> Fence:
    """What a command in this workspace may touch: the system and its interpreter to read, the workspace to write."""
    home = env.get("HOME") or "/nonexistent"
    tools = [place for folder in env.get("PATH", "").split(":") if folder for place in _toolchain(folder)]
    own = [sys.prefix, sys.base_prefix, *(str(Path(home, name)) for name in _HOME_FILES)]
    extra = [str(Path(path).expanduser().absolute()) for path in settings.read]
    writable = [str(Path(path).expanduser().absolute()) for path in settings.write]
    return Fence(
        workspace=workspace,
        read=tuple(dict.fromkeys([*_SYSTEM, *tools, *own, *extra])),
        write=(workspace, temporary, *writable),
        network=settings.network,
    )


def _toolchain(folder: str) -> list[str]:
    """A folder of programs, and the libraries beside it."""
    beside = [
        f"{Path(folder).parent}/{name}" for name in ("lib", "lib64", "libexec", "include", "versions", "toolchains")
    ]
    return [folder, *(path for path in beside if os.path.isdir(path))]  # noqa: PTH112 - a plain string is wanted


def plan(chosen: str, limits: Fence, cwd: str) -> Plan:
    """How to run a command inside the fence.

    Raises:
        OSError: When the kernel refuses.
    """
    if chosen == "bubblewrap":
        closed = landlock.version() >= 4 and not limits.network  # noqa: PLR2004 - TCP rules came with version 4
        rules = landlock.ruleset(read=(), write=(), network=False, files=False) if closed else None
        return Plan(
            prefix=_bubblewrap_words(limits, cwd), ruleset=rules, in_force=_told("bubblewrap (files, processes", limits)
        )
    if chosen == "landlock":
        write = (*limits.write, *_DEVICES)
        rules = landlock.ruleset(read=(*limits.read, "/proc", "/sys"), write=write, network=limits.network)
        return Plan(prefix=(), ruleset=rules, in_force=landlock.describe(landlock.version()))
    return Plan(prefix=(), ruleset=None, in_force="none")


def _told(start: str, limits: Fence) -> str:
    return f"{start})" if limits.network else f"{start}, network)"


def _bubblewrap_words(limits: Fence, cwd: str) -> tuple[str, ...]:
    words = [bubblewrap() or "bwrap", *_NAMESPACES, *([] if limits.network else ["--unshare-net"])]
    words += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108 - a private one
    words += _binds("--ro-bind", [path for path in limits.read if os.path.exists(path)])  # noqa: PTH110 - a plain string is wanted
    words += _binds("--bind", [path for path in limits.write if path])
    guarded = [f"{limits.workspace}/.git/{name}" for name in ("hooks", "config")]
    words += _binds("--ro-bind", [path for path in guarded if os.path.exists(path)])  # noqa: PTH110 - as above
    return (*words, "--chdir", cwd, "--")


def _binds(how: str, paths: Sequence[str]) -> list[str]:
    return [word for path in paths for word in (how, path, path)]
