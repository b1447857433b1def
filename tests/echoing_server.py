"""A loopback server that speaks three providers' formats and tells everybody the key it was given."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SLOW_S = 1.0
_USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
_CLAUDE = {
    "id": "m1", "type": "message", "role": "assistant", "model": "claude", "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "hello"}], "usage": {"input_tokens": 3, "output_tokens": 2},
}  # fmt: skip
_GEMINI = {
    "candidates": [{"content": {"role": "model", "parts": [{"text": "hello"}]}, "finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5},
}
_OPENAI = {
    "id": "c1", "object": "chat.completion", "created": 1, "model": "gpt-4o", "usage": _USAGE,
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hello"}}],
}  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        """Answer as the server's `outcome` says."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.keys.append(self._key())
        outcome = self.server.outcome
        if outcome == "timeout":
            time.sleep(SLOW_S)
        code = {"401 echo": 401, "500 echo": 500}.get(outcome, 200)
        with contextlib.suppress(OSError):  # the client may have left
            self._send(code, self._body() if code == 200 else self._echo(code), cut=outcome == "cut")

    def _key(self):
        names = ("x-api-key", "x-goog-api-key", "authorization")
        return next((self.headers[name] for name in names if self.headers[name]), "").removeprefix("Bearer ")

    def _body(self):
        if self.path.endswith("/messages"):
            return _CLAUDE
        return _GEMINI if "generateContent" in self.path else _OPENAI

    def _echo(self, code):
        said = f"Incorrect API key provided: {self._key()}. Headers: {dict(self.headers)}. Path: {self.path}"
        return {"type": "error", "error": {"type": "auth", "status": "X", "code": code, "message": said}}

    def _send(self, code, value, *, cut):
        content = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Echo", self._key())
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = True

    def log_message(self, *args):
        """Say nothing: the sinks are the client's."""


@contextlib.contextmanager
def echoing_server():
    """A server with `outcome` to set and the `keys` it saw; `url` for OpenAI, `root` for Anthropic and Gemini."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads, server.outcome, server.keys = True, "200", []
    server.root = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
