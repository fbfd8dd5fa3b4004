"""What the tests of frameworks share: what a training leaves behind, and what was measured of it."""

import random
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import probe_agent
from probe_agent import Every, ListOutbox, Watch
from probe_agent.probes.fisher_trace import FisherTrace
from probe_agent.probes.loss import Loss

WATCHES = (Watch(Every(2), (FisherTrace(per_layer=False), Loss())),)


def seed_all() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the stream that training code shares
    torch.manual_seed(0)


def left_behind(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Any]:
    """Every number a training has changed: weights, buffers, optimizer state, and where the random streams are."""
    states = [state for group in optimizer.param_groups for p in group["params"] for state in _state(optimizer, p)]
    numbers = [*model.state_dict().values(), *states, torch.get_rng_state()]
    return [*(t.detach().clone() for t in numbers), random.getstate(), np.random.get_state()[1].tolist()]  # noqa: NPY002


def _state(optimizer: torch.optim.Optimizer, p: Tensor) -> list[Tensor]:
    return [value for value in optimizer.state.get(p, {}).values() if isinstance(value, Tensor)]


def same(ours: list[Any], theirs: list[Any]) -> bool:
    """Bit for bit."""
    return len(ours) == len(theirs) and all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(ours, theirs, strict=True)
    )


def values(outbox: ListOutbox, quantity: str = "fisher_trace") -> dict[int, float]:
    """The values of the whole network's series, by step; only those that came out well."""
    return {
        draft.step: estimate.value
        for draft in outbox.drafts
        for found, column, estimate in draft.columns
        if found.name == quantity and not column.labels and estimate.outcome.label == "ok"
    }


def run_example(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run one of the examples here, where importing torch is paid for; no collector listens."""
    examples = Path(__file__).parents[1] / "examples"
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.syspath_prepend(str(examples))
    monkeypatch.setenv("PHASEWATCH_COLLECTOR", "tcp://127.0.0.1:1")
    runpy.run_path(str(examples / name), run_name="__main__")


def measured_plainly(model: nn.Module, loss_fn: Any, batch: Any) -> float:
    """The Fisher trace that a plain attach measures of the model as it is."""
    outbox = ListOutbox()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with probe_agent.attach(
        model, optimizer, loss_fn=loss_fn, probe_batch=batch, run="plain", watches=WATCHES, outbox=outbox
    ):
        return values(outbox)[0]
