"""LiteLLM's exceptions as they may leave the library: a CallError, or the same class and facts without the request."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Any

from blueprint_llm import redaction
from blueprint_llm.errors import CallError, Failure, StreamBrokenError
from blueprint_llm.policy import classify, retry_after_s
from blueprint_llm.redaction import clean_traceback, redact_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from blueprint_llm.adapters.contract import Call

LONGEST_TEXT = 500
# What httpx, aiohttp and the system raise when a connection ends in mid-answer.
_LOST = frozenset(
    {
        *("ReadError", "ReadTimeout", "RemoteProtocolError", "NetworkError", "ConnectionError", "ConnectionResetError"),
        *("ClientPayloadError", "ClientConnectionError", "ServerDisconnectedError", "IncompleteRead", "TimeoutError"),
    }
)
# What they raise when there is no connection at all: the status is LiteLLM's invention then.
_UNREACHED = frozenset({"ConnectError", "ConnectTimeout", "ClientConnectorError", "ConnectionRefusedError"})
DEEPEST = 4


def call_error(error: BaseException, call: Call, *, in_stream: bool = False, begun: bool = False) -> CallError:
    """A CallError with the facts of `error` and nothing else of it.

    Args:
        error: What LiteLLM raised.
        call: What was asked.
        in_stream: It came while a stream was read. Some providers' requests are only sent then.
        begun: The stream had brought something: trouble of the transport is a break.
    """
    if call.as_written:
        _register_own_keys()
    failure = failure_of(error)
    found = classify(failure)
    category = found.category.name
    if in_stream and (found.code == "not_json" or (begun and category in {"unavailable", "unknown"})):
        category = "stream_broken"
    kind = StreamBrokenError if category == "stream_broken" else CallError
    result = kind(
        f"{call.provider} ({call.model}): {_text(failure)}",
        category=category,
        provider=call.provider,
        model=call.model,
        status=failure.status,
        retry_after_s=retry_after_s(failure.headers, now=time.time()),
        code=found.code or (_break_of(failure) if category == "stream_broken" else next(iter(failure.classes), None)),
    )
    if call.as_written:
        result.litellm_error = without_secrets(error)
    return result


def _register_own_keys() -> None:
    """Hide the keys that the program has given to LiteLLM itself (`litellm.api_key`), and that it used for a call."""
    for name, value in list(vars(sys.modules["litellm"]).items()):
        if name.endswith("_key") and isinstance(value, str):
            redaction.register(value)


def _break_of(failure: Failure) -> str:
    """How a stream broke: its connection did, or the server put an error where a chunk should be."""
    return "error_object" if _LOST.isdisjoint({*failure.classes, *failure.causes}) else "connection_lost"


def failure_of(error: BaseException) -> Failure:
    """The facts of a LiteLLM exception; an error wrapped in mid-stream is unwrapped."""
    original = getattr(error, "original_exception", None)
    if isinstance(original, BaseException):
        error = original
    return Failure(
        classes=tuple(kind.__name__ for kind in type(error).__mro__),
        status=_status(error),
        message=_words(error),
        causes=tuple(_causes(error)),
        headers=_headers(error),
    )


def _words(error: BaseException) -> str:
    """What the provider said; its error code, which no message has (`insufficient_quota`), in lines of their own."""
    body = getattr(error, "body", None)
    codes = [str(body[name]) for name in ("code", "type") if body.get(name)] if isinstance(body, dict) else []
    return "\n".join([str(getattr(error, "message", None) or error), *codes])


def _status(error: BaseException) -> int | None:
    for source in (error, getattr(error, "response", None)):
        text = str(getattr(source, "status_code", ""))
        if text.isdigit():
            return int(text)
    return None


def _causes(error: BaseException, limit: int = 8) -> Iterator[str]:
    inner = error.__cause__ or error.__context__
    while inner is not None and limit:
        yield type(inner).__name__
        inner, limit = inner.__cause__ or inner.__context__, limit - 1


def _headers(error: BaseException) -> Mapping[str, str]:
    response = getattr(error, "response", None)
    sources = (getattr(response, "headers", None), getattr(error, "litellm_response_headers", None))
    return {str(name).lower(): str(value) for headers in sources if headers for name, value in dict(headers).items()}


def _text(failure: Failure) -> str:
    first = redaction.clean_exception_text(failure.message).strip().splitlines() or [""]
    status = f"HTTP {failure.status}: " if failure.status and _UNREACHED.isdisjoint(failure.causes) else ""
    return status + first[0][:LONGEST_TEXT]


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
