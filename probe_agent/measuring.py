"""Measuring: from the live model to the columns of a Report; each probe timed and guarded."""

import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from probe_agent.complaints import Complaints
from probe_agent.errors import NotApplicable, OverBudget
from probe_agent.likelihood import Likelihood
from probe_agent.pairing import paired_stderr
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.probe_set import ProbeSet
from probe_agent.snapshot import LossFn, Snapshot, undisturbed
from probe_agent.update_rule import UpdateRule
from probe_wire import MAX_COLUMNS, Column, Estimate, Outcome, ProbeCost, Quantity

Measured = tuple[Quantity, Column, Estimate]
SeriesKey = tuple[str, tuple[tuple[str, str], ...]]

_PATIENCE = 1.0
"""Seconds a probe may take once it has begun, however little is left."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is watched: the live model and what its loss is evaluated on."""

    model: nn.Module
    probe_set: ProbeSet
    loss_fn: LossFn
    likelihood: Likelihood | None
    seed: int
    further_sets: Mapping[str, ProbeSet] = field(default_factory=dict)
    widen: bool = True
    fresh: bool = False

    def snapshot(self, step: int, rule: UpdateRule | None = None) -> Snapshot:
        """The model as it is now."""
        return Snapshot.take(
            self.model,
            step,
            self.probe_set,
            self.loss_fn,
            self.likelihood,
            self.seed,
            further_sets=self.further_sets,
            rule=rule,
            widen=self.widen,
            fresh=self.fresh,
        )


@dataclass(slots=True)
class ProbeRecord:
    """What is remembered of one probe between snapshots."""

    memory: Memory = field(default_factory=dict)
    draws: dict[SeriesKey, NDArray[np.float64]] = field(default_factory=dict)
    columns: list[tuple[Quantity, Column]] = field(default_factory=list)
    seconds: float = 0.0


@final
class Measuring:
    """Takes snapshots of one subject and runs probes on them, with what each remembers from one to the next."""

    def __init__(self, subject: Subject, probes: Iterable[Probe], complain: Complaints) -> None:
        self._subject = subject
        self._records = {probe.name: ProbeRecord() for probe in probes}
        self._complain = complain
        self._trainable: tuple[str, ...] = ()

    def seconds(self, probes: Iterable[Probe]) -> float:
        """What the probes took when they last ran."""
        return sum(self._records[probe.name].seconds for probe in probes)

    def measure(
        self,
        step: int,
        probes: Sequence[Probe],
        rule: Callable[[], UpdateRule | None],
        remaining: Callable[[], float],
    ) -> tuple[list[Measured], list[ProbeCost]]:
        """The columns and costs of the probes at this step, the first in any case and the rest while they are affordable.

        ``remaining`` tells how many seconds of the budget are left.
        """
        subject = self._subject
        columns: list[Measured] = []
        costs: list[ProbeCost] = []
        with undisturbed(subject.probe_set.device, subject.seed):
            try:
                snapshot = subject.snapshot(step, rule())
            except Exception as error:  # noqa: BLE001 - a model that cannot be copied now is a failed measurement
                self._complain("snapshot", f"no snapshot of step {step}: {error!r}")
                for probe in probes:
                    columns += self._absent(probe, Outcome.FAILED)
                    costs.append(ProbeCost(probe.name, 0.0, Outcome.FAILED, f"no snapshot: {error!r}"[:2000]))
                return columns, costs
            self._notice_trainable(snapshot)
            for i, probe in enumerate(probes):
                left, usual = remaining(), self._records[probe.name].seconds
                if i and usual > left:
                    measured, cost = self._left_out(probe, 0.0)
                else:
                    snapshot.deadline.at = time.perf_counter() + max(_PATIENCE, left / 2, 2 * usual)
                    measured, cost = self._run(probe, snapshot)
                columns += measured
                costs.append(cost)
        return self._fitting(self._distinct(columns)), costs

    def _notice_trainable(self, snapshot: Snapshot) -> None:
        """Forget the draws when other parameters are trained than before: the difference would not be a change of the network."""
        trainable = tuple(snapshot.params)
        if trainable != self._trainable:
            self._trainable = trainable
            for record in self._records.values():
                record.draws.clear()

    def _run(self, probe: Probe, snapshot: Snapshot) -> tuple[list[Measured], ProbeCost]:
        record = self._records[probe.name]
        began = time.perf_counter()
        try:
            measured = [
                _column(m, record, {"probe": probe.name, "precision": snapshot.precision})
                for m in probe.measure(snapshot, record.memory)
            ]
            record.columns = [(quantity, column) for quantity, column, _ in measured]
            outcome = _of_all([estimate.outcome for _, _, estimate in measured])
            detail = "" if outcome is Outcome.OK else outcome.sentence
        except NotApplicable as error:
            measured = self._absent(probe, Outcome.NOT_APPLICABLE)
            outcome, detail = Outcome.NOT_APPLICABLE, str(error)
        except OverBudget:
            # Twice as long is tried when there is time for that, so that a probe is not begun and stopped for ever.
            record.seconds = 2 * (time.perf_counter() - began)
            return self._left_out(probe, record.seconds / 2)
        except Exception as error:  # noqa: BLE001 - a failing probe is an outcome, not an accident of training
            outcome = Outcome.OUT_OF_MEMORY if _is_out_of_memory(error) else Outcome.FAILED
            measured, detail = self._absent(probe, outcome), f"{type(error).__name__}: {error}"
            self._complain(f"probe {probe.name}", f"probe {probe.name} failed at step {snapshot.step}: {detail}")
        record.seconds = time.perf_counter() - began
        return measured, ProbeCost(probe.name, record.seconds, outcome, detail[:2000])

    def _left_out(self, probe: Probe, seconds: float) -> tuple[list[Measured], ProbeCost]:
        return self._absent(probe, Outcome.OVER_BUDGET), ProbeCost(
            probe.name, seconds, Outcome.OVER_BUDGET, Outcome.OVER_BUDGET.sentence
        )

    def _absent(self, probe: Probe, outcome: Outcome) -> list[Measured]:
        """The probe's columns without values, so that a failure is a visible gap in each of its series."""
        columns = self._records[probe.name].columns or [
            (q, Column(q.name, {}, {"probe": probe.name})) for q in probe.quantities
        ]
        return [(quantity, column, Estimate.without_value(outcome)) for quantity, column in columns]

    def _distinct(self, columns: list[Measured]) -> list[Measured]:
        """The columns without any that names a series a second time: one step has one point of a series."""
        by_series: dict[SeriesKey, Measured] = {}
        for entry in columns:
            key = (entry[1].quantity, tuple(sorted(entry[1].labels.items())))
            if by_series.setdefault(key, entry) is not entry:
                self._complain(
                    f"series {key}", f"{key[0]} {dict(key[1])} was measured twice in one step; the first is kept"
                )
        return list(by_series.values())

    def _fitting(self, columns: list[Measured]) -> list[Measured]:
        """As many columns as a message may have: the whole network's before the layers'."""
        excess = len(columns) - MAX_COLUMNS
        if excess <= 0:
            return columns
        self._complain(
            "columns",
            f"{len(columns)} series were measured, and a report holds {MAX_COLUMNS}: the last {excess} of single layers are "
            "left out. Set per_layer=False on the probes that need no layers",
        )
        kept = sorted(range(len(columns)), key=lambda i: ("layer" in columns[i][1].labels, i))[:MAX_COLUMNS]
        return [columns[i] for i in sorted(kept)]


def _is_out_of_memory(error: Exception) -> bool:
    """Whether a device or the machine refused memory; on the CPU torch says so in words only."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def _of_all(outcomes: Sequence[Outcome]) -> Outcome:
    """How a probe came out as a whole: the worst of its estimates, among those that apply here at all."""
    applicable = [outcome for outcome in outcomes if outcome is not Outcome.NOT_APPLICABLE]
    return max(applicable or outcomes, default=Outcome.OK)


def _short(label: str) -> str:
    """The label within the wire's 200 characters; a longer one keeps its beginning and a digest of the whole."""
    return label if len(label) <= 200 else f"{label[:180]}…{zlib.crc32(label.encode()):08x}"


def _column(measurement: Measurement, record: ProbeRecord, common: Mapping[str, str]) -> Measured:
    """The measurement as a column, its paired standard error computed from the previous snapshot's draws."""
    labels = {name: _short(value) for name, value in measurement.labels.items()}
    settings = {name: value[:200] for name, value in ({**measurement.settings, **common}).items() if value}
    column = Column(measurement.quantity.name, labels, settings)
    estimate = measurement.estimate
    if measurement.draws is not None:
        key = (measurement.quantity.name, tuple(sorted(measurement.labels.items())))
        paired = paired_stderr(measurement.draws, record.draws.get(key))
        record.draws[key] = measurement.draws
        estimate = Estimate(estimate.value, estimate.stderr, paired, estimate.n, estimate.outcome)
    return measurement.quantity, column, estimate.checked()
