"""What is measured more densely for a while counts as often as before."""

import json
import math

import pytest

from collector.phases.pace import GAPS, Pace


def even(n: int = 12, every: int = 10) -> Pace:
    pace = Pace()
    for i in range(n):
        assert pace.take(i * every, float(i * every), float(i), 0.1, dense=False) == (float(i), pytest.approx(0.1))
    return pace


def test_the_usual_distance_is_the_median_of_those_there_were() -> None:
    assert Pace().usual() is None
    assert even().usual() == 10
    pace = even()
    pace.take(500, 500.0, 0.0, 0.0, dense=False)
    assert pace.usual() == 10


def test_dense_probes_are_averaged_to_the_usual_distance() -> None:
    pace = even()  # the last at step 110
    assert [pace.take(110 + 2 * i, 110.0 + 2 * i, float(i), 0.3, dense=True) for i in (1, 2)] == [None, None]
    mean, paired = pace.take(116, 116.0, 3.0, 0.3, dense=True) or (0.0, 0.0)
    assert mean == 2.0
    assert paired == pytest.approx(0.3)  # what they share is not averaged out
    assert pace.take(118, 118.0, 9.0, 0.3, dense=True) is None


def test_probes_as_far_apart_as_usual_are_not_waited_for() -> None:
    pace = even()
    assert pace.take(120, 120.0, 5.0, 0.1, dense=True) == (5.0, pytest.approx(0.1))


def test_what_was_held_is_not_lost_when_nothing_is_suspected_any_more() -> None:
    pace = even()
    assert pace.take(112, 112.0, 1.0, math.nan, dense=True) is None
    mean, paired = pace.take(114, 114.0, 3.0, 0.2, dense=False) or (0.0, 0.0)
    assert mean == 2.0
    assert math.isnan(paired)


def test_a_series_too_young_to_have_a_usual_distance_is_taken_as_it_comes() -> None:
    pace = Pace()
    for i in range(GAPS):
        assert pace.take(i, float(i), 1.0, 0.1, dense=True) is not None


def test_it_comes_back_from_json_and_goes_on_as_it_would_have() -> None:
    rows = (
        [(i * 10, False) for i in range(12)] + [(112 + 3 * i, True) for i in range(20)] + [(180, False), (190, False)]
    )
    for cut in range(len(rows)):
        kept, back = Pace(), Pace()
        for step, dense in rows[:cut]:
            kept.take(step, float(step), float(step % 7), 0.1, dense=dense)
        back.restore(json.loads(json.dumps(kept.state())))
        for step, dense in rows[cut:]:
            taken = [one.take(step, float(step), float(step % 7), 0.1, dense=dense) for one in (kept, back)]
            assert taken[0] == taken[1]
        assert kept.usual() == back.usual()
