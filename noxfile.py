"""The project's chores; the sessions share one environment, `proxy` aside, with the built wheel installed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import nox

if TYPE_CHECKING:
    from collections.abc import Mapping

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests"]

HOME = Path(__file__).parent
PYPROJECT = nox.project.load_toml(HOME / "pyproject.toml")
EXTRAS = "local,redis,rich,fast,otel,mcp"
FLOOR = "1.110.0"
CONTRACTS = (
    "tests/test_litellm_contract.py",
    "tests/test_compat_calls.py",
    "tests/test_compat_module.py",
    "tests/test_guard_called.py",
    "tests/test_module_settings.py",
    "tests/test_router.py",
)
KERNEL_ENFORCED = (
    "tests/test_cache_stores.py",
    "tests/test_credentials_manager.py",
    "tests/test_stores_faults.py",
    "tests/test_tools_attacks.py",
    "tests/test_tools_audit.py",
    "tests/test_tools_boundary.py",
    "tests/test_tools_confine.py",
    "tests/test_tools_patch.py",
)


def python(
    session: nox.Session,
    name: str = "shared",
    extras: str = EXTRAS,
    groups: tuple[str, ...] = ("test", "lint"),
    lowest: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """An environment's interpreter, with dependencies as locked and this checkout's wheel freshly installed."""
    venv = HOME / ".nox" / name
    interpreter = venv / ("Scripts" if os.name == "nt" else "bin") / "python"
    constraints = HOME / "tests" / "constraints.txt"
    digest = hashlib.sha256((HOME / "pyproject.toml").read_bytes() + constraints.read_bytes()).hexdigest()
    stamp = venv / "installed"
    if not stamp.is_file() or stamp.read_text() != digest:
        shutil.rmtree(venv, ignore_errors=True)
        session.run("python", "-m", "venv", str(venv), external=True)
        wanted = nox.project.dependency_groups(PYPROJECT, *groups)
        pinned = ("-c", str(constraints)) if not lowest else tuple(f"{each}=={lowest[each]}" for each in lowest)
        pip(session, interpreter, *pinned, f"{HOME}[{extras}]", *wanted)
        stamp.write_text(digest)
    pip(session, interpreter, "--no-deps", "--force-reinstall", str(HOME))
    return str(interpreter)


def pip(session: nox.Session, interpreter: Path, *arguments: str) -> None:
    """Install quietly."""
    options = ("--quiet", "--disable-pip-version-check", "--no-input")
    session.run(str(interpreter), "-m", "pip", "install", *options, *arguments, external=True)


def run(session: nox.Session, interpreter: str, program: str, *arguments: str) -> None:
    """Run a program of the shared environment; the checkout is not on its path, so the wheel is what runs."""
    session.run(str(Path(interpreter).with_name(program)), *arguments, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    interpreter = python(session)
    run(session, interpreter, "ruff", "check", ".")
    run(session, interpreter, "ruff", "format", "--check", ".")
    run(session, interpreter, "lint-imports")


@nox.session
def types(session: nox.Session) -> None:
    run(session, python(session), "mypy")


@nox.session
def pyright(session: nox.Session) -> None:
    """The typed examples and the calls that must not pass, by pyright; it needs Node."""
    interpreter = python(session)
    pip(session, Path(interpreter), *nox.project.dependency_groups(PYPROJECT, "pyright"))
    run(session, interpreter, "pyright", "--pythonpath", interpreter)


@nox.session
def tests(session: nox.Session) -> None:
    """Every part, in minutes: a process for each core, a file stays in one."""
    run(session, python(session), "pytest", "-m", "not slow", "-n", "auto", "--dist", "loadfile", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Process kills, races and whole corpora."""
    run(session, python(session), "pytest", "-m", "slow", "-n", "auto", "--dist", "loadfile", *session.posargs)


@nox.session
def floor(session: nox.Session) -> None:
    """LiteLLM's contract and the drop-in on the oldest LiteLLM that is supported."""
    interpreter = python(session, "floor", lowest={"litellm": FLOOR})
    parallel = ("-n", "auto", "--dist", "loadfile")
    run(session, interpreter, "pytest", "-m", "not slow", *parallel, *CONTRACTS, *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """The whole suite with coverage."""
    interpreter = python(session)
    for stale in HOME.glob(".coverage*"):
        stale.unlink()
    run(session, interpreter, "coverage", "run", str(Path(interpreter).with_name("pytest")), *session.posargs)
    run(session, interpreter, "coverage", "combine", "--quiet")
    if not session.posargs:
        run(session, interpreter, "coverage", "report")


@nox.session
def unprivileged(session: nox.Session) -> None:
    """What the kernel must enforce, without root's capabilities: root itself is refused nothing."""
    interpreter = python(session)
    drop = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all") if os.geteuid() == 0 else ()
    pytest = str(Path(interpreter).with_name("pytest"))
    session.run(*drop, pytest, "-m", "not slow", *KERNEL_ENFORCED, *session.posargs, external=True)


def pythons() -> dict[str, str]:
    """The supported Pythons of this machine by version: pyenv's own, whose shims may refuse, else what is on PATH."""
    root = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    last = [classifier.rpartition(" ")[2] for classifier in PYPROJECT["project"]["classifiers"]]
    versions = [version for version in last if version.startswith("3.")]
    own = {version: sorted(map(str, root.glob(f"versions/{version}.*/bin/python"))) for version in versions}
    found = {version: own[version][-1] if own[version] else shutil.which(f"python{version}") for version in versions}
    return {version: path for version, path in found.items() if path and _runs(path)}


def _runs(interpreter: str) -> bool:
    """Return True if it starts: a shim of pyenv's is there whether its Python may be used or not."""
    tried = subprocess.run([interpreter, "--version"], capture_output=True, check=False)  # noqa: S603 - found above
    return tried.returncode == 0


@nox.session
def wheel(session: nox.Session) -> None:
    """The wheel without any extra, used away from the checkout on every Python of the machine."""
    away, found = Path(session.create_tmp()), pythons()
    shutil.rmtree(away)
    session.run("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(away), str(HOME), external=True)
    (built,) = away.glob("*.whl")
    for version, interpreter in found.items():
        session.run(interpreter, "-m", "venv", str(away / version), external=True)
        own = away / version / ("Scripts" if os.name == "nt" else "bin") / "python"
        pip(session, own, "-c", str(HOME / "tests" / "constraints.txt"), str(built))
        home = {"BLUEPRINT_HOME": str(away / "home")}
        session.run(str(own), "-I", str(HOME / "tests" / "wheel" / "away.py"), env=home, external=True)
    session.log(f"tried on {', '.join(found)}")


@nox.session
def formats(session: nox.Session) -> None:
    """Providers' wire formats against aimock, which needs Node >= 20.15."""
    interpreter = python(session)
    prefix = str(HOME / ".nox")
    session.run("npm", "install", "--silent", "--prefix", prefix, "@copilotkit/aimock@1.43", external=True)
    os.environ |= {"BLUEPRINT_FORMATS": "1", "AIMOCK_PREFIX": prefix}
    run(session, interpreter, "pytest", "tests/formats", *session.posargs)


@nox.session
def proxy(session: nox.Session) -> None:
    """The plugin in a real LiteLLM proxy, in an environment of its own: everything else has to do without FastAPI."""
    interpreter = python(session, "proxy", extras="redis", groups=("test", "proxy"))
    os.environ["BLUEPRINT_PROXY"] = "1"
    run(session, interpreter, "pytest", "tests/proxy", *session.posargs)


RESOLVING_S = 600
PROGRAMS = {
    "dspy": "dspy",
    "smolagents": "smolagents",
    "minisweagent": "mini-swe-agent",
    "agents": "openai-agents[litellm]",
    "instructor": "instructor",
    "langchain_litellm": "langchain-litellm",
}
OTHERS = ("crewai", "strands-agents[litellm]", "browser-use", "google-adk[extensions]")
# Those whose newest version wants an older LiteLLM, or what an older one wanted; docs/litellm.md names them.
PINNED = {"strands-agents[litellm]", "browser-use", "google-adk[extensions]"}


@nox.session
def programs(session: nox.Session) -> None:
    """Programs that call LiteLLM, guarded by `install()`, in one environment with all of them beside this checkout."""
    interpreter = python(session, "programs", extras="", groups=())
    constraints = str(HOME / "tests" / "constraints.txt")
    pip(session, Path(interpreter), "-c", constraints, *PROGRAMS.values())
    for name in session.posargs or PROGRAMS:
        script = str(HOME / "tests" / "programs" / "guarded_program.py")
        session.run(interpreter, "-W", "ignore", script, name, external=True)


@nox.session
def resolution(session: nox.Session) -> None:
    """Our base requirements beside each program that is known to use LiteLLM, at its newest version."""
    interpreter, failed = python(session, "resolution", extras="", groups=()), []
    for wanted in session.posargs or (*PROGRAMS.values(), *OTHERS):
        alone, beside = chosen(interpreter, wanted, "--no-deps"), chosen(interpreter, wanted, str(HOME))
        session.log(f"{wanted}: newest {alone}, beside us {beside}")
        if alone != beside and wanted not in PINNED:
            failed.append(wanted)
    if failed:
        session.error(f"not beside us at their newest: {', '.join(failed)}")


def chosen(interpreter: str, wanted: str, *more: str) -> str:
    """The version that pip would install of a package; installs nothing, and gives up after a while."""
    name = wanted.partition("[")[0]
    asked = [
        interpreter,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--dry-run",
        "--ignore-installed",
        "--report",
        "-",
        wanted,
        *more,
    ]
    try:
        answer = subprocess.run(  # noqa: S603 - pip of a session's own environment
            asked, capture_output=True, text=True, timeout=RESOLVING_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"undecided after {RESOLVING_S} s"
    found = json.loads(answer.stdout)["install"] if answer.returncode == 0 else []
    versions = [
        each["metadata"]["version"] for each in found if each["metadata"]["name"].lower().replace("_", "-") == name
    ]
    return versions[0] if versions else "none"


@nox.session
def pages(session: nox.Session) -> None:
    """The usage report in a real browser: Debian's `chromium`."""
    interpreter = python(session)
    os.environ["BLUEPRINT_PAGES"] = "1"
    run(session, interpreter, "pytest", "tests/pages", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    run(session, python(session), "blueprint-llm", "demo", "--yes")


@nox.session
def readme(session: nox.Session) -> None:
    """Renew what README takes from the schema and the bench's JSON; `-- --session` plays and draws the demo again."""
    session.run(python(session), "tests/readme/refresh.py", *session.posargs, external=True)


@nox.session
def bench(session: nox.Session) -> None:
    session.run(python(session), "tests/benchmarks/run.py", *session.posargs, external=True)


@nox.session
def docs(session: nox.Session) -> None:
    """The pages of docs/ as a site in `.nox/site`; a link that leads nowhere fails."""
    venv = HOME / ".nox" / "docs"
    programs = venv / ("Scripts" if os.name == "nt" else "bin")
    if not venv.is_dir():
        session.run("python", "-m", "venv", str(venv), external=True)
    pip(session, programs / "python", *nox.project.dependency_groups(PYPROJECT, "docs"))
    site = str(HOME / ".nox" / "site")
    session.run(str(programs / "mkdocs"), "build", "--quiet", "--strict", "--site-dir", site, external=True)
