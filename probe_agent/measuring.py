"""Measuring: from a model to the findings of probes; each timed and guarded."""

import math
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, cast, final

import numpy as np
import torch
from msgspec import structs
from numpy.typing import NDArray
from torch import Tensor, nn

from probe_agent.admissible import MOST, check
from probe_agent.complaints import said
from probe_agent.errors import NotApplicable, OverBudget
from probe_agent.estimators.graph_memory import bytes_of_a_sample
from probe_agent.findings import Finding, Measured, SeriesKey, failure_of
from probe_agent.interruption import is_interruption
from probe_agent.likelihood import Likelihood
from probe_agent.pairing import paired_stderr
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.probe_set import ProbeSet, digest
from probe_agent.room import HighWater, check_room, short_of, weight_bytes
from probe_agent.snapshot import LossFn, Snapshot
from probe_agent.undisturbed import drawing, others, streams, undisturbed
from probe_agent.update_rule import UpdateRule
from probe_wire import Column, Estimate, Outcome, ProbeCost

_PATIENCE = 1.0
"""Seconds a probe may take once it has begun, however little is left."""

_JUMP = 16.0
"""So many times what was expected is not expected again before it has happened twice."""

_AT_ONCE = 30.0
"""Seconds a probe may take the first time, however much has been saved: training waits, and with it perhaps other ranks."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is watched: the live model and what its loss is evaluated on.

    ``statistics`` stand in a snapshot in place of the model's own buffers of these names. ``halved`` says, by its name, how
    often the samples of a probe are halved. Whether the model or the loss ``draws`` from the global random streams in evaluation
    mode decides whether they are seeded. A forward pass of the probe set takes about so many ``seconds`` of training; 0 where none.
    """

    model: nn.Module
    probe_set: ProbeSet
    loss_fn: LossFn
    likelihood: Likelihood | None
    seed: int
    further_sets: Mapping[str, ProbeSet] = field(default_factory=dict)
    widen: bool = True
    fresh: bool = False
    logits: bool = False
    draws: bool = True
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    halved: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def seeded(self) -> int | None:
        """The seed of the global random streams while probes run; None where nothing draws from them."""
        return self.seed if self.draws else None

    def snapshot(self, step: int, rule: UpdateRule | None = None) -> Snapshot:
        """The model as it is now.

        Raises:
            MemoryError: a copy would take memory that training may need.
        """
        check_room(1, self.model, self.probe_set.device)
        taken = Snapshot.take(
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
            logits=self.logits,
        )
        for name, buffer in taken.model.named_buffers():
            if name in self.statistics:
                buffer.copy_(self.statistics[name])
        return taken


@dataclass(slots=True)
class ProbeRecord:
    """What is remembered of one probe between snapshots; ``seconds`` are expected the next time, ``doubted`` ones were taken last."""

    memory: Memory = field(default_factory=dict)
    draws: dict[SeriesKey, NDArray[np.float64]] = field(default_factory=dict)
    last: Finding | None = None
    seconds: float = 0.0
    doubted: float = 0.0
    peak: int = 0
    halved: int = 0

    def took(self, seconds: float) -> None:
        """Expect as much the next time. After a cold start or while a machine stood still once: budget is not saved for that again."""
        jump = not self.doubted and seconds > max(_PATIENCE, _JUMP * self.seconds)
        self.doubted = seconds if jump else 0.0
        self.seconds = max(self.seconds, seconds / _JUMP) if jump else seconds


@final
class Measuring:
    """Takes snapshots of one subject and runs probes on them, with what each remembers from one to the next."""

    def __init__(self, probes: Iterable[Probe], *, most: float = math.inf) -> None:
        """``most`` seconds may a probe take in any case."""
        self._most = most
        probes = tuple(probes)
        self._copies = (
            4 if any(probe.sees_updates for probe in probes) else 1
        )  # of the weights: the optimizer's rule has three
        self._records = {probe.name: ProbeRecord() for probe in probes}
        self._trainable: tuple[str, ...] = ()
        self._configurations = {probe.name: _configuration(probe) for probe in probes}
        self._identity: tuple[Subject, dict[str, str]] | None = None
        self._draws = False  # the subject does, though it did not when it was tried out

    def seconds(self, probe: Probe) -> float:
        """What the probe took when it last ran, or a part of that where it came as a surprise; 0 before."""
        return self._records[probe.name].seconds

    def findings(
        self,
        subject: Subject,
        step: int,
        probes: Iterable[Probe],
        rule: Callable[[], UpdateRule | None],
        remaining: Callable[[], float],
    ) -> Iterator[Finding]:
        """What each of the probes finds at this step, the first in any case and the rest while they are affordable.

        ``remaining`` tells how many seconds of the budget are left.
        """
        device, seed = subject.probe_set.device, subject.seed if self._draws else subject.seeded
        before = streams(device) if seed is None and others() else None
        with undisturbed(device, seed):
            try:
                check_room(self._copies, subject.model, subject.probe_set.device)
                snapshot = subject.snapshot(step, rule())
            except BaseException as error:
                if is_interruption(error):
                    raise
                for probe in probes:
                    yield replace(
                        self._absent(probe, failure_of(error), f"no snapshot: {said(error)}"), blame="snapshot"
                    )
                return
            self._notice_trainable(snapshot)
            identity = self._identity_of(subject)
            for i, probe in enumerate(probes):
                halvings, most = subject.halved.get(probe.name, 0), probe.averages(snapshot.probe_set.n)
                record = self._records[probe.name]
                left, usual = remaining(), record.seconds * 2.0 ** (record.halved - halvings)
                if i and min(usual, record.seconds) > left:  # as it was judged before all ranks stopped for it
                    yield self._absent(probe, Outcome.OVER_BUDGET, Outcome.OVER_BUDGET.sentence)
                elif short := self._short_of_memory(probe, at := snapshot.halved(halvings, most)):
                    yield replace(self._absent(probe, Outcome.OUT_OF_MEMORY, short), blame="memory")
                else:
                    usual = max(usual, record.doubted) if record.doubted < left else usual
                    longest = min(self._most, max(_PATIENCE, min(left / 2, _AT_ONCE), 2 * usual))
                    snapshot.deadline.at = time.perf_counter() + longest
                    self._notice_samples(probe, halvings)
                    part = {"probe_set": f"{identity['probe_set']}, {at.probe_set.n} of {most}"} if halvings else {}
                    yield self._run(probe, at, {**identity, **part})
                    snapshot.deadline.at = math.inf  # whoever evaluates next is not this probe
            if before is not None and streams(device) != before:
                _, self._draws = drawing(device, partial(_forward, snapshot))

    def _notice_trainable(self, snapshot: Snapshot) -> None:
        """Forget the draws when other parameters are trained than before: the difference would not be a change of the network."""
        trainable = tuple(snapshot.params)
        if trainable != self._trainable:
            self._trainable = trainable
            for record in self._records.values():
                record.draws.clear()

    def _notice_samples(self, probe: Probe, halvings: int) -> None:
        """Forget the draws when they are of other samples than before."""
        record = self._records[probe.name]
        if record.halved != halvings:
            record.halved = halvings
            record.draws.clear()

    def _identity_of(self, subject: Subject) -> dict[str, str]:
        """What values depend on beside the network: where it changes, a series is another, and its evidence begins anew."""
        if self._identity is None or self._identity[0] is not subject:
            samples = digest([subject.probe_set, *subject.further_sets.values()])
            self._identity = (subject, {"probe_set": samples[:12], "seed": str(subject.seed)})
        return self._identity[1]

    def _short_of_memory(self, probe: Probe, snapshot: Snapshot) -> str:
        """Why the probe is not begun: what it takes might be what training needs. Empty where there is room."""
        need = self._records[probe.name].peak or snapshot.once("first guess of memory", lambda: _first_guess(snapshot))
        short = short_of(need, snapshot.probe_set.device)
        return f"{short} Give a smaller probe batch, or a lighter preset." if short else ""

    def of_sums(self, subject: Subject, probe: Probe, measure: Callable[[Memory], Iterator[Measurement]]) -> Finding:
        """What a probe finds without a snapshot, where ranks have added up their parts of the model."""
        return self._guarded(probe, measure, self._identity_of(subject))

    def note(self, probe: Probe, seconds: float) -> None:
        """The probe took so long in all, with what was done for it elsewhere."""
        self._records[probe.name].seconds = seconds

    def memory(self, probe: Probe) -> Memory:
        """What the probe remembers."""
        return self._records[probe.name].memory

    def _run(self, probe: Probe, snapshot: Snapshot, identity: Mapping[str, str]) -> Finding:
        record = self._records[probe.name]
        with HighWater(snapshot.probe_set.device) as memory:
            found = self._guarded(
                probe, partial(_measured, probe, snapshot), {"precision": snapshot.precision, **identity}
            )
        record.peak = max(record.peak, memory.peak)
        return replace(found, cost=structs.replace(found.cost, memory_raised=memory.raised)) if memory.raised else found

    def _guarded(
        self, probe: Probe, measure: Callable[[Memory], Iterator[Measurement]], identity: Mapping[str, str]
    ) -> Finding:
        record = self._records[probe.name]
        common = {"probe": probe.name, "configuration": self._configurations[probe.name], **identity}
        began = time.perf_counter()
        try:
            measured = [_column(m, record, common) for m in islice(measure(record.memory), MOST + 1)]
            check(measured, record.last.columns if record.last else ())
        except NotApplicable as error:
            found = self._absent(probe, Outcome.NOT_APPLICABLE, str(error), time.perf_counter() - began)
        except OverBudget:
            # Twice as long is tried when there is time for that, so that a probe is not begun and stopped for ever.
            took = time.perf_counter() - began
            record.seconds, record.doubted = max(2 * took, record.doubted), 0.0
            why = f"Stopped after {took:.2g} seconds: no more was saved up for it, or may be taken at once."
            return self._absent(probe, Outcome.OVER_BUDGET, why, took)
        except BaseException as error:
            if is_interruption(error):
                raise
            # A failing probe is an outcome, not an accident of training.
            found = self._absent(probe, failure_of(error), said(error), time.perf_counter() - began)
        else:
            outcome = _of_all([estimate.outcome for _, _, estimate in measured])
            detail = "" if outcome is Outcome.OK else outcome.sentence
            found = Finding(measured, ProbeCost(probe.name, time.perf_counter() - began, outcome, detail))
            record.last = found
        record.took(found.cost.seconds)
        return found

    def _absent(self, probe: Probe, outcome: Outcome, detail: str, seconds: float = 0.0) -> Finding:
        return Finding.without_value(probe, outcome, detail, seconds, self._records[probe.name].last)


def _measured(probe: Probe, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
    if not probe.takes_complex and (
        name := next((n for n, p in snapshot.model.named_parameters() if p.is_complex()), None)
    ):
        raise NotApplicable(
            f"Got complex parameters ({name}), by which no derivative is taken here; need real ones, such as "
            "torch.view_as_real of them that the model puts together."
        )
    return probe.measure(snapshot, memory)


def _forward(snapshot: Snapshot) -> None:
    """What a model that draws draws in."""
    with suppress(Exception), torch.no_grad():  # what the model cannot take is told by each probe
        snapshot.loss_fn(snapshot.outputs(), snapshot.probe_set.targets)


def _configuration(probe: Probe) -> str:
    """The settings a probe was made with, as far as they are plain values."""
    own = fields(cast("Any", probe)) if is_dataclass(cast("Any", probe)) else ()
    values = ((each.name, getattr(probe, each.name)) for each in own)
    return ", ".join(
        f"{name}={value!r}" for name, value in values if isinstance(value, int | float | str | tuple | None)
    )


def _first_guess(snapshot: Snapshot) -> int:
    """Bytes a probe may take that was never measured: two further copies of the weights, and the graph of a second derivative."""
    try:
        graph = bytes_of_a_sample(snapshot) * snapshot.probe_set.n
    except Exception as error:  # what the model cannot take is told by each probe
        if is_interruption(error):
            raise
        graph = 0
    return 2 * (weight_bytes(snapshot.model) + graph)


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
