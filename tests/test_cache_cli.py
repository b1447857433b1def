import asyncio
import json

import pytest
from caching import entry_of
from click.testing import CliRunner

from blueprint_llm.cache import CacheManager, namespace_of
from blueprint_llm.cli import main
from blueprint_llm.config import load_config


@pytest.fixture
def run(tmp_path):
    """Run `blueprint-llm cache ...` over a cache of two projects."""

    async def fill():
        manager = CacheManager.of_config(load_config({"blueprint": {"cache": {"enabled": True}}}))
        for project in ("acme", "acme", "other"):
            await manager.keep(f"{namespace_of(project)}:{'0' * 64}", entry_of("Hi."))
        await manager.aclose()

    asyncio.run(fill())
    file = tmp_path / "b.yaml"
    file.write_text(json.dumps({"blueprint": {"cache": {"enabled": False}}}))

    def run(*arguments):
        return CliRunner().invoke(main, ["cache", *arguments, "--config", str(file)])

    return run


def test_stats_count_answers_and_bytes(run):
    """Also of a cache that is switched off: what it kept is still there."""
    assert run("stats").output.startswith("2 answers, 0.0")
    found = json.loads(run("stats", "--json").output)

    assert found["entries"] == 2
    assert 100 < found["bytes"] < 5000


@pytest.mark.parametrize(
    ("options", "left"),
    [
        pytest.param([], 0, id="all"),
        pytest.param(["--project", "acme"], 1, id="one project"),
        pytest.param(["--project", "unknown"], 2, id="an unknown project"),
        pytest.param(["--older-than", "1h"], 2, id="nothing is that old"),
        pytest.param(["--older-than", "0s", "--project", "other"], 1, id="both"),
    ],
)
def test_clear_forgets_what_was_named(run, options, left):
    """Everything, one project's answers, or what is old enough."""
    result = run("clear", *options)

    assert result.output == {0: "2 answers", 1: "1 answer", 2: "0 answers"}[left] + " forgotten\n"
    assert json.loads(run("stats", "--json").output)["entries"] == left


def test_an_age_needs_a_unit_that_exists(run):
    """The message says how to write one."""
    result = run("clear", "--older-than", "soon")

    assert result.exit_code == 2
    assert "90s, 15m, 12h or 7d" in result.output


def test_a_cache_in_trouble_is_one_line(run, bare_environment):
    """No traceback, exit code 1."""
    folder = next(bare_environment.rglob("cache.db")).parent
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.symlink_to(bare_environment)

    result = run("stats")

    assert result.exit_code == 1
    assert "symbolic link" in result.output
    assert "Traceback" not in result.output
