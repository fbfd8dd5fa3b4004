"""A monitor that is asked to measure more often for a while: what becomes denser, what stays, and what it may cost."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, final

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import probe_agent
from probe_agent import Budget, Every, ListOutbox, Measurement, Memory, Monitor, Probe, Snapshot, Watch
from probe_agent.agenda import MOST_WISHES, Agenda, Answer
from probe_agent.budget import Claim, affordable
from probe_agent.probes.fisher_trace import FisherTrace
from probe_agent.probes.loss import Loss
from probe_wire import Estimate, Quantity, Tighten
from tests.spending import is_kept


@final
@dataclass(frozen=True)
class Slow(Probe):
    """Takes its time."""

    name: ClassVar = "slow"
    quantities: ClassVar = (Quantity("slow", "1", "Slow.", "Slow"),)

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        time.sleep(0.003)
        yield Measurement(quantity=self.quantities[0], estimate=Estimate(1.0, 0.1))


class Job:
    """A small training job with its monitor; ``observe`` a number at every step."""

    def __init__(self, *watches: Watch, **settings: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.x, self.y = torch.randn(32, 4), torch.randint(3, (32,))
        self.outbox = ListOutbox()
        self.monitor: Monitor = probe_agent.attach(
            self.model,
            self.optimizer,
            loss_fn=F.cross_entropy,
            probe_batch=(self.x, self.y),
            run="tightened",
            watches=watches,
            outbox=self.outbox,
            **{"budget": Budget(share=1000)} | settings,
        )

    def train(self, until: int, pause: float = 0.0) -> None:
        while self.monitor.step < until:
            if pause:
                time.sleep(pause)
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(self.x), self.y).backward()
            self.monitor.observe(number=self.monitor.step)
            self.optimizer.step()

    def wish(self, quantity: str, until: int, times: int = 4, **settings: Any) -> None:
        self.monitor.wish(Tighten(quantity, until, times, **settings))

    def steps_of(self, quantity: str) -> list[int]:
        return [d.step for d in self.outbox.drafts if any(c.quantity == quantity for _, c, _ in d.columns)]


def test_the_series_is_denser_while_the_wish_holds_and_all_others_stay_what_they_are() -> None:
    job = Job(Watch(Every(20), (Loss(), FisherTrace())))
    job.train(30)
    job.wish("fisher_trace", until=100)
    job.train(70)
    assert job.monitor.tightened == {"fisher_trace": 4}
    job.train(160)
    job.monitor.close()
    assert job.steps_of("fisher_trace") == [0, 20, *range(35, 101, 5), 120, 140, 160]
    assert job.steps_of("probe_loss") == list(range(0, 161, 20))
    assert job.steps_of("observed_number") == list(range(20, 161, 20))
    assert job.monitor.tightened == {}
    assert job.monitor.snapshots_skipped == 0


def test_the_paired_error_is_always_that_of_the_change_since_the_measurement_before() -> None:
    def draws(job: Job) -> np.ndarray[Any, Any]:
        with torch.no_grad():
            return F.cross_entropy(job.model(job.x), job.y, reduction="none").double().numpy()

    job = Job(Watch(Every(8), (Loss(),)))
    found = {0: draws(job)}
    job.wish("probe_loss", until=24, times=2)
    for step in range(1, 49):
        job.train(step)
        found[step] = draws(job)
    job.monitor.close()
    steps = job.steps_of("probe_loss")
    assert steps == [0, 4, 8, 12, 16, 20, 24, 32, 40, 48]
    paired = {
        draft.step: next(estimate.paired for _, column, estimate in draft.columns if column.quantity == "probe_loss")
        for draft in job.outbox.drafts
    }
    for before, now in pairwise(steps):
        expected = np.std(found[now] - found[before], ddof=1) / math.sqrt(2 * len(job.x))
        assert paired[now] == pytest.approx(expected, rel=1e-4)


def test_a_value_is_the_same_whether_or_not_there_are_measurements_between() -> None:
    plain, tightened = (Job(Watch(Every(10), (Loss(), FisherTrace(labels="sampled")))) for _ in range(2))
    tightened.wish("fisher_trace", until=1000, times=5)
    for job in (plain, tightened):
        job.train(40)
        job.monitor.close()

    def values(job: Job) -> dict[int, list[float]]:
        return {
            d.step: [e.value for _, c, e in d.columns if c.quantity.startswith("fisher_trace")]
            for d in job.outbox.drafts
            if d.step % 10 == 0
        }

    assert values(plain) == values(tightened)
    assert len(tightened.outbox.drafts) == 5 * 4 + 1


def test_a_budget_is_kept_whatever_is_wished() -> None:
    budget = Budget(share=0.2, allowance=0.0)
    job = Job(Watch(Every(20), (Slow(),)), budget=budget)
    job.train(100, pause=0.001)
    job.wish("slow", until=10**6, times=16)  # at every step or at every other: more than there is
    for until in range(500, 5000, 100):  # on a busy machine each takes as long as many steps
        job.train(until, pause=0.001)
        if len(late := [draft for draft in job.outbox.drafts if draft.step > 100]) > 3:
            break
    job.monitor.close()
    assert job.monitor.tightened == {"slow": 16}
    assert len(late) > 3
    assert is_kept(budget.share, job.outbox.drafts, after=100)  # everything wished for takes ten times as much


def test_within_the_budget_a_tightened_probe_comes_first_and_the_others_have_their_turn_afterwards() -> None:
    """Simulated: a second of training a step, 10 % for two probes of 1 s that are scheduled at every tenth step."""
    first, other = Loss(), FisherTrace()
    agenda = Agenda([Watch(Every(10), (first, other))], 0)
    budget, had, steps = Budget(share=0.1, allowance=0.0), {first: 0.0, other: 0.0}, dict[Probe, list[int]]()
    agenda.wishes.append(Tighten("probe_loss", 3000, times=8))
    while (step := agenda.next) < 9000:
        tight, wanted = agenda.offered(step), agenda.wanted(step)
        agenda.hold(tight)
        urgent = {probe for probe, _, _ in tight}
        allowed = budget.allowed(step, step)
        claims = [Claim(1.0, had[probe], probe in wanted, probe in urgent) for probe in had]
        chosen, missing, *_ = affordable(claims, allowed - sum(had.values()), allowed)
        if not chosen:
            agenda.put_off(step, budget.steps_to_wait(missing, training=max(step, 1), steps=max(step, 1)))
            continue
        agenda.go_on(step)
        for probe in [list(had)[i] for i in chosen]:
            had[probe] += 1.0
            steps.setdefault(probe, []).append(step)
        assert sum(had.values()) <= budget.allowed(step, step)

    def counts(since: int, until: int) -> list[int]:
        return [sum(since < step <= until for step in steps[probe]) for probe in (first, other)]

    loss, fisher = counts(0, 3000)
    assert loss > 0.9 * 300
    assert fisher < 0.1 * 300
    assert counts(3000, 5800)[0] < counts(3000, 5800)[1], "what was given up is made good"
    assert sum(counts(0, 9000)) > 0.9 * 900


def test_what_a_budget_cannot_pay_for_between_two_scheduled_steps_is_no_loss() -> None:
    job = Job(Watch(Every(100), (Loss(),)))
    job.wish("probe_loss", until=10**6)
    job.train(110)
    job.monitor._purse.budget = Budget(share=0.0, allowance=0.0)
    job.train(199)
    assert [draft.step for draft in job.outbox.drafts] == [0, 25, 50, 75, 100]
    assert job.monitor.snapshots_skipped == 0
    job.train(200)
    assert job.monitor.snapshots_skipped == 1
    job.monitor.close()


def test_a_flood_of_wishes_interrupts_training_once_between_two_scheduled_steps() -> None:
    job = Job(Watch(Every(200), (Loss(),)))
    for step in range(1, 200):
        job.wish("no_such_quantity", until=10**6)
        job.train(step)
    assert job.monitor.agenda.answers == {Answer.NO_PROBE: 1}
    job.train(200)
    assert job.monitor.agenda.answers == {Answer.NO_PROBE: 1 + MOST_WISHES}
    assert [draft.step for draft in job.outbox.drafts] == [0, 200]
    job.monitor.close()


def test_an_urgent_claim_is_paid_first_also_from_what_others_have_saved() -> None:
    claims = [Claim(2.0, had=9.0, urgent=True), Claim(2.0, had=1.0), Claim(10.0, had=0.0, due=False)]
    chosen, missing, *_ = affordable(claims, left=4.0, allowed=24.0)
    assert (chosen, missing) == ([0], 8.0)
    assert affordable([claims[0]._replace(urgent=False), *claims[1:]], left=4.0, allowed=24.0)[0] == []


def test_a_job_in_which_nothing_is_earned_refuses_and_says_so() -> None:
    job = Job(Watch(Every(10), (Loss(),)), budget=Budget(share=0.0, allowance=100.0))
    job.wish("probe_loss", until=100)
    job.train(30)
    job.monitor.close()
    assert job.steps_of("probe_loss") == [0, 10, 20, 30]
    answers = {
        c.labels["answer"]: e.value for _, c, e in job.outbox.drafts[-1].columns if c.quantity == "tighten_wishes"
    }
    assert answers == {Answer.NO_BUDGET.value: 1}
