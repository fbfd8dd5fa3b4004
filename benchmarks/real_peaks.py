"""How late the end of a critical period is known on real training: small networks on scikit-learn's digits.

    python benchmarks/real_peaks.py [--steps 3000]

Each job trains with a Fisher trace every ten steps from the fixed probe batch, labels exact or sampled, and the shipped
machine judges it as it comes. The truth is read off the whole curve afterwards: the peak of its mean over nine
probes, and T from a tenth of the rise to there. It writes benchmarks/results/real_peaks.md.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import Tensor, nn

import probe_agent
from collector.phases import MACHINES, PhaseEngine
from probe_agent import Budget, Every, ListOutbox, Watch
from probe_agent.probes.fisher_trace import FisherTrace
from probe_wire import Outcome

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from digits import batches, digits, network

RESULTS = Path(__file__).parent / "results"
MACHINE = next(machine for machine in MACHINES if machine.name == "critical_period")
ENDED = "after_critical_period"
EVERY = 10
SMOOTHED = 9
"""Probes in the mean whose largest value is the peak."""
PROBED = 256
"""Inputs of the probe batch."""
Labels = Literal["exact", "sampled"]


@dataclass(frozen=True, slots=True)
class Job:
    """A way to train; ``wrong`` is the share of training labels replaced by random ones."""

    name: str
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD
    rate: float = 0.02
    batch: int = 32
    convolutions: bool = False
    wrong: float = 0.0
    seed: int = 0


JOBS = (
    *(Job("SGD .02", seed=seed) for seed in (1, 2, 3)),
    Job("SGD .05", rate=0.05, seed=4),
    Job("SGD .01", rate=0.01, seed=5),
    Job("SGD .02, batches of 64", batch=64, seed=6),
    Job("Adam .001", torch.optim.Adam, 0.001, seed=7),
    Job("CNN, SGD .05", rate=0.05, convolutions=True, seed=8),
    Job("SGD .02, 40 % wrong labels", wrong=0.4, seed=9),
)


def cnn() -> nn.Module:
    """Two convolutions and a linear layer on 8×8 digits."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


@dataclass(frozen=True, slots=True)
class Curve:
    """The traces, their steps, and when each state of the claim "the period has ended" was told."""

    steps: np.ndarray
    values: np.ndarray
    told: dict[str, int]


def watched(job: Job, labels: Labels, steps: int) -> Curve:
    """Train, and judge the traces as they come."""
    torch.manual_seed(job.seed)
    (x, y), _ = digits()
    y = torch.where(torch.rand(len(y)) < job.wrong, torch.randint(0, 10, y.shape), y)
    model = cnn() if job.convolutions else network()
    optimizer = job.optimizer(model.parameters(), lr=job.rate)
    outbox = ListOutbox()
    monitor = probe_agent.attach(
        model,
        optimizer,
        loss_fn=F.cross_entropy,
        probe_batch=(x[:PROBED], y[:PROBED]),
        run="real_peaks",
        watches=[Watch(Every(EVERY), (FisherTrace(labels=labels, per_layer=False),))],
        outbox=outbox,
        budget=Budget(share=1000),
    )
    for _, (inputs, targets) in zip(range(steps), batches(x, y, job.batch), strict=False):
        _stepped(model, optimizer, inputs, targets)
    monitor.close()
    return _judged(outbox)


def _stepped(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> None:
    loss = F.cross_entropy(model(inputs), targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _judged(outbox: ListOutbox) -> Curve:
    engine = PhaseEngine((MACHINE,))
    found: list[tuple[int, float]] = []
    told: dict[str, int] = {}
    for draft in outbox.drafts:
        measured = [(column, estimate) for _, column, estimate in draft.columns]
        found += [
            (draft.step, estimate.value)
            for column, estimate in measured
            if column.quantity == MACHINE.quantity and not column.labels and estimate.outcome is Outcome.OK
        ]
        for transition in engine.update(draft.step, measured, 0):
            if transition.to_phase == ENDED:
                told.setdefault(transition.state, draft.step)
    steps, values = zip(*found, strict=True)
    return Curve(np.array(steps), np.array(values), told)


def row(job: Job, labels: Labels, curve: Curve) -> str:
    """A line of the table."""
    smooth = np.convolve(curve.values, np.ones(SMOOTHED) / SMOOTHED, "valid")
    at = int(smooth.argmax()) + SMOOTHED // 2
    tenth = curve.values[0] + 0.1 * (curve.values[at] - curve.values[0])
    begun = int(np.argmax(curve.values > tenth))
    rise = float(curve.steps[at] - curve.steps[begun])
    late = (
        f"{curve.told[state]} ({(curve.told[state] - curve.steps[at]) / rise:.2f} T)" if state in curve.told else "–"
        for state in ("suspected", "detected", "confirmed", "retracted")
    )
    end = 1.0 - smooth[-1] / smooth.max()
    return " | ".join(("", job.name, labels, f"{curve.steps[at]}", f"{rise:g}", f"{end:.0%}", *late, "")).strip()


def rows(steps: int) -> Iterator[str]:
    """All lines, each printed as soon as it is known."""
    for job in JOBS:
        for labels in get_args(Labels):
            line = row(job, labels, watched(job, labels, steps))
            print(line, flush=True)
            yield line


def main() -> None:
    """Train, print and write."""
    parser = argparse.ArgumentParser(description="How late the end of a critical period is known on real training.")
    parser.add_argument("--steps", type=int, default=3000, help="steps of each job")
    given = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    lines = list(rows(given.steps))
    text = f"""# When the end of a critical period is known, on real training

`benchmarks/real_peaks.py`, {datetime.now(UTC).date().isoformat()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}, {time.perf_counter() - began:.0f} s.

scikit-learn's digits, {given.steps} steps, the trace of the Fisher information of {PROBED} fixed inputs every {EVERY} steps, its labels
exact or drawn with common random numbers. The peak is that of the mean of {SMOOTHED} probes, seen afterwards; T is from a tenth of
the rise to there; *fallen* is how far the mean lies below the peak at the last step. A claim is told with its step and, in brackets, how
late that is; one before the peak is early.

| job | labels | peak | T | fallen | suspected | detected | confirmed | taken back |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""
    (RESULTS / "real_peaks.md").write_text(text + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
