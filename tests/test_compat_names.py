"""`import blueprint_llm as litellm`: names, settings and arguments reach LiteLLM, and no key comes back."""

import asyncio
import subprocess
import sys

import httpx
import litellm
import openai
import pytest
from canary import KEYS, Sinks, redaction_off, watched
from compat_calling import HELLO, KINDS, OTHER_KEY, call
from compat_cases import HI, PARIS, TOOL
from driving import KEY, closing_clients
from echoing_server import echoing_server
from litellm.exceptions import MidStreamFallbackError

import blueprint_llm
from blueprint_llm import errors, redaction
from blueprint_llm.adapters.exceptions import without_secrets
from blueprint_llm.testing import Answer, FaultServer

# LiteLLM makes a session per key and forgets to close those whose call failed.
pytestmark = [
    pytest.mark.usefixtures("litellm_warm", "collected"),
    pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning"),
]


@pytest.fixture(params=KINDS)
def kind(request):
    """Either function."""
    return request.param


def test_importing_a_function_imports_no_litellm():
    """LiteLLM is loaded by the first call, not by the import, nor by looking at our own names."""
    program = (
        "import sys\nfrom blueprint_llm import acompletion, completion\nimport blueprint_llm, inspect\n"
        "inspect.signature(completion); dir(blueprint_llm); hasattr(blueprint_llm, '__path__x__')\n"
        "from blueprint_llm import models, routing\n"
        "print([name for name in ('litellm', 'openai', 'httpx') if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_other_names_are_litellms():
    """With `import blueprint_llm as litellm` our names win, and everything else is LiteLLM's."""
    assert blueprint_llm.embedding is litellm.embedding
    assert blueprint_llm.text_completion is litellm.text_completion
    assert blueprint_llm.exceptions.RateLimitError is litellm.RateLimitError
    assert blueprint_llm.completion is not litellm.completion
    assert blueprint_llm.BudgetExceededError is errors.BudgetExceededError
    with pytest.raises(AttributeError, match="neither 'blueprint_llm' nor 'litellm'"):
        _ = blueprint_llm.no_such_name


def test_assigning_a_name_sets_litellms(monkeypatch):
    """A setting reaches LiteLLM, and one of our own names stays ours."""
    monkeypatch.setattr(litellm, "drop_params", False)
    own = blueprint_llm.load_config

    blueprint_llm.drop_params = True
    monkeypatch.setattr(blueprint_llm, "load_config", None)

    assert litellm.drop_params is True
    assert blueprint_llm.drop_params is True
    assert blueprint_llm.load_config is None
    assert not hasattr(litellm, "load_config")
    assert own is not None


def test_settings_of_litellm_hold(kind, monkeypatch):
    """A setting that a program makes through our name is obeyed by its calls."""
    monkeypatch.setattr(litellm, "drop_params", False)
    with FaultServer(default=HELLO) as server:
        with pytest.raises(litellm.UnsupportedParamsError):
            call(kind, server, model="openai/gpt-4", reasoning_effort="low")
        blueprint_llm.drop_params = True
        call(kind, server, model="openai/gpt-4", reasoning_effort="low")

    assert "reasoning_effort" not in server.requests[0].body


def test_litellms_own_key_is_used(kind, monkeypatch):
    """`litellm.api_key = ...` wins over the environment, as it does in LiteLLM."""
    monkeypatch.setenv("OPENAI_API_KEY", OTHER_KEY)
    monkeypatch.setattr(litellm, "api_key", None)
    with FaultServer(default=HELLO) as server:
        call(kind, server, api_key=None)
        blueprint_llm.api_key = KEY
        call(kind, server, api_key=None)

    assert [each.headers["authorization"] for each in server.requests] == [f"Bearer {OTHER_KEY}", f"Bearer {KEY}"]


def test_arguments_by_position(kind):
    """The messages and what follows may come by position, in LiteLLM's order."""
    more = (9.5, 0.25) if kind == "sync" else (None, None, 9.5, 0.25)
    with FaultServer(default=HELLO) as server:
        keywords = {"api_base": server.url, "api_key": KEY}
        if kind == "sync":
            blueprint_llm.completion("openai/gpt-4o", HI, *more, **keywords)
        else:
            asyncio.run(closing_clients(blueprint_llm.acompletion("openai/gpt-4o", HI, *more, **keywords)))

    assert server.requests[0].body["temperature"] == 0.25


def test_earlier_answers_are_messages(kind):
    """LiteLLM's own message objects go on as LiteLLM sends them."""
    with FaultServer(default=Answer("", tool_calls=(PARIS,))) as server:
        first = call(kind, server, tools=[TOOL])
        talk = [*HI, first.choices[0].message, {"role": "tool", "tool_call_id": "call_0", "content": "sunny"}]
        call(kind, server, messages=talk, tools=[TOOL])
        call(kind, server, messages=talk, tools=[TOOL], through=litellm)

    assert server.requests[1].body["messages"] == server.requests[2].body["messages"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("key", [pytest.param(key, id=name) for name, key in KEYS.items()])
@pytest.mark.parametrize("outcome", ["200", "401 echo", "500 echo", "cut"])
def test_no_key_comes_out(kind, key, outcome, stream):
    """Not a trace of the call's key is in an exception, its frames, its attributes, the answer's facts or the logs."""
    if key == KEYS["short8"] and outcome == "200":
        key = KEYS["sk"]
    with echoing_server() as server, watched() as sinks:
        server.outcome = outcome
        try:
            do_not_hold(kind, server.root + "/v1", key, sinks, stream=stream)
        except Exception as error:  # noqa: BLE001 - whatever LiteLLM raises
            while error.__traceback__ and error.__traceback__.tb_frame.f_code.co_filename == __file__:
                error.__traceback__ = error.__traceback__.tb_next  # our own frames were given the key
            sinks.take(error)
        given = list(server.keys)

    assert set(given) == {key}
    assert not sinks.hits(key)


def do_not_hold(kind, url, key, sinks, *, stream):
    """Make a call whose answer's facts are looked at; the frame that holds the key is not ours to clean."""
    asked = {"model": "openai/gpt-4o", "messages": HI, "api_base": url, "api_key": key, "num_retries": 0}
    if kind == "sync":
        answer = blueprint_llm.completion(**asked, stream=stream)
    else:
        answer = asyncio.run(closing_clients(blueprint_llm.acompletion(**asked)))
    sinks.add("facts", repr(answer._hidden_params))


def test_an_exception_leaves_without_its_request():
    """Of what hangs on an exception, requests lose their headers, responses their body; causes are not chained."""
    key = KEYS["plain32"]
    redaction.register(key)
    request = httpx.Request("POST", f"http://127.0.0.1/v1?key={key}", headers={"authorization": f"Bearer {key}"})
    response = httpx.Response(401, headers={"x-echo": key, "retry-after": "7"}, text=f"no {key}", request=request)
    inner = openai.AuthenticationError(f"bad key {key}", response=response, body={"key": key})
    error = MidStreamFallbackError(f"broke: {key}", "gpt-4o", "openai", original_exception=inner, response=response)
    error.__cause__, error.odd = inner, object()

    clean = without_secrets(error)
    sinks = Sinks()
    sinks.take(clean)
    sinks.take(dict(clean.request.headers))
    sinks.take(dict(clean.original_exception.response.request.headers))

    assert not sinks.hits(key)
    assert (type(clean), clean.status_code, clean.model, clean.odd) == (type(error), 401, "gpt-4o", None)
    assert (clean.response.headers["retry-after"], clean.response.text) == ("7", "")
    assert clean.__cause__ is None


def test_the_search_for_keys_finds_them():
    """The positive control: without redaction the same search finds the key in LiteLLM's words."""
    key = KEYS["sk"]
    with echoing_server() as server, watched() as sinks, redaction_off():
        server.outcome = "401 echo"
        with pytest.raises(litellm.AuthenticationError) as caught:
            call_with_key(server.root + "/v1", key)
        sinks.add("message", str(caught.value))

    assert sinks.hits(key)


def call_with_key(url, key):
    """A call."""
    blueprint_llm.completion(model="openai/gpt-4o", messages=HI, api_base=url, api_key=key, num_retries=0)
