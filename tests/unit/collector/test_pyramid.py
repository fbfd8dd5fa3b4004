"""Folding: a chart of few points reaches as far, up and down, and breaks where the curve of all points does."""

import math
from collections.abc import Iterator

import numpy as np
import pytest

from collector.store import archive
from collector.store.pyramid import BUCKET, KEPT, STANDARD_ERRORS, extremes, folded
from collector.store.queries import Points, Reader
from probe_wire import Estimate, Outcome
from tests.stored_reports import SMALL, Writer

SPIKES = (1000, 3333, 5555)
GAPS = (1500, 4444)
FUZZY = 2222
SIZE = 6000


def curve(values: np.ndarray, stderrs: float = 0.1) -> np.ndarray:
    points = np.zeros(len(values), KEPT)
    points["frame"] = np.arange(len(values))
    points["value"], points["stderr"] = values, stderrs
    return points


def test_folding_keeps_every_spike_and_every_kind_of_failure() -> None:
    rng = np.random.default_rng(0)
    points = curve(rng.normal(size=100_000))
    spikes = rng.choice(len(points), size=40, replace=False)
    points["value"][spikes] = np.where(np.arange(40) % 2, 50.0, -50.0)
    points["value"][777], points["outcome"][777] = math.nan, Outcome.NON_FINITE
    points["outcome"][888] = Outcome.NOT_CONVERGED
    kept = folded(points, 4000)["frame"]
    assert len(kept) <= 4000
    assert (np.diff(kept) > 0).all()
    assert {0, len(points) - 1, 777, 888, *spikes.tolist()} <= set(kept.tolist())


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 400])
def test_folding_never_gives_more_than_asked_for_and_all_where_they_fit(size: int) -> None:
    points = curve(np.full(size, math.nan))
    points["outcome"] = 1
    assert len(folded(points, 10)) == size if size <= 10 else len(folded(points, 10)) <= 10
    noise = curve(np.random.default_rng(1).normal(size=size))
    noise["stderr"] = np.random.default_rng(2).random(size)
    assert len(folded(noise, 10)) <= 10


def test_in_each_bucket_the_error_band_reaches_as_far_as_that_of_all_points() -> None:
    rng = np.random.default_rng(3)
    points = curve(rng.normal(size=10 * BUCKET - 7))
    points["stderr"] = rng.exponential(1.0, len(points))
    points["stderr"][rng.choice(len(points), 200)] = math.nan
    points["value"][rng.choice(len(points), 200)] = math.nan
    mask = extremes(points, BUCKET)
    for start in range(0, len(points), BUCKET):
        bucket, kept = points[start : start + BUCKET], points[start : start + BUCKET][mask[start : start + BUCKET]]
        assert len(kept) <= 6
        for sign in (1, -1):
            edge = sign * STANDARD_ERRORS * np.nan_to_num(bucket["stderr"])
            reached = sign * STANDARD_ERRORS * np.nan_to_num(kept["stderr"])
            furthest = np.nanmax if sign > 0 else np.nanmin
            assert furthest(kept["value"] + reached) == furthest(bucket["value"] + edge)
            assert furthest(kept["value"]) == furthest(bucket["value"])
        assert np.isnan(kept["value"]).any() == np.isnan(bucket["value"]).any()


def estimate(i: int) -> Estimate:
    """A quiet curve with three spikes, two gaps, and one point that is hardly known."""
    if i in GAPS:
        return Estimate.without_value(Outcome.OVER_BUDGET)
    value = 100.0 if i in SPIKES else math.sin(0.01 * i)
    return Estimate(value, 7.0 if i == FUZZY else 0.1, 0.01, 64)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writer]:
    """A curve of which most is in blocks and some in the log."""
    writer = Writer(tmp_path_factory.mktemp("pyramid") / "s.db")
    for i in range(SIZE):
        writer.report([estimate(i)], schema=SMALL, step=i)
        if i % 500 == 499:
            writer.commit()
    assert writer.store._db.execute("SELECT COUNT(*) FROM log").fetchone()[0] == SIZE % 1024
    yield writer
    writer.store.close()


def chart(writer: Writer, *, after: int = 0, most: int | None = None) -> Points:
    reader = Reader(writer.path)
    (series_id,) = (row.id for row in reader.series("run-1") if (row.quantity, row.labels) == ("fisher_trace", {}))
    return reader.points([series_id], after, most)[series_id]


@pytest.mark.parametrize("read_whole", [0, 2**15])
def test_a_chart_keeps_spikes_gaps_and_errors_from_the_pyramid_as_from_every_point(
    stored: Writer, monkeypatch: pytest.MonkeyPatch, read_whole: int
) -> None:
    monkeypatch.setattr(archive, "READ_WHOLE", read_whole)
    points = chart(stored, most=200)
    assert len(points.step) + points.folded == SIZE
    assert len(points.step) <= 200
    assert points.step == sorted(points.step)
    assert points.step[-1] == SIZE - 1
    assert {*SPIKES, *GAPS, FUZZY} <= set(points.step)
    for i, step in enumerate(points.step):
        shown = (points.value[i], points.stderr[i], points.paired[i], points.n[i], points.outcome[i])
        wanted = estimate(step)
        assert repr(shown) == repr((wanted.value, wanted.stderr, wanted.paired, wanted.n, int(wanted.outcome)))


@pytest.mark.parametrize("after", [0, 1, 700, 1024, 1025, 5000, 5121, SIZE - 1, SIZE])
def test_what_is_asked_for_after_a_frame_is_what_came_after_it(
    stored: Writer, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    whole = chart(stored, after=after)
    assert whole.frame == list(range(after + 1, SIZE + 1))
    assert whole.folded == 0
    monkeypatch.setattr(archive, "READ_WHOLE", 0)
    few = chart(stored, after=after, most=100)
    assert set(few.frame) <= set(whole.frame)
    assert len(few.frame) + few.folded == SIZE - after
    assert few.frame[-1:] == whole.frame[-1:]


def test_a_series_that_fits_is_given_whole(stored: Writer) -> None:
    assert repr(chart(stored, most=SIZE)) == repr(chart(stored))
