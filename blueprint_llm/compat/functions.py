"""`completion` and `acompletion` for a whole program: one configuration, found on the first call."""

from __future__ import annotations

import atexit
import functools
import threading
from typing import Any

from blueprint_llm.compat.calls import Completions
from blueprint_llm.compat.requests import requests_of
from blueprint_llm.compat.signatures import ACOMPLETION, COMPLETION, signature_of
from blueprint_llm.engine.parts import Parts

_BUILDING = threading.Lock()


def completion(model: str, *more: Any, **keywords: Any) -> Any:
    """LiteLLM's `completion` with the policies of the configuration that is found. Raises LiteLLM's exceptions."""
    keywords |= zip(COMPLETION, (model, *more), strict=False)
    del more
    requests = requests_of(keywords)
    return shared().answer(*requests)


async def acompletion(model: str, *more: Any, **keywords: Any) -> Any:
    """LiteLLM's `acompletion` with the policies of the configuration that is found. Raises LiteLLM's exceptions."""
    keywords |= zip(ACOMPLETION, (model, *more), strict=False)
    del more
    requests = requests_of(keywords)
    return await shared().aanswer(*requests)


completion.__signature__ = signature_of(COMPLETION)  # type: ignore[attr-defined] # what inspect looks for
acompletion.__signature__ = signature_of(ACOMPLETION)  # type: ignore[attr-defined] # likewise


def shared() -> Completions:
    """The one that the functions share. Raises ConfigError."""
    with _BUILDING:  # a cache alone lets threads that come at the same time all build
        return _built()


@functools.cache
def _built() -> Completions:
    found = Completions(Parts.build(None))
    atexit.register(found.close)
    return found


def forget() -> None:
    """Let go of the shared configuration; the next call finds it anew."""
    with _BUILDING:
        if _built.cache_info().currsize:
            _built().close()
            atexit.unregister(_built().close)
            _built.cache_clear()
