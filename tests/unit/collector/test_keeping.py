"""What a person does to keep a store: looks it over, copies it while it is written to, takes a run out of it."""

import csv
import json
import math
import os
import sqlite3
import stat
import sys
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from collector.cli import app
from collector.errors import StoreError
from collector.store.backup import back_up
from collector.store.layout import LAYOUT
from collector.store.queries import Reader
from collector.store.sqlite import Store
from probe_wire import Estimate, Outcome
from tests.stored_reports import SMALL, Writer
from tests.stored_truth import assert_holds


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    """A stream with one block, and some in the log."""
    writer = Writer(tmp_path / "s.db")
    writer.fill(1030)
    return writer


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "300"})


def findings(path: Path) -> dict[str, tuple[str, str]]:
    """What the doctor finds: each check's finding, and what to do."""
    done = call("doctor", "--store", path, "--json")
    found = {one["what"]: (one["found"], one["remedy"]) for one in json.loads(done.stdout)}
    assert done.exit_code == any(remedy for _, remedy in found.values())
    return found


def spoil(path: Path, *statements: str) -> None:
    with sqlite3.connect(path) as db:
        for statement in statements:
            db.execute(statement)
    db.close()


# -- doctor ---------------------------------------------------------------------------------------


def test_the_doctor_finds_nothing_wrong_with_a_store_that_is_written_to(writer: Writer) -> None:
    writer.report([Estimate(1.0)], schema=SMALL)  # not committed
    found = findings(writer.path)
    assert {what: remedy for what, (_, remedy) in found.items() if remedy} == {}
    assert found["messages"][0] == "1,030 messages of 1 streams, as many as acknowledged"
    assert found["blocks"][0] == "1 blocks give back what came"
    assert found["SQLite"][0].startswith(sqlite3.sqlite_version)
    shown = call("doctor", "--store", writer.path)
    assert (shown.exit_code, shown.output.count("✓")) == (0, 8)
    writer.store.close()


def test_the_doctor_notices_a_report_that_is_missing(writer: Writer) -> None:
    writer.store.close()
    spoil(writer.path, "DELETE FROM log WHERE frame = 1027")
    assert findings(writer.path)["messages"] == (
        "rank 0 of run-1 has 1,029 of 1,030",
        "Restore the newest backup, and report this.",
    )


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE chunks SET body = (SELECT body FROM chunks WHERE series_id = 2) WHERE series_id = 1",
        "UPDATE chunks SET body = x'00' WHERE series_id = 3",
        "UPDATE pyramid SET body = x'' WHERE series_id = 2",
        "UPDATE blocks SET crc = crc + 1",
        "DELETE FROM pyramid WHERE series_id = 1",
    ],
)
def test_the_doctor_notices_a_block_that_does_not_give_back_what_came(writer: Writer, damage: str) -> None:
    writer.store.close()
    spoil(writer.path, damage)
    assert findings(writer.path)["blocks"][0] == "1 of 1 blocks do not give back what came, the first at frame 1"


def test_the_doctor_notices_rights_layouts_and_damage_and_says_what_to_do(writer: Writer) -> None:
    writer.store.close()
    writer.path.chmod(0o666)
    assert findings(writer.path)["permissions"] == ("others may write to it (-rw-rw-rw-)", f"chmod go-w {writer.path}")
    spoil(writer.path, "PRAGMA user_version = 2")
    assert findings(writer.path)["layout"][1] == "Start the collector once: it takes the store over."
    spoil(writer.path, "PRAGMA user_version = 99")
    assert findings(writer.path)["layout"][1] == "Install that release."
    spoil(writer.path, "PRAGMA application_id = 1")
    assert findings(writer.path)["layout"] == ("an SQLite file of another program", "Name the store with --store.")
    with writer.path.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(os.urandom(20 * 4096))
    assert findings(writer.path)["integrity"][1].startswith("Restore the newest backup")


def test_the_doctor_of_no_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"which does not exist. Start `probe-collector serve` once"):
        CliRunner().invoke(app, ["doctor", "--store", str(tmp_path / "none.db")], catch_exceptions=False)


# -- backup ---------------------------------------------------------------------------------------


def test_a_backup_made_while_reports_come_in_is_a_moment_of_the_store(writer: Writer, tmp_path: Path) -> None:
    before = list(writer.committed)
    writer.report([Estimate(1.0)], schema=SMALL)  # not committed
    done = threading.Event()
    copied: list[Result] = []

    def copy() -> None:
        copied.append(call("backup", tmp_path / "copy.db", "--store", writer.path))
        done.set()

    thread = threading.Thread(target=copy)
    thread.start()
    while not done.is_set():
        writer.fill(5)
    thread.join(20)
    assert copied[0].exit_code == 0, copied[0].output
    assert "copy.db holds 1 runs in " in copied[0].output
    held = len(list(Reader(tmp_path / "copy.db").frames("run-1")))
    assert held >= len(before)
    assert_holds(tmp_path / "copy.db", "run-1", writer.committed[:held])
    assert findings(tmp_path / "copy.db")["messages"][1] == ""
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    writer.store.close()
    Store(tmp_path / "copy.db").close()


def test_a_backup_replaces_no_file_and_leaves_none_where_it_fails(writer: Writer, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    copy.write_text("dear")
    with pytest.raises(StoreError, match=r"which exists already. Choose another file, or remove it"):
        back_up(writer.path, copy)
    assert copy.read_text() == "dear"
    with pytest.raises(StoreError, match=r"could not be made: .*Is there room, and may you write there"):
        back_up(writer.path, tmp_path / "nowhere" / "copy.db")
    with pytest.raises(StoreError, match=r"which does not exist. Name one with --store"):
        back_up(tmp_path / "none.db", tmp_path / "other.db")
    spoil(writer.path, "PRAGMA application_id = 1")
    with pytest.raises(StoreError, match="the store is not one of ours"):
        back_up(writer.path, tmp_path / "other.db")
    assert sorted(path.name for path in tmp_path.iterdir() if "copy" in path.name or "other" in path.name) == [
        "copy.db"
    ]
    writer.store.close()


# -- export ---------------------------------------------------------------------------------------


def test_a_run_is_exported_to_the_last_bit_as_parquet_and_as_csv(writer: Writer, tmp_path: Path) -> None:
    writer.report(
        [Estimate(math.nan, outcome=Outcome.FAILED), Estimate(math.inf), Estimate(0.1 + 0.2, 1e-300, 5e-324, 7)]
    )
    writer.commit()
    for kind in ("parquet", "csv"):
        done = call("export", "digits", "--out", tmp_path / f"run.{kind}", "--store", writer.path)
        assert done.exit_code == 0, done.output
        assert f"{3 * 1031:,} points of digits are in " in done.output
    table = pq.read_table(tmp_path / "run.parquet").to_pylist()
    with (tmp_path / "run.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    reader = Reader(writer.path)
    wanted = []
    for series in reader.series("run-1"):
        p = reader.points([series.id])[series.id]
        for i, step in enumerate(p.step):
            numbers = (p.value[i].hex(), p.stderr[i].hex(), p.paired[i].hex(), p.n[i], Outcome(p.outcome[i]).label)
            wanted.append(
                ("run-1", series.rank, series.quantity, json.dumps(series.labels), step, p.frame[i], *numbers)
            )
    names = ("run", "rank", "quantity", "labels", "step", "frame", "value", "stderr", "paired", "n", "outcome")

    def told(row: dict[str, object]) -> tuple[object, ...]:
        kinds = (str, int, str, str, int, int, float, float, float, int, str)
        values = [kind(row[name]) for kind, name in zip(kinds, names, strict=True)]  # type: ignore[call-overload]
        return tuple(value.hex() if isinstance(value, float) else value for value in values)

    assert [told(row) for row in table] == wanted
    assert [told(row) for row in rows] == wanted
    writer.store.close()


def test_an_export_needs_a_known_ending_a_new_file_and_for_parquet_its_library(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(out: Path) -> str:
        done = call("export", "--out", out, "--store", writer.path)
        assert isinstance(done.exception, StoreError)
        return str(done.exception)

    assert "need one that ends in .parquet or .csv" in refused(tmp_path / "run.xls")
    (tmp_path / "there.csv").write_text("dear")
    assert "exists already" in refused(tmp_path / "there.csv")
    assert "cannot be written" in refused(tmp_path / "nowhere" / "run.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'phasewatch[export]', or export to .csv" in refused(tmp_path / "run.parquet")
    assert [path.name for path in tmp_path.glob("run*")] == []
    writer.store.close()


def test_a_store_of_another_layout_or_none_at_all_is_not_read(writer: Writer, tmp_path: Path) -> None:
    writer.store.close()
    spoil(writer.path, "PRAGMA user_version = 2")
    with pytest.raises(
        StoreError, match=rf"of layout 2; this release reads layout {LAYOUT}. An older one is taken over when"
    ):
        Reader(writer.path)
    (tmp_path / "text.db").write_text("this is no database, and long enough to be looked at" * 10)
    with pytest.raises(StoreError, match=r"which cannot be read: file is not a database. Name another with --store"):
        Reader(tmp_path / "text.db")
