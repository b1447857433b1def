"""Sort a foreign failure into a row of `errors.CATEGORIES`.

Class names alone do not classify: LiteLLM reports a missing key, a refused connection and an HTML 502 all as
InternalServerError 500, and one status maps to different classes per provider (measured on 1.106.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blueprint_llm.errors import CATEGORIES

if TYPE_CHECKING:
    from blueprint_llm.errors import Category, Failure

# A provider's own words are short; a longer text may quote the prompt, where a phrase proves nothing.
LONGEST_MESSAGE = 4000
GENERIC = frozenset({"unavailable", "invalid_request", "unknown"})
# No other target mends a broken installation or a call that LiteLLM itself could not make sense of.
LOCAL_FAULTS = frozenset({"ImportError", "ModuleNotFoundError", "TypeError", "ValueError"})
# ValueError subclasses that speak of the answer, not of the call.
ANSWER_FAULTS = frozenset({"JSONDecodeError", "UnicodeDecodeError", "ValidationError"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Classified:
    """A category and, where one is known, a finer code."""

    category: Category
    code: str | None = None


def classify(failure: Failure) -> Classified:
    """The row that `failure` belongs to."""
    return _by_words(failure) or _local_fault(failure) or Classified(category=_by_class_and_status(failure))


def _by_words(failure: Failure) -> Classified | None:
    text = failure.message[:LONGEST_MESSAGE].lower()
    for row in CATEGORIES.values():
        for phrase in row.words:
            if phrase in text:
                return Classified(category=row, code=phrase.replace(" ", "_"))
    return None


def _local_fault(failure: Failure) -> Classified | None:
    names = {failure.classes[0], *failure.causes} if failure.classes else set(failure.causes)
    if names & {"ImportError", "ModuleNotFoundError"}:
        return Classified(category=CATEGORIES["invalid_request"], code="missing_dependency")
    if names & ANSWER_FAULTS and failure.status in {None, 200, 500}:
        return Classified(category=CATEGORIES["malformed"], code="not_json")
    if failure.classes and failure.classes[0] in LOCAL_FAULTS:
        return Classified(category=CATEGORIES["invalid_request"], code="rejected_by_litellm")
    return None


def _by_class_and_status(failure: Failure) -> Category:
    named = next((row for name in failure.classes for row in CATEGORIES.values() if name in row.classes), None)
    if named is not None and named.name not in GENERIC:
        return named
    by_status = next((row for row in CATEGORIES.values() if failure.status in row.statuses), None)
    return by_status or named or CATEGORIES["unknown"]
