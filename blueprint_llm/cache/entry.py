"""What is kept of an answer, and how its bytes prove that they are what was kept.

An entry is one line of JSON with the answer, then one with what only streams and `raw` need, which a plain hit never
parses. In front stands a MAC over key and bytes: an entry moved to another key, changed or made up is no entry.
"""

from __future__ import annotations

import contextlib
import hmac
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from blueprint_llm.config.paths import make_folder
from blueprint_llm.secret import Secret, revealed
from blueprint_llm.types import PartialToolCall, ToolCall, UsageInfo

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from blueprint_llm.streaming import StreamVerdict
    from blueprint_llm.types import ChatResponse

Delta = str | PartialToolCall
FINISHED = frozenset({"stop", "tool_calls", "function_call"})
FOREVER = 1e12
_HERE = True  # stands in the raw response for the text that the entry holds already
_MAC_BYTES = 32
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A complete answer.

    Attributes:
        saved_nano: What it cost, in nano-USD; None: unknown.
        at, until: When it was stored, and when it expires, Unix seconds.
        rest: JSON with `raw` (LiteLLM's whole response, all choices) and `deltas` (a stream's, as they came).
    """

    content: str
    finish_reason: str | None
    usage: UsageInfo
    tool_calls: tuple[ToolCall, ...] = ()
    saved_nano: int | None = None
    at: float = 0.0
    until: float = field(default=FOREVER, compare=False)
    rest: bytes = field(default=b"{}", repr=False)

    @classmethod
    def of(cls, response: ChatResponse, raw: dict[str, Any], deltas: Sequence[Delta], *, at: float) -> Entry:
        """The entry of a fresh answer."""
        usage = response.usage or UsageInfo()
        cost = usage.estimated_cost
        told = [each if isinstance(each, str) else each.model_dump(exclude_defaults=True) for each in deltas]
        return cls(
            content=response.content,
            finish_reason=response.finish_reason,
            usage=usage.model_copy(update={"estimated_cost": 0.0}),
            tool_calls=tuple(response.tool_calls),
            saved_nano=None if cost is None else round(cost * 1e9),
            at=at,
            rest=orjson.dumps({"raw": _with_content(raw, response.content, _HERE), "deltas": told}),
        )

    @property
    def raw(self) -> dict[str, Any]:
        """The provider's response in OpenAI's shape."""
        return _with_content(orjson.loads(self.rest)["raw"], _HERE, self.content)

    @property
    def deltas(self) -> list[Delta]:
        """What to replay as a stream: the deltas as they came, or the text of an answer that came whole."""
        told = orjson.loads(self.rest)["deltas"] or ([self.content] if self.content else [])
        return [each if isinstance(each, str) else PartialToolCall(index=0).model_copy(update=each) for each in told]

    def dump(self) -> bytes:
        """The entry as bytes."""
        usage = self.usage.model_dump(exclude_defaults=True)
        calls = [call.model_dump() for call in self.tool_calls]
        head = (self.content, self.finish_reason, usage, calls, self.saved_nano, self.at, self.until)
        return orjson.dumps(head) + b"\n" + self.rest

    @classmethod
    def load(cls, text: bytes) -> Entry:
        """The entry of `dump`. Raises ValueError for anything else."""
        head, _, rest = text.partition(b"\n")
        try:
            content, finish_reason, usage, calls, saved_nano, at, until = orjson.loads(head)
            return cls(
                content=content,
                finish_reason=finish_reason,
                usage=UsageInfo(**usage),
                tool_calls=tuple(ToolCall(**call) for call in calls),
                saved_nano=saved_nano,
                at=at,
                until=until,
                rest=rest,
            )
        except TypeError:
            raise ValueError("no entry") from None


def _with_content(raw: dict[str, Any], before: object, after: object) -> dict[str, Any]:
    """`raw` with the first choice's text replaced: an entry holds it once."""
    choices = raw.get("choices") or [{}]
    message = choices[0].get("message") or {}
    if message.get("content", ...) != before:
        return raw
    return {**raw, "choices": [{**choices[0], "message": {**message, "content": after}}, *choices[1:]]}


def storable(response: ChatResponse, verdict: StreamVerdict) -> bool:
    """Whether an answer is complete beyond doubt: its end proven, every choice finished, something said."""
    said = bool(response.content.strip() or response.tool_calls)
    whole = verdict.status == "ok" and verdict.ended_by == "terminal"
    return said and whole and all(each.finish_reason in FINISHED for each in verdict.choices or (verdict,))


class Seal:
    """Signs entries. Without a secret the MAC still tells damage, but not a forger."""

    def __init__(self, secret: bytes = b"") -> None:
        self._secret = secret or b"blueprint_llm"

    @classmethod
    def of_user(cls) -> Seal:
        """The seal of this user's own secret, in the state folder: out of reach of who can write the cache."""
        try:
            return cls(_user_secret(make_folder("state") / "cache.key"))
        except OSError:
            return cls()

    @classmethod
    def of_server(cls, url: str | Secret) -> Seal:
        """The seal of all machines that use a server: its password, where it has one."""
        return cls((urlsplit(revealed(url)).password or "").encode())

    def close(self, key: str, text: bytes) -> bytes:
        """`text` with its MAC in front."""
        return self._mac(key, text) + text

    def open(self, key: str, sealed: bytes) -> bytes | None:
        """The text, if it was closed under this key by this seal."""
        text = sealed[_MAC_BYTES:]
        return text if hmac.compare_digest(sealed[:_MAC_BYTES], self._mac(key, text)) else None

    def _mac(self, key: str, text: bytes) -> bytes:
        return hmac.digest(self._secret, key.encode() + b"\0" + text, "sha256")


def _user_secret(path: Path) -> bytes:
    """The secret in `path`, made where it is missing; of two makers one wins, and both read the winner's."""
    if not path.exists():
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(os.urandom(_KEY_BYTES))
            with contextlib.suppress(FileExistsError):
                os.link(fresh, path)
        finally:
            fresh.unlink()
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        return file.read(_KEY_BYTES)
