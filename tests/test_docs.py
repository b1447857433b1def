"""The pages of docs/ tell the truth: examples run, commands parse, tables and names are those of the code."""

import ast
import asyncio
import inspect
import json
import re
import shlex
from pathlib import Path

import click
import examples
import pytest
import refresh
import yaml
from click.testing import CliRunner
from driving import KEY, MESSAGES, closing_clients, configuration

import blueprint_llm
from blueprint_llm import SyncLLMClient, errors, load_config
from blueprint_llm.cli import main
from blueprint_llm.testing import Answer, Cut, FaultServer, Status

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in examples.PAGES}
PYTHON = [block for block in examples.every("python") if block.page != "README.md"]
STEP = {"id": "S1", "title": "Answer", "covers": ["R1", "R2"], "acceptance": ["it answers"], "depends_on": []}
PLAN = {"overview": "Do it.", "estimated_complexity": "low", "steps": [{**STEP, "description": "Answer it."}]}
# What the provider answers where the example is about more than "Hello there".
SCRIPTS = {
    "planning_1": [Answer(json.dumps(PLAN))],
    "routing_2": [Cut(1, answer=Answer("This will break")), *[Cut(0)] * 2, Answer("A whole answer")],
}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in refresh.made()])
def test_what_is_made_is_fresh(path):
    """A page that is made from the code is what `nox -s readme` would write now."""
    assert path.read_text("utf-8") == refresh.made()[path](), "run `nox -s readme`"


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in refresh.made()])
def test_what_is_made_shows_nothing_of_the_machine(path, monkeypatch):
    """No page holds the environment, an object's address or a folder of the machine it was made on."""
    monkeypatch.setenv("A_VARIABLE", "value-of-the-environment")
    text = refresh.made()[path]()

    assert "value-of-the-environment" not in text + path.read_text("utf-8")
    assert "environ({" not in text + path.read_text("utf-8")
    assert not re.search(r" at 0x[0-9a-f]+", text)
    assert str(ROOT) not in text


@pytest.fixture
def reader(tmp_path, monkeypatch, litellm_warm):
    """Where a reader stands: a folder with a configuration, a provider that answers, and the names that pages use."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src").mkdir()
    with FaultServer(default=Answer("Hello there")) as server:
        block = configuration(server.url, server.url)["blueprint"]
        cloud, local = block["providers"].values()
        block |= {"providers": {"cloud": cloud, "local": local}, "chains": {"default": ["cloud", "local"]}}
        params = {"model": "openai/gpt-4o", "api_base": server.url, "api_key": KEY}
        model_list = [{"model_name": name, "litellm_params": params} for name in ("gpt-4o", "claude")]
        document = {"model_list": model_list, "blueprint": {**block, "deadline": {"total_s": 30}}}
        (tmp_path / "blueprint.yaml").write_text(yaml.safe_dump(document))
        monkeypatch.setenv("BLUEPRINT_CONFIG", str(tmp_path / "blueprint.yaml"))
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_API_BASE", server.url)
        with SyncLLMClient("blueprint.yaml") as client:
            names = {"client": client, "messages": MESSAGES, "config": document, "model_list": model_list}
            yield server, {**names, "providers": block["providers"], "tools": TOOLS, "ask_me": list}


@pytest.mark.parametrize("block", [pytest.param(block, id=block.name) for block in PYTHON])
def test_every_example_runs_and_prints_what_it_says(block, reader, capsys):
    """Each Python example runs; a comment behind a print is what it prints."""
    server, names = reader
    if "response." in block.text and "response =" not in block.text:
        names["response"] = names["client"].chat(messages=MESSAGES)
    server.add(*SCRIPTS.get(block.name, ()))

    code = compile(block.text, block.page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(closing_clients(eval(code, names)))  # noqa: S307 - our own page
    else:
        exec(code, names)  # noqa: S102 - our own page

    said = re.findall(r"^ *print\(.*\)  # (.+)$", block.text, re.MULTILINE)
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line in said] == said


def test_the_stream_example_goes_on(reader, capsys):
    """The example's text after the break is the next provider's."""
    server, names = reader
    (block,) = [block for block in PYTHON if "set_fallback_chain" in block.text]
    server.add(*SCRIPTS[block.name])

    exec(compile(block.text, block.page, "exec"), names)  # noqa: S102 - our own page

    assert capsys.readouterr().out.endswith("A whole answer")
    assert [row.provider for row in names["client"].explain(messages=MESSAGES).considered] == ["cloud"]


def test_the_testing_example_passes(fault_server, scripted_client, litellm_warm):
    """The example of a user's own test passes beside a program that uses the library."""

    def ask_my_program(api_base):
        with SyncLLMClient(configuration(api_base)) as client:
            return client.chat(messages=MESSAGES).content

    (block,) = [block for block in PYTHON if "def test_" in block.text]
    names = {"ask_my_program": ask_my_program}
    exec(block.text, names)  # noqa: S102 - our own page

    names["test_survives_a_bad_day"](fault_server, scripted_client)


def test_the_event_hook_hears(reader, capsys):
    """The hook of the operations page is told of the attempt and the call."""
    _, names = reader
    (block,) = [block for block in PYTHON if "def on_event" in block.text]

    exec(block.text, names)  # noqa: S102 - our own page

    assert capsys.readouterr().out == "attempt.succeeded cloud None\ncall.answered None None\n"


@pytest.mark.parametrize("block", [pytest.param(block, id=block.name) for block in examples.every("yaml")])
def test_every_configuration_loads(block):
    """Each YAML example is a valid configuration, the compose file aside."""
    document = yaml.safe_load(block.text)

    if "services" not in document:
        assert load_config(document).notices is not None


def test_the_compose_file_starts_the_proxy_of_the_page():
    """The compose file names the Redis and the file that the page's configuration names, and what the page installs."""
    of_proxy, compose = (yaml.safe_load(block.text) for block in examples.blocks(DOCS / "proxy.md", "yaml"))
    shell = compose["services"]["proxy"]["command"][-1]
    (install, start) = re.findall(r"^\$ (.*)$", examples.blocks(DOCS / "proxy.md", "console")[0].text, re.MULTILINE)

    assert of_proxy["blueprint"]["store"]["url"] == "redis://redis:6379/0"
    assert "noeviction" in compose["services"]["redis"]["command"]
    assert install.removeprefix("pip install ") in shell
    assert start in shell


@pytest.mark.parametrize("block", [pytest.param(block, id=block.name) for block in examples.every("json")])
def test_every_json_parses(block):
    """Each JSON example is JSON."""
    assert json.loads(block.text)


def shown_commands():
    """Every command line of ours that a page shows, with its page."""
    for name, text in PAGES.items():
        for line in re.findall(r"^\$ .*blueprint-llm.*$", text, re.MULTILINE):
            for part in re.split(r"&&|\|", line.partition("  #")[0].removeprefix("$ ")):
                words = shlex.split(part)
                if words[:1] == ["blueprint-llm"]:
                    yield pytest.param(words[1:], id=f"{name}: {' '.join(words[1:])}")


@pytest.mark.parametrize("words", list(shown_commands()))
def test_every_command_parses(words, tmp_path, monkeypatch):
    """Each command that a page shows exists, with its options; files that it names are there."""
    monkeypatch.chdir(tmp_path)
    for word in words:
        if re.fullmatch(r"\w+\.(pdf|yaml|json)", word):
            (tmp_path / word).touch()
    command, context = main, click.Context(main, info_name="blueprint-llm")
    while isinstance(command, click.Group) and words and command.get_command(context, words[0]):
        command, words = command.get_command(context, words[0]), words[1:]

    assert command is not main
    command.make_context(command.name, list(words), parent=context)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_in_a_sentence_exists(page):
    """Commands that a sentence names are commands."""
    named = set(re.findall(r"`blueprint-llm ([a-z]+)", PAGES[page]))

    assert named <= set(main.list_commands(click.Context(main)))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    """Each link to a file has its file, each to a heading its heading."""
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.is_file(), target
        assert not anchor or anchor in headings(path.read_text("utf-8")), target


def headings(text):
    """The anchors of a page."""
    lines = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in lines}


def test_the_site_has_every_page():
    """mkdocs.yml lists each page once."""
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]
    (parts,) = zip(*(entry.values() for entry in nav), strict=True)
    listed = [name for part in parts for name in ([part] if isinstance(part, str) else part)]

    assert sorted(listed) == sorted(path.name for path in DOCS.glob("*.md"))


def test_every_session_exists():
    """The contributing page lists nox's sessions, and no other."""
    sessions = re.findall(r"@nox\.session\ndef (\w+)", (ROOT / "noxfile.py").read_text("utf-8"))
    listed = " ".join(re.findall(r"^\| `nox -s ([a-z ]+)` \|", PAGES["docs/contributing.md"], re.MULTILINE)).split()

    assert sorted(listed) == sorted(sessions)


def test_every_file_that_contributors_are_sent_to_exists():
    """Paths on the contributing page are there."""
    named = re.findall(r"`((?:[a-z_]+/)[a-z_/.]*)`", PAGES["docs/contributing.md"])

    assert named
    assert [name for name in named if not any((base / name).exists() for base in (ROOT, ROOT / "blueprint_llm"))] == []


def test_the_table_of_failures_is_the_codes():
    """Each category stands on the routing page with what the code does about it."""
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \| (.*) \| (.*) \|$", PAGES["docs/routing.md"], re.MULTILINE)
    yes = [(name, *(cell.startswith("yes") for cell in cells)) for name, *cells in rows]

    assert yes == [(row.name, row.retry_same, row.next_target, row.breaker) for row in errors.CATEGORIES.values()]


def test_every_error_has_a_cure():
    """Each public error is on the page, in alphabetical order."""
    named = re.findall(r"^\*\*`(\w+)`\*\*:", PAGES["docs/errors.md"], re.MULTILINE)
    public = [getattr(blueprint_llm, name, None) for name in blueprint_llm.__all__]
    kinds = {kind.__name__ for kind in public if isinstance(kind, type) and issubclass(kind, errors.BlueprintError)}

    assert named == sorted(named)
    assert kinds - {"BlueprintError"} <= set(named)


def outcome(call):
    """What a caller reads: the error, or what came back."""
    try:
        return str(call())
    except errors.BlueprintError as error:
        return f"{error} (category {getattr(error, 'category', '')})"


EMPTY = '{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}'
WRITE = {"id": "1", "name": "write_file", "arguments": {"path": "x", "content": ""}}
MISTAKES = {
    "a key of the YAML is misspelt": {"bugets": []},
    "there is no key": {"providers": {"q": {"model": "anthropic/claude-opus-4-5"}}},
    "the model does not exist": Status(404, "The model `x` does not exist"),
    "the provider does not exist": {"ask": {"provider": "pp"}},
    "the key is refused": Status(401, "bad key"),
    "too many requests": Status(429, "slow down"),
    "the account is empty": Status(429, EMPTY),
    "a budget": {"budgets": [{"scope": "project", "limit_usd": 0.00001}]},
    "no network": {"url": "http://127.0.0.1:9"},
    "a tool was denied": {"call": WRITE},
}


@pytest.mark.parametrize("happened", MISTAKES)
def test_the_likeliest_ten_say_what_the_page_says(happened, tmp_path, monkeypatch, litellm_warm):
    """Each mistake is made, and the message holds what the page quotes."""
    monkeypatch.chdir(tmp_path)
    made = MISTAKES[happened]
    settings = {} if isinstance(made, Status) else dict(made)
    ask, call = settings.pop("ask", {}), settings.pop("call", None)
    with FaultServer([made] * 3 if isinstance(made, Status) else ()) as server:
        provider = {"model": "openai/gpt-4o", "api_base": settings.pop("url", server.url), "api_key": KEY}
        block = {"providers": {"p": provider}, "retry": {"max_attempts": 1}, **settings}

        def make():
            with SyncLLMClient({"blueprint": block}) as client:
                return client.execute_tool(call) if call else client.chat(messages=MESSAGES, **ask)

        said = outcome(make)

    row = re.search(rf"^\| {happened} \| (.*?) \| ", PAGES["docs/errors.md"], re.MULTILINE)
    for quoted in re.findall(r"`([^`]+)`", row[1]):
        assert quoted in said


WRONG = """blueprint:
  providers: {on: {model: openai/gpt-4o}}
  chains: {default: [onn]}
  retry: {max_attempts: 3, jiter: none}
  logging: {format: jsn}
"""


def test_the_mistakes_are_told_as_shown(tmp_path, monkeypatch):
    """`check` says of a wrong file, word for word, what the quickstart shows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blueprint.yaml").write_text(WRONG)

    ran = CliRunner().invoke(main, ["check"])

    (shown,) = (block.text for block in examples.every("console") if "3 problems" in block.text)
    assert shown == "$ blueprint-llm check\n" + ran.output
    assert ran.exit_code == 1
