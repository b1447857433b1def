"""Check every delta of a model's answer, so that a wrong tool call ends at its first wrong character.

`StreamingHandler` takes chunks and gives verdicts, `judge` says what an answer is; `JsonMachine` checks any JSON text
as it grows.
"""

from blueprint_llm.streaming.calls import check_tools
from blueprint_llm.streaming.chunks import progress
from blueprint_llm.streaming.handler import StreamingHandler
from blueprint_llm.streaming.machine import JsonMachine, JsonRejected
from blueprint_llm.streaming.verdict import Judgement, StreamVerdict, TextDelta, Verdict, judge, judge_early

__all__ = [
    "JsonMachine",
    "JsonRejected",
    "Judgement",
    "StreamVerdict",
    "StreamingHandler",
    "TextDelta",
    "Verdict",
    "check_tools",
    "judge",
    "judge_early",
    "progress",
]
