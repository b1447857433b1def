"""`blueprint-llm chat`: one question, a conversation, a restart, and Ctrl-C."""

import json
import signal
import stat
import subprocess

import pytest
from click.testing import CliRunner
from driving import KEY, configuration
from terminal import PROGRAM, Terminal

from blueprint_llm import SyncLLMClient
from blueprint_llm.cli import conversation, main
from blueprint_llm.cli.conversation import Conversation, read_message
from blueprint_llm.testing import Answer, Cut, FaultServer, ScriptedAdapter, Stall, Status
from blueprint_llm.types import UsageFilter

PATIENT = {"total_s": 90, "first_token_s": 80, "idle_s": 60}


@pytest.fixture
def chat(tmp_path, litellm_warm, monkeypatch):
    """Run `blueprint-llm chat ...` in this process, with the configured providers at `urls`."""
    monkeypatch.setattr(litellm_warm, "suppress_debug_info", False)  # as LiteLLM has it, and after the test again

    def run(*arguments, urls, given=None):
        path = tmp_path / "b.yaml"
        path.write_text(json.dumps(configuration(*urls)))
        return CliRunner().invoke(main, ["chat", *arguments, "--config", str(path)], input=given)

    return run


@pytest.mark.parametrize("option", [[], ["--no-stream"]], ids=["stream", "whole"])
def test_the_answer_is_all_of_standard_output(chat, option):
    """What is piped in stands before the message; the options reach the provider; stderr stays empty in a pipe."""
    with FaultServer(default=Answer("Fix the tests")) as server:
        words = [
            "write a",
            "message",
            "-s",
            "Be terse.",
            "--max-tokens",
            "9",
            "-p",
            "p0",
            "-m",
            "openai/gpt-4o-mini",
            *option,
        ]
        done = chat(*words, urls=[server.url], given="the diff\n")
        (asked,) = (request.body for request in server.requests)

    assert (done.exit_code, done.stdout, done.stderr) == (0, "Fix the tests\n", "")
    assert [message["content"] for message in asked["messages"]] == ["Be terse.", "the diff\n\nwrite a message"]
    assert (asked["max_tokens"], asked["model"]) == (9, "gpt-4o-mini")


@pytest.mark.parametrize("option", [[], ["--no-stream"]], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer("Once upon", finish_reason="length"), "-- the answer was cut at its limit of tokens: raise --max-t"),
        (Answer("No", finish_reason="content_filter"), "-- the provider refused to go on (content_filter) --"),
        (Answer(""), "-- the answer is empty --"),
    ],
    ids=["cut", "refused", "empty"],
)
def test_an_answer_that_is_not_whole_says_so(chat, answer, says, option):
    """It is printed as it came; why there is no more stands on standard error."""
    with FaultServer(default=answer) as server:
        done = chat("hello", *option, urls=[server.url])

    assert (done.exit_code, done.stdout) == (0, f"{answer.text}\n")
    assert done.stderr.startswith(says)


def test_files_are_parts_of_the_message(chat, tmp_path):
    """An image and a PDF go as data, everything else as text with its name."""
    files = {"a.png": b"\x89PNG", "b.pdf": b"%PDF", "c.md": b"# Title"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with FaultServer([Answer("Seen.")]) as server:
        done = chat("look", *(word for name in files for word in ("-a", str(tmp_path / name))), urls=[server.url])
        (asked,) = (request.body for request in server.requests)

    assert done.stdout == "Seen.\n"
    assert asked["messages"][0]["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
        {"type": "file", "file": {"filename": "b.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}},
        {"type": "text", "text": "c.md:\n# Title"},
    ]


def test_bytes_that_are_no_text_are_no_trouble(chat):
    """A binary file in the pipe is sent with replacement characters."""
    with FaultServer(default=Answer("ok")) as server:
        assert chat("what is this?", urls=[server.url], given=b"\xff\xfe").exit_code == 0
        assert "\ufffd" in server.requests[0].body["messages"][0]["content"]


def test_json_is_one_document(chat):
    """With --json the whole answer, its usage and its trace are one JSON document."""
    with FaultServer(default=Answer("Hello")) as server:
        found = json.loads(chat("hi", "--json", urls=[server.url]).stdout)

    assert (found["content"], found["provider"]) == ("Hello", "p0")
    assert found["metadata"]["trace"]["served_by"]


def test_nothing_to_say_is_a_mistake(chat):
    """An empty pipe and no message: exit code 2, and how to do it."""
    done = chat(urls=["http://127.0.0.1:9/v1"], given="")

    assert (done.exit_code, done.stdout) == (2, "")
    assert 'blueprint-llm chat "a question"' in done.stderr


def test_a_restart_leaves_no_void_text_in_a_pipe(chat):
    """Standard output holds the answer once; standard error says what broke, who begins again and who answered."""
    broken = Cut(2, answer=Answer("one two three four"))
    with FaultServer([broken, Status(500), Status(500)]) as bad, FaultServer(default=Answer("All of it")) as good:
        done = chat("hi", urls=[bad.url, good.url])

    assert (done.exit_code, done.stdout) == (0, "All of it\n")
    assert "-- the stream broke; p1 starts the answer again" in done.stderr
    assert done.stderr.count("failed p0 (openai/gpt-4o): ") == 3
    assert done.stderr.endswith("answered by p1/openai/gpt-4o\n")


@pytest.mark.parametrize("option", [[], ["--no-stream"], ["--json"]], ids=["stream", "whole", "json"])
def test_a_fallback_leaves_its_reason_on_standard_error(chat, option):
    """The answer alone is on standard output; who is down and why, and who answered, is on standard error."""
    with FaultServer(default=Status(401, "no such key")) as down, FaultServer(default=Answer("Hello")) as good:
        done = chat("hi", *option, urls=[down.url, good.url])

    assert done.exit_code == 0
    assert json.loads(done.stdout)["content"] == "Hello" if option == ["--json"] else done.stdout == "Hello\n"
    assert len(done.stderr.splitlines()) == 2
    assert done.stderr.startswith(
        "failed p0 (openai/gpt-4o): refused: the key or the account was turned down (HTTP 401"
    )


@pytest.mark.parametrize("option", [[], ["--no-stream"]], ids=["stream", "whole"])
def test_a_missing_key_is_no_silent_step(tmp_path, litellm_warm, monkeypatch, option):
    """A provider that is passed over for want of a key leaves a line with what would mend it."""
    monkeypatch.setattr(litellm_warm, "suppress_debug_info", False)
    path = tmp_path / "b.yaml"
    with FaultServer(default=Answer("Hello")) as server:
        block = configuration(server.url)["blueprint"]
        block["providers"] = {"first": {"model": "anthropic/claude-opus-4-5"}, **block["providers"]}
        block["chains"] = {"default": ["first", "p0"]}
        path.write_text(json.dumps({"blueprint": block}))
        done = CliRunner().invoke(main, ["chat", "hi", *option, "--config", str(path)])

    assert (done.exit_code, done.stdout) == (0, "Hello\n")
    assert done.stderr.startswith("skipped first (anthropic/claude-opus-4-5): ")
    assert "ANTHROPIC_API_KEY" in done.stderr
    assert done.stderr.endswith("answered by p0/openai/gpt-4o\n")


def test_only_one_provider(chat):
    """With --only nobody else is asked."""
    with FaultServer(default=Status(401, "no such key")) as down, FaultServer(default=Answer("Hello")) as good:
        done = chat("hi", "--only", "p0", urls=[down.url, good.url])

        assert (done.exit_code, done.stdout) == (1, "")
        assert not good.requests


def test_text_of_a_call_that_fails_is_never_written(chat):
    """What a stream said before it broke for good is void."""
    broken = Cut(2, answer=Answer("one two three four"))
    with FaultServer(default=broken) as server:
        done = chat("hi", urls=[server.url])

    assert (done.exit_code, done.stdout) == (1, "")
    assert "more: blueprint-llm trace " in done.stderr


def test_a_failure_as_json(chat):
    """With --json a failure is one object on standard output: the error with its facts, and the trace."""
    with FaultServer(default=Status(401, "no such key")) as server:
        done = chat("hi", "--json", urls=[server.url])
    found = json.loads(done.stdout)

    assert done.exit_code == 1
    assert (found["error"]["category"], found["error"]["status"], found["error"]["provider"]) == ("refused", 401, "p0")
    assert "no such key" in found["error"]["message"]
    assert [attempt["category"] for attempt in found["trace"]["attempts"]] == ["refused"]


def test_what_a_call_may_be_given(chat, tmp_path):
    """Parameters, a schema and files reach the provider."""
    (tmp_path / "s.json").write_text('{"type": "object", "properties": {"a": {"type": "integer"}}}')
    (tmp_path / "n.txt").write_text("a note")
    (tmp_path / "p.png").write_bytes(b"\x89PNG")
    files = ["--schema", tmp_path / "s.json", "-a", tmp_path / "n.txt", "-a", tmp_path / "p.png"]
    with FaultServer(default=Answer('{"a": 1}')) as server:
        done = chat("hi", "-o", "seed=7", "-o", "user=me", *map(str, files), urls=[server.url])
        (asked,) = (request.body for request in server.requests)

    assert done.exit_code == 0, done.stderr
    assert (asked["seed"], asked["user"]) == (7, "me")
    assert asked["response_format"]["json_schema"]["schema"]["type"] == "object"
    assert [part["type"] for part in asked["messages"][0]["content"]] == ["text", "text", "image_url"]
    assert asked["messages"][0]["content"][1]["text"] == "n.txt:\na note"
    assert asked["messages"][0]["content"][2]["image_url"]["url"].startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        pytest.param(["-o", "seed"], "write NAME=VALUE", id="no value"),
        pytest.param(["--schema", "gone.json"], "gone.json: No such file", id="no schema"),
        pytest.param(["-a", "gone.png"], "gone.png: No such file", id="no file"),
        pytest.param(["--continue"], "there is no conversation to go on with", id="nothing to continue"),
        pytest.param(["-o", "temprature=1"], "did you mean 'temperature'", id="misspelt"),
    ],
)
def test_mistakes_of_what_a_call_is_given(chat, words, says):
    """Each is said before anything is sent."""
    done = chat("hi", *words, urls=["http://127.0.0.1:9/v1"])

    assert done.exit_code in {1, 2}
    assert says in done.stderr


def test_a_conversation_goes_on(chat, bare_environment):
    """--continue sends what was said before; the file is readable by its owner only."""
    with FaultServer([Answer("Hello Ann."), Answer("Ann.")]) as server:
        chat("I am Ann.", urls=[server.url])
        done = chat("Who am I?", "--continue", urls=[server.url])
        texts = [message["content"] for message in server.requests[1].body["messages"]]
    kept = bare_environment / "blueprint_home" / "state" / "last_chat.json"

    assert done.stdout == "Ann.\n"
    assert texts == ["I am Ann.", "Hello Ann.", "Who am I?"]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_failure_is_one_line_and_exit_code_1(chat):
    """An error of the library has no traceback."""
    with FaultServer(default=Status(401, "no such key")) as server:
        done = chat("hi", urls=[server.url])

    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr


@pytest.fixture
def stalled(tmp_path):
    """A server that stops in the middle of its answer, and a configuration that would wait a minute for it."""
    with FaultServer(default=Stall(2, answer=Answer("one two three four five six"))) as server:
        path = tmp_path / "b.yaml"
        store = {"url": f"sqlite://{tmp_path / 'ledger.sqlite'}"}
        path.write_text(json.dumps(configuration(server.url, deadline=PATIENT, store=store)))
        yield server, str(path)


@pytest.mark.slow
def test_ctrl_c_on_a_terminal(stalled):
    """A typed Ctrl-C closes the upstream, settles what was used, and ends with 130 and no traceback."""
    server, path = stalled
    with Terminal("chat", "hello", "--config", path) as terminal:
        terminal.expect("one")
        terminal.type("\x03")

        assert terminal.finish() == 130, terminal.text
    assert "interrupted" in terminal.text
    assert "Traceback" not in terminal.text
    assert was_left(server, path)


@pytest.mark.slow
def test_ctrl_c_in_a_pipe(stalled):
    """So does the signal, also while the answer is awaited whole."""
    server, path = stalled
    command = [str(PROGRAM), "chat", "hello", "--no-stream", "--config", path]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        server.wait_until(bool, timeout_s=60)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)

    assert (process.returncode, out, err) == (130, b"", b"\ninterrupted\n")
    assert was_left(server, path)


def was_left(server, path):
    """Whether the connection was closed early and one call, left by its caller, is in the ledger."""
    server.wait_until(lambda seen: seen[0].closed_early_at, timeout_s=10)
    with SyncLLMClient(path) as client:
        used = client.get_usage(UsageFilter())
    return (used.calls, used.errors) == (1, 0) and used.prompt_tokens > 0


@pytest.mark.slow
def test_a_conversation_on_a_terminal(tmp_path, bare_environment):
    """Messages go back with their answers; slash commands work; what was typed is kept for its owner alone."""
    broken = Cut(2, answer=Answer("one two three four"))
    steps = [Answer("I am well."), broken, Answer("Again and whole."), Answer("From the other model.")]
    dialogue = [
        ("/explain", "nothing was asked yet"),
        ("How are you?", "I am well."),
        ("/cost", "1 call, "),
        ('"""\nTwo\nlines\n"""', "starts the answer again"),
        ("", "Again and whole."),
        ("/explain", "failed p0 (openai/gpt-4o): "),
        ("/provider p0", "provider: p0"),
        ("/model openai/gpt-4o-mini", "model: openai/gpt-4o-mini"),
        ("a \\\nb", "From the other model."),
    ]
    path = tmp_path / "b.yaml"
    with FaultServer(steps) as server:
        path.write_text(json.dumps(configuration(server.url, deadline=PATIENT)))
        with Terminal("chat", "--config", path, "-s", "Be kind.") as terminal:
            seen = terminal.expect("> ")
            assert "\x1b[2m/help lists the commands" in terminal.raw
            for typed, shown in dialogue:
                terminal.type(f"{typed}\n" if typed else "")
                seen = terminal.expect(shown, after=seen)
            terminal.type("/quit\n")
            assert terminal.finish() == 0
        bodies = [request.body for request in server.requests]
    kept = bare_environment / "blueprint_home" / "state" / "chat_history"

    assert [message["content"] for message in bodies[1]["messages"]] == [
        *("Be kind.", "How are you?", "I am well.", "Two\nlines")
    ]
    assert bodies[3]["messages"][-1]["content"] == "a \nb"
    assert bodies[3]["model"] == "gpt-4o-mini"
    assert "How are you?" in kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        pytest.param(["hello"], "hello", id="one line"),
        pytest.param(["a\\", "b\\", "c"], "a\nb\nc", id="backslashes"),
        pytest.param(['"""', "a", "", " b", '"""'], "a\n\n b", id="fence"),
        pytest.param(['"""a', 'b"""'], "a\nb", id="fence beside text"),
        pytest.param(['"""a"""'], "a", id="fence in one line"),
        pytest.param(['"""', "/quit", '"""'], "/quit", id="a slash within"),
        pytest.param([""], "", id="nothing"),
    ],
)
def test_lines_that_are_one_message(typed, message):
    """A backslash or three quotes join lines."""
    lines = iter(typed)

    assert read_message(lambda _prompt: next(lines)) == message
    assert list(lines) == []


@pytest.fixture
def talk(monkeypatch, capsys):
    """Hold a conversation: what is typed, with a scripted provider; what is shown."""

    def run(*typed, steps=(), interrupt_at=None):
        lines = iter(typed)

        def read(_prompt):
            line = next(lines, None)
            if line == "^C":
                raise KeyboardInterrupt
            if line is None:
                raise EOFError
            return line

        monkeypatch.setattr(conversation, "_read_line", read)
        block = {"providers": {name: {"model": "openai/gpt-4o", "api_key": KEY} for name in ("cloud", "other")}}
        options = {"model": None, "provider": None, "max_tokens": None, "no_stream": False, "as_json": False}
        adapter = ScriptedAdapter(steps)
        with SyncLLMClient({"blueprint": block}, session="s", adapters={"cloud": adapter, "other": adapter}) as client:
            Conversation(client, "s", [], options).run()
        return capsys.readouterr(), adapter

    return run


def test_help_lists_every_command(talk):
    """Each with what it does."""
    shown, _ = talk("/help")

    assert [line.split()[0] for line in shown.err.splitlines() if line.startswith("/")][1:] == [
        *("/model", "/provider", "/cost", "/explain", "/new", "/help", "/quit")
    ]


def test_remarks_stay_out_of_the_answers(talk):
    """Only answers are on standard output."""
    shown, _ = talk("Hi", "/cost", "/explain", "/explain what if?", "/model", "/help", steps=[Answer("Hello.")])

    assert shown.out == "Hello.\n"
    assert "served by cloud" in shown.err
    assert "chosen" in shown.err


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        pytest.param("/provider othr", "no provider 'othr', did you mean 'other'?", id="unknown provider"),
        pytest.param("/provider", "provider: the configuration's choice; known: cloud, other", id="which provider"),
        pytest.param("/model", "model: the configuration's choice; known: openai/gpt-4o", id="which model"),
        pytest.param("/modle x", "no command /modle, did you mean 'model'?", id="unknown command"),
        pytest.param("^C", "-- stopped --", id="ctrl-c at the prompt"),
        pytest.param("/new", "forgotten", id="new"),
    ],
)
def test_what_is_said_to_commands(talk, typed, says):
    """Each is answered in a line, and the conversation goes on."""
    shown, _ = talk(typed, "/quit")

    assert says in shown.err


def test_a_provider_is_chosen_and_left_again(talk):
    """After /provider it is asked first; `-` leaves it to the configuration."""
    shown, _ = talk("/provider other", "Hi", "/explain", "/provider -", "/provider", steps=[Answer("Hello.")])

    assert "served by other" in shown.err
    assert "provider: the configuration's choice; known" in shown.err


def test_new_forgets_what_was_said(talk):
    """The next message is the first again."""
    _, adapter = talk("One", "/new", "Two", steps=[Answer("1"), Answer("2")])

    assert [[message["content"] for message in call.messages] for call in adapter.calls] == [["One"], ["Two"]]


def test_a_failed_question_is_not_remembered(talk):
    """An error is a line; the conversation goes on without the question that failed."""
    shown, adapter = talk("Bad", "Good", steps=[Status(400, "no"), Answer("Yes.")])

    assert "Error: " in shown.err
    assert shown.out.endswith("Yes.\n")
    assert [message["content"] for message in adapter.calls[-1].messages] == ["Good"]
