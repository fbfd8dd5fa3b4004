"""Faults between real processes over real sockets: what arrives is counted in the store, never by anybody's counters."""

import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from collector.keys import Keys
from collector.store.queries import Reader
from probe_agent.cli import app
from probe_agent.outbox import ZmqOutbox
from probe_post import spools
from probe_post.estate import DIED
from probe_wire import Report, Run
from probe_wire.agent_key import AgentKey
from tests import warm
from tests.integration.collector_process import ROOT, CollectorProcess
from tests.integration.reporter import draft
from tests.integration.rough_line import RoughLine
from tests.patience import eventually


def kept(store: Path, run: str) -> Counter[tuple[int, int]]:
    """How often each ``(rank, step)`` of a run is in the store, goodbyes aside."""
    frames = Reader(store).frames(run)
    return Counter((frame.rank, frame.message.step) for frame in frames if isinstance(frame.message, Report))


def ends(store: Path, run: str) -> list[tuple[int, int, str | None]]:
    """``(high, lost, finished)`` of each stream of a run."""
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=10)) as db:
        return db.execute("SELECT high, lost, finished FROM streams WHERE run_id = ? ORDER BY id", (run,)).fetchall()


def outbox_to(
    collector: CollectorProcess | RoughLine, run: str, rank: int = 0, *, key: AgentKey | None = None
) -> ZmqOutbox:
    address = collector.address if isinstance(collector, RoughLine) else collector.inlet
    return ZmqOutbox(address, Run(run, run, "host", 1, 0.0), rank, lambda: 0, key=key)


@contextmanager
def job(collector: CollectorProcess, run: str, *, rate: int = 1000, count: int = 10**6) -> Iterator[warm.Process]:
    """A process that reports until it has or is ended."""
    command = [
        str(Path(__file__).with_name("reporter.py")),
        collector.inlet,
        run,
        "0",
        str(rate),
        str(count),
    ]
    process = warm.Process(warm.AGENT, command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def killed_when_all_is_numbered(process: warm.Process) -> None:
    """SIGKILL."""
    assert process.stdout is not None
    for line in process.stdout:
        if line == "0\n":
            break
    process.kill()
    process.wait()


def spool_command(verb: str) -> Result:
    return CliRunner().invoke(app, ["spool", verb], env={"COLUMNS": "200"})


def open_files(process: int) -> list[str]:
    found = []
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed while we look
            found.append(str(descriptor.readlink()))
    return found


def everything_once(steps: int, *, rank: int = 0) -> Counter[tuple[int, int]]:
    return Counter((rank, step) for step in range(1, steps + 1))


def test_a_collector_killed_five_times_under_load_keeps_every_report_once(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    noise = random.Random(3)
    with CollectorProcess(store) as collector:
        outboxes = [outbox_to(collector, "load", rank) for rank in range(3)]
        step = 0
        for _ in range(5):
            for _ in range(150):
                step += 1
                for outbox in outboxes:
                    outbox.put(draft(step))
                time.sleep(0.001)
            time.sleep(noise.random() * 0.1)
            collector.kill()
            collector.start()
        for outbox in outboxes:
            eventually(lambda outbox=outbox: outbox.undelivered == 0, seconds=20, what="all to be acknowledged")
            outbox.close("finished")
        assert kept(store, "load") == Counter((rank, each) for rank in range(3) for each in range(1, step + 1))
        assert ends(store, "load") == [(step + 1, 0, "finished")] * 3


def test_a_job_killed_while_the_collector_is_away_is_delivered_by_the_next_job(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    with CollectorProcess(store) as collector:
        collector.kill()
        with job(collector, "killed", count=1500) as process:
            killed_when_all_is_numbered(process)
        collector.start()
        following = outbox_to(collector, "following")
        following.put(draft(1))
        eventually(lambda: ends(store, "killed") == [(1501, 0, DIED)], seconds=20, what="what was left behind")
        eventually(
            lambda: len(list((tmp_path / "spool").glob("*/*/*.segment"))) == 1,  # the following job's own
            seconds=10,
            what="what is delivered to be deleted",
        )
        following.close("finished")
        assert kept(store, "killed") == everything_once(1500)


def test_a_job_killed_while_the_collector_listens_is_ended_by_hand(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    with CollectorProcess(store) as collector:
        with job(collector, "killed", count=1500) as process:
            killed_when_all_is_numbered(process)
        listed = spool_command("list")
        assert "killed" in listed.output
        assert collector.inlet in listed.output
        done = spool_command("deliver")
        assert done.exit_code == 0, done.output
        assert kept(store, "killed") == everything_once(1500)
        assert ends(store, "killed") == [(1501, 0, DIED)]
        assert "Nothing waits in" in spool_command("list").output


def test_a_collector_that_stands_still_neither_holds_up_the_job_nor_loses_a_report(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    with CollectorProcess(store) as collector:
        outbox = outbox_to(collector, "stopped")
        outbox.put(draft(1))
        eventually(lambda: outbox.undelivered == 0, seconds=10, what="the first report")
        assert collector.process is not None
        collector.process.send_signal(signal.SIGSTOP)
        try:
            for step in range(2, 5000):
                outbox.put(draft(step))
                time.sleep(0.0002)
            time.sleep(2.5)  # longer than an agent waits for an answer
        finally:
            collector.process.send_signal(signal.SIGCONT)
        eventually(lambda: outbox.undelivered == 0, seconds=20, what="all to be acknowledged")
        outbox.close("finished")
        assert kept(store, "stopped") == everything_once(4999)


def test_an_old_backup_put_back_shows_the_hole_and_doubles_nothing(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    with CollectorProcess(store) as collector:
        outbox = outbox_to(collector, "restored")

        def report(steps: range) -> None:
            for step in steps:
                outbox.put(draft(step))
            eventually(lambda: not outbox._queue and outbox.undelivered == 0, seconds=10, what="these reports")

        report(range(1, 101))
        collector.stop()
        backup = tmp_path / "backup"
        backup.mkdir()
        for path in tmp_path.glob("store.db*"):
            shutil.copy(path, backup)
        collector.start()
        report(range(101, 201))
        collector.kill()
        for path in tmp_path.glob("store.db*"):
            path.unlink()
        for path in backup.iterdir():
            shutil.copy(path, tmp_path)
        collector.start()
        report(range(201, 301))
        outbox.close("finished")
        assert kept(store, "restored") == everything_once(100) + Counter((0, step) for step in range(201, 301))
        assert ends(store, "restored") == [(301, 100, "finished")]
        assert "phasewatch_lost_reports_total 100.0" in collector.get("/metrics")


def test_two_jobs_with_one_run_id_and_rank_are_both_kept(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    with CollectorProcess(store) as collector:
        twins = [outbox_to(collector, "twins") for _ in range(2)]
        for step in range(1, 51):
            for outbox in twins:
                outbox.put(draft(step))
        for outbox in twins:
            outbox.close("finished")
        assert kept(store, "twins") == Counter({(0, step): 2 for step in range(1, 51)})
        assert ends(store, "twins") == [(51, 0, "finished")] * 2


def test_a_child_process_does_not_keep_a_dead_jobs_reports_from_being_delivered(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    with CollectorProcess(store) as collector:
        outbox = outbox_to(collector, "parent")
        outbox.put(draft(1))
        eventually(lambda: not outbox._queue, seconds=5, what="the report to be numbered")
        child = os.fork()
        if child == 0:  # a worker of a data loader, which outlives its parent
            time.sleep(30)
            os._exit(0)
        try:
            eventually(
                lambda: not [path for path in open_files(child) if "spool" in path],
                seconds=5,
                what="the child to let go of the parent's lock and files",
            )
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        outbox.close("finished")
        assert kept(store, "parent") == everything_once(1)


def test_a_store_whose_disk_is_full_acknowledges_nothing_and_heals_without_a_restart(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    with CollectorProcess(store) as collector:
        assert collector.process is not None
        outbox = outbox_to(collector, "full")
        outbox.put(draft(1))
        eventually(lambda: outbox.undelivered == 0, seconds=10, what="the first report")
        size = sum(path.stat().st_size for path in tmp_path.glob("store.db*"))
        _, hard = resource.prlimit(collector.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(collector.process.pid, resource.RLIMIT_FSIZE, (size // 2, hard))
        for step in range(2, 400):
            outbox.put(draft(step))
        time.sleep(2)
        assert collector.get("/healthz") == "ok\n"
        assert outbox.undelivered > 0
        resource.prlimit(collector.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        eventually(lambda: outbox.undelivered == 0, seconds=20, what="all to be acknowledged")
        outbox.close("finished")
        assert kept(store, "full") == everything_once(399)


@pytest.mark.parametrize("trouble", ["resets", "silence", "slowness"])
def test_a_bad_line_delays_reports_and_neither_loses_nor_doubles_one(tmp_path: Path, trouble: str) -> None:
    store = tmp_path / "store.db"
    with CollectorProcess(store) as collector, RoughLine(collector.inlet) as line:
        outbox = outbox_to(line, "rough")
        line.slow = trouble == "slowness"
        for step in range(1, 601):
            outbox.put(draft(step))
            time.sleep(0.002)
            if trouble == "resets" and step % 20 == 0:
                line.cut()
            if trouble == "silence" and step in {100, 500}:
                line.silent = step == 100
        line.silent = False
        eventually(lambda: not outbox._queue and outbox.undelivered == 0, seconds=30, what="all to be acknowledged")
        outbox.close("finished")
        assert kept(store, "rough") == everything_once(600)


def test_a_bit_flipped_on_the_way_cuts_an_encrypted_line_and_changes_no_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("probe_post.line.RENEW_SECONDS", 1.0)
    store = tmp_path / "store.db"
    key = Keys(tmp_path / "phasewatch-keys").create("job")
    with CollectorProcess(store) as collector, RoughLine(collector.inlet) as line:
        outbox = outbox_to(line, "flipped", key=key)
        line.flips = 0.05
        for step in range(1, 401):
            outbox.put(draft(step))
            time.sleep(0.003)
        line.flips = 0.0
        eventually(lambda: not outbox._queue and outbox.undelivered == 0, seconds=30, what="all to be acknowledged")
        outbox.close("finished")
        assert line.flipped > 0
        assert kept(store, "flipped") == everything_once(400)
        reader = Reader(store)
        (series,) = reader.series("flipped")
        points = reader.points([series.id])[series.id]
        assert points.value == [float(step) for step in points.step]


@pytest.mark.parametrize("address", ["tcp://no-such-host.invalid:5757", "tcp://127.0.0.1:1"])
def test_a_collector_that_cannot_be_found_costs_nothing_but_disk(tmp_path: Path, address: str) -> None:
    outbox = ZmqOutbox(address, Run("lost", "lost", "host", 1, 0.0), 0, lambda: 0)
    for step in range(1, 101):
        outbox.put(draft(step))
    eventually(lambda: not outbox._queue, seconds=5, what="all to be numbered")
    began = time.monotonic()
    outbox.close("finished")
    assert time.monotonic() - began < 3
    (left,) = spools.survey(tmp_path / "spool")
    assert (left.run, left.messages) == ("lost", 101)


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_jumps_a_day_neither_loses_nor_reorders_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    store = tmp_path / "store.db"
    with CollectorProcess(store) as collector:
        outbox = outbox_to(collector, "clock")
        outbox.put(draft(1))
        eventually(lambda: not outbox._queue and outbox.undelivered == 0, seconds=10, what="the first report")
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + days * 86_400)
        for step in range(2, 101):
            outbox.put(draft(step))
        eventually(lambda: not outbox._queue and outbox.undelivered == 0, seconds=10, what="all to be acknowledged")
        outbox.close("finished")
        steps = [frame.message.step for frame in Reader(store).frames("clock")]
        assert steps[:100] == list(range(1, 101))
        assert collector.get("/api/runs")["runs"][0]["state"] == "finished"


def test_a_job_that_starts_anew_from_a_checkpoint_is_a_new_life_of_its_run(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    with CollectorProcess(store) as collector:
        for steps in (range(1, 101), range(60, 161)):
            outbox = outbox_to(collector, "resumed")
            for step in steps:
                outbox.put(draft(step))
            eventually(lambda outbox=outbox: outbox.undelivered == 0, seconds=10, what="all to be acknowledged")
            outbox.close("finished")
        found = kept(store, "resumed")
        assert {step for (_, step), times in found.items() if times == 2} == set(range(60, 101))
        assert ends(store, "resumed") == [(101, 0, "finished"), (102, 0, "finished")]
        assert collector.get("/api/runs")["runs"][0]["step"] == 160


def test_forks_beside_a_busy_outbox_hang_nowhere(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    with CollectorProcess(store) as collector:
        outbox = outbox_to(collector, "forked")
        for step in range(1, 61):
            outbox.put(draft(step))
            child = os.fork()
            if child == 0:
                outbox.put(draft(-1))  # goes nowhere
                os._exit(0)
            os.waitpid(child, 0)  # one that hangs is ended with the test
        eventually(lambda: not outbox._queue and outbox.undelivered == 0, seconds=10, what="all to be acknowledged")
        outbox.close("finished")
        assert kept(store, "forked") == everything_once(60)


def test_a_collector_that_gets_no_more_memory_loses_nothing(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    with CollectorProcess(store) as collector:
        assert collector.process is not None
        outbox = outbox_to(collector, "memory")
        outbox.put(draft(1))
        eventually(lambda: outbox.undelivered == 0, seconds=10, what="the first report")
        limits = resource.prlimit(collector.process.pid, resource.RLIMIT_AS)
        resource.prlimit(collector.process.pid, resource.RLIMIT_AS, (50 * 2**20, limits[1]))  # what it has is more
        for step in range(2, 300):
            outbox.put(draft(step))
            time.sleep(0.002)
        if collector.process.poll() is None:
            resource.prlimit(collector.process.pid, resource.RLIMIT_AS, limits)
            collector.kill()
        collector.start()
        eventually(lambda: not outbox._queue and outbox.undelivered == 0, seconds=20, what="all to be acknowledged")
        outbox.close("finished")
        assert kept(store, "memory") == everything_once(299)
