"""Monitor: the one object a training script holds. Read this file to understand the agent.

    optimizer.step()
      └─ post-step hook          1  count the step; is anything due, and affordable?
           └─ Snapshot.take      2  a frozen copy of the model
                └─ Probe …       3  Snapshot → Measurements, each timed and guarded
                     └─ Outbox   4  one Report, queued; a daemon thread sends it

When nothing is due the hook compares two integers and returns.
"""

import logging
import threading
import time
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from probe_agent.budget import Budget
from probe_agent.draft import Draft
from probe_agent.errors import NotApplicable
from probe_agent.likelihood import Likelihood
from probe_agent.outbox import Outbox
from probe_agent.pairing import paired_stderr
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.probe_set import ProbeSet
from probe_agent.scalars import Scalars
from probe_agent.schedule import Watch
from probe_agent.snapshot import LossFn, Snapshot, undisturbed
from probe_wire import Advice, Column, Estimate, Losses, Outcome, ProbeCost, Quantity, Run

logger = logging.getLogger("probe_agent")

SeriesKey = tuple[str, tuple[tuple[str, str], ...]]

_measuring = threading.Lock()
"""Held while any monitor measures: random streams and attention kernels are switches of the whole process."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is watched: the live model and what its loss is evaluated on."""

    model: nn.Module
    probe_set: ProbeSet
    loss_fn: LossFn
    likelihood: Likelihood | None
    seed: int


@dataclass(slots=True)
class ProbeRecord:
    """What the monitor remembers of one probe between snapshots."""

    memory: Memory = field(default_factory=dict)
    draws: dict[SeriesKey, NDArray[np.float64]] = field(default_factory=dict)
    columns: list[tuple[Quantity, Column]] = field(default_factory=list)
    seconds: float = 0.0


class Monitor:
    """Watches one model through one optimizer. Made by `probe_agent.attach`; usable as a context manager.

    Nothing it does raises into the training loop. A probe that fails becomes an Outcome, a log line
    once a cause, and a counter.
    """

    def __init__(
        self,
        subject: Subject,
        optimizer: torch.optim.Optimizer,
        run: Run,
        watches: Sequence[Watch],
        budget: Budget,
        open_outbox: Callable[["Monitor"], Outbox],
        *,
        step: int = 0,
    ) -> None:
        self.run = run
        self.step = step
        self.snapshots_skipped = 0
        self.probe_seconds = 0.0
        self._subject = subject
        self._watches = tuple(watches)
        self._budget = budget
        self._records = {probe.name: ProbeRecord() for watch in self._watches for probe in watch.probes}
        self._scalars = Scalars()
        self._advice: deque[Advice] = deque(maxlen=1000)
        self._complained: set[str] = set()
        self._closed = False
        self._first_step = step
        self._started = time.perf_counter()
        self._due = [step for _ in self._watches]  # the state training starts from is the first to be measured
        self._next_due = step
        self._in_step = False
        self._began: float | None = None
        self._outbox = open_outbox(self)
        # The optimizer holds the monitor from here on, so that one line attaches it; the outbox's thread
        # does not, so that a monitor whose optimizer is gone ends with it.
        self._hooks = (
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        )
        # Not at interpreter exit: then the outbox itself still waits for what is queued.
        weakref.finalize(self, self._outbox.abandon).atexit = False
        self._guarded_measure()

    # -- what a training script may use -----------------------------------------------------------

    def observe(self, **scalars: float | Tensor) -> None:
        """Report numbers the loop has anyway, such as ``observe(loss=loss)``; never required."""
        try:
            for name, value in scalars.items():
                self._scalars.observe(name, value)
        except Exception as error:  # noqa: BLE001 - nothing of ours raises into training
            self._complain("observe", f"observe() could not take its values: {error!r}")

    @property
    def advice(self) -> list[Advice]:
        """What the collector has advised so far, oldest first."""
        self._advice.extend(self._outbox.advice())
        return list(self._advice)

    @property
    def training_seconds(self) -> float:
        """Seconds since attaching that were not spent in probes."""
        return time.perf_counter() - self._started - self._spent

    def close(self, reason: str = "finished") -> None:
        """Stop watching and deliver what is queued, within two seconds; harmless when repeated."""
        if self._closed:
            return
        self._closed = True
        for hook in self._hooks:
            hook.remove()
        self._outbox.close(reason)

    def __enter__(self) -> Self:
        """The monitor itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, with the exception's name as the reason when the loop raised."""
        self.close("finished" if kind is None else f"stopped by {kind.__name__}")

    # -- at every step ----------------------------------------------------------------------------

    def _before_step(self, *_: object) -> None:
        self._in_step = True

    def _after_step(self, *_: object) -> None:
        # An optimizer whose step calls super().step() comes here twice for one step: counted once.
        if not self._in_step:
            return
        self._in_step = False
        self.step += 1
        if self.step >= self._next_due and not self._closed:
            self._guarded_measure()

    # -- at a step that is due --------------------------------------------------------------------

    def _guarded_measure(self) -> None:
        if not _measuring.acquire(blocking=False):
            self.snapshots_skipped += 1  # another thread measures; it has changed switches of the whole process
            self._next_due = self.step + 1
            return
        self._began = time.perf_counter()
        try:
            self._measure_what_is_due()
        except Exception as error:  # noqa: BLE001 - nothing of ours raises into training
            self._complain("monitor", f"measuring at step {self.step} failed: {error!r}")
            self.snapshots_skipped += 1
            self._next_due = min(self._due, default=self.step + 1)
        finally:
            self.probe_seconds, self._began = self._spent, None
            _measuring.release()

    @property
    def _spent(self) -> float:
        """Probe seconds, those of the measurement in progress included."""
        running = 0.0 if self._began is None else time.perf_counter() - self._began
        return self.probe_seconds + running

    def _measure_what_is_due(self) -> None:
        due = [i for i, at in enumerate(self._due) if at <= self.step]
        expected = sum(self._records[probe.name].seconds for i in due for probe in self._watches[i].probes)
        if wait := self._wait(expected):
            self.snapshots_skipped += 1
            for i in due:
                self._due[i] = self.step + wait
        else:
            for i in due:
                self._due[i] = self._watches[i].schedule.after(self.step)
            self._measure([probe for i in due for probe in self._watches[i].probes])
        self._next_due = min(self._due, default=self.step + 1)

    def _measure(self, probes: Sequence[Probe]) -> None:
        subject = self._subject
        columns: list[tuple[Quantity, Column, Estimate]] = []
        costs: list[ProbeCost] = []
        with undisturbed(subject.probe_set.device, subject.seed):
            try:
                snapshot = Snapshot.take(
                    subject.model, self.step, subject.probe_set, subject.loss_fn, subject.likelihood, subject.seed
                )
            except Exception as error:  # noqa: BLE001 - a model that cannot be copied now is a failed measurement
                self._complain("snapshot", f"no snapshot of step {self.step}: {error!r}")
                for probe in probes:
                    columns += self._absent(probe, Outcome.FAILED)
                    costs.append(ProbeCost(probe.name, 0.0, Outcome.FAILED, f"no snapshot: {error!r}"[:2000]))
            else:
                for i, probe in enumerate(probes):
                    measured, cost = (
                        self._left_out(probe)
                        if i and self._wait(self._records[probe.name].seconds)
                        else self._run_probe(probe, snapshot)
                    )
                    columns += measured
                    costs.append(cost)
        columns += self._scalars.drain()
        self._outbox.put(
            Draft(
                step=self.step,
                time=time.time(),
                columns=self._distinct(columns),
                costs=tuple(costs),
                training_seconds=self.training_seconds,
                probe_seconds=self._spent,
                losses=Losses(0, self.snapshots_skipped, self._scalars.dropped),
            )
        )
        for advice in self._outbox.advice():
            self._advice.append(advice)
            logger.info("phasewatch: step %d: %s", self.step, advice.text)

    def _run_probe(self, probe: Probe, snapshot: Snapshot) -> tuple[list[tuple[Quantity, Column, Estimate]], ProbeCost]:
        record = self._records[probe.name]
        began = time.perf_counter()
        try:
            measured = [_column(m, record) for m in probe.measure(snapshot, record.memory)]
            record.columns = [(quantity, column) for quantity, column, _ in measured]
            outcome = _of_all([estimate.outcome for _, _, estimate in measured])
            detail = "" if outcome is Outcome.OK else outcome.sentence
        except NotApplicable as error:
            measured = self._absent(probe, Outcome.NOT_APPLICABLE)
            outcome, detail = Outcome.NOT_APPLICABLE, str(error)
        except Exception as error:  # noqa: BLE001 - a failing probe is an outcome, not an accident of training
            measured = self._absent(probe, Outcome.FAILED)
            outcome, detail = Outcome.FAILED, f"{type(error).__name__}: {error}"
            self._complain(f"probe {probe.name}", f"probe {probe.name} failed at step {self.step}: {detail}")
        record.seconds = time.perf_counter() - began
        return measured, ProbeCost(probe.name, record.seconds, outcome, detail[:2000])

    def _wait(self, expected: float) -> int:
        """How many steps must pass before the budget holds so many more seconds; 0 when it does now."""
        return self._budget.steps_to_wait(
            spent=self._spent,
            expected=expected,
            training=self.training_seconds,
            steps=self.step - self._first_step,
        )

    def _left_out(self, probe: Probe) -> tuple[list[tuple[Quantity, Column, Estimate]], ProbeCost]:
        return self._absent(probe, Outcome.OVER_BUDGET), ProbeCost(
            probe.name, 0.0, Outcome.OVER_BUDGET, Outcome.OVER_BUDGET.sentence
        )

    def _absent(self, probe: Probe, outcome: Outcome) -> list[tuple[Quantity, Column, Estimate]]:
        """The probe's columns without values, so that a failure is a visible gap in each of its series."""
        columns = self._records[probe.name].columns or [(q, Column(q.name)) for q in probe.quantities]
        return [(quantity, column, Estimate.without_value(outcome)) for quantity, column in columns]

    def _distinct(self, columns: list[tuple[Quantity, Column, Estimate]]) -> list[tuple[Quantity, Column, Estimate]]:
        """The columns without any that names a series a second time: one step has one point of a series."""
        by_series: dict[SeriesKey, tuple[Quantity, Column, Estimate]] = {}
        for entry in columns:
            key = (entry[1].quantity, tuple(sorted(entry[1].labels.items())))
            if by_series.setdefault(key, entry) is not entry:
                self._complain(
                    f"series {key}", f"{key[0]} {dict(key[1])} was measured twice in one step; the first is kept"
                )
        return list(by_series.values())

    def _complain(self, cause: str, text: str) -> None:
        if cause not in self._complained:
            self._complained.add(cause)
            with suppress(Exception):  # a user's log handler may raise; it must not raise out of optimizer.step()
                logger.warning(
                    "phasewatch: %s. Training goes on; further failures of this kind are only counted.", text
                )


def _of_all(outcomes: Sequence[Outcome]) -> Outcome:
    """How a probe came out as a whole: the worst of its estimates, among those that apply here at all."""
    applicable = [outcome for outcome in outcomes if outcome is not Outcome.NOT_APPLICABLE]
    return max(applicable or outcomes, default=Outcome.OK)


def _short(label: str) -> str:
    """The label within the wire's 200 characters; a longer one keeps its beginning and a digest of the whole."""
    return label if len(label) <= 200 else f"{label[:180]}…{zlib.crc32(label.encode()):08x}"


def _column(measurement: Measurement, record: ProbeRecord) -> tuple[Quantity, Column, Estimate]:
    """The measurement as a column, its paired standard error computed from the previous snapshot's draws."""
    labels = {name: _short(value) for name, value in measurement.labels.items()}
    column = Column(
        measurement.quantity.name, labels, {name: value[:200] for name, value in measurement.settings.items()}
    )
    estimate = measurement.estimate
    if measurement.draws is not None:
        key = (measurement.quantity.name, tuple(sorted(measurement.labels.items())))
        paired = paired_stderr(measurement.draws, record.draws.get(key))
        record.draws[key] = measurement.draws
        estimate = Estimate(estimate.value, estimate.stderr, paired, estimate.n, estimate.outcome)
    return measurement.quantity, column, estimate.checked()
