"""OpenTelemetry: what the SDK's own in-memory exporters receive, by the conventions for generative AI."""

import json
import subprocess
import sys

import pytest
from asking import KINDS, asking
from driving import KEY
from endpoint_server import READ, WRITTEN, Endpoints
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from serving import serving

from blueprint_llm import LLMClient, Router, SyncLLMClient, ToolCall, litellm
from blueprint_llm.engine.otel import CAPTURE
from blueprint_llm.errors import BlueprintError, BudgetExceededError, ToolCallInvalidError
from blueprint_llm.testing import Answer, BrokenTool, FaultServer, ScriptedAdapter, Status, ToolUse

SAID = "a question nobody may see"
MESSAGES = [{"role": "user", "content": SAID}]
SECOND = 10**9


def configured(**blueprint):
    """Two providers of different vendors, one attempt each."""
    providers = {"p0": {"model": "openai/gpt-4o", "api_key": KEY}}
    providers["p1"] = {"model": "mistral/mistral-large-latest", "api_key": KEY}
    return {"blueprint": {"providers": providers, "retry": {"max_attempts": 1}, "streaming": {"reask": 0}, **blueprint}}


class Began(SpanProcessor):
    """What spans begin with, by name."""

    def __init__(self):
        self.seen = {}

    def on_start(self, span, parent_context=None):
        """Note its first attributes."""
        self.seen[span.name] = dict(span.attributes)


BEGAN = Began()


@pytest.fixture(scope="module")
def exporters():
    """The process's providers, which can be set once; behind these tests they keep nothing more."""
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, meters = TracerProvider(), MeterProvider([reader])
    tracers.add_span_processor(BEGAN)
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)
    yield spans, reader
    spans.shutdown()


@pytest.fixture
def spans(exporters):
    """The finished spans by name."""
    exporters[0].clear()
    return lambda: {span.name: span for span in exporters[0].get_finished_spans()}


@pytest.fixture(params=KINDS)
def ask(request):
    """Makes an open client of either kind with scripted providers p0 and p1."""
    opened = []

    def open_client(*steps, **blueprint):
        adapters = {f"p{n}": ScriptedAdapter([step], provider=f"p{n}") for n, step in enumerate(steps)}
        opened.append(asking(request.param, configured(**blueprint), adapters=adapters))
        return opened[-1].__enter__()

    yield open_client
    for each in opened:
        each.__exit__(None, None, None)


def points(exporters, name, model):
    """The data points of a metric for one model."""
    found = exporters[1].get_metrics_data().resource_metrics[0].scope_metrics
    listed = [metric for scope in found for metric in scope.metrics if metric.name == name]
    return [point for point in listed[0].data.data_points if point.attributes.get("gen_ai.request.model") == model]


def test_a_chat_is_a_span(ask, spans):
    """A call is one client span named by its model, with the request, the answer, its tokens and cost."""
    asking = ask(Answer("Hello.", usage=(12, 9)))

    response = asking.chat(messages=MESSAGES, temperature=0.5, max_tokens=50, session="s-1")

    span = spans()["chat openai/gpt-4o"]
    assert span.kind is trace.SpanKind.CLIENT
    assert span.status.status_code is trace.StatusCode.UNSET
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "openai/gpt-4o",
        "gen_ai.response.model": "openai/gpt-4o",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 50,
        "gen_ai.conversation.id": "s-1",
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 9,
        "blueprint.cost_usd": response.usage.estimated_cost,
        "blueprint.trace_id": response.trace["id"],
    }
    assert {name: span.attributes.get(name) for name in expected} == expected


def test_the_drop_in_is_a_span(spans, litellm_warm):
    """LiteLLM's keywords are told alike where they come through the drop-in Router."""
    with FaultServer([Answer("Hello.")]) as server:
        params = {"model": "openai/gpt-4o", "api_base": server.url, "api_key": KEY}
        router = Router(model_list=[{"model_name": "group", "litellm_params": params}])
        router.completion(model="group", messages=MESSAGES, temperature=0.5, stop="end", max_tokens=50)

    told = spans()["chat openai/gpt-4o"].attributes
    assert told["gen_ai.request.temperature"] == 0.5
    assert told["gen_ai.request.stop_sequences"] == ("end",)
    assert told["gen_ai.request.max_tokens"] == 50
    assert told["gen_ai.usage.output_tokens"] > 0
    assert told["gen_ai.response.finish_reasons"] == ("stop",)
    assert spans()["attempt group"].parent.span_id == spans()["chat openai/gpt-4o"].context.span_id


def test_other_endpoints_of_the_drop_in_are_spans(spans, litellm_warm):
    """They are named as the conventions have it, with their usage, whole or streamed; a failure has its error."""
    with serving(Endpoints) as (_, url):
        asked = {"api_base": url, "api_key": KEY}
        litellm.embedding(model="openai/text-embedding-3-small", input=["x"], **asked)
        list(litellm.responses(model="openai/gpt-4o", input="hi", stream=True, **asked))

    assert spans()["embeddings openai/text-embedding-3-small"].attributes["gen_ai.usage.input_tokens"] == READ
    assert spans()["chat openai/gpt-4o"].attributes["gen_ai.usage.output_tokens"] == WRITTEN


def test_a_failed_call_of_the_drop_in_is_a_span(spans, litellm_warm):
    """With the class of the error, as its caller saw it."""
    with FaultServer([Status(400, "no")]) as server, pytest.raises(litellm.BadRequestError):
        litellm.completion(model="openai/gpt-4o", messages=MESSAGES, api_base=server.url, api_key=KEY)

    assert spans()["chat openai/gpt-4o"].attributes["error.type"] == "BadRequestError"


def test_a_sampler_can_decide(ask, spans):
    """Operation, provider and model are there when a span begins, so that a sampler may choose by them."""
    ask(Answer("Hello.")).chat(messages=MESSAGES)

    assert BEGAN.seen["chat openai/gpt-4o"] == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "openai/gpt-4o",
    }


def test_a_stream_is_a_span(ask, spans):
    """A stream's span ends with the stream and tells when the first token came."""
    ask(Answer("Hello there you")).stream(messages=MESSAGES)

    assert spans()["chat openai/gpt-4o"].attributes["gen_ai.usage.output_tokens"] == 9
    assert spans()["attempt p0"].attributes["blueprint.ttft_s"] >= 0


def test_attempts_are_spans_below_the_call(ask, spans):
    """A fallback stays one call: each attempt is a child inside its time, the failed one with the category."""
    asking = ask(Status(503, "down"), Answer("Saved."))

    asking.chat(messages=MESSAGES)

    call, first, second = (spans()[name] for name in ("chat openai/gpt-4o", "attempt p0", "attempt p1"))
    assert {first.parent.span_id, second.parent.span_id} == {call.context.span_id}
    assert (first.attributes["error.type"], "error.type" in second.attributes) == ("unavailable", False)
    assert call.attributes["gen_ai.response.model"] == "mistral/mistral-large-latest"
    assert call.attributes["gen_ai.provider.name"] == "mistral_ai"
    assert call.start_time <= first.start_time <= second.start_time <= second.end_time <= call.end_time + SECOND // 1000


async def test_a_call_nests_below_the_callers_span(spans):
    """The caller's current span is the call's parent, also of an asynchronous one."""
    with trace.get_tracer("test").start_as_current_span("request") as outer:
        async with LLMClient(configured(), adapters={"p0": ScriptedAdapter([Answer("Hello.")])}) as client:
            await client.chat(messages=MESSAGES)

    assert spans()["chat openai/gpt-4o"].parent.span_id == outer.get_span_context().span_id


def test_a_failed_call_has_its_error(ask, spans, exporters):
    """A call that fails is a span with status error and the error's class, and a duration with it."""
    asking = ask(Status(400, "no"), Status(400, "no"))
    with pytest.raises(BlueprintError) as caught:
        asking.chat(messages=MESSAGES)

    span = spans()["chat openai/gpt-4o"]
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.attributes["error.type"] == type(caught.value).__name__
    durations = points(exporters, "gen_ai.client.operation.duration", "openai/gpt-4o")
    assert type(caught.value).__name__ in {point.attributes.get("error.type") for point in durations}


def test_a_blocked_call_is_a_span(ask, spans):
    """A call that a budget stops is seen too, though no request was sent."""
    asking = ask(Answer("never"), budgets=[{"scope": "project", "limit_usd": 0}], project="acme")
    with pytest.raises(BudgetExceededError):
        asking.chat(messages=MESSAGES)

    (span,) = spans().values()
    assert (span.name, span.attributes["error.type"]) == ("chat", "BudgetExceededError")


def test_an_abandoned_stream_is_a_span(spans):
    """Leaving a stream early ends its span as abandoned."""
    adapter = ScriptedAdapter([Answer("one two three")])
    with SyncLLMClient(configured(), adapters={"p0": adapter}) as client:
        for _ in client.stream(messages=MESSAGES):
            break

    assert spans()["chat openai/gpt-4o"].attributes["error.type"] == "abandoned"
    assert spans()["attempt p0"].attributes["error.type"] == "abandoned"


def test_tokens_and_durations_are_metrics(exporters):
    """Both metrics of the convention count a call, tokens by their type; a hit of the cache used none."""
    config = configured(providers={"p0": {"model": "xai/grok-of-this-test", "api_key": KEY}}, cache={"enabled": True})
    with SyncLLMClient(config, adapters={"p0": ScriptedAdapter([Answer("Hello.", usage=(12, 9))])}) as client:
        client.chat(messages=MESSAGES)
        client.chat(messages=MESSAGES)

    tokens = points(exporters, "gen_ai.client.token.usage", "xai/grok-of-this-test")
    (took,) = points(exporters, "gen_ai.client.operation.duration", "xai/grok-of-this-test")
    assert {point.attributes["gen_ai.token.type"]: (point.count, point.sum) for point in tokens} == {
        "input": (1, 12),
        "output": (1, 9),
    }
    assert (took.count, took.attributes["gen_ai.provider.name"]) == (2, "x_ai")
    assert tokens[0].explicit_bounds[:3] == (1, 4, 16)
    assert took.explicit_bounds[:3] == (0.01, 0.02, 0.04)


def test_a_tool_is_a_span(spans, tmp_path):
    """A tool's run is a current span, so a call inside nests below it; a failure has its status."""

    def ask_back() -> str:
        """Ask a model."""
        return client.chat(messages=MESSAGES).content

    def fail() -> str:
        """Fail."""
        raise ValueError("no")

    tools = {"workspace": str(tmp_path), "rules": [{"allow": "ask_back"}, {"allow": "fail"}]}
    with SyncLLMClient(configured(tools=tools), adapters={"p0": ScriptedAdapter([Answer("Hello.")])}) as client:
        for tool in (ask_back, fail):
            client.register_tool(tool)
            client.execute_tool(ToolCall(id=f"call-{tool.__name__}", name=tool.__name__, arguments={}))

    ran, call, failed = (spans()[name] for name in ("execute_tool ask_back", "chat openai/gpt-4o", "execute_tool fail"))
    assert ran.kind is trace.SpanKind.INTERNAL
    assert ran.attributes["gen_ai.operation.name"] == "execute_tool"
    assert ran.attributes["gen_ai.tool.call.id"] == "call-ask_back"
    assert call.parent.span_id == ran.context.span_id
    assert failed.attributes["error.type"] == "error"


def test_parallel_tools_keep_their_parent(spans, tmp_path):
    """Tools that run side by side in threads are still below the caller's span."""
    calls = tuple(ToolUse("read_file", {"path": name}) for name in ("a", "b"))
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    adapter = ScriptedAdapter([Answer("", tool_calls=calls), Answer("Done.")])
    tools = {"workspace": str(tmp_path), "rules": [{"allow": "read_file"}]}
    here = trace.get_tracer("test").start_as_current_span("request")
    with SyncLLMClient(configured(tools=tools), adapters={"p0": adapter}) as client, here as outer:
        client.run(messages=MESSAGES)

    assert spans()["execute_tool read_file"].parent.span_id == outer.get_span_context().span_id


def test_texts_stay_out(ask, spans):
    """No attribute holds a message, an answer or an argument by default."""
    ask(Answer("an answer nobody may see")).chat(messages=MESSAGES)

    shown = repr([dict(span.attributes) for span in spans().values()])
    assert "nobody may see" not in shown


def test_texts_are_there_on_demand(spans, monkeypatch):
    """The standard's variable adds messages and answers in the convention's shape, calls and results too."""
    monkeypatch.setenv(CAPTURE, "true")
    answer = Answer("", tool_calls=(ToolUse("read", {"path": "x"}),))
    messages = [*MESSAGES, {"role": "tool", "tool_call_id": "1", "content": "seen"}]
    tools = [{"name": "read", "parameters": {"type": "object", "properties": {"path": {"type": "string"}}}}]
    with SyncLLMClient(configured(), adapters={"p0": ScriptedAdapter([answer])}) as client:
        client.chat(messages=messages, tools=tools)

    said = spans()["chat openai/gpt-4o"].attributes
    asked, answered = (json.loads(said[f"gen_ai.{way}.messages"]) for way in ("input", "output"))
    assert asked[0] == {"role": "user", "parts": [{"type": "text", "content": SAID}]}
    assert asked[1]["parts"] == [{"type": "tool_call_response", "id": "1", "response": "seen"}]
    (call,) = answered[0]["parts"]
    assert (call["type"], call["name"], call["arguments"]) == ("tool_call", "read", {"path": "x"})


@pytest.mark.parametrize("asked", ["true", ""])
def test_a_tools_texts_are_there_on_demand(spans, monkeypatch, tmp_path, asked):
    """Arguments and result of a tool are in its span only where the variable asks for them."""

    def double(number: int) -> int:
        """Double a number."""
        return 2 * number

    monkeypatch.setenv(CAPTURE, asked)
    tools = {"workspace": str(tmp_path), "rules": [{"allow": "double"}]}
    with SyncLLMClient(configured(tools=tools)) as client:
        client.register_tool(double)
        client.execute_tool(ToolCall(id="1", name="double", arguments={"number": 21}))

    said = spans()["execute_tool double"].attributes
    told = (said.get("gen_ai.tool.call.arguments"), said.get("gen_ai.tool.call.result"))
    assert told == (('{"number": 21}', "42") if asked else (None, None))


def test_secrets_stay_out_of_captured_texts(spans, monkeypatch):
    """A registered key in a message is masked in the span."""
    monkeypatch.setenv(CAPTURE, "true")
    monkeypatch.setenv("MISTRAL_API_KEY", "mk-0123456789abcdefghij")
    config = configured(providers={"p0": {"model": "mistral/mistral-large-latest"}})
    with SyncLLMClient(config, adapters={"p0": ScriptedAdapter([Answer("mk-0123456789abcdefghij")])}) as client:
        client.chat(messages=[{"role": "user", "content": "is mk-0123456789abcdefghij mine?"}])

    assert "mk-0123456789abcdefghij" not in repr(dict(spans()["chat mistral/mistral-large-latest"].attributes))


def test_an_invalid_tool_call_is_an_error(ask, spans):
    """What the validator refused ends the span with the error's class."""
    asking = ask(BrokenTool(), BrokenTool())
    with pytest.raises(ToolCallInvalidError):
        asking.chat(messages=MESSAGES, tools=[{"name": "get_weather"}])

    assert spans()["attempt p0"].attributes["error.type"] == "malformed"


NOBODY = """
import sys
from blueprint_llm import SyncLLMClient
from blueprint_llm.testing import Answer, ScriptedAdapter
config = {"blueprint": {"providers": {"p0": {"model": "openai/gpt-4o", "api_key": "k"}}}}
with SyncLLMClient(config, adapters={"p0": ScriptedAdapter([Answer("Hello.")])}) as client:
    print(client.chat(messages=[{"role": "user", "content": "hi"}]).content)
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""


def test_nothing_is_loaded_where_nobody_listens():
    """A program that does not use OpenTelemetry does not pay for it: its modules are never imported."""
    ran = subprocess.run([sys.executable, "-c", NOBODY], capture_output=True, text=True, timeout=60, check=True)

    assert ran.stdout == "Hello.\n[]\n"


def test_a_loaded_interface_is_no_listener():
    """Nobody listens before the program has set a provider: LiteLLM loads OpenTelemetry by itself."""
    program = (
        "from opentelemetry import metrics, trace\nfrom blueprint_llm.engine import otel\nprint(otel.listened())\n"
        "from opentelemetry.sdk.trace import TracerProvider\ntrace.set_tracer_provider(TracerProvider())\n"
        "print(otel.listened())"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.split() == ["False", "True"]
