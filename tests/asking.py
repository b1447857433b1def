"""An open client that answers several questions in a row, blocking or on an event loop of its own."""

import asyncio
from contextlib import contextmanager

from driving import closing_clients

from blueprint_llm import LLMClient, SyncLLMClient

KINDS = ("sync", "async")


class Asking:
    """One client of either kind."""

    def __init__(self, client, run):
        self.client, self._run = client, run

    def chat(self, **request):
        """A whole answer."""
        return self._run(self.client.chat(**request))

    def run(self, **request):
        """A whole run."""
        return self._run(self.client.run(**request))

    def resume(self, *given, **more):
        """The rest of a run that waited."""
        return self._run(self.client.resume(*given, **more))

    def stream(self, **request):
        """Every chunk of a stream, and its answer."""
        stream = self.client.stream(**request)
        if isinstance(self.client, SyncLLMClient):
            return list(stream), stream.response

        async def read():
            return [chunk async for chunk in stream], stream.response

        return self._run(read())


@contextmanager
def asking(kind, config, **keywords):
    """An open client of `kind`."""
    if kind == "sync":
        with SyncLLMClient(config, **keywords) as client:
            yield Asking(client, lambda result: result)
        return
    with asyncio.Runner() as runner:

        async def await_(result):
            return await result

        client = LLMClient(config, **keywords)
        yield Asking(client, lambda result: runner.run(await_(result)))
        runner.run(closing_clients(client.aclose()))
