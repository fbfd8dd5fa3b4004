"""The decision boundary of a piecewise linear classifier in a plane: where the two largest of its outputs tie.

In a region where the outputs are affine, each two of them are level on a line. The boundary takes that part of it
on which no third output is larger.
"""

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from probe_agent.studies.convex_polygons import OUTER, Floats, Polygons, chords, cut


def contenders(y: Floats) -> Floats:
    """The outputs that are the largest somewhere in one of the polygons, or may be, of those at their corners.

    An output that is nowhere as large as another one is everywhere can be left out: of a thousand classes few remain.
    """
    floor = y.min(axis=1, initial=math.inf).max(axis=1)
    return y[:, :, (y.max(axis=1, initial=-math.inf) >= floor[:, None]).any(axis=0)]


def level(polygons: Polygons, y: Floats, tolerance: float) -> Floats:
    """The segments on which two classes are level and no third is above them.

    A boundary that runs along an edge of a region, exactly, is not found.

    Args:
        polygons: n of them.
        y: the outputs at their corners, shape ``(n, k, classes)``.
        tolerance: differences no larger are ties.

    Returns:
        shape ``(segments, 2, 2)``.
    """
    found = [np.empty((0, 2, 2))]
    carried = np.concatenate([polygons.corners, y], axis=2)
    for one, other, ahead in _leads(y, tolerance):
        through = (ahead.min(axis=1, initial=0) < 0) & (ahead.max(axis=1, initial=0) > 0)
        ends = chords(polygons.sides[through], ahead[through], carried[through])
        third = [c for c in range(y.shape[2]) if c not in {one, other}]
        lead = ends[:, :, 2 + one, None] - ends[:, :, [2 + c for c in third]]
        here, there = lead[:, 0], lead[:, 1]
        with np.errstate(divide="ignore", invalid="ignore"):
            tie = here / (here - there)
        begin = np.where((here < 0) & (there > 0), tie, 0).max(axis=1, initial=0)
        end = np.where((here > 0) & (there < 0), tie, 1).min(axis=1, initial=1)
        stays = (begin < end) & ~((here <= 0) & (there <= 0) & (here + there < 0)).any(axis=1)
        at = np.stack([begin, end], axis=1)[stays, :, None]
        found.append(ends[stays, :1, :2] * (1 - at) + ends[stays, 1:, :2] * at)
    return np.concatenate(found)


def parted(polygons: Polygons, y: Floats, tolerance: float) -> Polygons:
    """The polygons, cut along all ties so that one class is the largest all over each part."""
    if y.shape[2] < 2:
        return polygons
    leads = np.stack([ahead for *_, ahead in _leads(y, tolerance)], axis=1)
    crossing = (leads.min(axis=2, initial=0) < 0) & (leads.max(axis=2, initial=0) > 0)
    owners, pairs = np.nonzero(crossing)
    return cut(polygons, owners, leads[owners, pairs], OUTER, tolerance=tolerance, at_most=np.iinfo(np.int64).max)


def distances_to(segments: Floats, where: Floats) -> Floats:
    """Distances of points to the nearest of the segments, NaN if there is none: ``(n, 2)`` → ``(n,)``."""
    if not len(segments):
        return np.full(len(where), math.nan)
    nearest = np.full(len(where), math.inf)
    for start, end in segments:
        along = end - start
        share = np.clip((where - start) @ along / max(float(along @ along), np.finfo(np.float64).tiny), 0, 1)
        apart = where - start - share[:, None] * along
        np.minimum(nearest, (apart * apart).sum(axis=1), out=nearest)
    distance: Floats = np.sqrt(nearest)
    return distance


def _leads(y: Floats, tolerance: float) -> Iterator[tuple[int, int, Floats]]:
    """Of each two classes, how far the one is ahead of the other."""
    for one, other in combinations(range(y.shape[2]), 2):
        ahead = y[..., one] - y[..., other]
        ahead[np.abs(ahead) <= tolerance] = 0
        yield one, other, ahead
