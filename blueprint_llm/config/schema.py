"""The JSON Schema of the whole file: strict where the block is ours, permissive where the keys are LiteLLM's."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import DEFAULT_REF_TEMPLATE, GenerateJsonSchema

from blueprint_llm.config.blocks import Blueprint, bounds
from blueprint_llm.config.sections import PROXY_ONLY

SCHEMA_NAME = "blueprint.schema.json"  # what the first line of the template names

_DRAFT = "https://json-schema.org/draft/2020-12/schema"


class _AsWritten(GenerateJsonSchema):
    """Adds the short forms that the loader takes: one name for a list of names, a number for `{gt: number}`."""

    def function_before_schema(self, schema: Any) -> dict[str, Any]:
        """What may be written where a validator runs first."""
        inner: dict[str, Any] = self.generate_inner(schema["schema"])
        if inner.get("type") == "array":
            return {"anyOf": [{"type": "string"}, inner]}
        return {"anyOf": [{"type": "number"}, inner]} if schema["function"]["function"] is bounds else inner


def file_schema() -> dict[str, Any]:
    """The JSON Schema of a configuration file."""
    block = Blueprint.model_json_schema(by_alias=True, ref_template=DEFAULT_REF_TEMPLATE, schema_generator=_AsWritten)
    definitions = block.pop("$defs")
    return {
        "$schema": _DRAFT,
        "title": "blueprint_llm configuration",
        "type": "object",
        "properties": {"blueprint": block, **_litellm(), **{key: {} for key in sorted(PROXY_ONLY)}},
        "$defs": definitions,
    }


def _litellm() -> dict[str, Any]:
    entry = {
        "type": "object",
        "required": ["model_name", "litellm_params"],
        "properties": {
            "model_name": {"type": "string", "description": "The group this deployment belongs to."},
            "litellm_params": {
                "type": "object",
                "required": ["model"],
                "properties": {"model": {"type": "string", "description": "A LiteLLM model id: provider/model."}},
            },
            "model_info": {"type": "object"},
        },
    }
    return {
        "model_list": {"type": ["array", "null"], "items": entry},
        "router_settings": {"type": ["object", "null"]},
        "litellm_settings": {"type": ["object", "null"]},
        "credential_list": {"type": ["array", "null"], "items": {"type": "object"}},
        "include": {"type": "array", "items": {"type": "string"}},
    }
