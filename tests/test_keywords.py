"""The keywords of the methods: a misspelt one names the right word, LiteLLM's own and unknown ones pass."""

import inspect
import re

import pytest

import blueprint_llm
from blueprint_llm import Router, SyncLLMClient
from blueprint_llm.engine.keywords import CHAT, ROUTER, refuse_misspelt
from blueprint_llm.errors import InvalidRequestError
from blueprint_llm.testing import Answer, ScriptedAdapter

MESSAGES = [{"role": "user", "content": "hi"}]
CONFIG = {"blueprint": {"providers": {"cloud": {"model": "openai/gpt-4o", "api_key": "sk-test-0123456789"}}}}


@pytest.fixture
def client():
    """A client whose provider answers once."""
    with SyncLLMClient(CONFIG, adapters={"cloud": ScriptedAdapter([Answer("Hello.")])}) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "keywords", "meant"),
    [
        pytest.param("chat", {"mesages": MESSAGES}, "messages", id="messages"),
        pytest.param("chat", {"messages": MESSAGES, "temprature": 0.1}, "temperature", id="a parameter"),
        pytest.param("stream", {"messages": MESSAGES, "provder": "x"}, "provider", id="of a stream"),
        pytest.param("generate", {"prompt": "hi", "max_token": 9}, "max_tokens", id="of generate"),
        pytest.param("chat", {"messages": MESSAGES, "toosl": []}, "tools", id="letters that changed places"),
        pytest.param("stream", {"messages": MESSAGES, "sede": 1}, "seed", id="of a short word"),
        pytest.param("run", {"messages": MESSAGES, "sesion": "s"}, "session", id="of a run"),
        pytest.param("planning_mode", {"goal": "x", "requirement": ["y"]}, "requirements", id="of a plan"),
        pytest.param("planning_mode", {"gaol": "x"}, "goal", id="a plan's goal"),
    ],
)
@pytest.mark.parametrize("form", ["keywords", "mapping"])
def test_a_misspelt_keyword_names_the_right_word(client, method, keywords, meant, form):
    """Nothing is sent; the error says which word was meant, also for a mapping's keys."""
    call = getattr(client, method)
    wrong = next(name for name in keywords if name not in {"messages", "prompt", "goal"})

    with pytest.raises(InvalidRequestError, match=f"unknown keyword '{wrong}', did you mean '{meant}'"):
        call(keywords) if form == "mapping" else call(**keywords)


def test_a_misspelt_hook_of_a_run_is_no_parameter(client):
    """What only `run` takes is known there, too."""
    with pytest.raises(InvalidRequestError, match="did you mean 'on_chunk'"):
        client.run(messages=MESSAGES, on_chunks=print)


def test_an_unknown_parameter_passes_through(client):
    """What is near no known keyword is the provider's own business."""
    answer = client.chat(messages=MESSAGES, seed=7, extra_body={"a": 1}, max_new_tokens=5, top_a=0.5)

    assert answer.content == "Hello."


def test_a_misspelt_keyword_of_the_router():
    """It is a TypeError, as LiteLLM's constructor raises, with the word that was meant."""
    with pytest.raises(TypeError, match=r"num_retires.*, did you mean 'num_retries'"):
        Router(model_list=[], num_retires=2)


def test_explain_tells_a_misspelt_keyword(client):
    """It never raises: the decision says what is wrong."""
    assert "did you mean 'messages'" in client.explain(mesages=MESSAGES).estimate["error"]


@pytest.fixture(scope="module")
def litellms():
    """The names of LiteLLM's parameters."""
    import litellm  # noqa: PLC0415 - only these tests pay for it
    from litellm.types.router import GenericLiteLLMParams  # noqa: PLC0415 - likewise
    from litellm.types.utils import all_litellm_params  # noqa: PLC0415 - likewise

    return {
        *(name for name in inspect.signature(litellm.completion).parameters if name != "kwargs"),
        *all_litellm_params,
        *litellm.constants.DEFAULT_CHAT_COMPLETION_PARAM_VALUES,
        *GenericLiteLLMParams.model_fields,
    }


def test_no_parameter_of_litellms_is_refused(litellms):
    """Every name that LiteLLM documents passes."""
    for name in litellms:
        refuse_misspelt([name], CHAT)


def test_litellms_signatures_are_typed(litellms):
    """What stands in the signatures of `completion` and `Router` is typed here."""
    import litellm  # noqa: PLC0415 - as above

    functions = {litellm.completion: CHAT, litellm.Router.__init__: ROUTER}  # noqa: TID251 - only its signature is read
    missing = {
        name
        for function, known in functions.items()
        for name in inspect.signature(function).parameters
        if name not in {*known, "self", "kwargs"}
    }

    assert missing == set()


@pytest.mark.parametrize("name", ["max_new_tokens", "top_a", "repeat_penalty", "guided_json", "chat_template_kwargs"])
def test_providers_parameters_are_not_mistaken(name):
    """Parameters of vLLM, OpenRouter and others are no typing errors of LiteLLM's."""
    refuse_misspelt([name], CHAT)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"projetc": "acme"}, "projetc: unknown keyword, did you mean 'project'?"),
        ("acme", "a mapping or a UsageFilter"),
    ],
)
def test_a_filter_that_is_none_says_what_it_takes(client, given, says):
    """A misspelt fact names the right one; what is no mapping is told so."""
    with pytest.raises(InvalidRequestError, match=re.escape(says)):
        client.get_usage(given)


def test_the_package_shows_what_is_public():
    """`dir()` has no helper of ours, and a misspelt name of the package leads to its likely one."""
    plain = {name for name in dir(blueprint_llm) if not name.startswith("__")}
    with pytest.raises(AttributeError) as caught:
        blueprint_llm.LLMCient  # noqa: B018 - asking is the test

    assert plain == set(blueprint_llm.__all__)
    assert (caught.value.name, caught.value.obj) == ("LLMCient", blueprint_llm)
