"""Tools of MCP servers over stdio, under the same rules as every other tool.

What a server says of its tools is a hint, not trust: each counts as reaching the network and as bringing in text from
outside. Its declaration is read again before every call; one that changed is asked about again.
"""

from __future__ import annotations

import asyncio
import os
import re
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from blueprint_llm.errors import ToolError
from blueprint_llm.tools.commands import to_its_end
from blueprint_llm.tools.registry import Ran, Registered, Traits, from_schema
from blueprint_llm.types import Tool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping

    from blueprint_llm.config.blocks import McpServer

_TRAITS = Traits(effect="network", outside=True)


class McpConnection:
    """One server process and the session with it, on an event loop in a thread of their own.

    It outlives the event loops of its callers: each sync call may have another. Its tools are called `name__tool`;
    `env` is all that it gets beside what the MCP library takes for a default (PATH, HOME, USER, ...).
    """

    def __init__(self, name: str, config: McpServer, env: Mapping[str, str], cwd: str) -> None:
        self._name, self._config, self._env, self._cwd = name, config, dict(env), cwd
        self._open = ExitStack()

    async def open(self) -> list[Registered]:
        """Start the server and return its tools. Raises ToolError if it does not start, or does not answer in time."""
        try:
            from anyio.from_thread import start_blocking_portal  # noqa: PLC0415 - the MCP library brings it

            self._portal = self._open.enter_context(start_blocking_portal(name=f"mcp-{self._name}"))
            await to_its_end(asyncio.get_running_loop().run_in_executor(None, self._start), self._give_up)
            return await self._tools()
        except Exception as error:
            await asyncio.to_thread(self.close)
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            if isinstance(error, ToolError):
                raise
            raise ToolError(f"MCP server {self._name} did not start: {type(error).__name__}") from None
        except BaseException:  # the caller is going away
            self.close()
            raise

    def close(self) -> None:
        """End the session and the server."""
        with suppress(Exception):  # whatever a foreign server and library raise at their end
            self._open.close()

    def _start(self) -> None:
        self._session = self._open.enter_context(self._portal.wrap_async_context_manager(self._live()))

    def _give_up(self) -> None:
        """Have `_start` end, with the server that it waits for."""
        self._portal.start_task_soon(self._portal.stop, True)

    @asynccontextmanager
    async def _live(self) -> AsyncIterator[Any]:
        from mcp import ClientSession, StdioServerParameters, stdio_client  # noqa: PLC0415 - only with MCP servers

        program, *arguments = self._config.command
        parameters = StdioServerParameters(command=program, args=arguments, env=self._env, cwd=self._cwd)
        with open(os.devnull, "w", encoding="utf-8") as nowhere:  # noqa: ASYNC230, PTH123 - opening the null device does not wait
            async with stdio_client(parameters, errlog=nowhere) as streams, ClientSession(*streams) as session:
                async with asyncio.timeout(self._config.timeout_s):
                    await session.initialize()
                yield session

    async def _ask(self, question: Callable[[Any], Coroutine[Any, Any, Any]]) -> dict[str, Any]:
        """Put a question to the session; the answer as JSON with MCP's own names."""
        try:
            async with asyncio.timeout(self._config.timeout_s):
                answer = await asyncio.wrap_future(self._portal.start_task_soon(question, self._session))
        except TimeoutError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a foreign server and library raise
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
