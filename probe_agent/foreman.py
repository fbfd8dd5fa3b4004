"""Foreman: has probes run in a process of their own, so that nothing a probe does can reach training.

In the training thread a measurement costs a copy of the weights, for some probes of the optimizer's state too, and pickling, into memory shared with the worker. A daemon
thread talks to the worker: one that crashes, runs out of memory or hangs is ended and started again, the probe that
did it is named, counted, and after three times in a row no longer run.
"""

import atexit
import os
import queue
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from msgspec import structs

from probe_agent.complaints import said
from probe_agent.errors import AttachError
from probe_agent.findings import Finding, failure_of
from probe_agent.frozen_copy import copy_of
from probe_agent.interruption import is_interruption
from probe_agent.measuring import Subject
from probe_agent.parcel import SharedFile, packed
from probe_agent.place import BESIDE, Choice, done
from probe_agent.probe import Probe
from probe_agent.process import Process
from probe_agent.room import cores, free_bytes, short_of, weight_bytes
from probe_agent.undisturbed import undisturbed
from probe_agent.update_rule import UpdateRule
from probe_agent.worker import READY
from probe_agent.worker_process import CLOSED, START_SECONDS, WorkerLost, WorkerProcess
from probe_wire import Outcome

CPU = torch.device("cpu")

STRIKES = 3
"""So often in a row may a probe bring the worker down."""

CLOSE_SECONDS = 0.4
"""The most `close` takes; a measurement in progress gets half of it to end."""

_REST, _LONGEST_REST = 30.0, 3600.0
"""Seconds between two attempts to start a worker that does not start; each time twice as long."""


@dataclass(slots=True)
class Order:
    """A measurement to be carried out."""

    step: int
    probes: list[Probe]
    body: bytes
    future: Future[list[Finding]] = field(default_factory=Future)
    told: threading.Event = field(default_factory=threading.Event)
    began: float = field(default_factory=time.monotonic)


@final
class Foreman:
    """A Place: probes run in a worker process, a measurement at a time. See the module.

    Raises:
        AttachError: the model, the loss or a probe cannot leave this process.
    """

    def __init__(self, subject: Subject, probes: Sequence[Probe], process: Process) -> None:
        threads = process.threads or max(1, cores() - torch.get_num_threads())
        memory = process.memory or free_bytes(CPU) // 2
        self._process = replace(process, threads=threads, memory=memory)
        self._given, self._snapshot, self._last_words = SharedFile(), SharedFile(), SharedFile()
        nothing: Any = None
        stays = replace(subject, model=nothing, loss_fn=nothing)  # they come with each order
        try:
            self._setup = packed((stays, tuple(probes)), self._given)
            with undisturbed(subject.probe_set.device, subject.seeded):
                packed((copy_of(subject.model), subject.loss_fn, None), self._snapshot)
        except Exception as error:
            self._let_go()
            raise AttachError(
                f"Got a model, loss_fn or probe that cannot be sent to another process ({type(error).__name__}: {error}). "
                'Keep locks, files and generators out of them, or measure in this process with where="inline".'
            ) from error
        self._current: Order | None = None
        self._told: threading.Event | None = None  # what came of the last order is reported
        self._seconds: dict[str, float] = {}
        self._last: dict[str, Finding] = {}
        self._strikes: Counter[str] = Counter()
        self._handing = 0.0
        # The rule of an optimizer has a preconditioner and two updates; all of it is held twice, here and in the file.
        self._copies = 8 if any(probe.sees_updates for probe in probes) else 2
        self._rest = _REST
        self._worker: WorkerProcess | None = None
        self._refused, self._retry = "", 0.0
        self._closing = threading.Event()
        self._orders: queue.SimpleQueue[Order | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._carry_out_all, name="phasewatch-foreman", daemon=True)
        self._thread.start()
        _open.add(self)
        # Last registered is first called: before the outboxes, which are to deliver what is found until then.
        atexit.unregister(_close_at_exit)
        atexit.register(_close_at_exit)

    # -- in the training thread -------------------------------------------------------------------

    def alone(self) -> bool:
        """It is."""
        return True

    def busy(self) -> float:
        """What the measurement in progress will still take, by what its probes took before; longer the longer it lasts."""
        order = self._current
        if order is None:
            return max(0.0, self._retry - time.monotonic()) if self._worker is None else 0.0
        passed = time.monotonic() - order.began
        if passed > len(order.probes) * (START_SECONDS + self._process.patience) and self._worker is not None:
            self._worker.kill()  # whatever the foreman's thread waits for ends with it
        return max(sum(self._seconds.get(probe.name, 1.0) for probe in order.probes) - passed, passed / 4, 0.05)

    def expected(self, probe: Probe) -> float:
        """What it holds training up from beside."""
        return BESIDE * self._seconds.get(probe.name, 0.0)

    def once(self) -> float:
        """What handing over the weights took last time."""
        return self._handing

    def agreed(self, step: int, choice: Choice) -> Choice:  # noqa: ARG002 - a Place's signature
        """Nobody else is asked."""
        return choice

    def measure(
        self,
        subject: Subject,
        step: int,
        probes: Iterable[Probe],
        rule: Callable[[], UpdateRule | None],
        remaining: Callable[[], float],  # noqa: ARG002 - training does not wait for these
    ) -> Future[list[Finding]]:
        """Copy the weights for the worker, and return; the findings come when they come."""
        began = time.perf_counter()
        order = Order(step, list(probes), b"")
        try:
            if all(self._strikes[probe.name] >= STRIKES for probe in order.probes):
                return done([self._struck(probe) for probe in order.probes])
            need, home = weight_bytes(subject.model), subject.probe_set.device
            if short := short_of(self._copies * need, CPU) or short_of(self._copies * need // 2, home):
                raise MemoryError(short)  # noqa: TRY301 - one way out for all that keeps a snapshot from being taken
            with undisturbed(home, subject.seeded):
                order.body = packed((copy_of(subject.model), subject.loss_fn, rule(), subject.halved), self._snapshot)
        except BaseException as error:
            if is_interruption(error):
                raise
            # A model that cannot be copied now is a failed measurement.
            why = said(error)
            return done([self._no_snapshot(probe, why, failure_of(error)) for probe in order.probes])
        self._handing = time.perf_counter() - began
        self._current, self._told = order, order.told
        self._orders.put(order)
        return order.future

    def close(self, until: float | None = None) -> None:
        """End the worker; a measurement that is nearly done may end first. Harmless when repeated.

        ``until`` is a moment of `time.monotonic`, by default `CLOSE_SECONDS` from now.
        """
        if self not in _open:
            return  # closed, or the child of a fork: the thread and the worker belong to the parent
        _open.discard(self)
        until = time.monotonic() + CLOSE_SECONDS if until is None else until
        self.wait(until - CLOSE_SECONDS / 2)
        self.stop()
        self.wait(until)  # for what was found until now; the thread itself may take longer, as its worker does to die
        if threading.current_thread() is not self._thread:
            self._thread.join(max(0.0, until - time.monotonic()))

    def wait(self, until: float) -> None:
        """For the measurement in progress, if there is one, to be reported."""
        if self._told is not None and threading.current_thread() is not self._thread:
            self._told.wait(max(0.0, until - time.monotonic()))

    def stop(self) -> None:
        """Have a measurement in progress end with what is found."""
        self._closing.set()
        self._orders.put(None)

    # -- in the foreman's thread ------------------------------------------------------------------

    def _carry_out_all(self) -> None:
        try:
            with suppress(Exception):
                self._started()  # before the first order comes, while training goes on
            while (order := self._orders.get()) is not None:
                try:
                    findings = self._carried_out(order)
                except Exception as error:  # noqa: BLE001 - a bug of ours, or an answer that is none: the next order has a new worker
                    self._dismiss()
                    lost = WorkerLost(said(error))
                    findings = [self._lost(probe, lost, blame="worker") for probe in order.probes]
                self._current = None
                order.future.set_result(findings)
                order.told.set()  # not when the future is done: it calls those who report afterwards
                del order, findings  # what waits for them holds the monitor, and that the model
        finally:
            self._dismiss()
            self._let_go()

    def _let_go(self) -> None:
        for memory in (self._given, self._snapshot, self._last_words):
            memory.close()

    def _carried_out(self, order: Order) -> list[Finding]:
        waiting = [probe for probe in order.probes if self._strikes[probe.name] < STRIKES]
        findings = [self._struck(probe) for probe in order.probes if probe not in waiting]
        while waiting:
            try:
                worker = self._started()
                answer = worker.begin(order.step, [probe.name for probe in waiting], order.body)
                if answer != READY:
                    return [*findings, *(self._no_snapshot(probe, answer) for probe in waiting)]
            except WorkerLost as lost:
                self._dismiss_unless_closing()
                return [*findings, *(self._lost(probe, lost, blame="worker") for probe in waiting)]
            try:
                while waiting:
                    finding = _apart(worker.next())
                    self._last[waiting[0].name] = finding
                    self._seconds[waiting[0].name] = finding.cost.seconds
                    self._strikes.pop(waiting[0].name, None)
                    findings.append(finding)
                    waiting.pop(0)
            except WorkerLost as lost:
                self._dismiss_unless_closing()
                probe = waiting.pop(0)
                self._strikes[probe.name] += not self._closing.is_set()
                findings.append(self._lost(probe, lost))
        return findings

    def _started(self) -> WorkerProcess:
        if self._closing.is_set():
            raise WorkerLost(CLOSED, Outcome.OVER_BUDGET)
        if self._worker is not None and not self._worker.alive:
            self._dismiss()
        if self._worker is None:
            if time.monotonic() < self._retry:
                raise WorkerLost(self._refused)
            descriptors = (self._given.descriptor, self._snapshot.descriptor, self._last_words.descriptor)
            try:
                self._worker = WorkerProcess(self._process, descriptors, self._closing)
                self._worker.set_up(self._process, self._setup)
            except WorkerLost as lost:
                self._dismiss_unless_closing()
                self._refused, self._retry = str(lost), time.monotonic() + self._rest
                self._rest = min(2 * self._rest, _LONGEST_REST)
                raise
            self._rest = _REST
        return self._worker

    def _dismiss(self) -> None:
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def _dismiss_unless_closing(self) -> None:
        """When all is closed, what was found is handed over first: a worker may take seconds to die, and the outbox does not wait for it."""
        if not self._closing.is_set():
            self._dismiss()

    def _absent(self, probe: Probe, outcome: Outcome, why: str) -> Finding:
        return Finding.without_value(probe, outcome, why, last=self._last.get(probe.name))

    def _struck(self, probe: Probe) -> Finding:
        why = f"it brought the worker process down {STRIKES} times and is not run any more"
        return self._absent(probe, Outcome.FAILED, why)

    def _lost(self, probe: Probe, lost: WorkerLost, blame: str = "") -> Finding:
        how = "no worker process" if blame or self._closing.is_set() else "it brought its worker process down"
        return replace(self._absent(probe, lost.outcome, f"{how}: {lost}"), blame=blame)

    def _no_snapshot(self, probe: Probe, why: str, outcome: Outcome = Outcome.FAILED) -> Finding:
        return replace(self._absent(probe, outcome, f"no snapshot: {why}"), blame="snapshot")


def _apart(finding: Finding) -> Finding:
    return replace(finding, cost=structs.replace(finding.cost, apart=True))


_open: "weakref.WeakSet[Foreman]" = weakref.WeakSet()


def _close_at_exit() -> None:
    # One deadline for all, and all are told before the end of one is waited for.
    until, foremen = time.monotonic() + CLOSE_SECONDS, list(_open)
    for foreman in foremen:
        foreman.wait(until - CLOSE_SECONDS / 2)
    for foreman in foremen:
        foreman.stop()
    for foreman in foremen:
        foreman.wait(until)
    for foreman in foremen:
        foreman.close(until)


os.register_at_fork(after_in_child=_open.clear)
