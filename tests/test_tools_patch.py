"""Patches in three formats: exact, all or nothing, and faithful to every byte outside the hunks."""

import os
import re
import signal
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blueprint_llm import sync
from blueprint_llm.tools import ToolEngine
from blueprint_llm.tools.files import ChangedError, Journal
from blueprint_llm.tools.patch import PatchError, Staged, Stored, parse_patch, preview, stage
from blueprint_llm.tools.workspace import Root

TEXT = "one\ntwo\nthree\nfour\nfive\n"


def execute(engine, call):
    """Run one call, from outside an event loop."""
    return sync.run(engine.execute(call))


def staged(patch, files, mode=0o644):
    """The bytes that a patch leaves, by path; None for a deleted file."""
    stored = {path: Stored(content=content, mode=mode) for path, content in files.items()}
    return {item.path: item.after.content if item.after else None for item in stage(parse_patch(patch), stored.get)}


def unified(body, path="a.txt"):
    """A unified diff of one file."""
    return f"--- a/{path}\n+++ b/{path}\n{body}"


def v4a(body, path="a.txt"):
    """A V4A update of one file."""
    return f"*** Begin Patch\n*** Update File: {path}\n{body}*** End Patch\n"


def block(old, new, path="a.txt"):
    """A search/replace block."""
    return f"{path}\n```\n<<<<<<< SEARCH\n{old}=======\n{new}>>>>>>> REPLACE\n```\n"


@pytest.mark.parametrize(
    "patch",
    [
        pytest.param(unified("@@ -1,3 +1,3 @@\n one\n-two\n+TWO\n three\n"), id="unified"),
        pytest.param(
            "diff --git a/a.txt b/a.txt\nindex 1..2 100644\n" + unified("@@ -2 +2 @@\n-two\n+TWO\n"), id="git"
        ),
        pytest.param(unified("@@ -90,3 +90,3 @@\n one\n-two\n+TWO\n three\n"), id="wrong line numbers, one match"),
        pytest.param(v4a("@@\n one\n-two\n+TWO\n"), id="V4A"),
        pytest.param(v4a("@@ one\n-two\n+TWO\n"), id="V4A anchor"),
        pytest.param("```\n" + v4a("-two\n+TWO\n") + "```\n", id="V4A in a fence"),
        pytest.param(block("two\n", "TWO\n"), id="search/replace"),
        pytest.param(unified("@@ -2 +2 @@\n-two\n+TWO\n").replace("\n", "\r\n"), id="a patch with CRLF ends"),
    ],
)
def test_the_three_formats_say_the_same(patch):
    """Each format changes the same line and nothing else."""
    assert staged(patch, {"a.txt": TEXT.encode()}) == {"a.txt": TEXT.replace("two", "TWO").encode()}


@pytest.mark.parametrize(
    ("before", "patch", "after"),
    [
        pytest.param(b"a\r\nb\r\nc\r\n", v4a(" a\n-b\n+B\n+x\n c\n"), b"a\r\nB\r\nx\r\nc\r\n", id="CRLF"),
        pytest.param(
            b"a\r\nb\r\n", unified("@@ -1,2 +1,3 @@\n a\r\n-b\r\n+B\r\n+x\r\n"), b"a\r\nB\r\nx\r\n", id="a diff of CRLF"
        ),
        pytest.param(b"a\r\nb\r\n", unified("@@ -2 +2 @@\n-b\r\n+b\n"), b"a\r\nb\n", id="a diff from CRLF"),
        pytest.param(b"a\nb\n", unified("@@ -1,2 +1,2 @@\n a\n-b\n+b\r\n"), b"a\nb\r\n", id="a diff to CRLF"),
        pytest.param(
            b"a\r\nb",
            unified("@@ -1,2 +1,2 @@\n-a\r\n+A\r\n b\n\\ No newline at end of file\n"),
            b"A\r\nb",
            id="a diff of CRLF with a bare last line",
        ),
        pytest.param(b"a\nb", v4a(" a\n-b\n+B\n"), b"a\nB", id="no newline at the end stays so"),
        pytest.param(b"a\nb", v4a(" b\n+c\n"), b"a\nb\nc", id="adding after a bare last line"),
        pytest.param(
            b"a\nb", unified("@@ -2 +2 @@\n-b\n\\ No newline at end of file\n+B\n"), b"a\nB\n", id="the diff adds it"
        ),
        pytest.param(
            b"a\nb\n", unified("@@ -2 +2 @@\n-b\n+B\n\\ No newline at end of file\n"), b"a\nB", id="the diff drops it"
        ),
        pytest.param(b"\xef\xbb\xbfa\nb\n", v4a("-a\n+A\n b\n"), b"\xef\xbb\xbfA\nb\n", id="BOM"),
        pytest.param(
            b"\xef\xbb\xbfa\n", unified("@@ -0,0 +1 @@\n+n\n"), b"\xef\xbb\xbfn\na\n", id="a BOM stays in front"
        ),
        pytest.param(
            b"\xef\xbb\xbfa\nb\n", v4a("-a\n+\ufeffA\n b\n"), b"\xef\xbb\xbfA\nb\n", id="a BOM that is repeated"
        ),
        pytest.param(b"\xff\xfe\nb\n\x80\n", v4a("-b\n+B\n"), b"\xff\xfe\nB\n\x80\n", id="bytes that are no UTF-8"),
        pytest.param(b"a\n\nb\n", v4a(" a\n\n-b\n+B\n"), b"a\n\nB\n", id="an empty context line without its space"),
        pytest.param(b"a\x0cb\nc\n", v4a("-c\n+C\n"), b"a\x0cb\nC\n", id="a form feed is no line end"),
        pytest.param(
            b"x\ny\nx\ny\n", unified("@@ -3,2 +3,2 @@\n x\n-y\n+Y\n"), b"x\ny\nx\nY\n", id="the named line wins"
        ),
        pytest.param(b"a\nb\n", unified("@@ -1,0 +2 @@\n+n\n"), b"a\nn\nb\n", id="insertion without context"),
        pytest.param(b"f\nx\ng\nx\n", v4a("@@ g\n-x\n+X\n"), b"f\nx\ng\nX\n", id="after its anchor"),
        pytest.param(b"x\na\nx\n", v4a("-x\n+X\n*** End of File\n"), b"x\na\nX\n", id="at the end of the file"),
        pytest.param(b"a\n", v4a("@@ a\n+b\n"), b"a\nb\n", id="added right after an anchor"),
        pytest.param(b"", v4a("+b\n"), b"b\n", id="into an empty file"),
        pytest.param(
            b"1\n2\n3\n4\n5\n6\n7\n8\n",
            unified("@@ -1,2 +1,3 @@\n 1\n+n\n 2\n@@ -7,2 +8,2 @@\n 7\n-8\n+E\n"),
            b"1\nn\n2\n3\n4\n5\n6\n7\nE\n",
            id="later hunks shift",
        ),
    ],
)
def test_rt025_only_the_hunk_changes(before, patch, after):
    """Line ends, byte order mark and everything outside the hunk stay as they are."""
    assert staged(patch, {"a.txt": before}) == {"a.txt": after}


@pytest.mark.parametrize(
    ("patch", "problem"),
    [
        pytest.param("hello", "no edits found", id="no patch"),
        pytest.param("--- a/a.txt\n+++ b/\n@@ -1 +0,0 @@\n-x\n", "name two files", id="an empty path deletes nothing"),
        pytest.param("--- a/\n+++ b/n.txt\n@@ -0,0 +1 @@\n+x\n", "name two files", id="an empty path adds nothing"),
        pytest.param("*** Begin Patch\n*** End Patch\n", "no edits found", id="empty"),
        pytest.param(v4a("@@\n-nope\n+x\n"), "not in the file", id="no match"),
        pytest.param(v4a("@@\n-twoo\n+x\n"), "line 2 is 'two'", id="a near miss is suggested"),
        pytest.param(v4a("-e\n+x\n", "twice.txt"), "at lines 1, 2", id="two matches"),
        pytest.param(v4a("@@ zzz\n-two\n+x\n"), "anchor 'zzz' occurs nowhere", id="anchor missing"),
        pytest.param(v4a("@@ e\n-e\n+x\n", "twice.txt"), "occurs at lines 1, 2", id="anchor twice"),
        pytest.param(v4a("+x\n"), "without context", id="addition without a place"),
        pytest.param(v4a("two\n+x\n"), "must begin with", id="a line without its sign"),
        pytest.param(v4a(""), "no change given", id="update without change"),
        pytest.param(v4a("@@\n"), "hunk without lines", id="anchor only"),
        pytest.param(v4a("-two\n+x\n") + "more\n", "after the patch", id="text after it"),
        pytest.param("hi\n" + v4a("-two\n+x\n"), "before", id="text before it"),
        pytest.param("*** Begin Patch\n*** Add File: n\nx\n*** End Patch\n", "begins with '\\+'", id="added, no sign"),
        pytest.param("*** Begin Patch\n*** Add File: a.txt\n+x\n*** End Patch\n", "already there", id="added twice"),
        pytest.param("*** Begin Patch\n*** Frob: a\n*** End Patch\n", "expected", id="unknown header"),
        pytest.param("*** Begin Patch\n*** Update File: a.txt\n-two\n+x\n", "too early", id="cut off"),
        pytest.param(v4a("-x\n", "none.txt"), "no such file", id="missing file"),
        pytest.param(v4a("*** Move to: twice.txt\n-two\n+x\n"), "already there", id="move onto a file"),
        pytest.param(unified("@@ -1,3 +1,3 @@\n one\n-two\n+x\n"), "too early", id="counts too large"),
        pytest.param(unified("@@ -1 +1 @@\n-one\n+x\n two\n"), "more lines", id="counts too small"),
        pytest.param(unified("@@ -1 +1,2 @@\n-one\n-two\n+x\n+y\n"), "add up", id="counts that disagree"),
        pytest.param(unified(""), "without hunks", id="no hunks"),
        pytest.param("--- a/x\n+++ b/y\n@@ -1 +1 @@\n-a\n+b\n", "two files", id="names differ"),
        pytest.param("--- a/x\nfoo\n", "expected", id="no second header"),
        pytest.param("diff --git a/x b/x\n", "no lines are changed", id="git header only"),
        pytest.param("diff --git a/x b/x\nnew file mode 120000\n", "cannot be patched", id="a link"),
        pytest.param("diff --git a/x b/x\nold mode 100644\nnew mode 104755\n", "cannot be patched", id="setuid"),
        pytest.param("diff --git a/x b/x\nold mode 100644\nnew mode 100755\n", "cannot be patched", id="executable"),
        pytest.param("diff --git a/x b/x\nnew file mode 100755\n", "cannot be patched", id="new and executable"),
        pytest.param("diff --git a/x b/x\nnew file mode 160000\n", "cannot be patched", id="submodule"),
        pytest.param("diff --git a/x b/x\nGIT binary patch\nliteral 1\n", "cannot be patched", id="binary"),
        pytest.param("diff --git a/x b/x\nBinary files a/x and b/x differ\n", "cannot be patched", id="binary differs"),
        pytest.param('--- a/"x"\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n', "two things", id="odd quoting"),
        pytest.param(unified("@@ -1 +1 @@\n-one\n+x\n") + "junk\n", "unexpected", id="junk after a hunk"),
        pytest.param("diff --git a/a.txt b/a.txt\ndeleted file mode 100644\n" + unified("@@ -1 +0,0 @@\n-one\n")
                     .replace("+++ b/a.txt", "+++ /dev/null"), "whole file", id="a deletion that leaves lines"),
        pytest.param("junk\n" + unified("@@ -1 +1 @@\n-one\n+x\n"), "unexpected 'junk'", id="junk before a diff"),
        pytest.param("<<<<<<< SEARCH\na\n=======\nb\n>>>>>>> REPLACE\n", "no path", id="block without a path"),
        pytest.param("a.txt\n<<<<<<< SEARCH\none\n", "too early", id="block cut off"),
        pytest.param("--- /dev/null\n+++ b/n\n@@ -1 +1 @@\n-a\n+b\n", "only '\\+' lines", id="new, with old lines"),
    ],
)  # fmt: skip
def test_what_could_mean_two_things_is_an_error(patch, problem):
    """Nothing is guessed, and the message tells the model what to mend."""
    with pytest.raises(PatchError) as caught:
        staged(patch, {"a.txt": TEXT.encode(), "twice.txt": b"e\ne\n"})

    assert re.search(problem, f"{caught.value} {caught.value.hint}")


def test_git_s_renames_without_a_change():
    """Git writes no lines for them, so its headers count; a quoted name could mean two things."""
    rename = "diff --git a/a b/b c\nsimilarity index 100%\nrename from a\nrename to b c\n"
    more = "diff --git a/x b/x\nindex 1..2 100644\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-1\n+2\n"

    assert staged(rename + more, {"a": b"1\n", "x": b"1\n"}) == {"a": None, "b c": b"1\n", "x": b"2\n"}
    with pytest.raises(PatchError, match="no lines are changed"):
        staged(rename.replace("to b c", 'to "b"'), {"a": b"1\n"})


def test_renames_and_deletions():
    """A rename, with changed lines or V4A's own, and a deletion are edits too; the preview shows each."""
    patch = (
        "diff --git a/a b/b\nsimilarity index 50%\nrename from a\nrename to b\n--- a/a\n+++ b/b\n@@ -1 +1 @@\n-a\n+b\n"
        "diff --git a/d b/d\ndeleted file mode 100644\n--- a/d\n+++ /dev/null\n@@ -1 +0,0 @@\n-d\n"
        "diff --git a/e b/e\nnew file mode 100644\n--- /dev/null\n+++ b/e\n@@ -0,0 +1 @@\n+e\n"
    )
    files = {name: Stored(content=name.encode() + b"\n", mode=0o755) for name in "ad"}

    found = stage(parse_patch(patch), files.get)

    after = {item.path: (item.after.content, item.after.mode) if item.after else None for item in found}
    assert after == {"a": None, "b": (b"b\n", 0o755), "d": None, "e": (b"e\n", 0o644)}
    assert "-d" in preview(found)
    assert staged(v4a("*** Move to: b.txt\n"), {"a.txt": b"x"}) == {"a.txt": None, "b.txt": b"x"}


def test_several_edits_of_one_file_build_on_each_other():
    """The second edit of a file sees what the first made of it."""
    patch = block("one\n", "ONE\n") + block("ONE\n", "1\n") + block("", "x\n", "new.txt")

    assert staged(patch, {"a.txt": TEXT.encode()}) == {"a.txt": TEXT.replace("one", "1").encode(), "new.txt": b"x\n"}


@settings(max_examples=300, deadline=None)
@given(
    before=st.lists(st.sampled_from(["a", "b", "  c", "-d", "+e", "", "@@ f", "--- g"]), max_size=12),
    after=st.lists(st.sampled_from(["a", "b", "  c", "-d", "+e", "", "@@ f", "--- g"]), max_size=12),
    bare=st.booleans(),
)
def test_the_preview_is_itself_a_patch(before, after, bare):
    """For any two texts, the shown diff applied to the first gives the second, byte for byte."""
    old = "".join(f"{line}\n" for line in before).encode()
    new = "".join(f"{line}\n" for line in after).encode()
    new = new.removesuffix(b"\n") if bare else new
    files = {"a.txt": Stored(content=old, mode=0o644)}
    whole = "*** Begin Patch\n*** Add File: n\n+x\n*** End Patch\n"
    change = [type(item)(path="a.txt", before=files["a.txt"], after=Stored(content=new, mode=0o644))
              for item in stage(parse_patch(whole), dict.get.__get__({}))]  # fmt: skip
    shown = preview(change)

    assert (staged(shown, {"a.txt": old}) if shown else {"a.txt": old}) == {"a.txt": new}


def test_a_patch_writes_all_its_files(tmp_path):
    """Through the engine, several files change at once, in folders that are made; modes are kept."""
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "a.txt").chmod(0o755)
    (tmp_path / "gone.txt").write_text("x\n")
    edits = "*** Update File: a.txt\n-two\n+TWO\n*** Add File: x/y/z.txt\n+new\n*** Delete File: gone.txt\n"
    patch = f"*** Begin Patch\n{edits}*** End Patch\n"
    with ToolEngine([{"allow": "patch"}], tmp_path) as engine:
        result = execute(engine, {"id": "1", "name": "patch", "arguments": {"patch": patch}})

    assert (result.status, result.content) == ("ok", "changed a.txt\ncreated x/y/z.txt\ndeleted gone.txt")
    assert (tmp_path / "a.txt").read_text() == TEXT.replace("two", "TWO")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "x/y/z.txt").read_text() == "new\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "x"]


KILLED = """
import os, signal, sys
import filelock
from itertools import count
from pathlib import Path
from blueprint_llm.tools.workspace import Root
from blueprint_llm.tools.files import Journal
from blueprint_llm.tools.patch import Staged, Stored
root, journal, wanted, steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), count()
def die(event, arguments):
    if event in {"open", "os.rename", "os.remove"} and next(steps) == wanted:
        os.kill(os.getpid(), signal.SIGKILL)
def old(n): return Stored(content=b"old %d\\n" % n, mode=0o644)
def new(n): return Stored(content=b"new %d\\n" % n, mode=0o644)
changes = [Staged(path=f"d{n}/f", before=old(n), after=new(n)) for n in range(3)]
changes += [Staged(path="made/new", before=None, after=new(3)), Staged(path="gone", before=old(4), after=None)]
with Root(root, portable=True) as opened:
    sys.addaudithook(die)
    Journal(journal, os.urandom).apply(opened, changes)
"""
STEPS, COMMITTED = 43, 30  # how many there are, and the one that renames the journal into place
QUICK = {17, 31, 37}


@pytest.mark.parametrize(
    "step", [step if step in QUICK else pytest.param(step, marks=pytest.mark.slow) for step in range(STEPS + 1)]
)
def test_rt023_killed_at_any_step_it_is_all_or_nothing(step, tmp_path):
    """A process killed before any file is opened, renamed or removed leaves every change or none, and no debris."""
    root, home = tmp_path / "ws", tmp_path / "state"
    for n in range(3):
        (root / f"d{n}").mkdir(parents=True)
        (root / f"d{n}/f").write_text(f"old {n}\n")
    (root / "gone").write_text("old 4\n")
    done = subprocess.run([sys.executable, "-c", KILLED, root, home, str(step)], check=False)
    committed = step == STEPS or any('"apply"' in path.read_text() for path in home.glob("*.json"))

    with Root(str(root)) as opened:
        Journal(home, os.urandom).recover(opened)

    found = {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}
    before = {**{f"d{n}/f": f"old {n}\n" for n in range(3)}, "gone": "old 4\n"}
    after = {**{f"d{n}/f": f"new {n}\n" for n in range(3)}, "made/new": "new 3\n"}
    assert done.returncode == (0 if step == STEPS else -signal.SIGKILL)
    assert found == (after if committed else before)
    assert committed == (step > COMMITTED)
    assert list(home.glob("*.json")) == []


@pytest.mark.slow
def test_the_engine_finishes_what_a_killed_one_began(tmp_path, bare_environment):
    """Opening an engine on the workspace completes a change that was committed before its process died."""
    root = tmp_path / "ws"
    root.mkdir()
    (root / "a").write_text("old\n")
    script = textwrap.dedent("""
        import os, signal, sys
        from blueprint_llm import sync
        from blueprint_llm.tools import files
        from blueprint_llm.tools.engine import ToolEngine
        files.Journal._finish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        patch = "*** Begin Patch\\n*** Update File: a\\n-old\\n+new\\n*** End Patch\\n"
        call = {"id": "1", "name": "patch", "arguments": {"patch": patch}}
        sync.run(ToolEngine([{"allow": "patch"}], sys.argv[1]).execute(call))
    """)
    subprocess.run([sys.executable, "-c", script, root], check=False)
    assert (root / "a").read_text() == "old\n"

    ToolEngine([], root).close()

    assert (root / "a").read_text() == "new\n"
    assert [path.name for path in root.iterdir()] == ["a"]


def test_a_file_that_changed_meanwhile_stops_the_whole_patch(tmp_path):
    """What was staged for other bytes is not written, nor anything beside it."""
    (tmp_path / "a").write_text("changed\n")
    change = [
        Staged(path="b", before=None, after=Stored(content=b"x", mode=0o644)),
        Staged(path="a", before=Stored(content=b"old\n", mode=0o644), after=Stored(content=b"new\n", mode=0o644)),
    ]
    with Root(str(tmp_path)) as root, pytest.raises(ChangedError):
        Journal(tmp_path.parent / "journal", os.urandom).apply(root, change)

    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "changed\n"}


def test_a_file_that_is_too_large_is_left_alone(tmp_path):
    """Files beyond the limit are neither read whole nor replaced."""
    with (tmp_path / "big").open("wb") as file:
        file.truncate(16_000_001)
    with ToolEngine([{"allow": "*"}], tmp_path) as engine:
        read = execute(engine, {"id": "1", "name": "read_file", "arguments": {"path": "big"}})
        write = execute(engine, {"id": "2", "name": "write_file", "arguments": {"path": "big", "content": ""}})

    assert (read.status, "larger than" in read.content) == ("error", True)
    assert (write.status, "larger than" in write.content) == ("denied", True)


def test_a_damaged_journal_is_swept(tmp_path):
    """A journal that cannot be read promised nothing; it is removed."""
    home = tmp_path / "journal"
    home.mkdir()
    (home / "x.json").write_text("{")
    with Root(str(tmp_path)) as root:
        Journal(home, os.urandom).recover(root)

    assert not (home / "x.json").exists()


def test_a_patch_of_a_file_without_a_name_is_denied(tmp_path):
    """Headers that name nothing are answered like any other path that no tool may touch."""
    with ToolEngine([{"allow": "patch"}], tmp_path) as engine:
        found = engine.check("patch", {"patch": "--- a/\n+++ b/\n@@ -1 +1 @@\n-x\n+y\n"})

    assert (found.decision, found.reasons) == ("deny", ("the path is empty",))
