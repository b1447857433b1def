"""A redirect to another host carries nothing of the call there: no key of any header, and no message."""

import asyncio
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace

import httpx
import pytest
from click.testing import CliRunner
from compat_calling import call as call_dropin
from compat_calling import read as read_dropin
from compat_cases import HI
from driving import CALLERS, KEY, closing_clients
from provider_answers import ANSWERS
from serving import serving

import blueprint_llm
from blueprint_llm import Router
from blueprint_llm.adapters.redirects import at_one_host
from blueprint_llm.cli import main
from blueprint_llm.testing import FaultServer, Status

pytestmark = [
    pytest.mark.usefixtures("litellm_warm", "collected"),
    pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning"),
]
GATEWAY_KEY = "gw-cnryG4teW4yKeyQw2ZxV9bT4mKp8Lr"
# Where each keeps its key: x-api-key, api-key, Authorization, x-goog-api-key or the address, and a header of its own.
PROVIDERS = {
    "anthropic": {"model": "anthropic/claude-opus-4-5"},
    "azure": {"model": "azure/gpt-4o", "api_version": "2024-06-01"},
    "openai": {"model": "openai/gpt-4o", "extra_headers": {"x-gateway-key": GATEWAY_KEY}},
    "gemini": {"model": "gemini/gemini-2.5-flash"},
    "cohere": {"model": "cohere_chat/command-r"},
    "mistral": {"model": "mistral/mistral-large-latest"},
    "hosted_vllm": {"model": "hosted_vllm/llama"},
}
CHATS = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


def each(*quick):
    """Every provider; those that are not named take their time."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in PROVIDERS]


class Host(BaseHTTPRequestHandler):
    """It keeps what it was asked, and sends everyone on to `to` where it has one."""

    protocol_version = "HTTP/1.1"
    to, status = None, 307

    def do_POST(self):
        """Answer with the redirect, to the same path."""
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.send_response(self.status if self.to else 200)
        if self.to:
            self.send_header("location", self.to + self.path)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Say nothing."""


@contextmanager
def host(to=None, status=307):
    """A host: its address and, as it grows, what it was asked."""
    with serving(type("ThisHost", (Host,), {"to": to, "status": status})) as (server, url):
        yield SimpleNamespace(url=url.removesuffix("/v1"), asked=server.asked)


@pytest.fixture(scope="module")
def hosts():
    """The host that is asked, which sends everyone on, and the other one."""
    with host() as other, host(to=other.url) as here:
        yield here, other


@pytest.fixture
def here(hosts):
    """The host that is asked."""
    hosts[0].asked.clear()
    return hosts[0]


@pytest.fixture
def other(hosts):
    """Another host, which nothing may reach."""
    hosts[1].asked.clear()
    return hosts[1]


def keywords(provider, server):
    """What a call of LiteLLM's is made with."""
    paths = {"gemini": "/v1beta", "cohere": "/v1/chat", "anthropic": "", "azure": ""}
    base = server.url.removesuffix("/v1") + paths.get(provider, "/v1")
    return {**PROVIDERS[provider], "api_base": base, "api_key": KEY, "messages": HI}


def configuration(provider, server):
    """A client's, with that provider alone."""
    own = {name: value for name, value in keywords(provider, server).items() if name != "messages"}
    block = {"providers": {"p": own}, "chains": {"default": ["p"]}, "retry": {"max_attempts": 1}}
    return {"blueprint": {**block, "store": {"url": "memory"}}}


@CHATS
@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.name)
@pytest.mark.parametrize("provider", each("anthropic", "openai", "gemini"))
def test_a_client_goes_to_no_other_host(here, other, provider, caller, streamed):
    """The error has the redirect's status and names where it led; one request, nothing at the other host."""
    ask = caller.stream if streamed else caller.chat

    error = ask(configuration(provider, here)).error

    assert len(here.asked) == 1
    assert other.asked == []
    assert error.status == 307
    assert f"a redirect to another host, {other.url}, is not followed" in str(error)
    assert error.category == "not_found"
    assert KEY not in str(error)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.name)
def test_every_kind_of_redirect(other, status, caller):
    """Whatever it would make of the request's method."""
    with host(other.url, status) as here:
        error = caller.chat(configuration("anthropic", here)).error

    assert (error.status, len(here.asked), other.asked) == (status, 1, [])


@CHATS
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("provider", each("anthropic", "gemini"))
def test_the_drop_in_goes_to_no_other_host(here, other, provider, kind, streamed):
    """LiteLLM's own exception comes out."""
    ask = read_dropin if streamed else call_dropin

    with pytest.raises(Exception, match="redirect to another host"):
        ask(kind, None, **keywords(provider, here), num_retries=0, max_retries=0)

    assert here.asked
    assert other.asked == []


@CHATS
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("provider", each("gemini"))
def test_the_router_goes_to_no_other_host(here, other, provider, kind, streamed):
    """Each attempt of it."""
    own = keywords(provider, here)
    params = {name: value for name, value in own.items() if name != "messages"}
    router = Router(
        model_list=[{"model_name": "g", "litellm_params": params}],
        num_retries=0,
        blueprint={"store": {"url": "memory"}},
    )

    async def ask():
        answer = await router.acompletion(model="g", messages=HI, stream=streamed)
        return [each async for each in answer] if streamed else answer

    def ask_blocking():
        answer = router.completion(model="g", messages=HI, stream=streamed)
        return list(answer) if streamed else answer

    slip = "can't concat str to bytes"  # LiteLLM's own, over any error of a blocking stream of Gemini's
    with pytest.raises(Exception, match=f"redirect to another host|{slip}"):
        asyncio.run(closing_clients(ask())) if kind == "async" else ask_blocking()

    assert here.asked
    assert other.asked == []


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_installed_in_place(here, other, litellm_warm, kind):
    """A third-party program that calls LiteLLM itself is kept at its host as well."""
    own = {**keywords("anthropic", here), "num_retries": 0, "max_retries": 0}
    with (
        blueprint_llm.install({"blueprint": {"store": {"url": "memory"}}}),
        pytest.raises(Exception, match="redirect to another host"),
    ):
        call_dropin(kind, None, through=litellm_warm, **own)

    assert other.asked == []


@pytest.mark.parametrize("endpoint", ["embedding", "rerank", "responses"])
def test_other_endpoints(here, other, endpoint):
    """They carry the same keys."""
    asked = {
        "embedding": {"model": "cohere/embed-english-v3.0", "input": ["a"]},
        "rerank": {"model": "cohere/rerank-v3.5", "query": "a", "documents": ["b"]},
        "responses": {"model": "openai/gpt-4o", "input": "a"},
    }[endpoint]
    with pytest.raises(Exception, match="redirect to another host"):
        getattr(blueprint_llm.litellm, endpoint)(**asked, api_base=f"{here.url}/v1", api_key=KEY, max_retries=0)

    assert here.asked
    assert other.asked == []


def test_the_command_line(here, other, tmp_path):
    """Its one line names both: who answered with a redirect, and where to."""
    path = tmp_path / "b.yaml"
    path.write_text(json.dumps(configuration("anthropic", here)))

    done = CliRunner().invoke(main, ["chat", "hi", "--config", str(path)])

    assert done.exit_code == 1
    assert "redirect to another host" in done.stderr
    assert other.asked == []


@CHATS
@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.name)
@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_a_redirect_at_the_same_host_is_followed(provider, caller, streamed):
    """A gateway may move a path, with the key and the whole request."""
    good = ANSWERS[provider]["text"][1]

    def step(request):
        moved = {"location": f"{server.url.removesuffix('/v1')}{request.path}?moved"}
        return good if "moved" in request.path else Status(307, headers=moved)

    with FaultServer(step) as server:
        heard = (caller.stream if streamed else caller.chat)(configuration(provider, server))

    assert heard.error is None
    assert heard.response.content
    assert [("moved" in request.path) for request in server.requests] == [False, True]
    assert server.requests[1].body == server.requests[0].body
    assert KEY in str([*server.requests[1].headers.values()])


def test_redirects_without_end_are_an_error():
    """A host that sends everybody in circles is given up as httpx gives up."""
    with FaultServer(lambda request: Status(307, headers={"location": request.path})) as server:
        error = CALLERS[1].chat(configuration("anthropic", server)).error

    assert error is not None
    assert 2 < len(server.requests) < 40


def test_whoever_else_uses_httpx_is_left_alone(here, other):
    """In the same process, and in another thread while a call of ours is on its way."""
    seen = []

    def fetch():
        with httpx.Client(follow_redirects=True) as client:
            seen.append(client.post(f"{here.url}/v1/x", headers={"x-api-key": "theirs"}, json={}).status_code)

    async def fetch_async():
        async with httpx.AsyncClient(follow_redirects=True) as client:
            seen.append((await client.post(f"{here.url}/v1/x", headers={"x-api-key": "theirs"}, json={})).status_code)

    CALLERS[0].chat(configuration("anthropic", here))
    fetch()
    thread = threading.Thread(target=fetch)
    thread.start()
    thread.join()
    asyncio.run(fetch_async())

    assert len(seen) == len(other.asked) == 3


def test_what_a_callback_sends_afterwards_is_its_own(here, other):
    """A task that was begun within a call and outlives it goes where it wants: its context is the call's, no more."""

    async def begun():
        with at_one_host():
            return asyncio.create_task(posted())

    async def posted():
        await asyncio.sleep(0)
        async with httpx.AsyncClient(follow_redirects=True) as client:
            return (await client.post(f"{here.url}/v1/x", json={})).status_code

    async def afterwards():
        return await (await begun())

    assert asyncio.run(afterwards()) == 200
    assert len(other.asked) == 1


def test_without_the_watch_the_key_arrives(here, other, litellm_warm):
    """The positive control: LiteLLM alone hands an Anthropic key on to the other host."""
    with pytest.raises(Exception, match=r"."):
        litellm_warm.completion(**keywords("anthropic", here), num_retries=0, max_retries=0)

    assert other.asked[0][1]["x-api-key"] == KEY
