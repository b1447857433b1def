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
}  # fmt: skip


class Endpoints(BaseHTTPRequestHandler):
    """Answers for `serving`; every path ends with the name of its endpoint."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        """Answer whole, or as events where the request asks for a stream."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body, self.headers.get("authorization")))
        name = next(name for name in WHOLE if self.path.endswith(f"/{name}"))
        if body.get("stream"):
            lines = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in EVENTS[name]]
            self._send("text/event-stream", "".join(lines).encode())
        else:
            self._send("application/json", json.dumps(WHOLE[name]).encode())

    def _send(self, kind, content):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        """Say nothing."""
