"""Convex polygons cut by lines: areas, corners, where edges come from, and what ends meet where."""

import numpy as np
import pytest
from numpy.typing import NDArray

from probe_agent.studies.convex_polygons import OUTER, Polygons, TooMany, chords, cut

BOX = (-1.0, 1.0, -1.0, 1.0)


def lines(count: int, seed: int = 0) -> NDArray[np.float64]:
    """Coefficients of a u + b v + c, shape (count, 3), all of which pass near the origin."""
    drawn = np.random.default_rng(seed).normal(size=(count, 3))
    return drawn * [1, 1, 0.3]


def at(corners: NDArray[np.float64], of: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values of each line at the corners of one polygon: (lines, k)."""
    return of[:, :2] @ corners[0].T + of[:, 2:]


def cut_by(of: NDArray[np.float64], box: Polygons | None = None, *, at_most: int = 10**6) -> Polygons:
    box = Polygons.rectangle(*BOX) if box is None else box
    owners = np.zeros(len(of), dtype=np.intp)
    return cut(box, owners, at(box.corners, of), 0, tolerance=1e-13, at_most=at_most)


def test_pieces_fill_the_whole_and_none_is_cut_by_any_line() -> None:
    of = lines(30)
    pieces = cut_by(of)
    assert pieces.areas().sum() == pytest.approx(4, rel=1e-14)
    assert (pieces.areas() > 0).all()
    values = pieces.corners @ of[:, :2].T + of[:, 2]
    assert not ((values.min(axis=1) < -1e-12) & (values.max(axis=1) > 1e-12)).any()
    signs = np.sign(pieces.centroids() @ of[:, :2].T + of[:, 2])
    assert len(np.unique(signs, axis=0)) == len(pieces), "no two pieces are on the same side of every line"


def test_lines_in_general_position_make_the_number_of_pieces_steiner_counted() -> None:
    """1 + m + m (m − 1) / 2, where the box holds all crossings (Steiner 1826)."""
    for count in (1, 2, 7, 40):
        whole = Polygons.rectangle(-1e4, 1e4, -1e4, 1e4)
        assert len(cut_by(lines(count, seed=count), whole)) == 1 + count + count * (count - 1) // 2


def test_corners_come_counterclockwise_each_once_and_then_the_first_again() -> None:
    pieces = cut_by(lines(12))
    for corners, sides, origin in zip(pieces.corners, pieces.sides, pieces.origin, strict=True):
        assert (corners[sides:] == corners[0]).all()
        assert (origin[sides:] == OUTER).all()
        own = corners[:sides]
        one, other = np.roll(own, -1, axis=0) - own, np.roll(own, -2, axis=0) - np.roll(own, -1, axis=0)
        assert (one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0] > 0).all()


def test_edges_on_the_rectangle_and_edges_on_cuts_are_told_apart() -> None:
    pieces = cut_by(lines(12))
    lengths = np.linalg.norm(pieces.edges(), axis=2)
    middles = pieces.corners + pieces.edges() / 2
    outside = np.isclose(np.abs(middles).max(axis=2), 1, atol=1e-12)
    assert ((pieces.origin == OUTER) == outside)[lengths > 0].all()
    assert lengths[pieces.origin == OUTER].sum() == pytest.approx(8)
    later = cut(
        pieces,
        np.arange(len(pieces)),
        pieces.corners @ np.array([0.3, 0.7]) + 0.01,
        1,
        tolerance=1e-13,
        at_most=1000,
    )
    on_line = np.abs((later.corners + later.edges() / 2) @ np.array([0.3, 0.7]) + 0.01) < 1e-12
    assert ((later.origin == 1) == on_line)[np.linalg.norm(later.edges(), axis=2) > 0].all()


def test_neighbours_share_corners_to_the_last_bit() -> None:
    pieces = cut_by(lines(20, seed=3))
    corners = {tuple(corner) for polygon in pieces.corners for corner in polygon.tolist()}
    near = {(round(u, 9), round(v, 9)) for u, v in corners}
    assert len(corners) == len(near)


def test_lines_through_corners_and_the_same_line_twice_cut_nothing_off() -> None:
    diagonal, other = [1.0, -1.0, 0.0], [1.0, 1.0, 0.0]
    of = np.array([diagonal, diagonal, np.multiply(diagonal, -2), other, [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    pieces = cut_by(of)
    assert len(pieces) == 4
    assert pieces.areas() == pytest.approx([1, 1, 1, 1])
    assert set(pieces.sides) == {3}
    assert np.sort(pieces.origin, axis=1).tolist() == [[OUTER, 0, 0]] * 4
    star = np.array([[np.cos(a), np.sin(a), 0.0] for a in np.linspace(0, np.pi, 9, endpoint=False)])
    assert len(cut_by(star)) == 18


def test_a_mean_at_the_centroid_is_that_of_the_affine_function() -> None:
    pieces = cut_by(lines(25, seed=1))
    slope = np.array([[2.0, -1.0], [0.5, 3.0]])
    found = pieces.mean_of(pieces.corners @ slope + 4)
    assert found == pytest.approx(pieces.centroids() @ slope + 4, rel=1e-13)
    assert (pieces.centroids() * pieces.areas()[:, None]).sum(axis=0) == pytest.approx([0, 0], abs=1e-13)


def test_a_chord_ends_where_its_line_leaves_the_polygon() -> None:
    box = Polygons.rectangle(*BOX)
    line = at(box.corners, np.array([[1.0, 2.0, 0.5]]))
    [[one, other]] = chords(box.sides, line, box.corners)
    assert sorted([one.tolist(), other.tolist()]) == [[-1.0, 0.25], [1.0, -0.75]]
    [[one, other]] = chords(box.sides, at(box.corners, np.array([[1.0, -1.0, 0.0]])), box.corners)
    assert sorted([one.tolist(), other.tolist()]) == [[-1.0, -1.0], [1.0, 1.0]]


def test_no_more_pieces_are_made_than_allowed() -> None:
    assert len(cut_by(lines(30), at_most=len(cut_by(lines(30))))) > 100
    with pytest.raises(TooMany) as reached:
        cut_by(lines(30), at_most=100)
    assert 100 < reached.value.args[0] <= 200


def test_polygons_of_different_shapes_are_joined_and_picked() -> None:
    triangles = cut_by(np.array([[1.0, -1.0, 0.0]]))
    both = Polygons.joined([triangles, Polygons.rectangle(*BOX)])
    assert both.corners.shape == (3, 4, 2)
    assert both[:2].corners.shape == (2, 3, 2)
    assert both.areas() == pytest.approx([2, 2, 4])
