"""The project's chores; the sessions share one environment, `proxy` aside, with the built wheel installed."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests"]

HOME = Path(__file__).parent
PYPROJECT = nox.project.load_toml(HOME / "pyproject.toml")
EXTRAS = "local,redis,rich,fast,otel"
KERNEL_ENFORCED = (
    "tests/test_cache_stores.py",
    "tests/test_credentials_manager.py",
    "tests/test_stores_faults.py",
    "tests/test_tools_audit.py",
    "tests/test_tools_confine.py",
    "tests/test_tools_patch.py",
)


def python(
    session: nox.Session, name: str = "shared", extras: str = EXTRAS, groups: tuple[str, ...] = ("test", "lint")
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
        pip(session, interpreter, "-c", str(constraints), f"{HOME}[{extras}]", *wanted)
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
def tests(session: nox.Session) -> None:
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
    session.run(*drop, pytest, *KERNEL_ENFORCED, *session.posargs, external=True)


@nox.session
def formats(session: nox.Session) -> None:
    """Providers' wire formats against aimock, which needs Node >= 20.15."""
    interpreter = python(session)
    session.run("npm", "install", "--silent", "--prefix", str(HOME / ".nox"), "@copilotkit/aimock@1.43", external=True)
    os.environ["BLUEPRINT_FORMATS"] = "1"
    run(session, interpreter, "pytest", "tests/formats", *session.posargs)


@nox.session
def proxy(session: nox.Session) -> None:
    """The plugin in a real LiteLLM proxy, in an environment of its own: everything else has to do without FastAPI."""
    interpreter = python(session, "proxy", extras="redis", groups=("test", "proxy"))
    os.environ["BLUEPRINT_PROXY"] = "1"
    run(session, interpreter, "pytest", "tests/proxy", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    run(session, python(session), "blueprint-llm", "demo", "--yes")


@nox.session
def bench(session: nox.Session) -> None:
    session.run(python(session), "tests/benchmarks/run.py", *session.posargs, external=True)
