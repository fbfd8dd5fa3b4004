"""A stretch of a long run in more detail: from the log, from blocks, and once the run was thinned."""

from pathlib import Path

import pytest

from collector.store import stretch
from collector.store.block import Records, unpack_places
from collector.store.queries import Points, Reader
from collector.store.retention import DAY, Policy
from tests.stored_reports import SMALL, Writer
from tests.unit.collector.test_web_times import ONE, client_of, tidied, written

SERIES = 3
"""The one that small reports have."""
HERE = (1000, 1200)
STEPS = list(range(1000, 1201, 10))


def points(path: Path, within: tuple[int, int] | None = HERE, most: int = 50) -> Points:
    return Reader(path).points([SERIES], 0, most, within)[SERIES]


def test_between_two_steps_all_points_are_shown_that_a_chart_of_the_whole_run_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    written(path, 600, ended=True)
    for _ in range(2):  # in the log, and sealed
        assert points(path, None).folded > 500
        assert (points(path).step, points(path).folded) == (STEPS, 0)
        assert points(path).frame == sorted(points(path).frame)
        tidied(path)


def test_a_stretch_with_more_points_than_are_asked_for_is_folded_and_counts_what_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    written(path, 600, ended=True)
    tidied(path)
    found = points(path, most=10)
    assert (found.step[0], found.step[-1]) == (1000, 1200)
    assert len(found.step) + found.folded == len(STEPS)
    monkeypatch.setattr(stretch, "READ_WHOLE", 100)
    assert points(path).folded > 0, "what takes too long to read is drawn from its extremes"


def test_where_blocks_lie_is_looked_up_once_however_often_a_page_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    written(path, 600, ended=True)
    tidied(path)
    reader, looked = Reader(path), []

    def unpacked(data: bytes) -> Records:
        looked.append(data)
        return unpack_places(data)

    monkeypatch.setattr(stretch, "unpack_places", unpacked)
    for _ in range(3):
        assert reader.points([SERIES], 0, 50, (7000, 8000))[SERIES].step == []
    assert len(looked) == 1
    monkeypatch.setattr(stretch, "MOST_ENDS", 0)
    assert reader.points([SERIES], 0, 50, HERE)[SERIES].step == STEPS


def test_a_thinned_run_has_its_extremes_there_and_says_that_others_are_gone(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    written(path, 600, ended=True)
    tidied(path)
    tidied(path, Policy(keep_days=1), 200 + 3 * DAY)
    assert points(path).folded > 0
    assert set(points(path).step) <= set(STEPS)


def test_a_step_that_was_passed_twice_is_in_the_stretch_twice(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    writer = Writer(path)
    for step in (10, 20, 30, 20, 40):
        writer.report(ONE, schema=SMALL, step=step)
    writer.commit()
    writer.store.close()
    assert points(path, (20, 30)).step == [20, 30, 20]


def test_the_page_asks_for_a_stretch_by_its_ends(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    written(path, 30, ended=True)
    asked = "/api/runs/run-1/points?quantity=fisher_trace&series=whole"
    client = client_of(path)
    (whole,) = client.get(f"{asked}&from=100&to=120").json()["series"]
    assert whole["step"] == [100, 110, 120]
    assert client.get(f"{asked}&from=280").json()["series"][0]["step"] == [280, 290, 300]
    assert "Got from='-1'; need a whole number" in client.get(f"{asked}&from=-1").json()["error"]
