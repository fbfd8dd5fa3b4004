"""How jobs with real workers and outboxes end: nothing that was found goes missing in silence."""

import logging
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import probe_agent
from probe_agent import Every, ListOutbox, Watch
from probe_agent.budget import UNLIMITED
from probe_agent.draft import Draft
from probe_agent.outbox import ZmqOutbox
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.probes.loss import Loss
from probe_agent.process import Process
from probe_agent.snapshot import Snapshot
from probe_agent.worker_process import WorkerLost, WorkerProcess
from probe_wire import Column, Estimate, Quantity, Run
from tests import warm

NOWHERE = "tcp://127.0.0.1:1"
LOSS = Quantity("probe_loss", "1", "Loss.", "Loss")


@final
@dataclass(frozen=True)
class Endless(Probe):
    """Never comes to its end."""

    name: ClassVar = "endless"
    quantities: ClassVar = (Quantity("endless", "1", "Never.", "Never"),)

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        time.sleep(1000)
        yield from ()


def test_what_a_worker_had_found_is_handed_over_before_the_monitor_closes_however_long_it_takes_to_die(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends = WorkerProcess.end

    def slowly(self: WorkerProcess) -> None:
        time.sleep(1.5)
        ends(self)

    monkeypatch.setattr(WorkerProcess, "end", slowly)
    outbox, model = ListOutbox(), nn.Linear(4, 3)
    batch = torch.randn(12, 4), torch.randint(3, (12,))
    monitor = probe_agent.attach(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        loss_fn=F.cross_entropy,
        probe_batch=batch,
        run="closed",
        watches=(Watch(Every(1), (Loss(), Endless())),),
        budget=UNLIMITED,
        where="process",
        outbox=outbox,
    )
    place: Any = monitor._place
    until = time.monotonic() + 60
    while "loss" not in place._seconds and time.monotonic() < until:
        time.sleep(0.05)
    monitor.close()
    (draft,) = outbox.drafts
    assert [(cost.probe, cost.detail) for cost in draft.costs] == [
        ("loss", ""),
        ("endless", "no worker process: the monitor was closed before it was measured"),
    ]


def test_a_worker_that_cannot_even_be_imported_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "probe_agent"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('libcudart is another one here')\n")
    monkeypatch.syspath_prepend(tmp_path)
    files = tuple(os.memfd_create("given") for _ in range(3))
    worker = WorkerProcess(Process(), (files[0], files[1], files[2]), threading.Event())
    try:
        with pytest.raises(WorkerLost, match="libcudart is another one here"):
            worker.set_up(Process(), b"")
    finally:
        worker.end()
        for file in files:
            os.close(file)


def draft(step: int) -> Draft:
    return Draft(step, 0.0, [(LOSS, Column(LOSS.name), Estimate(1.0, 0.1))])


def test_a_report_that_comes_after_the_end_is_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    outbox = ZmqOutbox(NOWHERE, Run("late", "late", "host", 1, 0.0), 0, lambda: 0)
    outbox.close("finished")
    with caplog.at_level(logging.WARNING, "probe_agent"):
        outbox.put(draft(7))
    assert "the report of step 7 came after this run was closed, and is lost" in caplog.text
    assert outbox.dropped == 1


def test_reports_of_an_abandoned_run_that_no_disk_has_are_not_lost_in_silence(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHASEWATCH_SPOOL", "off")
    outbox = ZmqOutbox(NOWHERE, Run("gone", "gone", "host", 1, 0.0), 0, lambda: 0)
    outbox.put(draft(1))
    with caplog.at_level(logging.WARNING, "probe_agent"):
        outbox.abandon()
        outbox._thread.join(10)
    assert f"2 messages were not acknowledged by the collector at {NOWHERE} and are lost" in caplog.text


ENDS = """
import time
import torch
import torch.nn.functional as F
import probe_agent
from probe_agent import ListOutbox
from probe_agent.worker_process import WorkerProcess

ends = WorkerProcess.end
WorkerProcess.end = lambda self: (time.sleep(1), ends(self))  # as on a busy machine

boxes = []
for name in "ab":  # the cell of a notebook, run again and again
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    boxes.append(ListOutbox())
    batch = torch.randn(12, 4), torch.randint(3, (12,))
    probe_agent.attach(
        model, optimizer, loss_fn=F.cross_entropy, probe_batch=batch, run=name, where="process", outbox=boxes[-1]
    ).here = (model, optimizer)

import atexit
from probe_agent import foreman

def told():
    print("reports", [len(box.drafts) for box in boxes])

atexit.unregister(foreman._close_at_exit)
atexit.register(told)  # called second, where the outboxes are closed
atexit.register(foreman._close_at_exit)
"""


def test_at_exit_every_run_of_a_notebook_reports_what_it_began_before_the_outboxes_close() -> None:
    ended = subprocess.run(
        [*warm.command(warm.AGENT), "-c", ENDS], capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.stdout.split("\n")[0] == "reports [1, 1]", ended.stderr
