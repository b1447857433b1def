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
from blueprint_llm.config.blocks import ProviderConfig
from blueprint_llm.config.environment import located
from blueprint_llm.config.includes import join_includes
from blueprint_llm.config.model import Blueprint, Config
from blueprint_llm.config.paths import folder
from blueprint_llm.config.problems import Finding, Place, Rejected, Report, dotted, nearest
from blueprint_llm.config.problems import Path as KeyPath
from blueprint_llm.config.references import Names, check_block, doubt_deployments, doubt_router
from blueprint_llm.config.secrets import masked, masked_text, shown
from blueprint_llm.config.sections import (
    PROXY_ONLY,
    PROXY_SETTINGS,
    TOP_LEVEL,
    Known,
    doubt_unknown,
    entries_of,
    sections_of,
)
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
LiteLLMNames = Callable[[], Known]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was found in a configuration.

    Attributes:
        config: The configuration less its mistakes; None: nothing can be read of it.
        problems, notices: Each a sentence with its place.
        place_of: Say where a key stands: the file with line and column, and its path; of a mapping, its path.
        entries: The places in the file's `model_list` of those that `config` has.
    """

    config: Config | None
    problems: list[str]
    notices: list[str]
    place_of: Callable[[KeyPath], str]
    entries: tuple[int, ...] = ()

    def told(self, path: KeyPath, text: str) -> str:
        """Return a sentence about a key of `config` with its place in the file, whose `model_list` may be longer."""
        place = ("model_list", self.entries[int(path[1])], *path[2:]) if path[:1] == ("model_list",) else path
        return f"{self.place_of(place)}: {text}" if place else text


def load_config(
    source: Source = None, *, on_untrusted: OnUntrusted | None = None, litellm: LiteLLMNames | None = None
) -> Config:
    """Load a configuration from a path or a mapping; None looks for one in the usual places.

    These are `$BLUEPRINT_CONFIG`, `./blueprint.yaml`, `$XDG_CONFIG_HOME/blueprint/blueprint.yaml`, else the embedded
    default: a cloud model where there is a key for it, then the embedded one.

    Args:
        source: Where from.
        on_untrusted: Told of a file in the current folder that the user has not trusted; the search then goes on.
        litellm: Returns the names that LiteLLM takes, once it is loaded: a `strict` configuration has no others.

    Raises:
        ConfigError: The configuration is wrong; the message lists every problem with its place. Or a file in the
            current folder is not trusted, and there is no `on_untrusted`.
    """
    if isinstance(source, Config):
        return source
    found = inspect_config(source, on_untrusted=on_untrusted, litellm=litellm, only_if_strict=True)
    del source  # it may hold keys, and tracebacks show locals
    if found.config is None or found.problems:
        raise ConfigError("\n".join(found.problems), problems=found.problems)
    return found.config


def inspect_config(
    source: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    on_untrusted: OnUntrusted | None = None,
    litellm: LiteLLMNames | None = None,
    only_if_strict: bool = False,
) -> Inspection:
    """Load as `load_config` does, and return what is wrong beside what is right.

    The names that `litellm` returns are asked for where the configuration has sections of LiteLLM's or targets.

    Raises:
        ConfigError: A file in the current folder is not trusted, and there is no `on_untrusted`.
    """
    try:
        tree, name = _tree_of(source, on_untrusted)
    except Rejected as rejected:
        return Inspection(config=None, problems=list(map(str, rejected.findings)), notices=[], place_of=dotted)
    return _inspected(tree, name, litellm, only_if_strict=only_if_strict)


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


def _inspected(tree: Tree, source: str | None, litellm: LiteLLMNames | None, *, only_if_strict: bool) -> Inspection:
    raw, report = _with_places(tree), Report(tree)
    block = _block(raw, report)
    is_strict = block.get("strict") is True
    blueprint, listed, sections = _blueprint(block, report), entries_of(raw, report), sections_of(raw, report)
    names = Names(raw, block)
    check_block(block, names, report)
    doubt_router(raw, names, report)
    doubt_deployments(raw, names, report)
    _note_unused(raw, sections["litellm_settings"], report)
    if litellm is not None and (is_strict or not only_if_strict) and _is_for_litellm(raw, block):
        doubt_unknown(raw, block, litellm(), report)
    problems, notices = report.settle(strict=is_strict)
    config = Config(**dict(blueprint), model_list=list(listed.values()), **sections)
    plain = config.model_dump(exclude={"notices", "source", "digest"}, exclude_defaults=True)
    register_url(revealed(config.store.url))
    made = config.model_copy(update={"notices": notices, "source": source, "digest": _digest(plain)}).protected()
    return Inspection(config=made, problems=problems, notices=notices, place_of=_places(tree), entries=tuple(listed))


def _is_for_litellm(raw: Mapping[str, Any], block: Mapping[str, Any]) -> bool:
    """Return True if a file has keys that only LiteLLM knows."""
    providers = block.get("providers")
    own = providers.values() if isinstance(providers, dict) else ()
    has_more = any(isinstance(each, dict) and each.keys() - ProviderConfig.model_fields for each in own)
    return has_more or any(raw.get(name) for name in ("model_list", "router_settings", "litellm_settings"))


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


def _note_unused(raw: Mapping[str, Any], module: Mapping[str, Any], report: Report) -> None:
    unused = [key for key in raw if key in PROXY_ONLY]
    unused += [f"litellm_settings.{key}" for key in module if key in PROXY_SETTINGS]
    if unused:
        report.ignored.append(f"ignored, only LiteLLM's proxy uses it: {', '.join(map(masked_text, unused))}")
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
