"""Pyramid: of every 256 points of a series those that a chart must not lose, kept as they are.

M4 (Jugel et al. 2014, "M4: a visualization-oriented time series data aggregation") keeps the lowest and highest of each
bucket; here the ends of the error band are kept beside them, and the first gap and the first failure. So the curve, its
band and its holes reach as far in a folded chart as in a full one, and every point shown was measured.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from collector.store.block import COLUMNS, Records

BUCKET = 256
STANDARD_ERRORS = 1.96
"""Half the width of the error band that charts draw, in standard errors."""
KEPT: np.dtype[Any] = np.dtype([("frame", "<i8"), ("step", "<i8"), *COLUMNS.items()])
"""A point with where it stands."""


def extremes(points: Records, width: int) -> NDArray[np.bool_]:
    """Which of the points, ``(count, …)``, are among the at most six that each bucket of ``width`` neighbours keeps."""
    value = points["value"]
    finite = np.isfinite(value)
    kept = np.zeros(points.shape, np.bool_)
    with np.errstate(over="ignore", invalid="ignore"):
        error = STANDARD_ERRORS * np.where(np.isfinite(points["stderr"]), np.abs(points["stderr"]), 0.0)
        for height in (value, -value, value + error, error - value):
            _keep_highest(kept, np.where(finite, height, -np.inf), finite, width)
    for odd in (~finite, points["outcome"] != 0):
        _keep_highest(kept, odd.astype(np.float64), odd, width)
    return kept


def folded(kept: Records, most: int) -> Records:
    """At most ``most`` of the points, ten or more: all where they fit, else the first, the last and each bucket's extremes.

    Buckets hold equally many points, so that a curve measured on a logarithmic schedule keeps its early detail.
    """
    if len(kept) <= most:
        return kept
    width = 3 * len(kept) // most + 1
    while True:
        mask = extremes(kept, width)
        mask[[0, -1]] = True
        if np.count_nonzero(mask) <= most:
            return kept[mask]
        width *= 2


def placed(points: Records, places: Records) -> Records:
    """Points of one series with where each stands."""
    found = np.empty(len(points), KEPT)
    for name in COLUMNS:
        found[name] = points[name]
    for name in ("frame", "step"):
        found[name] = places[name]
    return found


def _keep_highest(kept: NDArray[np.bool_], heights: NDArray[Any], among: NDArray[np.bool_], width: int) -> None:
    """Mark the first of the highest of each bucket that has any ``among`` it."""
    count = len(heights)
    buckets = -(-count // width)
    tail = ((0, buckets * width - count), *((0, 0),) * (heights.ndim - 1))
    shape = (buckets, width, *heights.shape[1:])
    best = np.pad(heights, tail, constant_values=-np.inf).reshape(shape).argmax(axis=1)
    any_of = np.pad(among, tail).reshape(shape).any(axis=1)
    rows = best + np.arange(buckets).reshape(-1, *(1,) * (heights.ndim - 1)) * width
    where = np.nonzero(any_of)
    kept[(rows[where], *where[1:])] = True
