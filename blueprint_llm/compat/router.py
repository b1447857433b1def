"""LiteLLM's own Router over a host whose calls are guarded.

The Router's core makes every routing decision and reaches providers only through its host. What the host gives it for
one attempt at one deployment is LiteLLM's function with a guard around it, so every attempt is guarded: of every
endpoint, retries and fallbacks included.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING, Any, Unpack

from blueprint_llm.adapters import litellm as _litellm
from blueprint_llm.adapters.known import litellm_names
from blueprint_llm.compat.guarding import CALLS, Guarding, guard_of, original, shared
from blueprint_llm.config.environment import closed, from_environment, marked
from blueprint_llm.config.problems import Path, mapping, nearest
from blueprint_llm.engine.guarded import PolicyGuard
from blueprint_llm.engine.keywords import NEAR
from blueprint_llm.errors import ConfigError
from blueprint_llm.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blueprint_llm.config.model import Config
    from blueprint_llm.engine.keywords import RouterKeywords
    from blueprint_llm.engine.runtime import Runtime


class _RouterType(type):
    """Instances and attributes of the class are those of LiteLLM's Router."""

    def litellms(cls) -> Any:
        """Return LiteLLM's class."""
        return _litellm.module().Router

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.litellms())

    def __subclasscheck__(cls, subclass: type) -> bool:
        return subclass is cls or issubclass(subclass, cls.litellms())

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.litellms(), name)

    def __setattr__(cls, name: str, value: Any) -> None:
        setattr(cls.litellms(), name, value)

    def __delattr__(cls, name: str) -> None:
        delattr(cls.litellms(), name)

    def __dir__(cls) -> list[str]:
        return dir(cls.litellms())


class Router(metaclass=_RouterType):
    """Make a `litellm.Router` whose every attempt is guarded.

    Args:
        model_list: LiteLLM's deployments.
        *args: LiteLLM's further arguments, as its Router takes them.
        blueprint: Our block of the configuration; None: what `from_config(None)` finds.
        **keywords: LiteLLM's.
    """

    def __new__(
        cls, model_list: Any = None, *args: Any, blueprint: Any = None, **keywords: Unpack[RouterKeywords]
    ) -> Any:
        """Return LiteLLM's Router. Raises what LiteLLM's constructor raises, or ConfigError for our block."""
        router, configs = _litellm.module().router, _litellm.module().router_config
        given = () if model_list is None and not args else (model_list, *args)
        try:
            arguments = router.router_arguments(*given, **keywords)
        except TypeError as error:
            known = litellm_names().router
            meant = (nearest(name, known, cutoff=NEAR) for name in keywords.keys() - known)
            hints = "".join(f", did you mean {name!r}?" for name in meant if name)
            raise TypeError(f"{error}{hints}") from None
        if "model_list" in arguments:
            arguments = {**arguments, "model_list": with_closed(arguments["model_list"])}
        if isinstance(blueprint, dict):
            blueprint = {"model_list": arguments.get("model_list") or [], "blueprint": blueprint}
        host = _host_class()(None if blueprint is None else guard_of(blueprint), arguments)
        return router.Router.from_config(configs.build_router_config(arguments), host)


def router_of(runtime: Runtime) -> Any:
    """Return the guarded Router of a configuration. Raise ConfigError with LiteLLM's words for what it declines.

    It is given no fallbacks: those are walked above it, and for a refused answer it would raise to get to them.
    """
    runtime.settings.apply()
    arguments = router_arguments_of(runtime.config)

    async def made() -> Any:
        return Router(**own, blueprint=PolicyGuard(runtime))

    try:
        own = {name: value for name, value in arguments.items() if not name.endswith("fallbacks")}
        return asyncio.run(made())  # LiteLLM's budgets start a task; what it does over Redis, our ledger does
    except Exception as error:  # noqa: BLE001 - LiteLLM raises what it likes
        told = redact(f"LiteLLM's Router declines this configuration: {error}")
    raise ConfigError(told)


def router_arguments_of(config: Config) -> dict[str, Any]:
    """Return what LiteLLM's Router is made with: its settings as written, behind them what the module's say to it."""
    known = litellm_names().router
    caches = {"cache_responses": True} if config.litellm_settings.get("cache") is True else {}  # as LiteLLM's proxy
    settings = {**config.litellm_settings, **caches, **config.router_settings}
    taken = {name: value for name, value in settings.items() if name in known}
    arguments: dict[str, Any] = _litellm.revealed({**taken, "model_list": config.model_list})
    return arguments


def declined(config: Config) -> Iterator[tuple[Path, str]]:
    """Yield what LiteLLM's Router says against a configuration, each with the key path it is about.

    One is built to find out; where it is declined, each deployment and each setting is tried alone, since LiteLLM tells
    of the first trouble only. Places in `model_list` are those of `config`.
    """
    offline = {name: value for name, value in config.router_settings.items() if not name.startswith("redis_")}
    alone: dict[Path, dict[str, Any]] = {
        **{("model_list", place): {"model_list": [each]} for place, each in enumerate(config.model_list)},
        **{("router_settings", name): {name: value} for name, value in offline.items()},
    }
    with _known(config.own_providers):
        whole = _refusal({**router_arguments_of(config), **_litellm.revealed(offline)})
        if whole is not None:
            found = [(path, words) for path, each in alone.items() if (words := _refusal(_litellm.revealed(each)))]
            yield from found or [((), whole)]


@contextlib.contextmanager
def _known(providers: frozenset[str]) -> Iterator[None]:
    """Have LiteLLM know the providers that a configuration adds to its own, without their handlers, which are code."""
    names: list[str] = _litellm.module().provider_list
    own = providers.difference(names)
    names.extend(own)
    try:
        yield
    finally:
        names[:] = [name for name in names if name not in own]


def _refusal(arguments: dict[str, Any]) -> str | None:
    """Return why LiteLLM's Router cannot be made like this, in its words; None: it can."""
    try:
        _litellm.module().Router(
            **{name: arguments[name] for name in arguments if not name.startswith("redis_")}
        ).retire()
    except Exception as error:  # noqa: BLE001 - LiteLLM raises what it likes
        return redact(str(error))
    return None


def with_closed(entries: Any) -> Any:
    """Return LiteLLM's `model_list` with those deployments closed whose address names a variable that is not set.

    LiteLLM would call the vendor's own host. It passes over a deployment that is `blocked`; where a group has no
    other one, an attempt at it says which variable is missing.
    """
    if not isinstance(entries, list):
        return entries
    reasons = [closed({**_params(entry), "model": from_environment(_params(entry).get("model"))}) for entry in entries]
    if not any(reasons):
        return entries
    pairs = list(zip(entries, reasons, strict=True))
    open_groups = {entry.get("model_name") for entry, reason in pairs if isinstance(entry, dict) and not reason}

    def as_closed(entry: dict[str, Any]) -> dict[str, Any]:
        info = {**(entry.get("model_info") or {}), "blocked": entry.get("model_name") in open_groups}
        return {**entry, "litellm_params": marked(_params(entry)), "model_info": info}

    return [as_closed(entry) if reason else entry for entry, reason in pairs]


def _params(entry: Any) -> dict[str, Any]:
    return mapping(mapping(entry).get("litellm_params"))


@functools.cache
def _host_class() -> Any:
    """Return the class of hosts; LiteLLM's is its base and loads with the first Router."""
    python_host: Any = _litellm.module().router_python_host.PythonHost

    class GuardedHost(python_host):  # type: ignore[misc] # LiteLLM is not followed: too huge
        """What LiteLLM's Router reaches outside itself, its calls to providers guarded."""

        __slots__ = ("_guarding", "_policy_fallbacks")

        def __init__(self, guard: PolicyGuard | None, arguments: Any) -> None:
            most = arguments.get("default_max_parallel_requests")
            self._policy_fallbacks = arguments.get("content_policy_fallbacks")
            self._guarding = Guarding(
                lambda _: guard or shared(),
                masked=False,
                defaults={} if most is None else {"max_parallel_requests": most},
                redirects=self._redirects,
            )

        def _redirects(self, keywords: dict[str, Any]) -> bool:
            """Return True if LiteLLM has other groups for what the group of an attempt refuses."""
            listed = self._policy_fallbacks or _litellm.module().content_policy_fallbacks
            if not listed:
                return False
            groups = {name for row in listed if isinstance(row, dict) for name in row}
            return not groups.isdisjoint({"*", (keywords.get("metadata") or {}).get("model_group")})

        def invoke(self, op: str) -> Any:
            """Return LiteLLM's function for `op`, guarded where it asks a provider."""
            function, name = original(super().invoke(op)), op.rpartition(".")[2]
            return self._guarding.around(name, function) if name in CALLS else function

    return GuardedHost
