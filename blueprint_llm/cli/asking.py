"""What `chat` can be given beside a message: parameters, a schema, files, and the last conversation."""

from __future__ import annotations

import base64
import json
import mimetypes
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blueprint_llm.cli.options import say
from blueprint_llm.config.paths import folder, make_folder, writing
from blueprint_llm.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

_LAST = "last_chat.json"


def parameters(_ctx: click.Context, _option: click.Parameter, given: Sequence[str]) -> dict[str, Any]:
    """`seed=7`, `stop=["a"]` or `user=me` as LiteLLM's parameters, for an option's `callback`."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"{text!r}: write NAME=VALUE, like seed=7")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def schema_in(_ctx: click.Context, _option: click.Parameter, path: str | None) -> dict[str, Any] | None:
    """The schema in a file as a `response_format`, for an option's `callback`."""
    if path is None:
        return None
    try:
        schema = json.loads(_bytes_of(path))
    except ValueError as error:
        raise click.BadParameter(f"{path} is not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise click.BadParameter(f"{path}: a JSON Schema is an object")
    name = "".join(each if each.isalnum() else "_" for each in Path(path).stem)
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}


def attached(_ctx: click.Context, _option: click.Parameter, paths: Sequence[str]) -> list[dict[str, Any]]:
    """Files as parts of a message: images and PDF as data, everything else as text; for an option's `callback`."""
    return [_part(path, _bytes_of(path)) for path in paths]


def _bytes_of(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}") from None


def _part(path: str, content: bytes) -> dict[str, Any]:
    kind, name = mimetypes.guess_type(path)[0] or "", Path(path).name
    if kind.startswith("image/") or kind == "application/pdf":
        url = f"data:{kind};base64,{base64.b64encode(content).decode()}"
        if kind == "application/pdf":
            return {"type": "file", "file": {"filename": name, "file_data": url}}
        return {"type": "image_url", "image_url": {"url": url}}
    try:
        return {"type": "text", "text": f"{name}:\n{content.decode()}"}
    except UnicodeDecodeError:
        raise click.BadParameter(f"{path} is no image, PDF or text") from None


def last_conversation() -> list[dict[str, Any]]:
    """Return the messages of the last conversation."""
    try:
        messages: list[dict[str, Any]] = json.loads((folder("state") / _LAST).read_bytes())
    except (OSError, ValueError):
        raise click.UsageError("there is no conversation to go on with") from None
    return messages


def keep_conversation(messages: Sequence[dict[str, Any]]) -> None:
    """Keep a conversation for `--continue`, in place of the one before, readable by its owner only.

    The answer is out already: where it cannot be kept, that is only said.
    """
    try:
        path = make_folder("state") / _LAST
        fresh = path.with_suffix(f".{os.getpid()}")
        with writing("the conversation", path):
            handle = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(list(messages), file, default=str)
            fresh.replace(path)
    except StoreError as error:
        say(f"-- not kept for --continue: {error} --", dim=True)
