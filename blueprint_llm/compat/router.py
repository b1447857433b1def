"""LiteLLM's own Router over a host whose calls are guarded.

The Router's core makes every routing decision and reaches providers only through its host. What the host gives it for
one attempt at one deployment is LiteLLM's function with a guard around it, so every attempt is guarded: of every
endpoint, retries and fallbacks included.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Unpack

from blueprint_llm.adapters import litellm as _litellm
from blueprint_llm.compat.guarding import CALLS, guarded, original
from blueprint_llm.compat.guards import guard_of, shared
from blueprint_llm.config.environment import with_listed
from blueprint_llm.config.problems import nearest
from blueprint_llm.engine.guarded import PolicyGuard
from blueprint_llm.engine.keywords import NEAR, ROUTER
from blueprint_llm.errors import ConfigError
from blueprint_llm.redaction import redact

if TYPE_CHECKING:
    from blueprint_llm.config.model import Config, Deployment
    from blueprint_llm.engine.guard import Guard
    from blueprint_llm.engine.keywords import RouterKeywords
    from blueprint_llm.engine.runtime import Runtime


# Of `litellm_settings`, what LiteLLM also takes with a single call.
ALWAYS = ("drop_params",)


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
        listed = () if model_list is None and not args else (model_list, *args)
        try:
            arguments = router.router_arguments(*listed, **keywords)
        except TypeError as error:
            meant = (nearest(name, ROUTER, cutoff=NEAR) for name in keywords.keys() - ROUTER)
            hints = "".join(f", did you mean {name!r}?" for name in meant if name)
            raise TypeError(f"{error}{hints}") from None
        guard = None if blueprint is None else _guard(blueprint, arguments)
        most = arguments.get("default_max_parallel_requests")
        host = _host_class()(guard, {} if most is None else {"max_parallel_requests": most})
        return router.Router.from_config(configs.build_router_config(arguments), host)


def router_of(runtime: Runtime) -> Any:
    """Return the guarded Router of a configuration. Raise ConfigError with LiteLLM's words for what it declines."""
    try:
        return Router(**router_arguments_of(runtime.config), blueprint=PolicyGuard(runtime))
    except Exception as error:  # noqa: BLE001 - LiteLLM raises what it likes
        told = redact(f"LiteLLM's Router declines this configuration: {error}")
    raise ConfigError(told)


def declined(config: Config) -> str | None:
    """Return why LiteLLM's Router declines a configuration, in its words, or None; one is built to find out."""
    if not config.model_groups:
        return None
    arguments = {**_litellm.revealed(config.router_settings), **router_arguments_of(config)}
    offline = {name: value for name, value in arguments.items() if not name.startswith("redis_")}
    try:
        _litellm.module().Router(**offline).retire()
    except Exception as error:  # noqa: BLE001 - LiteLLM raises what it likes
        return redact(str(error))
    return None


def router_arguments_of(config: Config) -> dict[str, Any]:
    """Return what LiteLLM's Router is made with: `router_settings`, behind them what `litellm_settings` says to it."""
    known = inspect.signature(_litellm.module().Router).parameters
    behind = {name: value for name, value in config.litellm_settings.items() if name in known}
    always = {name: config.litellm_settings[name] for name in ALWAYS if name in config.litellm_settings}
    settings = {**behind, **{name: value for name, value in config.router_settings.items() if name in known}}
    if always:
        settings["default_litellm_params"] = {**always, **(settings.get("default_litellm_params") or {})}
    listed = [_entry(deployment, config) for found in config.model_groups.values() for deployment in found]
    arguments: dict[str, Any] = _litellm.revealed({**settings, "model_list": listed})
    return arguments


def _entry(deployment: Deployment, config: Config) -> dict[str, Any]:
    """Return LiteLLM's entry; a credential that `credential_list` names is put in, LiteLLM's own list is global."""
    info = {**deployment.info, **({"id": deployment.id} if deployment.id else {})}
    params = {**with_listed(config.credential_list, deployment.params), "model": deployment.model}
    return {"model_name": deployment.group, "litellm_params": params, "model_info": info}


def _guard(blueprint: Any, arguments: Any) -> Guard:
    is_block = isinstance(blueprint, dict)
    listed = {"model_list": arguments.get("model_list") or []}
    return guard_of({**listed, "blueprint": blueprint} if is_block else blueprint)


@functools.cache
def _host_class() -> Any:
    """Return the class of hosts; LiteLLM's is its base and loads with the first Router."""
    python_host: Any = _litellm.module().router_python_host.PythonHost

    class GuardedHost(python_host):  # type: ignore[misc] # LiteLLM is not followed: too huge
        """What LiteLLM's Router reaches outside itself, its calls to providers guarded."""

        __slots__ = ("_defaults", "_guard", "_made")

        def __init__(self, guard: Guard | None, defaults: dict[str, Any]) -> None:
            self._guard, self._defaults = guard, defaults
            self._made: dict[str, Any] = {}

        def _chosen(self, keywords: dict[str, Any]) -> Guard:  # noqa: ARG002 - every attempt has the same guard
            return shared() if self._guard is None else self._guard

        def invoke(self, op: str) -> Any:
            """Return LiteLLM's function for `op`, guarded where it asks a provider."""
            function, name = original(super().invoke(op)), op.rpartition(".")[2]
            if name not in CALLS:
                return function
            made = self._made.get(op)
            if made is None or original(made) is not function:
                made = self._made[op] = guarded(name, function, self._chosen, masked=False, defaults=self._defaults)
            return made

    return GuardedHost
