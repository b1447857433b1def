"""`Router`: LiteLLM's Router, its constructor and its calls, run by this library's walk.

The arguments become one configuration; a change of the model list or of a setting builds a new one and swaps it, so
that a call in flight keeps the one it began with.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

from blueprint_llm.adapters import router as boundary
from blueprint_llm.compat.batches import Batches
from blueprint_llm.compat.calls import Completions
from blueprint_llm.compat.failures import both
from blueprint_llm.compat.model_list import (
    Entry,
    entries_of,
    entry_of,
    entry_of_target,
    id_of,
    shown_aliases,
    with_id,
    without,
)
from blueprint_llm.compat.passed import OtherFunctions
from blueprint_llm.compat.requests import request_of, sealed
from blueprint_llm.compat.signatures import signature_of
from blueprint_llm.config import load_config
from blueprint_llm.config.known_keys import ROUTER_IGNORED, ROUTER_USED
from blueprint_llm.config.secrets import protect, protect_settings
from blueprint_llm.engine.drivers import AsyncDriver, SyncDriver
from blueprint_llm.engine.explain import plan
from blueprint_llm.engine.parts import Parts
from blueprint_llm.errors import InvalidRequestError
from blueprint_llm.events import Event, emit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from blueprint_llm.config import Config
    from blueprint_llm.types import ChatRequest

# Calls of a Router without a deadline of its own end with this; a longer `timeout` moves it.
_DEADLINE_S = 120.0
KNOWN = ROUTER_USED | ROUTER_IGNORED
# What a call may set for itself in place of the Router's own.
PER_CALL = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks", "max_fallbacks")
# LiteLLM's Router's own keywords of a call, which mean nothing here.
DROPPED = ("specific_deployment", "priority", "disable_fallbacks")


@dataclass(frozen=True, slots=True)
class _State:
    """What one call works with; never changed, only replaced."""

    parts: Parts
    entries: list[Entry]

    @property
    def config(self) -> Config:
        return self.parts.config


class Router(Batches, OtherFunctions):
    """Route calls over the deployments of `model_list`.

    Args:
        model_list: LiteLLM's list of `model_name`, `litellm_params` and `model_info`.
        blueprint: This library's own settings: the `blueprint:` block of a configuration file.
        arguments: Those of `litellm.Router`; what has no meaning here is reported once.

    Raises:
        ConfigError: An argument is wrong; every problem is listed.
    """

    __signature__ = signature_of(["model_list", *sorted(KNOWN), "blueprint"], required=0)

    def __init__(
        self,
        model_list: Iterable[Any] | None = None,
        *,
        blueprint: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> None:
        if unknown := arguments.keys() - KNOWN:
            raise TypeError(f"Router() got an unexpected keyword argument {min(unknown)!r}")
        self._changing = threading.Lock()
        self._blueprint = protect_settings(blueprint or {})
        given = {name: value for name, value in arguments.items() if value not in (None, [], {}, "")}
        self._settings = protect_settings(given)
        self._defaults = dict(self._settings.pop("default_litellm_params", None) or {})
        config = self._configured(entry_of(each) for each in model_list or ())
        self._state = _State(Parts.build(config), entries_of(config))
        for notice in config.notices:
            emit(Event(name="router.noticed", facts={"notice": notice}, level="warning"))

    def _configured(self, entries: Iterable[Entry]) -> Config:
        own = {"router_settings": self._settings, "blueprint": self._block()}
        return load_config({"model_list": list(entries), "litellm_settings": boundary.router_globals(), **own})

    def _block(self) -> dict[str, Any]:
        """Our block, with what LiteLLM's arguments mean in it."""
        timeout_s, block = self._settings.get("timeout"), dict(self._blueprint)
        if isinstance(timeout_s, int | float) and timeout_s > _DEADLINE_S:
            block.setdefault("deadline", {"total_s": timeout_s})
        if self._settings.get("cache_responses"):
            block.setdefault("cache", {"enabled": True})
        return block

    # Calls

    def completion(self, model: str, messages: list[Any], **keywords: Any) -> Any:
        """A `ModelResponse`, or with `stream=True` an iterator of chunks. Raises LiteLLM's exceptions."""
        parts, request = self._asked(model, sealed(keywords), messages=messages)
        return Completions(parts, first_error=True).answer(request)

    async def acompletion(self, model: str, messages: list[Any], **keywords: Any) -> Any:
        """A `ModelResponse`, or with `stream=True` an async iterator of chunks. Raises LiteLLM's exceptions."""
        parts, request = self._asked(model, sealed(keywords), messages=messages)
        return await Completions(parts, first_error=True).aanswer(request)

    @property
    def chat(self) -> Any:
        """OpenAI's way to write it: `router.chat.completions.create(model=..., messages=...)`."""
        return SimpleNamespace(completions=SimpleNamespace(create=self.completion))

    def _asked(self, model: str, keywords: dict[str, Any], **more: Any) -> tuple[Parts, ChatRequest]:
        """The parts and the request of one call. Raises BadRequestError for a model that is in no group."""
        parts = _with_own(self._state.parts, model, keywords)
        given = {name: value for name, value in keywords.items() if name not in DROPPED}
        request = request_of({**self._defaults, **given, **more, "model": _group(parts, model)})
        return parts, request.model_copy(update={"fallback": not keywords.get("disable_fallbacks")})

    # The model list

    @property
    def model_list(self) -> list[Entry]:
        """Every deployment, with its id."""
        return self._shown(self._state.entries)

    def get_model_list(self, model_name: str | None = None, team_id: str | None = None) -> list[Entry]:  # noqa: ARG002 - LiteLLM's; teams are its proxy's
        """The deployments of a group, an alias or a wildcard; without a name all, those of shown aliases first."""
        table, state = self._state.parts.table, self._state
        if model_name is not None:
            found = () if self.has_model_id(model_name) else table.of_group(model_name)
            return self._shown(entry_of_target(model_name, target) for target in found)
        aliases = [
            entry_of_target(alias, target)
            for alias, group in shown_aliases(state.config)
            for target in table.of_group(group)
        ]
        return self._shown([*aliases, *state.entries])

    @staticmethod
    def _shown(entries: Iterable[Entry]) -> list[Entry]:
        return [boundary.opened(entry) for entry in entries]

    def get_model_names(self, team_id: str | None = None) -> list[str]:  # noqa: ARG002 - as above
        """The name of every deployment, those of shown aliases first."""
        return [entry["model_name"] for entry in self.get_model_list()]

    def get_model_ids(self, model_name: str | None = None) -> list[str]:
        """The ids of all deployments, or of those of a group."""
        entries = self._state.entries if model_name is None else self.get_model_list(model_name)
        return [entry["model_info"]["id"] for entry in entries]

    def has_model_id(self, candidate_id: str) -> bool:
        """Whether there is a deployment with this id."""
        return candidate_id in self.get_model_ids()

    def get_deployment(self, model_id: str) -> Any:
        """The deployment with this id as LiteLLM's `Deployment`; None: there is none."""
        found = with_id(self._state.entries, model_id)
        return None if found is None else boundary.deployment(found)

    def get_model_info(self, id: str) -> Entry | None:  # noqa: A002 - LiteLLM's name
        """The deployment with this id as an entry; None: there is none."""
        return with_id(self.model_list, id)

    def get_deployment_by_model_group_name(self, model_group_name: str) -> Any:
        """The first deployment of a group as LiteLLM's `Deployment`; None: there is none."""
        found = self.get_model_list(model_group_name)
        return boundary.deployment(found[0]) if found else None

    def get_available_deployment(
        self, model: str, messages: Any = None, *, request_kwargs: dict[str, Any] | None = None, **_: Any
    ) -> Entry:
        """The deployment that a call to `model` would ask first. Raises BadRequestError for an unknown model."""
        parts, request = self._asked(model, sealed({**(request_kwargs or {})}), messages=messages or [])
        route = SyncDriver(parts.store).run(plan(parts, request))
        return boundary.opened(entry_of_target(model, route.targets[0]))

    async def async_get_available_deployment(
        self, model: str, messages: Any = None, *, request_kwargs: dict[str, Any] | None = None, **_: Any
    ) -> Entry:
        """The deployment that a call to `model` would ask first. Raises BadRequestError for an unknown model."""
        parts, request = self._asked(model, sealed({**(request_kwargs or {})}), messages=messages or [])
        route = await AsyncDriver(parts.store).run(plan(parts, request))
        return boundary.opened(entry_of_target(model, route.targets[0]))

    @property
    def model_names(self) -> set[str]:
        """The groups."""
        return set(self._state.config.model_groups)

    # Changes

    def set_model_list(self, model_list: Iterable[Any]) -> None:
        """Replace every deployment. Raises ConfigError; then nothing has changed."""
        with self._changing:
            self._swap(entry_of(each) for each in model_list)

    def add_deployment(self, deployment: Any) -> Any:
        """Add a deployment; the result is it, or None where its id is taken. Raises ConfigError."""
        added = entry_of(deployment)
        with self._changing:
            if with_id(self._state.entries, id_of(added)):
                return None
            self._swap([*self._state.entries, added])
        return deployment

    def upsert_deployment(self, deployment: Any) -> Any:
        """Add a deployment, or replace the one with its id; None: it was there already. Raises ConfigError."""
        given = entry_of(deployment)
        with self._changing:
            if with_id(self._state.entries, id_of(given)) == protect("", given):
                return None
            self._swap([*without(self._state.entries, id_of(given)), given])
        return deployment

    def delete_deployment(self, id: str) -> Entry | None:  # noqa: A002 - LiteLLM's name
        """Remove the deployment with this id; the result is its entry, or None where there was none."""
        with self._changing:
            found = with_id(self._state.entries, id)
            if found is not None:
                self._swap(without(self._state.entries, id))
        return None if found is None else boundary.opened(found)

    def update_settings(self, **settings: Any) -> None:
        """Change settings of the Router for calls begun later. Raises ConfigError; then nothing has changed."""
        with self._changing:
            before, self._settings = self._settings, {**self._settings, **protect_settings(settings)}
            try:
                self._swap(self._state.entries)
            except BaseException:
                self._settings = before
                raise

    def _swap(self, entries: Iterable[Entry]) -> None:
        config = self._configured(entries)
        self._state = _State(self._state.parts.reloaded(config), entries_of(config))

    def get_settings(self) -> dict[str, Any]:
        """The settings of the Router."""
        return {name: getattr(self, name) for name in sorted(ROUTER_USED)}

    def __getattr__(self, name: str) -> Any:
        """A setting of the Router, as LiteLLM names it."""
        if name == "default_litellm_params":
            return boundary.opened(self._defaults)
        if name in ROUTER_USED:
            config: Any = self._state.config
            return boundary.opened({name: getattr(config, name, config.router_settings.get(name))})[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ROUTER_USED:
            self.update_settings(**{name: value})
        elif name == "model_list":
            self.set_model_list(value)
        else:
            super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"Router({', '.join(self._state.config.model_groups)})"

    # The end

    def close(self) -> None:
        """Release the store and the cache."""
        self._state.parts.close()

    discard = reset = close

    async def aclose(self) -> None:
        """Release the store and the cache."""
        await self._state.parts.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _with_own(parts: Parts, model: str, keywords: dict[str, Any]) -> Parts:
    """The parts, with the fallbacks that a call brings along; they are taken out of `keywords`."""
    own = {name: keywords.pop(name) for name in PER_CALL if keywords.get(name) is not None}
    if not own:
        return parts
    if isinstance(own.get("fallbacks"), list):
        own["fallbacks"] = _standard(own["fallbacks"], parts.table.group(model) or "")
    return replace(parts, config=parts.config.model_copy(update=own))


def _standard(fallbacks: list[Any], group: str) -> list[Any]:
    """Fallbacks in the configuration's form, where a call names only those of its own group."""
    plain = [entry for entry in fallbacks if isinstance(entry, str) or "model" in entry]
    return [{group: plain}] if plain else fallbacks


def _model(entry: Entry) -> Any:
    return entry["litellm_params"]["model"]


def _group(parts: Parts, model: str) -> str:
    """`model`, or the first default fallback where it is in no group. Raises BadRequestError."""
    if parts.table.is_group(model):
        return model
    if same := [each["model_info"]["id"] for each in entries_of(parts.config) if _model(each) == model]:
        return str(same[0])
    if parts.config.default_fallbacks:
        return parts.config.default_fallbacks[0]
    known = ", ".join(parts.table.names) or "none"
    raise both(InvalidRequestError(f"no deployment of model_list has the model_name {model!r}; known: {known}"))
