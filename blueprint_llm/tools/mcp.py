"""Tools of MCP servers over stdio, under the same rules as every other tool.

What a server says of its tools is a hint, not trust: each counts as reaching the network and as bringing in text from
outside. Its declaration is read again before every call; one that changed is asked about again.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from blueprint_llm.errors import ToolError
from blueprint_llm.tools.registry import Ran, Registered, Traits, from_schema
from blueprint_llm.types import Tool

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from blueprint_llm.config.tool_blocks import McpServer

_TRAITS = Traits(effect="network", outside=True)


class McpConnection:
    """One server process and the session with it, on an event loop in a thread of their own.

    Args:
        name: Its key in `mcp_servers`; its tools are called `name__tool`.
        config: How it is started.
        env: Its whole environment, beside what the MCP library takes for a default (PATH, HOME, USER, ...).
        cwd: Where it is started.
    """

    def __init__(self, name: str, config: McpServer, env: Mapping[str, str], cwd: str) -> None:
        self.name, self._config, self._env, self._cwd = name, config, dict(env), cwd
        self._loop = asyncio.new_event_loop()
        self._ready: Future[Any] = Future()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, name=f"mcp-{name}", daemon=True)

    async def open(self) -> list[Registered]:
        """Start the server; its tools.

        Raises:
            ToolError: When it does not start, or does not answer in time.
        """
        self._thread.start()
        try:
            async with asyncio.timeout(self._config.timeout_s):
                await asyncio.wrap_future(self._ready)
        except Exception as error:  # noqa: BLE001 - whatever a foreign server and library raise
            await asyncio.to_thread(self.close)
            raise ToolError(f"MCP server {self.name} did not start: {type(error).__name__}") from None
        return [self._registered(declared) for declared in await self._declared()]

    def close(self) -> None:
        """End the session and the server."""
        with suppress(RuntimeError):  # its loop has ended already
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(self._config.timeout_s)

    def _serve(self) -> None:
        try:
            self._loop.run_until_complete(self._live())
        except BaseException as error:  # noqa: BLE001 - a foreign library may raise groups; told to whoever waits
            if not self._ready.done():
                self._ready.set_exception(error)
        finally:
            self._loop.close()

    async def _live(self) -> None:
        from mcp import ClientSession, StdioServerParameters, stdio_client  # noqa: PLC0415 - only with MCP servers

        program, *arguments = self._config.command
        parameters = StdioServerParameters(command=program, args=arguments, env=self._env, cwd=self._cwd)
        with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: ASYNC230, PTH123 - opening the null device does not wait
            async with stdio_client(parameters, errlog=nowhere) as streams, ClientSession(*streams) as session:
                await session.initialize()
                self._ready.set_result(session)
                await self._stop.wait()

    async def _ask(self, question: Callable[[Any], Coroutine[Any, Any, Any]]) -> dict[str, Any]:
        """Put a question to the session; the answer as JSON with MCP's own names."""
        pending = question(self._ready.result())
        try:
            async with asyncio.timeout(self._config.timeout_s):
                answer = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(pending, self._loop))
        except TimeoutError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a foreign server and library raise
            pending.close()
            raise ToolError(f"MCP server {self.name} failed: {type(error).__name__}: {error}") from None
        return answer.model_dump(mode="json", by_alias=True)  # type: ignore[no-any-return] # a pydantic model

    async def _declared(self) -> list[dict[str, Any]]:
        return list((await self._ask(lambda session: session.list_tools()))["tools"])

    def _registered(self, declared: Mapping[str, Any]) -> Registered:
        name = re.sub(r"[^A-Za-z0-9_-]", "_", f"{self.name}__{declared['name']}")[:64]
        described = Tool(
            name=name, description=declared.get("description") or "", parameters=declared.get("inputSchema") or {}
        )
        made = from_schema(described, partial(self._call, declared["name"]), _TRAITS)
        return made.refreshing(lambda: self._again(declared["name"]))

    async def _again(self, name: str) -> Registered | None:
        found = [self._registered(declared) for declared in await self._declared() if declared["name"] == name]
        return found[0] if found else None

    async def _call(self, name: str, /, **arguments: Any) -> Ran:
        answer = await self._ask(lambda session: session.call_tool(name, arguments))
        text = "\n".join(_text(part) for part in answer.get("content") or [])
        return Ran(status="error" if answer.get("isError") else "ok", text=text, facts={"server": self.name})


def _text(part: Mapping[str, Any]) -> str:
    resource = part.get("resource") or {}
    return str(part.get("text") or resource.get("text") or f"[{part.get('type', 'content')} that is no text]")
