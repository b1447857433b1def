"""What this process has seen of each target lately: calls in flight, speed and tokens; routing strategies ask it."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque
from typing import NamedTuple

MINUTE_S = 60.0
KEPT = 10
# LiteLLM's penalty for an answer that did not come in time, in seconds.
LATE_S = 1000.0


class Answered(NamedTuple):
    """One answer: when, and how fast. `ttft_s` is None where it was no stream."""

    at: float
    per_token_s: float
    ttft_s: float | None


class Traffic:
    """Counts by target key; `now` is the monotonic clock.

    Args:
        ttl_s: How long an answer's speed is remembered.
    """

    def __init__(self, *, ttl_s: float = 3600.0) -> None:
        self._ttl_s = ttl_s
        self._lock = threading.Lock()
        self._in_flight: Counter[str] = Counter()
        self._answers: defaultdict[str, deque[Answered]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._tokens: Counter[tuple[str, int]] = Counter()

    def begin(self, key: str) -> None:
        """Count a call that begins."""
        with self._lock:
            self._in_flight[key] += 1

    def end(self, key: str) -> None:
        """Count a call that has ended, however it did."""
        with self._lock:
            self._in_flight[key] -= 1

    def answered(
        self, key: str, *, now: float, duration_s: float, ttft_s: float | None, tokens: tuple[int, int]
    ) -> None:
        """Remember the speed of an answer and its tokens (input, output)."""
        minute, output = int(now // MINUTE_S), tokens[1]
        with self._lock:
            self._answers[key].append(Answered(now, duration_s / max(1, output), ttft_s))
            if (key, minute) not in self._tokens:
                self._tokens = Counter({place: n for place, n in self._tokens.items() if place[1] == minute})
            self._tokens[key, minute] += sum(tokens)

    def late(self, key: str, *, now: float) -> None:
        """Remember that an answer did not come in time."""
        with self._lock:
            self._answers[key].append(Answered(now, LATE_S, None))

    def in_flight(self, key: str) -> int:
        """Calls that have begun and not ended."""
        return self._in_flight[key]

    def tokens(self, key: str, *, now: float) -> int:
        """Tokens of the answers in this minute."""
        return self._tokens[key, int(now // MINUTE_S)]

    def latency_s(self, key: str, *, now: float, streamed: bool) -> float:
        """The mean seconds per output token, of streams where known the mean to the first; 0 where none came."""
        with self._lock:
            recent = [each for each in self._answers.get(key, ()) if now - each.at < self._ttl_s]
        firsts = [each.ttft_s for each in recent if each.ttft_s is not None] if streamed else []
        speeds = firsts or [each.per_token_s for each in recent]
        return sum(speeds) / len(speeds) if speeds else 0.0
