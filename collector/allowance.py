"""Allowance: how much each key may ask of the collector, so that one job out of hand costs the others nothing.

A token bucket for each key and kind of request: so many a second on average, so many at once after a quiet time (a collector that
comes back is greeted by everybody at the same moment). What is refused waits at the agent, on disk, and is sent again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

MOST_KEYS = 10_000


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


@final
class Allowance:
    """So many a second for each key, ``burst`` at once. Not thread-safe.

    Args:
        rate: a second.
        burst: at once.
        clock: seconds.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def take(self, key: str) -> bool:
        """Use one up; False where there is none left."""
        now = self._clock()
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= MOST_KEYS:
                self._buckets.pop(next(iter(self._buckets)))
            bucket = self._buckets[key] = _Bucket(self._burst, now)
        bucket.left = min(self._burst, bucket.left + (now - bucket.at) * self._rate)
        bucket.at = now
        if bucket.left < 1:
            return False
        bucket.left -= 1
        return True
