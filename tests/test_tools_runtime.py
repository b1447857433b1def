"""Running commands: limits hold, nothing is left behind, and the kernel confines what it is said to confine."""

import asyncio
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import pytest

from blueprint_llm import sync
from blueprint_llm.config.blocks import Tools
from blueprint_llm.errors import ToolError
from blueprint_llm.redaction import register
from blueprint_llm.tools import Ready, ToolEngine, sandbox, tool
from blueprint_llm.types import PartialToolCall, ToolCall

CASES = Path(__file__).with_name("tool_cases")
SHARED = next(
    (above / "shared" for above in Path(__file__).parents if (above / "shared/corpora").is_dir()), Path("none")
)
CORPUS = SHARED / "corpora/tool_runtime.jsonl"
ROOT = Path(__file__).parents[1]
ANYTHING = [{"allow": "command", "effects": "write"}]
BACKENDS = ["none", "landlock", "bubblewrap"]


def execute(engine, call):
    """Run one call, from outside an event loop."""
    return sync.run(engine.execute(call))


def offered(backend, capsys):
    """Whether this kernel offers a backend; where it does not, the documented refusal is proven, loudly."""
    if backend == "none" or sandbox.offered(backend):
        return True
    with capsys.disabled():
        print(f"\nNOTICE: this kernel refuses {backend}; that nothing is confined there is tested elsewhere")
    return False


@pytest.fixture
def engine(tmp_path):
    """Make engines over one workspace that run anything."""
    made = []

    def make(backend="none", rules=ANYTHING, limits=None, **more):
        (tmp_path / "ws").mkdir(exist_ok=True)
        block = {"sandbox": {"backend": backend}, "rules": rules, "limits": limits or {}, **more}
        settings = Tools.model_validate(block)
        # Landlock alone asks about what may write.
        approver = (lambda batch: [True] * len(batch)) if backend == "landlock" else None
        made.append(ToolEngine(workspace=tmp_path / "ws", settings=settings, approver=approver))
        return made[-1]

    yield make
    for one in made:
        one.close()


def run(engine, *argv):
    """Run a command."""
    return execute(engine, {"id": "c1", "name": "command", "arguments": {"argv": list(argv)}})


def sleep_of(seconds):
    """A time to sleep that no other run of these tests on this machine sleeps."""
    return f"{seconds}{os.getpid()}"


def alive(mark):
    """Whether a process whose command line holds the mark runs."""
    lines = [line for path in Path("/proc").glob("[0-9]*/cmdline") if (line := read(path))]
    return any(mark.encode() in line for line in lines)


def read(path):
    """A file of /proc, empty when its process is gone."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


DROP = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
NOBODY = [*DROP, "--reuid=65534", "--regid=65534", "--clear-groups"]


@functools.cache
def without_privileges():
    """How to start an interpreter without root's privileges: as nobody where one is in reach, else capless."""
    probe = "import os, sys, pydantic; sys.exit(not os.access(sys.executable, os.X_OK))"
    system = shutil.which(f"python3.{sys.version_info.minor}", path="/usr/local/bin:/usr/bin")
    if os.geteuid() != 0:
        return [sys.executable]
    for python in filter(None, (sys.executable, system)):
        if (
            subprocess.run(
                [*NOBODY, python, "-c", probe], env=child_env(), cwd="/", capture_output=True, check=False
            ).returncode
            == 0
        ):
            return [*NOBODY, python]
    print("NOTICE: no interpreter is in nobody's reach; running as root without capabilities", file=sys.__stderr__)
    return [*DROP, sys.executable]


def child_env(**more):
    """An environment in which a child finds this checkout and the installed packages."""
    path = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **more}


def unprivileged(scenario, workspace, backend):
    """Run a scenario without root's privileges, and read what it prints."""
    home = workspace.parent / "home"
    home.mkdir(exist_ok=True)
    if "--reuid=65534" in without_privileges():
        for path in (workspace, home):
            os.chown(path, 65534, 65534)
    command = [*without_privileges(), str(CASES / "unprivileged.py"), scenario, str(workspace), backend]
    env = child_env(HOME=str(home), BLUEPRINT_HOME=str(home))
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd="/", timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def own_privileges(scenario, workspace, backend):
    """The same with the privileges of the tests."""
    command = [sys.executable, str(CASES / "unprivileged.py"), scenario, str(workspace), backend]
    done = subprocess.run(command, capture_output=True, text=True, env=child_env(), timeout=60, check=True)
    return json.loads(done.stdout)


def test_every_runtime_case_of_the_corpus_has_a_test(capsys):
    """Each case of the shared corpus is named by a test of the tools."""
    rows = [json.loads(line) for line in CORPUS.read_text().split("\n") if line] if CORPUS.exists() else []
    if not rows:
        with capsys.disabled():
            print(f"\nNOTICE: {CORPUS.name} is not beside this checkout")
    names = "".join(path.read_text() for path in Path(__file__).parent.glob("test_tools_*.py"))

    assert [row["id"] for row in rows if row["id"].replace("-", "") not in names] == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_rt001_a_timeout_ends_the_command(backend, engine, capsys):
    """A command past its time is killed, told so, and gone."""
    if not offered(backend, capsys):
        return
    result = run(engine(backend, limits={"timeout_s": 0.5}), "sleep", sleep_of("61.01"))

    assert result.status == "timeout"
    assert not alive(sleep_of("61.01"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_rt003_an_orphan_does_not_outlive_its_command(backend, engine, capsys):
    """A process that left the session and holds the pipe neither hangs the call nor survives it."""
    if not offered(backend, capsys):
        return
    result = run(engine(backend, limits={"timeout_s": 30}), "sh", "-c", f"setsid sleep {sleep_of('61.03')} & echo done")

    assert result.status == "ok"
    assert "done" in result.content
    assert not alive(sleep_of("61.03"))


def test_an_orphan_is_reported(engine):
    """The result says what was left running."""
    result = run(engine(), "sh", "-c", f"setsid sleep {sleep_of('61.04')} & sleep 0.2")

    assert result.metadata["orphans"] == 1
    assert "left running" in result.content


def test_orphans_of_a_timed_out_command_die_too(engine):
    """A whole family, detached twice, is gone half a second after the time is up."""
    sleep = f"sleep {sleep_of('61.05')}"
    result = run(engine(limits={"timeout_s": 0.5}), "sh", "-c", f"(setsid setsid {sleep} &) ; setsid {sleep}")

    assert result.status == "timeout"
    assert not alive(sleep_of("61.05"))


def test_rt005_endless_output_stops(engine):
    """`yes` is stopped at the limit; both ends are kept and the total is told."""
    result = run(engine(limits={"output_bytes": 1000, "stop_output_mb": 8, "timeout_s": 10}), "yes")

    assert result.status == "error"
    assert "more than 8 MiB" in result.content
    assert "bytes left out" in result.content
    assert len(result.content) < 1500
    assert result.truncated
    assert result.metadata["output_bytes"] > 8 << 20
    assert not alive("\0yes")


@pytest.mark.slow
def test_a_gibibyte_of_output_takes_little_memory(shared_tmp):
    """1 GiB of output costs at most 16 MiB of memory."""
    (shared_tmp / "ws").mkdir()
    found = unprivileged("output", shared_tmp / "ws", "none")

    assert found["output_bytes"] == 1 << 30
    assert found["grown_kb"] < 16 << 10


def test_rt007_output_cannot_move_the_cursor_or_hide(engine):
    """Escapes, controls and bidi marks in output are shown, not sent on."""
    text = "a\x1b[31m\x1b]8;;http://x\x07b\x07\x7f\u202e\u200bc\r\nd\te\x9b"
    (Path(engine().workspace.root) / "f").write_bytes(text.encode() + b"\xff")
    result = run(engine(), "cat", "f")

    shown = "a\\x1b[31m\\x1b]8;;http://x\\x07b\\x07\\x7f\\u202e\\u200bc\nd\te\\x9b\ufffd"
    assert result.content == f"exit code 0\n{shown}"


def test_rt009_a_registered_secret_is_redacted(engine):
    """A key that the credentials loader knows reaches neither the result nor the audit."""
    secret = "canary-51c9c2f4d1e84b7a"
    register(secret)
    tools = engine()
    result = run(tools, "echo", f"key={secret}")

    assert secret not in result.content
    assert "key=[redacted]" in result.content
    assert secret not in tools.audit.path.read_text()


@pytest.mark.parametrize("backend", BACKENDS)
def test_rt011_the_environment_is_an_allowlist(backend, engine, monkeypatch, tmp_path, capsys):
    """A command sees the listed names only: no secret, nothing that loads code, no folder of the workspace."""
    if not offered(backend, capsys):
        return
    for name in ("OPENAI_API_KEY", "LD_PRELOAD", "PYTHONPATH", "GIT_DIR", "BASH_ENV", "MY_TOKEN", "OTHER"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("PATH", f"{tmp_path}/ws/bin:.:{os.environ['PATH']}")
    listed = ["PATH", "LANG", "HOME", "OPENAI_API_KEY", "LD_PRELOAD", "PYTHONPATH", "GIT_DIR", "BASH_ENV", "MY_TOKEN"]
    result = run(engine(backend, env={"pass": listed}), "env")

    found = dict(line.split("=", 1) for line in result.content.splitlines()[1:])
    assert set(found) <= {"PATH", "LANG", "HOME", "TMPDIR", "PWD"}
    assert str(tmp_path / "ws") not in found["PATH"]
    assert "." not in found["PATH"].split(":")


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_rt013_a_fork_bomb_meets_its_limit(backend, shared_tmp, capsys):
    """Run without privileges, a bomb is stopped, the engine goes on, and nothing of it is left."""
    if not offered(backend, capsys):
        return
    (shared_tmp / "ws").mkdir()
    found = unprivileged("bomb", shared_tmp / "ws", backend)
    if found["status"] == "denied":  # bubblewrap needs a user that may make namespaces; without, it asks
        assert (backend, "cannot confine" in found["text"]) == ("bubblewrap", True)
        return

    assert found["status"] in {"error", "timeout"}
    assert "limit of 40 processes" in found["text"] or "fork" in found["text"].lower()
    assert "still here" in found["alive"]
    assert found["left"] == 0


def test_rt015_a_file_cannot_grow_beyond_its_limit(engine):
    """Writing ten gibibytes ends at the limit of a file."""
    tools = engine(limits={"file_mb": 2})
    result = run(tools, "dd", "if=/dev/zero", "of=big", "bs=1M", "count=10240")

    assert result.status == "error"
    assert (Path(tools.workspace.root) / "big").stat().st_size <= 2 << 20


def test_memory_is_limited(engine):
    """A program that wants more memory than allowed fails by itself."""
    result = run(engine(limits={"memory_mb": 200}), sys.executable, "-c", "x = b'x' * (500 << 20)")

    assert result.status == "error"
    assert "MemoryError" in result.content


def test_rt017_standard_input_is_at_its_end(engine):
    """A command that reads its input gets nothing, at once."""
    result = run(engine(limits={"timeout_s": 20}), "cat")

    assert (result.status, result.content) == ("ok", "exit code 0\n")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["landlock", "bubblewrap"])
@pytest.mark.parametrize("privileges", ["own", "none"])
def test_rt019_the_sandbox_holds(backend, privileges, shared_tmp, capsys):
    """Inside, the workspace can be written; the folder beside it can be neither read nor written, and TCP is closed."""
    if not offered(backend, capsys):
        return
    workspace = shared_tmp / "ws"
    workspace.mkdir()
    (shared_tmp / "secret.txt").write_text("SECRET")
    scenario = unprivileged if privileges == "none" else own_privileges
    found = scenario("confined", workspace, backend)
    files, net = found["files"]["text"], found["net"]["text"]
    if found["files"]["status"] == "denied":  # bubblewrap needs a user that may make namespaces; without, it asks
        assert (privileges, backend, "cannot confine" in files) == ("none", "bubblewrap", True)
        return

    assert "SECRET" not in files
    assert files.endswith("y\n")
    assert (workspace / "inside").read_text() == "y\n"
    assert not (shared_tmp / "new").exists()
    assert found["files"]["sandbox"].startswith(backend)
    assert "Permission denied" in net or "unreachable" in net


def test_an_open_network_is_open(engine, capsys):
    """With `effects: network` a command reaches the loopback network from inside either sandbox."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for backend in ("landlock", "bubblewrap"):
            if offered(backend, capsys):
                tools = engine(backend, rules=[{"allow": "command", "effects": ["read", "network"]}])
                script = f"exec 3<>/dev/tcp/127.0.0.1/{port} && echo through"
                assert "through" in run(tools, "bash", "-c", script).content


def test_git_hooks_cannot_be_written_inside_bubblewrap(engine, capsys):
    """What git would run later stays as it is, even for a command that may write the workspace."""
    if not offered("bubblewrap", capsys):
        return
    tools = engine("bubblewrap")
    subprocess.run(["git", "init", "-q", tools.workspace.root], check=True)
    result = run(tools, "sh", "-c", "echo x > .git/hooks/pre-commit; echo y > .git/config; git status --short; echo ok")

    assert "Read-only" in result.content
    assert "ok" in result.content
    assert not (Path(tools.workspace.root) / ".git/hooks/pre-commit").exists()


def test_a_required_backend_that_is_missing_runs_nothing(engine, monkeypatch):
    """`required: true` refuses; where the user chose to go without, the result says that nothing confined it."""
    monkeypatch.setattr(sandbox, "offered", lambda name: False)
    refused = run(engine(rules=ANYTHING, sandbox={"backend": "auto", "required": True}), "true")

    assert (refused.status, "cannot confine" in refused.content) == ("denied", True)

    assert run(engine("none"), "true").metadata["sandbox"] == "none"


def test_bubblewrap_that_does_not_work_is_not_offered(monkeypatch, tmp_path):
    """A bwrap that the kernel refuses, or that is not there, is no backend."""
    broken = tmp_path / "bwrap"
    for content, mode in (("#!/bin/sh\nexit 1\n", 0o755), ("not a program", 0o755), (None, 0)):
        broken.unlink(missing_ok=True)
        if content:
            broken.write_text(content)
            broken.chmod(mode)
        monkeypatch.setattr("blueprint_llm.tools.boundary.SYSTEM_PATH", str(tmp_path))
        sandbox.bubblewrap.cache_clear()
        assert sandbox.bubblewrap() is None
    sandbox.bubblewrap.cache_clear()


def test_bubblewrap_is_not_taken_from_a_folder_that_a_command_can_write(monkeypatch, tmp_path):
    """A program of its name that a command left on the PATH, in an environment of the workspace, is passed by."""
    (tmp_path / "bwrap").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    sandbox.bubblewrap.cache_clear()

    assert sandbox.bubblewrap() != str(tmp_path / "bwrap")
    sandbox.bubblewrap.cache_clear()


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        pytest.param(["nosuchprogram"], "no such program", id="not on PATH"),
        pytest.param(["./none"], "no such program", id="not in the workspace"),
        pytest.param(["sh", "-c", "kill -9 $$"], "signal 9 (killed)", id="killed"),
        pytest.param(["sh", "-c", "exit 3"], "exit code 3", id="fails"),
        pytest.param(["./noexec"], "could not be started", id="cannot be executed"),
    ],
)
def test_failures_are_told(argv, text, engine):
    """Each way of ending is said in words."""
    tools = engine()
    script = Path(tools.workspace.root) / "noexec"
    script.write_text("#!/nonexistent/interpreter\n")
    script.chmod(0o755)
    result = run(tools, *argv)

    assert result.status == "error"
    assert text in result.content


def test_the_supervisor_is_started_again(engine):
    """When the supervising process dies, the next command gets a new one."""
    tools = engine()
    run(tools, "true")
    tools._spawner._server.send_signal(signal.SIGKILL)
    tools._spawner._server.wait()

    assert run(tools, "echo", "back").content == "exit code 0\nback\n"


def test_a_command_whose_supervisor_dies_is_unknown(engine):
    """A lost supervisor leaves an outcome that is not known, not a success."""
    tools = engine(limits={"timeout_s": 30})

    def kill():
        wait_until(lambda: alive(f"sleep\000{sleep_of('61.07')}"))
        for pid in children(tools._spawner._server.pid):
            os.kill(pid, signal.SIGKILL)

    threading.Thread(target=kill).start()
    result = run(tools, "sleep", sleep_of("61.07"))
    for pid in [
        path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if sleep_of("61.07").encode() in read(path)
    ]:
        os.kill(int(pid), signal.SIGKILL)

    assert result.status == "unknown"


def children(pid):
    """The direct children of a process."""
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_an_engine_that_goes_away_takes_its_commands_along(tmp_path, bare_environment):
    """When the engine's process is killed, what it was running is killed too."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from blueprint_llm.tools import ToolEngine\n"
        "from blueprint_llm import sync\n"
        "sync.run(ToolEngine([{'allow': 'command'}], sys.argv[1]).execute("
        "{'id': '1', 'name': 'command', 'arguments': {'argv': ['sleep', sys.argv[3]]}}))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(ROOT), sleep_of("61.09")])
    wait_until(lambda: alive(f"sleep\000{sleep_of('61.09')}"))
    process.kill()
    process.wait()

    wait_until(lambda: not alive(f"sleep\000{sleep_of('61.09')}"))


def wait_until(holds, seconds=20):
    """Wait for a condition, at most so long."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_run_tests_counts(engine, tmp_path, monkeypatch):
    """`run_tests` runs pytest and counts its results."""
    tools = engine(rules=[{"allow": "run_tests"}], env={"pass": ["PATH", "HOME"]})
    (tmp_path / "ws/test_x.py").write_text("def test_a(): pass\ndef test_b(): assert 0\n")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    result = execute(tools, {"id": "1", "name": "run_tests", "arguments": {"args": ["-q", "-p", "no:cacheprovider"]}})

    assert result.status == "error"
    assert result.metadata["tests"] == {"failed": 1, "passed": 1}


def test_commands_run_side_by_side(engine):
    """Commands of several threads that wait for all others to have begun end, each with its own output."""
    tools, found = engine(limits={"timeout_s": 30}), {}
    script = "touch began.$0; while [ $(ls began.* | wc -l) -lt 4 ]; do sleep 0.02; done; echo $0"
    workers = [
        threading.Thread(target=lambda n=n: found.update({n: run(tools, "sh", "-c", script, str(n))})) for n in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert {n: result.content for n, result in found.items()} == {n: f"exit code 0\n{n}\n" for n in range(4)}


def test_functions_are_tools(engine):
    """A Python function runs with validated keywords, sync or async, and its failure is a result."""
    tools = engine(rules=[{"allow": "*"}])

    def add(left: int, right: int = 1) -> int:
        """Add."""
        return left + right

    async def later(word: str) -> dict[str, str]:
        """Wait."""
        await asyncio.sleep(0)
        return {"word": word}

    @tool(name="broken", description="Fails.")
    def fails() -> None:
        raise RuntimeError("no\x1b luck")

    for function in (add, later, fails):
        tools.register_tool(function)

    def call(name, **arguments):
        return execute(tools, {"id": "1", "function": {"name": name, "arguments": json.dumps(arguments)}})

    assert call("add", left=2).content == "3"
    assert call("add", left="2").status == "denied"
    assert "left" in call("add", left="2").content
    assert call("later", word="w").content == '{"word": "w"}'
    assert (call("broken").status, call("broken").content) == ("error", "RuntimeError: no\\x1b luck")
    schemas = {item.name: item for item in tools.tools()}
    assert schemas["add"].parameters["required"] == ["left"]
    assert schemas["add"].parameters["additionalProperties"] is False
    assert schemas["broken"].description == "Fails."


async def test_the_engine_does_not_block_the_loop(engine):
    """Async execution runs sync tools in threads and cancels coroutines that take too long."""
    tools = engine(rules=[{"allow": "*"}], limits={"timeout_s": 0.3})

    async def slow() -> str:
        """Wait."""
        await asyncio.sleep(30)
        return "never"

    async def bad() -> str:
        """Fail."""
        raise ValueError("bad")

    tools.register_tool(slow)
    tools.register_tool(bad)
    waits = {"argv": ["sh", "-c", "touch began; while [ ! -e go ]; do sleep 0.02; done"]}
    patient = engine(rules=ANYTHING)
    first = asyncio.create_task(patient.execute({"id": "1", "name": "command", "arguments": waits}))
    while "began" not in os.listdir(tools.workspace.root):  # noqa: PTH208, ASYNC110 - another process makes it
        await asyncio.sleep(0.01)
    os.close(os.open(f"{tools.workspace.root}/go", os.O_CREAT))

    assert (await first).status == "ok"
    assert (await tools.execute({"id": "2", "name": "slow", "arguments": {}})).status == "timeout"
    assert (await tools.execute({"id": "3", "name": "bad", "arguments": {}})).content == "ValueError: bad"
    assert (await tools.execute({"id": "4", "name": "none", "arguments": {}})).status == "denied"


@pytest.mark.parametrize(("parallel", "is_safe", "most"), [(1, True, 1), (2, True, 2), (8, True, 4), (8, False, 1)])
async def test_a_batch_runs_so_many_at_once(parallel, is_safe, most, engine):
    """A batch keeps its order and its limit; tools that are not marked safe for it never run side by side."""
    tools, now, seen = engine(rules=[{"allow": "*"}], loop={"parallel": parallel}), [], []

    @tool(parallel=is_safe)
    def work(n: int) -> int:
        """Note how many run."""
        now.append(n)
        seen.append(len(now))
        time.sleep(0.05)
        now.remove(n)
        return n

    tools.register_tool(work)
    batch = [Ready(call=ToolCall(id=str(n), name="work", arguments={"n": n})) for n in range(4)]
    found = await tools.perform(batch, {})

    assert {name: result.content for name, result in found.items()} == {"0": "0", "1": "1", "2": "2", "3": "3"}
    assert max(seen) <= most


def test_schemas_are_enforced(engine):
    """A tool given by its schema gets only what the schema allows; unknown keys are refused unless it opens itself."""
    tools = engine(rules=[{"allow": "*"}])
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    tools.register_tool({"name": "twice", "parameters": schema}, lambda n: n * 2)

    def call(**arguments):
        return execute(tools, {"id": "1", "name": "twice", "arguments": arguments})

    assert call(n=4).content == "8"
    assert "n: " in call(n="x").content
    assert "m" in call(n=1, m=2).content
    assert call(n=1, m=2).status == "denied"


@pytest.mark.parametrize(
    "declare",
    [
        pytest.param(lambda tools: tools.register_tool(lambda *words: None), id="variable arguments"),
        pytest.param(lambda tools: tools.register_tool(lambda word: None), id="no types"),
        pytest.param(lambda tools: tools.register_tool({"name": "x"}), id="no handler"),
        pytest.param(lambda tools: tools.register_tool({"name": "command"}, print), id="name taken"),
    ],
)
def test_what_cannot_be_a_tool_is_refused(declare, engine):
    """Registering something that has no schema, no handler or a taken name is an error."""
    with pytest.raises(ToolError):
        declare(engine())


def test_only_whole_calls_are_run(engine):
    """Parts of a call are refused; broken arguments are a result for the model."""
    tools = engine()
    with pytest.raises(ToolError, match="complete"):
        execute(tools, PartialToolCall(index=0, name="command"))
    result = execute(tools, {"id": "1", "function": {"name": "command", "arguments": '{"argv": NaN}'}})

    assert (result.status, "NaN" in result.content) == ("error", True)


def test_rt043_hostile_arguments_run_nothing(engine, tmp_path):
    """Duplicate keys, NaN, a million levels and huge numbers give an error result; the tool does not run."""
    tools = engine(rules=[{"allow": "*"}])
    texts = [
        '{"argv": ["touch", "x"], "argv": ["touch", "y"]}',
        '{"argv": ["touch", NaN]}',
        '{"argv": ["touch", ' + "[" * 10**6,
        '{"argv": ["touch", 99999999999999999999999]}',
        '{"argv": ["touch", "a\\u0000b"]}',
    ]
    results = [execute(tools, {"id": "1", "function": {"name": "command", "arguments": text}}) for text in texts]

    assert {result.status for result in results} == {"error"}
    assert list((tmp_path / "ws").iterdir()) == []


def test_files_are_read_listed_and_searched(engine):
    """The reading tools see the workspace, skip what is noise or secret, and bound their answers."""
    tools = engine(rules=[{"allow": ["read_file", "list_files", "search_files", "write_file"]}])
    root = Path(tools.workspace.root)
    for path, text in {
        "a.py": "x = 1\ny = 2\n",
        "d/b.py": "z = 1\n",
        ".env": "x = 1\n",
        ".git/c.py": "x = 1\n",
    }.items():
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(text)
    (root / "bin").write_bytes(b"\0x = 1")
    (root / "out").symlink_to("/etc")
    os.mkfifo(root / "pipe")

    def call(name, **arguments):
        return execute(tools, {"id": "1", "name": name, "arguments": arguments})

    assert call("read_file", path="a.py").content == "x = 1\ny = 2\n"
    assert "not a text file" in call("read_file", path="bin").content
    assert call("read_file", path="none").content == "none: no such file"
    assert call("list_files", path=".", pattern="*.py").content == "a.py\nd/b.py"
    assert call("list_files", path="d").content == "b.py"
    assert "pipe" in call("list_files", path=".").content
    assert call("list_files", path="d", pattern="*.c").content == "no files"
    assert call("search_files", pattern=r"= 1$").content == "a.py:1: x = 1\nd/b.py:1: z = 1"
    assert call("search_files", pattern="x", path="a.py").content == "a.py:1: x = 1"
    assert call("search_files", pattern="(a+)+$", path="d").content == "no match"
    assert "not a regular expression" in call("search_files", pattern="(").content
    assert call("write_file", path="n/new.txt", content="ü").status == "ok"
    assert (root / "n/new.txt").read_text() == "ü"


def test_long_listings_are_cut(engine, monkeypatch):
    """A listing or a search that would be endless says where it was cut."""
    monkeypatch.setattr("blueprint_llm.tools.files._MAX_ENTRIES", 3)
    monkeypatch.setattr("blueprint_llm.tools.files._MAX_HITS", 3)
    tools = engine(rules=[{"allow": "*"}])
    for n in range(5):
        (Path(tools.workspace.root) / f"f{n}").write_text("x\n")

    assert "cut at 3 files" in execute(tools, {"id": "1", "name": "list_files", "arguments": {"path": "."}}).content
    assert (
        "cut at 3 lines" in execute(tools, {"id": "1", "name": "search_files", "arguments": {"pattern": "x"}}).content
    )


def test_a_cut_result_can_be_read_on(engine):
    """A result over the limit is cut in its middle, with a handle to the whole."""
    tools = engine(rules=[{"allow": "*"}], limits={"output_bytes": 1000})
    (Path(tools.workspace.root) / "long.txt").write_text("".join(f"{n:04}\n" for n in range(1000)))
    result = execute(tools, {"id": "1", "name": "read_file", "arguments": {"path": "long.txt"}})
    arguments = {"handle": result.metadata["handle"], "offset": 500}
    more = execute(tools, {"id": "2", "name": "read_result", "arguments": arguments})

    assert result.truncated
    assert "4000 characters left out" in result.content
    assert more.content.startswith("0100\n0101")
    assert "no result" in execute(tools, {"id": "3", "name": "read_result", "arguments": {"handle": "x"}}).content


def test_old_results_are_forgotten(engine):
    """Only the latest cut results are kept."""
    tools = engine(rules=[{"allow": "*"}], limits={"output_bytes": 100})
    (Path(tools.workspace.root) / "long.txt").write_text("x" * 1000)
    results = [
        execute(tools, {"id": str(n), "name": "read_file", "arguments": {"path": "long.txt"}}) for n in range(40)
    ]
    status = [
        execute(tools, {"id": "r", "name": "read_result", "arguments": {"handle": result.metadata["handle"]}}).status
        for result in (results[0], results[-1])
    ]

    assert status == ["error", "ok"]


async def test_without_an_audit_nothing_runs_and_refusals_say_so(engine, monkeypatch):
    """When the audit cannot be opened, an async tool does not run, and a refusal is told without a record."""
    ran = []
    tools = engine(rules=[{"allow": "act"}, {"deny": "list_files"}])

    async def act() -> str:
        """Act."""
        ran.append(1)
        return "x"

    tools.register_tool(act)
    tools._executor._audit = lambda: (_ for _ in ()).throw(OSError(28, "disk full"))
    result = await tools.execute({"id": "1", "name": "act", "arguments": {}})
    refused = execute(tools, {"id": "2", "name": "list_files", "arguments": {"path": "."}})

    assert (ran, result.status, "audit" in result.content) == ([], "error", True)
    assert (refused.status, "audit could not" in refused.content) == ("denied", True)


def test_a_command_too_long_to_hand_over_is_an_error(engine):
    """A megabyte of words is refused, and the next command runs."""
    tools = engine()

    assert run(tools, "echo", "x" * (2 << 20)).status == "error"
    assert run(tools, "echo", "ok").status == "ok"


def test_commands_need_posix(engine, monkeypatch):
    """A system that cannot fork says so."""
    monkeypatch.delattr(os, "fork")

    assert "POSIX" in run(engine(), "true").content


def test_ripgrep_and_git_are_here():
    """The programs that the tests run are installed."""
    assert [name for name in ("git", "rg", "setpriv") if not shutil.which(name)] == []
