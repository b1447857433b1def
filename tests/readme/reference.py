"""The pages of docs/ that are made from the code: configuration, commands, Python names; also llms.txt."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import textwrap
import types
from typing import TYPE_CHECKING, Any, get_overloads, get_type_hints

import click
from pydantic import BaseModel

import blueprint_llm
from blueprint_llm.cli import main as command_line
from blueprint_llm.config.sections import file_schema
from blueprint_llm.engine import keywords

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

MADE = "<!-- made from the code by `nox -s readme` -->\n"
COLUMNS = 100
KEYWORDS = {
    "`chat`, `stream`, `run`, `explain`": keywords.ChatKeywords,
    "`generate`": keywords.GenerateKeywords,
    "`planning_mode`": keywords.PlanKeywords,
    "`LLMClient`, `from_config`": keywords.ClientKeywords,
}


def configuration() -> str:
    """Return the page on the `blueprint:` block, a line for each key, out of its JSON Schema."""
    schema = file_schema()
    block, definitions = schema["properties"]["blueprint"], schema["$defs"]
    lines = [
        f"# Configuration reference\n\n{MADE}",
        "The whole of the block `blueprint:`; `model_list`, `router_settings`, `litellm_settings` and",
        "`credential_list` are LiteLLM's. An empty default means: not set. A key that is not in the table is an error",
        "that says which one was meant. `blueprint-llm schema` prints the JSON Schema for your editor.",
        "",
        "| Key | Values | Default |",
        "|---|---|---|",
    ]
    lines += [f"| {' | '.join(cells)} |" for cells in _rows("", block, definitions)]
    return "\n".join(lines) + "\n"


def _rows(path: str, node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    required = set(node.get("required", ()))
    for name, field in node["properties"].items():
        default = "required" if name in required else _default(field)
        inner, suffix = _section(field, definitions)
        if "properties" not in inner or "gt" in inner["properties"]:
            yield f"`{path}{name}`", _values(field, definitions), default
            continue
        yield f"**`{path}{name}{suffix}`**", _sentence(inner), default
        yield from _rows(f"{path}{name}{suffix}.", inner, definitions)


def _section(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Return the section that a field holds, and what stands for the name or the place of one of several."""
    if "$ref" in field:
        return definitions[field["$ref"].rpartition("/")[2]], ""
    if isinstance(field.get("additionalProperties"), dict):
        return _section(field["additionalProperties"], definitions)[0], ".NAME"
    if "items" in field:
        return _section(field["items"], definitions)[0], "[]"
    found = [_section(each, definitions) for each in field.get("anyOf", ())]
    return next((each for each in found if "properties" in each[0]), ({}, ""))


def _sentence(section: Mapping[str, Any]) -> str:
    """Return what a section's own words say of it, without its list of attributes."""
    words = section.get("description", "").partition("\n\nAttributes:")[0]
    return " ".join(words.split()).replace("|", "\\|")


def _values(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "enum" in field or "const" in field:
        return ", ".join(f"`{each}`" for each in field.get("enum", [field.get("const")]))
    if "anyOf" in field:
        kinds = [_values(each, definitions) for each in field["anyOf"] if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "$ref" in field:
        named = definitions[field["$ref"].rpartition("/")[2]]
        shown = ", ".join(f"`{name}`" for name in named.get("properties", ()))
        return shown or _values(named, definitions)
    if field.get("type") == "array":
        return f"list of {_values(field['items'], definitions)}"
    if field.get("type") == "object":
        inner = field.get("additionalProperties")
        return f"{_values(inner, definitions)}, by name" if isinstance(inner, dict) else "a mapping"
    return field.get("description", "").replace("<", "&lt;") or _KINDS[field["type"]] + _bounds(field)


_KINDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true`, `false`"}


def _bounds(field: Mapping[str, Any]) -> str:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to"}
    return "".join(f" {word} {field[name]:g}" for name, word in words.items() if name in field)


def _default(field: Mapping[str, Any]) -> str:
    default = field.get("default")
    return "" if default is None or isinstance(default, dict) else f"`{json.dumps(default)}`"


def commands() -> str:
    """Return the page on the command line: the help of every command, subcommands included."""
    parts = [f"# Command-line reference\n\n{MADE}\nWhat `--help` says of every command."]
    parts += [f"{'#' * (1 + len(path))} {' '.join(path)}\n\n```text\n{text}\n```" for path, text in _helps()]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _helps(command: click.Command = command_line, parent: click.Context | None = None) -> Iterator[tuple[Any, str]]:
    name = command.name if parent else "blueprint-llm"
    settings = {**command.context_settings, "terminal_width": COLUMNS, "max_content_width": COLUMNS}
    context = click.Context(command, parent=parent, info_name=name, **settings)
    path = context.command_path.split()
    command._help_option = None  # click keeps the first one, which a command that was invoked alone has made
    yield path, command.get_help(context)
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            child = command.get_command(context, each)
            if child is not None:
                yield from _helps(child, context)


def names() -> str:
    """Return the page on the public Python names: signature, docstring, fields and methods."""
    parts = [f"# Python reference\n\n{MADE}\nEverything here is importable from `blueprint_llm`."]
    parts += [_named(name, getattr(blueprint_llm, name)) for name in blueprint_llm.__all__]
    parts.append("## Keywords\n\nBeside LiteLLM's own, which are passed on.\n\n" + "\n".join(_keywords()))
    testing = importlib.import_module("blueprint_llm.testing")
    parts.append("## blueprint_llm.testing\n\n" + _paragraphs(inspect.getdoc(testing) or ""))
    parts += [_named(name, getattr(testing, name), level=3) for name in testing.__all__]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _keywords() -> Iterator[str]:
    for words, kind in KEYWORDS.items():
        shown = (
            f"`{name}: {getattr(hint, '__forward_arg__', hint)}`"
            for name, hint in kind.__annotations__.items()
            if name not in {*keywords.CompletionKeywords.__annotations__, "stream"}
        )
        yield f"- {words}: {', '.join(shown)}"


def _named(name: str, value: Any, level: int = 2) -> str:
    """Return the section on one name."""
    head, doc = f"{'#' * level} {name}\n\n", _paragraphs(inspect.getdoc(value) or "")
    if inspect.ismodule(value):
        return head + "LiteLLM itself, with its calling functions and its Router guarded."
    if isinstance(value, type) and issubclass(value, BaseException):
        base = next(each for each in value.__mro__[1:] if not each.__name__.startswith("_"))
        return f"{head}Base: `{base.__name__}`.\n\n{doc}"
    if isinstance(value, type) and issubclass(value, BaseModel):
        return f"{head}{_paragraphs(value.__doc__ or '')}\n\n{_fields(value)}"
    if isinstance(value, dict):
        return f"{head}The table of failures, by category: {', '.join(f'`{each}`' for each in value)}."
    if isinstance(value, types.UnionType):
        return f"{head}One of {', '.join(f'`{each.__name__}`' for each in value.__args__)}."
    methods = [*_methods(value)] if isinstance(value, type) else []
    return "\n\n".join([f"{head}```text\n{_signature(name, value)}\n```", doc, "\n".join(methods)])


def _fields(model: type[BaseModel]) -> str:
    rows = ["| field | type | default |", "|---|---|---|"]
    plain = types.SimpleNamespace(__annotations__={name: each.annotation for name, each in model.model_fields.items()})
    kinds = get_type_hints(plain)  # validators, which stand in annotations, are left out
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
        kind = _kind(kinds[name]).replace("|", "\\|")
        rows.append(f"| `{name}` | `{kind}` | {default} |")
    return "\n".join(rows)


def _kind(annotation: Any) -> str:
    text = inspect.formatannotation(annotation)
    return re.sub(r"\b(?:typing|datetime|pathlib|blueprint_llm(?:\.\w+)*)\.(?=[A-Za-z])", "", text).replace(
        "NoneType", "None"
    )


def _shown(value: Any) -> str:
    """Return a default if it is a constant or empty: anything else is this machine's or long."""
    return f"`{value!r}`" if value is None or value in ((), [], {}) or isinstance(value, (str, int, float)) else ""


def _methods(value: type) -> Iterator[str]:
    for name, found in inspect.getmembers_static(value):
        if name.startswith("_") or (
            type(found).__module__ == "builtins" and not (callable(found) or hasattr(found, "fget"))
        ):
            continue
        plain = found.__func__ if isinstance(found, (classmethod, staticmethod)) else found
        first = " ".join((inspect.getdoc(plain) or "").split("\n\n")[0].split())
        shown = name if not inspect.isfunction(plain) else _signature(name, plain)
        yield f"- `{shown}`: {first}"


def _signature(name: str, value: Any) -> str:
    found = get_overloads(value) if inspect.isfunction(value) else []
    target = found[0] if found else value
    try:
        shown = inspect.signature(target)
    except (TypeError, ValueError):
        return name
    plain = [_plain(each) for each in shown.parameters.values()]
    text = f"{name}{shown.replace(parameters=plain, return_annotation=_text(shown.return_annotation))}"
    text = re.sub(r"\(self, /, |\(self, |\(cls, ", "(", text).replace("(self)", "()").replace("(cls)", "()")
    return f"{'async ' * inspect.iscoroutinefunction(value)}{text}"


def _plain(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return the parameter as its author wrote it; a default that is no constant would show this machine's state."""
    default = parameter.default
    is_constant = default is parameter.empty or default is None or isinstance(default, (str, int, float))
    return parameter.replace(default=default if is_constant else _Text("..."), annotation=_text(parameter.annotation))


def _text(annotation: Any) -> Any:
    return _Text(annotation) if isinstance(annotation, str) else annotation


class _Text(str):
    """A text whose repr has no quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _paragraphs(doc: str) -> str:
    """Return a docstring as Markdown: its lists of arguments and attributes stay as they are laid out."""
    doc = inspect.cleandoc(doc)
    blocks = [block for block in doc.split("\n\n") if block.strip()]
    shown = [
        f"```text\n{block}\n```" if re.match(r"(Args|Attributes|Returns|Raises):", block) else block for block in blocks
    ]
    return "\n\n".join(shown)


def llms(folder: Path, summary: str) -> str:
    """Return llms.txt: what the library is, and each page with what its first paragraph says."""
    lines = ["# blueprint_llm", "", f"> {summary}", "", "## Pages", ""]
    for file in sorted(folder.glob("*.md")):
        title, _, text = file.read_text("utf-8").partition("\n")
        first = " ".join(text.replace(MADE, "").strip().split("\n\n")[0].split())
        shown = textwrap.shorten(first, 200, placeholder=" ...")
        lines.append(f"- [{title.removeprefix('# ')}]({file.name}): {shown}")
    return "\n".join(lines) + "\n"
