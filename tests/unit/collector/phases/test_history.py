"""The history forgets detail and never a probe."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.phases.history import EACH, FINEST, Buckets, History, Probe

# Whole numbers whose sums a short number holds to the last digit.
PROBES = st.lists(st.tuples(st.integers(1, 50), st.integers(-1000, 1000), st.integers(0, 1000)), max_size=400)


def probes(rows: list[tuple[int, int, int]]) -> list[Probe]:
    steps = np.cumsum([gap for gap, _, _ in rows]).tolist()
    return [Probe(step, float(y), float(variance)) for step, (_, y, variance) in zip(steps, rows, strict=True)]


def history(taken: list[Probe]) -> History:
    kept = History()
    for probe in taken:
        kept.append(probe)
    return kept


def regular(n: int, every: int = 10, since: int = 0) -> list[Probe]:
    return [Probe(since + i * every, float(i), 1.0) for i in range(n)]


def same(one: Buckets, other: Buckets) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("n", "y", "variance", "first", "last")
    )


def check(buckets: Buckets, taken: list[Probe]) -> None:
    """Each bucket is the sum of the probes it stands for, and they stand in order."""
    assert buckets.n.sum() == len(taken)
    edges = np.concatenate([[0], np.cumsum(buckets.n)]).astype(int)
    for j, (low, high) in enumerate(pairwise(edges)):
        assert buckets.y[j] == sum(probe.y for probe in taken[low:high])
        assert buckets.variance[j] == sum(probe.variance for probe in taken[low:high])
        assert buckets.last[j] == taken[high - 1].step
    assert (buckets.first <= buckets.last).all()
    assert (buckets.first[1:] > buckets.last[:-1]).all()
    assert (np.diff(buckets.n) <= 0).all()


@settings(max_examples=60, deadline=None)
@given(PROBES)
def test_a_bucket_is_the_sum_of_its_probes_whatever_came(rows: list[tuple[int, int, int]]) -> None:
    taken = probes(rows)
    buckets = history(taken).buckets()
    check(buckets, taken)
    assert not taken or buckets.first[0] == taken[0].step


@settings(max_examples=60, deadline=None)
@given(PROBES, st.data())
def test_what_is_dropped_is_gone_and_the_rest_is_as_it_was(
    rows: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    taken = probes(rows)
    kept = history(taken)
    before = kept.buckets()
    gone = data.draw(st.integers(0, len(before)))
    kept.drop(gone)
    after = kept.buckets()
    left = taken[int(before.n[:gone].sum()) :]
    check(after, left)
    assert np.array_equal(after.first, before.first[gone:])
    later = [Probe(probe.step + 10**6, probe.y, probe.variance) for probe in taken]
    for probe in later:
        kept.append(probe)
    check(kept.buckets(), left + later)


def test_the_newest_probes_are_single() -> None:
    for n in (1, FINEST, FINEST + 1, 1000):
        assert (history(regular(n)).buckets().n[-min(n, FINEST - 1) :] == 1.0).all()


@pytest.mark.parametrize("n", [1000, 30_000])
def test_steps_of_evenly_spaced_probes_are_exact(n: int) -> None:
    taken = regular(n, every=7, since=3)
    buckets = history(taken).buckets()
    edges = np.concatenate([[0], np.cumsum(buckets.n)]).astype(int)
    assert buckets.first.tolist() == [taken[i].step for i in edges[:-1]]
    assert buckets.middle()[0] == (taken[0].step + taken[edges[1] - 1].step) / 2


def test_buckets_grow_with_the_logarithm_of_the_probes_so_that_a_million_fit_into_a_hundred_and_eighty() -> None:
    kept, n, most = History(), 2**18, 0

    def bound(probes: int) -> float:
        return FINEST + 1 + (EACH + 1) * math.log2(probes / FINEST)

    probe = Probe(1, 1.0, 1.0)
    for i in range(n):
        kept.append(probe)
        if i % 997 == 0:
            now = len(kept.buckets())
            assert i < FINEST or now <= bound(i + 1)
            most = max(most, now)
    assert kept.buckets().n.sum() == kept.buckets().y.sum() == n
    assert most <= bound(n) < bound(1_000_000) <= 180


def test_a_window_that_reaches_far_back_can_be_cut_to_an_eighth_of_it() -> None:
    buckets = history(regular(20_000)).buckets()
    back = np.cumsum(buckets.n[::-1])
    assert (buckets.n[::-1][1:] <= np.maximum(back[:-1] / (EACH / 2), 1.0)).all()


def test_probes_that_are_not_final_are_buckets_of_one_and_are_not_kept() -> None:
    kept, newest = history(regular(50)), [Probe(500, 7.0, 2.0), Probe(520, 8.0, 3.0)]
    buckets = kept.buckets(newest)
    assert buckets.n[-2:].tolist() == [1.0, 1.0]
    assert buckets.y[-2:].tolist() == [7.0, 8.0]
    assert buckets.first[-2:].tolist() == buckets.last[-2:].tolist() == [500.0, 520.0]
    assert kept.buckets().n.sum() == 50
    assert History().buckets(newest).first.tolist() == [500.0, 520.0]
    assert len(History().buckets()) == 0


@settings(max_examples=40, deadline=None)
@given(PROBES, st.integers(0, 5))
def test_a_history_comes_back_from_json_and_goes_on_as_it_would_have(
    rows: list[tuple[int, int, int]], gone: int
) -> None:
    kept = history(probes(rows))
    kept.drop(min(gone, len(kept.buckets())))
    back = History.restored(json.loads(json.dumps(kept.state())))
    for one in (kept, back):
        for probe in regular(100, since=10**6):
            one.append(probe)
    assert same(back.buckets(), kept.buckets())
    assert json.dumps(back.state()) == json.dumps(kept.state())
