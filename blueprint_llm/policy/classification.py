"""Sort a foreign failure into a row of `errors.CATEGORIES`.

Class names alone do not classify: LiteLLM reports a missing key, a refused connection and an HTML 502 all as
InternalServerError 500, and one status maps to different classes per provider (measured on 1.106.2). So the
provider's own codes and sentences decide first (`clues`), then what went wrong on this side, then class and status.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blueprint_llm.errors import CATEGORIES
from blueprint_llm.policy.clues import clue_in
from blueprint_llm.policy.retry import retry_after_s
from blueprint_llm.policy.wording import said, wait_in

if TYPE_CHECKING:
    from blueprint_llm.errors import Category, Failure

# Classes that LiteLLM uses for anything: the status tells more.
GENERIC = frozenset({"unavailable", "invalid_request", "unknown"})
# No other target mends a broken installation or a call that LiteLLM itself could not make sense of.
LOCAL_FAULTS = frozenset({"ImportError", "ModuleNotFoundError", "TypeError", "ValueError"})
# ValueError subclasses that speak of the answer, not of the call.
ANSWER_FAULTS = frozenset({"JSONDecodeError", "UnicodeDecodeError", "ValidationError"})
UNSUPPORTED = "UnsupportedParamsError"  # LiteLLM's own check, before anything is sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Classified:
    """What a failure means.

    Attributes:
        code: A finer name, where one is known.
        elsewhere: Another target may take what this one turned down, although the category says stop.
        lasting: It does not mend itself soon.
    """

    category: Category
    code: str | None = None
    elsewhere: bool = False
    lasting: bool = False


def classify(failure: Failure) -> Classified:
    """Return the row that `failure` belongs to."""
    what = said(failure.message, failure.body, codes=failure.codes)
    clue = clue_in(what.sentences, what.codes)
    if clue is not None:
        category = CATEGORIES[clue.category]
        return Classified(category=category, code=clue.code, elsewhere=clue.elsewhere, lasting=clue.lasting)
    return _local_fault(failure) or Classified(
        category=_by_class_and_status(failure), elsewhere=UNSUPPORTED in failure.classes
    )


def wait_s(failure: Failure, *, now: float) -> float | None:
    """Return how long the provider asks us to wait: in its headers, else in its words. `now` is Unix time."""
    asked = retry_after_s(failure.headers, now=now)
    if asked is not None:
        return asked
    what = said(failure.message, failure.body, codes=failure.codes)
    clue = clue_in(what.sentences, what.codes)
    # Google says when a minute's quota is free again even where the day's is used up.
    return None if clue is not None and clue.code == "quota_exhausted" else wait_in(what, now=now)


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
