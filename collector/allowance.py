"""Allowance: how much each key may ask of the collector, so that one job out of hand costs the others nothing.

A token bucket for each key and kind of request: so many a second on average, so many at once after a quiet time (a collector that
comes back is greeted by everybody at the same moment). What is refused waits at the agent, on disk, and is sent again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self, final

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

    def take(self, key: str, count: float = 1) -> bool:
        """Use up so many; False, and none is used, where there are fewer left."""
        now = self._clock()
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= MOST_KEYS:
                self._buckets.pop(next(iter(self._buckets)))
            bucket = self._buckets[key] = _Bucket(self._burst, now)
        bucket.left = min(self._burst, bucket.left + (now - bucket.at) * self._rate)
        bucket.at = now
        if bucket.left < count:
            return False
        bucket.left -= count
        return True


class Allowances(NamedTuple):
    """What one key may send.

    Every stream and every schema is new to a collector that has just started. A column of a new schema takes it as long as a report.
    """

    reports: Allowance
    new_streams: Allowance
    new_columns: Allowance

    @classmethod
    def of(cls, reports_per_second: float) -> Self:
        """The usual ones, with so many reports a second and five times that at once."""
        reports = Allowance(reports_per_second, 5 * reports_per_second)
        return cls(reports, Allowance(2.0, 20_000.0), Allowance(20_000.0, 5_000_000.0))
