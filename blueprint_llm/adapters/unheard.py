"""Calls that nobody listens to: LiteLLM then need not count their cost, nor keep a record of them for callbacks.

Both is work for who reads it: a program's callbacks, LiteLLM's own budget, its cache. Where there is none, the cost
that matters is the one that our ledger has counted, and it stands where LiteLLM would have put its own.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import inspect
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextvars import ContextVar

    from blueprint_llm.adapters.contract import Call

EVENTS = ("input", "success", "failure")
CALLBACKS = ("callbacks", *(f"{event}_callback" for event in EVENTS), *(f"_async_{event}_callback" for event in EVENTS))
_SETUP_TAKES = {"original_function", "rules_obj", "start_time", "is_async_call"}


def has_listeners(litellm: Any) -> bool:
    """Whether the program wants whole answers from LiteLLM. A call to Gemini registers "cache" without a cache."""
    listeners = [each for name in CALLBACKS for each in getattr(litellm, name, None) or ()]
    return litellm.cache is not None or any(each != "cache" for each in listeners)


def is_unheard(litellm: Any, call: Call) -> bool:
    """Whether nobody will read what LiteLLM could tell of a call beside its answer."""
    return not (has_listeners(litellm) or litellm.max_budget or call.params.keys() & set(CALLBACKS))


@contextlib.contextmanager
def marked(litellm: Any) -> Iterator[None]:
    """Make the calls within LiteLLM's internal ones: it makes no record of those.

    That record (a second count of the cost, a payload for callbacks) is 8 % of what a call through LiteLLM costs.
    """
    switch = internal_switch(litellm)
    token = None if switch is None else switch.set(True)
    try:
        yield
    finally:
        if switch is not None and token is not None:
            switch.reset(token)


@functools.cache
def internal_switch(litellm: Any) -> ContextVar[bool] | None:
    """What LiteLLM marks its internal calls with; None: this LiteLLM has no such mark."""
    found: ContextVar[bool] | None = getattr(getattr(litellm, "_internal_context", None), "is_internal_call", None)
    return found


def uncounted(litellm: Any, function: str, keywords: dict[str, Any]) -> Mapping[str, Any]:
    """The keywords of `function` with a log of LiteLLM's that counts no cost: 9 % of what a call through it costs.

    Never bind the result to a name: it holds the key.
    """
    setup = _setup(litellm)
    if setup is None:
        return keywords
    keywords["litellm_call_id"] = keywords.get("litellm_call_id") or str(uuid.uuid4())
    log, keywords = setup(
        function,
        litellm.utils.Rules(),
        dt.datetime.now(),  # noqa: DTZ005 - as LiteLLM's own, which it is subtracted from
        is_async_call=function.startswith("a"),
        **keywords,
    )
    log.response_cost_calculator = _no_cost
    return {**keywords, "litellm_logging_obj": log}


@functools.cache
def _setup(litellm: Any) -> Callable[..., tuple[Any, dict[str, Any]]] | None:
    """What LiteLLM makes a call's log with; None: this LiteLLM does it in another way."""
    found = getattr(litellm.utils, "function_setup", None)
    return found if found is not None and inspect.signature(found).parameters.keys() >= _SETUP_TAKES else None


def _no_cost(*_: Any, **__: Any) -> None:
    """Ours is set on the answer when it is paid for."""
