"""LiteLLM's exceptions as they may leave the library: same class, same facts, without the request they hold."""

from __future__ import annotations

import contextlib
from typing import Any

from blueprint_llm.redaction import clean_traceback, redact_value

DEEPEST = 4


def without_secrets(error: BaseException, depth: int = 0) -> Any:
    """A new exception of the same class, not chained: texts masked, headers masked, the request's headers dropped.

    Of what LiteLLM hangs on its exceptions, plain values, exceptions and HTTP messages are kept; the rest is None.
    """
    clean = type(error).__new__(type(error))
    clean.args = tuple(_kept(value, depth) for value in error.args)
    for name, value in vars(error).items():
        with contextlib.suppress(AttributeError):  # a read-only property
            setattr(clean, name, _kept(value, depth))
    return clean


def _kept(value: Any, depth: int) -> Any:
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return clean_traceback(value) or value
        case dict() | list() | tuple():
            return redact_value(value)
        case BaseException() if depth < DEEPEST:
            return without_secrets(value, depth + 1)
        case _:
            return _http(value)


def _http(value: Any) -> Any:
    if hasattr(value, "status_code") and hasattr(value, "headers"):
        return _response(value)
    if hasattr(value, "method") and hasattr(value, "url"):
        return _request(value)
    return redact_value(dict(value)) if hasattr(value, "keys") else None


def _response(response: Any) -> Any:
    """An httpx response without its request's headers and its body, which may repeat the request."""
    asked = _request(response._request) if getattr(response, "_request", None) is not None else None  # noqa: SLF001 - `.request` raises where there is none
    headers = redact_value(dict(response.headers))
    headers = {name: text for name, text in headers.items() if name not in {"content-encoding", "content-length"}}
    return type(response)(status_code=response.status_code, headers=headers, request=asked)


def _request(request: Any) -> Any:
    return type(request)(request.method, clean_traceback(str(request.url)))
