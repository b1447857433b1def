"""Finds, reads and checks a configuration: `load_config` is the one way from a file to a `Config`.

All mistakes are collected first and reported together; what is left when they are taken out is still a configuration,
so that `check` can go on looking.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from blueprint_llm.config import trust
from blueprint_llm.config.deployments import model_groups
from blueprint_llm.config.environment import located
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
from blueprint_llm.errors import ConfigError, StoreError
from blueprint_llm.redaction import register_url
from blueprint_llm.secret import revealed

FILE_NAME = "blueprint.yaml"
TEMPLATE = Path(__file__).with_name(FILE_NAME)  # what `init` writes is also what runs without any file

_OURS = frozenset({"providers", "chains", "routes", "budgets", "quotas"})  # ignoring these would cost money
_MOST_MENDS = 8

Source = str | os.PathLike[str] | Mapping[str, Any] | Config | None
OnUntrusted = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was found in a configuration.

    Attributes:
        config: The configuration less its mistakes; None: nothing can be read of it.
        problems, notices: Each a sentence with its place.
        place_of: Say where a key stands: the file with line and column, and its path; of a mapping, its path.
    """

    config: Config | None
    problems: list[str]
    notices: list[str]
    place_of: Callable[[KeyPath], str]


def load_config(source: Source = None, *, on_untrusted: OnUntrusted | None = None) -> Config:
    """Load a configuration from a path or a mapping; None looks for one in the usual places.

    These are `$BLUEPRINT_CONFIG`, `./blueprint.yaml`, `$XDG_CONFIG_HOME/blueprint/blueprint.yaml`, else the embedded
    default: a cloud model where there is a key for it, then the embedded one.

    Args:
        source: Where from.
        on_untrusted: Told of a file in the current folder that the user has not trusted; the search then goes on.

    Raises:
        ConfigError: The configuration is wrong; the message lists every problem with its place. Or a file in the
            current folder is not trusted, and there is no `on_untrusted`.
    """
    if isinstance(source, Config):
        return source
    found = inspect_config(source, on_untrusted=on_untrusted)
    del source  # it may hold keys, and tracebacks show locals
    if found.config is None or found.problems:
        raise ConfigError("\n".join(found.problems), problems=found.problems)
    return found.config


def inspect_config(
    source: str | os.PathLike[str] | Mapping[str, Any] | None = None, *, on_untrusted: OnUntrusted | None = None
) -> Inspection:
    """Load as `load_config` does, and return what is wrong beside what is right.

    Raises:
        ConfigError: A file in the current folder is not trusted, and there is no `on_untrusted`.
    """
    try:
        tree, name = _tree_of(source, on_untrusted)
    except Rejected as rejected:
        return Inspection(config=None, problems=list(map(str, rejected.findings)), notices=[], place_of=dotted)
    return _inspected(tree, name)


def abilities_of(path: Path) -> list[trust.Ability]:
    """Return what the configuration in a file may do, whoever trusts it. Raises ConfigError for what is no YAML."""
    try:
        tree = _read(path)
    except Rejected as rejected:
        problems = list(map(str, rejected.findings))
    else:
        return trust.abilities(tree.value, tree.included)
    raise ConfigError("\n".join(problems), problems=problems)


def _tree_of(source: Any, on_untrusted: OnUntrusted | None) -> tuple[Tree, str | None]:
    """What is to be loaded, and the name of its file."""
    if isinstance(source, Mapping):
        return from_mapping(source), None
    named = source if source is not None else os.environ.get("BLUEPRINT_CONFIG")
    if named:
        return _read(Path(named)), str(Path(named))
    here, user = Path(FILE_NAME), _user_file()
    if here.is_file() and not (user and here.resolve() == user.resolve()):
        try:
            return _read_found(here), str(here)
        except trust.Untrusted as untrusted:
            told = str(untrusted)
        if on_untrusted is None:
            raise ConfigError(f"{told}: run `blueprint-llm trust`, or name the file with --config or BLUEPRINT_CONFIG")
        on_untrusted(f"{told}; it is ignored until you run `blueprint-llm trust`")
    return (_read(user), str(user)) if user else (_read(TEMPLATE, "(built in)"), "(built in)")


def _user_file() -> Path | None:
    """The user's own file, if it is there; a home that cannot be used has none."""
    try:
        path = folder("config") / FILE_NAME
        return path if path.is_file() else None
    except (OSError, StoreError):
        return None


def _read_found(file: Path) -> Tree:
    """A file that was merely found. Raises Untrusted before anything that it names is opened or used."""
    tree = _read(file, permit=lambda name: trust.require(file, [trust.includes(name)]))
    trust.require(file, trust.abilities(tree.value, tree.included))
    return tree


def _read(path: Path, name: str = "", *, permit: Callable[[str], None] = lambda _: None) -> Tree:
    name = name or str(path)
    try:
        node = compose(path.read_bytes(), name)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = "no such file: write one with `blueprint-llm init`" if isinstance(error, FileNotFoundError) else ""
        raise Rejected.at(Place(name), reason or getattr(error, "strerror", None) or "no file name") from None
    if not isinstance(node, yaml.MappingNode):
        found = [] if isinstance(node, yaml.SequenceNode) else getattr(node, "value", None)
        what = "it is empty" if node is None else f"not {shown(found)}"
        raise Rejected.at(Place(name, 1, 1), f"must be a mapping of settings: {what}")
    mistakes, included = join_includes(node, path, permit)
    tree = from_node(node)
    tree.mistakes += mistakes
    tree.included = included
    return tree


def _inspected(tree: Tree, source: str | None) -> Inspection:
    raw, report = _with_places(tree), Report(tree)
    block = _block(raw, report)
    blueprint = _blueprint(block, report)
    settings = Settings(raw, report)
    fields = settings.fields()
    fields["model_groups"] = model_groups(raw.get("model_list"), report)
    fields["credential_list"] = _credential_list(raw, report)
    _check_names(raw, block, settings, fields, report)
    _note_unused(raw, settings, report)
    problems, notices = report.settle(strict=block.get("strict") is True)
    config = Config(**dict(blueprint), **fields, **settings.sections)
    plain = config.model_dump(exclude={"notices", "source", "digest"}, exclude_defaults=True)
    register_url(revealed(config.store.url))
    made = config.model_copy(update={"notices": notices, "source": source, "digest": _digest(plain)}).protected()
    return Inspection(config=made, problems=problems, notices=notices, place_of=_places(tree))


def _places(tree: Tree) -> Callable[[KeyPath], str]:
    return lambda path: str(Finding(tree.place(path), dotted(path), ""))


def _with_places(tree: Tree) -> dict[str, Any]:
    """The plain values of a tree; what names a variable knows where it stands."""
    raw, place_of = dict(tree.value), _places(tree)
    for section in ("model_list", "credential_list"):
        raw[section] = located(raw.get(section), (section,), place_of)
    block = raw.get("blueprint")
    if isinstance(block, dict) and "providers" in block:
        providers = located(block["providers"], ("blueprint", "providers"), place_of)
        raw["blueprint"] = {**block, "providers": providers}
    return raw


def _block(raw: Mapping[str, Any], report: Report) -> dict[str, Any]:
    value = raw.get("blueprint")
    if value is not None and not isinstance(value, dict):
        report.problem(("blueprint",), f"must be a mapping, not {shown(value)}")
    return dict(value) if isinstance(value, dict) else {}


def _blueprint(block: dict[str, Any], report: Report) -> Blueprint:
    """The block as records, less its mistakes, which `report` then holds."""
    rest: Any = block
    for attempt in range(_MOST_MENDS):
        try:
            return Blueprint.model_validate(rest, strict=True)
        except ValidationError as error:
            if not attempt:
                report_errors(error, Blueprint, ("blueprint",), report)
            rest = _without(rest, {_existing(rest, detail["loc"]) for detail in error.errors(include_url=False)})
    return Blueprint()


def _existing(value: Any, path: Iterable[str | int]) -> KeyPath:
    """As much of a path as leads somewhere: where a key is missing, what should have it."""
    found: list[str | int] = []
    for step in path:
        there = (isinstance(value, dict) and step in value) or (isinstance(value, list) and isinstance(step, int))
        if not there:
            break
        found.append(step)
        value = value[step]
    return tuple(found)


def _without(value: Any, doomed: set[KeyPath], path: KeyPath = ()) -> Any:
    if isinstance(value, dict):
        kept = {step: item for step, item in value.items() if (*path, step) not in doomed}
        return {step: _without(item, doomed, (*path, step)) for step, item in kept.items()}
    if isinstance(value, list):
        places = [step for step in range(len(value)) if (*path, step) not in doomed]
        return [_without(value[step], doomed, (*path, step)) for step in places]
    return value


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
