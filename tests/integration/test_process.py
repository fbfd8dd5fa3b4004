"""Probes in a process of their own: the same numbers, and nothing that happens there reaches training."""

import ctypes
import gc
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, final

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import probe_agent
from probe_agent import (
    AttachError,
    Budget,
    Every,
    ListOutbox,
    Measurement,
    Memory,
    Monitor,
    Probe,
    Process,
    Snapshot,
    Watch,
    foreman,
)
from probe_agent.probes.loss import Loss
from probe_agent.probes.weights import Weights
from probe_wire import Estimate, Outcome, Quantity
from tests import warm
from tests.patience import eventually
from tests.problems import EVERY_PROBE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the agent's worker is tested on Linux")

DANGER = Quantity("danger", "1", "Of a probe that may go wrong.", "Danger")
SETTINGS = Process(seconds=20.0, threads=1, memory=2**30)
"""With time enough for a worker that gets what a busy machine has left over."""


@final
@dataclass(frozen=True)
class Danger(Probe):
    """Does what a probe must not, at one step."""

    name: ClassVar = "danger"
    quantities: ClassVar = (DANGER,)
    way: str
    at: tuple[int, ...] = (1,)

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        if snapshot.step in self.at:
            WAYS[self.way]()
        yield Measurement(quantity=DANGER, estimate=Estimate(float(snapshot.step), 0.0))


@final
@dataclass(frozen=True)
class Slow(Probe):
    """Takes half a second."""

    name: ClassVar = "slow"
    quantities: ClassVar = (Quantity("slowness", "1", "Of a slow probe.", "Slowness"),)

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        time.sleep(0.5)
        yield Measurement(quantity=self.quantities[0], estimate=Estimate(1.0, 0.0))


def spin() -> None:
    while True:
        pass


WAYS: dict[str, Callable[[], Any]] = {
    "segmentation fault": lambda: ctypes.string_at(0),
    "silent exit": lambda: os._exit(7),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "endless loop": spin,
    "sleep in C": lambda: time.sleep(10**6),
    "eats all memory": lambda: [bytearray(2**26) for _ in range(10**6)],
    "asks for all memory": lambda: torch.empty(2**33),
    "raises": lambda: 1 / 0,
}

EXPECTED = {
    "segmentation fault": (Outcome.FAILED, "signal SIGSEGV"),
    "killed": (Outcome.OUT_OF_MEMORY, "SIGKILL"),
    "endless loop": (Outcome.FAILED, "in spin"),
    "eats all memory": (Outcome.OUT_OF_MEMORY, "MemoryError"),
    "asks for all memory": (Outcome.OUT_OF_MEMORY, "memory"),
    "raises": (Outcome.FAILED, "ZeroDivisionError"),
}


class Job:
    """A small training job that waits for the worker after each step, so that every step is measured."""

    def __init__(
        self, *probes: Probe, where: Any = SETTINGS, model: nn.Module | None = None, samples: int = 24
    ) -> None:
        torch.manual_seed(0)
        self.x, self.y = torch.randn(samples, 6), torch.randint(3, (samples,))
        self.model = model or nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.outbox = ListOutbox()
        self.monitor: Monitor = probe_agent.attach(
            self.model,
            self.optimizer,
            loss_fn=lambda outputs, targets: F.cross_entropy(outputs, targets),  # noqa: PLW0108 - a function of the script
            probe_batch=(self.x, self.y),
            run="test",
            watches=[Watch(Every(1), probes)],
            budget=Budget(share=1000),
            where=where,
            outbox=self.outbox,
        )

    def steps(self, times: int = 1) -> None:
        for _ in range(times):
            self.wait()
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(self.x), self.y).backward()
            self.optimizer.step()
        self.wait()

    def wait(self) -> None:
        until = time.monotonic() + 150  # the worker yields to everybody: it gets what a busy machine has left over
        while self.monitor._place.busy():
            assert time.monotonic() < until, "the worker never answered"
            time.sleep(0.01)
        while len(self.outbox.drafts) < self.monitor.step + 1:
            assert time.monotonic() < until, "a measurement never came"
            time.sleep(0.01)

    def outcomes(self, step: int) -> dict[str, tuple[Outcome, str]]:
        (draft,) = [draft for draft in self.outbox.drafts if draft.step == step]
        return {cost.probe: (Outcome(cost.outcome), cost.detail) for cost in draft.costs}


@pytest.fixture
def jobs() -> Iterator[Callable[..., Job]]:
    made: list[Job] = []

    def make(*probes: Probe, **options: Any) -> Job:
        made.append(Job(*probes, **options))
        return made[-1]

    yield make
    for job in made:
        job.monitor.close()
        if isinstance(job.monitor._place, foreman.Foreman):
            job.monitor._place._thread.join(30)
            assert not job.monitor._place._thread.is_alive()


def test_every_probe_gives_the_same_numbers_as_in_the_training_thread(jobs: Callable[..., Job]) -> None:
    torch.set_num_threads(1)
    here = jobs(*EVERY_PROBE, where="inline", samples=64)
    there = jobs(*EVERY_PROBE, where=Process(threads=1), samples=64)
    for job in (here, there):
        torch.manual_seed(1)
        job.steps(1)
        job.monitor._purse.portions.halved = {"fisher_trace": 1}
        job.monitor.subject = replace(job.monitor.subject, halved={"fisher_trace": 1})
        job.steps(1)
    assert len(here.outbox.drafts) == len(there.outbox.drafts) == 3
    fisher = [
        e.n for d in there.outbox.drafts for _, c, e in d.columns if (c.quantity, c.labels) == ("fisher_trace", {})
    ]
    assert fisher == [64, 64, 32], "a portion is the same there, too"
    for ours, theirs in zip(here.outbox.drafts, there.outbox.drafts, strict=True):
        assert [(c, repr(e)) for _, c, e in ours.columns] == [(c, repr(e)) for _, c, e in theirs.columns]
    assert all(torch.equal(a, b) for a, b in zip(here.model.parameters(), there.model.parameters(), strict=True))


def test_what_the_worker_holds_training_up_from_beside_is_charged_to_the_budget(jobs: Callable[..., Job]) -> None:
    job = jobs(Slow())
    job.steps(1)
    computed = sum(cost.seconds for draft in job.outbox.drafts for cost in draft.costs)
    assert computed > 0.8
    assert job.monitor.probe_seconds > 0.05 * computed
    assert job.monitor._place.expected(Slow()) > 0.05 * 0.4
    assert all(cost.apart for draft in job.outbox.drafts for cost in draft.costs)


def test_a_change_of_the_networks_structure_arrives(jobs: Callable[..., Job]) -> None:
    job = jobs(Weights(), Loss())
    job.steps(1)
    job.model.append(nn.Linear(3, 3))
    job.steps(1)
    layers = [{c.labels.get("layer") for _, c, _ in draft.columns} - {None} for draft in job.outbox.drafts]
    assert layers == [{"0", "3"}, {"0", "3"}, {"0", "3", "4"}]


@pytest.mark.parametrize("way", EXPECTED)
def test_whatever_a_probe_does_is_an_outcome_of_its_own_and_the_next_measurement_is_whole(
    way: str, jobs: Callable[..., Job]
) -> None:
    settings = replace(SETTINGS, seconds=3.0) if way == "endless loop" else SETTINGS
    job = jobs(Loss(), Danger(way), Weights(), where=settings)
    job.steps(2)
    outcome, words = EXPECTED[way]
    found = job.outcomes(1)
    assert found["danger"][0] is outcome
    assert words in found["danger"][1]
    assert found["loss"][0] is found["weights"][0] is Outcome.OK, (
        "those before it and after it are measured all the same"
    )
    values = {c.quantity: e for d in job.outbox.drafts if d.step == 1 for _, c, e in d.columns}
    assert math.isnan(values["danger"].value)
    after = job.outcomes(2)
    assert after["loss"][0] is after["weights"][0] is Outcome.OK
    if way == "eats all memory":  # what it took is known now, and more than there is
        assert "training comes first" in after["danger"][1]
    else:
        assert after["danger"][0] is Outcome.OK


def test_a_probe_that_brings_the_worker_down_again_and_again_is_not_run_any_more(
    jobs: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreman, "STRIKES", 2)
    job = jobs(Danger("silent exit", at=(0, 1, 2)), Loss())
    job.steps(2)
    details = [job.outcomes(step)["danger"][1] for step in range(3)]
    assert "exit status 7" in details[0]
    assert "exit status 7" in details[1]
    assert "brought the worker process down 2 times and is not run any more" in details[2]
    assert all(job.outcomes(step)["loss"][0] is Outcome.OK for step in range(3))


class Drawing(nn.Linear):
    """Draws from the global stream whenever it is copied."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "Drawing":
        twin = Drawing(self.in_features, self.out_features)
        twin.load_state_dict(self.state_dict())
        return twin


def test_copying_the_model_for_the_worker_leaves_the_random_streams_alone(jobs: Callable[..., Job]) -> None:
    model = nn.Sequential(Drawing(6, 3))
    job = jobs(Loss(), model=model)
    before = torch.get_rng_state()
    job.optimizer.step()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_monitor_that_is_dropped_takes_its_worker_along() -> None:
    job = Job(Loss())
    job.wait()
    worker, thread = job.monitor._place._worker._popen.pid, job.monitor._place._thread
    gone = weakref.ref(job.monitor)
    del job
    gc.collect()
    assert gone() is None
    thread.join(10)
    assert not thread.is_alive()
    _await_end(worker)


def test_a_refused_attach_leaves_no_file_open() -> None:
    with suppress(AttachError):
        Job(_unpicklable(), model=nn.Sequential(nn.Linear(6, 3)))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with suppress(AttachError):
            Job(_unpicklable(), model=nn.Sequential(nn.Linear(6, 3)))
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_a_worker_that_is_stopped_goes_with_the_training_process(tmp_path: Path) -> None:
    pid = _left_by(
        tmp_path, "os.kill(monitor._place._worker._popen.pid, 19)\ntime.sleep(0.2)\nos.kill(os.getpid(), 9)\n"
    )
    _await_end(pid)


def test_a_worker_killed_between_two_measurements_is_replaced_and_no_probe_is_blamed(jobs: Callable[..., Job]) -> None:
    job = jobs(Loss())
    job.steps(1)
    os.kill(job.monitor._place._worker._popen.pid, signal.SIGKILL)
    time.sleep(0.2)
    job.steps(1)
    assert job.outcomes(2)["loss"][0] is Outcome.OK
    assert not job.monitor._place._strikes


def test_a_worker_that_cannot_start_is_told_once_and_training_goes_on(
    jobs: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr(foreman, "_REST", 0.05)
    job = jobs(Loss(), Weights())
    job.steps(2)
    outcome, why = job.outcomes(2)["loss"]
    assert (outcome, "No such file" in why) == (Outcome.FAILED, True)
    assert len([r for r in caplog.records if "No such file" in r.getMessage()]) == 1


def test_a_measurement_that_is_still_running_at_the_next_step_is_not_waited_for(jobs: Callable[..., Job]) -> None:
    job = jobs(Danger("sleep in C", at=(0,)), where=SETTINGS)
    began = time.monotonic()
    for _ in range(50):
        job.optimizer.zero_grad()
        F.cross_entropy(job.model(job.x), job.y).backward()
        job.optimizer.step()
    assert time.monotonic() - began < 5
    assert job.monitor.snapshots_skipped > 0
    job.monitor.close()
    assert time.monotonic() - began < 8
    assert [d.step for d in job.outbox.drafts] == [0]
    assert job.outcomes(0)["danger"] == (
        Outcome.OVER_BUDGET,
        "no worker process: the monitor was closed before it was measured",
    )


def test_a_model_that_cannot_leave_its_process_is_refused_at_the_door() -> None:
    model = nn.Sequential(nn.Linear(6, 3))
    with pytest.raises(AttachError, match=r"cannot be sent to another process .*where=\"inline\""):
        Job(_unpicklable(), model=model)


def _unpicklable() -> Probe:
    handle = (i for i in range(3))

    @final
    @dataclass(frozen=True)
    class Holds(Probe):
        name: ClassVar = "holds"
        quantities: ClassVar = (DANGER,)

        def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
            yield Measurement(quantity=DANGER, estimate=Estimate(next(handle), 0.0))

    return Holds()


def test_a_senseless_place_is_refused_at_the_door() -> None:
    with pytest.raises(AttachError, match='Got where=\'elsewhere\'; need "inline", "process" or a Process'):
        Job(Loss(), where="elsewhere")
    with pytest.raises(ValueError, match="need a number of threads of at least 1"):
        Process(threads=0)


SCRIPT = """
import os, sys, time, torch, torch.nn.functional as F
from torch import nn
import probe_agent
from probe_agent.probes.loss import Loss
print("the script runs", flush=True)

class Net(nn.Module):                      # a class of the script itself, which has no main guard
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(x) * SCALE

SCALE = 2.0
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x, y = torch.randn(8, 4), torch.randint(2, (8,))
outbox = probe_agent.ListOutbox()
monitor = probe_agent.attach(model, optimizer, loss_fn=F.cross_entropy, probe_batch=(x, y), run="script", where="process",
                             watches=[probe_agent.Watch(probe_agent.Every(1), (Loss(),))], outbox=outbox)
until = time.monotonic() + 60
while not outbox.drafts and time.monotonic() < until:
    time.sleep(0.02)
print(outbox.drafts[0].costs[0].outcome, monitor._place._worker._popen.pid, flush=True)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _await_end(pid: int) -> None:
    eventually(lambda: not alive(pid), seconds=5, what=f"process {pid} to end")


FORKS = """
pid = os.fork()
if pid == 0:
    optimizer.step()
    sys.exit(0)
os.waitpid(pid, 0)
"""


def _left_by(folder: Path, end: str) -> int:
    """Run the script to such an end; the worker's process id."""
    script = folder / "train.py"
    script.write_text(textwrap.dedent(SCRIPT) + end + "\n")
    root = str(Path(probe_agent.__file__).parent.parent)
    done = subprocess.run(
        [*warm.command(warm.AGENT), str(script)],
        env=os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    said = done.stdout.split("\n")
    assert said[0] == "the script runs"
    assert said.count("the script runs") == 1
    outcome, pid = said[1].split()
    assert outcome == "0"
    assert done.returncode == (-9 if "getpid" in end else 0)
    assert done.stderr == ""
    return int(pid)


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", FORKS], ids=["killed", "with a forked child"])
def test_a_script_runs_once_and_leaves_no_worker_behind(end: str, tmp_path: Path) -> None:
    _await_end(_left_by(tmp_path, end))
