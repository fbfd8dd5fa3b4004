"""What an operator may do by accident, and a stranger on purpose, to store, clock, terminal and log."""

import logging
import stat
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from msgspec import structs
from typer.testing import CliRunner

from collector.cli import app
from collector.cli.transitions import find_run
from collector.config import load
from collector.errors import AccessError, ConfigError, StoreError
from collector.log import KeyValueFormatter
from collector.store import export as exporting
from collector.store import series_groups
from collector.store.queries import Points, Reader
from collector.store.retention import DAY, OVER_AFTER, Policy, Retention
from collector.store.space import wal_bytes_of
from collector.store.sqlite import Store
from probe_wire import Hello, Run, encode
from tests.stored_reports import RUN, SMALL, WHOLE, Writer


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_store_that_is_written_to_is_refused_by_any_link_to_it_too(tmp_path: Path) -> None:
    path, link = tmp_path / "s.db", tmp_path / "by-another-name.db"
    with closing(Store(path)):
        link.symlink_to(path)
        with pytest.raises(StoreError, match="writes already"):
            Store(link)
    Store(link).close()


def test_the_lock_of_a_store_is_not_taken_through_a_link_that_was_laid_there(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "s.db-owner").symlink_to(precious)
    with pytest.raises(StoreError, match="a link"):
        Store(tmp_path / "s.db")
    assert precious.read_text() == "mine"


def test_a_new_store_is_for_its_owner_alone_and_one_that_was_opened_to_others_stays_so(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with closing(Store(path)):
        assert [mode_of(tmp_path / f"s.db{part}") for part in ("", "-wal", "-shm")] == [0o600] * 3
        assert wal_bytes_of(path) > 0
    assert wal_bytes_of(path) == 0
    path.chmod(0o640)
    with closing(Store(path)):
        assert [mode_of(tmp_path / f"s.db{part}") for part in ("", "-wal", "-shm")] == [0o640] * 3


def test_links_that_lead_nowhere_yet_or_in_a_circle_are_no_way_around_it(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "new.db")
    Store(tmp_path / "link.db").close()
    assert mode_of(tmp_path / "new.db") == 0o600
    (tmp_path / "a.db").symlink_to(tmp_path / "b.db")
    (tmp_path / "b.db").symlink_to(tmp_path / "a.db")
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(tmp_path / "a.db")


def test_a_clock_that_is_set_on_makes_no_living_run_old(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    writer = Writer(tmp_path / "s.db")
    writer.fill(3)
    (heard,) = (run.last_heard for run in Reader(writer.path).runs())
    gone_by = 0.0
    retention = Retention(writer.store._db, Policy(keep_days=1, max_bytes=1), lambda: gone_by)
    for ahead in (0.0, 2 * OVER_AFTER, 3 * OVER_AFTER):
        assert retention.step(heard + ahead) == []
    assert caplog.text.count("store.clock_set_on") == 1
    gone_by = OVER_AFTER + DAY
    assert retention.step(heard + gone_by) == ["run-1"], "that much time has gone by"
    writer.store.close()


def test_what_keeps_the_store_from_being_tidied_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(tmp_path / "s.db")
    told: list[str] = []
    writer.store.upkeep_failed = lambda: told.append("failed")
    writer.fill(2)
    writer.store.tidy(0.0)
    assert told == []
    monkeypatch.setattr(writer.store._arrivals, "settle", lambda: 1 / 0)
    monkeypatch.setattr(type(writer.store._arrivals), "due", True)
    writer.store.tidy(0.0)
    assert told == ["failed"]
    writer.store.close()


def test_a_stream_that_cannot_be_sealed_is_told_too(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "s.db")
    told: list[str] = []
    writer.store.upkeep_failed = lambda: told.append("failed")
    writer.fill(600, schema=SMALL)
    writer.store._db.execute("UPDATE log SET body = x'ff', crc = NULL WHERE frame = 7")
    writer.store._sealer.ended(writer.stream.id)
    while writer.store._arrivals.due or writer.store.unsealed:
        writer.store._rest_until = 0.0
        writer.store.tidy(0.0)
    assert told == ["failed"]
    writer.store.close()


def test_a_schema_that_is_said_again_costs_no_writing(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "s.db")
    before = writer.store._db.total_changes
    writer.store.put_schema(writer.stream, WHOLE, encode(WHOLE))
    assert writer.store._db.total_changes == before
    shuffled = structs.replace(WHOLE, quantities=WHOLE.quantities[::-1])
    writer.store.put_schema(writer.stream, shuffled, encode(shuffled))
    assert writer.store._db.total_changes > before
    writer.store.close()


HOSTILE = "\x1b]0;owned\x07\x9b2J[/]\n\u202egnp.[link=x]"


def test_a_run_by_a_hostile_name_neither_ends_a_command_nor_speaks_to_the_terminal(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    store.put_hello(Hello(Run("run-1", HOSTILE, "host", 1, 0.0), 0, "a", 1), 5.0)
    store.commit()
    store.close()
    for arguments in (
        ["runs"],
        ["transitions"],
        ["transitions", "nobody"],
        ["export", "--out", str(tmp_path / "a.csv")],
    ):
        done = CliRunner().invoke(app, [*arguments, "--store", str(store.path)], env={"COLUMNS": "200"})
        assert not isinstance(done.exception, Exception) or isinstance(done.exception, StoreError), arguments
        assert not [c for c in done.output if c != "\n" and not c.isprintable()], arguments
    assert "[/]" in CliRunner().invoke(app, ["runs", "--store", str(store.path)], env={"COLUMNS": "200"}).output


def test_a_run_is_found_by_its_id_before_one_that_took_it_for_its_name(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    store.put_hello(Hello(RUN, 0, "a", 1), 5.0)
    store.put_hello(Hello(Run("impostor", RUN.id, "host", 1, 0.0), 0, "a", 1), 6.0)
    store.commit()
    store.close()
    assert find_run(Reader(store.path), RUN.id).id == RUN.id
    assert find_run(Reader(store.path), RUN.name).id == RUN.id


def test_no_name_writes_a_line_of_the_log_of_its_own_or_speaks_to_who_reads_it() -> None:
    record = logging.LogRecord("collector", logging.INFO, "", 0, "stream.opened", (), None)
    record.fields = {"name": HOSTILE, "host": "\x1b[2J", "plain": "fc1", "spaced": "a ü"}
    line = KeyValueFormatter().format(record)
    assert line.isprintable()
    assert line.endswith('host="\\u001b[2J" plain=fc1 spaced="a ü"')


def test_an_export_is_not_written_through_a_link_that_was_laid_there(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "s.db")
    writer.fill(3)
    writer.store.close()
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / "out.csv.partial").symlink_to(precious)
    reader = Reader(writer.path)
    assert exporting.export(reader, reader.runs()[0], tmp_path / "out.csv") == 9
    assert precious.read_text() == "mine"


def test_series_are_exported_alike_however_many_are_read_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(tmp_path / "s.db")
    writer.fill(5)
    writer.store.close()
    reader = Reader(writer.path)
    asked: list[int] = []
    points = reader.points

    def counted(series_ids: Sequence[int]) -> dict[int, Points]:
        asked.append(len(series_ids))
        return points(series_ids)

    monkeypatch.setattr(reader, "points", counted)
    files = []
    for most in (1, 2, 256):
        monkeypatch.setattr(series_groups, "MOST", most)
        exporting.export(reader, reader.runs()[0], path := tmp_path / f"{most}.csv")
        files.append(path.read_text())
    assert files[0] == files[1] == files[2]
    assert asked == [1, 1, 1, 2, 1, 3]


def test_an_abstract_socket_which_has_no_owner_is_refused() -> None:
    with pytest.raises(ConfigError, match="abstract socket"):
        load(flags={"inlet.address": "ipc://@phasewatch"}, environment={})
    assert load(flags={"inlet.address": "ipc:///run/phasewatch"}, environment={})
    relayed = CliRunner().invoke(app, ["relay", "tcp://127.0.0.1:9", "--listen", "ipc://@phasewatch"])
    assert isinstance(relayed.exception, AccessError)
