"""Check every delta of a model's answer, so that a wrong tool call ends at its first wrong character.

`StreamingHandler` takes chunks and gives verdicts; `JsonMachine` checks any JSON text as it grows.
"""

from blueprint_llm.streaming.handler import StreamingHandler, validate_message
from blueprint_llm.streaming.machine import JsonMachine, JsonRejected
from blueprint_llm.streaming.schema_check import check_tools
from blueprint_llm.streaming.verdict import StreamVerdict, TextDelta, Verdict

__all__ = [
    "JsonMachine",
    "JsonRejected",
    "StreamVerdict",
    "StreamingHandler",
    "TextDelta",
    "Verdict",
    "check_tools",
    "validate_message",
]
