"""The page on streams: its example runs and prints what it says, its names exist."""

import re
from pathlib import Path

from blueprint_llm import policy
from blueprint_llm.streaming import verdict

PAGE = (Path(__file__).parents[1] / "docs" / "streams.md").read_text(encoding="utf-8")


def test_the_example_prints_what_it_says(capsys):
    """The example's output is the comment behind it."""
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]

    exec(code, {})  # noqa: S102 - our own page

    assert capsys.readouterr().out.strip() == code.strip().splitlines()[-1].partition("  # ")[2]


def test_the_codes_exist():
    """Every warning that the page names is one that the validator knows."""
    codes = set(re.findall(r"\(`([a-z_]+)`\)", PAGE))

    assert codes == {code for code in codes if verdict.decided_by(code) in {"protocol", "finish"}}
    assert len(codes) >= 4
    assert policy.CLUES
