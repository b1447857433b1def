"""A key that shows itself to nobody by accident.

The value lives in a closure, not in an attribute: walking `vars`, `dir` or `__slots__` finds a function. Making a
Secret registers its value for redaction, so there is no secret that the logs would not mask.
"""

from __future__ import annotations

import hmac
import re
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NoReturn

from blueprint_llm import redaction

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_CHARS = 16384
_NAMED = b"blueprint's key"
_WORD = re.compile(r"[!-~]*")
_FIT = re.compile(rf"[!-~]{{{redaction.MIN_LENGTH},{MAX_CHARS}}}")
_HINT_FROM = 20  # shorter keys would lose too large a share of themselves


class Secret:
    """A secret string; only `reveal()` returns it. Equality takes constant time; it has no hash, pickle or JSON."""

    __slots__ = ("_name", "_open")
    __hash__ = None  # type: ignore[assignment] # Python's way to say unhashable

    def __init__(self, value: str) -> None:
        redaction.register(value)
        self._open: Callable[[], str] = lambda: value
        self._name = ""

    def reveal(self) -> str:
        """The value, for the one place that sends it."""
        return self._open()

    def hint(self) -> str:
        """The last four characters of a long key, nothing of a short one."""
        value = self._open()
        return f"...{value[-4:]}" if len(value) >= _HINT_FROM else "..."

    def mac(self, message: bytes) -> str:
        """HMAC-SHA256 of `message` under the value: names the key without telling it. Hexadecimal."""
        return hmac.digest(self._open().encode(), message, "sha256").hex()

    def name(self) -> str:
        """What stands for the value where two keys must be told apart: 16 hexadecimal characters.

        By BLAKE2b: OpenSSL looks its HMAC up anew each time, 41 us between two calls over the network.
        """
        self._name = self._name or blake2b(self._open().encode(), digest_size=8, person=_NAMED).hexdigest()
        return self._name

    def problem(self) -> str | None:
        """What makes it unfit to be stored as a key; never the value."""
        value = self._open()
        if _FIT.fullmatch(value):
            return None
        if len(value) < redaction.MIN_LENGTH:
            return f"is shorter than {redaction.MIN_LENGTH} characters"
        if len(value) > MAX_CHARS:
            return f"is longer than {MAX_CHARS} characters"
        return "holds a space, a newline or another character that no key has"

    def is_clean(self) -> bool:
        """Whether it can stand in an HTTP header as one word, however short."""
        return _WORD.fullmatch(self._open()) is not None

    def __len__(self) -> int:
        return len(self._open())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._open().encode(), other._open().encode())

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "Secret(***)"

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret cannot be pickled: hand on the provider's name and load the key there")

    __reduce__ = __getstate__ = __reduce_ex__  # type: ignore[assignment] # every road to a copy of the state


def revealed(value: str | Secret) -> str:
    """The text itself, for the one place that sends it."""
    return value.reveal() if isinstance(value, Secret) else value
