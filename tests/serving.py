"""A loopback server of any handler, in a thread."""

import threading
from contextlib import contextmanager
from http.server import ThreadingHTTPServer


@contextmanager
def serving(handler):
    """The server, where its handler keeps what was `asked` and finds what to answer; and its address, an `api_base`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.asked, server.call, server.cut = [], None, list
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
