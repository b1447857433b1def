"""The fixtures that pytest finds in the installed package, in suites as a user would write them."""

import subprocess
import sys

import pytest

from blueprint_llm import SyncLLMClient
from blueprint_llm.testing import Answer, Status

HELLO = [{"role": "user", "content": "hello"}]
SUITE = """
import pytest

from blueprint_llm import SyncLLMClient
from blueprint_llm.errors import BlueprintError
from blueprint_llm.testing import Answer, BrokenTool, Cut, Stall, Status

HELLO = [{"role": "user", "content": "hello"}]


def ask(server, **blueprint):
    provider = {"model": "openai/gpt-4o", "api_base": server.url, "api_key": "k"}
    config = {"providers": {"p": provider}, "retry": {"base_s": 0}, **blueprint}
    with SyncLLMClient({"blueprint": config}) as client:
        return "".join(chunk.delta for chunk in client.stream(messages=HELLO) if not chunk.restart)


"""


def run(tmp_path, *tests, options=()):
    """The outcome of a suite in a process of its own."""
    (tmp_path / "test_it.py").write_text(SUITE + "\n\n".join(tests))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)


def test_a_scripted_client_is_a_client(scripted_client):
    """The fixture makes blocking clients by script, in a home of their own, and shows what they asked."""
    client = scripted_client(Status(429), Answer("Hello"))

    assert client.chat(messages=HELLO).content == "Hello"
    assert [call.messages for call in scripted_client.calls] == [HELLO, HELLO]
    assert (client.get_usage().calls, client.get_usage().errors) == (1, 1)


async def test_a_scripted_client_may_be_asynchronous(scripted_client):
    """The same script serves `async with`."""
    async with scripted_client.asynchronous(Answer("Hello"), retry={"max_attempts": 1}) as client:
        assert client.config.retry.max_attempts == 1
        assert (await client.chat(messages=HELLO)).content == "Hello"


def test_a_fault_server_listens(fault_server, blueprint_home):
    """The fixture is a server that answers as told, with the home set aside."""
    fault_server.add(Answer("Hello"))
    provider = {"model": "openai/gpt-4o", "api_base": fault_server.url, "api_key": "k"}
    with SyncLLMClient({"blueprint": {"providers": {"p": provider}}}) as client:
        assert client.chat(messages=HELLO).content == "Hello"

    assert list(blueprint_home.rglob("ledger.sqlite"))


SCRIPTED = """
def test_retries(scripted_client):
    client = scripted_client(Status(429), Answer("Hello"))

    assert client.chat(messages=HELLO).content == "Hello"
    assert len(scripted_client.calls) == 2
    assert scripted_client.calls[0].messages == HELLO


@pytest.mark.asyncio
async def test_async(scripted_client):
    async with scripted_client.asynchronous(Answer("Hello")) as client:
        assert (await client.chat(messages=HELLO)).content == "Hello"


def test_keywords_are_the_configuration(scripted_client):
    client = scripted_client(Status(503), retry={"max_attempts": 1})
    with pytest.raises(BlueprintError):
        client.chat(messages=HELLO)
"""


def test_a_scripted_client_answers(tmp_path):
    """Steps are answered in order by either client, calls are recorded, keywords configure."""
    ran = run(tmp_path, SCRIPTED)

    assert "3 passed" in ran.stdout, ran.stdout


FAULTS = """
def test_throttled(fault_server):
    fault_server.add(Status(429, headers={"retry-after": "0"}), Answer("Hello"))
    assert ask(fault_server) == "Hello"


def test_silent(fault_server):
    fault_server.add(Stall(0), Answer("Hello"))
    assert ask(fault_server, deadline={"total_s": 5, "first_token_s": 1, "idle_s": 1}) == "Hello"


def test_cut(fault_server):
    fault_server.add(Cut(2, answer=Answer("Never whole at all")), Answer("Hello"))
    assert ask(fault_server).endswith("Hello")


def test_broken_tool(fault_server):
    fault_server.add(BrokenTool(), Answer("Hello"))
    assert ask(fault_server).endswith("Hello")
    assert len(fault_server.requests) == 2
"""


@pytest.mark.slow
def test_a_fault_server_fails_as_told(tmp_path):
    """A 429, a silence, a cut stream and broken tool JSON come over a real socket and are recovered from."""
    ran = run(tmp_path, FAULTS)

    assert "4 passed" in ran.stdout, ran.stdout


@pytest.mark.parametrize(
    ("test", "complaint"),
    [
        pytest.param(
            "def test_it(fault_server):\n    fault_server.add(Answer('x'))\n", "not used: Answer", id="server"
        ),
        pytest.param(
            "def test_it(scripted_client):\n    scripted_client(Answer('x'))\n", "not used: Answer", id="client"
        ),
        pytest.param(
            "def test_it(scripted_client):\n    with pytest.raises(BlueprintError):\n"
            "        scripted_client().chat(messages=HELLO)\n",
            "not expected",
            id="unexpected call",
        ),
    ],
)
def test_a_script_that_does_not_fit_fails_the_test(tmp_path, test, complaint):
    """Steps that nobody asked for, and calls that nobody wrote, are errors of the test."""
    ran = run(tmp_path, test)

    assert ran.returncode == 1
    assert complaint in ran.stdout


@pytest.mark.slow
def test_the_users_home_stays_untouched(tmp_path, bare_environment):
    """A test with either fixture writes its ledger elsewhere."""
    ran = run(tmp_path, "def test_it(scripted_client):\n    scripted_client(Answer('x')).chat(messages=HELLO)\n")

    assert "1 passed" in ran.stdout, ran.stdout
    assert not list(bare_environment.rglob("*"))


def test_loading_costs_nothing(tmp_path):
    """A suite that uses no fixture of ours loads the plugin, and no module of the library besides."""
    (tmp_path / "test_it.py").write_text(
        "import sys\n\n\ndef test_it():\n"
        "    loaded = sorted(name for name in sys.modules if name.startswith('blueprint_llm'))\n"
        "    assert loaded == ['blueprint_llm', 'blueprint_llm.pytest_plugin']\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]

    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    assert "1 passed" in ran.stdout, ran.stdout
