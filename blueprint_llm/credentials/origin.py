"""What the configuration says about a provider's key before any source is asked.

A name may be a key of `providers`, a `model_list` group or a LiteLLM provider; an origin is where the three meet.
A target that declares its own key (`api_key`, `credentials`) is never given another one's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blueprint_llm.config.environment import WHERE, references, with_listed
from blueprint_llm.config.providers import litellm_provider, names_of
from blueprint_llm.config.secrets import protect
from blueprint_llm.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping

    from blueprint_llm.config.blocks import ProviderConfig
    from blueprint_llm.config.model import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where the keys of a target may come from.

    Attributes:
        provider: The name that was asked for.
        litellm: LiteLLM's provider.
        names: Names under which sources know it, most specific first.
        params: The target's own LiteLLM parameters: literal keys are Secrets, `os.environ/NAME` stands as written.
        variables: Environment variables of the provider's key, by LiteLLM's conventions.
        borrows: The environment says where it is.
    """

    provider: str
    litellm: str
    names: tuple[str, ...]
    params: Mapping[str, Any]
    variables: tuple[str, ...]
    borrows: bool

    @property
    def has_key(self) -> bool:
        """Whether the configuration holds the key itself: then no source need be asked whether there is one."""
        return isinstance(self.params.get("api_key"), Secret)


def origin_of(config: Config, provider: str, model: str | None, params: Mapping[str, Any] | None) -> Origin:
    """The origin of `provider`; `model` and `params` are those of the deployment, if the caller has chosen one."""
    entry = config.providers.get(provider)
    home, own = _home(config, provider, entry)
    found = with_listed(config.credential_list, own if params is None else params, entry.credentials if entry else None)
    litellm = litellm_provider(model or home, found) if model or _is_configured(config, provider) else provider
    names, is_pinned = _names(provider, litellm, entry, found)
    if entry and litellm != litellm_provider(home, found):  # another provider's model in this one's place
        names = (litellm,)
    variables = () if is_pinned else names_of(litellm).keys
    found["model"] = home if model in {None, home} else model  # the configuration's own knows where it stands
    return Origin(
        provider=provider,
        litellm=litellm,
        names=names,
        params=protect("", found),
        variables=variables,
        borrows=any(True for name in WHERE for _ in references(found.get(name))),
    )


def _is_configured(config: Config, provider: str) -> bool:
    return provider in config.providers or provider in config.model_groups


def _home(config: Config, provider: str, entry: ProviderConfig | None) -> tuple[str, dict[str, Any]]:
    """The model and the parameters that the configuration gives a name."""
    group = config.model_groups.get(entry.model if entry else provider)
    params = dict(group[0].params) if group else {}
    model = group[0].model if group else entry.model if entry else provider
    if entry:
        named = {"api_key": entry.api_key, "api_base": entry.api_base}
        params |= {key: value for key, value in named.items() if value} | (entry.model_extra or {})
    return model, params


def _names(
    provider: str, litellm: str, entry: ProviderConfig | None, params: Mapping[str, Any]
) -> tuple[tuple[str, ...], bool]:
    """The names to look under, and whether the target has declared its own key."""
    if params.get("api_key"):
        return (provider,), True
    if entry and entry.credentials:
        return (entry.credentials,), True
    return tuple(dict.fromkeys((provider, litellm))), False
