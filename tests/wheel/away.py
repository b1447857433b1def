"""Uses the installed wheel where there is no checkout: `nox -s wheel` runs it under every Python of the machine."""

import contextlib
import importlib.metadata
import subprocess
import sys
import tempfile
from pathlib import Path

import blueprint_llm
from blueprint_llm.errors import BudgetExceededError
from blueprint_llm.testing import Answer, Cut, FaultServer

HELLO = [{"role": "user", "content": "hello"}]
PACKAGE = Path(blueprint_llm.__file__).parent
COMMANDS = ("--version", "--help", "init", "check", "schema", "models", "explain hello", "usage", "tools list")


def the_library_is_installed_and_light() -> None:
    """What is imported is the wheel, typed, with its price files, and no provider library came along."""
    assert PACKAGE.is_relative_to(sys.prefix), PACKAGE
    assert (PACKAGE / "py.typed").is_file()
    assert list((PACKAGE / "_pricing").glob("*.yaml"))
    assert not {"litellm", "openai", "httpx", "redis", "diskcache"} & set(sys.modules)
    assert importlib.metadata.version("blueprint-llm") == blueprint_llm.__version__


def calls_are_answered_priced_and_limited() -> None:
    """A chat and a stream that breaks are answered and priced; a budget blocks."""
    with FaultServer([Answer("Hello."), Cut(1), Answer("Hello again.")]) as server:
        provider = {"model": "openai/gpt-4o", "api_base": server.url, "api_key": "k"}
        config = {"providers": {"p": provider}, "retry": {"base_s": 0}}
        with blueprint_llm.SyncLLMClient({"blueprint": config}) as client:
            answer = client.chat(messages=HELLO)
            assert answer.content == "Hello."
            assert answer.usage is not None
            assert answer.usage.estimated_cost, "a price is missing"
            assert "".join(chunk.delta for chunk in client.stream(messages=HELLO)).endswith("Hello again.")
        budget = {"scope": "project", "limit_usd": 0.000001}
        with blueprint_llm.SyncLLMClient({"blueprint": {**config, "project": "x", "budgets": [budget]}}) as client:
            try:
                client.chat(messages=HELLO, max_tokens=1000)
            except BudgetExceededError:
                return
    raise AssertionError("the budget let it through")


def commands_work() -> None:
    """The command line runs in an empty folder."""
    program = Path(sys.executable).with_name("blueprint-llm")
    for words in COMMANDS:
        ran = subprocess.run([program, *words.split()], capture_output=True, text=True, timeout=120, check=False)
        assert ran.returncode == 0, (words, ran.stderr)
        assert ran.stdout or ran.stderr, words


if __name__ == "__main__":
    the_library_is_installed_and_light()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        calls_are_answered_priced_and_limited()
        commands_work()
    print(f"Python {sys.version.split()[0]}: blueprint-llm {blueprint_llm.__version__} works away from its checkout")
