"""Answers and provider errors that are odd and not broken, as a caller meets them: real servers, both clients."""

import json
import pickle  # noqa: TID251 - what process pools do to errors

import litellm
import pytest
from driving import CALLERS, KEY, MESSAGES, configuration
from provider_answers import ANSWERS, MODELS, claude, cohere, ollama, openai, words

from blueprint_llm import SyncLLMClient
from blueprint_llm.errors import AnswerInvalidError, CallError, ChainExhaustedError, ToolCallInvalidError
from blueprint_llm.testing import Answer, Cut, FaultServer, Recorded, Status
from blueprint_llm.tools.approval import ApprovalDecision
from blueprint_llm.types import Tool

# LiteLLM keeps connections of its own to some providers, which nothing closes.
pytestmark = [
    pytest.mark.usefixtures("collected", "litellm_warm"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]
GOOD = Answer("A good answer")
PAY = Tool(
    name="pay", parameters={"type": "object", "properties": {"amount": {"type": "integer"}}, "required": ["amount"]}
)
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "reply", "schema": SCHEMA}}
PAID = {"id": "c1", "type": "function", "function": {"name": "pay", "arguments": '{"amount": 5}'}}
CUSTOM = {"id": "c9", "type": "custom", "custom": {"name": "patch", "input": "*** Begin {"}}


@pytest.fixture(autouse=True)
def _at_home(monkeypatch):
    """For structured answers of Claude LiteLLM would fetch a list of headers from GitHub."""
    monkeypatch.setenv("LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS", "True")


@pytest.fixture(params=CALLERS, ids=lambda caller: caller.name)
def caller(request):
    """Each client."""
    return request.param


@pytest.fixture(params=["whole", "stream"])
def ask(request, caller):
    """A function that asks a whole answer or a stream."""
    return caller.chat if request.param == "whole" else caller.stream


def at(format_, server, **more):
    """A provider that speaks a format and lives at a server."""
    model, path = MODELS[format_]
    return {"model": model, "api_key": KEY, "api_base": server.url.removesuffix("/v1") + path, **more}


def chain(*providers, **block):
    """A chain of providers p0, p1, ...."""
    given = {f"p{number}": provider for number, provider in enumerate(providers)}
    defaults = {"retry": {"base_s": 0.001}, "deadline": {"total_s": 5, "first_token_s": 2, "idle_s": 2}}
    blueprint = {"version": 1, "providers": given, "chains": {"default": list(given)}, **defaults, **block}
    return {"blueprint": blueprint}


def counts(*servers):
    """How many chat requests each server got; LiteLLM asks Ollama for the facts of a model as well."""
    return [sum("/api/show" not in request.path for request in server.requests) for server in servers]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_is_progress(caller, field):
    """A stream that reasons for longer than the wait for the first token is whole, and asked for once."""
    thinking = [{field: f"thought {number} "} for number in range(6)]
    slow = openai({"content": "Hi"}, *thinking, *words("Hi"))
    with FaultServer([GOOD], default=Recorded(slow.whole, slow.chunks, pace_s=0.12)) as server:
        caller.stream(chain(at("openai", server)))  # the first call of a process imports for seconds
        limits = {"total_s": 5, "first_token_s": 0.4, "idle_s": 0.4}
        heard = caller.stream(chain(at("openai", server), deadline=limits, retry={"max_attempts": 1}))

        assert (heard.error, heard.text, counts(server)) == (None, "Hi", [2])


@pytest.mark.parametrize(
    ("format_", "answer", "finish"),
    [
        pytest.param("anthropic", claude(), "stop", id="Claude: no content at all"),
        pytest.param("openai", openai({"content": ""}), "stop", id="OpenAI: a stop sequence at once"),
        pytest.param("openai", openai({"reasoning_content": "Hm"}, {"reasoning_content": "Hm"}, finish="length"),
                     "length", id="all tokens spent on reasoning"),
        pytest.param("ollama", ollama({}), "stop", id="Ollama: done at once"),
    ],
)  # fmt: skip
def test_empty_answers_are_answers(ask, format_, answer, finish):
    """An empty answer whose end is proven costs no second request and raises nothing."""
    with FaultServer(default=answer) as server, FaultServer(default=GOOD) as other:
        heard = ask(chain(at(format_, server), at("openai", other)))

        assert (heard.error, counts(server, other)) == (None, [1, 0])
        assert (heard.response.content, heard.response.finish_reason) == ("", finish)


REFUSALS = [
    pytest.param("anthropic", claude({"type": "text", "text": "I cannot help."}, stop="refusal"), id="Claude: prose"),
    pytest.param("openai", openai({"content": ""}, finish="content_filter"), id="OpenAI: nothing"),
]


@pytest.mark.parametrize(("format_", "answer"), REFUSALS)
@pytest.mark.parametrize("structured", [False, True])
def test_refusals_are_handed_over_once(ask, format_, answer, structured):
    """A refused answer is handed over, whatever format was asked for; plain fallbacks are not for it."""
    asked = {"response_format": FORMAT} if structured else {}
    with FaultServer(default=answer) as server, FaultServer(default=GOOD) as other:
        heard = ask(chain(at(format_, server), at("openai", other)), **asked)

        assert (heard.error, counts(server, other)) == (None, [1, 0])
        assert "good" not in heard.response.content


def test_a_refusal_in_a_field_of_its_own_is_handed_over_once(ask):
    """OpenAI's `refusal` beside `stop` and no text is a refusal, also in a stream, where LiteLLM drops it."""
    refused = openai({"refusal": "No."}, {"refusal": "N"}, {"refusal": "o."})
    with FaultServer(default=refused) as server, FaultServer(default=GOOD) as other:
        heard = ask(chain(at("openai", server), at("openai", other)), response_format=FORMAT)

        assert (heard.error, counts(server, other)) == (None, [1, 0])
        assert heard.response.message["refusal"] == "No."


@pytest.mark.parametrize(("format_", "answer"), REFUSALS)
def test_refusals_go_to_the_fallbacks_that_are_for_them(ask, format_, answer):
    """With LiteLLM's `content_policy_fallbacks` for its group a refused answer goes there."""
    with FaultServer(default=answer) as server, FaultServer(default=GOOD) as other:
        groups = {"wary": at(format_, server), "calm": at("openai", other)}
        config = {
            "model_list": [{"model_name": name, "litellm_params": params} for name, params in groups.items()],
            "router_settings": {"content_policy_fallbacks": [{"wary": ["calm"]}]},
        }
        heard = ask(config, model="wary")

        assert (heard.error, counts(server, other)) == (None, [1, 1])
        assert heard.response.content == "A good answer"


def wary(answer, *others, attempts=1):
    """A group whose server gives an answer, with providers that are there for what it refuses."""
    params = {f"p{number}": at("openai", other) for number, other in enumerate(others)}
    config = chain(*params.values(), retry={"max_attempts": attempts, "base_s": 0.001})
    config["model_list"] = [{"model_name": "wary", "litellm_params": at("openai", answer)}]
    config["router_settings"] = {"content_policy_fallbacks": [{"wary": [*params]}], "num_retries": 0}
    return config


SORRY = openai({"content": "Sorry, no."}, *words("Sorry, ", "no."), finish="content_filter")
NO_HELP = [
    pytest.param(Status(503), id="down"),
    pytest.param(Status(401), id="its key is refused"),
    pytest.param(Status(400, "no", error_code="content_policy_violation"), id="it turns the request down"),
    pytest.param(Cut(0), id="its stream breaks before anything"),
]


@pytest.mark.parametrize("step", NO_HELP)
@pytest.mark.parametrize("answer", [SORRY, REFUSALS[1].values[1]], ids=["prose", "nothing"])
def test_a_refusal_whose_fallbacks_fail_is_handed_over(ask, answer, step):
    """A refused answer is an answer: where nobody who is there for it has another one, the caller gets it as it was."""
    with FaultServer(default=answer) as server, FaultServer(default=step) as other:
        heard = ask(wary(server, other), model="wary")

        assert (heard.error, counts(server, other)) == (None, [1, 1])
        assert heard.response.finish_reason == "content_filter"
        assert heard.response.content == (answer.whole["choices"][0]["message"]["content"] or "")
        assert heard.text in {"", heard.response.content}
        assert not [chunk for chunk in heard.chunks if chunk.restart]
        trace = heard.response.metadata["trace"]
        assert trace["attempts"][0]["category"] == "content_policy"
        assert len(trace["attempts"]) == 2
        assert trace["served_by"].startswith("wary/")


def test_a_refusal_behind_half_an_answer_of_its_fallback_comes_again(caller):
    """What a fallback had shown before it broke is void: the refused answer is announced and comes again whole."""
    with FaultServer(default=SORRY) as server, FaultServer(default=Cut(2, answer=Answer("Half of it is"))) as other:
        heard = caller.stream(wary(server, other), model="wary")

        assert (heard.error, heard.text, heard.response.content) == (None, "Sorry, no.", "Sorry, no.")
        assert [chunk.error.category for chunk in heard.chunks if chunk.restart] == ["content_policy", "stream_broken"]
        assert [chunk.is_done for chunk in heard.chunks][-1]


def test_the_last_of_several_refusals_is_handed_over(ask):
    """Where those who are there for it refuse as well, the last refusal is the answer; each was booked as one."""
    last = openai({"content": "Me neither."}, *words("Me ", "neither."), finish="content_filter")
    with FaultServer(default=SORRY) as server, FaultServer(default=last) as other:
        heard = ask(wary(server, other), model="wary")

        assert (heard.error, counts(server, other)) == (None, [1, 1])
        assert (heard.response.content, heard.response.provider) == ("Me neither.", "p0")
        assert heard.chunks == [] or heard.text == "Me neither."
        rows = heard.response.metadata["trace"]["attempts"]
        assert [(row["category"], row["cost_usd"] > 0, row["maybe_billed"]) for row in rows] == [
            ("content_policy", True, False)
        ] * 2


def test_a_broken_answer_before_an_empty_refusal_stays_void(caller):
    """Text of a stream that broke is not made to stand by a refusal, without a word, of the next try."""
    broken, empty = Cut(2, answer=Answer("Half of it is")), REFUSALS[1].values[1]
    with FaultServer([broken, empty]) as server, FaultServer(default=Status(503)) as other:
        heard = caller.stream(wary(server, other, attempts=2), model="wary")

        assert (heard.error, heard.text, heard.response.content) == (None, "", "")
        assert [chunk.error.category for chunk in heard.chunks if chunk.restart][-1] == "unavailable"


def test_a_cut_answer_is_handed_over(ask):
    """A structured answer that its limit cut comes with `length`, once."""
    with FaultServer(default=openai({"content": '{"ok'}, *words('{"ok'), finish="length")) as server:
        heard = ask(chain(at("openai", server)), response_format=FORMAT)

        assert (heard.error, counts(server)) == (None, [1])
        assert (heard.response.content, heard.response.finish_reason) == ('{"ok', "length")


def test_text_beside_a_call_passes_under_a_schema(ask):
    """The schema binds an answer that calls nothing: the call comes out, and its text."""
    said = {"content": "Let me pay first."}
    opening = {"tool_calls": [{"index": 0, **PAID}]}
    with FaultServer(default=openai({**said, "tool_calls": [PAID]}, said, opening, finish="tool_calls")) as server:
        heard = ask(chain(at("openai", server)), response_format=FORMAT, tools=[PAY])

        assert (heard.error, counts(server)) == (None, [1])
        assert [call.arguments for call in heard.response.tool_calls] == [{"amount": 5}]
        assert heard.response.content == "Let me pay first."


def test_a_wrong_structured_answer_is_an_error_of_its_own(ask):
    """Prose in place of JSON is asked for again once, then raised as an invalid answer, not as an invalid call."""
    with FaultServer(default=openai({"content": "Sure."}, *words("Sure."))) as server:
        heard = ask(chain(at("openai", server)), response_format=FORMAT)

        assert (type(heard.error), counts(server)) == (AnswerInvalidError, [2])


SAID = {"content": f"Paying with {KEY} now.", "reasoning_content": "Five, then."}
MISPAID = {**PAID, "function": {"name": "pay", "arguments": '{"amount": "five"}'}}
RECEIVED = {
    "tools": (openai({**SAID, "tool_calls": [MISPAID]}, SAID, {"tool_calls": [{"index": 0, **MISPAID}]},
                     finish="tool_calls"), {"tools": [PAY]}, ToolCallInvalidError),
    "text": (openai(SAID, SAID), {"response_format": FORMAT}, AnswerInvalidError),
}  # fmt: skip


@pytest.mark.parametrize(("answer", "asked", "kind"), RECEIVED.values(), ids=RECEIVED)
def test_an_invalid_answer_is_on_its_error(ask, answer, asked, kind):
    """What was received is on the error, secrets masked; it is in no text and not in a pickle."""
    with FaultServer(default=answer) as server:
        error = ask(chain(at("openai", server), streaming={"reask": 0}), **asked).error

    assert type(error) is kind
    assert error.message_received["content"].startswith("Paying with ")
    assert error.message_received["reasoning_content"] == "Five, then."
    if kind is ToolCallInvalidError:
        assert '"five"'.startswith(error.message_received["tool_calls"][0]["function"]["arguments"][11:15])
    assert KEY not in str(error.message_received)
    assert "Paying" not in f"{error} {error!r} {error.trace}"
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - made on the line itself
    assert (type(again), again.code, again.message_received) == (kind, error.code, None)


def test_custom_calls_are_handed_over(ask):
    """A custom tool's call, which is not ours to judge, comes as it is."""
    answer = openai({"tool_calls": [CUSTOM]}, {"tool_calls": [{"index": 0, **CUSTOM}]}, finish="tool_calls")
    with FaultServer(default=answer) as server:
        heard = ask(chain(at("openai", server)), tools=[PAY])

        assert (heard.error, counts(server)) == (None, [1])
        assert heard.response.message["tool_calls"][0]["custom"]["input"] == "*** Begin {"


def test_two_whole_calls_on_one_index_are_two(caller):
    """Whole calls of two tools, both on index 0 and without ids, come out as two."""
    now = Tool(name="now", parameters={"type": "object", "properties": {}})
    deltas = [
        {"tool_calls": [{"index": 0, "function": {"name": "pay", "arguments": '{"amount": 5}'}}]},
        {"tool_calls": [{"index": 0, "function": {"name": "now", "arguments": "{}"}}]},
    ]
    with FaultServer(default=openai({}, *deltas, finish="tool_calls")) as server:
        heard = caller.stream(chain(at("openai", server)), tools=[PAY, now])

        assert (heard.error, counts(server)) == (None, [1])
        assert [call.name for call in heard.response.tool_calls] == ["pay", "now"]


def weather(city: str) -> str:
    """Tell the weather."""
    return f"sunny in {city}"


USED = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}}
FIRST = {"type": "text", "text": "Let me look first."}


@pytest.mark.parametrize(
    ("turns", "asked", "content"),
    [
        pytest.param([claude(USED, stop="tool_use"), claude()], {}, "", id="nothing to add to a tool's result"),
        pytest.param(
            [claude(FIRST, USED, stop="tool_use"), claude({"type": "text", "text": '{"ok": true}'})],
            {"response_format": FORMAT},
            '{"ok": true}',
            id="text beside the call, then the structured answer",
        ),
    ],
)
def test_a_run_ends_with_one_request_a_turn(turns, asked, content):
    """The agent loop executes the call and takes the turn behind it as it is: two turns are two requests."""
    with FaultServer(turns) as server:
        config = chain(at("anthropic", server))
        with SyncLLMClient(
            config, approver=lambda batch: [ApprovalDecision(decision="approve")] * len(batch)
        ) as client:
            client.register_tool(weather)
            run = client.run(messages=[{"role": "user", "content": "How is Paris?"}], **asked)

        assert (run.stop, run.content, counts(server)) == ("done", content, [2])
        assert [result.status for result in run.tool_results] == ["ok"]


SEARCH = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "Paris"}}


def test_a_run_goes_on_where_claude_has_paused():
    """`pause_turn`, in the middle of its own tools' work, is no end: the message goes back as it is."""
    with FaultServer([claude(FIRST, SEARCH, stop="pause_turn"), claude({"type": "text", "text": "Sunny."})]) as server:
        with SyncLLMClient(chain(at("anthropic", server))) as client:
            client.register_tool(weather)
            run = client.run(messages=[{"role": "user", "content": "How is Paris?"}])
        sent = server.requests[-1].body["messages"]

        assert (run.stop, run.content, counts(server)) == ("done", "Sunny.", [2])
        assert [(each["role"], each["content"][-1]["type"]) for each in sent] == [
            ("user", "text"),
            ("assistant", "server_tool_use"),
        ]


THOUGHT = {"type": "thinking", "thinking": "It is Paris.", "signature": "c2lnbmF0dXJl"}


def test_a_run_sends_back_what_it_received_with_a_wrong_call():
    """A wrong call is answered to the model behind the message that it came in, thoughts and signature included."""
    wrong = {**USED, "input": {"town": "Paris"}}
    with FaultServer([claude(THOUGHT, FIRST, wrong, stop="tool_use"), claude(FIRST)]) as server:
        with SyncLLMClient(chain(at("anthropic", server), streaming={"reask": 0})) as client:
            client.register_tool(weather)
            run = client.run(messages=[{"role": "user", "content": "How is Paris?"}])
        sent = server.requests[1].body["messages"]

    assert (run.stop, run.content) == ("done", "Let me look first.")
    assert [(block["type"], block.get("signature")) for block in sent[1]["content"]] == [
        ("thinking", "c2lnbmF0dXJl"),
        ("text", None),
        ("tool_use", None),
    ]
    assert "not run" in str(sent[2]["content"])


def test_a_run_that_fails_keeps_what_was_received():
    """`error.run` has the text that came with the answer that ended it; the broken call is not in its messages."""
    wrong = claude(FIRST, {**USED, "input": {"town": "Paris"}}, stop="tool_use")
    with FaultServer(default=wrong) as server:
        config = chain(at("anthropic", server), streaming={"reask": 0}, tools={"loop": {"max_denials": 0}})
        with SyncLLMClient(config) as client:
            client.register_tool(weather)
            with pytest.raises(ToolCallInvalidError) as caught:
                client.run(messages=[{"role": "user", "content": "How is Paris?"}])

    assert (caught.value.run.stop, caught.value.run.content) == ("error", "Let me look first.")
    assert [message.role for message in caught.value.run.messages] == ["user"]
    assert caught.value.message_received["tool_calls"][0]["function"]["name"] == "weather"


def test_an_error_in_a_begun_stream_goes_on(caller):
    """Ollama's error in mid-stream, under HTTP 200, is a break: the next target begins again in-band."""
    sound = ollama({"content": "abc"}, *words("abc"))
    broken = Recorded({}, (sound.chunks[0], {"error": "unexpected EOF"}))
    with FaultServer(default=broken) as server, FaultServer(default=GOOD) as other:
        heard = caller.stream(chain(at("ollama", server), at("openai", other), retry={"max_attempts": 1}))

        assert (heard.error, heard.text, counts(server, other)) == (None, "A good answer", [1, 1])
        assert [chunk.error.category for chunk in heard.chunks if chunk.restart] == ["stream_broken"]


def test_an_error_in_place_of_the_first_chunk_goes_on(caller):
    """Ollama's error under HTTP 200 with nothing before it is no fault of the request: the next target, unseen."""
    broken = Recorded({}, ({"error": "model runner has unexpectedly stopped"},))
    with FaultServer(default=broken) as server, FaultServer(default=GOOD) as other:
        heard = caller.stream(chain(at("ollama", server), at("openai", other), retry={"max_attempts": 1}))

        assert (heard.error, heard.text, counts(server, other)) == (None, "A good answer", [1, 1])
        assert not [chunk for chunk in heard.chunks if chunk.restart]
        assert heard.response.trace["attempts"][0]["category"] == "stream_broken"


PLAIN = [
    pytest.param(429, "you (bob) have reached your session usage limit, please wait", None, id="Ollama's cloud"),
    pytest.param(403, "Content violates usage guidelines. Failed check: BIO", "content_policy", id="xAI: content"),
    pytest.param(400, "This model's maximum prompt length is 9 but there are 12.", "context_length", id="xAI: length"),
]


@pytest.mark.parametrize(("status", "words_", "category"), PLAIN)
def test_an_error_that_is_no_object_is_read(ask, status, words_, category):
    """`{"error": "..."}`, of which LiteLLM's message has only the status, means what it says, and is shown."""
    refused = Status(status, body={"code": "The caller did something", "error": words_})
    with FaultServer(default=refused) as server, FaultServer(default=GOOD) as other:
        heard = ask(chain(at("openai", server), at("openai", other)))

        assert counts(server, other) == [1, int(category is None)]
        if category is None:
            assert heard.response.trace["attempts"][0]["code"] == "usage_limit"
        else:
            assert heard.error.category == category
            assert words_ in str(heard.error)


def test_a_wait_in_a_field_of_a_body_is_obeyed(ask):
    """A field that LiteLLM's message leaves out is a wait like a header."""
    slow = Status(429, body={"error": {"message": "Slow down.", "type": "rate_limit", "retry_after": 0.25}})
    with FaultServer([slow], default=GOOD) as server:
        heard = ask(chain(at("openai", server)))
        first, second = [request.at for request in server.requests]

        assert heard.error is None
        assert second - first >= 0.25


USAGE_LIMIT = {
    "type": "error",
    "error": {
        "type": "invalid_request_error",
        "message": "You have reached your specified API usage limits. You will regain access on 2099-01-01.",
    },
}


def test_a_usage_limit_is_one_providers_own(ask):
    """A 400 that says that the account's usage limit is reached goes on to the next target."""
    with FaultServer(default=Status(400, body=USAGE_LIMIT)) as server, FaultServer(default=GOOD) as other:
        heard = ask(chain(at("anthropic", server), at("openai", other)))

        assert (heard.error, counts(server, other)) == (None, [1, 1])
        first = heard.response.metadata["trace"]["attempts"][0]
        assert (first["category"], first["code"]) == ("refused", "usage_limit")


def test_an_account_at_its_usage_limit_rests():
    """The next call does not ask the account again: its limit does not mend itself in seconds."""
    with FaultServer(default=Status(400, body=USAGE_LIMIT)) as server, FaultServer(default=GOOD) as other:
        with SyncLLMClient(chain(at("anthropic", server), at("openai", other))) as client:
            for _ in range(3):
                client.chat(messages=[{"role": "user", "content": "hi"}])

        assert counts(server, other) == [1, 3]


def test_a_schema_error_that_quotes_it_is_not(ask):
    """A 400 that merely quotes such words stops at the first target."""
    message = "Invalid schema for function 'pay': 'You have reached your specified API usage limits' is not allowed."
    with FaultServer(default=Status(400, message)) as server, FaultServer(default=GOOD) as other:
        heard = ask(chain(at("openai", server), at("openai", other)))

        assert (heard.error.category, counts(server, other)) == ("invalid_request", [1, 0])


def test_what_litellm_does_not_send_to_a_model_goes_on(ask):
    """A parameter that LiteLLM refuses for the first model, without asking anybody, may suit the second."""
    with FaultServer(default=GOOD) as server, FaultServer(default=GOOD) as other:
        config = chain(at("openai", server) | {"model": "openai/gpt-5"}, at("openai", other))
        heard = ask(config, temperature=0.2)

        assert (heard.error, counts(server, other)) == (None, [0, 1])


def test_a_short_wait_in_a_body_is_obeyed(ask):
    """What a body asks to wait is waited, like a header."""
    slow = Status(429, "Rate limit reached for gpt-4o on requests per min. Please try again in 0.25s. Visit https://x.")
    with FaultServer([slow], default=GOOD) as server, FaultServer(default=GOOD) as other:
        heard = ask(chain(at("openai", server), at("openai", other)))
        first, second = [request.at for request in server.requests]

        assert (heard.error, counts(server, other)) == (None, [2, 0])
        assert second - first >= 0.25


def test_a_long_wait_in_a_body_is_not_waited_for(ask):
    """Six minutes are more than anyone waits: the next target is asked at once."""
    slow = Status(429, "Rate limit reached for gpt-4o. Please try again in 6m0s.")
    with FaultServer(default=slow) as server, FaultServer(default=GOOD) as other:
        heard = ask(chain(at("openai", server), at("openai", other)))

        assert (heard.error, counts(server, other)) == (None, [1, 1])


def test_an_outage_is_not_multiplied():
    """Sixty calls while the first of two targets answers 503 cost it at most 1.2 times as many, with no settings."""
    with FaultServer(default=Status(503)) as server, FaultServer(default=GOOD) as other:
        config = configuration(server.url, other.url)
        config["blueprint"].pop("retry")
        with SyncLLMClient.from_config(config) as client:
            for _ in range(60):
                client.chat(messages=[{"role": "user", "content": "hello"}])

        assert counts(server)[0] <= 72
        assert counts(other)[0] == 60


def test_a_refused_key_says_which_and_what_to_do(ask):
    """A 401 names the key's source and the command that replaces it, in the error of a chain as well."""
    with FaultServer(default=Status(401, "Incorrect API key provided: sk-1.")) as server:
        heard = ask(chain(at("openai", server), at("openai", server)))

        assert isinstance(heard.error, ChainExhaustedError)
        assert "the key came from the configuration" in str(heard.error)
        assert "blueprint-llm keys set p0" in str(heard.error)
        assert KEY not in str(heard.error)


def test_an_unreachable_provider_is_named_by_its_address(ask):
    """Where nobody listens, the error says where."""
    with FaultServer() as server:
        gone = server.url
    heard = ask(configuration(gone, retry={"max_attempts": 1}))

    assert isinstance(heard.error, CallError)
    assert gone.removesuffix("/v1") in str(heard.error)


def test_reasoning_before_structured_text_is_taken(caller):
    """`<think>` before the JSON of a stream is taken as LiteLLM takes it in a whole answer."""
    text = '<think>Is it?</think>{"ok": true}'
    with FaultServer(default=openai({"content": text}, *words(text[:9], text[9:]))) as server:
        whole = caller.chat(chain(at("openai", server)), response_format=FORMAT)
        streamed = caller.stream(chain(at("openai", server)), response_format=FORMAT)

        assert (whole.error, streamed.error, counts(server)) == (None, None, [2])
        assert json.loads(whole.response.content) == {"ok": True}


@pytest.mark.parametrize("name", ["openai: several", "anthropic: hidden thinking", "anthropic: two searches"])
def test_every_piece_of_litellms_stands_at_a_chunk(caller, name):
    """Other answers' texts, signatures, fields of a provider's: what has no field of ours is at some chunk's `raw`."""
    format_, _, case = name.partition(": ")
    params, recorded = ANSWERS[format_][case]
    with FaultServer(default=recorded) as server:
        provider = at(format_, server)
        heard = caller.stream(chain(provider), messages=MESSAGES, **params)
        stream = list(litellm.completion(**provider, messages=MESSAGES, stream=True, **params))

    def told(chunks):
        deltas = [choice.model_dump()["delta"] for chunk in chunks for choice in chunk.choices]
        said = [{key: value for key, value in each.items() if value and key != "role"} for each in deltas]
        return [each for each in said if each]

    assert told(chunk.raw for chunk in heard.chunks if chunk.raw) == told(stream)


def test_a_text_that_an_unknown_limit_cut_is_handed_over(ask):
    """Whole or streamed: LiteLLM writes "stop" for Mistral's `model_length`."""
    with FaultServer(default=Answer("Once upon a", finish_reason="model_length")) as server:
        heard = ask(configuration(server.url), messages=MESSAGES)

    assert (heard.error, heard.response.content, len(server.requests)) == (None, "Once upon a", 1)


def test_what_coheres_limit_cut_is_handed_over(ask):
    """Its end and its usage are in an event that LiteLLM looks for elsewhere: without them every stream is broken."""
    with FaultServer(default=cohere("Once upon a", finish="MAX_TOKENS")) as server:
        heard = ask(chain(at("cohere", server)), messages=MESSAGES)

    assert (heard.error, heard.response.content, heard.response.finish_reason) == (None, "Once upon a", "length")
    assert (heard.response.usage.source, heard.response.usage.total_tokens) == ("provider", 29)
