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
from dataclasses import replace
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

    It outlives the event loops of its callers: each sync call may have another.

    Args:
        name: Its key in `mcp_servers`; its tools are called `name__tool`.
        config: How it is started.
        env: Its whole environment, beside what the MCP library takes for a default (PATH, HOME, USER, ...).
        cwd: Where it is started.
    """

    def __init__(self, name: str, config: McpServer, env: Mapping[str, str], cwd: str) -> None:
        self._name, self._config, self._env, self._cwd = name, config, dict(env), cwd
        self._loop = asyncio.new_event_loop()
        self._ready: Future[Any] = Future()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, name=f"mcp-{name}", daemon=True)

    async def open(self) -> list[Registered]:
        """Start the server and return its tools.

        Raises:
            ToolError: When it does not start, or does not answer in time.
        """
        self._thread.start()
        try:
            async with asyncio.timeout(self._config.timeout_s):
                await asyncio.wrap_future(self._ready)
        except Exception as error:  # noqa: BLE001 - whatever a foreign server and library raise
            await asyncio.to_thread(self.close)
            raise ToolError(f"MCP server {self._name} did not start: {type(error).__name__}") from None
        return await self._tools()

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
            raise ToolError(f"MCP server {self._name} failed: {type(error).__name__}: {error}") from None
        return answer.model_dump(mode="json", by_alias=True)  # type: ignore[no-any-return] # a pydantic model

    async def _tools(self) -> list[Registered]:
        found = []
        for declared in (await self._ask(lambda session: session.list_tools()))["tools"]:
            own, schema = declared["name"], declared.get("inputSchema") or {}
            name = re.sub(r"[^A-Za-z0-9_-]", "_", f"{self._name}__{own}")[:64]
            tool = Tool(name=name, description=declared.get("description") or "", parameters=schema)
            made = from_schema(tool, partial(self._call, own), _TRAITS)
            found.append(replace(made, refresh=partial(self._again, name)))
        return found

    async def _again(self, name: str) -> Registered | None:
        return next((made for made in await self._tools() if made.tool.name == name), None)

    async def _call(self, name: str, /, **arguments: Any) -> Ran:
        answer = await self._ask(lambda session: session.call_tool(name, arguments))
        texts = []
        for part in answer.get("content") or []:
            text = part.get("text") or (part.get("resource") or {}).get("text")
            texts.append(str(text or f"[{part.get('type', 'content')} that is no text]"))
        failed = bool(answer.get("isError"))
        return Ran(status="error" if failed else "ok", text="\n".join(texts), facts={"server": self._name})
