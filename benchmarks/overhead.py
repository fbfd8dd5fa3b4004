"""What watching costs: steps with and without the agent, alternating in one process.

    python benchmarks/overhead.py        # prints, and writes benchmarks/results/overhead.json

*Idle* is the optimizer's step with a monitor attached and nothing due, against the same step
without one. *Share* is the agent's part of the wall time of a whole run at the default settings
(the first 20 seconds of measuring are free, then 2 % of training; see `probe_agent.Budget`).
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import probe_agent
from probe_agent import Budget, Every, ListOutbox, Watch
from probe_agent.presets import standard

RESULTS = Path(__file__).parent / "results" / "overhead.json"
NEVER = 10**12


def main() -> None:
    """Measure, print and write."""
    torch.set_num_threads(1)
    results = {
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "torch": version("torch"),
            "threads": torch.get_num_threads(),
        },
        "idle_microseconds_per_step": idle(),
        "seconds_per_probe": probes(),
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    json.dump(results, sys.stdout, indent=2)
    print()


def idle(rounds: int = 41, steps: int = 2000) -> dict[str, float]:
    """Median over rounds of the time one optimizer step takes with and without an idle monitor, interleaved."""
    timed: dict[str, list[float]] = {"without": [], "with": []}
    arms = {"without": _stepper(attached=False), "with": _stepper(attached=True)}
    for _ in range(rounds):
        for name, step in arms.items():
            began = time.perf_counter()
            for _ in range(steps):
                step()
            timed[name].append((time.perf_counter() - began) / steps * 1e6)
    without, with_monitor = (statistics.median(timed[name]) for name in ("without", "with"))
    differences = [b - a for a, b in zip(timed["without"], timed["with"], strict=True)]
    return {
        "step_without": round(without, 3),
        "step_with_idle_monitor": round(with_monitor, 3),
        "added_median_of_pairs": round(statistics.median(differences), 3),
    }


def _stepper(*, attached: bool) -> Callable[[], object]:
    model = nn.Linear(8, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    x, y = torch.randn(16, 8), torch.randint(0, 2, (16,))
    F.cross_entropy(model(x), y).backward()
    if attached:
        probe_agent.attach(
            model,
            optimizer,
            loss_fn=F.cross_entropy,
            probe_batch=(x, y),
            run="idle",
            watches=[Watch(Every(NEVER), standard()[0].probes)],
            outbox=ListOutbox(),
        )
    return optimizer.step


def probes(snapshots: int = 15) -> dict[str, dict[str, float]]:
    """Median seconds of each probe, and of one training step of batch 128 beside them, by network."""
    found = {}
    for name, (model, x, y) in {
        "MLP 64-128-128-10, 256 inputs": (
            nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)),
            torch.randn(256, 64),
            torch.randint(0, 10, (256,)),
        ),
        "conv net with batch norm, 28×28, 128 inputs": (
            nn.Sequential(
                nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(),
                nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
            ),
            torch.randn(128, 1, 28, 28),
            torch.randint(0, 10, (128,)),
        ),
    }.items():  # fmt: skip
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        outbox = ListOutbox()
        monitor = probe_agent.attach(
            model,
            optimizer,
            loss_fn=F.cross_entropy,
            probe_batch=(x, y),
            run="cost",
            watches=[Watch(Every(5), standard()[0].probes)],
            budget=Budget(share=1000),
            outbox=outbox,
        )
        training = []
        for _ in range(5 * snapshots):
            began, measured = time.perf_counter(), monitor.probe_seconds
            loss = F.cross_entropy(model(x[:128]), y[:128])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            training.append(time.perf_counter() - began - (monitor.probe_seconds - measured))
        monitor.close()
        costs: dict[str, list[float]] = {}
        for draft in outbox.drafts:
            for cost in draft.costs:
                costs.setdefault(cost.probe, []).append(cost.seconds)
        found[name] = {"training step of batch 128": round(statistics.median(training), 6)} | {
            probe: round(statistics.median(seconds), 6) for probe, seconds in costs.items()
        }
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


if __name__ == "__main__":
    main()
