"""What a provider says, without what it repeats of the request: such words may be kept and shown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

GAP = "…"
# So many words in a row that stand in the request, too, were taken from it.
RUN = 4
_SHORTEST_QUOTE = 3
_SHORTEST_MESSAGE = 8
_WORD = re.compile(r"[^\W_]+")
_QUOTED = re.compile(r"""`([^`]*)`|"([^"]*)"|(?<!\w)'([^'\n]*)'(?!\w)|“([^”]*)”""")
_NO_TEXT = frozenset({"role", "type", "id", "tool_call_id"})


def unquoted(said: str, messages: Any) -> str:
    """Return a provider's words with a gap where they repeat the messages that it was sent.

    That is: four words in a row, a quotation that stands in a message, or a whole short message.
    """
    texts = list(_texts(messages))
    asked = f" {' '.join(' '.join(_words(text)) for text in texts)} "
    words = [(found[0].lower(), found.start(), found.end()) for found in _WORD.finditer(said)]
    taken = [
        (words[n][1], words[n + RUN - 1][2])
        for n in range(len(words) - RUN + 1)
        if f" {' '.join(word for word, _, _ in words[n : n + RUN])} " in asked
    ]
    for found in _QUOTED.finditer(said):
        inner = next(filter(None, found.groups()), "")
        if len(inner) >= _SHORTEST_QUOTE and f" {' '.join(_words(inner))} " in asked:
            taken.append(found.span())
    for text in {text.strip() for text in texts if len(text.strip()) >= _SHORTEST_MESSAGE}:
        taken += [found.span() for found in re.finditer(re.escape(text), said, re.IGNORECASE)]
    return _without(said, sorted(taken))


def _words(text: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(text)]  # lower case may have marks that are in no word


def _texts(value: Any) -> Iterator[str]:
    """Yield every text of some messages that a model or a person wrote."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            if name not in _NO_TEXT:
                yield from _texts(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each)


def _without(said: str, taken: list[tuple[int, int]]) -> str:
    parts: list[str] = []
    at = 0
    for start, end in taken:
        if start > at or not parts:
            parts += [said[at:start], GAP]
        at = max(at, end)
    return "".join([*parts, said[at:]])
