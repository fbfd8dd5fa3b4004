"""Whatever is trained, and however: watching changes no bit of it, and nothing of ours fails."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import probe_agent
from probe_agent import Budget, Every, ListOutbox
from probe_agent import Watch as Watched
from probe_agent.witness import conditions, state, streams
from probe_wire import Outcome
from tests.problems import EVERY_PROBE
from tests.training_jobs import JOBS, STEPS, Job


def trained(job: Job, *, watched: bool) -> tuple[list[dict[str, str]], list[ListOutbox]]:
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
                    watches=[Watched(Every(2), EVERY_PROBE)],
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
