"""MCP servers: their tools pass the same rules, and what they say of themselves is no trust."""

import asyncio
import os
import sys
import time
from pathlib import Path

import pytest

from blueprint_llm import sync
from blueprint_llm.config.blocks import Tools
from blueprint_llm.errors import ToolError
from blueprint_llm.tools import ApprovalDecision, ToolEngine

SERVER = str(Path(__file__).with_name("tool_cases") / "mcp_server.py")


def execute(engine, call):
    """Run one call, from outside an event loop."""
    return sync.run(engine.execute(call))


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """Make engines with the demo server connected."""
    made = []
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-user")

    def make(rules=(), approver=None, command=(sys.executable, SERVER), timeout_s=20):
        servers = {"demo": {"command": list(command), "env": {"EXTRA": "extra"}, "timeout_s": timeout_s}}
        settings = Tools.model_validate({"rules": list(rules), "mcp_servers": servers})
        made.append(ToolEngine(workspace=tmp_path, settings=settings, approver=approver))
        sync.run(made[-1].connect())
        return made[-1]

    yield make
    for one in made:
        one.close()


def call(name, **arguments):
    """A tool call."""
    return {"id": "1", "name": f"demo__{name}", "arguments": arguments}


def test_tools_of_a_server_pass_the_same_rules(engine):
    """They are listed by the server's name, ask without a rule, run with one, and get only the environment given."""
    tools = engine([{"allow": "demo__echo"}])
    sync.run(tools.connect())

    assert {item.name for item in tools.tools()} >= {"demo__echo", "demo__fail"}
    assert execute(tools, call("echo", word="hi")).content == "hi extra no key"
    assert execute(tools, call("fail")).status == "denied"
    assert tools.check("demo__echo", {"wrod": "x"}).decision == "deny"
    assert tools.check("demo__echo", {"word": "x"}, tainted=True).decision == "ask"
    assert tools.registered("demo__echo").traits.outside


@pytest.mark.slow
def test_failures_of_a_server_are_results(engine):
    """An error, a hang and a death each give the model a result; the engine goes on."""
    tools = engine([{"allow": "*"}], timeout_s=4)

    assert execute(tools, call("fail")).status == "error"
    assert "fail" in execute(tools, call("fail")).content
    assert execute(tools, call("hang")).status == "timeout"
    died = execute(tools, call("die"))
    assert died.status in {"error", "timeout"}
    assert execute(tools, call("echo", word="x")).status in {"error", "timeout"}
    assert execute(tools, {"id": "2", "name": "list_files", "arguments": {"path": "."}}).status == "ok"


@pytest.mark.slow
async def test_a_changed_schema_is_asked_about_again(engine):
    """Allowed by a rule or approved for the session, a tool whose declaration changes asks, sync and async."""
    asked = []

    def approver(batch):
        asked.append(batch[0].tool)
        return [ApprovalDecision(decision="approve", scope="session")]

    tools = engine([{"allow": "demo__mutate"}], approver)
    assert (await tools.execute(call("echo", word="a"))).content.startswith("a extra")
    assert (await tools.execute(call("echo", word="a"))).content.startswith("a extra")
    assert asked == ["demo__echo"]
    await tools.execute(call("mutate"))
    changed = await tools.execute(call("echo", word="a"))

    assert (changed.status, "ask again" in changed.content or "needs approval" in changed.content) == ("denied", True)
    again = await tools.execute(call("echo", word="a"))
    assert (again.content, asked) == ("sent a to x", ["demo__echo", "demo__echo"])


def test_a_rule_does_not_cover_a_changed_schema(engine):
    """Even an allow rule asks once a declaration has changed."""
    tools = engine([{"allow": "*"}])
    execute(tools, call("mutate"))
    execute(tools, call("echo", word="a"))

    assert "declaration changed" in "".join(tools.check("demo__echo", {"word": "a"}).reasons)


def test_a_tool_that_was_taken_away_is_unknown(engine):
    """A tool that its server no longer lists is denied."""
    tools = engine([{"allow": "*"}])
    execute(tools, call("vanish"))

    assert "no tool named" in execute(tools, call("echo", word="a")).content


@pytest.mark.parametrize(
    "command",
    [
        ["/nonexistent/server"],
        [sys.executable, "-S", "-c", "raise SystemExit(1)"],
        pytest.param(["sleep", "60"], marks=pytest.mark.slow, id="never answers"),
    ],
)
def test_a_server_that_does_not_start_is_an_error(command, engine):
    """A program that is missing, ends at once or never answers is told by its name, and by what was wrong."""
    with pytest.raises(ToolError, match=r"MCP server demo did not start: (?!ExceptionGroup)"):
        engine(command=command, timeout_s=2)


def test_a_start_that_is_cancelled_ends_at_once_with_its_server(tmp_path):
    """Ctrl-C while a server keeps silent does not wait for the server's own deadline, and leaves no process."""
    program = tmp_path / "silent.py"
    program.write_text("import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(60)\n")
    servers = {"demo": {"command": [sys.executable, str(program)], "timeout_s": 40}}
    engine = ToolEngine(workspace=tmp_path, settings=Tools.model_validate({"mcp_servers": servers}))

    async def give_up():
        starting = asyncio.ensure_future(engine.connect())
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.02)
        starting.cancel()
        await starting

    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(give_up())
    engine.close()

    assert time.monotonic() - began < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


ODD_SERVER = """
import json, sys
named = lambda *names: [{"name": name, "inputSchema": {"type": "object"}} for name in names]
for line in sys.stdin:
    asked = json.loads(line)
    answer = {"protocolVersion": (asked.get("params") or {}).get("protocolVersion"), "capabilities": {"tools": {}},
              "serverInfo": {"name": "odd", "version": "1"}}
    if asked["method"] == "tools/list":
        page = int((asked.get("params") or {}).get("cursor") or 0)
        answer = PAGES[page]
    if asked["method"] == "tools/call":
        answer = {"content": [], "structuredContent": {"called": asked["params"]["name"]}}
    if "id" in asked:
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": answer}), flush=True)
"""


def odd(pages):
    """The command of a server that lists these pages of tools, and answers with structure alone."""
    return sys.executable, "-c", ODD_SERVER.replace("PAGES", pages)


def test_all_pages_of_a_list_of_tools_are_read(engine):
    """A server may list its tools in pages; what it answers as structure alone is told as JSON."""
    pages = "[{'tools': named('a', 'b'), 'nextCursor': '1'}, {'tools': named('c')}]"
    tools = engine([{"allow": "*"}], command=odd(pages))

    assert {item.name for item in tools.tools()} >= {"demo__a", "demo__b", "demo__c"}
    assert execute(tools, call("c")).content == '{"called": "c"}'


def test_a_list_of_tools_without_end_is_an_error(engine):
    """A server whose pages go round does not hold up the start."""
    with pytest.raises(ToolError, match="without end"):
        engine(command=odd("[{'tools': named('a'), 'nextCursor': '0'}]"))


def test_tools_whose_names_become_the_same_are_told_apart(engine):
    """Names that only differ in what a provider does not take, or beyond its length, get a mark each."""
    long = "x" * 80
    pages = f"[{{'tools': named('a b', 'a_b', 'plain', '{long}1', '{long}2')}}]"
    tools = engine([{"allow": "*"}], command=odd(pages))
    names = [item.name for item in tools.tools() if item.name.startswith("demo__")]
    called = [execute(tools, call(name.removeprefix("demo__"))).content for name in names]

    assert len(set(names)) == 5
    assert all(len(name) <= 64 for name in names)
    assert "demo__plain" in names
    assert called == [f'{{"called": "{name}"}}' for name in ("a b", "a_b", "plain", f"{long}1", f"{long}2")]


def test_a_server_whose_tool_has_a_taken_name_is_ended(tmp_path):
    """Nothing of it stays: no tool, no process; and the next try says the same."""
    command = ["sh", "-c", 'echo $$ >> pids; exec "$@"', "-", *odd("[{'tools': named('a', 'b')}]")]
    settings = Tools.model_validate({"mcp_servers": {"demo": {"command": command, "timeout_s": 20}}})
    with ToolEngine(workspace=tmp_path, settings=settings) as tools:
        tools.register_tool({"name": "demo__b", "parameters": {}}, lambda: None)
        for _ in range(2):
            with pytest.raises(ToolError, match="demo__b is registered already"):
                sync.run(tools.connect())
        assert "demo__a" not in {item.name for item in tools.tools()}
        pids = (tmp_path / "pids").read_text().split()

        assert len(pids) == 2
        assert not any(Path("/proc", pid).exists() for pid in pids)


def test_a_schema_that_cannot_be_used_denies(tmp_path):
    """A reference out of the schema is not fetched; the call is denied."""
    with ToolEngine([{"allow": "*"}], tmp_path) as engine:
        engine.register_tool({"name": "odd", "parameters": {"$ref": "http://127.0.0.1:9/x"}}, print)

        assert "schema cannot be used" in engine.check("odd", {}).reasons[0]
