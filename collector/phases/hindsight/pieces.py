"""Pieces: the best fit of a series by curves that rise and fall in a given order, of any shape in between.

The error of the best monotone curve through every stretch of the series is tabled once; where the
pieces of a pattern such as fall-rise-fall should join is then a dynamic programme over the table
(Bellman 1961). O(n^2) in time and memory, so a long series is averaged in blocks before.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from collector.phases.axis import Floats
from collector.phases.isotonic import isotonic, prefix_errors

Way = Literal["rise", "fall"]


@dataclass(frozen=True, slots=True)
class Fit:
    """A curve of pieces: ``ends`` are the index past the end of each, in the pattern's order; some may be empty."""

    error: float
    ends: tuple[int, ...]
    curve: Floats


@dataclass(frozen=True)
class Pieces:
    """A series with values ``y`` of noise ``sigma``, shapes (n,); errors are told in units of the noise, squared."""

    y: Floats
    sigma: Floats

    @cached_property
    def _errors(self) -> dict[Way, Floats]:
        """Entry (a, b) of shape (n + 1, n + 1): the error of the best monotone curve through the values a to b - 1."""
        return {"rise": self._tabled(self.y), "fall": self._tabled(-self.y)}

    def _tabled(self, y: Floats) -> Floats:
        n, weight = y.size, 1.0 / self.sigma**2
        table = np.full((n + 1, n + 1), np.inf)
        np.fill_diagonal(table, 0.0)
        for a in range(n):
            table[a, a + 1 :] = prefix_errors(y[a:], weight[a:])
        return table

    def fit(self, pattern: tuple[Way, ...]) -> Fit:
        """The best curve whose pieces go these ways one after the other."""
        reached, whence = self._reached(pattern)
        ends = [self.y.size]
        for came in reversed(whence[1:]):
            ends.append(int(came[ends[-1]]))
        ends.reverse()
        return Fit(float(reached[-1]), tuple(ends), self._curve(pattern, ends))

    def joins(self, pattern: tuple[Way, ...]) -> Floats:
        """The error of the best such curve whose last piece begins at index i, shape (n + 1,)."""
        reached, _ = self._reached(pattern[:-1])
        joined: Floats = reached + self._errors[pattern[-1]][:, -1]
        return joined

    def _reached(self, pattern: tuple[Way, ...]) -> tuple[Floats, list[NDArray[np.intp]]]:
        reached = np.where(np.arange(self.y.size + 1) == 0, 0.0, np.inf)
        whence = []
        for way in pattern:
            through = reached[:, None] + self._errors[way]
            whence.append(through.argmin(axis=0))
            reached = through.min(axis=0)
        return reached, whence

    def _curve(self, pattern: tuple[Way, ...], ends: list[int]) -> Floats:
        curve = np.empty_like(self.y)
        for way, a, b in zip(pattern, [0, *ends], ends, strict=False):
            sign = 1.0 if way == "rise" else -1.0
            curve[a:b] = sign * isotonic(sign * self.y[a:b], 1.0 / self.sigma[a:b] ** 2)
        return curve
