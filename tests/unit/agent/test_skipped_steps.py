"""Steps a GradScaler skips: counted from its scale, on a real one."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import probe_agent
from probe_agent import AttachError, Budget, Every, ListOutbox, Watch
from probe_agent.probes.loss import Loss
from probe_agent.skipped_steps import skips


def run(
    overflows: set[int], iterations: int, *, every: int = 1, interval: int = 2000
) -> tuple[list[tuple[int, float, float]], int]:
    """The reported counts as (step, count, error), and the steps that were taken."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=interval)
    x, y = torch.randn(8, 4), torch.randint(3, (8,))
    outbox = ListOutbox()
    monitor = probe_agent.attach(
        model,
        optimizer,
        loss_fn=F.cross_entropy,
        probe_batch=(x, y),
        run="test",
        watches=[Watch(Every(every), (Loss(),))],
        budget=Budget(share=1000),
        scaler=scaler,
        outbox=outbox,
    )
    for i in range(iterations):
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(x), y) * (float("inf") if i in overflows else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
    monitor.close()
    found = [
        (draft.step, estimate.value, estimate.stderr)
        for draft in outbox.drafts
        for _, column, estimate in draft.columns
        if column.quantity == "steps_skipped"
    ]
    return found, monitor.step


def test_skipped_steps_are_counted_and_are_no_steps() -> None:
    found, steps = run({0, 3, 4, 7}, 10)
    assert steps == 6
    # A report is made within the step, before the scaler is updated: a skip is seen at the next step that is taken.
    assert found == [(0, 0, 0), (1, 1, 0), (2, 1, 0), (3, 3, 0), (4, 3, 0), (5, 4, 0), (6, 4, 0)]


def test_a_run_without_overflow_skips_nothing_even_when_the_scale_grows() -> None:
    found, steps = run(set(), 20, interval=4)
    assert steps == 20
    assert {(count, error) for _, count, error in found} == {(0, 0)}


def test_skips_that_a_growth_may_hide_are_within_the_error_that_is_told() -> None:
    overflows = {5, 6, 14, 20}
    found, _ = run(overflows, 30, every=8, interval=4)
    step, count, error = found[-1]
    assert step == 24
    assert error > 0
    assert abs(count - 4) <= 2 * error


@pytest.mark.parametrize(
    ("ratio", "before", "after", "taken", "expected"),
    [
        (1.0, 0, 5, 5, (0, 0)),
        (0.5, 0, 2, 5, (1, 1)),
        (0.125, 7, 0, 1, (3, 3)),
        (2.0, 8, 3, 5, (0, 0)),
        (1.0, 8, 1, 5, (1, 1)),
        (1.0, 5, 2, 10, (1, 1)),
        (1.0, 0, 2, 25, (1, 2)),
    ],
)
def test_the_scale_tells_how_often_it_was_cut(
    ratio: float, before: int, after: int, taken: int, expected: tuple[int, int]
) -> None:
    assert skips(ratio, before, after, taken, growth=2.0, backoff=0.5, interval=10) == expected


def test_what_is_no_scaler_is_refused_at_the_door() -> None:
    model = nn.Linear(4, 3)
    with pytest.raises(AttachError, match=r"Got a scaler of type int; need a torch.amp.GradScaler"):
        probe_agent.attach(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            loss_fn=F.cross_entropy,
            probe_batch=(torch.randn(8, 4), torch.randint(3, (8,))),
            run="test",
            scaler=3,  # type: ignore[arg-type]
        )
