"""The system's keychain through `keyring`, which may prompt, hang, lose what it is given or not be there at all.

Every use runs in a daemon thread with a deadline; whatever goes wrong becomes one sentence. A thread that never comes
back is not joined by a second one.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
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


class Keychain:
    """Keys by user name under one service. Its methods raise CredentialsError where it cannot be used in time."""

    def __init__(self, *, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._last: Future[tuple[Any, str | None]] | None = None

    def get(self, username: str) -> Secret | None:
        """Return the key, or None where the keychain has none."""
        secret: Secret | None = self._ask(lambda backend: _read(backend, username))
        return secret

    def set(self, username: str, secret: Secret) -> None:
        """Store the key and read it back."""

        def write(backend: Any) -> None:
            backend.set_password(SERVICE, username, secret.reveal())  # storing the key is what was asked for
            if _read(backend, username) != secret:
                raise CredentialsError(f"the keychain backend {_name(backend)} lost the key it was given: {_MEND}")

        self._ask(write)

    def remove(self, username: str) -> bool:
        """Delete the key; return True if there was one."""

        def delete(backend: Any) -> bool:
            is_there = _read(backend, username) is not None
            if is_there:
                backend.delete_password(SERVICE, username)
            return is_there

        return bool(self._ask(delete))

    def describe(self) -> str:
        """Return the backend's name, for `keys check`."""
        return str(self._ask(_name))

    def _ask(self, use: Callable[[Any], Any]) -> Any:
        job: Future[tuple[Any, str | None]] = Future()
        with self._lock:
            if self._last is None or self._last.done():
                self._last = job
                threading.Thread(target=_run, args=(job, use), name="blueprint-keychain", daemon=True).start()
                wait([job], self._deadline_s)
        if not job.done():
            raise CredentialsError(f"the keychain did not answer within {self._deadline_s:g} s: unlock it, or {_MEND}")
        result, problem = job.result()
        if problem:
            raise CredentialsError(problem)
        return result


def _run(job: Future[tuple[Any, str | None]], use: Callable[[Any], Any]) -> None:
    """Use the keychain; what it raises is told in words, since its own message and its frames may hold anything."""
    try:
        job.set_result((use(_backend()), None))
    except CredentialsError as error:
        job.set_result((None, str(error)))
    except BaseException as error:  # noqa: BLE001 - backends raise anything
        problem = f"the keychain cannot be used ({type(error).__name__}): check PYTHON_KEYRING_BACKEND, or {_MEND}"
        job.set_result((None, problem))


def _backend() -> Any:
    import keyring  # noqa: PLC0415 - half a second, only for those who configured it

    backend = keyring.get_keyring()
    inner = getattr(backend, "backends", None)
    first = next(iter(inner), None) if inner is not None else backend
    if first is None or _name(first).startswith(_WEAK) or "Plaintext" in _name(first):
        raise CredentialsError(
            f"the keychain backend {_name(first or backend)} does not keep secrets: install a real one, or {_MEND}"
        )
    return backend


def _name(backend: Any) -> str:
    return f"{type(backend).__module__}.{type(backend).__qualname__}"


def _read(backend: Any, username: str) -> Secret | None:
    found = backend.get_password(SERVICE, username)
    return Secret(found) if found else None
