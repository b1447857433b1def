"""Reading a project, outlining its files, and finding the files that a goal is about."""

from __future__ import annotations

import json
import lzma
import subprocess
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from blueprint_llm.errors import PlanError
from blueprint_llm.planning.codebase import CodeIndex, outline, read_codebase, terms_of
from blueprint_llm.planning.codebase.files import MAX_BYTES
from blueprint_llm.planning.codebase.ranking import terms_from, words
from blueprint_llm.planning.pack import Ranker, build_pack

if TYPE_CHECKING:
    from collections.abc import Iterator

FIXTURE = Path(__file__).parent / "planning_cases" / "gstreamer_commits.json.xz"

IGNORED = """\
# comment
*.log
!keep.log
/build
docs/**/private
**/gen
*.tm[pq]
dir/
a?c.txt
\\#hash
deep/**
weird[
"""


def write(root: Path, *names: str) -> None:
    """Files with a line of text each."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"text of {name}\n")


def test_gitignore_is_read_as_git_reads_it(tmp_path: Path) -> None:
    """The files that are read are those that git itself would track."""
    write(
        tmp_path,
        *("a.log", "keep.log", "build/x.py", "sub/build/y.py", "docs/a/b/private/z.py", "docs/private/w.py"),
        *("gen/g.py", "x/gen/g.py", "x.tmp", "x.tmq", "x.tmr", "dir/f.py", "sub/dir/f.py", "abc.txt", "abbc.txt"),
        *(
            "#hash",
            "deep/er/f.py",
            "weird[",
            "sub/other.txt",
            "sub/n.log",
            "sub/in/only.txt",
            "plain.py",
            "in/other.txt",
        ),
    )
    (tmp_path / ".gitignore").write_text(IGNORED)
    (tmp_path / "sub" / ".gitignore").write_text("other.txt\n!n.log\n/in/only.txt\n")
    git = ["git", "-C", str(tmp_path), "-c", "core.excludesFile=/dev/null"]
    subprocess.run([*git, "init", "-q"], check=True)
    listed = subprocess.run(
        [*git, "ls-files", "-z", "-co", "--exclude-standard"], check=True, capture_output=True, text=True
    ).stdout

    assert read_codebase(tmp_path).paths == set(listed.rstrip("\0").split("\0"))


def test_what_nobody_wants_to_read_is_left_out(tmp_path: Path) -> None:
    """Binary and huge files exist but are not read; links and dependency folders are not even listed."""
    write(tmp_path, "a.py", "node_modules/x/index.js", ".git/config")
    (tmp_path / "logo.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "huge.csv").write_bytes(b"x" * (MAX_BYTES + 1))
    (tmp_path / "link.py").symlink_to(tmp_path / "a.py")
    codebase = read_codebase(tmp_path)

    assert [file.path for file in codebase.files] == ["a.py"]
    assert codebase.paths == {"a.py", "logo.png", "huge.csv"}


def test_an_unreadable_file_is_a_note(tmp_path: Path) -> None:
    """Reading goes on after a file that cannot be read, here because it has just gone."""
    write(tmp_path, "a.py", "b.py", "c.py")
    seen: list[int] = []

    def progress(count: int) -> None:
        seen.append(count)
        (tmp_path / "b.py").unlink(missing_ok=True)

    codebase = read_codebase(tmp_path, progress)

    assert [file.path for file in codebase.files] == ["a.py", "c.py"]
    assert codebase.notes == ("b.py: not read (No such file or directory)",)
    assert seen == [1, 3]


def test_a_list_of_files_is_relative_to_their_common_folder(tmp_path: Path) -> None:
    """Single files and lists of files work like a folder."""
    write(tmp_path, "p/a.py", "p/q/b.py")

    twice = read_codebase([tmp_path / "p", tmp_path / "p" / "q"]).files

    assert [file.path for file in twice] == ["p/a.py", "p/q/b.py"]
    assert read_codebase([tmp_path / "p" / "a.py", tmp_path / "p" / "q" / "b.py"]).paths == {"a.py", "q/b.py"}
    assert read_codebase(tmp_path / "p" / "q" / "b.py").paths == {"b.py"}


def test_a_missing_path_is_named() -> None:
    """One error that lists what does not exist."""
    with pytest.raises(PlanError, match="codebase not found: nowhere"):
        read_codebase(Path("nowhere"))


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        pytest.param(
            "a.py",
            "X = 1\ny: int = 2\nclass A(B):\n    z = 3\n    async def m(self, a, *, b=1): ...\ndef f(): ...\n1\n",
            ["X = ...", "y = ...", "class A(B)", "    z = ...", "    def m(self, a, *, b=1)", "def f()"],
            id="python",
        ),
        pytest.param("a.py", "class A\ndef f(:\n", ["class A", "def f(:"], id="broken python"),
        pytest.param(
            "a.go",
            "type T struct {\nfunc (t *T) Run(x int) {\n x = 1\n",
            ["type T struct", "func (t *T) Run(x int)"],
            id="go",
        ),
        pytest.param(
            "a.rs",
            "pub fn run(x: u8) {\nimpl Foo for Bar {\nlet x = 1;\n",
            ["pub fn run(x: u8)", "impl Foo for Bar"],
            id="rust",
        ),
        pytest.param(
            "a.ts",
            "export class A {\nconst f = (x) => 1\nconst y = 2\n",
            ["export class A", "const f = (x) => 1"],
            id="typescript",
        ),
        pytest.param(
            "a.c",
            "#define N 3\nstatic int\nrun_it (int x)\n{\n  call (x);\n",
            ["#define N 3", "run_it (int x)"],
            id="c",
        ),
        pytest.param("a.txt", "just words", [], id="prose"),
    ],
)
def test_outlines_name_what_a_file_defines(path: str, text: str, expected: list[str]) -> None:
    """Definitions survive, bodies do not."""
    assert outline(path, text).splitlines() == expected


def test_words_are_taken_apart() -> None:
    """Identifiers count whole and in pieces, lower case, without plurals and filler."""
    assert words("add the HTTPServer_ports to get_item") == [
        "httpserverport",
        "http",
        "server",
        "port",
        "getitem",
        "get",
        "item",
    ]


def test_a_file_is_found_by_name_content_or_use() -> None:
    """A goal finds the file whose path or identifiers it names, and then what that file uses."""
    files = {
        "billing/invoice.py": "from shop.money import round_amount\ndef total(x): return round_amount(x)\n",
        "shop/money.py": "def round_amount(x): return x\n",
        "web/pages.py": "def home(): return 'welcome'\n",
        "README.md": "invoice invoice invoice\n",
    }
    index = CodeIndex(terms_of(path, text) for path, text in files.items())
    ranked = [path for path, _ in index.rank("fix the invoice total")]

    assert ranked[:3] == ["billing/invoice.py", "README.md", "shop/money.py"]
    assert "web/pages.py" not in ranked
    assert index.rank("the") == []
    assert CodeIndex([]).rank("x") == []


@pytest.fixture(scope="module")
def recorded() -> tuple[CodeIndex, list[tuple[str, set[str], bool]]]:
    """The index of a real project, and its commits as (subject, files, whether only documentation)."""
    value = json.loads(lzma.decompress(FIXTURE.read_bytes()))
    names = value["names"]

    def identifiers(deltas: list[int], counts: list[int]) -> Iterator[tuple[str, int]]:
        return zip((names[n] for n in accumulate(deltas)), counts, strict=True)

    index = CodeIndex(
        terms_from(path, dict(identifiers(deltas, counts)), [names[n] for n in defined])
        for path, deltas, counts, defined in value["files"]
    )
    return index, [(subject, set(files), documentation) for subject, files, documentation in value["commits"]]


def test_commits_find_their_files(recorded: tuple[CodeIndex, list[tuple[str, set[str], bool]]]) -> None:
    """Of 177 real commits, the ten best files for the subject hold 0.9 of what they touch; of code changes, 0.92.

    That includes 31 commits on documentation and style, whose subjects often name nothing.
    """
    index, commits = recorded
    recall = [len(files & {path for path, _ in index.rank(subject, 10)}) / len(files) for subject, files, _ in commits]
    behaviour = [found for found, (_, _, documentation) in zip(recall, commits, strict=True) if not documentation]

    assert (len(recall), len(behaviour)) == (177, 146)
    assert all(1 <= len(files) <= 10 for _, files, _ in commits)
    assert sum(recall) / len(recall) >= 0.9
    assert sum(behaviour) / len(behaviour) >= 0.92


def test_a_pack_fits_its_room(tmp_path: Path) -> None:
    """Map, whole files, outlines: within the room for any size, nothing twice, the rest in the overflow."""
    for n in range(40):
        (tmp_path / f"m{n}.py").write_text(f"def function_{n}():\n" + "    call()\n" * (n * 20))
    project = Ranker().project(read_codebase(tmp_path), "function_3")
    for room in (0, 100, 1000, 5000, 100_000):
        pack = build_pack(project, room)
        named = [part.source for part in pack.parts[1:]] + [file.path for file in pack.overflow]

        assert sum(part.tokens for part in pack.parts) <= max(room, 20)
        assert sorted(named) == sorted(set(named))
    assert build_pack(project, 5000).parts[1].source == "m3.py"
    assert build_pack(project, 10**6).overflow == ()


def test_an_unchanged_file_is_analysed_once(tmp_path: Path) -> None:
    """A second plan reuses what is known of equal content."""
    write(tmp_path, "a.py")
    ranker = Ranker()
    ranker.project(read_codebase(tmp_path), "text")
    known = dict(ranker._terms)
    ranker.project(read_codebase(tmp_path), "text")

    assert all(ranker._terms[key] is value for key, value in known.items())
