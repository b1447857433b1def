"""LiteLLM's exceptions as they may leave the library: a CallError, or the same class and facts without the request."""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from blueprint_llm import redaction
from blueprint_llm.config.environment import is_address
from blueprint_llm.errors import CallError, Failure, StreamBrokenError
from blueprint_llm.policy.classification import classify, unquoted, wait_s, words_in
from blueprint_llm.redaction import clean_traceback, redact_value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blueprint_llm.adapters.contract import Call

LONGEST_TEXT = 500
# What httpx, aiohttp and the system raise when a connection ends in mid-answer.
_LOST = {
    *("ReadError", "ReadTimeout", "RemoteProtocolError", "NetworkError", "ConnectionError", "ConnectionResetError"),
    *("ClientPayloadError", "ClientConnectionError", "ServerDisconnectedError", "IncompleteRead", "TimeoutError"),
}
# What they raise when there is no connection at all: the status is LiteLLM's invention then.
_UNREACHED = {
    *("ConnectError", "ConnectTimeout", "ClientConnectorError", "ClientConnectorDNSError", "ConnectionRefusedError"),
    *("InvalidURL", "UnsupportedProtocol", "NonHttpUrlClientError"),
    *("gaierror", "ClientConnectorCertificateError", "ClientConnectorSSLError", "SSLCertVerificationError"),
}
_NETWORK = _LOST | _UNREACHED | {"APIConnectionError"}
_WORDLESS = re.compile(r"Error code: \d+$")
REDIRECTS = frozenset({301, 302, 303, 307, 308})
DEEPEST = 4
# After a stream has begun these mean that it broke: the request had been accepted.
_BREAKS = frozenset({"invalid_request", "not_found", "unavailable", "unknown"})
_UNREADABLE = frozenset({"not_json", "unreadable_answer"})
_KEY_TROUBLE = frozenset({"api_key_not_valid", "missing_credentials"})
_SPENT = frozenset({"usage_limit", "credit_balance", "insufficient_quota", "quota_exhausted", "billing_not_active"})
_SOURCES = {
    "explicit": "the call itself",
    "config": "the configuration ({id})",
    "env": "the environment variable {id}",
    "keychain": "the keychain ({id})",
    "command": "the configured command ({id})",
    "file": "the credentials file ({id})",
}


def call_error(error: BaseException, call: Call, *, in_stream: bool = False, begun: bool = False) -> CallError:
    """Return a CallError with the facts of `error` and nothing else of it.

    Args:
        error: What LiteLLM raised.
        call: What was asked.
        in_stream: It came while a stream was read. Some providers' requests are only sent then.
        begun: The stream had brought something: the request was accepted, so the trouble is the stream's.
    """
    failure = failure_of(error)
    found = classify(failure)
    category = found.category
    if (in_stream and found.code in _UNREADABLE) or (begun and category in _BREAKS):
        category = "stream_broken"
    code = found.code or (_break_of(failure) if category == "stream_broken" else next(iter(failure.classes), None))
    # Of an error that is no object LiteLLM's message has only the status, for OpenAI-like providers.
    told = f"{failure.message} - {failure.body}" if _WORDLESS.search(failure.message) else failure.message
    words = _first_line(told, call)
    is_key_trouble = category == "refused" and (failure.status in {401, 403} or found.code in _KEY_TROUBLE)
    advice = _key_advice(call) if is_key_trouble else _advice(category, found.code, failure)
    kind = StreamBrokenError if category == "stream_broken" else CallError
    return kind(
        f"{call.provider} ({call.model}): {_text(failure, call, words)}{advice}",
        category=category,
        provider=call.provider,
        model=call.model,
        status=failure.status,
        retry_after_s=wait_s(failure, now=time.time()),
        code=code,
        elsewhere=found.elsewhere and category != "stream_broken",
        key=call.credential.reference if call.credential else None,
        address=_address_of(failure, call) if _has_no_answer(failure) else None,
        said=_first_line(words_in(failure.message), call) or None,
    )


def _advice(category: str, code: str | None, failure: Failure) -> str:
    """Return the one step that mends what can be mended, "" where there is none: 429 has two opposite ones."""
    if code in _SPENT:
        return " (the account has no quota or credit left, waiting does not help: top it up, or chain another provider)"
    if category == "rate_limited":
        return " (too many requests for now: wait, send fewer, or chain another provider)"
    if category == "not_found" and code != "no_deployment" and failure.status not in REDIRECTS:  # these say it all
        return " (check the model's name and the address: `blueprint-llm models` lists those of the configuration)"
    if not _UNREACHED.isdisjoint(failure.causes):
        return " (check the address, the network and the proxy variables)"
    return ""


def _key_advice(call: Call) -> str:
    """Return which key was refused, where it came from, and what to do about it."""
    credential = call.credential
    name = (credential.provider if credential else "") or call.provider
    store = f"run `blueprint-llm keys set {name}`"
    if credential is None or credential.source == "none" or credential.api_key is None:
        return f" (no key of ours was sent: {store}, or check the one that LiteLLM found itself)"
    where = _SOURCES[credential.source].format(id=credential.id or name)
    return f" (the key came from {where}: replace it there, or {store})"


def _break_of(failure: Failure) -> str:
    """Return how a stream broke: its connection did, it just ended, or the server put an error in a chunk's place."""
    if "before a finish_reason" in failure.message:  # LiteLLM's own words for a stream that just ended
        return "missing_finish"
    return "error_object" if _LOST.isdisjoint({*failure.classes, *failure.causes}) else "connection_lost"


def failure_of(error: BaseException) -> Failure:
    """Return the facts of a LiteLLM exception; an error wrapped in mid-stream is unwrapped."""
    original = getattr(error, "original_exception", None)
    error = original if isinstance(original, BaseException) else error
    chain = [error, *_causes(error)]
    redirect = next((each for each in chain if _status(each) in REDIRECTS), None)  # LiteLLM has them as 500
    body, response = getattr(error, "body", None), getattr(error, "response", None)
    told = body if isinstance(body, dict) else {}
    kept = (getattr(response, "headers", None), getattr(error, "litellm_response_headers", None))
    return Failure(
        classes=tuple(kind.__name__ for kind in type(error).__mro__),
        status=_status(redirect or error),
        message=str(getattr(error, "message", None) or error),
        causes=tuple(type(each).__name__ for each in chain[1:]),
        headers={str(name).lower(): str(value) for each in kept if each for name, value in dict(each).items()},
        codes=tuple(str(told[name]) for name in ("code", "type") if told.get(name)),  # `insufficient_quota`
        body=next(filter(None, map(_body, chain)), ""),
        address=next(filter(None, map(_address, chain)), None),
    )


def _body(error: BaseException) -> str:
    """Return the body of a provider's reply."""
    with contextlib.suppress(Exception):  # a stream's was not read; any object may be there
        return str(error.response.text)  # type: ignore[attr-defined] # looked for
    return ""


def _status(error: BaseException) -> int | None:
    for source in (error, getattr(error, "response", None)):
        text = str(getattr(source, "status_code", ""))
        if text.isdigit():
            return int(text)
    return None


def _causes(error: BaseException, limit: int = 8) -> Iterator[BaseException]:
    inner = error.__cause__ or error.__context__
    while inner is not None and limit:
        yield inner
        inner, limit = inner.__cause__ or inner.__context__, limit - 1


def _address(error: BaseException) -> str | None:
    """Return where a connection went, from httpx's request or aiohttp's host and port."""
    with contextlib.suppress(Exception):  # httpx raises where there was no request; any object may be there
        return _origin(str(error.request.url))  # type: ignore[attr-defined] # looked for
    host, port = getattr(error, "host", None), getattr(error, "port", None)
    return f"{host}:{port}" if isinstance(host, str) and port else None


def _origin(url: str) -> str | None:
    """Return scheme, host and port of a URL: no user, path or query."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}" if host else None


def _address_of(failure: Failure, call: Call) -> str | None:
    """Return where the connection went. LiteLLM's client for OpenAI may have dropped the request that says it."""
    base = (call.credential.base_url if call.credential else None) or call.params.get("api_base")
    if base and not is_address(str(base)):
        return f"{clean_traceback(str(base).rpartition('@')[2])}, which is no address like https://host:443/v1"
    return (_origin(str(base)) if base else None) or failure.address


def _has_no_answer(failure: Failure) -> bool:
    """Return True if the network failed, not the provider."""
    return failure.status not in REDIRECTS and not _NETWORK.isdisjoint({*failure.classes, *failure.causes})


def _first_line(text: str, call: Call) -> str:
    """Return the first line of a text, masked, and without what it repeats of the request."""
    first = (redaction.clean_exception_text(text).strip().splitlines() or [""])[0][:LONGEST_TEXT]
    return unquoted(first, call.messages)


def _text(failure: Failure, call: Call, first: str) -> str:
    if not _UNREACHED.isdisjoint(failure.causes):
        return f"cannot reach {_address_of(failure, call) or 'the provider'}: {first}"
    if _has_no_answer(failure) and (address := _address_of(failure, call)):
        return f"{first} ({address})"
    return f"HTTP {failure.status}: {first}" if failure.status else first


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


def _kept(value: Any, depth: int) -> Any:  # noqa: PLR0911 - a kind of value each
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return clean_traceback(value) or value
        case dict() | list() | tuple():
            return redact_value(value)
        case BaseException() if depth < DEEPEST:
            return without_secrets(value, depth + 1)
        case _ if hasattr(value, "status_code") and hasattr(value, "headers"):
            return _response(value)
        case _ if hasattr(value, "method") and hasattr(value, "url"):
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
