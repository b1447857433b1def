"""A small model inside this process, through llama.cpp: OpenAI-shaped dicts in, OpenAI-shaped dicts out.

llama.cpp calls back on the thread that asks, so every answer has a thread of its own that posts chunks to its reader;
it is cancelled by what the callback returns, also while a long prompt is read. The model loads on the first request,
which takes 0.3 s. xllamacpp holds the GIL meanwhile: this once, an event loop waits too.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import queue
import secrets
import threading
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from blueprint_llm.adapters.local import weights
from blueprint_llm.adapters.local.chat import Chunks, prepared
from blueprint_llm.adapters.merge import Merger
from blueprint_llm.errors import BlueprintError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

SLOTS = 2  # requests answered at once; more wait. Each slot's memory is reserved: 95 MB for SmolLM2
WINDOW_TOKENS = 4096  # what one request and its answer may take together
THREADS = 1  # a second one is faster on an idle machine, and collapses to 1.4 tokens/s beside any other load
BATCH_TOKENS = 64  # a prompt is read in pieces of this size, 0.4 s each; between two of them it can be cancelled
_CLOSE_S = 10.0
_NO_EXTRA = "the embedded model needs an extra: pip install 'blueprint-llm[local]', then `blueprint-llm local pull`"


class EmbeddedError(BlueprintError):
    """The embedded model cannot be loaded, or failed."""


class BadRequest(EmbeddedError):  # noqa: N818 - named after the HTTP status that it stands for
    """The request is malformed, or asks for what this model cannot do."""


class ContextOverflow(EmbeddedError):  # noqa: N818 - as above
    """The prompt is longer than the window. Both numbers in tokens."""

    def __init__(self, needed_tokens: int, limit_tokens: int) -> None:
        super().__init__(f"the request has {needed_tokens} tokens, the embedded model takes {limit_tokens}")
        self.needed_tokens, self.limit_tokens = needed_tokens, limit_tokens


def unavailable(model: str) -> str | None:
    """Why `model` cannot run here and what to do about it, or None; loads nothing."""
    if not is_installed():
        return _NO_EXTRA
    try:
        weights.locate(model)
    except weights.WeightsError as error:
        return str(error)
    return None


def is_installed() -> bool:
    """Return True if what runs the model is here, with or without weights; loads nothing."""
    return find_spec("xllamacpp") is not None


_models: dict[tuple[int, Path], EmbeddedModel] = {}
_models_lock = threading.Lock()


def embedded_model(model: str) -> EmbeddedModel:
    """The one model of this process for `smollm2` or the path of a GGUF file. Raises WeightsError."""
    path = weights.locate(model).resolve()
    with _models_lock:
        key = (os.getpid(), path)  # a forked child has none of the parent's threads
        return _models.setdefault(key, EmbeddedModel(path))


def close_all() -> None:
    """Cancel what runs and free every model of this process; registered to run at exit."""
    with _models_lock:
        mine = [_models.pop(key) for key in list(_models) if key[0] == os.getpid()]
    for model in mine:
        model.close()


atexit.register(close_all)


class EmbeddedModel:
    """One weights file, loaded on the first request. Safe to use from any thread.

    Bodies are those of OpenAI's chat completions. Every method raises BadRequest, ContextOverflow or EmbeddedError.

    Attributes:
        running: The answers that are on their way.
    """

    def __init__(
        self, path: Path, *, slots: int = SLOTS, window_tokens: int = WINDOW_TOKENS, threads: int = THREADS
    ) -> None:
        self.path, self.slots, self.window_tokens, self.threads = path, slots, window_tokens, threads
        self._lock = threading.Lock()
        self._server: Any = None
        self._closed = False
        self.running: set[_Generation] = set()

    def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a `chat.completion`."""
        return _merged(self.stream(body))

    async def acomplete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a `chat.completion`; a cancelled task cancels the generation."""
        stream = self.astream(body)
        try:
            return _merged([chunk async for chunk in stream])
        finally:
            await stream.aclose()

    def stream(self, body: Mapping[str, Any]) -> ChatStream:
        """Return an iterator of `chat.completion.chunk`; the last one has the usage."""
        return ChatStream(self, body)

    def astream(self, body: Mapping[str, Any]) -> AsyncChatStream:
        """Return an asynchronous iterator of `chat.completion.chunk`; the last one has the usage."""
        return AsyncChatStream(self, body)

    def close(self) -> None:
        """Cancel what runs, wait for its threads and free the memory; the model cannot be used again."""
        with self._lock:
            self._closed = True
            running = list(self.running)
        for generation in running:
            generation.cancelled = True
        for generation in running:
            generation.thread.join(_CLOSE_S)
        self._server = None

    def begin(self, body: Mapping[str, Any], post: Callable[[Any], object]) -> _Generation:
        """Start an answer to `body`; chunks, then None or an exception are handed to `post`, on another thread."""
        generation = _Generation(self, body, post)
        with self._lock:
            self._refuse_closed()
            self.running.add(generation)
            generation.thread.start()
        return generation

    def server(self) -> Any:
        """The llama.cpp server, loaded now if need be."""
        with self._lock:
            self._refuse_closed()
            if self._server is None:
                self._server = _load(self)
            return self._server

    def _refuse_closed(self) -> None:
        if self._closed:
            raise EmbeddedError(f"the embedded model {self.path.stem} was closed")


def _merged(chunks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    merger = Merger()
    for chunk in chunks:
        merger.add(chunk)
    return merger.whole()


def _load(model: EmbeddedModel) -> Any:
    """A llama.cpp server; it opens a port whether one wants it or not: on the loopback, behind a random key."""
    # Threads of OpenMP that wait must not spin, or the model starves the program that it lives in and itself. Read
    # once when the library loads, so there is no other way to say it.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import xllamacpp  # noqa: PLC0415 - 100 MB, on the first request only
    except ImportError as error:
        raise EmbeddedError(_NO_EXTRA if error.name == "xllamacpp" else f"{_NO_EXTRA} ({error})") from None
    params = xllamacpp.CommonParams()
    params.model.path = str(model.path)
    params.n_parallel, params.n_ctx = model.slots, model.slots * model.window_tokens
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = model.threads
    params.port, params.api_keys, params.n_threads_http = 0, [secrets.token_urlsafe(32)], 1
    params.ui = params.endpoint_slots = False
    params.warmup = params.fit_params = False  # saves 0.6 s of 0.9 s, and the memory is known
    params.prefill_assistant = False  # an assistant's message is a turn, as with every other provider
    params.cache_ram_mib = 0  # the slots keep their last prompt; a second cache of up to 8 GB is not wanted
    params.verbosity = -1  # the user's standard output and error are not ours
    try:
        return xllamacpp.Server(params)
    except RuntimeError:
        raise EmbeddedError(f"{model.path.name} is corrupt, or no chat model that llama.cpp can load") from None


class _Generation:
    """One answer on its thread. Its reader may go away at any time: `cancelled` ends it at the next token."""

    def __init__(self, model: EmbeddedModel, body: Mapping[str, Any], post: Callable[[Any], object]) -> None:
        self._model, self._post = model, post
        try:
            self._wire, reader = prepared(body)
        except ValueError as error:
            raise BadRequest(str(error)) from None
        self._chunks = Chunks(model.path.stem, reader)
        self.cancelled = False
        self._failure: Exception | None = None
        self.thread = threading.Thread(target=self._run, name="blueprint-embedded", daemon=True)

    def _run(self) -> None:
        try:
            end = self._answer()
        except BlueprintError as error:
            end = error
        except Exception as error:  # noqa: BLE001 - the top of a worker; llama.cpp refuses a body in many ways
            end = BadRequest(_reason(error))
        finally:
            self._model.running.discard(self)
        with suppress(RuntimeError):  # the reader's event loop is closed: nobody listens
            self._post(end)

    def _answer(self) -> Exception | None:
        if not self.cancelled:
            self._model.server().handle_chat_completions(self._wire, self._on_chunk)
        if self._failure is None and not (self._chunks.complete or self.cancelled):
            return EmbeddedError("the embedded model stopped in mid-answer")
        return self._failure

    def _on_chunk(self, raw: Mapping[str, Any]) -> bool:
        """Post what llama.cpp made; True cancels. An exception in here would vanish, so none may leave."""
        try:
            if "error" in raw:
                self._failure = _error(raw["error"])
            elif not self.cancelled:
                for chunk in self._chunks.read(raw):
                    self._post(chunk)
        except Exception as error:  # noqa: BLE001 - see the docstring; it is raised to the reader
            self._failure = error
        return self.cancelled or self._failure is not None


def _error(error: Mapping[str, Any]) -> EmbeddedError:
    if error.get("type") == "exceed_context_size_error":
        return ContextOverflow(error["n_prompt_tokens"], error["n_ctx"])
    kind = BadRequest if error.get("code") == 400 else EmbeddedError  # noqa: PLR2004 - an HTTP status
    return kind(str(error.get("message")))


def _reason(error: Exception) -> str:
    """What llama.cpp objects to, without its own guess at the cause."""
    return str(error).rpartition("Automatic parser generation failed: ")[2].partition(" - hint:")[0]


class _Reader:
    """What both streams share: one generation, which ends when nobody reads it any more."""

    def __init__(self, model: EmbeddedModel, body: Mapping[str, Any], post: Callable[[Any], object]) -> None:
        self._ended = False
        self._generation = model.begin(body, post)

    def _cancel(self) -> None:
        self._ended = True
        self._generation.cancelled = True

    def _chunk(self, item: Any, stop: type[Exception]) -> dict[str, Any]:
        """The chunk that was posted, unless it is the end or an error."""
        if isinstance(item, dict) and not self._ended:
            return item
        self._ended = True
        raise item if isinstance(item, Exception) else stop

    def __del__(self) -> None:
        if hasattr(self, "_generation"):  # a refused body never began one
            self._cancel()


class ChatStream(_Reader):
    """An open stream for a thread. Closing it, from any thread, or dropping it cancels the generation."""

    def __init__(self, model: EmbeddedModel, body: Mapping[str, Any]) -> None:
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        super().__init__(model, body, self._queue.put)

    def __iter__(self) -> ChatStream:
        return self

    def __next__(self) -> dict[str, Any]:
        return self._chunk(None if self._ended else self._queue.get(), StopIteration)

    def close(self) -> None:
        """Cancel what is left; a reader that waits in another thread gets the end at once."""
        self._cancel()
        self._queue.put(None)


class AsyncChatStream(_Reader):
    """An open stream for an event loop. Closing or dropping it cancels the generation."""

    def __init__(self, model: EmbeddedModel, body: Mapping[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        put = self._queue.put_nowait  # the generation must not keep this stream alive: dropping it cancels
        super().__init__(model, body, lambda item: loop.call_soon_threadsafe(put, item))

    def __aiter__(self) -> AsyncChatStream:
        return self

    async def __anext__(self) -> dict[str, Any]:
        return self._chunk(None if self._ended else await self._queue.get(), StopAsyncIteration)

    async def aclose(self) -> None:
        """Cancel what is left; a task that waits for a chunk gets the end."""
        self._cancel()
        self._queue.put_nowait(None)
