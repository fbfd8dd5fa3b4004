"""Whatever is trained, and however: watching changes no bit of it, and nothing of ours fails."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import probe_agent
from probe_agent import Budget, Every, ListOutbox, Measurement, Memory, Probe, Snapshot
from probe_agent import Watch as Watched
from probe_agent.witness import conditions, state, streams
from probe_wire import Estimate, Outcome, Quantity
from tests.problems import EVERY_PROBE
from tests.training_jobs import JOBS, STEPS, Job, Watch, plain


def trained(
    job: Job, *, watched: bool, probes: Sequence[Probe] = EVERY_PROBE
) -> tuple[list[dict[str, str]], list[ListOutbox]]:
    """What training was made of before each step of each optimizer, and what was measured."""
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    told: list[dict[str, str]] = []
    outboxes: list[ListOutbox] = []
    monitors = []

    def watch(
        model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn: object, batch: tuple[object, Tensor]
    ) -> None:
        def note(*_: object) -> None:
            told.append(
                dict(conditions(model, optimizer)) | dict(streams()) | dict(state(model, optimizer)),
            )

        optimizer.register_step_pre_hook(note)
        if watched:
            outboxes.append(ListOutbox())
            monitors.append(
                probe_agent.attach(
                    model,
                    optimizer,
                    loss_fn=loss_fn,  # type: ignore[arg-type]
                    probe_batch=batch,  # type: ignore[arg-type]
                    run="job",
                    watches=[Watched(Every(2), probes)],
                    budget=Budget(share=1000),
                    outbox=outboxes[-1],
                )
            )

    job(watch)
    for monitor in monitors:
        monitor.close()
    return told, outboxes


@pytest.mark.parametrize("name", JOBS)
def test_a_watched_job_is_bit_by_bit_what_it_is_unwatched(name: str) -> None:
    without, _ = trained(JOBS[name], watched=False)
    again, _ = trained(JOBS[name], watched=False)
    assert without == again, "the job repeats itself, or it could prove nothing"
    watched, outboxes = trained(JOBS[name], watched=True)
    for step, (one, other) in enumerate(zip(without, watched, strict=True)):
        assert [fact for fact in {**one, **other} if one.get(fact) != other.get(fact)] == [], f"step {step}"
    for outbox in outboxes:
        assert outbox.drafts[-1].step >= (STEPS - 1) // 2
        failed = {
            (cost.probe, cost.detail)
            for draft in outbox.drafts
            for cost in draft.costs
            if Outcome(cost.outcome) in (Outcome.FAILED, Outcome.OUT_OF_MEMORY, Outcome.OVER_BUDGET)
        }
        assert failed == set()


@final
@dataclass(frozen=True)
class Bad(Probe):
    """Reaches past its snapshot for what is trained."""

    name: ClassVar = "bad"
    quantities: ClassVar = (Quantity("badness", "1", "Of a bad probe.", "Badness"),)
    does: Callable[[], object]

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        self.does()
        yield Measurement(quantity=self.quantities[0], estimate=Estimate(1.0, 0.0))


def probed(does: Callable[[nn.Module, torch.optim.Optimizer], object]) -> list[str]:
    """The facts of the first step that are others where a probe does so."""

    bad: list[Probe] = []

    def job(watch: Watch) -> None:
        x, y = torch.randn(12, 4), torch.randint(3, (12,))
        model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 3))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        bad[:] = [Bad(lambda: does(model, optimizer))]
        plain(model, optimizer, watch, x, y)

    (without, *_), _ = trained(job, watched=False)
    (watched, *_), _ = trained(job, watched=True, probes=bad)
    return [fact for fact in {**without, **watched} if without.get(fact) != watched.get(fact)]


@pytest.mark.parametrize(
    ("does", "fact"),
    [
        (lambda model, _: model[0].weight.data.mul_(1 + 1e-7), "parameter 0.weight"),
        (lambda model, _: model.eval(), "mode of the model"),
        (lambda _, optimizer: optimizer.param_groups[0].update(lr=2e-3), "optimizer setting lr of group 0"),
    ],
)
def test_what_a_probe_does_to_training_is_noticed(
    does: Callable[[nn.Module, torch.optim.Optimizer], object], fact: str
) -> None:
    assert probed(lambda *_: None) == []
    assert fact in probed(does)
