"""Find, read and check a configuration: `load_config` is the one way from a file to a `Config`.

All mistakes are collected first and reported together; what is left when they are taken out is still a configuration,
so that `check` can go on looking.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from blueprint_llm.config import trust
from blueprint_llm.config.blocks import Blueprint, ProviderConfig
from blueprint_llm.config.document import Document, Part, Rejected
from blueprint_llm.config.environment import references
from blueprint_llm.config.model import Config
from blueprint_llm.config.paths import file_in
from blueprint_llm.config.problems import Path as KeyPath
from blueprint_llm.config.problems import mapping, mistakes
from blueprint_llm.config.secrets import masked, protect, protect_settings, shown
from blueprint_llm.config.sections import Known, check_names, doubt_unknown, entries_of, note_unused, sections_of
from blueprint_llm.errors import ConfigError
from blueprint_llm.redaction import carries_more, register_url
from blueprint_llm.secret import Secret, revealed

FILE_NAME, BUILT_IN = "blueprint.yaml", "(built in)"
TEMPLATE = Path(__file__).with_name(FILE_NAME)  # what `init` writes is also what runs without any file

_MOST_MENDS = 8
_GONE = object()

Source = str | os.PathLike[str] | Mapping[str, Any] | Config | None
OnUntrusted = Callable[[str], None]
LiteLLMNames = Callable[[], Known]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was found in a configuration: problems and notices are sentences with their places."""

    config: Config | None  # less its mistakes; None: nothing can be read of it
    problems: list[str]
    notices: list[str]
    document: Document
    entries: tuple[int, ...] = ()  # the places in the file's `model_list` of those that `config` has
    references: tuple[str, ...] = ()  # what its targets take from the environment, also those that `config` has not

    def place_of(self, path: KeyPath) -> str:
        """Say where a key stands: the file with line and column, and its path; of a mapping, its path."""
        return str(self.document.at(path))

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
        document, name = _found(source, on_untrusted)
    except Rejected as rejected:
        return Inspection(config=None, problems=[str(rejected.finding)], notices=[], document=Document())
    root = document.root
    is_strict = root["blueprint"]["strict"].value is True
    targets = (root["model_list"], root["blueprint"]["providers"], root["credential_list"])
    taken = tuple(references([each.value for each in targets]))
    blueprint, entries, sections = _blueprint(root["blueprint"]), entries_of(root), sections_of(root)
    check_names(root)
    note_unused(root)
    if litellm is not None and (is_strict or not only_if_strict) and _is_for_litellm(root):
        doubt_unknown(root, litellm())
    problems, notices = document.settle(strict=is_strict)
    config = Config(**dict(blueprint), model_list=list(entries.values()), **sections)
    plain = masked(config.model_dump(exclude={"notices", "source", "digest"}, exclude_defaults=True))
    text = json.dumps(plain, sort_keys=True, default=lambda value: type(value).__name__)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return Inspection(
        config=config.model_copy(update={**_hidden(config), "notices": notices, "source": name, "digest": digest}),
        problems=problems,
        notices=notices,
        document=document,
        entries=tuple(entries),
        references=taken,
    )


def _hidden(config: Config) -> dict[str, Any]:
    """Return the parts of LiteLLM's, and the store's address, with their keys made Secrets."""
    hidden: dict[str, Any] = {
        "model_list": protect("", config.model_list),
        "credential_list": protect("", config.credential_list),
        "router_settings": protect_settings(config.router_settings),
        "litellm_settings": protect_settings(config.litellm_settings),
    }
    if carries_more(url := revealed(config.store.url)):  # a password in the address makes a key of it
        register_url(url)
        hidden["store"] = config.store.model_copy(update={"url": Secret(url)})
    return hidden


def abilities_of(path: Path) -> list[trust.Ability]:
    """Return what the configuration in a file may do, whoever trusts it. Raises ConfigError for what is no YAML."""
    try:
        document = Document.of_file(path)
    except Rejected as rejected:
        problem = str(rejected.finding)
    else:
        return trust.abilities(document.value, document.included)
    raise ConfigError(problem, problems=[problem])


def _found(source: Any, on_untrusted: OnUntrusted | None) -> tuple[Document, str | None]:
    """Return what is to be loaded, and the name of its file."""
    if isinstance(source, Mapping):
        return Document.of_mapping(source), None
    named = source if source is not None else os.environ.get("BLUEPRINT_CONFIG")
    if named and not isinstance(named, (str, os.PathLike)):
        raise ConfigError(f"a configuration is a path or a mapping, not {type(named).__name__}")
    if named:
        return Document.of_file(Path(named)), str(Path(named))
    here, user = Path(FILE_NAME), file_in("config", FILE_NAME)
    try:
        user = user if user and user.is_file() else None
    except OSError:  # a home that cannot be used has none
        user = None
    if here.is_file() and not (user and here.resolve() == user.resolve()):
        try:
            # What it includes is not even opened without trust.
            document = Document.of_file(here, permit=lambda name: trust.require(here, [trust.includes(name)]))
            trust.require(here, trust.abilities(document.value, document.included))
        except trust.Untrusted as untrusted:
            told = str(untrusted)
        else:
            return document, str(here)
        if on_untrusted is None:
            raise ConfigError(f"{told}: run `blueprint-llm trust`, or name the file with --config or BLUEPRINT_CONFIG")
        on_untrusted(f"{told}; it is ignored until you run `blueprint-llm trust`")
    path, name = (user, str(user)) if user else (TEMPLATE, BUILT_IN)
    return Document.of_file(path, name), name


def _is_for_litellm(root: Part) -> bool:
    """Return True if a file has keys that only LiteLLM knows."""
    providers = (mapping(each.value) for each in root["blueprint"]["providers"].named())
    has_more = any(each.keys() - ProviderConfig.model_fields for each in providers)
    return has_more or any(root.value.get(name) for name in ("model_list", "router_settings", "litellm_settings"))


def _blueprint(block: Part) -> Blueprint:
    """Return the block as records, less its mistakes, which its document then holds."""
    if not isinstance(block.value, dict | None):
        block.problem(f"must be a mapping, not {shown(block.value)}")
    rest = mapping(block.value)
    for attempt in range(_MOST_MENDS):
        try:
            return Blueprint.model_validate(rest, strict=True)
        except ValidationError as error:
            if not attempt:
                for path, text, is_key in mistakes(error, Blueprint, block.path):
                    block.document.problems.append(block.document.at(path, text, key=is_key))
            rest = _without(rest, {detail["loc"] for detail in error.errors(include_url=False)})
    return Blueprint()


def _without(value: Any, paths: set[KeyPath]) -> Any:
    """Return a value without what stands at `paths`; _GONE where one leads to it, or to something that it lacks."""
    pairs = dict(value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ()))
    if not all(path and path[0] in pairs for path in paths):
        return _GONE
    inner = {step: {path[1:] for path in paths if path[0] == step} for step in pairs}
    left = {step: _without(item, inner[step]) if inner[step] else item for step, item in pairs.items()}
    kept = {step: item for step, item in left.items() if item is not _GONE}
    return kept if isinstance(value, dict) else list(kept.values())
