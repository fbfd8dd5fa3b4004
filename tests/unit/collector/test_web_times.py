"""When the steps of a run were: told by its reports, of every life of the job, in the log and in blocks, and once it was thinned."""

import math
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from collector.live import Live
from collector.store import times
from collector.store.queries import Reader
from collector.store.retention import DAY, Policy
from collector.store.sqlite import Store
from collector.web import Feed, api, create_app
from probe_wire import Estimate, Report, encode, pack
from tests.stored_reports import SMALL, Writer
from tests.web_client import Client

ONE = [Estimate(1.0, 0.1, 0.1, 64)]
TIMES = "/api/runs/run-1/times"


def written(path: Path, count: int, *, epoch: str = "a", rank: int = 0, ended: bool = False) -> Writer:
    """A life of a run: its n-th report is made at 0.1 n seconds, and the job has run for 0.51 n by then."""
    writer = Writer(path, epoch=epoch, rank=rank)
    for _ in range(count):
        writer.report(ONE, schema=SMALL)
    if ended:
        writer.goodbye()
    writer.commit()
    writer.store.close()
    return writer


def tidied(path: Path, policy: Policy | None = None, now: float = 1000.0) -> None:
    """Put in place, sealed, and thinned where the policy asks for it."""
    store = Store(path, policy or Policy())
    for _ in range(20):
        store._rest_until = 0.0
        store.tidy(now)
    store.close()


def client_of(path: Path) -> Client:
    return Client(create_app(Reader(path), Live(), Feed(), lambda: b"", lambda: True))


def answer(path: Path, query: str = "") -> dict[str, Any]:
    found: dict[str, Any] = client_of(path).get(TIMES + query).json()
    return found


def test_times_are_those_at_which_the_job_measured_and_not_those_at_which_its_reports_came(tmp_path: Path) -> None:
    written(tmp_path / "s.db", 3, ended=True)
    told = answer(tmp_path / "s.db")
    assert (told["clock"], told["step"]) == ("job", [10, 20, 30])
    assert told["time"] == pytest.approx([0.1, 0.2, 0.3])
    assert told["ran"] == pytest.approx([0.51, 1.02, 1.53])
    assert len(set(told["life"])) == 1


def test_asking_after_the_last_frame_brings_only_later_times(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    writer = written(path, 3)
    frame = answer(path)["frame"]
    assert answer(path, f"?after={frame}") == {
        "clock": "job",
        "frame": frame,
        "step": [],
        "time": [],
        "ran": [],
        "life": [],
        "again": False,
    }
    writer.open()
    writer.report(ONE, schema=SMALL)
    writer.commit()
    writer.store.close()
    assert answer(path, f"?after={frame}")["step"] == [40]


def test_each_life_of_a_resumed_run_counts_its_own_seconds(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    written(path, 3)
    written(path, 2, epoch="b")
    written(path, 5, rank=1)  # what another rank says is its own affair
    told = answer(path)
    assert told["step"] == [10, 20, 30, 10, 20]
    assert told["ran"] == pytest.approx([0.51, 1.02, 1.53, 0.51, 1.02])
    first, second = told["life"][0], told["life"][-1]
    assert told["life"] == [first] * 3 + [second] * 2
    assert first != second


def test_a_sealed_run_tells_the_same_times(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    written(path, 600, ended=True)
    before = answer(path)
    tidied(path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT SUM(reports) FROM blocks").fetchone() == (600,)
    assert answer(path) == before
    assert len(before["step"]) == 600
    frame = before["frame"]
    assert answer(path, f"?after={frame - 3}")["step"] == [5980, 5990, 6000]


def test_of_many_reports_some_are_told_the_first_and_the_last_among_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.db"
    written(path, 600, ended=True)
    tidied(path)
    monkeypatch.setattr(api, "MOST_TIMES", 12)
    told = answer(path)
    assert (told["step"][0], told["step"][-1], len(told["step"])) == (10, 6000, 12)
    assert told["time"] == pytest.approx([step / 100 for step in told["step"]])
    assert times.LEAST < 12


def test_a_thinned_run_tells_when_its_reports_came_and_that_this_is_the_collectors_clock(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    written(path, 600, ended=True)
    tidied(path)
    tidied(path, Policy(keep_days=1), 200 + 3 * DAY)
    told = answer(path)
    assert told["clock"] == "collector"
    assert (told["step"][0], told["step"][-1]) == (10, 6000)
    assert told["time"] == pytest.approx([100 + step / 100 for step in told["step"]])
    assert told["ran"] == pytest.approx([(step - 10) / 100 for step in told["step"]])


def test_what_a_thinned_run_has_left_in_its_log_and_adds_later_is_told_by_the_same_clock(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    written(path, 1100, ended=True)
    tidied(path)
    tidied(path, Policy(keep_days=1), 200 + 3 * DAY)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT SUM(reports) FROM blocks").fetchone() == (1024,)
    told = answer(path)
    assert told["time"] == pytest.approx([100 + step / 100 for step in told["step"]])
    assert told["ran"] == pytest.approx([(step - 10) / 100 for step in told["step"]])
    written(path, 3, epoch="b")
    later = answer(path, f"?after={told['frame']}")
    assert (later["clock"], later["time"]) == ("collector", pytest.approx([100.1, 100.2, 100.3]))
    assert later["ran"] == pytest.approx([0, 0.1, 0.2])


@pytest.mark.parametrize("broken", [{"time": math.nan}, {"time": 1e300}, {"training_seconds": -math.inf}])
def test_a_report_that_says_no_time_is_left_out(tmp_path: Path, broken: dict[str, float]) -> None:
    writer = Writer(tmp_path / "s.db")
    for seq in (1, 2, 3):
        report = Report(seq, 10 * seq, 0.1 * seq, SMALL.id, *pack(ONE))
        writer.report(ONE, schema=SMALL, body=encode(structs.replace(report, **broken) if seq == 2 else report))
    writer.commit()
    writer.store.close()
    assert answer(writer.path)["step"] == [10, 30]


def test_a_run_that_has_not_reported_has_no_times_and_an_unknown_one_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    written(path, 0)
    assert answer(path)["step"] == []
    assert "no run of that id" in client_of(path).get("/api/runs/nobody/times").json()["error"]
