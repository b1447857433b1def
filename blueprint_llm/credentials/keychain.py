"""The system's keychain through `keyring`, which may prompt, hang, lose what it is given or not be there at all.

Every use runs in a daemon thread with a deadline; whatever goes wrong becomes one sentence. A thread that never comes
back is not joined by a second one.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from blueprint_llm.errors import CredentialsError
from blueprint_llm.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

SERVICE = "blueprint-llm"
DEADLINE_S = 2.0

# They forget, refuse, or store in plain text.
_WEAK = ("keyring.backends.null", "keyring.backends.fail", "keyrings.alt")
_MEND = "use the credentials file (credentials.keyring: false)"


class _RefusedError(Exception):
    """Carries a sentence out of the worker thread."""


@dataclass(slots=True)
class _Job:
    """One use of the keychain: what it gave, or why it did not."""

    use: Callable[[Any], Any]
    result: Any = None
    problem: str | None = None
    done: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        try:
            self.result = self.use(_backend())
        except _RefusedError as error:
            self.problem = str(error)
        except BaseException as error:  # noqa: BLE001 - backends raise anything; their messages may hold anything
            self.problem = (
                f"the keychain cannot be used ({type(error).__name__}): check PYTHON_KEYRING_BACKEND, or {_MEND}"
            )
        self.done.set()


class Keychain:
    """Keys by user name under one service."""

    def __init__(self, *, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._last: _Job | None = None

    def get(self, username: str) -> Secret | None:
        """The key, or None where the keychain has none.

        Raises:
            CredentialsError: The keychain cannot be used, or did not answer in time.
        """
        return self._ask(lambda backend: _read(backend, username))  # type: ignore[no-any-return] # _read's type

    def set(self, username: str, secret: Secret) -> None:
        """Store the key and read it back.

        Raises:
            CredentialsError: It is not there afterwards, or the keychain cannot be used.
        """
        self._ask(lambda backend: _write(backend, username, secret))

    def remove(self, username: str) -> bool:
        """Delete the key; whether there was one."""
        return bool(self._ask(lambda backend: _delete(backend, username)))

    def describe(self) -> str:
        """The backend's name, for `keys check`."""
        return str(self._ask(_name))

    def _ask(self, use: Callable[[Any], Any]) -> Any:
        job = _Job(use)
        with self._lock:
            if self._last is None or self._last.done.is_set():
                self._last = job
                threading.Thread(target=job.run, name="blueprint-keychain", daemon=True).start()
                job.done.wait(self._deadline_s)
        if not job.done.is_set():
            raise CredentialsError(f"the keychain did not answer within {self._deadline_s:g} s: unlock it, or {_MEND}")
        if job.problem:
            raise CredentialsError(job.problem)
        return job.result


def _backend() -> Any:
    import keyring  # noqa: PLC0415 - half a second, only for those who configured it

    backend = keyring.get_keyring()
    inner = getattr(backend, "backends", None)
    first = next(iter(inner), None) if inner is not None else backend
    if first is None or _name(first).startswith(_WEAK) or "Plaintext" in _name(first):
        raise _RefusedError(
            f"the keychain backend {_name(first or backend)} does not keep secrets: install a real one, or {_MEND}"
        )
    return backend


def _name(backend: Any) -> str:
    return f"{type(backend).__module__}.{type(backend).__qualname__}"


def _read(backend: Any, username: str) -> Secret | None:
    found = backend.get_password(SERVICE, username)
    return Secret(found) if found else None


def _write(backend: Any, username: str, secret: Secret) -> None:
    backend.set_password(SERVICE, username, secret.reveal())  # storing the key is what was asked for
    if _read(backend, username) != secret:
        raise _RefusedError(f"the keychain backend {_name(backend)} lost the key it was given: {_MEND}")


def _delete(backend: Any, username: str) -> bool:
    if _read(backend, username) is None:
        return False
    backend.delete_password(SERVICE, username)
    return True
