"""Rules: nothing an allow rule did not mean is allowed, and everyday commands pass."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from blueprint_llm import sync
from blueprint_llm.errors import ConfigError
from blueprint_llm.tools import ToolEngine, tool

CASES = Path(__file__).with_name("tool_cases")
CORPUS = next(
    (above / "shared" for above in Path(__file__).parents if (above / "shared/corpora").is_dir()), Path("none")
)
CORPUS = CORPUS / "corpora/tool_rules.jsonl"
LINKS = {
    "link_etc": "/etc",
    "src/link_file": "/etc/passwd",
    "in": "src",
    "up": "..",
    "dangling": "/tmp/PWNED",  # noqa: S108 - where an attack would write
    "loop": "loop",
}
FILES = {"src/app.py": "print(1)\n", "README.md": "hello\n", ".env": "K=1\n"}


def execute(engine, call):
    """Run one call, from outside an event loop."""
    return sync.run(engine.execute(call))


def lines(name):
    """The commands of a case file."""
    return [line for line in (CASES / name).read_text().splitlines() if line and not line.startswith("#")]


def by_program(name):
    """The commands of a case file as words, those of one program together."""
    commands = {}
    for line in lines(name):
        commands.setdefault(line.split()[0], []).append(shlex.split(line))
    return [pytest.param(group, id=program) for program, group in commands.items()]


def corpus():
    """The shared corpus, where this checkout stands beside it."""
    return [json.loads(line) for line in CORPUS.read_text().split("\n") if line] if CORPUS.exists() else []


def as_rules(policy):
    """The corpus' policy form in ours."""
    rules = []
    for effect in ("allow", "ask", "deny"):
        for row in policy[effect]:
            paths = {"paths": [row["path"]]} if "path" in row else {}
            rules.append({effect: row["tool"], **({"argv": row["argv"]} if "argv" in row else {}), **paths})
    return rules


def furnish(workspace, setup=None):
    """Fill a workspace with files and links."""
    setup = setup or {"files": FILES, "symlinks": LINKS}
    for name, text in setup["files"].items():
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_text(text)
    for name, target in setup["symlinks"].items():
        (workspace / name).symlink_to(target)
    (workspace.parent / "outside.txt").write_text("root\n")


@pytest.fixture
def workspace(tmp_path):
    """A furnished workspace."""
    root = tmp_path / "ws"
    root.mkdir()
    furnish(root)
    return root


@pytest.fixture(scope="module")
def decide(tmp_path_factory):
    """What rules say of a command; engines are kept, checking changes nothing."""
    root = tmp_path_factory.mktemp("shared") / "ws"
    root.mkdir()
    furnish(root)

    engines = {}

    def close():
        while engines:
            engines.popitem()[1].close()

    def check(argv, *rules, mode="manual"):
        key = json.dumps([rules, mode])
        if key not in engines and len(engines) >= 100:
            close()  # each holds a folder open
        engine = engines.get(key) or engines.setdefault(key, ToolEngine(list(rules), root, mode))
        return engine.check("command", {"argv": argv} if isinstance(argv, list) else {"command": argv})

    yield check
    close()


def allow(*argv, **more):
    """An allow rule for a command."""
    return {"allow": "command", "argv": list(argv), **more}


def deny(*argv):
    """A deny rule for a command."""
    return {"deny": "command", "argv": list(argv)}


def test_the_shared_corpus_is_there_or_its_absence_is_told(capsys):
    """Say loudly that the shared corpus is missing; the cases of this repository are complete without it."""
    with capsys.disabled():
        if not CORPUS.exists():
            print(f"\nNOTICE: {CORPUS.name} is not beside this checkout; its cases did not run", file=sys.stderr)

    assert lines("attacks.txt")


def test_no_harmless_call_of_the_corpus_asks(tmp_path):
    """What the corpus calls harmless is allowed, and its malformed calls and paths are answered as it says."""
    wrong = []
    for number, case in enumerate(corpus()):
        if (
            case["tool"] in {"command", "run_tests"}
            and case["accept"] != ["allow"]
            and case["category"] != "validation"
        ):
            continue  # judged by what happens: tests/test_tools_attacks.py
        root = tmp_path / str(number) / "ws"
        root.mkdir(parents=True)
        furnish(root, case.get("setup"))
        arguments = json.loads(json.dumps(case["arguments"]).replace(case["workspace"], str(root)))
        with ToolEngine(as_rules(case["policy"]), root) as engine:
            found = engine.check(case["tool"], arguments).decision
        if found not in case["accept"]:
            wrong.append((case["id"], found))

    assert wrong == []


@pytest.mark.parametrize("commands", by_program("benign.txt"))
@pytest.mark.parametrize("mode", ["manual", "whitelist"])
def test_everyday_commands_pass(commands, mode, decide):
    """A rule that names the program allows its everyday uses."""
    asked = [argv for argv in commands if decide(argv, allow(argv[0]), mode=mode).decision != "allow"]

    assert asked == []


def test_the_cases_are_many_and_different():
    """Hundreds of commands, each once, none of which is in the shared corpus."""
    attacks, benign = lines("attacks.txt"), lines("benign.txt")
    shared = {json.dumps(case["arguments"].get("argv")) for case in corpus()}
    shared |= {case["arguments"].get("command") for case in corpus()}
    second = [line for line in (*attacks, *benign) if json.dumps(shlex.split(line)) in shared or line in shared]

    assert (len(set(attacks)), len(set(benign))) == (len(attacks), len(benign))
    assert (len(attacks) > 800, len(benign) > 300) == (True, True)
    assert second == []


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(["git\n", "log"], id="a newline in a program's name"),
        pytest.param(["git", "log\x1b[2K"], id="an escape hides a word"),
        pytest.param(["echo", "a" + " " * 80 + "b"], id="a gap pushes text out of sight"),
        pytest.param(["echo", "\u202eabc"], id="bidi override"),
        pytest.param(["echo", "\u3164"], id="a filler that shows as nothing"),
        pytest.param(["echo", ">"], id="an operator as a word"),
        pytest.param(["GIT_PAGER=sh", "git", "log"], id="an assignment as a word"),
        pytest.param(["ｇit", "status"], id="a fullwidth program"),
        pytest.param([""], id="an empty program"),
    ],
)
def test_what_cannot_be_seen_is_not_allowed(argv, decide):
    """Words that do not show as themselves never pass by a rule."""
    assert decide(argv, allow("*")).decision != "allow"


@pytest.mark.parametrize(
    "text",
    [
        "git status; id",
        "git status && id",
        "git status | cat",
        "git log $(id)",
        "git log `id`",
        "git log > x",
        "git log ~root",
        "git log {a,b}",
        "git log *.py",
        "git status # x",
        "git status\nid",
        'git log "$HOME"',
        "git log \\\nx",
        'git log "\\$x"',
        "X=1 git log",
        "git log !!",
        "git log <(id)",
    ],
)
def test_shell_syntax_asks(text, decide):
    """What a shell would act on makes a command string ask."""
    assert decide(text, allow("git")).decision == "ask"


@pytest.mark.parametrize(
    "text",
    [
        "git log HEAD~2",
        "git log 'a;b'",
        'git log --grep "x | y"',
        "git log --format=%h HEAD^",
        "git show HEAD:README.md",
    ],
)
def test_quoted_and_inert_characters_pass(text, decide):
    """Quotes protect, and characters that no shell acts on there are plain."""
    assert decide(text, allow("git")).decision == "allow"


@pytest.mark.parametrize("text", ["git 'status", "", "   "])
def test_a_command_that_is_no_command_is_denied(text, decide):
    """Open quotes and empty strings are malformed."""
    assert decide(text, allow("git")).decision == "deny"


@pytest.mark.parametrize(
    "command",
    [
        ["rm", "-rf", "src"],
        ["/bin/rm", "x"],
        ["RM", "x"],
        ["env", "A=1", "rm", "x"],
        ["sudo", "-u", "root", "rm", "x"],
        ["timeout", "5", "nice", "-n", "3", "rm", "x"],
        ["xargs", "-0", "rm"],
        ["sh", "-c", "true; rm x"],
        ["bash", "-lc", "'rm' x"],
        ["bash", "-c", 'sh -c "rm x"'],
        ["find", ".", "-exec", "rm", "{}", ";"],
        ["git", "bisect", "run", "rm", "x"],
        ["env", "-S", "rm x"],
        ["git", "-c", "alias.x=!rm y", "x"],
        ["git", "push"],
        ["git", "-C", "sub", "--no-pager", "push", "origin"],
        ["git", "--git-dir=x", "push"],
        ["command", "git", "push"],
        "true && rm x",
        "echo $(rm x)",
        "echo `rm x`",
        'echo "$(rm x)"',
        "A=1 rm x",
        "r\\m x",
        "'r'm x",
        "(rm x)",
        "! rm x",
        "if true; then rm x; fi",
        "cat <(rm x)",
    ],
)
@pytest.mark.parametrize("mode", ["manual", "whitelist", "trust"])
def test_a_denied_command_is_denied_however_wrapped(command, mode, decide):
    """Deny wins over allow, through wrappers, chains, substitutions, assignments and global flags."""
    rules = [allow("*"), deny("rm"), deny("git", "push")]

    assert decide(command, *rules, mode=mode).decision == "deny"


@pytest.mark.parametrize(
    "argv",
    [
        ["git", "log", "push"],
        ["git", "log", "rm"],
        ["find", ".", "-name", "rm"],
        ["grep", "rm", "README.md"],
        ["echo", "git push"],
    ],
)
def test_a_denied_word_elsewhere_is_not_a_denied_command(argv, decide):
    """A deny rule is about commands, not about words in them."""
    assert decide(argv, allow("*"), deny("rm"), deny("git", "push")).decision == "allow"


def test_strictest_rule_wins(decide):
    """Deny beats ask beats allow, whatever their order."""
    ask_rule = {"ask": "command", "argv": ["git", "status"], "why": "look first", "id": "look"}

    found = decide(["git", "status"], ask_rule, allow("git"))

    assert (found.decision, found.rule_id, found.reasons) == ("ask", "look", ("look first",))
    assert decide(["git", "status"], allow("git"), ask_rule, deny("git")).decision == "deny"


def test_modes_decide_what_no_rule_does(decide):
    """Manual asks, whitelist denies, trust runs what a sandbox holds; never shell syntax."""
    assert decide(["nosuchtool"]).decision == "ask"
    assert decide(["nosuchtool"], mode="whitelist").decision == "deny"
    assert decide(["nosuchtool"], mode="trust").decision == "allow"
    assert decide("nosuchtool | x", mode="trust").decision == "ask"


def test_words_are_matched_as_they_are_written(decide):
    """A rule is about commands that begin with its words; the program is spelled exactly, flags count as words."""
    for argv, rule, expected in (
        (["git", "-C", "src", "status"], allow("git", "-C", "src", "status"), "allow"),
        (["git", "-C", "lib", "status"], allow("git", "-C", "src", "status"), "ask"),
        (["git", "-C", "src", "status"], allow("git", "status"), "ask"),
        (["git", "diff", "x"], allow("git", ["status", "diff"]), "allow"),
        (["git", "log"], allow("git", ["status", "diff"]), "ask"),
        (["make", "x", "test"], allow("make", "*", "test"), "allow"),
        (["./git", "status"], allow("git", "status"), "ask"),
        (["/usr/bin/git", "status"], allow("git", "status"), "ask"),
        (["/usr/bin/git", "status"], allow("/usr/bin/git", "status"), "allow"),
        (["GIT", "status"], allow("git", "status"), "ask"),
        (["git"], allow("git", "status"), "ask"),
        (["find", ".", "-exec", "cat", "{}", ";"], allow("find"), "allow"),
        (["find", ".", "(", "-name", "x", ")"], allow("find"), "allow"),
        (r"find . \( -name x \) -print", allow("find"), "allow"),
        (r"find . -exec cat {} \;", allow("find"), "ask"),
    ):
        assert decide(argv, rule).decision == expected, argv


@pytest.mark.parametrize(
    ("rules", "effects"),
    [
        pytest.param([allow("make")], ("read",), id="read is the default"),
        pytest.param([allow("make", effects="write")], ("write",), id="write"),
        pytest.param([allow("make", effects="network")], ("read", "network"), id="network beside reading"),
        pytest.param([allow("make", effects=["write", "network"])], ("write", "network"), id="both"),
        pytest.param([allow("*"), allow("make", effects="write")], ("write",), id="the rule that allows most counts"),
        pytest.param([allow("make", effects="write"), allow("*")], ("write",), id="whatever the order"),
        pytest.param([allow("make", "x", effects="write"), allow("make")], ("read",), id="other words, other rule"),
        pytest.param([{"ask": "command", "argv": ["make"], "effects": "network"}], ("read", "network"), id="asks"),
        pytest.param([{"ask": "command", "argv": ["make"]}], ("write",), id="what a person approves may write"),
        pytest.param([], ("write",), id="and what no rule is about"),
        pytest.param([{"deny": "command", "argv": ["make"]}], (), id="what is denied does nothing"),
    ],
)
def test_a_decision_tells_its_effects(rules, effects, decide):
    """The rule says what the command may do."""
    assert decide(["make"], *rules).effects == effects


def test_words_of_a_denial_stand_in_any_order(decide):
    """Behind the subcommand, the words of a deny rule may stand anywhere."""
    rules = (allow("git", effects=["write", "network"]), deny("git", "push", ["--force", "-f"]), deny("rm", "-rf"))
    for words, expected in (
        ("git push --force", "deny"),
        ("git push origin main --force", "deny"),
        ("git push -f origin", "deny"),
        ("git -C . push origin -f", "deny"),
        ("env git push origin main --force", "deny"),
        ("git push origin main", "allow"),
        ("git log --grep push --force", "allow"),
        ("rm src -rf", "deny"),
    ):
        assert decide(words.split(), *rules).decision == expected, words


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("src/app.py", "allow", id="plain"),
        pytest.param("./src/../src/new.py", "allow", id="dots inside"),
        pytest.param("in/new.py", "allow", id="through a link inside"),
        pytest.param("docs/x.md", "ask", id="no rule"),
        pytest.param("../outside.txt", "deny", id="parent"),
        pytest.param("/etc/passwd", "deny", id="absolute outside"),
        pytest.param("src/link_file", "deny", id="link outside"),
        pytest.param("dangling", "deny", id="dangling link"),
        pytest.param("loop", "deny", id="loop"),
        pytest.param("", "deny", id="empty"),
        pytest.param("src/a\x00b", "deny", id="NUL"),
        pytest.param("src\\a", "deny", id="backslash"),
        pytest.param("src/a:b", "deny", id="stream"),
        pytest.param("src/con.txt", "deny", id="device"),
        pytest.param("src/a. ", "deny", id="trailing space"),
        pytest.param("src/" + "x" * 5000, "deny", id="a name too long"),
        pytest.param("src", "deny", id="a folder"),
        pytest.param("src/\u200bapp.py", "deny", id="invisible"),
        pytest.param("src/secret/x", "deny", id="denied folder"),
        pytest.param("src/.git/config", "ask", id="protected folder"),
        pytest.param("src/.GIT/config", "ask", id="protected folder in capitals"),
        pytest.param("src/．git/config", "ask", id="protected folder, fullwidth dot"),
        pytest.param("src/conftest.py", "ask", id="runs later"),
        pytest.param("src/.env.local", "ask", id="secrets"),
        pytest.param("src/x.pth", "ask", id="python runs it"),
        pytest.param("src/HEAD", "ask", id="makes a bare repository"),
    ],
)
def test_paths_of_a_write(path, expected, workspace):
    """A write passes only inside the workspace, where a rule says so, and where nothing runs or reads it later."""
    rules = [{"allow": "write_file", "paths": ["src/**"]}, {"deny": "*", "paths": ["src/secret/**"]}]
    with ToolEngine(rules, workspace) as engine:
        assert engine.check("write_file", {"path": path, "content": "x"}).decision == expected


def test_reading_secrets_and_hard_links_asks(workspace):
    """An allow rule for reading does not cover files of secrets, nor files with a second name elsewhere."""
    (workspace / "hard").hardlink_to(workspace.parent / "outside.txt")
    with ToolEngine([{"allow": "read_file"}], workspace) as engine:
        assert engine.check("read_file", {"path": "README.md"}).decision == "allow"
        assert engine.check("read_file", {"path": ".env"}).decision == "ask"
        assert engine.check("read_file", {"path": ".env.example"}).decision == "allow"
        assert engine.check("read_file", {"path": "hard"}).decision == "ask"


def test_an_absolute_path_inside_is_the_relative_one(workspace):
    """The workspace's own prefix is stripped, also when the workspace is named through a link."""
    alias = workspace.parent / "alias"
    alias.symlink_to(workspace)
    with ToolEngine([{"allow": "read_file", "paths": ["README.md"]}], alias) as engine:
        for root in (alias, workspace):
            assert engine.check("read_file", {"path": f"{root}/README.md"}).decision == "allow"


def test_dots_after_a_link_count_as_the_kernel_counts(workspace):
    """`link/../x` leads to the parent of the link's target, and is judged so."""
    with ToolEngine([{"allow": "read_file"}], workspace) as engine:
        assert engine.check("read_file", {"path": "link_etc/../etc/hostname"}).decision == "deny"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        pytest.param({"argv": "git status"}, "argv", id="a string for a list"),
        pytest.param({"argv": ["git"], "approved": True}, "approved", id="unknown key"),
        pytest.param({"argv": ["git", 1]}, "argv", id="a number for a word"),
        pytest.param({"argv": []}, "argv", id="no words"),
        pytest.param({}, "argv", id="neither"),
        pytest.param({"argv": ["git"], "command": "git"}, "argv", id="both"),
        pytest.param({"argv": ["a\x00b"]}, "argv", id="NUL"),
        pytest.param({"argv": [float("nan")]}, "argv", id="NaN"),
        pytest.param({"argv": ["\ud800"]}, "argv", id="half a surrogate pair"),
        pytest.param({"argv": [2**70]}, "argv", id="beyond 64 bits"),
        pytest.param({"argv": [object()]}, "argv", id="no JSON value"),
        pytest.param('{"argv": ["a"], "argv": ["b"]}', "argv", id="duplicate keys"),
        pytest.param('{"argv": NaN}', "NaN", id="NaN in text"),
        pytest.param('{"argv": ' + "[" * 10**6, "nested", id="a million levels"),
        pytest.param('{"argv": [1' + "0" * 5000 + "]}", "limit", id="a number of 5000 digits"),
        pytest.param('{"argv": ', "JSON", id="cut off"),
        pytest.param("[]", "object", id="no object"),
        pytest.param(7, "object", id="a number"),
        pytest.param({1: 2}, "string", id="a key that is no string"),
        pytest.param('"' + "x" * 4_000_001 + '"', "longer", id="4 MB"),
        pytest.param({"argv": ["env"] * 100_000}, "too long", id="wrappers in wrappers"),
        pytest.param({"argv": ["sh", "-c", "sh " * 500_000]}, "too long", id="a shell full of shells"),
        pytest.param({"argv": ["env"] * 2000}, "too long", id="more pieces than anybody writes"),
        pytest.param({"command": "sh -c '" + 'sh -c "x" ' * 100_000 + "'"}, "too long", id="a long nest"),
    ],
)
def test_malformed_arguments_are_denied_by_field(arguments, field, workspace):
    """What a model wrote wrongly is denied, names the field, and raises nothing."""
    with ToolEngine([allow("*")], workspace) as engine:
        found = engine.check("command", arguments)

    assert found.decision == "deny"
    assert field in found.reasons[0]


def test_too_many_arguments_of_tests_are_denied(workspace):
    """The command that `run_tests` makes is looked through like any other."""
    with ToolEngine([{"allow": "run_tests"}], workspace) as engine:
        found = engine.check("run_tests", {"args": ["x"] * 5000})

    assert (found.decision, "too long" in found.reasons[0]) == ("deny", True)


def test_nesting_of_plain_values_is_bounded(workspace):
    """A mapping nested 100,000 levels deep is refused without recursion."""
    deep = []
    for _ in range(10**5):
        deep = [deep]
    with ToolEngine([], workspace) as engine:
        found = engine.check("command", {"argv": deep})
    while deep:  # taken apart by hand: freeing it at once would recurse
        deep = deep.pop()

    assert "nested" in found.reasons[0]


def test_nested_values_are_checked_by_their_place(workspace):
    """A wrong value deep inside an argument is named by its path."""

    def store(values: dict[str, list[float]]) -> str:
        """Keep them."""
        return str(values)

    with ToolEngine([{"allow": "store"}], workspace) as engine:
        engine.register_tool(store)
        assert engine.check("store", {"values": {"a": [1.5]}}).decision == "allow"
        assert "values.a[1]: NaN" in engine.check("store", {"values": {"a": [1.0, float("nan")]}}).reasons[0]


def test_an_unknown_tool_is_denied(workspace):
    """There is no default for tools nobody registered."""
    with ToolEngine([{"allow": "*"}], workspace) as engine:
        assert engine.check("frobnicate", {}).decision == "deny"


def test_checking_changes_nothing(workspace, bare_environment):
    """A check writes neither in the workspace nor in the user's home."""
    before = sorted(workspace.rglob("*"))
    with ToolEngine([{"allow": "write_file"}], workspace) as engine:
        engine.check("write_file", {"path": "a/b/new.txt", "content": "x"})
        engine.check("command", {"argv": ["pytest"]})

    assert sorted(workspace.rglob("*")) == before
    assert list(bare_environment.iterdir()) == []


def test_text_from_outside_makes_allowed_acts_ask(workspace):
    """Once the model may have read text from outside, rules no longer wave through writing and executing."""
    rules = [{"allow": ["write_file", "read_file"]}, allow("pytest")]
    with ToolEngine(rules, workspace) as engine:
        assert engine.check("command", {"argv": ["pytest"]}, tainted=True).decision == "ask"
        assert engine.check("write_file", {"path": "x", "content": ""}, tainted=True).decision == "ask"
        assert engine.check("read_file", {"path": "README.md"}, tainted=True).decision == "allow"


def test_run_tests_follows_rules_for_itself_and_for_pytest(workspace):
    """`run_tests` passes by a rule on it or on pytest, with the rule's effects."""
    for rules in ([{"allow": "run_tests", "effects": "write"}], [allow("pytest", effects="write")]):
        with ToolEngine(rules, workspace) as engine:
            found = engine.check("run_tests", {"args": ["-q"]})
            assert (found.decision, found.effects) == ("allow", ("write",))
    with ToolEngine([allow("make")], workspace) as engine:
        assert engine.check("run_tests", {"args": ["-q"]}).decision == "ask"


def test_a_patch_is_judged_by_every_file_it_touches(workspace):
    """The strictest file decides; a patch that does not apply is denied, saying why."""
    body = "*** Begin Patch\n*** Update File: README.md\n@@\n-hello\n+hi\n*** Add File: {}\n+x\n*** End Patch\n"
    rules = [{"allow": "patch"}, {"deny": "patch", "paths": ["secret/**"]}]
    with ToolEngine(rules, workspace) as engine:
        for path, expected in (("a.py", "allow"), ("conftest.py", "ask"), ("secret/x", "deny"), ("../x", "deny")):
            assert engine.check("patch", {"patch": body.format(path)}).decision == expected
        assert "not in the file" in engine.check("patch", {"patch": body.replace("hello", "nope")}).reasons[0]


def test_a_patch_that_does_not_apply_quotes_only_what_may_be_read(workspace):
    """Its error names the lines that come close where reading the file takes no question, and never a secret's."""
    wrong = "*** Begin Patch\n*** Update File: {}\n@@\n-{}\n+x\n*** End Patch\n"
    rules = [{"allow": "read_file"}, {"deny": "*", "paths": ["src/**"]}]
    for these, mode, path, near, quoted in (
        (rules, "manual", "README.md", "hellp", True),
        (rules, "manual", ".env", "K=", False),
        (rules, "manual", "src/app.py", "print(2)", False),
        ([], "manual", "README.md", "hellp", False),
        ([], "trust", "README.md", "hellp", True),
    ):
        with ToolEngine(these, workspace, mode) as engine:
            found = engine.check("patch", {"patch": wrong.format(path, near)})

        assert (found.decision, "line 1 is" in found.reasons[0]) == ("deny", quoted), (path, found)


def test_a_rule_on_paths_holds_for_walks_and_commands_too(workspace):
    """What a rule keeps from every tool is neither listed nor searched on the way, nor named to an allowed command."""
    (workspace / "private").mkdir()
    (workspace / "private/x.txt").write_text("hello\n")
    rules = [{"allow": ["list_files", "search_files"]}, allow("cat"), allow("grep"), allow("git"), allow("ls")]
    guard = {"deny": "*", "paths": ["private/**"], "why": "not yours"}
    with ToolEngine([*rules, guard], workspace) as engine:
        listed = execute(engine, {"id": "1", "name": "list_files", "arguments": {"path": "."}}).content
        found = execute(engine, {"id": "2", "name": "search_files", "arguments": {"pattern": "hello"}}).content
        decisions = {
            words: engine.check("command", {"argv": words.split()}).decision
            for words in (
                *(
                    "cat private/x.txt",
                    "cat ./src/../private/x.txt",
                    "grep -r x private",
                    "git show HEAD:private/x.txt",
                ),
                *("grep --file=private/x.txt x", "grep -fprivate/x.txt x", "cat README.md", "ls src"),
            )
        }
        assert engine.check("list_files", {"path": "private"}).decision == "deny"
        assert engine.check("command", {"argv": ["cat", "", "-", "x" * 5000]}).decision != "deny"

    assert ("README.md" in listed, "private" in listed) == (True, False)
    assert found == "README.md:1: hello"
    assert list(decisions.values()) == ["deny"] * 6 + ["allow"] * 2


@pytest.mark.parametrize(
    ("rule", "pattern", "found"),
    [
        pytest.param({"ask": "read_file", "paths": ["README.md"]}, "hello", "no match", id="asks to be read"),
        pytest.param({"deny": "search_files", "paths": ["README.md"]}, "hello", "no match", id="not to be searched"),
        pytest.param({"deny": "read_file", "paths": ["src/**"]}, "hello", "README.md:1: hello", id="another file"),
        pytest.param({"allow": "read_file"}, "K=1", "no match", id="secrets"),
    ],
)
def test_what_may_not_be_read_is_not_searched(rule, pattern, found, workspace):
    """A search shows no line of a file that a rule keeps from it or from reading, nor of a secret."""
    with ToolEngine([{"allow": "search_files"}, rule], workspace) as engine:
        call = {"id": "1", "name": "search_files", "arguments": {"pattern": pattern}}

        assert execute(engine, call).content == found


def test_custom_tools_are_judged_by_their_traits(workspace):
    """A function's paths are confined; what it does not declare counts as executing."""

    @tool(effect="read", paths=("place",))
    def peek(place: str) -> str:
        """Look."""
        return place

    def act() -> str:
        """Do something."""
        return "done"

    with ToolEngine([{"allow": "peek", "paths": ["src/**"]}], workspace, "trust") as engine:
        engine.register_tool(peek)
        engine.register_tool(act)
        assert engine.check("peek", {"place": "src/app.py"}).decision == "allow"
        assert engine.check("peek", {"place": "../x"}).decision == "deny"
        assert engine.check("act", {}).decision == "ask"


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        pytest.param({"allow": "command", "deny": "x"}, "exactly one", id="two effects"),
        pytest.param({"argv": ["git"]}, "exactly one", id="no effect"),
        pytest.param({"allow": "command", "argw": ["git"]}, "did you mean 'argv'", id="unknown key"),
        pytest.param({"alow": "command"}, "did you mean 'allow'", id="a typing error in the verb"),
        pytest.param({"deny": "*", "paths": ["/private/**"]}, "leads out of the workspace", id="a slash before it"),
        pytest.param({"deny": "*", "paths": ["../x"]}, "leads out of the workspace", id="above the workspace"),
        pytest.param({"deny": "*", "paths": ["src/{a,b}.py"]}, "one glob for each", id="a list in braces"),
        pytest.param({"deny": "*", "paths": ["!src/**"]}, "one glob for each", id="an exception"),
        pytest.param({"deny": "*", "paths": ["src\\a.py"]}, "one glob for each", id="a backslash"),
        pytest.param({**allow("git"), "efects": "read"}, "did you mean 'effects'", id="a typing error"),
        pytest.param(allow("git", effects="wite"), "did you mean 'write'", id="unknown effect"),
        pytest.param(allow("git", flags="any"), "`flags` is gone", id="a key of earlier versions"),
        pytest.param({"allow": "read_file", "effects": "write"}, "effects are about commands", id="no command"),
        pytest.param({"deny": "command", "effects": "write"}, "what is denied has none", id="effects of a denial"),
        pytest.param(allow(), "argv", id="no words"),
        pytest.param({**allow("git", "status"), "match": ["git push"]}, "must be decided", id="match fails"),
        pytest.param({**allow("git"), "not_match": ["git status"]}, "must not be", id="not_match fails"),
        pytest.param({"allow": "read_file", "paths": ["a"], "match": ["../a"]}, "must be", id="a path outside"),
        pytest.param({**allow("git"), "match": ["git 'x"]}, "no command", id="an example with an open quote"),
    ],
)
def test_a_wrong_rule_is_a_configuration_error(rule, problem, workspace):
    """Rules are proven when they load; every problem names its rule."""
    with pytest.raises(ConfigError, match=problem) as caught:
        ToolEngine([{"allow": "read_file"}, rule], workspace)

    assert "rules[1]" in str(caught.value)


@pytest.mark.parametrize(
    "pattern", ["src//a.py", "src/./a.py", "src/../src/a.py", "{root}/src/a.py", "{link}/src/a.py", "{link}/src/"]
)
def test_a_path_of_a_rule_is_understood_however_it_is_written(pattern, workspace, tmp_path_factory):
    """Also with the workspace's own path before it, as it was given or as it really is."""
    link = tmp_path_factory.mktemp("links") / "link"
    link.symlink_to(workspace)
    rule = {"deny": "*", "paths": [pattern.format(root=workspace, link=link)]}
    with ToolEngine([{"allow": "*"}, rule], link) as engine:
        assert engine.check("read_file", {"path": "src/a.py"}).decision == "deny"
        assert engine.check("read_file", {"path": "other.py"}).decision == "allow"


def test_no_pattern_of_a_model_can_hang_a_listing(workspace):
    """Globs are matched in linear time, and those that mean nothing match nothing."""
    deep = workspace / "/".join(["aaaa"] * 12)
    deep.mkdir(parents=True)
    (deep / ("a" * 24)).touch()
    with ToolEngine([{"allow": "list_files"}], workspace) as engine:
        for pattern, found in (
            ("**/" * 12 + "*a*a*a*a*a*z", "no files"),
            ("*.md", "README.md"),
            ("src/[a", "no files"),
        ):
            call = {"id": "1", "name": "list_files", "arguments": {"path": ".", "pattern": pattern}}

            assert execute(engine, call).content == found


def test_examples_that_hold_load(workspace):
    """Examples may be command strings, words or paths."""
    rules = [
        {**allow("git", "status"), "match": ["git status -s", ["git", "status"]], "not_match": ["git push"]},
        {"deny": "write_file", "paths": ["dist/**"], "match": ["dist/a"], "not_match": ["src/a"]},
    ]
    with ToolEngine(rules, workspace) as engine:
        assert engine.check("write_file", {"path": "dist/a", "content": ""}).decision == "deny"


def test_a_workspace_must_be_a_folder(tmp_path):
    """A workspace that is not there is a configuration error."""
    with pytest.raises(ConfigError, match="not a folder"):
        ToolEngine([], tmp_path / "none")


def test_importing_the_tools_loads_no_heavy_library():
    """The package imports neither LiteLLM nor MCP nor jsonschema."""
    script = "import sys, blueprint_llm.tools; print({'litellm', 'mcp', 'jsonschema', 'rich'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )

    assert done.stdout.strip() == "set()"
