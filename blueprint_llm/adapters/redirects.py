"""Keep a call's redirects at the host that was asked: what it carries is for that one alone.

httpx takes `Authorization` out of a request that goes on to another host, but not `x-api-key`, `api-key` or whatever
header a gateway wants, and never the messages. LiteLLM's clients and OpenAI's are httpx's, so its two public `send`
methods are where every provider can be stopped. Whoever else uses httpx in this process is left alone.
"""

from __future__ import annotations

import functools
from contextvars import ContextVar
from typing import Any

_PORTS = {"http": 80, "https": 443}


class at_one_host:  # noqa: N801 - read as what it does: `with at_one_host():`
    """A call of ours: follow no redirect to another host in this context; an answer of its status says so.

    What LiteLLM's callbacks send inherits the context and may come later: then it is no call of ours any more.

    Args:
        is_guarded: What LiteLLM calls in it belongs to a call that is guarded already.
    """

    def __init__(self, *, is_guarded: bool = False) -> None:
        self.is_guarded, self.is_open = is_guarded or in_guarded_call(), True

    def __enter__(self) -> None:
        self._token = _CALL.set(self)

    def __exit__(self, *_: object) -> None:
        self.is_open = False
        _CALL.reset(self._token)


_CALL: ContextVar[at_one_host | None] = ContextVar("blueprint_at_one_host", default=None)


def _is_ours() -> bool:
    call = _CALL.get()
    return call is not None and call.is_open


def in_guarded_call() -> bool:
    """Return True for what LiteLLM does inside of a guarded call, until that call has ended."""
    call = _CALL.get()
    return call is not None and call.is_open and call.is_guarded


def watch(httpx: Any) -> None:
    """Have httpx's clients look at where a redirect leads, within `at_one_host`."""
    send, send_async = httpx.Client.send, httpx.AsyncClient.send

    @functools.wraps(send)
    def sent(self: Any, request: Any, **options: Any) -> Any:
        if not _is_ours():
            return send(self, request, **options)
        most, options = _most(self, options), {**options, "follow_redirects": False}
        answer = send(self, request, **options)
        while most and answer.next_request is not None:
            answer.close()
            if not _is_same_host(answer):
                return _refusal(answer)
            answer, most = send(self, answer.next_request, **options), most - 1
        return answer

    @functools.wraps(send_async)
    async def sent_async(self: Any, request: Any, **options: Any) -> Any:
        if not _is_ours():
            return await send_async(self, request, **options)
        most, options = _most(self, options), {**options, "follow_redirects": False}
        answer = await send_async(self, request, **options)
        while most and answer.next_request is not None:
            await answer.aclose()
            if not _is_same_host(answer):
                return _refusal(answer)
            answer, most = await send_async(self, answer.next_request, **options), most - 1
        return answer

    httpx.Client.send, httpx.AsyncClient.send = sent, sent_async


def _most(client: Any, options: dict[str, Any]) -> int:
    """Return how many redirects the caller would follow."""
    told = options.get("follow_redirects")
    return int(client.max_redirects) if (told if isinstance(told, bool) else client.follow_redirects) else 0


def _is_same_host(answer: Any) -> bool:
    """Return True if a redirect stays where it is, or only goes on from http to https."""
    old, new = answer.request.url, answer.next_request.url
    places = (old.scheme, _port(old)), (new.scheme, _port(new))
    return old.host == new.host and (places[0] == places[1] or places == (("http", 80), ("https", 443)))


def _port(url: Any) -> int | None:
    return url.port or _PORTS.get(url.scheme)


def _refusal(answer: Any) -> Any:
    """Return an answer with the redirect's status that says what happened, for LiteLLM to make its exception of."""
    place = answer.next_request.url.copy_with(path="/", query=None, fragment=None, userinfo=b"")
    text = f"a redirect to another host, {str(place).rstrip('/')}, is not followed: set api_base to it if you trust it"
    body = {"error": {"message": text, "type": "redirect", "code": None}}
    return type(answer)(answer.status_code, json=body, request=answer.request)
