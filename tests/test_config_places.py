"""Folders that cannot be used: one clear error with its cure, and nothing that does not need them fails."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

import blueprint_llm
from blueprint_llm.testing import Answer, FaultServer

ROOT = Path(blueprint_llm.__file__).parents[1]
HOMES = ("BLUEPRINT_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")
PLAIN = ["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"]  # root without its power over file modes
NOBODY = ["--reuid=54321", "--regid=54321", "--clear-groups"]  # a user whom the system does not know


def run(code, *arguments, home, options=PLAIN):
    """Run code in a child with this HOME (None: without one); its output."""
    assert shutil.which("setpriv"), "these tests need setpriv (util-linux)"
    env = {name: value for name, value in os.environ.items() if name not in {*HOMES, "HOME"}}
    env |= {"PYTHONPATH": f"{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"} | ({"HOME": str(home)} if home else {})
    ran = subprocess.run(
        ["setpriv", *options, sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True, text=True, timeout=100, cwd="/", env=env, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def read_only(folder):
    """A home that cannot be written to."""
    folder.chmod(0o500)
    return folder


def not_ours(folder):
    """A home that cannot even be entered, as a container has it that runs as another user."""
    folder.chmod(0o000)
    return folder


def a_file(folder):
    """A home that is a file."""
    path = folder / "home"
    path.touch()
    return path


PLACES = {
    "read-only": (read_only, PLAIN, "Permission denied"),
    "not ours": (not_ours, PLAIN, "Permission denied"),
    "a file": (a_file, PLAIN, "Not a directory"),
    "no home": (lambda _: None, NOBODY, "there is no home folder for the state files"),
}


@pytest.fixture(params=[pytest.param(each, marks=[pytest.mark.slow] * (each != "read-only")) for each in PLACES])
def place(request):
    """An unusable home, how to run a child that cannot use it, and what is said of it."""
    spoil, options, reason = PLACES[request.param]
    if os.geteuid() != 0:
        if options is NOBODY:
            pytest.skip("only root can become somebody else")
        options = []
    with tempfile.TemporaryDirectory() as folder:
        home = spoil(Path(folder))
        yield home, options, reason
        Path(folder).chmod(0o700)


SAY = """
    import sys
    from blueprint_llm import SyncLLMClient
    from blueprint_llm.config import load_config, trust
    from blueprint_llm.credentials import CredentialsManager
    from blueprint_llm.errors import BlueprintError
    from pathlib import Path

    def said(function):
        try:
            return function()
        except BlueprintError as error:
            return f"{type(error).__name__}: {error}"

    manager = CredentialsManager(environ={"OPENAI_API_KEY": "sk-in-the-environment"})
    print(load_config().source)
    print(manager.get("openai").reference, manager.get("ollama").reference, manager.available("groq"))
    print(all(finding.ok for finding in manager.check()))
    print(said(lambda: manager.set("openai", "sk-a-new-key-0001")))
    print(said(lambda: trust.require(Path("x.yaml"), [])))
    print(said(lambda: trust.record(Path("x.yaml"), [])))
    print(said(lambda: SyncLLMClient().get_usage()))
"""


def test_what_needs_no_folder_works_and_the_rest_says_why(place):
    """Keys of the environment and the built-in configuration are there; what is to be written is one sentence."""
    home, options, reason = place

    source, keys, checked, stored, asked, trusted, client = run(SAY, home=home, options=options).splitlines()

    missing = "no API key for 'groq': set GROQ_API_KEY or run blueprint-llm keys set groq"
    assert (source, keys, asked) == ("(built in)", f"env:OPENAI_API_KEY none {missing}", "None")
    assert checked == "True"
    assert stored.startswith("CredentialsError: ")
    assert "BLUEPRINT_HOME" in trusted
    assert trusted.startswith(("ConfigError: trust cannot be recorded: ", "StoreError: "))
    assert client.startswith("StoreError: ")
    assert reason in client
    assert "BLUEPRINT_HOME" in client


ANSWER = """
    import json, sys
    from blueprint_llm import SyncLLMClient
    with SyncLLMClient(json.loads(sys.argv[1])) as client:
        print(client.chat(messages=[{"role": "user", "content": "hi"}]).content)
"""


@pytest.mark.slow
def test_a_client_that_keeps_nothing_answers_without_a_home():
    """With a store in memory no folder is needed at all."""
    block = {"store": {"url": "memory"}, "chains": {"default": ["p"]}}
    with FaultServer(default=Answer("from nowhere")) as server, tempfile.TemporaryDirectory() as folder:
        block["providers"] = {"p": {"model": "openai/gpt-4o", "api_base": server.url, "api_key": "literal-key-0001"}}
        said = run(
            ANSWER,
            json.dumps({"blueprint": block}),
            home=read_only(Path(folder)),
            options=PLAIN if os.geteuid() == 0 else [],
        )
        Path(folder).chmod(0o700)

    assert said == "from nowhere"


def test_the_command_line_says_it_in_one_line(place):
    """No traceback, exit code 1, the cure."""
    home, options, reason = place
    code = """
        from click.testing import CliRunner
        from blueprint_llm.cli import main
        done = CliRunner().invoke(main, ["usage"])
        print(done.exit_code, done.stderr, end="")
    """

    said = run(code, home=home, options=options)

    assert said.startswith("1 Error: ")
    assert "\n" not in said
    assert reason in said
    assert "BLUEPRINT_HOME" in said
