"""The monitor: counts steps, measures what is due, survives whatever a probe does."""

import copy
import gc
import logging
import math
import pickle
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import probe_agent
from probe_agent import Budget, Every, ListOutbox, Measurement, Memory, Monitor, NotApplicable, Probe, Snapshot, Watch
from probe_agent.needs import Need
from probe_agent.probes.loss import Loss
from probe_wire import Estimate, Outcome, Quantity
from tests.spending import is_kept

WEIGHT = Quantity("weight", "1", "Sum of the parameters.", "Weight")


@final
@dataclass(frozen=True)
class Weight(Probe):
    """Sums the parameters; raises at the steps it is told to."""

    name: ClassVar = "weight"
    quantities: ClassVar = (WEIGHT,)
    raising: tuple[tuple[int, Exception], ...] = ()

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        memory["calls"] = memory.get("calls", 0) + 1
        for step, error in self.raising:
            if snapshot.step == step:
                raise error
        draws = np.array([float(p.detach().sum()) for p in snapshot.params.values()])
        yield Measurement(
            quantity=WEIGHT, estimate=Estimate(float(draws.mean()), 1.0, math.nan, draws.size), draws=draws
        )


def setup(
    *probes: Probe, every: int = 1, budget: Budget | None = None, step: int = 0
) -> tuple[Monitor, ListOutbox, torch.optim.Optimizer, nn.Module]:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    outbox = ListOutbox()
    monitor = probe_agent.attach(
        model,
        optimizer,
        loss_fn=F.cross_entropy,
        probe_batch=(torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1])),
        run="test",
        watches=[Watch(Every(every), probes or (Weight(),))],
        budget=budget or Budget(share=1000),
        outbox=outbox,
        step=step,
    )
    return monitor, outbox, optimizer, model


def step(optimizer: torch.optim.Optimizer, model: nn.Module, times: int = 1) -> None:
    for _ in range(times):
        optimizer.zero_grad()
        model(torch.randn(4, 3)).sum().backward()
        optimizer.step()


def test_the_state_training_starts_from_is_measured_and_then_what_the_schedule_says() -> None:
    monitor, outbox, optimizer, model = setup(every=2)
    step(optimizer, model, 5)
    monitor.close()
    assert [d.step for d in outbox.drafts] == [0, 2, 4]
    assert outbox.closed == "finished"


def test_a_resumed_run_counts_on() -> None:
    monitor, outbox, optimizer, model = setup(every=10, step=1005)
    step(optimizer, model, 5)
    monitor.close()
    assert [d.step for d in outbox.drafts] == [1005, 1010]


def test_a_snapshot_shows_the_parameters_after_the_step() -> None:
    monitor, outbox, optimizer, model = setup()
    step(optimizer, model)
    monitor.close()
    expected = np.mean([float(p.detach().sum()) for p in model.parameters()])
    assert outbox.drafts[-1].columns[0][2].value == pytest.approx(expected)


def test_the_paired_standard_error_comes_from_the_change_between_two_snapshots() -> None:
    monitor, outbox, optimizer, model = setup()
    before = np.array([float(p.detach().sum()) for p in model.parameters()])
    step(optimizer, model)
    after = np.array([float(p.detach().sum()) for p in model.parameters()])
    monitor.close()
    assert math.isnan(outbox.drafts[0].columns[0][2].paired)
    assert outbox.drafts[1].columns[0][2].paired == pytest.approx(np.std(after - before, ddof=1) / math.sqrt(4))


@pytest.mark.parametrize(
    ("error", "outcome", "words"),
    [
        (ValueError("bad luck"), Outcome.FAILED, "ValueError: bad luck"),
        (NotApplicable("needs labels"), Outcome.NOT_APPLICABLE, "needs labels"),
        (torch.OutOfMemoryError("CUDA out of memory"), Outcome.OUT_OF_MEMORY, "OutOfMemoryError: CUDA out of memory"),
        (MemoryError(), Outcome.OUT_OF_MEMORY, "MemoryError"),
    ],
)
def test_a_failing_probe_is_an_outcome_with_a_reason_and_training_goes_on(
    error: Exception, outcome: Outcome, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    monitor, outbox, optimizer, model = setup(Weight(raising=((1, error), (2, error))))
    step(optimizer, model, 3)
    monitor.close()
    assert [d.columns[0][2].outcome for d in outbox.drafts] == [Outcome.OK, outcome, outcome, Outcome.OK]
    assert math.isnan(outbox.drafts[1].columns[0][2].value)
    cost = outbox.drafts[1].costs[0]
    assert (cost.probe, cost.outcome) == ("weight", outcome)
    assert words in cost.detail
    warned = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warned) == (0 if outcome is Outcome.NOT_APPLICABLE else 1), "one warning a cause, then only counted"


def test_ctrl_c_inside_a_probe_reaches_the_person() -> None:
    monitor, _, optimizer, model = setup(Weight(raising=((1, KeyboardInterrupt()),)))  # type: ignore[arg-type]
    stream = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        step(optimizer, model)
    del stream
    monitor.close()


def test_a_quantity_that_does_not_apply_is_no_trouble_of_its_probe() -> None:
    model = nn.Linear(3, 2)
    outbox = ListOutbox()
    probe_agent.attach(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        loss_fn=F.mse_loss,
        probe_batch=(torch.randn(6, 3), torch.randn(6, 2)),
        run="regression",
        watches=[Watch(Every(1), (Loss(),))],
        outbox=outbox,
    )
    assert outbox.drafts[0].costs[0].outcome == Outcome.OK
    assert [e.outcome for _, _, e in outbox.drafts[0].columns] == [Outcome.OK, Outcome.NOT_APPLICABLE]


def test_a_value_that_is_not_finite_says_so() -> None:
    monitor, outbox, optimizer, model = setup()
    with torch.no_grad():
        model.weight.fill_(math.inf)
    step(optimizer, model)
    monitor.close()
    assert outbox.drafts[-1].columns[0][2].outcome is Outcome.NON_FINITE


def test_a_measurement_too_dear_waits_and_is_counted() -> None:
    monitor, outbox, optimizer, model = setup(budget=Budget(share=0.0, allowance=0.0))
    step(optimizer, model, 5)
    monitor.close()
    assert len(outbox.drafts) <= 1
    assert monitor.snapshots_skipped >= 1


def test_an_optimizer_that_calls_super_step_counts_once_a_step() -> None:
    class Twice(torch.optim.SGD):
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            super().step(closure)

    model = nn.Linear(3, 2)
    optimizer = Twice(model.parameters(), lr=0.1)
    outbox = ListOutbox()
    monitor = probe_agent.attach(
        model,
        optimizer,
        loss_fn=F.cross_entropy,
        probe_batch=(torch.randn(6, 3), torch.zeros(6, dtype=torch.long)),
        run="test",
        watches=[Watch(Every(1), (Weight(),))],
        outbox=outbox,
    )
    step(optimizer, model, 3)
    assert monitor.step == 3
    monitor.close()


def test_an_exception_in_the_optimizers_step_does_not_end_the_watch() -> None:
    class Fails(torch.optim.SGD):
        fail = False

        def step(self, closure: None = None) -> None:  # type: ignore[override]
            if self.fail:
                raise RuntimeError("out of memory")
            super().step(closure)

    model = nn.Linear(3, 2)
    optimizer = Fails(model.parameters(), lr=0.1)
    monitor = probe_agent.attach(
        model,
        optimizer,
        loss_fn=F.cross_entropy,
        probe_batch=(torch.randn(6, 3), torch.zeros(6, dtype=torch.long)),
        run="test",
        watches=[],
        outbox=ListOutbox(),
    )
    step(optimizer, model)
    optimizer.fail = True
    with pytest.raises(RuntimeError):
        step(optimizer, model)
    optimizer.fail = False
    step(optimizer, model)
    assert monitor.step == 2
    monitor.close()


def test_observed_numbers_arrive_as_a_mean_with_its_standard_error() -> None:
    monitor, outbox, optimizer, model = setup(every=4)
    for i in range(4):
        monitor.observe(loss=torch.tensor(float(i), requires_grad=True), **{"learning-rate": 0.1})
        step(optimizer, model)
    monitor.close()
    columns = {c.quantity: e for _, c, e in outbox.drafts[-1].columns}
    loss = columns["observed_loss"]
    assert (loss.value, loss.n) == (1.5, 4)
    assert loss.stderr == pytest.approx(np.std([0, 1, 2, 3], ddof=1) / 2)
    assert columns["observed_learning_rate"].value == pytest.approx(0.1)


def test_observing_nonsense_does_not_raise_into_training(caplog: pytest.LogCaptureFixture) -> None:
    monitor, _, _, _ = setup()
    monitor.observe(loss="not a number")  # type: ignore[arg-type]
    monitor.observe(loss=torch.randn(3))
    monitor.close()
    assert "observe() could not take its values" in caplog.text


def test_a_value_that_cannot_be_read_costs_itself_only() -> None:
    monitor, outbox, optimizer, model = setup(every=2)
    monitor.observe(loss=torch.ones((), device="meta"), good=1.0)
    monitor.observe(bad=torch.ones(3))
    step(optimizer, model, 4)
    monitor.close()
    assert [d.step for d in outbox.drafts] == [0, 2, 4]
    assert outbox.drafts[-1].losses.scalars_dropped >= 1
    assert "observed_good" in {c.quantity for _, c, _ in outbox.drafts[1].columns}


def test_a_log_handler_that_raises_does_not_raise_out_of_the_step() -> None:
    class Raises(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError

    handler = Raises()
    logging.getLogger("probe_agent").addHandler(handler)
    try:
        monitor, outbox, optimizer, model = setup(Weight(raising=((1, ValueError("x")),)))
        step(optimizer, model, 2)
        monitor.close()
    finally:
        logging.getLogger("probe_agent").removeHandler(handler)
    assert len(outbox.drafts) == 3


def test_a_report_counts_the_measurement_it_carries_as_the_agents_time() -> None:
    monitor, outbox, _, _ = setup()
    monitor.close()
    assert outbox.drafts[0].probe_seconds >= sum(c.seconds for c in outbox.drafts[0].costs) > 0


def test_probes_beyond_the_budget_are_left_out_and_say_so() -> None:
    @final
    @dataclass(frozen=True)
    class Slow(Probe):
        name: ClassVar = "slow"
        quantities: ClassVar = (Quantity("slow", "1", "Slow.", "Slow"),)

        def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
            time.sleep(0.2)
            yield Measurement(quantity=self.quantities[0], estimate=Estimate(1.0, 0.1))

    monitor, outbox, _, _ = setup(Slow(), Weight(), budget=Budget(share=0.01, allowance=0.1))
    monitor.close()
    assert [e.outcome for _, _, e in outbox.drafts[0].columns] == [Outcome.OK, Outcome.OVER_BUDGET]


@final
@dataclass(frozen=True)
class Slowing(Probe):
    """Takes so many seconds, and from a step on ``times`` as many."""

    name: ClassVar = "slowing"
    quantities: ClassVar = (Quantity("slowing", "1", "Slowing.", "Slowing"),)
    since: int = 0
    seconds: float = 0.002
    times: int = 10

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        time.sleep(self.seconds * (self.times if snapshot.step >= self.since else 1))
        yield Measurement(quantity=self.quantities[0], estimate=Estimate(1.0, 0.1))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes while somebody sleeps, and only then."""
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize(
    ("slowing", "pause", "doubts"),
    [(Slowing(since=100), 0.001, 0), (Slowing(since=100, seconds=0.05, times=40), 0.1, 1)],
    ids=["ten times", "so much that it is doubted"],
)
def test_a_probe_that_turns_slower_is_back_under_budget_within_three_measurements(
    slowing: Slowing, pause: float, doubts: int
) -> None:
    budget = Budget(share=0.2, allowance=0.0)
    monitor, outbox, optimizer, model = setup(slowing, budget=budget)
    for _ in range(800):
        time.sleep(pause)
        step(optimizer, model)
    monitor.close()
    first = next(i for i, d in enumerate(outbox.drafts) if d.step >= 100)
    shares = [d.probe_seconds / d.training_seconds for d in outbox.drafts[1:]]
    steps = [d.step for d in outbox.drafts]
    back = first + 1 + doubts
    assert len(shares) > back + 1, "it is measured on, more seldom"
    assert max(shares[back - 1 :]) < 1.0001 * budget.share
    assert steps[back] - steps[back - 1] > 2 * (steps[first - 1] - steps[first - 2])


@final
@dataclass(frozen=True)
class Looking(Probe):
    """Asks for the last two updates, which cost a copy of the weights each."""

    name: ClassVar = "looking"
    quantities: ClassVar = (Quantity("updates_seen", "1", "Updates.", "Updates"),)
    uses: ClassVar = frozenset({Need.UPDATES})

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        seen = len(snapshot.rule.updates) if snapshot.rule else 0
        yield Measurement(quantity=self.quantities[0], estimate=Estimate(seen, 0.0))


def test_recording_the_last_updates_does_not_eat_up_what_the_measurement_saves() -> None:
    model = nn.Sequential(nn.Linear(3, 2000), nn.Linear(2000, 1000), nn.Linear(1000, 2))  # 8 MB a copy
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    outbox = ListOutbox()
    monitor = probe_agent.attach(
        model,
        optimizer,
        loss_fn=F.cross_entropy,
        probe_batch=(torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1])),
        run="test",
        watches=[Watch(Every(1), (Looking(),))],
        budget=Budget(share=0.4, allowance=0.0),
        outbox=outbox,
    )
    for _ in range(1500):  # so that a busy machine measures often enough as well
        time.sleep(0.001)
        optimizer.step()
    monitor.close()
    assert len(outbox.drafts) > 3
    assert [draft.columns[0][2].value for draft in outbox.drafts[2:]] == [2.0] * (len(outbox.drafts) - 2)
    assert is_kept(0.6, outbox.drafts, after=outbox.drafts[-2].step)


@pytest.mark.usefixtures("clock")
def test_what_a_budget_leaves_out_is_in_the_report_as_a_cost_without_points() -> None:
    monitor, outbox, optimizer, model = setup(Slowing(since=0), Weight(), budget=Budget(share=0.0, allowance=0.039))
    step(optimizer, model)
    monitor.close()
    assert [d.step for d in outbox.drafts] == [0, 1]
    assert [c.quantity for _, c, _ in outbox.drafts[1].columns] == ["weight"]
    assert [(c.probe, c.outcome) for c in outbox.drafts[1].costs] == [
        ("weight", Outcome.OK),
        ("slowing", Outcome.OVER_BUDGET),
    ]


def test_observed_names_have_a_cap_and_what_is_beyond_is_counted() -> None:
    monitor, outbox, optimizer, model = setup()
    monitor.observe(**{f"x{i}": 1.0 for i in range(60)})
    step(optimizer, model)
    monitor.close()
    assert outbox.drafts[-1].losses.scalars_dropped == 10


def test_two_names_that_would_be_one_series_do_not_mix() -> None:
    monitor, outbox, optimizer, model = setup()
    monitor.observe(**{"a-b": 1.0, "a_b": 5.0})
    step(optimizer, model)
    monitor.close()
    last = outbox.drafts[-1]
    assert [(c.quantity, e.value) for _, c, e in last.columns if c.quantity.startswith("observed")] == [
        ("observed_a_b", 1.0)
    ]
    assert last.losses.scalars_dropped == 1


def test_a_series_measured_twice_in_one_step_has_one_point(caplog: pytest.LogCaptureFixture) -> None:
    @final
    @dataclass(frozen=True)
    class Double(Probe):
        name: ClassVar = "double"
        quantities: ClassVar = (WEIGHT,)

        def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
            yield Measurement(quantity=WEIGHT, estimate=Estimate(1.0, 0.1))
            yield Measurement(quantity=WEIGHT, estimate=Estimate(2.0, 0.1))

    monitor, outbox, _, _ = setup(Double())
    monitor.close()
    assert [e.value for _, _, e in outbox.drafts[0].columns] == [1.0]
    assert "was measured twice in one step" in caplog.text


def test_closing_takes_the_hooks_away_and_may_be_repeated() -> None:
    monitor, outbox, optimizer, model = setup()
    monitor.close()
    monitor.close()
    step(optimizer, model)
    assert len(outbox.drafts) == 1
    assert not optimizer._optimizer_step_post_hooks
    assert not optimizer._optimizer_step_pre_hooks


def test_as_a_context_manager_it_closes_with_the_name_of_what_stopped_the_loop() -> None:
    monitor, outbox, _, _ = setup()
    with pytest.raises(ZeroDivisionError), monitor:
        raise ZeroDivisionError
    assert outbox.closed == "stopped by ZeroDivisionError"


def test_one_line_attaches_even_when_the_monitor_is_not_kept() -> None:
    _, outbox, optimizer, model = setup()
    gc.collect()
    step(optimizer, model)
    assert len(outbox.drafts) == 2


def test_a_monitor_goes_with_its_optimizer() -> None:
    monitor, _, optimizer, _ = setup()
    gone = weakref.ref(monitor)
    del monitor, optimizer
    gc.collect()
    assert gone() is None


def test_a_watched_optimizer_can_still_be_pickled_and_copied() -> None:
    monitor, _, optimizer, _ = setup()
    assert pickle.loads(pickle.dumps(optimizer)).param_groups  # noqa: S301 - our own bytes
    assert copy.deepcopy(optimizer).param_groups
    monitor.close()


def test_two_monitors_on_two_optimizers_count_their_own_steps() -> None:
    first, _, optimizer_a, model_a = setup()
    second, _, optimizer_b, model_b = setup()
    step(optimizer_a, model_a, 2)
    step(optimizer_b, model_b, 3)
    assert (first.step, second.step) == (2, 3)
    first.close()
    second.close()


class Watched(nn.Linear):
    """A model that keeps its monitor, and tells it of every forward pass."""

    monitor: Monitor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.monitor is not None:
            self.monitor.observe(passes=1.0)
        return super().forward(x)


def test_a_model_that_holds_its_monitor_is_watched_copied_and_saved_as_any_other() -> None:
    model, outbox = Watched(3, 2), ListOutbox()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.monitor = probe_agent.attach(
        model,
        optimizer,
        loss_fn=F.cross_entropy,
        probe_batch=(torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1])),
        run="test",
        watches=[Watch(Every(1), (Loss(),))],
        budget=Budget(share=1000),
        outbox=outbox,
    )
    step(optimizer, model, 3)
    assert [cost.outcome for draft in outbox.drafts for cost in draft.costs] == [Outcome.OK] * 4
    passes = [e.n for draft in outbox.drafts for _, c, e in draft.columns if c.quantity == "observed_passes"]
    assert passes == [1, 1, 1], "those of training, and none of the probes'"
    assert copy.deepcopy(model).monitor is model.monitor
    torch.optim.swa_utils.AveragedModel(model)
    assert pickle.loads(pickle.dumps(model)).monitor is None  # noqa: S301
    model.monitor.close()


def test_a_second_monitor_of_one_optimizer_is_told_of_and_one_that_was_closed_is_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def attach(optimizer: torch.optim.Optimizer, model: nn.Module) -> Monitor:
        batch = torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1])
        settings = {"run": "test", "watches": [Watch(Every(1), (Loss(),))], "outbox": ListOutbox()}
        return probe_agent.attach(model, optimizer, loss_fn=F.cross_entropy, probe_batch=batch, **settings)  # type: ignore[arg-type]

    first, _, optimizer, model = setup(Loss())
    with caplog.at_level(logging.WARNING, "probe_agent"):
        second = attach(optimizer, model)
        assert "this optimizer is watched already" in caplog.text
        first.close()
        second.close()
        caplog.clear()
        attach(optimizer, model).close()
    assert caplog.text == ""
