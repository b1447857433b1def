"""Says what a source file defines without its bodies: `ast` for Python, line patterns for other languages.

An outline costs a twentieth of the file and is what a planner needs of files it will not change.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Lines that open a definition in the C family, Go, Rust, Java, JavaScript/TypeScript, Ruby, PHP, Kotlin, Swift, shell.
_DEFINITION = re.compile(
    r"^\s*(?:(?:export|default|public|private|protected|internal|static|final|abstract|async|override|pub(?:\([^)]*\))?|unsafe|open|data|sealed)\s+)*"
    r"(?:(?:class|interface|struct|enum|union|trait|impl|type|namespace|module|object|record|protocol|extension)\s+\w+"
    r"|(?:function\*?|func|fn|def|fun|sub)\s+[\w.(]+"
    r"|(?:const|let|var|val)\s+\w+\s*=\s*(?:async\s*)?(?:function|\([^)]*\)\s*=>|\w+\s*=>)"
    r"|\#\s*define\s+\w+|typedef\s.+;)"
)
# A C or C++ function: a name at the line's start (or after its type) whose parameter list opens a body below.
_C_FUNCTION = re.compile(r"^(?:[A-Za-z_][\w\s*&:<>,]*\s[*&]*)?[A-Za-z_]\w*\s*\([^;{}]*\)?\s*\{?$")
_C_ENDINGS = (".c", ".h", ".cc", ".cpp", ".hpp", ".cxx", ".m", ".java", ".cs")
_MAX_LINE = 160


def outline(path: str, text: str) -> str:
    """The definitions of a file, one a line, indented as in the file; empty where none are recognised."""
    if path.endswith((".py", ".pyi")):
        try:
            return "\n".join(_python(ast.parse(text)))
        except (SyntaxError, ValueError, RecursionError):
            pass  # not this Python: read it by its lines
    return "\n".join(_by_lines(path, text))


def _python(node: ast.AST, indent: str = "") -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.ClassDef(name=name, bases=bases):
                parents = ", ".join(map(ast.unparse, bases))
                yield f"{indent}class {name}({parents})" if parents else f"{indent}class {name}"
                yield from _python(child, indent + "    ")
            case ast.FunctionDef(name=name, args=args) | ast.AsyncFunctionDef(name=name, args=args):
                yield f"{indent}def {name}({ast.unparse(args)})"[:_MAX_LINE]
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield f"{indent}{name} = ..."
            case _:
                pass


def _by_lines(path: str, text: str) -> Iterator[str]:
    is_c = path.endswith(_C_ENDINGS)
    for line in text.splitlines():
        if len(line) <= _MAX_LINE and (_DEFINITION.match(line) or (is_c and _C_FUNCTION.match(line))):
            yield line.rstrip().removesuffix("{").rstrip()


def definitions(path: str, text: str) -> list[str]:
    """The names a file defines."""
    lines = outline(path, text).splitlines()
    return [name for line in lines if (name := _name(line))]


def _name(line: str) -> str | None:
    head = re.split(r"[(=:]" if "(" not in line else r"\(", line, maxsplit=1)[0]
    words = re.findall(r"[A-Za-z_]\w*", head)
    return words[-1] if words else None
