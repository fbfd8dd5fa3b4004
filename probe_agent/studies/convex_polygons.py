"""Convex polygons in the plane, many at once, and how lines cut them.

A line comes as the values of an affine function at a polygon's corners, not as coefficients: where
an edge is cut, everything known at its ends is mixed with the same two weights, which neither loses
digits in small polygons nor depends on which way round an edge is walked, so that two polygons that
share an edge get the very same point.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

OUTER = -1
"""The origin of an edge that no line cut."""


class TooMany(Exception):
    """Cutting gave more polygons than were asked for; ``args[0]`` is how many there were."""


@final
@dataclass(frozen=True, slots=True)
class Polygons:
    """n convex polygons, counterclockwise.

    ``corners`` has shape ``(n, k, 2)``; a polygon with fewer than k corners repeats its first at the end.
    ``sides`` counts its corners, shape ``(n,)``. ``origin``, shape ``(n, k)``, says of the edge from corner
    i to the next which cut it came from, `OUTER` if none.
    """

    corners: Floats
    sides: Ints
    origin: Ints

    def __len__(self) -> int:
        return len(self.sides)

    def __getitem__(self, some: slice | Ints | NDArray[np.bool_]) -> "Polygons":
        """Some of the polygons, with no more columns than they need."""
        sides = self.sides[some]
        most = int(sides.max(initial=3))
        return Polygons(self.corners[some, :most], sides, self.origin[some, :most])

    @classmethod
    def rectangle(cls, left: float, right: float, bottom: float, top: float) -> "Polygons":
        """One polygon: [left, right] × [bottom, top]."""
        corners = np.array([[[left, bottom], [right, bottom], [right, top], [left, top]]], dtype=np.float64)
        return cls(corners, np.array([4]), np.full((1, 4), OUTER))

    @classmethod
    def joined(cls, parts: Sequence["Polygons"]) -> "Polygons":
        """All polygons of all parts, in order."""
        most = max(part.corners.shape[1] for part in parts)
        corners = [_padded(part.corners, most, part.corners[:, :1]) for part in parts]
        origin = [_padded(part.origin, most, np.full((len(part), 1), OUTER)) for part in parts]
        return cls(np.concatenate(corners), np.concatenate([part.sides for part in parts]), np.concatenate(origin))

    def edges(self) -> Floats:
        """The vectors from each corner to the next, zero beyond the last: shape ``(n, k, 2)``."""
        vectors: Floats = np.roll(self.corners, -1, axis=1) - self.corners
        return vectors

    def areas(self) -> Floats:
        """Shape ``(n,)``."""
        whole: Floats = self._fan().sum(axis=1)
        return whole

    def mean_of(self, values: Floats) -> Floats:
        """Of affine functions, their values at the centroids, from those at the corners: ``(n, k, m)`` → ``(n, m)``.

        A mean with weights that are not negative: as exact as the values themselves.
        """
        fan = self._fan()
        shares = fan / fan.sum(axis=1, keepdims=True) / 3
        # Triangle i has the corners 0, i + 1 and i + 2, so each corner's share comes from its triangles.
        of_corners = np.zeros(self.origin.shape)
        of_corners[:, 0] = shares.sum(axis=1)
        of_corners[:, 1:-1] += shares
        of_corners[:, 2:] += shares
        found: Floats = np.einsum("nk,nkm->nm", of_corners, values)
        return found

    def centroids(self) -> Floats:
        """Shape ``(n, 2)``."""
        return self.mean_of(self.corners)

    def _fan(self) -> Floats:
        """Areas of the triangles that each polygon's first corner makes with the edges it is not on: ``(n, k − 2)``."""
        spokes = self.corners[:, 1:] - self.corners[:, :1]
        here, there = spokes[:, :-1], spokes[:, 1:]
        # A rounding below zero is a corner on a straight line.
        area: Floats = np.maximum(here[..., 0] * there[..., 1] - here[..., 1] * there[..., 0], 0) / 2
        return area


@final
@dataclass(frozen=True, slots=True)
class _Halves:
    """How the corners of both halves of n polygons arise: the n positive ones, then the n negative ones.

    Corner j of a half is ``weights[0]`` of the polygon's corner ``ends[0]`` and ``weights[1]`` of ``ends[1]``;
    all have shape ``(2, 2n, k)``. ``fresh`` marks the edges that lie on the cut, shape ``(2n, k)``.
    """

    ends: Ints
    weights: Floats
    fresh: NDArray[np.bool_]
    sides: Ints

    def mix(self, of_halves: Ints, values: Floats) -> Floats:
        """Values at the corners of the parents, each beside one of its halves, to values at the half's: ``(p, k, ...)``."""
        rows = np.arange(len(of_halves))[:, None]
        more = (..., *[None] * (values.ndim - 2))
        first, second = (
            weight[of_halves][more] * values[rows, end[of_halves]]
            for end, weight in zip(self.ends, self.weights, strict=True)
        )
        mixed: Floats = first + second
        return mixed


def _halve(sides: Ints, values: Floats) -> _Halves:
    """Cut n polygons, each by a line whose values at its corners are ``(n, k)``, not all of one sign."""
    n, k = values.shape
    after = np.roll(values, -1, axis=1)
    cut = values * after < 0
    # Each polygon's corners and, between them, where its edges are cut: 2k slots of which a half keeps some.
    real = np.arange(k) < sides[:, None]
    both, beyond = np.concatenate([values, -values]), np.concatenate([after, -after])
    kept = np.stack([np.tile(real, (2, 1)) & (both >= 0), np.tile(cut, (2, 1))], axis=2).reshape(2 * n, 2 * k)
    fresh = np.stack([(both == 0) & (beyond < 0), both > 0], axis=2).reshape(2 * n, 2 * k)
    counts = kept.sum(axis=1)
    rows, slots = np.nonzero(kept)
    places = (np.cumsum(kept, axis=1) - 1)[rows, slots]
    taken = np.repeat(kept.argmax(axis=1)[:, None], int(counts.max(initial=3)), axis=1)  # beyond the last, the first
    taken[rows, places] = slots
    parents = np.tile(np.arange(n), 2)[:, None]
    start, between = taken // 2, taken % 2 == 1
    end = np.where(between, (start + 1) % k, start)
    with np.errstate(divide="ignore", invalid="ignore"):
        here, there = values[parents, start], values[parents, end]
        weights = np.where(between, [there / (there - here), -here / (there - here)], [[[1.0]], [[0.0]]])
    padding = np.arange(taken.shape[1]) >= counts[:, None]
    on_cut = np.take_along_axis(fresh, taken, axis=1) & ~padding
    return _Halves(np.stack([start, end]), weights, on_cut, counts)


def cut(polygons: Polygons, owners: Ints, values: Floats, origin: int, *, tolerance: float, at_most: int) -> Polygons:
    """Cut polygons by all of their lines.

    Args:
        polygons: n of them.
        owners: which polygon each of p lines is to cut, ascending, shape ``(p,)``. Where polygons share an
            edge, the lines through it must come in the same order.
        values: the line's affine function at the polygon's corners, shape ``(p, k)``; repeated where
            the corners are.
        origin: the name of these cuts.
        tolerance: values no larger count as zero, so that a corner on a line is not cut off beside itself.
        at_most: how many polygons there may be.

    Raises:
        TooMany: there are more.
    """
    done: list[Polygons] = []
    finished = 0
    values = np.where(np.abs(values) <= tolerance, 0.0, values)
    owners, values = _crossing(owners, values)
    while len(owners):
        first = np.flatnonzero(np.diff(owners, prepend=-1))
        whole = np.ones(len(polygons), dtype=bool)
        whole[owners[first]] = False
        done.append(polygons[whole])
        finished += len(done[-1])
        polygons = polygons[owners[first]]
        n, k = polygons.origin.shape
        if finished + 2 * n > at_most:
            raise TooMany(finished + 2 * n)
        # One line of each polygon cuts it in this round, and both halves inherit the others.
        halves = _halve(polygons.sides, values[first, :k])
        renumbered = np.cumsum(np.diff(owners, prepend=-1) > 0) - 1
        rest = np.ones(len(owners), dtype=bool)
        rest[first] = False
        heirs = np.concatenate([renumbered[rest], renumbered[rest] + n])
        inherited = halves.mix(heirs, np.concatenate([values[rest, :k]] * 2))
        inherited[np.abs(inherited) <= tolerance] = 0
        owners, values = _crossing(heirs, inherited)
        both = np.tile(np.arange(n), 2)
        came_from = np.take_along_axis(polygons.origin[both], halves.ends[0], axis=1)
        padding = np.arange(came_from.shape[1]) >= halves.sides[:, None]
        came_from = np.where(halves.fresh, origin, np.where(padding, OUTER, came_from))
        polygons = Polygons(halves.mix(np.arange(2 * n), polygons.corners[both]), halves.sides, came_from)
    return Polygons.joined([*done, polygons])


def chords(sides: Ints, line: Floats, carried: Floats) -> Floats:
    """Of affine functions, the values at both ends of the chord that a line cuts from each polygon.

    Args:
        sides: of n polygons, shape ``(n,)``.
        line: the line's values at their corners, not all of one sign, shape ``(n, k)``.
        carried: the functions' values there, shape ``(n, k, m)``.

    Returns:
        shape ``(n, 2, m)``.
    """
    halves = _halve(sides, line)
    n, k = len(sides), halves.fresh.shape[1]
    ends = halves.mix(np.arange(n), carried)
    start = halves.fresh[:n].argmax(axis=1)
    return np.stack([ends[np.arange(n), start], ends[np.arange(n), (start + 1) % k]], axis=1)


def _crossing(owners: Ints, values: Floats) -> tuple[Ints, Floats]:
    """The lines with a corner of their polygon on either side."""
    crossing = (values.min(axis=1, initial=0) < 0) & (values.max(axis=1, initial=0) > 0)
    return owners[crossing], values[crossing]


def _padded(values: NDArray[Any], most: int, filler: NDArray[Any]) -> NDArray[Any]:
    missing = most - values.shape[1]
    return np.concatenate([values, np.repeat(filler, missing, axis=1)], axis=1) if missing else values
