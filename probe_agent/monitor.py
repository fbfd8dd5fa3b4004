"""Monitor: the one object a training script holds. Read this file to understand the agent.

    optimizer.step()
      └─ post-step hook          1  count the step; is anything due, and affordable?
           └─ Place              2  here and now, a process of its own, or all ranks:
                ├─ Snapshot         a frozen copy of the model
                └─ Probe …          Snapshot → Measurements, each timed and guarded
                     └─ Outbox   3  one Report, queued; a daemon thread sends it

When nothing is due the hook compares two integers and returns (`steps`).
"""

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType
from typing import Self

import torch
from torch import Tensor, nn

from probe_agent.accelerator import capturing
from probe_agent.agenda import NEVER, Agenda
from probe_agent.budget import Budget
from probe_agent.complaints import Complaints, said, tell
from probe_agent.draft import Draft
from probe_agent.findings import Finding, columns_of, complaints_of
from probe_agent.interruption import is_interruption
from probe_agent.measuring import Subject
from probe_agent.optimizers import Recorder, rule_of, tell_of_unseen_steps
from probe_agent.outbox import Outbox, ZmqOutbox
from probe_agent.place import NOTHING, Choice, Place, done
from probe_agent.probe import Probe
from probe_agent.purse import Purse
from probe_agent.room import Respite, check_room
from probe_agent.scalars import Scalars
from probe_agent.schedule import Watch, probes_of
from probe_agent.skipped_steps import SkippedSteps
from probe_agent.steps import Count, Steps
from probe_agent.stream import Tally
from probe_agent.toll import Toll
from probe_agent.undisturbed import TURN, unseen
from probe_agent.update_rule import UpdateRule
from probe_wire import Advice, Outcome, ProbeCost, Run, Tighten


class Monitor(AbstractContextManager["Monitor"]):
    """Watches one model through one optimizer. Made by `probe_agent.attach`; usable as a context manager.

    Nothing it does raises into the training loop. A probe that fails becomes an Outcome, a log line
    once a cause, and a counter.

    Attributes:
        run: what the collector knows it by.
        subject: what is measured.
        agenda: what is due when, and what the collector wished to have more often.
        closed: whether it has stopped watching.
    """

    def __init__(
        self,
        subject: Subject,
        optimizer: torch.optim.Optimizer,
        run: Run,
        watches: Sequence[Watch],
        budget: Budget,
        open_outbox: Callable[["Monitor"], Outbox],
        place: Place,
        *,
        live: nn.Module | None = None,
        scaler: torch.amp.GradScaler | None = None,
        step: int = 0,
    ) -> None:
        self.run = run
        self.subject = subject
        self._live = live or subject.model  # what the optimizer updates, where that is not what is measured
        self._toll = Toll(next(self._live.parameters()).device)
        self._optimizer = weakref.ref(optimizer)
        self._watches = tuple(watches)
        self.agenda = Agenda(self._watches, step, earns=budget.share > 0)
        probes = probes_of(self._watches)
        halvable = not any(samples.names_places for samples in (subject.probe_set, *subject.further_sets.values()))
        self._purse = Purse(budget, self._watches, subject.probe_set.n if halvable else 0, subject.seconds)
        self._place = place
        self._complain = Complaints()
        self._respite = Respite()
        self._recorder = Recorder() if any(probe.sees_updates for probe in probes) else None
        self._scalars = Scalars()
        # Not in every version of torch can the steps be told that a scaler skipped.
        self._skipped = SkippedSteps(scaler, step) if scaler and hasattr(scaler, "_get_growth_tracker") else None
        self._advice: deque[Advice] = deque(maxlen=1000)
        self.closed = False
        self._first_step = step
        self._started = time.perf_counter()
        self._count = Count(step)
        self._tally = Tally(self._count, self._scalars)
        self._look_at(self.agenda.next)
        self._in = 0  # the thread that measures
        self._outbox = open_outbox(self)
        if isinstance(self._outbox, ZmqOutbox):
            self._outbox.tell_of(self._tally)
        # The optimizer holds the monitor from here on, so that one line attaches it; the outbox's thread
        # does not, so that a monitor whose optimizer is gone ends with it.
        self._steps = Steps(optimizer, self._record_weights, self._guarded_measure, self._count)
        # Not at interpreter exit: then the outbox itself still waits for what is queued.
        weakref.finalize(self, self._outbox.abandon).atexit = False
        weakref.finalize(self, self._place.close).atexit = False
        self._tell_of_unseen = tell_of_unseen_steps(self, self._live if watches else None, optimizer, self._count)
        if self._watches:
            try:
                self._guarded_measure()
            except BaseException:  # attach() was interrupted: nobody will ever hold this monitor to close it
                self.closed = True
                self._steps.stop()
                self._place.close()
                self._outbox.abandon()
                raise

    # -- what a training script may use -----------------------------------------------------------

    def observe(self, **scalars: float | Tensor) -> None:
        """Report numbers the loop has anyway, such as ``observe(loss=loss)``; never required."""
        if self._in == threading.get_ident():
            return  # a model that observes in its forward pass is being measured
        try:
            for name, value in scalars.items():
                self._scalars.observe(name, value)
        except BaseException as error:
            if is_interruption(error):
                raise
            self._complain("observe", f"observe() could not take its values: {said(error)}")

    @property
    def advice(self) -> list[Advice]:
        """What the collector has advised so far, oldest first."""
        self._advice.extend(self._outbox.advice())
        return list(self._advice)

    @property
    def tightened(self) -> dict[str, int]:
        """The probes that are measured more often now because a transition is suspected, and how many times as often."""
        return {probe.name: times for probe, times in self.agenda.tightened.items()}

    @property
    def snapshots_skipped(self) -> int:
        """Measurements that were due and not made."""
        return self._tally.snapshots_skipped

    @property
    def probe_seconds(self) -> float:
        """Seconds that measuring has taken from training, those of a measurement in progress included."""
        return self._toll.seconds + self._purse.charged

    @property
    def training_seconds(self) -> float:
        """Seconds since attaching that were not spent in probes."""
        return time.perf_counter() - self._started - self.probe_seconds

    def wish(self, wish: Tighten) -> None:
        """Consider a wish of the collector's at the next step, in a job of several ranks at the next that is due. For any thread."""
        if self.agenda.take(wish) and self._place.alone():
            self._look_at(self.step)

    def close(self, reason: str = "finished") -> None:
        """Stop watching and deliver what is queued, within two seconds; harmless when repeated."""
        if self.closed:
            return
        self.closed = True
        self._tell_of_unseen()
        self._steps.stop()
        self._place.close()
        self._outbox.close(reason)

    def watches(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
        """Whether it watches this model through this optimizer, and goes on to."""
        return not self.closed and self._live is model and self._optimizer() is optimizer

    def __repr__(self) -> str:
        """The run, how far it is, and whether it is watched."""
        told = f"{'closed' if self.closed else 'watching'}, step {self.step}, {self._tally.reports} reports"
        return f"<Monitor of {self.run.name!r} ({self.run.id}): {told}>"

    def __deepcopy__(self, memo: object) -> Self:
        """The monitor itself: a model that holds it may be copied, and a copy is not watched."""
        return self

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """None: a model that holds it may be saved, and sent to where nobody watches."""
        return type(None), ()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close, with the exception's name as the reason when the loop raised."""
        self.close("finished" if kind is None else f"stopped by {kind.__name__}")

    # -- at every step ----------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Optimizer steps so far."""
        return self._count.step

    def _look_at(self, step: int) -> None:
        """Measure after that step, and keep the weights before the last two that lead to it."""
        self._count.due, self._count.near = step, step - 2 if self._recorder else NEVER

    def _record_weights(self) -> None:
        """Before the last two steps that lead to a measurement, so that it can tell what they did."""
        if (recorder := self._recorder) is None or self.closed:
            return
        try:
            if capturing() or self._respite.why(self._count.due):
                recorder.forget()
                return
            with self._toll.keeping_weights(), unseen():
                check_room(2, self._live, next(self._live.parameters()).device)
                recorder.remember(self._live, self.step)
        except BaseException as error:
            recorder.forget()
            if is_interruption(error):
                raise
            self._complain("recorder", f"the weights before step {self.step + 1} were not kept: {said(error)}")

    # -- at a step that is due --------------------------------------------------------------------

    def _guarded_measure(self) -> None:
        if self.closed:
            return
        if capturing() or not TURN.acquire(blocking=False):
            # Another thread measures, and may have seeded the streams of the whole process; or a CUDA graph is being captured.
            self._tally.snapshots_skipped += 1
            self._look_at(self.step + 1)
            return
        self._in = threading.get_ident()
        try:
            with self._toll.measuring():
                self._measure_what_is_due()
        except BaseException as error:
            self._tally.snapshots_skipped += 1
            if is_interruption(error):
                raise
            self._complain("monitor", f"measuring at step {self.step} failed: {said(error)}")
        finally:
            self._look_at(self.agenda.next)
            self._in = 0
            TURN.release()

    @unseen()
    def _measure_what_is_due(self) -> None:
        agenda = self.agenda
        scheduled, wanted = agenda.scheduled(self.step), agenda.wanted(self.step)
        if not self._place.alone():
            self._toll.settle()  # what ranks agree on is read from the device
        choice = self._place.agreed(self.step, self._wish(wanted))
        if choice is NOTHING:  # nor will there be: another rank measures, and no weights need be kept here
            self._recorder, choice = None, choice._replace(halved=self._purse.portions.halved)
        for words in (*agenda.hold(choice.tight), *self._purse.portions.hold(choice.halved)):
            tell(f"step {self.step}: {words}")
        if (halved := self._purse.portions.halved) != self.subject.halved:
            self.subject = replace(self.subject, halved=halved)
        if choice.wait:
            self._tally.snapshots_skipped += scheduled
            agenda.put_off(self.step, choice.wait)
        else:
            agenda.go_on(self.step)
            if wanted:
                self._measure(choice.probes, choice.skipped, scheduled=scheduled)
        if self._recorder and agenda.next > self.step + 2:
            self._recorder.forget()

    def _wish(self, wanted: set[Probe]) -> Choice:
        """What this rank would measure now."""
        tight = self.agenda.offered(self.step)
        if self._respite.why(self.step):
            self._tally.snapshots_skipped += self.agenda.scheduled(self.step)
            return self._purse.choice_of_none(wanted, tight)
        return self._purse.choice(
            self._place,
            wanted,
            tight,
            training=self.training_seconds,
            spent=self.probe_seconds,
            steps=self.step - self._first_step,
            beside=2 * self._toll.recording,  # the weights are recorded again before the steps that are looked at next
        )

    def _measure(self, probes: Sequence[Probe], skipped: Sequence[Probe], *, scheduled: bool) -> None:
        self._toll.settle()
        loop = (*self._scalars.drain(), *(self._skipped.drain(self.step) if self._skipped else ())) if scheduled else ()
        observed = [*loop, *self.agenda.account(), *self._purse.portions.account()]
        refused = self._respite.why(self.step)
        why = Outcome.OUT_OF_MEMORY if refused else Outcome.OVER_BUDGET
        costs = tuple(ProbeCost(probe.name, 0.0, why, refused or why.sentence) for probe in skipped)
        draft = Draft(self.step, time.time(), observed, costs, losses=self._tally.losses())
        idle = skipped and not probes and self._place.alone()  # not even a snapshot is needed
        found = done([]) if idle else self._place.measure(self.subject, self.step, probes, self._rule, self._remaining)
        draft = replace(draft, training_seconds=self.training_seconds, probe_seconds=self.probe_seconds)
        if found.done():  # directly: a Future would swallow what a signal handler raises
            self._report(draft, found.result())
        else:
            found.add_done_callback(lambda ended: self._report(draft, ended.result()))
        for advice in self._outbox.advice():
            self._advice.append(advice)
            tell(f"step {self.step}: {advice.text or f'{advice.machine}: {advice.from_phase} → {advice.to_phase}'}")

    def _report(self, draft: Draft, findings: Sequence[Finding]) -> None:
        """Queue what was found; in another thread where the probes did not run in this one."""
        complaints_of(findings, draft.step, self._complain)
        refused = any(f.blame == "snapshot" and f.cost.outcome == Outcome.OUT_OF_MEMORY for f in findings)
        if refused or any(finding.cost.seconds for finding in findings):
            self._respite.note(draft.step, self.agenda.next - draft.step, refused=refused)
        self._purse.pay(finding.cost for finding in findings)
        columns = [*columns_of(findings, self._complain), *draft.columns]
        costs = (*(finding.cost for finding in findings), *draft.costs)
        self._outbox.put(replace(draft, columns=columns, costs=costs))
        self._tally.reports += 1

    def _rule(self) -> UpdateRule | None:
        optimizer, model = self._optimizer(), self._live
        updates = self._recorder.updates(model, self.step) if self._recorder else ()
        return None if optimizer is None else rule_of(optimizer, model, updates)

    def _remaining(self) -> float:
        """Seconds of the budget that are left now."""
        return self._purse.budget.allowed(self.training_seconds, self.step - self._first_step) - self.probe_seconds
