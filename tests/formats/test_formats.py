"""Five providers' formats over a real socket, written by somebody else's server, through every way to ask.

`CALLERS` are the ways: each turns one question into an `Outcome`, so the same table holds for LiteLLM, our reference,
and for whatever stands above it.
"""

import asyncio
import gc
import json
import uuid
from dataclasses import dataclass, field

import litellm
import pytest
from httpcore._sync.connection_pool import PoolByteStream

from blueprint_llm import LLMClient, SyncLLMClient
from blueprint_llm.errors import BlueprintError

pytestmark = [
    pytest.mark.formats,
    pytest.mark.usefixtures("collected"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # the clients that `blocking` forgets
]

HELLO = "Hello from the other side of the wire, in several chunks."
CUT = "This answer is cut off before it comes to its end, whatever the format may be."
MODELS = {
    "openai": ("openai/gpt-4o", "/v1"),
    "anthropic": ("anthropic/claude-opus-4-5", ""),
    "gemini": ("gemini/gemini-2.5-flash", "/v1beta"),
    "ollama": ("ollama_chat/llama3.2", ""),
    "deepseek": ("deepseek/deepseek-chat", "/v1"),
}
WITHOUT_TOOLS = {"gemini"}  # LiteLLM writes function_declarations; Google takes either spelling, aimock's journal one
WITHOUT_USAGE = {"ollama"}  # aimock counts 0 tokens in this format, whatever its fixtures say
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of the next days.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}


@dataclass
class Outcome:
    """What came of one question, in one shape for every caller."""

    text: str = ""
    finish_reason: str | None = None
    usage: tuple[int, int] | None = None
    tool_calls: list[tuple[str, dict]] = field(default_factory=list)
    chunks: int = 0
    failed: bool = False
    status: int | None = None
    category: str | None = None


@dataclass(frozen=True)
class Question:
    """One question to one provider at `root`."""

    provider: str
    prompt: str
    root: str
    stream: bool

    @property
    def deployment(self):
        """LiteLLM's parameters of the provider."""
        model, path = MODELS[self.provider]
        return {"model": model, "api_base": self.root + path, "api_key": "sk-formats"}

    @property
    def request(self):
        """The request itself."""
        tools = {"tools": [TOOL]} if "weather" in self.prompt else {}
        return {"messages": [{"role": "user", "content": self.prompt}], **tools}

    @property
    def config(self):
        """Our configuration with that provider as the only group, and no second attempt."""
        group = {"model_name": self.provider, "litellm_params": self.deployment}
        return {"model_list": [group], "blueprint": {"version": 1, "retry": {"max_attempts": 1}}}

    @property
    def litellm_keywords(self):
        """The whole call for LiteLLM, its retries off."""
        streaming = {"stream": True, "stream_options": {"include_usage": True}} if self.stream else {}
        off = {"num_retries": 0, "max_retries": 0, "timeout": 20}
        return {**self.deployment, **self.request, **streaming, **off}


def from_litellm(chunks):
    """An Outcome from LiteLLM's chunks, or from its one response."""
    whole = litellm.stream_chunk_builder(chunks) if len(chunks) != 1 else chunks[0]
    message = whole.choices[0].message
    calls = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()]
    texts = [chunk for chunk in chunks if len(chunks) > 1 and chunk.choices and chunk.choices[0].delta.content]
    usage = (whole.usage.prompt_tokens, whole.usage.completion_tokens)
    return Outcome(message.content or "", whole.choices[0].finish_reason, usage, calls, len(texts))


def ask_litellm(question):
    """`litellm.completion`."""
    try:
        answer = litellm.completion(**question.litellm_keywords)
        return from_litellm(read_to_the_end(answer) if question.stream else [answer])
    except Exception as error:  # noqa: BLE001 - LiteLLM's exceptions have no useful common class
        return Outcome(status=getattr(error, "status_code", None), failed=True)


def read_to_the_end(stream):
    """LiteLLM's chunks, and the response closed, which LiteLLM leaves to the garbage collector.

    That may come while the same thread holds the lock of httpcore's pool, which closing takes: the thread then waits
    for itself, for ever.
    """
    with stream:
        return list(stream)


async def ask_litellm_async(question):
    """`litellm.acompletion`."""
    try:
        answer = await litellm.acompletion(**question.litellm_keywords)
        return from_litellm([chunk async for chunk in answer] if question.stream else [answer])
    except Exception as error:  # noqa: BLE001 - LiteLLM's exceptions have no useful common class
        return Outcome(status=getattr(error, "status_code", None), failed=True)


def from_response(response, chunks=()):
    """An Outcome from our response and the chunks before it."""
    calls = [(call.name, call.arguments) for call in response.tool_calls]
    usage = (response.usage.prompt_tokens, response.usage.completion_tokens)
    return Outcome(response.content, response.finish_reason, usage, calls, sum(bool(chunk.delta) for chunk in chunks))


def from_error(error):
    """An Outcome from our error: that of the last attempt, where there was more than one."""
    last = getattr(error, "attempts", None) or [error]
    return Outcome(failed=True, status=getattr(last[-1], "status", None), category=getattr(last[-1], "category", None))


def ask_sync_client(question):
    """`SyncLLMClient`."""
    with SyncLLMClient(question.config) as client:
        try:
            if not question.stream:
                return from_response(client.chat(model=question.provider, **question.request))
            stream = client.stream(model=question.provider, **question.request)
            chunks = list(stream)
            return from_response(stream.response, chunks)
        except BlueprintError as error:
            return from_error(error)


async def ask_client(question):
    """`LLMClient`."""
    async with LLMClient(question.config) as client:
        try:
            if not question.stream:
                return from_response(await client.chat(model=question.provider, **question.request))
            stream = client.stream(model=question.provider, **question.request)
            chunks = [chunk async for chunk in stream]
            return from_response(stream.response, chunks)
        except BlueprintError as error:
            return from_error(error)


def blocking(ask):
    """The same question on an event loop of its own, at whose end LiteLLM's connections are closed.

    LiteLLM closes those of every loop, and would go on using the background loop's: they are forgotten, too.
    """

    async def run(question):
        try:
            return await ask(question)
        finally:
            await litellm.close_litellm_async_clients()
            litellm.in_memory_llm_clients_cache.flush_cache()

    return lambda question: asyncio.run(run(question))


CALLERS = {
    "litellm": ask_litellm,
    "litellm async": blocking(ask_litellm_async),
    "SyncLLMClient": ask_sync_client,
    "LLMClient": blocking(ask_client),
}


@pytest.fixture(params=CALLERS)
def call(request):
    """One way to ask."""
    return CALLERS[request.param]


@pytest.fixture(params=[False, True], ids=["whole", "stream"])
def stream(request):
    """Whether the answer is streamed."""
    return request.param


@pytest.fixture(params=MODELS)
def ask(request, aimock, call, stream):
    """Put a prompt to one provider in one way."""
    return lambda prompt: call(Question(request.param, prompt, aimock, stream))


@pytest.fixture
def provider(request):
    """The provider of this case."""
    return request.node.callspec.params["ask"]


def test_chat_and_usage(ask, provider, stream):
    """The text, its end and the provider's token counts arrive, streamed in pieces or whole."""
    outcome = ask("please say hello")

    assert (outcome.text, outcome.finish_reason, outcome.failed) == (HELLO, "stop", False)
    assert (outcome.chunks > 1) == stream
    assert provider in WITHOUT_USAGE or outcome.usage == (11, 7)


@pytest.mark.parametrize("prompt", ["please say hello", "please break down", "you will be cut off"])
def test_no_response_is_left_to_the_garbage_collector(ask, prompt, stream):
    """When an answer has ended, well or not, its response is closed: see `read_to_the_end`."""
    ask(prompt)

    assert [each for each in gc.get_objects() if type(each) is PoolByteStream and not each._closed] == []


def test_tools(ask, provider):
    """A tool call arrives with its name and complete arguments."""
    outcome = ask("what is the weather")

    assert outcome.tool_calls == [("get_weather", {"city": "Paris", "days": 3})]
    assert outcome.finish_reason == "tool_calls"
    assert provider in WITHOUT_USAGE or outcome.usage == (31, 17)


@pytest.mark.parametrize(
    ("prompt", "status", "category"),
    [
        pytest.param("please be busy", 429, "rate_limited", id="429"),
        pytest.param("please break down", 500, "unavailable", id="500"),
        pytest.param("do you know me", 401, "refused", id="401"),
    ],
)
def test_errors(ask, prompt, status, category):
    """An error keeps its status through every format."""
    outcome = ask(prompt)

    assert (outcome.failed, outcome.status, outcome.text) == (True, status, "")
    assert outcome.category in {None, category}


def test_a_cut_stream_is_no_answer(ask, stream):
    """A connection that breaks in mid-stream is a failure; without streaming the answer is whole."""
    outcome = ask("you will be cut off")

    assert outcome.failed == stream
    assert outcome.text == ("" if stream else CUT)


def test_the_request_has_the_providers_format(ask, provider, journal):
    """Each provider is asked at its own path, with the tool in the request."""
    marker = uuid.uuid4().hex
    ask(f"what is the weather in {marker}")
    request = journal(marker)

    paths = {"anthropic": "/v1/messages", "gemini": "/v1beta/models/gemini-2.5-flash", "ollama": "/api/chat"}
    assert request["path"].startswith(paths.get(provider, "/v1/chat/completions"))
    assert provider in WITHOUT_TOOLS or request["body"]["tools"][0]["function"]["name"] == "get_weather"
