"""What commands share: their options, what these complete to, and the configuration and client that they name."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

import blueprint_llm  # its names load on first use
from blueprint_llm.cli.output import AS_JSON, say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Command = TypeVar("Command", bound="Callable[..., Any]")

_CONFIG = "blueprint_llm.config"  # in click's `meta`, which a command and its groups share
FILE = click.Path(path_type=Path, dir_okay=False)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def note_json(ctx: click.Context, _option: click.Parameter, value: Any) -> Any:
    """Remember that JSON was asked for, for whoever prints an answer or a failure; an option's `callback`."""
    ctx.meta[AS_JSON] = value is True or value == "json"
    return value


def _note_config(ctx: click.Context, _option: click.Parameter, value: str | None) -> None:
    ctx.meta[_CONFIG] = value or ctx.meta.get(_CONFIG)


def config_file(ctx: click.Context | None = None) -> str | None:
    """Return the configuration file that the command line names."""
    found: str | None = (ctx or click.get_current_context()).meta.get(_CONFIG)
    return found


def seconds(_ctx: click.Context, _option: click.Parameter, value: str | None) -> float:
    """An age like 12h in seconds, for an option's `callback`; nothing is 0."""
    found = re.fullmatch(r"(\d+)([smhd]?)", value or "0")
    if found is None:
        raise click.BadParameter("write 90s, 15m, 12h or 7d")
    return int(found[1]) * _UNITS[found[2] or "s"]


def provider_names(config: blueprint_llm.Config) -> list[str]:
    """What `--provider` may be."""
    return list(config.providers or config.model_groups)


def model_names(config: blueprint_llm.Config) -> list[str]:
    """What the configuration calls models: its groups and the models of its providers."""
    return sorted({*config.model_groups, *(each.model for each in config.providers.values())})


def _completes_to(names: Callable[[blueprint_llm.Config], list[str]]) -> Callable[..., list[str]]:
    """Complete to `names` of the configuration that the half-typed command would use; to nothing while it is broken."""

    def complete(ctx: click.Context, _param: click.Parameter, typed: str) -> list[str]:
        try:
            config = blueprint_llm.load_config(config_file(ctx), on_untrusted=lambda _: None)
        except blueprint_llm.ConfigError:
            return []
        return [name for name in names(config) if name.startswith(typed)]

    return complete


def common_options(function: Command) -> Command:
    """`--json`, for failures too, and `--config` of a command that reads a configuration; without it, discovery."""
    return json_option(config_option(function))


def common_options_unread(function: Command) -> Command:
    """The same of a command that reads no configuration, so that scripts may give them to every command."""
    return json_option(unread_config_option(function))


complete_provider = _completes_to(provider_names)
_path = click.Path(dir_okay=False)
config_option = click.option(
    "--config", type=_path, callback=_note_config, expose_value=False, help="Configuration file."
)
unread_config_option = click.option(
    "--config", expose_value=False, metavar="FILE", help="Accepted everywhere; not read here."
)
json_option = click.option("--json", is_flag=True, callback=note_json, expose_value=False, help="Print JSON.")
model_option = click.option(
    *("-m", "--model"), shell_complete=_completes_to(model_names), help="A model_list group or a LiteLLM model id."
)
provider_option = click.option(
    *("-p", "--provider"), shell_complete=complete_provider, help="A provider of the configuration: asked first."
)
online_option = click.option("--online", is_flag=True, help="Also make one cheap call per provider.")


def load() -> blueprint_llm.Config:
    """Return the configuration to use; an untrusted one in this folder is passed over, in one line."""
    return blueprint_llm.load_config(config_file(), on_untrusted=say)


def open_client(config: blueprint_llm.Config | None = None, **keywords: Any) -> blueprint_llm.SyncLLMClient:
    """A blocking client of a configuration; its embedded models are freed at exit. Raises ConfigError."""
    from blueprint_llm.adapters import litellm

    litellm.quiet()
    return blueprint_llm.SyncLLMClient.from_config(config or load(), **keywords)


def on_terminal() -> bool:
    """Whether a person can type."""
    return sys.stdin.isatty()


def text_of(words: Sequence[str]) -> str:
    """The words of a command line, after what was piped in."""
    piped = "" if on_terminal() else sys.stdin.buffer.read().decode(errors="replace").strip()
    return "\n\n".join(filter(None, (piped, " ".join(words))))
