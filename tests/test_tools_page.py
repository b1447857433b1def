"""The page on tools says what is so: its examples load and decide as they say."""

from pathlib import Path

import pytest
import yaml

from blueprint_llm.config import load_config
from blueprint_llm.tools import ToolEngine

PAGE = (Path(__file__).parents[1] / "docs/tools.md").read_text()
EXAMPLE = yaml.safe_load(next(part for part in PAGE.split("```yaml\n")[1:]).partition("```")[0])


@pytest.fixture
def engine(tmp_path):
    """An engine with the ten rules of the page."""
    for folder in ("private", "web", "src", "dist"):
        (tmp_path / folder).mkdir()
    (tmp_path / "web/a.js").write_text("x")
    with ToolEngine(workspace=tmp_path, settings=load_config(EXAMPLE).tools) as made:
        yield made


def command(words):
    """A call of a command."""
    return "command", {"argv": words.split()}


@pytest.mark.parametrize(
    ("call", "decision", "rule", "effects"),
    [
        pytest.param(("read_file", {"path": "src/a.py"}), "allow", 0, (), id="1"),
        pytest.param(command("git log -p --all"), "allow", 1, ("read",), id="2"),
        pytest.param(("read_file", {"path": "private/x"}), "deny", 2, (), id="3 a tool"),
        pytest.param(command("cat private/x"), "deny", 2, (), id="3 a command"),
        pytest.param(("run_tests", {}), "allow", 3, ("write",), id="4"),
        pytest.param(command("ruff check --fix ."), "allow", 4, ("write",), id="5"),
        pytest.param(command("npm ci"), "ask", 5, ("write", "network"), id="6"),
        pytest.param(("write_file", {"path": "src/a.py", "content": ""}), "allow", 6, (), id="7"),
        pytest.param(("write_file", {"path": "a.py", "content": ""}), "ask", None, (), id="7 elsewhere"),
        pytest.param(("write_file", {"path": "dist/a", "content": ""}), "deny", 7, (), id="8"),
        pytest.param(command("eslint ."), "allow", 8, ("read",), id="9"),
        pytest.param(command("git push origin"), "deny", 9, (), id="10"),
        pytest.param(command("make"), "ask", None, ("write",), id="no rule"),
    ],
)
def test_the_ten_examples_decide_as_the_page_says(call, decision, rule, effects, engine):
    """Each example is loaded from the page and asked."""
    found = engine.check(*call)

    assert (found.decision, found.rule_id) == (decision, None if rule is None else f"rules[{rule}]")
    assert found.effects == effects


def test_there_are_ten():
    """The page promises ten."""
    assert len(EXAMPLE["blueprint"]["tools"]["rules"]) == 10
