"""Segments and spools on a real disk: what was written is read again, whatever happened to the rest."""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probe_post import spools
from probe_post.errors import SpoolError
from probe_post.ledger import READY, Ledger
from probe_post.segment import BLOCK_RECORDS, Kind, Record, packed, read, written
from probe_post.spool import SEGMENT_BYTES, Message, Spool, decoded
from probe_wire import Hello, Run, encode

HELLO = Hello(Run("run-1", "test", "host", 1, 0.0), 3, "epoch-1", 1)
COLLECTOR = "tcp://127.0.0.1:5757"
SCHEMA = (7, b"a schema")


def message(seq: int, size: int = 40) -> Message:
    return Message(seq, SCHEMA if seq % 3 else None, random.Random(seq).randbytes(size))


def open_spool(tmp_path: Path, **kwargs: int) -> Spool:
    return spools.create(tmp_path, COLLECTOR, HELLO, encode(HELLO), **kwargs)


def everything(spool: Spool) -> list[Message]:
    found: list[Message] = []
    while more := spool.after(found[-1].seq if found else spool.first - 1):
        found += more
    return found


def die(spool: Spool) -> Path:
    """The process that holds the spool is gone; its files are as they are."""
    spool.forsake()
    return spool.folder


records = st.builds(
    Record, st.sampled_from([Kind.STREAM, Kind.SCHEMA, Kind.MESSAGE]), st.integers(0, 2**62), st.binary(max_size=60)
)


@given(st.lists(records, max_size=3 * BLOCK_RECORDS))
@settings(max_examples=60, deadline=None)
def test_records_are_read_as_they_were_written_also_when_they_are_packed(given_records: list[Record]) -> None:
    data = b"".join(map(written, given_records))
    assert read(data) == (given_records, False)
    assert read(packed(data)) == (given_records, False)


@given(st.lists(records, min_size=1, max_size=40), st.data())
@settings(max_examples=300, deadline=None)
def test_a_flipped_bit_costs_the_record_it_hit_and_never_gives_a_wrong_one(
    given_records: list[Record], data: st.DataObject
) -> None:
    whole = [written(record) for record in given_records]
    plain = bytearray(b"".join(whole))
    bit = data.draw(st.integers(0, 8 * len(plain) - 1))
    plain[bit // 8] ^= 1 << bit % 8
    hit, at = 0, 0
    while at + len(whole[hit]) <= bit // 8:
        at += len(whole[hit])
        hit += 1
    assert read(bytes(plain)).records == given_records[:hit] + given_records[hit + 1 :]


@given(st.lists(records, min_size=1, max_size=40), st.data())
@settings(max_examples=100, deadline=None)
def test_a_torn_tail_is_cut_and_said_to_be_torn(given_records: list[Record], data: st.DataObject) -> None:
    plain = b"".join(map(written, given_records))
    last = len(written(given_records[-1]))
    cut = data.draw(st.integers(1, last - 1))
    assert read(plain[:-cut]) == (given_records[:-1], True)


def test_a_report_of_twenty_points_takes_two_thirds_of_its_size_when_packed() -> None:
    noise = random.Random(0)
    bodies = [
        b"\x93" * 60 + b"".join(noise.randbytes(6) + b"\xd0\x3f" for _ in range(40)) + bytes(240) for _ in range(256)
    ]
    plain = b"".join(written(Record(Kind.MESSAGE, i, body)) for i, body in enumerate(bodies))
    assert len(packed(plain)) < 0.55 * len(plain)


def test_a_spool_of_a_killed_process_holds_its_stream_its_schemas_and_its_messages(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    given_messages = [message(seq) for seq in range(1, 30)]
    for each in given_messages:
        spool.append(each)
    adopted = Spool.adopt(die(spool))
    assert adopted is not None
    assert everything(adopted) == given_messages
    assert decoded(adopted.stream) == HELLO
    assert (adopted.first, adopted.last) == (1, 29)
    adopted.close(delete=True)
    assert not adopted.folder.exists()


def test_every_segment_can_be_read_without_those_before_it(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    size = SEGMENT_BYTES // 10
    for seq in range(1, 60):
        spool.append(message(seq, size))
    assert len(spool) == 6
    spool.forget(35)
    assert spool.first > 20
    assert spool.first <= 36
    adopted = Spool.adopt(die(spool))
    assert adopted is not None
    found = everything(adopted)
    assert found == [message(seq, size) for seq in range(spool.first, 60)]
    assert decoded(adopted.stream) == HELLO
    adopted.close(delete=False)


def test_what_waits_for_long_is_packed_and_read_all_the_same(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    alike = [Message(seq, SCHEMA, seq.to_bytes(4, "little") * 200) for seq in range(1, 4000)]
    for each in alike:
        spool.append(each)
    assert len(spool) > 2
    assert spool.size < SEGMENT_BYTES * 1.5
    assert everything(spool) == alike
    spool.close(delete=True)


def test_a_full_spool_gives_up_its_oldest_segment(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, cap=3 * SEGMENT_BYTES)
    for seq in range(1, 100):
        spool.append(message(seq, SEGMENT_BYTES // 10))
        while spool.full:
            spool.drop_oldest()
    assert spool.size <= 3 * SEGMENT_BYTES
    assert [each.seq for each in everything(spool)] == list(range(spool.first, 100))
    spool.close(delete=True)


def test_a_spool_in_use_is_nobody_elses(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append(message(1))
    assert Spool.adopt(spool.folder) is None
    assert list(spools.left_behind(tmp_path, COLLECTOR)) == []
    spool.close(delete=False)
    (found,) = spools.left_behind(tmp_path, COLLECTOR)
    assert list(spools.left_behind(tmp_path, COLLECTOR)) == [], "who adopted it holds it"
    found.close(delete=True)


def test_what_was_left_for_another_collector_stays_where_it_is(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append(message(1))
    die(spool)
    assert list(spools.left_behind(tmp_path, "tcp://10.0.0.1:5757")) == []
    assert list(spools.everything(tmp_path)) == [spool.folder]


@pytest.mark.parametrize("damage", ["garbage", "empty", "other files", "a newer record", "unreadable header"])
def test_a_damaged_spool_is_passed_over_put_aside_and_never_raises(tmp_path: Path, damage: str) -> None:
    spool = open_spool(tmp_path)
    spool.append(message(1))
    (segment,) = spool.folder.glob("*.segment")
    whole = segment.read_bytes()
    die(spool)
    match damage:
        case "garbage":
            segment.write_bytes(os.urandom(5000))
        case "empty":
            segment.write_bytes(b"")
        case "other files":
            (spool.folder / "notes.txt").write_text("mine")
            (spool.folder / "00000000000000000002.segment").mkdir()
        case "a newer record":
            segment.write_bytes(whole + written(Record(Kind.MESSAGE, 2, b"")).replace(b"\x02", b"\x09", 1))
        case "unreadable header":
            segment.write_bytes(b"x" + whole[1:])
    for found in spools.left_behind(tmp_path, COLLECTOR):
        assert everything(found) in ([message(1)], [])
        found.close(delete=False)
    assert spools.trim(tmp_path) == 0


def test_three_hundred_flipped_bits_never_give_a_wrong_message_and_never_stop_the_start(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    given_messages = {seq: message(seq) for seq in range(1, 200)}
    for each in given_messages.values():
        spool.append(each)
    (segment,) = spool.folder.glob("*.segment")
    whole = segment.read_bytes()
    folder = die(spool)
    noise = random.Random(1)
    for _ in range(300):
        data = bytearray(whole)
        data[noise.randrange(len(data))] ^= 1 << noise.randrange(8)
        segment.write_bytes(data)
        adopted = Spool.adopt(folder)
        if adopted is None:  # its greeting was hit: nobody knows whose messages these are
            segment.with_suffix(".damaged").rename(segment)
            continue
        found = everything(adopted)
        assert all(given_messages[each.seq] == each for each in found)
        assert len(found) >= 198 or SCHEMA[1] not in bytes(data)
        adopted.close(delete=False)


def test_a_message_torn_by_a_power_cut_is_known_to_be_missing(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    for seq in range(1, 6):
        spool.append(message(seq))
    (segment,) = spool.folder.glob("*.segment")
    folder = die(spool)
    segment.write_bytes(segment.read_bytes()[:-7])
    adopted = Spool.adopt(folder)
    assert adopted is not None
    assert [each.seq for each in everything(adopted)] == [1, 2, 3, 4]
    assert adopted.last == 5
    adopted.close(delete=True)


def test_a_folder_that_others_can_write_to_is_refused_with_what_to_do(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(SpoolError, match=r"need one that belongs to you.*PHASEWATCH_SPOOL"):
        open_spool(tmp_path)


def test_a_root_that_is_a_link_or_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    with pytest.raises(SpoolError):
        open_spool(tmp_path / "link")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SpoolError, match="cannot be written"):
        open_spool(tmp_path / "file")


def test_a_disk_that_takes_half_a_record_leaves_no_half_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = open_spool(tmp_path)
    spool.append(message(1))
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[: len(data) // 2]))
    with pytest.raises(OSError, match="is it full"):
        spool.append(message(2))
    monkeypatch.undo()
    spool.append(message(2))
    assert everything(spool) == [message(1), message(2)]
    spool.close(delete=True)


def test_the_disk_of_the_job_is_never_filled_to_the_brim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = open_spool(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"total": 100, "free": 4})())
    with pytest.raises(OSError, match="the disk is 96% full; what is left is the job's"):
        spool.append(message(1))
    spool.close(delete=True)


def test_what_dead_jobs_leave_has_a_cap_and_the_oldest_goes_first(tmp_path: Path) -> None:
    for epoch in range(3):
        hello = Hello(HELLO.run, 0, f"epoch-{epoch}", 1)
        spool = spools.create(tmp_path, COLLECTOR, hello, encode(hello))
        for seq in range(1, 35):
            spool.append(message(seq, SEGMENT_BYTES // 10))
        for segment in die(spool).iterdir():
            os.utime(segment, (epoch, epoch))
    assert spools.trim(tmp_path, cap=7 * SEGMENT_BYTES) > 0
    left = [len(everything(spool)) for spool in spools.left_behind(tmp_path, COLLECTOR)]
    assert left[0] < left[1] <= left[2] == 34
    assert min(left) > 0, "the last segment stays: it tells the collector what is missing"


KILLED = """
import itertools, os, sys
from pathlib import Path
from probe_post import spools
from probe_post.spool import Message
from probe_wire import Hello, Run, encode
hello = Hello(Run("r", "n", "h", 1, 0.0), 0, "killed", 1)
spool = spools.create(Path(sys.argv[1]), "tcp://c:1", hello, encode(hello))
for seq in itertools.count(1):
    spool.append(Message(seq, (1, b"s"), seq.to_bytes(8, "little") * 40))
    os.write(1, seq.to_bytes(8, "little"))
"""


def test_what_was_written_before_a_kill_is_there_after_it(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(8 * 4000)
        time.sleep(0.01)
        process.kill()
        rest = process.stdout.read()
    said = 4000 + len(rest) // 8
    (adopted,) = spools.left_behind(tmp_path, "tcp://c:1")
    seqs = [each.seq for each in everything(adopted)]
    assert seqs == list(range(1, len(seqs) + 1))
    assert said <= len(seqs) <= said + 1
    adopted.close(delete=True)


def test_a_spool_that_somebody_deletes_under_a_running_job_costs_what_was_in_it_and_stops_nothing(
    tmp_path: Path,
) -> None:
    spool = open_spool(tmp_path)
    ledger = Ledger(100, lambda *_: None)
    ledger.use(spool)
    for seq in range(1, READY + 200):
        ledger.append(message(seq))
    shutil.rmtree(tmp_path)
    ledger.acknowledge(READY)
    assert ledger.first == READY + 200
    assert ledger.lost == 199
    assert spool.after(0) == []
    ledger.append(message(READY + 200))
    assert [each.seq for each in ledger.beyond(READY + 199)] == [READY + 200]
    ledger.sync(0.0)
    ledger.close()


def test_a_disk_that_cannot_be_read_for_a_while_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = open_spool(tmp_path)
    ledger = Ledger(100, lambda *_: None)
    ledger.use(spool)
    for seq in range(1, READY + 200):
        ledger.append(message(seq))

    def refuses(_: Path) -> bytes:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Path, "read_bytes", refuses)
    ledger.acknowledge(READY)
    assert ledger.first == READY + 1, "the collector must not hear that they are lost"
    assert list(ledger.beyond(READY)) == []
    monkeypatch.undo()
    assert [each.seq for each in ledger.beyond(READY)] == list(range(READY + 1, READY + 200))
    assert ledger.lost == 0
    ledger.close()


def test_letting_go_twice_closes_no_file_that_somebody_opened_in_between(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append(message(1))
    numbers = {spool._lock, spool._file}
    spool.close(delete=False)
    others = [os.open(os.devnull, os.O_RDONLY) for _ in range(4)]
    assert numbers <= set(others), "they have the same numbers now"
    spool.forsake()
    for descriptor in others:
        os.close(descriptor)


def test_the_lock_of_a_job_that_runs_for_weeks_is_never_old(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    os.utime(spool.folder / "lock", (0, 0))  # what is old in /var/tmp is tidied away, and with it the lock
    spool.sync()
    assert (spool.folder / "lock").stat().st_mtime > 0
    spool.close(delete=True)


def test_a_stream_whose_folder_cannot_be_read_gets_another(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.append(message(1))
    (segment,) = spool.folder.glob("*.segment")
    spool.close(delete=False)
    segment.write_bytes(b"garbage")
    assert list(spools.left_behind(tmp_path, COLLECTOR)) == []
    again = open_spool(tmp_path)
    assert again.folder != spool.folder
    again.close(delete=True)


def test_a_spool_that_goes_while_the_disk_is_surveyed_is_no_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = open_spool(tmp_path)
    spool.append(message(1))
    glob = Path.glob

    def vanishing(folder: Path, pattern: str) -> list[Path]:
        found = list(glob(folder, pattern))
        for path in found:
            path.unlink()
        return found

    monkeypatch.setattr(Path, "glob", vanishing)
    assert spools.trim(tmp_path) == 0
    assert spools.survey(tmp_path) == []
    spool.close(delete=True)
