"""The same answers as five providers send them, in one piece and in many: what LiteLLM has to make the same of."""

from __future__ import annotations

from typing import Any

from blueprint_llm.testing import Recorded

TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
WORDS = ("A cat ", "sat on ", "the mat.")
THOUGHTS = ("First ", "I ", "think.")
ARGUMENTS = ('{"ci', 'ty": "Pa', 'ris"}')


def openai(
    message: dict[str, Any],
    *deltas: dict[str, Any],
    finish: str = "stop",
    usage: dict[str, Any] | None = None,
    logprobs: list[dict[str, Any]] | None = None,
    **around: Any,
) -> Recorded:
    """One answer in OpenAI's format; `around` stands beside the choices of the whole and of every chunk."""
    counted = usage or {"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21}
    stamp = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": "served-model", **around}
    said = {"index": 0, "message": {"role": "assistant", "content": None, **message}, "finish_reason": finish}
    if logprobs:
        said["logprobs"] = {"content": logprobs, "refusal": None}
    chunks: list[dict[str, Any]] = []
    for place, delta in enumerate(
        ({"role": "assistant", "content": None if message.get("content") is None else ""}, *deltas)
    ):
        choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": None}
        if logprobs and place:
            choice["logprobs"] = {"content": [logprobs[place - 1]], "refusal": None}
        chunks.append({**stamp, "object": "chat.completion.chunk", "choices": [choice]})
    end = {"index": 0, "delta": {}, "finish_reason": finish}
    chunks.append({**stamp, "object": "chat.completion.chunk", "choices": [end]})
    chunks.append({**stamp, "object": "chat.completion.chunk", "choices": [], "usage": counted})
    return Recorded({**stamp, "object": "chat.completion", "choices": [said], "usage": counted}, tuple(chunks))


def words(*pieces: str, field: str = "content") -> list[dict[str, Any]]:
    """A delta for each piece."""
    return [{field: piece} for piece in pieces]


def call(place: int = 0, name: str = "weather", **more: Any) -> dict[str, Any]:
    """A whole tool call of OpenAI's."""
    arguments = "".join(ARGUMENTS)
    return {"id": f"call_{place}", "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def call_deltas(place: int = 0, name: str = "weather", **more: Any) -> list[dict[str, Any]]:
    """The deltas of `call`."""
    opening = {"index": place, **call(place, name, **more)}
    opening["function"] = {"name": name, "arguments": ""}
    rest = [{"index": place, "function": {"arguments": piece}} for piece in ARGUMENTS]
    return [{"tool_calls": [piece]} for piece in (opening, *rest)]


def choices(first: dict[str, Any], second: dict[str, Any]) -> Recorded:
    """Two answers to one request, their chunks interleaved."""
    one, two = openai({"content": "".join(WORDS)}, *words(*WORDS)), openai({"content": "Two."}, *words("Tw", "o."))
    wholes = [one.whole["choices"][0] | first, two.whole["choices"][0] | {"index": 1} | second]
    chunks = []
    for left, right in zip(one.chunks[:-1], (*two.chunks[:-2], two.chunks[-2], two.chunks[-2]), strict=False):
        chunks += [left, {**right, "choices": [{**right["choices"][0], "index": 1}]}]
    return Recorded({**one.whole, "choices": wholes}, (*chunks[:-1], one.chunks[-1]))


LOGPROBS = [
    {"token": word, "logprob": -0.1, "bytes": [1], "top_logprobs": [{"token": word, "logprob": -0.1, "bytes": [1]}]}
    for word in WORDS
]
CITED = {
    "type": "url_citation",
    "url_citation": {"url": "https://example.org/a", "title": "A", "start_index": 0, "end_index": 4},
}
OTHER_CITED = CITED | {"url_citation": CITED["url_citation"] | {"url": "https://example.org/b", "title": "B"}}
DETAILS = {
    "prompt_tokens": 120,
    "completion_tokens": 90,
    "total_tokens": 210,
    "prompt_tokens_details": {"cached_tokens": 100, "audio_tokens": 3},
    "completion_tokens_details": {
        "reasoning_tokens": 40,
        "audio_tokens": 5,
        "accepted_prediction_tokens": 2,
        "rejected_prediction_tokens": 1,
    },
}
TEXT = openai(
    {"content": "".join(WORDS)}, *words(*WORDS), usage=DETAILS, system_fingerprint="fp_1", service_tier="flex"
)

OPENAI = {
    "text": ({}, TEXT),
    "logprobs": (
        {"logprobs": True, "top_logprobs": 1},
        openai({"content": "".join(WORDS)}, *words(*WORDS), logprobs=LOGPROBS),
    ),
    "refusal": ({}, openai({"refusal": "".join(WORDS)}, *words(*WORDS, field="refusal"))),
    "tools": (
        {"tools": [TOOL]},
        openai(
            {"tool_calls": [call(0), call(1, "other")]}, *call_deltas(0), *call_deltas(1, "other"), finish="tool_calls"
        ),
    ),
    "text and tools": (
        {"tools": [TOOL]},
        openai(
            {"content": "".join(WORDS), "tool_calls": [call(0)]}, *words(*WORDS), *call_deltas(0), finish="tool_calls"
        ),
    ),
    "several": ({"n": 2}, choices({}, {})),
    "annotations": (
        {},
        openai(
            {"content": "".join(WORDS), "annotations": [CITED, OTHER_CITED]},
            *words(*WORDS),
            {"annotations": [CITED]},
            {"annotations": [OTHER_CITED]},
        ),
    ),
    "audio": (
        {"modalities": ["text", "audio"]},
        openai(
            {"audio": {"id": "audio_1", "data": "QUJDREVG", "transcript": "".join(WORDS), "expires_at": 1_800_000_000}},
            {"audio": {"id": "audio_1", "transcript": WORDS[0]}},
            {"audio": {"data": "QUJD"}},
            {"audio": {"transcript": WORDS[1]}},
            {"audio": {"data": "REVG", "transcript": WORDS[2]}},
            {"audio": {"expires_at": 1_800_000_000}},
        ),
    ),
    "legacy call": (
        {"functions": [TOOL["function"]]},
        openai(
            {"function_call": {"name": "weather", "arguments": "".join(ARGUMENTS)}},
            {"function_call": {"name": "weather", "arguments": ""}},
            *({"function_call": {"arguments": piece}} for piece in ARGUMENTS),
            finish="function_call",
        ),
    ),
    "invented": (
        {},
        openai(
            {
                "content": "".join(WORDS),
                "hologram": "".join(THOUGHTS),
                "scene": {"kind": "3d", "text": "".join(THOUGHTS), "depth": 3},
                "layers": [{"index": 0, "kind": "a", "text": "xy"}, {"index": 1, "kind": "b", "text": "z"}],
                "tastes": ["sweet", "sour"],
            },
            *words(*WORDS),
            *words(*THOUGHTS, field="hologram"),
            *({"scene": {"kind": "3d", "text": piece, "depth": place + 1}} for place, piece in enumerate(THOUGHTS)),
            {"layers": [{"index": 0, "kind": "a", "text": "x"}]},
            {"layers": [{"index": 0, "kind": "a", "text": "y"}, {"index": 1, "kind": "b", "text": "z"}]},
            {"tastes": ["sweet"]},
            {"tastes": ["sour"]},
            galaxy={"arm": "orion"},
        ),
    ),
}

REASONED = openai(
    {"content": "".join(WORDS), "reasoning_content": "".join(THOUGHTS)},
    *words(*THOUGHTS, field="reasoning_content"),
    *words(*WORDS),
)
DEEPSEEK = {
    "reasoning": ({}, REASONED),
    "reasoning and a tool": (
        {"tools": [TOOL]},
        openai(
            {"content": "", "reasoning_content": "".join(THOUGHTS), "tool_calls": [call(0)]},
            *words(*THOUGHTS, field="reasoning_content"),
            *call_deltas(0),
            finish="tool_calls",
        ),
    ),
}
SEARCHED = openai(
    {"content": "".join(WORDS)},
    *words(*WORDS),
    usage={**DETAILS, "cost": {"input_tokens_cost": 0.001, "request_cost": 0.005, "total_cost": 0.006}},
    citations=["https://example.org/a"],
    search_results=[{"title": "A", "url": "https://example.org/a"}],
    x_request={"id": "r1"},
    system_fingerprint="fp_1",
    service_tier="flex",
)
DEEPSEEK["fields around"] = ({}, SEARCHED)
DETAIL = {"type": "reasoning.text", "format": "anthropic-claude-v1", "index": 0}
SEALED = {
    "type": "reasoning.encrypted",
    "format": "google-gemini-v1",
    "index": 0,
    "id": "call_0",
    "data": "ZW5jcnlwdGVk",
}
OPENROUTER = {
    "reasoning details": (
        {"tools": [TOOL]},
        openai(
            {
                "content": None,
                "reasoning": "".join(THOUGHTS),
                "reasoning_details": [{**DETAIL, "text": "".join(THOUGHTS), "signature": "c2ln"}],
                "tool_calls": [call(0)],
            },
            *({"reasoning": piece, "reasoning_details": [{**DETAIL, "text": piece}]} for piece in THOUGHTS),
            {"reasoning_details": [{**DETAIL, "signature": "c2ln"}]},
            *call_deltas(0),
            finish="tool_calls",
            usage={**DETAILS, "cost": 0.0423, "cost_details": {"upstream_inference_cost": 0.04}},
            provider="Anthropic",
        ),
    ),
    "sealed reasoning": (
        {"tools": [TOOL]},
        openai(
            {
                "content": None,
                "reasoning": "".join(THOUGHTS),
                "reasoning_details": [{**DETAIL, "text": "".join(THOUGHTS)}, SEALED],
                "tool_calls": [call(0)],
            },
            *({"reasoning": piece, "reasoning_details": [{**DETAIL, "text": piece}]} for piece in THOUGHTS),
            {"reasoning_details": [SEALED]},
            *call_deltas(0),
            finish="tool_calls",
        ),
    ),
}


def claude(*blocks: dict[str, Any], stop: str = "end_turn", usage: dict[str, Any] | None = None) -> Recorded:
    """One answer in Anthropic's format: each block's texts are cut into pieces."""
    used = {"input_tokens": 12, "output_tokens": 9, **(usage or {})}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5"}
    begun = {**head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": {**used, "output_tokens": 1}}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": begun}]
    for place, block in enumerate(blocks):
        start, deltas = _block_pieces(block)
        events.append({"type": "content_block_start", "index": place, "content_block": start})
        events += [{"type": "content_block_delta", "index": place, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": place})
    events.append({"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None}, "usage": used})
    whole = {**head, "content": list(blocks), "stop_reason": stop, "stop_sequence": None, "usage": used}
    return Recorded(whole, (*events, {"type": "message_stop"}))


def _block_pieces(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """How a block begins in a stream, and the deltas that follow."""
    match block["type"]:
        case "thinking":
            texts = [{"type": "thinking_delta", "thinking": piece} for piece in _cut(block["thinking"])]
            return block | {"thinking": "", "signature": ""}, [
                *texts,
                {"type": "signature_delta", "signature": block["signature"]},
            ]
        case "text":
            cited = [{"type": "citations_delta", "citation": each} for each in block.get("citations") or ()]
            texts = [{"type": "text_delta", "text": piece} for piece in _cut(block["text"])]
            return {"type": "text", "text": ""}, [*texts, *cited]
        case "tool_use" | "server_tool_use":
            import json  # noqa: PLC0415 - here only

            pieces = _cut(json.dumps(block["input"]))
            return block | {"input": {}}, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
        case _:
            return block, []


def _cut(text: str, size: int = 5) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


USED = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}}
THINKING = {"type": "thinking", "thinking": "".join(THOUGHTS), "signature": "c2lnbmF0dXJl"}
SAID = {"type": "text", "text": "".join(WORDS)}
CITATION = {
    "type": "char_location",
    "cited_text": "cats sit",
    "document_index": 0,
    "document_title": "Cats",
    "start_char_index": 0,
    "end_char_index": 8,
}
CACHED = {
    "cache_creation_input_tokens": 1000,
    "cache_read_input_tokens": 500,
    "cache_creation": {"ephemeral_5m_input_tokens": 400, "ephemeral_1h_input_tokens": 600},
    "service_tier": "standard",
}


def searched(number: int) -> list[dict[str, Any]]:
    """A search that Anthropic runs itself, and what it found."""
    name, found = f"srvtoolu_{number}", f"https://example.org/{number}"
    return [
        {"type": "server_tool_use", "id": name, "name": "web_search", "input": {"query": f"cats {number}"}},
        {
            "type": "web_search_tool_result",
            "tool_use_id": name,
            "content": [{"type": "web_search_result", "url": found, "title": "Cats", "encrypted_content": "c2VhbGVk"}],
        },
    ]


ANTHROPIC = {
    "text": ({}, claude(SAID, usage=CACHED)),
    "tool": ({"tools": [TOOL]}, claude(SAID, USED, stop="tool_use")),
    "tool alone": ({"tools": [TOOL]}, claude(USED, stop="tool_use")),
    "thinking": ({}, claude(THINKING, SAID)),
    "thinking and a tool": ({"tools": [TOOL]}, claude(THINKING, USED, stop="tool_use")),
    "hidden thinking": (
        {"tools": [TOOL]},
        claude(
            THINKING,
            {"type": "redacted_thinking", "data": "aGlkZGVu"},
            {"type": "redacted_thinking", "data": "dG9v"},
            {**THINKING, "thinking": "And more.", "signature": "c2lnMg=="},
            USED,
            stop="tool_use",
        ),
    ),
    "citations": ({}, claude({**SAID, "citations": [CITATION]}, {"type": "text", "text": " The end."})),
    "two searches": ({}, claude(*searched(1), *searched(2), SAID)),
}


def gemini(*parts: dict[str, Any], finish: str = "STOP", **candidate: Any) -> Recorded:
    """One answer in Gemini's format; a text part is cut into pieces."""
    stamp = {"responseId": "gem_1", "modelVersion": "gemini-2.5-flash"}
    usage = {
        "promptTokenCount": 12,
        "candidatesTokenCount": 9,
        "totalTokenCount": 26,
        "thoughtsTokenCount": 5,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 12}],
        "trafficType": "ON_DEMAND",
    }
    pieces = [piece for part in parts for piece in _part_pieces(part)]
    chunks: list[dict[str, Any]] = [
        {**stamp, "candidates": [{"index": 0, "content": {"role": "model", "parts": [piece]}}]} for piece in pieces
    ]
    chunks[-1]["candidates"][0] |= {"finishReason": finish, **candidate}
    chunks[-1]["usageMetadata"] = usage
    whole = {"index": 0, "content": {"role": "model", "parts": list(parts)}, "finishReason": finish, **candidate}
    return Recorded({**stamp, "candidates": [whole], "usageMetadata": usage}, tuple(chunks))


def _part_pieces(part: dict[str, Any]) -> list[dict[str, Any]]:
    if "text" not in part:
        return [part]
    *first, last = [{**part, "text": piece} for piece in _cut(part["text"])]
    return [*({name: value for name, value in each.items() if name != "thoughtSignature"} for each in first), last]


GEMINI = {
    "text": ({}, gemini({"text": "".join(WORDS)})),
    "thoughts": ({}, gemini({"text": "".join(THOUGHTS), "thought": True}, {"text": "".join(WORDS)})),
    "thoughts and a tool": (
        {"tools": [TOOL]},
        gemini(
            {"text": "".join(THOUGHTS), "thought": True},
            {"functionCall": {"name": "weather", "args": {"city": "Paris"}}, "thoughtSignature": "c2ln"},
            {"functionCall": {"name": "weather", "args": {"city": "Rome"}}},
        ),
    ),
    "a signed text": ({}, gemini({"text": "".join(WORDS), "thoughtSignature": "c2ln"})),
    "an image": (
        {},
        gemini(
            {"text": "".join(WORDS)},
            {"inlineData": {"mimeType": "image/png", "data": "QUJDRA=="}},
            {"inlineData": {"mimeType": "image/png", "data": "RUZHSA=="}},
        ),
    ),
    "grounding": (
        {},
        gemini(
            {"text": "".join(WORDS)},
            groundingMetadata={
                "webSearchQueries": ["cats"],
                "groundingChunks": [{"web": {"uri": "https://example.org/a", "title": "A"}}],
                "groundingSupports": [
                    {"segment": {"startIndex": 0, "endIndex": 5, "text": "A cat"}, "groundingChunkIndices": [0]}
                ],
            },
            safetyRatings=[{"category": "HARM_CATEGORY_HARASSMENT", "probability": "NEGLIGIBLE"}],
        ),
    ),
}


def ollama(message: dict[str, Any], *pieces: dict[str, Any], reason: str = "stop") -> Recorded:
    """One answer in Ollama's format."""
    stamp = {"model": "llama3.2", "created_at": "2026-01-01T00:00:00Z"}
    counted = {"done_reason": reason, "done": True, "prompt_eval_count": 12, "eval_count": 9, "total_duration": 5}
    chunks = [{**stamp, "message": {"role": "assistant", "content": "", **piece}, "done": False} for piece in pieces]
    end = {**stamp, "message": {"role": "assistant", "content": ""}, **counted}
    return Recorded({**stamp, "message": {"role": "assistant", "content": "", **message}, **counted}, (*chunks, end))


OLLAMA_CALLS = [{"function": {"name": "weather", "arguments": {"city": city}}} for city in ("Paris", "Rome")]
OLLAMA = {
    "text": ({}, ollama({"content": "".join(WORDS)}, *words(*WORDS))),
    "thinking": (
        {},
        ollama(
            {"content": "".join(WORDS), "thinking": "".join(THOUGHTS)},
            *words(*THOUGHTS, field="thinking"),
            *words(*WORDS),
        ),
    ),
    "tools": (
        {"tools": [TOOL]},
        ollama({"tool_calls": OLLAMA_CALLS}, *({"tool_calls": [each]} for each in OLLAMA_CALLS)),
    ),
}


def cohere(text: str, *, finish: str = "COMPLETE", calls: tuple[dict[str, Any], ...] = ()) -> Recorded:
    """One answer in the format of Cohere's second version."""
    used = {
        "billed_units": {"input_tokens": 12, "output_tokens": 9},
        "tokens": {"input_tokens": 20, "output_tokens": 9},
    }
    blocks = [{"type": "text", "text": text}] if text else []
    message = {
        "role": "assistant",
        **({"content": blocks} if blocks else {}),
        **({"tool_calls": [*calls]} if calls else {}),
    }
    events: list[dict[str, Any]] = [{"type": "message-start", "id": "c1", "delta": {"message": {"role": "assistant"}}}]
    for piece in _cut(text):
        delta = {"message": {"content": {"text": piece}}}
        events.append({"type": "content-delta", "index": 0, "delta": delta})
    for place, each in enumerate(calls):
        begun = {**each, "function": {**each["function"], "arguments": ""}}
        events.append({"type": "tool-call-start", "index": place, "delta": {"message": {"tool_calls": begun}}})
        for piece in _cut(each["function"]["arguments"]):
            delta = {"message": {"tool_calls": {"function": {"arguments": piece}}}}
            events.append({"type": "tool-call-delta", "index": place, "delta": delta})
        events.append({"type": "tool-call-end", "index": place})
    events.append({"type": "message-end", "delta": {"finish_reason": finish, "usage": used}})
    return Recorded({"id": "c1", "finish_reason": finish, "message": message, "usage": used}, tuple(events))


COHERE = {
    "text": ({}, cohere("".join(WORDS))),
    "tools": ({"tools": [TOOL]}, cohere("", finish="TOOL_CALL", calls=(call(0), call(1)))),
}

# The provider's model and the path below the server's root.
MODELS = {
    "openai": ("openai/gpt-4o", "/v1"),
    "anthropic": ("anthropic/claude-sonnet-4-5", ""),
    "gemini": ("gemini/gemini-2.5-flash", "/v1beta"),
    "ollama": ("ollama_chat/llama3.2", ""),
    "openrouter": ("openrouter/anthropic/claude-sonnet-4.5", "/v1"),
    "deepseek": ("deepseek/deepseek-reasoner", "/v1"),
    "perplexity": ("perplexity/sonar", "/v1"),
    "cohere": ("cohere_chat/command-a-03-2025", "/v2/chat"),
}
ANSWERS = {
    "openai": OPENAI,
    "anthropic": ANTHROPIC,
    "gemini": GEMINI,
    "ollama": OLLAMA,
    "openrouter": OPENROUTER,
    "deepseek": DEEPSEEK,
    "perplexity": {"a search": ({}, SEARCHED)},
    "cohere": COHERE,
}
