"""Finds, reads and checks a configuration: `load_config` is the one way from a file to a `Config`.

All mistakes are collected first and reported together.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from blueprint_llm.config.deployments import model_groups
from blueprint_llm.config.includes import join_includes
from blueprint_llm.config.known_keys import PROXY_ONLY, TOP_LEVEL
from blueprint_llm.config.masking import masked, masked_text, shown
from blueprint_llm.config.model import Blueprint, Config
from blueprint_llm.config.paths import folder
from blueprint_llm.config.problems import Finding, Place, Rejected, Report, dotted, nearest
from blueprint_llm.config.problems import Path as KeyPath
from blueprint_llm.config.references import Names, check_block, doubt_deployments, doubt_router
from blueprint_llm.config.router_settings import Settings
from blueprint_llm.config.tree import Tree, compose, from_mapping, from_node
from blueprint_llm.config.wording import report_errors
from blueprint_llm.errors import ConfigError
from blueprint_llm.redaction import register_url
from blueprint_llm.secret import revealed

FILE_NAME = "blueprint.yaml"
TEMPLATE = Path(__file__).with_name(FILE_NAME)  # what `init` writes is also what runs without any file

_TRUSTED_ONLY = ("tools", "credentials")
_OURS = frozenset({"providers", "chains", "routes", "budgets", "quotas"})  # ignoring these would cost money


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a configuration is read from; `trusted` is False for a file merely found in the current folder."""

    path: Path
    trusted: bool = True
    name: str = ""


def load_config(source: str | os.PathLike[str] | Mapping[str, Any] | Config | None = None) -> Config:
    """Load a configuration from a path or a mapping; None looks for one in the usual places.

    These are `$BLUEPRINT_CONFIG`, `./blueprint.yaml`, `$XDG_CONFIG_HOME/blueprint/blueprint.yaml`, else the embedded
    default: a cloud model where there is a key for it, then the embedded one.

    Raises:
        ConfigError: The configuration is wrong; the message lists every problem with its place.
    """
    try:
        return source if isinstance(source, Config) else _load(source)
    except Rejected as rejected:
        lines = [str(finding) for finding in rejected.findings]
    del source  # it may hold keys, and tracebacks show locals
    raise ConfigError("\n".join(lines), problems=lines)


def place_of(config: Config, path: KeyPath) -> str:
    """Where a key stands: the file with line and column, and its path; of a mapping, its path."""
    source = Path(config.source or "")
    place = _read(Origin(path=source)).place(path) if source.is_file() else Place()
    return str(Finding(place, dotted(path), ""))


def _load(source: str | os.PathLike[str] | Mapping[str, Any] | None) -> Config:
    if isinstance(source, Mapping):
        return _config(from_mapping(source))
    origin = _discover() if source is None else Origin(path=Path(source))
    return _config(_read(origin), origin)


def _discover() -> Origin:
    if named := os.environ.get("BLUEPRINT_CONFIG"):
        return Origin(path=Path(named))
    here, user = Path(FILE_NAME), folder("config") / FILE_NAME
    if here.is_file():
        return Origin(path=here, trusted=False)
    return Origin(path=user) if user.is_file() else Origin(path=TEMPLATE, name="(built in)")


def _read(origin: Origin) -> Tree:
    name = origin.name or str(origin.path)
    try:
        node = compose(origin.path.read_bytes(), name)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = "no such file: write one with `blueprint-llm init`" if isinstance(error, FileNotFoundError) else ""
        raise Rejected.at(Place(name), reason or getattr(error, "strerror", None) or "no file name") from None
    if not isinstance(node, yaml.MappingNode):
        found = [] if isinstance(node, yaml.SequenceNode) else getattr(node, "value", None)
        what = "it is empty" if node is None else f"not {shown(found)}"
        raise Rejected.at(Place(name, 1, 1), f"must be a mapping of settings: {what}")
    mistakes = join_includes(node, origin.path)
    tree = from_node(node)
    tree.mistakes += mistakes
    return tree


def _config(tree: Tree, origin: Origin | None = None) -> Config:
    raw, report = tree.value, Report(tree)
    block = _block(raw, origin, report)
    blueprint = _blueprint(block, report)
    settings = Settings(raw, report)
    fields = settings.fields()
    fields["model_groups"] = model_groups(raw.get("model_list"), report)
    fields["credential_list"] = _credential_list(raw, report)
    _check_names(raw, block, settings, fields, report)
    _note_unused(raw, settings, report)
    notices = report.settle(strict=block.get("strict") is True)
    config = Config(**dict(blueprint), **fields, **settings.sections)
    source = (origin.name or str(origin.path)) if origin else None
    plain = config.model_dump(exclude={"notices", "source", "digest"}, exclude_defaults=True)
    register_url(revealed(config.store.url))
    return config.model_copy(update={"notices": notices, "source": source, "digest": _digest(plain)}).protected()


def _block(raw: Mapping[str, Any], origin: Origin | None, report: Report) -> dict[str, Any]:
    value = raw.get("blueprint")
    if value is not None and not isinstance(value, dict):
        report.problem(("blueprint",), f"must be a mapping, not {shown(value)}")
    block = dict(value) if isinstance(value, dict) else {}
    if origin and not origin.trusted and (refused := [key for key in _TRUSTED_ONLY if block.pop(key, None)]):
        report.ignored.append(
            f"{origin.path}: ignored {' and '.join(refused)}: a file found in the current folder may not set them; "
            "name it with --config or BLUEPRINT_CONFIG if you trust it"
        )
    return block


def _blueprint(block: dict[str, Any], report: Report) -> Blueprint:
    """The block as records; the defaults where it has mistakes, which `report` then holds."""
    try:
        return Blueprint.model_validate(block, strict=True)
    except ValidationError as error:
        report_errors(error, Blueprint, ("blueprint",), report)
        return Blueprint()


def _credential_list(raw: Mapping[str, Any], report: Report) -> list[dict[str, Any]]:
    value = raw.get("credential_list") or []
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        return value
    report.problem(("credential_list",), "must be a list of mappings with credential_name and credential_values")
    return []


def _check_names(
    raw: Mapping[str, Any], block: Mapping[str, Any], settings: Settings, fields: Mapping[str, Any], report: Report
) -> None:
    names = Names(raw, block, fields.get("model_group_alias", {}))
    check_block(block, names, report)
    doubt_router(fields, settings.places(), names, report)
    doubt_deployments(raw, names, report)


def _note_unused(raw: Mapping[str, Any], settings: Settings, report: Report) -> None:
    unused = [key for key in raw if key in PROXY_ONLY] + settings.report_keys()
    if unused:
        report.ignored.append(f"ignored, only LiteLLM's proxy or module uses it: {', '.join(map(masked_text, unused))}")
    for key in {key for key in raw if not key.startswith("x-")} - TOP_LEVEL - PROXY_ONLY:  # x-: room for anchors
        if key in _OURS or nearest(key, ["blueprint"], cutoff=0.75):
            text = f"did you mean {shown(f'blueprint.{key}' if key in _OURS else 'blueprint')}?"
            report.problem((key,), f"unknown key {shown(key)}, {text}", key=True)
        else:
            near = nearest(key, TOP_LEVEL | PROXY_ONLY, cutoff=0.75)
            text = f", did you mean {shown(near)}?" if near else "; ignored"
            report.doubt((key,), f"unknown key {shown(key)}{text}", key=True)


def _digest(plain: Mapping[str, Any]) -> str:
    text = json.dumps(masked(plain), sort_keys=True, default=lambda value: type(value).__name__)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
