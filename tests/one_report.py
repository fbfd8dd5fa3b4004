"""What tests of odd jobs and odd losses begin with: a small classifier, its data, and the report of one measurement."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import probe_agent
from probe_agent import Budget, Every, ListOutbox, Probe, Watch

SEED = 5
CPU = torch.device("cpu")
LossFn = Callable[[Any, Tensor], Tensor]
X = torch.randn(24, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.randint(3, (24,), generator=torch.Generator().manual_seed(2))


def classifier() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def made(model: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return model().double()


def measured(model: nn.Module, loss: LossFn, targets: Tensor, *probes: Probe) -> tuple[dict[str, Any], dict[str, Any]]:
    """The estimates of one report by quantity, and the costs by probe."""
    outbox = ListOutbox()
    probe_agent.attach(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        loss_fn=loss,
        probe_batch=(X, targets),
        run="test",
        seed=SEED,
        watches=[Watch(Every(1), probes)],
        budget=Budget(share=1000),
        outbox=outbox,
    ).close()
    (draft,) = outbox.drafts
    return {c.quantity: e for _, c, e in draft.columns if not c.labels}, {cost.probe: cost for cost in draft.costs}
