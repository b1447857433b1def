"""`completion` and `acompletion` for a whole program: one configuration, found on the first call."""

from __future__ import annotations

import functools
import threading
from typing import Any

from blueprint_llm.compat.calls import Completions
from blueprint_llm.compat.requests import request_of, sealed
from blueprint_llm.parts import Parts

_BUILDING = threading.Lock()


def completion(*args: Any, **keywords: Any) -> Any:
    """LiteLLM's `completion` with the policies of the configuration that is found. Raises LiteLLM's exceptions."""
    request = request_of(sealed(keywords))
    return shared().answer(request)


async def acompletion(*args: Any, **keywords: Any) -> Any:
    """LiteLLM's `acompletion` with the policies of the configuration that is found. Raises LiteLLM's exceptions."""
    request = request_of(sealed(keywords))
    return await shared().aanswer(request)


def shared() -> Completions:
    """The one that the functions share. Raises ConfigError."""
    with _BUILDING:  # a cache alone lets threads that come at the same time all build
        return _built()


@functools.cache
def _built() -> Completions:
    return Completions(Parts.build(None))
