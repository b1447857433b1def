"""A loopback provider of OpenAI's and Anthropic's endpoints, whole and streamed, that remembers what it was asked."""

import json
from http.server import BaseHTTPRequestHandler

# What each endpoint says was used, whole or streamed.
READ, WRITTEN, PICTURE = 7, 5, 1000
_RESPONSE = {
    "id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-4o", "status": "completed", "output": [
        {"type": "message", "id": "m", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "hi", "annotations": []}]}],
    "usage": {"input_tokens": READ, "output_tokens": WRITTEN, "total_tokens": READ + WRITTEN},
}  # fmt: skip
_MESSAGE = {
    "id": "m1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "hi"}], "usage": {"input_tokens": READ, "output_tokens": WRITTEN},
}  # fmt: skip
_CHAT = {
    "id": "c1", "object": "chat.completion", "created": 1, "model": "gpt-4o",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}],
    "usage": {"prompt_tokens": READ, "completion_tokens": WRITTEN, "total_tokens": READ + WRITTEN},
}  # fmt: skip
_TEXT = {
    "id": "t1", "object": "text_completion", "created": 1, "model": "gpt-3.5-turbo-instruct",
    "choices": [{"index": 0, "finish_reason": "stop", "text": "hi"}], "usage": _CHAT["usage"],
}  # fmt: skip
_EMBEDDING = {
    "object": "list", "model": "e", "data": [{"object": "embedding", "index": 0, "embedding": [0.1]}],
    "usage": {"prompt_tokens": READ, "total_tokens": READ},
}  # fmt: skip
# fmt: off
WHOLE = {
    "responses": _RESPONSE,
    "messages": _MESSAGE,
    "embeddings": _EMBEDDING,
    "chat/completions": _CHAT,
    "completions": _TEXT,
    "moderations": {"id": "m", "model": "omni-moderation-latest", "results": []},
    "search": {"query": "q", "results": [{"title": "t", "url": "http://127.0.0.1", "content": "c", "score": 1.0}]},
    "generations": {
        "created": 1, "data": [{"b64_json": "aGk="}],
        "usage": {"input_tokens": READ, "output_tokens": PICTURE, "total_tokens": READ + PICTURE,
                  "input_tokens_details": {"text_tokens": READ, "image_tokens": 0}},
    },
}
# fmt: on
EVENTS = {
    "responses": [
        {"type": "response.created", "response": {**_RESPONSE, "status": "in_progress", "usage": None, "output": []}},
        {"type": "response.output_text.delta", "item_id": "m", "output_index": 0, "content_index": 0, "delta": "hi"},
        {"type": "response.completed", "response": _RESPONSE},
    ],
    "messages": [
        {
            "type": "message_start",
            "message": {**_MESSAGE, "content": [], "usage": {"input_tokens": READ, "output_tokens": 1}},
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": WRITTEN}},
        {"type": "message_stop"},
    ],
    "completions": [
        {**_TEXT, "choices": [{"index": 0, "text": "hi", "finish_reason": None}], "usage": None},
        {**_TEXT, "choices": [{"index": 0, "text": "", "finish_reason": "stop"}], "usage": None},
        {**_TEXT, "choices": []},
    ],
}  # fmt: skip


def calling(endpoint, name, arguments):
    """An answer that says something and calls a tool."""
    body = WHOLE[endpoint]
    if endpoint == "responses":
        call = {"type": "function_call", "id": "f", "call_id": "call_1", "name": name, "arguments": arguments}
        return {**body, "output": [*body["output"], {**call, "status": "completed"}]}
    call = {"type": "tool_use", "id": "toolu_1", "name": name, "input": json.loads(arguments)}
    return {**body, "stop_reason": "tool_use", "content": [*body["content"], call]}


def calling_events(endpoint, name, arguments):
    """The same answer as events, the arguments in two pieces."""
    halves = arguments[:9], arguments[9:]
    if endpoint == "responses":
        call = {"type": "function_call", "id": "f", "call_id": "call_1", "name": name, "arguments": ""}
        done = {**calling(endpoint, name, arguments), "status": "completed"}
        place = {"output_index": 1, "item_id": "f"}
        text = {"item_id": "m", "output_index": 0, "content_index": 0, "delta": "hi"}
        return [
            {"type": "response.created", "response": {**done, "status": "in_progress", "usage": None, "output": []}},
            {"type": "response.output_text.delta", **text},
            {"type": "response.output_item.added", "output_index": 1, "item": {**call, "status": "in_progress"}},
            *({"type": "response.function_call_arguments.delta", **place, "delta": half} for half in halves),
            {"type": "response.function_call_arguments.done", **place, "arguments": arguments},
            {"type": "response.output_item.done", "output_index": 1, "item": {**call, "arguments": arguments}},
            {"type": "response.completed", "response": done},
        ]
    message, usage = WHOLE["messages"], {"input_tokens": 7, "output_tokens": 1}
    block = {"type": "tool_use", "id": "toolu_1", "name": name, "input": {}}
    return [
        {"type": "message_start", "message": {**message, "content": [], "stop_reason": None, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": block},
        *(
            {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": half}}
            for half in halves
        ),
        {"type": "content_block_stop", "index": 1},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ]


class Endpoints(BaseHTTPRequestHandler):
    """Answers for `serving`; every path ends with the name of its endpoint.

    A request with tools is answered with the `call` of the server, whose events the server may `cut`.
    """

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        """Answer whole, or as events where the request asks for a stream."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body, self.headers.get("authorization")))
        name = next(name for name in WHOLE if self.path.endswith(f"/{name}"))
        call = self.server.call if body.get("tools") else None
        if body.get("stream"):
            events = self.server.cut(calling_events(name, *call)) if call else EVENTS[name]
            lines = [f"event: {event.get('type', 'chunk')}\ndata: {json.dumps(event)}\n\n" for event in events]
            self._send("text/event-stream", "".join(lines).encode())
        else:
            self._send("application/json", json.dumps(calling(name, *call) if call else WHOLE[name]).encode())

    def _send(self, kind, content):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        """Say nothing."""
