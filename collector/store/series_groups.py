"""Groups of series: of a run so many are read together as fit; what is in no block yet is taken apart once for each group."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

POINTS = 200_000
"""Of a group, about: 50 MB as numbers of Python's."""
MOST = 256

_T = TypeVar("_T")


def groups(series: Sequence[_T], reports: int) -> Iterator[Sequence[_T]]:
    """The series of a run of so many reports in order, some at a time."""
    size = max(1, min(MOST, POINTS // max(reports, 1)))
    return (series[i : i + size] for i in range(0, len(series), size))
