"""Whatever happens to a job, its exit status, output and training are what they are without the agent, and it ends in time."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from collector.store.queries import Reader
from tests.integration.collector_process import CollectorProcess
from tests.integration.nursery import Ended, Nursery
from tests.patience import eventually

ABSENT = "tcp://127.0.0.1:9"
LONGEST = 2.0 + 1.0
"""Two seconds are promised; one more is for a machine that is busy."""


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with Nursery(tmp_path_factory.mktemp("nursery")) as nursery:
        yield nursery


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CollectorProcess]:
    with CollectorProcess(tmp_path_factory.mktemp("collector") / "s.db") as collector:
        yield collector


def alike(
    nursery: Nursery, job: str, address: str, meanwhile: Callable[[], object] | None = None
) -> tuple[Ended, Ended]:
    """The job unwatched and watched, which agree in everything but the log, and end as soon."""
    alone, watched = nursery.alone(job), nursery.run(job, address, meanwhile)
    assert watched.status == alone.status, watched.stderr
    assert watched.stdout == alone.stdout, watched.stderr
    assert [name for name in alone.state | watched.state if alone.state.get(name) != watched.state.get(name)] == []
    assert watched.seconds_to_end - alone.seconds_to_end < LONGEST
    return alone, watched


def stored(collector: CollectorProcess, job: str, count: int = 1) -> list[list[int]]:
    """The steps whose loss the collector holds, of each run of that name, once all of them have said goodbye."""

    def ended() -> list[str]:
        runs = [run for run in collector.get("/api/runs")["runs"] if run["name"] == job]
        assert all(run["lost"] == 0 for run in runs)
        return [run["id"] for run in runs] if [run["state"] for run in runs] == ["finished"] * count else []

    ids = eventually(ended, seconds=10, what=f"the end of {job}")
    reader = Reader(collector.store)
    losses = [[row.id for row in reader.series(run) if row.quantity == "probe_loss"] for run in ids]
    return [sorted(step for column in reader.points(each).values() for step in column.step) for each in losses]


# -- processes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("job", "last"), [("data_loader_workers", 6), ("process_pool", 6), ("spawned", 6)])
def test_processes_that_a_job_starts_work_as_ever_and_the_run_is_its_own(
    nursery: Nursery, collector: CollectorProcess, job: str, last: int
) -> None:
    _, watched = alike(nursery, job, collector.inlet)
    assert watched.status == 0
    assert stored(collector, job) == [list(range(last + 1))]


def test_a_forked_child_measures_and_sends_nothing_however_it_ends(
    nursery: Nursery, collector: CollectorProcess
) -> None:
    _, watched = alike(nursery, "forked_children_that_train_on", collector.inlet)
    assert watched.stdout.split() == ["3", "4", "1", "0"]
    assert watched.facts["probed"] == [watched.facts["parent"]]
    assert stored(collector, "forked_children_that_train_on") == [list(range(7))]


# -- interruptions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "status"),
    [
        ("ctrl_c", -signal.SIGINT),
        ("ctrl_c_between_steps", -signal.SIGINT),
        ("sigterm", -signal.SIGTERM),
        ("sigterm_that_exits", 7),
    ],
)
def test_a_job_that_is_interrupted_in_a_probe_ends_as_it_would(
    nursery: Nursery, collector: CollectorProcess, job: str, status: int
) -> None:
    _, watched = alike(nursery, job, collector.inlet)
    assert watched.status == status


@pytest.mark.parametrize(
    ("job", "said"),
    [
        ("ctrl_c_that_is_caught", "caught KeyboardInterrupt\n"),
        ("sigterm_that_raises_what_the_script_catches", "caught Preempted\n"),
    ],
)
def test_what_interrupts_a_probe_reaches_the_script_and_the_watch_goes_on(
    nursery: Nursery, collector: CollectorProcess, job: str, said: str
) -> None:
    _, watched = alike(nursery, job, collector.inlet)
    assert (watched.status, watched.stdout) == (0, said)
    assert stored(collector, job) == [[0, 1, 2, 4, 5, 6]]


def test_closing_in_a_signal_handler_in_the_midst_of_a_probe_is_harmless(
    nursery: Nursery, collector: CollectorProcess
) -> None:
    alike(nursery, "sigterm_that_closes", collector.inlet)
    assert stored(collector, "sigterm_that_closes") == [[0, 1, 2]]


# -- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "status"),
    [("plain", 0), ("plain_and_closed", 0), ("sys_exit", 6), ("exception", 1), ("exception_within", 1)],
)
def test_however_a_job_ends_its_reports_arrive_and_its_status_is_its_own(
    nursery: Nursery, collector: CollectorProcess, job: str, status: int
) -> None:
    alone, watched = alike(nursery, job, collector.inlet)
    assert watched.status == status
    assert watched.stderr.endswith(alone.stderr), "the traceback is that of the loop"
    assert stored(collector, job) == [list(range(7))]


def test_a_job_that_leaves_at_once_is_not_held(nursery: Nursery, collector: CollectorProcess) -> None:
    _, watched = alike(nursery, "os_exit", collector.inlet)
    assert watched.status == 5


# -- attaching and closing ------------------------------------------------------------------------


def test_two_monitors_may_watch_one_optimizer_and_another_after_them(
    nursery: Nursery, collector: CollectorProcess
) -> None:
    _, watched = alike(nursery, "attached_twice_and_again", collector.inlet)
    assert stored(collector, "attached_twice_and_again") == [[0, 1, 2]]
    assert sorted(stored(collector, "attached_twice_and_again_too", 2)) == [[0, 1, 2], [0, 1, 2, 3, 4]]
    assert watched.facts["places"] == [0, 0]


def test_closing_within_a_step_or_from_another_thread_raises_nothing(
    nursery: Nursery, collector: CollectorProcess
) -> None:
    _, watched = alike(nursery, "closed_within_a_step", collector.inlet)
    assert "Traceback" not in watched.stderr
    before, after = watched.facts["places"]
    assert (before, after) <= (3 + 1, 2 + 1), "those of others, and at most one place that nobody is in"


def test_a_monitor_ends_with_its_optimizer(nursery: Nursery, collector: CollectorProcess) -> None:
    alike(nursery, "optimizer_deleted", collector.inlet)
    assert stored(collector, "optimizer_deleted") == [list(range(7))]


def test_of_a_hundred_monitors_nothing_is_left(nursery: Nursery) -> None:
    _, watched = alike(nursery, "attached_many_times", ABSENT)
    first, *later = watched.facts["sizes"]
    assert all(now <= before + 2 for sizes in later for now, before in zip(sizes, first, strict=True)), watched.facts


# -- surroundings ---------------------------------------------------------------------------------


def test_probes_that_fail_in_every_way_cost_themselves_only(nursery: Nursery, collector: CollectorProcess) -> None:
    _, watched = alike(nursery, "probes_in_trouble", collector.inlet)
    assert stored(collector, "probes_in_trouble") == [list(range(7))]
    assert "Traceback" not in watched.stderr


@pytest.mark.parametrize("job", ["log_handler_that_raises", "stdout_closed", "stderr_on_a_full_disk"])
def test_what_cannot_be_logged_is_no_trouble(nursery: Nursery, collector: CollectorProcess, job: str) -> None:
    alike(nursery, job, collector.inlet)
    assert stored(collector, job) == [list(range(7))]


def test_a_job_without_a_file_descriptor_left_goes_on(nursery: Nursery) -> None:
    alike(nursery, "no_file_descriptor_left", ABSENT)


# -- collectors -----------------------------------------------------------------------------------


def test_an_absent_collector_is_no_trouble(nursery: Nursery) -> None:
    alike(nursery, "plain_and_closed", ABSENT)


@pytest.mark.parametrize("greeting", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["silent", "not a collector"])
def test_one_who_accepts_and_never_answers_is_no_trouble(nursery: Nursery, greeting: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            guest, _ = server.accept()
            guest.sendall(greeting)
            guests.append(guest)

        guests: list[socket.socket] = []
        alike(nursery, "while_the_world_changes", f"tcp://127.0.0.1:{server.getsockname()[1]}", accept)
        for guest in guests:
            guest.close()


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGSTOP])
def test_a_collector_that_dies_or_hangs_in_the_middle_is_no_trouble(
    nursery: Nursery, tmp_path: Path, way: signal.Signals
) -> None:
    with CollectorProcess(tmp_path / "s.db") as collector:
        assert collector.process is not None
        pid = collector.process.pid
        alike(nursery, "while_the_world_changes", collector.inlet, lambda: os.kill(pid, way))
        os.kill(pid, signal.SIGCONT)
        if way is signal.SIGKILL:
            collector.kill()
