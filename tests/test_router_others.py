"""The Router's other functions and its calls of several at once: the same requests and answers as LiteLLM's."""

import asyncio
import io
import json
from http.server import BaseHTTPRequestHandler

import litellm
import pytest
from driving import KEY, MESSAGES, closing_clients
from litellm import Router as Peer  # noqa: TID251 - the peer that ours is compared with
from serving import serving

from blueprint_llm import Router
from blueprint_llm.errors import BudgetExceededError
from blueprint_llm.testing import Answer, FaultServer, Status

SAID = {
    "id": "x",
    "created": 1,
    "created_at": 1,
    "model": "m",
    "object": "response",
    "status": "completed",
    "meta": {},
    "output": [
        {
            "type": "message",
            "id": "m1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "hi", "annotations": []}],
        }
    ],
    "usage": {
        "input_tokens": 1,
        "output_tokens": 1,
        "total_tokens": 2,
        "input_tokens_details": {"text_tokens": 1, "image_tokens": 0},
    },
    "text": "hello",
    "results": [{"index": 0, "relevance_score": 0.9, "flagged": False}],
    "data": [{"url": "u"}],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}


class _Anything(BaseHTTPRequestHandler):
    """Answers every path alike; a model named no fails."""

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        asked = json.loads(content) if "json" in self.headers["Content-Type"] else _fields(content)
        self.server.asked.append((self.path, asked, self.headers["Authorization"]))
        status = 503 if asked["model"] == "no" else 200
        answer = b"AUDIO" if "speech" in self.path else json.dumps(SAID if status == 200 else {}).encode()
        if asked.get("stream"):
            answer = b"data: " + json.dumps({"type": "response.completed", "response": SAID}).encode() + b"\n\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        """Say nothing."""


def _fields(content):
    """The fields of a form, without their headers."""
    found = {}
    for part in content.split(b"\r\n--"):
        head, _, value = part.partition(b"\r\n\r\n")
        if b'name="' in head:
            found[head.split(b'name="')[1].split(b'"')[0].decode()] = value.decode(errors="replace")
    return found


def entry(group, model, url, **more):
    """An entry of `model_list`."""
    return {"model_name": group, "litellm_params": {"model": model, "api_key": KEY, "api_base": url, **more}}


def run(work):
    """Await a call on an event loop of its own."""
    return asyncio.run(closing_clients(work))


def models_at(url):
    """A group of OpenAI's, one that ranks and one with a voice of its own."""
    speaks = entry("speaks", "openai/m", url, voice="echo")
    return [{**entry("a", "openai/m", url), "model_info": {"id": "one"}}, entry("ranks", "cohere/m", url), speaks]


OTHERS = {
    "aspeech": ((), {"model": "a", "input": "hi", "voice": "alloy"}),
    "aspeech by position": (("a", "hi", "alloy"), {}),
    "aspeech with the deployment's voice": (("speaks", "hi"), {}),
    "aimage_generation": ((), {"model": "a", "prompt": "a cat"}),
    "aimage_generation by position": (("a cat", "a"), {}),
    "atranscription": ((), {"model": "a", "file": ("a.wav", b"RIFF sound")}),
    "atranscription by position": ((("a.wav", b"RIFF sound"), "a"), {"language": "en"}),
    "amoderation": ((), {"model": "a", "input": "bad words"}),
    "aresponses": ((), {"model": "a", "input": "hi", "instructions": "be short"}),
    "arerank": ((), {"model": "ranks", "query": "q", "documents": ["x", "y"]}),
    "aimage_edit": ((), {"model": "a", "image": b"png", "prompt": "bluer"}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_functions_ask_and_answer_like_litellms(name):
    """The same request with the deployment's key, and the same object."""
    args, keywords = OTHERS[name]
    seen = []
    with serving(_Anything) as (server, url):
        models = models_at(url)
        for kind in (Peer, Router):
            router = kind(model_list=models, num_retries=0)
            answer = run(getattr(router, name.partition(" ")[0])(*args, **keywords))
            said = answer.model_dump() if hasattr(answer, "model_dump") else answer.read()
            seen.append((type(answer), said, server.asked.copy()))
            server.asked.clear()

    assert seen[0] == seen[1]
    assert len(seen[1][2]) == 1


def test_a_file_that_is_open_can_be_transcribed():
    """What LiteLLM takes as a file is handed on as it is."""
    with serving(_Anything) as (server, url):
        file = io.BytesIO(b"RIFF sound")
        file.name = "a.wav"
        run(Router([entry("a", "openai/m", url)]).atranscription(file, "a"))
        [(path, asked, _)] = server.asked

    assert path == "/v1/audio/transcriptions"
    assert asked["file"] == "RIFF sound"


def test_responses_block_too_and_go_on_to_a_fallback():
    """`responses` reaches the next group where the first one fails."""
    with serving(_Anything) as (server, url):
        models = [entry("a", "openai/no", url), entry("b", "openai/m", url)]
        answer = Router(models, num_retries=0, fallbacks=[{"a": ["b"]}]).responses("a", "hi")
        models = [asked["model"] for _, asked, _ in server.asked]

    assert answer.output[0]["content"][0]["text"] == "hi"
    assert (models[0], models[-1]) == ("no", "m")


def test_other_functions_stream():
    """`stream=True` reaches LiteLLM, and its iterator comes back."""

    async def read(router):
        return [chunk async for chunk in await router.aresponses(model="a", input="hi", stream=True)]

    with serving(_Anything) as (server, url):
        chunks = run(read(Router(models_at(url))))
        [(_, asked, _)] = server.asked

    assert asked["stream"] is True
    assert [chunk.type for chunk in chunks] == ["response.completed"]


# Several at once


def answer(request):
    """A model named e<status> fails, slow waits, any other says its name and the last message."""
    model = request.body["model"]
    if model.startswith("e"):
        return Status(int(model[1:4]))
    return Answer(f"{model}: {request.body['messages'][-1]['content']}", delay_s=5.0 if model == "slow" else 0.0)


def chat_models(url, *models):
    """A group for each model, by the same name."""
    return [entry(model, f"openai/{model}", url) for model in models]


def outcome(said):
    """Texts and the classes of exceptions."""
    if isinstance(said, list):
        return [outcome(each) for each in said]
    if isinstance(said, Exception):
        return next(kind.__name__ for kind in type(said).__mro__ if kind.__module__.startswith("litellm"))
    return said.choices[0].message.content


TWO = [[{"role": "user", "content": "one"}], [{"role": "user", "content": "two"}]]
BATCHES = {
    "one request": ("abatch_completion", (["x", "e400", "y"], MESSAGES)),
    "requests": ("abatch_completion", (["x", "e400"], TWO)),
    "requests of one model": ("abatch_completion_one_model_multiple_requests", ("x", TWO)),
    "requests of one that fails": ("abatch_completion_one_model_multiple_requests", ("e401", TWO)),
    "unknown models": ("abatch_completion", (["x", "nowhere"], MESSAGES)),
}


@pytest.mark.parametrize("name", BATCHES)
def test_batches_are_litellms(name):
    """The same answers in the same places, exceptions among them."""
    function, args = BATCHES[name]
    with FaultServer(answer) as server:
        models = chat_models(server.url, "x", "y", "e400", "e401")
        ours, theirs = (
            outcome(run(getattr(kind(model_list=models, num_retries=0), function)(*args))) for kind in (Router, Peer)
        )

    assert ours == theirs


def test_a_batch_goes_out_at_once():
    """All requests of a batch are there before any of them is answered."""

    async def run_and_leave(router, server):
        requests = [MESSAGES] * 8
        task = asyncio.create_task(router.abatch_completion_one_model_multiple_requests("x", requests))
        await asyncio.to_thread(server.wait_until, lambda seen: len(seen) == len(requests), 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with FaultServer(default=Answer("Hi.", delay_s=60)) as server:
        run(run_and_leave(Router(chat_models(server.url, "x")), server))


def test_the_fastest_answer_wins_and_the_others_are_ended():
    """Its mark is LiteLLM's; the slow one's request is hung up, and a failure is no answer."""
    with FaultServer(answer) as server:
        router = Router(chat_models(server.url, "slow", "x", "e400"), num_retries=0)
        said = run(router.abatch_completion_fastest_response("slow, e400, x", MESSAGES))
        server.wait_until(lambda seen: any(each.closed_early_at for each in seen if each.body["model"] == "slow"))

    assert outcome(said) == f"x: {MESSAGES[0]['content']}"
    assert said._hidden_params["fastest_response_batch_completion"] is True


def test_the_fastest_stream_wins_and_the_others_are_closed():
    """A stream counts as an answer once its first chunk is there."""

    async def ask(router):
        stream = await router.abatch_completion_fastest_response("slow, x", MESSAGES, True)
        assert stream._hidden_params["fastest_response_batch_completion"] is True
        return [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]

    with FaultServer(answer) as server:
        pieces = run(ask(Router(chat_models(server.url, "slow", "x"), num_retries=0)))
        server.wait_until(lambda seen: any(each.closed_early_at for each in seen if each.body["model"] == "slow"))

    assert "".join(filter(None, pieces)) == f"x: {MESSAGES[0]['content']}"


def test_a_stream_that_opens_too_late_is_closed():
    """Of streams that open at the same moment one is handed out; the upstream of the other is closed."""
    closed = []

    class Opened:
        _hidden_params = {}  # noqa: RUF012 - as LiteLLM's

        def __init__(self, name):
            self.name = name

        async def aclose(self):
            closed.append(self.name)

    class Both(Router):
        async def acompletion(self, model, messages, **_):
            return Opened(model)

    won = run(Both([]).abatch_completion_fastest_response("x, y", MESSAGES, stream=True))

    assert {won.name, *closed} == {"x", "y"}
    assert len(closed) == 1


class Slow(Router):
    """A Router whose calls take a while to end when they are cancelled, and whose streams say when they are closed."""

    def __init__(self):
        super().__init__([])
        self.ended = []

    async def acompletion(self, model, messages, **_):
        """Nothing for half a minute, but quick is there at once."""
        if model == "quick":
            return self
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0.2 if model == "x" else 0.5)
            self.ended.append(model)

    async def aclose(self):
        """Note it."""
        self.ended.append("closed")


@pytest.mark.parametrize(
    ("function", "args", "ended"),
    [
        ("abatch_completion", (["x", "y"], MESSAGES), ["x", "y"]),
        ("abatch_completion", (["x", "y"], TWO), ["x", "x", "y", "y"]),
        ("abatch_completion_fastest_response", ("x,y", MESSAGES), ["x", "y"]),
        ("abatch_completion_fastest_response", ("x,quick", MESSAGES), ["closed", "x"]),
    ],
)
def test_a_batch_that_is_given_up_ends_all_its_calls(function, args, ended):
    """Whoever gives it up waits until each call has settled, and no stream stays open."""

    async def run_and_leave(router):
        task = asyncio.create_task(getattr(router, function)(*args))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return sorted(router.ended)

    assert run(run_and_leave(Slow())) == ended


def test_when_all_fail_the_first_models_exception_is_raised():
    """Not a plain `Exception` without a word of what happened."""
    with FaultServer(answer) as server:
        router = Router(chat_models(server.url, "e401", "e400"), num_retries=0)
        with pytest.raises(litellm.AuthenticationError):
            run(router.abatch_completion_fastest_response("e401,e400", MESSAGES))


def test_a_batch_stays_within_a_budget():
    """Calls of a batch are calls: of twenty at once a quota of three lets three through."""
    limits = {"quotas": [{"scope": "global", "requests": 3, "window": "day"}]}
    with FaultServer(answer) as server:
        router = Router(chat_models(server.url, "x"), blueprint=limits)
        said = run(router.abatch_completion_one_model_multiple_requests("x", [MESSAGES] * 20))
        assert len(server.requests) == 3

    refused = [each for each in said if isinstance(each, Exception)]
    assert len(refused) == 17
    assert all(isinstance(each, litellm.RateLimitError) for each in refused)
    assert not any(isinstance(each, BudgetExceededError) for each in refused)


def test_model_names_are_the_groups():
    """As LiteLLM's attribute, after a change, too."""
    models = [*chat_models("http://127.0.0.1:9", "x", "y"), *chat_models("http://127.0.0.1:9", "x")]
    ours, theirs = Router(models), Peer(model_list=models)
    ours.add_deployment(entry("z", "openai/z", "http://127.0.0.1:9"))

    assert ours.model_names == theirs.model_names | {"z"}
