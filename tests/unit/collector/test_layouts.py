"""Stores that older releases made are taken over whole, even by a collector that is killed while it does so."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from collector.cli import app
from collector.errors import StoreError
from collector.store import arrivals, compaction
from collector.store.examination import examine
from collector.store.queries import Reader
from collector.store.replay import replayed
from collector.store.sqlite import Store
from probe_wire import Estimate, Outcome, Report, Schema, decode_for_collector, encode, pack
from tests.stored_reports import SMALL, WHOLE, Writer
from tests.stored_truth import Put, assert_holds

GOLDEN = Path(__file__).parent / "golden"
OPEN = "import sys; from pathlib import Path; from collector.store.sqlite import Store; print(1, flush=True); Store(Path(sys.argv[1])).close()"


def golden(folder: Path, layout: int) -> Path:
    """A store that the release of that layout made, in a place of its own."""
    path = folder / "s.db"
    shutil.copy(GOLDEN / f"layout_{layout}.sqlite", path)
    return path


def messages(path: Path) -> dict[str, list[Put]]:
    """What is in a store of an old layout, by run, read by SQL alone."""
    found: dict[str, list[Put]] = {}
    schemas: dict[int, dict[int, Schema]] = {}
    with closing(sqlite3.connect(path)) as db:
        for stream, number, body in db.execute("SELECT stream_id, id, body FROM schemas"):
            schema = decode_for_collector(body)
            assert isinstance(schema, Schema)
            schemas.setdefault(stream, {})[number] = schema
        rows = db.execute(
            "SELECT s.run_id, f.id, s.rank, f.received_at, f.body, s.id FROM frames f JOIN streams s ON s.id = f.stream_id ORDER BY f.id"
        )
        for run_id, frame, rank, received_at, body, stream in rows:
            found.setdefault(run_id, []).append(Put(frame, rank, received_at, body, schemas[stream]))
    return found


def table(path: Path, name: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall()  # noqa: S608 - the test's own words


@pytest.mark.parametrize("layout", [1, 2])
def test_a_store_of_an_older_layout_is_taken_over_whole(tmp_path: Path, layout: int) -> None:
    path = golden(tmp_path, layout)
    before = messages(path)
    assert sum(map(len, before.values())) == 323
    told = table(path, "transitions")
    streams = table(path, "streams")
    Store(path).close()
    for run_id, put in before.items():
        assert_holds(path, run_id, put)
    assert table(path, "streams") == [(*stream, 0.0, 0) for stream in streams]
    after = table(path, "transitions")
    if layout == 2:
        assert after == told
        assert len(table(path, "phase_states")) == 1
    else:
        assert {row[5] for row in after} == {"detected"}
        assert sorted(row[8] for row in after) == sorted(row[6] for row in told)
    Store(path).close()
    assert table(path, "transitions") == after, "once is enough"


def test_a_store_of_the_layout_before_arrivals_goes_on_where_it_was(tmp_path: Path) -> None:
    same = Writer(tmp_path / "same.db")  # what was put is the same to the last bit
    same.fill(300)
    same.fill(20, schema=SMALL)
    same.goodbye()
    same.commit()
    path = golden(tmp_path, 3)
    assert table(path, "blocks")
    assert table(path, "log")
    old = Writer(path, rank=1)
    assert_holds(path, "run-1", same.committed)
    old.fill(3)
    assert [put.frame for put in old.committed] == [352, 353, 354], "the last number of the old one was 351"
    assert_holds(path, "run-1", same.committed + old.committed)
    assert [one for one in examine(path) if one.remedy] == []


def test_what_waited_as_rows_in_the_layout_before_is_put_in_its_place(tmp_path: Path) -> None:
    same = Writer(tmp_path / "same.db")
    same.fill(300)
    same.fill(20, schema=SMALL)
    path = golden(tmp_path, 4)
    assert len(table(path, "arrived")) == 20
    old = Writer(path, rank=1)
    assert table(path, "arrived") == []
    assert_holds(path, "run-1", same.committed)
    old.fill(3)
    assert [put.frame for put in old.committed] == [321, 322, 323]
    assert_holds(path, "run-1", same.committed + old.committed)
    assert [one for one in examine(path) if one.remedy] == []


def test_a_store_of_the_layout_before_checksums_goes_on_where_it_was_and_nobody_doubts_what_has_none(
    tmp_path: Path,
) -> None:
    same = Writer(tmp_path / "same.db")
    same.fill(300)
    same.fill(20, schema=SMALL)
    path = golden(tmp_path, 5)
    old = Writer(path, epoch="b")
    assert [row[-1] for row in table(path, "log")] == [None] * 320
    old.fill(arrivals.LEAST)
    assert [put.frame for put in old.committed[:3]] == [321, 322, 323]
    assert_holds(path, "run-1", same.committed + old.committed)
    found = {one.what: one for one in examine(path)}
    assert "; 320 of them an older release kept without a checksum" in found["waiting messages"].found
    assert [one for one in found.values() if one.remedy] == []


def test_the_next_number_goes_on_after_the_old_ones(tmp_path: Path) -> None:
    path = golden(tmp_path, 2)
    last = max(put.frame for run in messages(path).values() for put in run)
    Store(path).close()
    assert table(path, "last_frame") == [(last,)]


def test_a_collector_killed_while_it_takes_a_store_over_leaves_it_to_the_next(tmp_path: Path) -> None:
    before = messages(GOLDEN / "layout_2.sqlite")
    rng = random.Random(3)
    for trial in range(8):
        folder = tmp_path / str(trial)
        folder.mkdir()
        path = golden(folder, 2)
        process = subprocess.Popen([sys.executable, "-c", OPEN, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()  # what follows takes about 10 ms
        time.sleep(0.015 * rng.random())
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        process.stdout.close()
        Store(path).close()
        for run_id, put in before.items():
            assert_holds(path, run_id, put)


@pytest.mark.parametrize("layout", [1, 2])
def test_a_small_file_of_an_older_layout_is_written_anew_once_so_that_it_can_shrink(
    tmp_path: Path, layout: int
) -> None:
    path = golden(tmp_path, layout)
    before = messages(path)
    Store(path).close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    for run_id, put in before.items():
        assert_holds(path, run_id, put)


def test_a_large_one_is_written_anew_when_a_person_says_so_and_nobody_has_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compaction, "AT_START", 1000)
    path = golden(tmp_path, 2)
    before = messages(path)
    collector = Store(path)
    assert "store.not_compacted" in caplog.messages
    assert [one.remedy for one in examine(path) if one.remedy] == [compaction.COMMAND]
    doctor = CliRunner().invoke(app, ["doctor", "--compact", "--store", str(path)])
    assert isinstance(doctor.exception, StoreError)
    assert f"to which process {os.getpid()} writes already. Stop that one" in str(doctor.exception)
    with pytest.raises(StoreError, match=r"database is locked\. Is a collector running\? Stop the collector"):
        compaction.compact(path)
    collector.close()
    full = shutil.disk_usage(tmp_path)._replace(free=0)
    with monkeypatch.context() as scarce:
        scarce.setattr(shutil, "disk_usage", lambda _: full)
        with pytest.raises(StoreError, match=r"Got 0 MB free on the disk of .*; to write it anew takes \d"):
            compaction.compact(path)
    assert CliRunner().invoke(app, ["doctor", "--compact", "--store", str(path)]).exit_code == 0
    Store(path).close()
    for run_id, put in before.items():
        assert_holds(path, run_id, put)


def test_an_older_store_is_judged_again_from_its_first_report(tmp_path: Path) -> None:
    path = golden(tmp_path, 2)
    Store(path).close()
    assert {t.machine for t in replayed(Reader(path), "digits-1")} >= {"critical_period"}


REPORTS = st.lists(
    st.tuples(st.sampled_from([WHOLE, SMALL]), st.floats(), st.floats(), st.integers(0, 2**32 - 1), st.booleans()),
    max_size=40,
)


def old_store(path: Path, reports: list[tuple[Schema, float, float, int, bool]]) -> list[Put]:
    """A store of layout 2, in the golden one's own tables, of two ranks and any reports."""
    shutil.copy(GOLDEN / "layout_2.sqlite", path)
    put = []
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for name in ("points", "transitions", "phase_states", "frames", "schemas", "series", "quantities"):
            db.execute(f"DELETE FROM {name}")  # noqa: S608 - the test's own words
        db.execute("DELETE FROM streams WHERE id > 2")
        db.execute("UPDATE streams SET run_id = 'digits-1', rank = id, epoch = id, high = 0, lost = 0, finished = NULL")
        for stream, schema in product((1, 2), (WHOLE, SMALL)):
            db.execute("INSERT INTO schemas VALUES (?, ?, ?)", (stream, schema.id, encode(schema)))
            db.executemany(
                "INSERT OR IGNORE INTO series (run_id, rank, quantity, labels, settings, position) VALUES ('digits-1', ?, ?, ?, '{}', 0)",
                [(stream, column.quantity, json.dumps(column.labels, sort_keys=True)) for column in schema.columns],
            )
        for frame, (schema, value, error, n, second) in enumerate(reports, 400):
            stream = 1 + second
            estimates = [Estimate(value, error, -error, n, Outcome(i % 3)) for i, _ in enumerate(schema.columns)]
            body = encode(Report(frame, frame % 7, 0.5 * n, schema.id, *pack(estimates)))
            db.execute(
                "INSERT INTO frames VALUES (?, ?, ?, ?, ?, ?)", (frame, stream, frame, frame % 7, 0.1 * frame, body)
            )
            put.append(Put(frame, stream, 0.1 * frame, body, {1: WHOLE, 2: SMALL}))
        db.execute("UPDATE streams SET high = (SELECT COUNT(*) FROM frames f WHERE f.stream_id = streams.id)")
    return put


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reports=REPORTS)
def test_any_reports_of_an_older_store_come_through_and_are_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reports: list[tuple[Schema, float, float, int, bool]]
) -> None:
    path = tmp_path / "any.db"
    for name in ("sealing.BLOCK", "sealing.BUCKET", "examination.BUCKET"):
        monkeypatch.setattr(f"collector.store.{name}", 4)
    put = old_store(path, reports)
    store = Store(path)
    while store.unsealed:
        store._rest_until = 0.0
        store.tidy(0.0)
    store.close()
    assert_holds(path, "digits-1", put)
    assert [one for one in examine(path) if one.remedy] == []
    if len(reports) >= 16:
        assert table(path, "blocks")
