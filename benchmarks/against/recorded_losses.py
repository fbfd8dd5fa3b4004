"""Recorded losses: how often detectors of spikes call in pre-training runs that were healthy to their end.

Logs are not shipped. Those of KellerJordan/modded-nanogpt (MIT; ``records/track_1_short``, one run of each record) hold a
loss for every step of some twenty runs, AdamW to Muon, 124 M to 1.5 B parameters.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from curves.curve import Curve
from curves.score import LEVELS, REACHED, poisson
from curves.tables import Grid, interval_text

from against.detectors import OURS, available

LOSS = re.compile(r"^(?:step:|s:)(\d+)(?:/\d+)? (?:train_loss|trl):(\d+\.\d+)", re.MULTILINE)
LEAST_STEPS = 1000
"""Logs with fewer losses hold one for every hundredth step or so, or a comparison that was stopped."""


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls of a detector at a level of certainty in all logs together."""

    detector: str
    level: str
    runs: int
    steps: int
    calls: int

    @property
    def per_thousand(self) -> tuple[float, float, float]:
        """Calls in 1000 steps, with the ends of the 95 % interval."""
        return poisson(self.calls, self.steps / 1000.0)


def recorded(folder: Path) -> list[Calls]:
    """Every detector of spikes on the logs in a folder."""
    curves = list(losses(folder))
    steps = sum(curve.steps.size for curve in curves)
    found = []
    for name, detect in available("spike")[0].items():
        states = [call.state for curve in curves for call in detect(curve)]
        for level in LEVELS:
            made = sum(state in REACHED[level] for state in states)
            found.append(Calls(name, level, len(curves), steps, made))
    return found


def recorded_grid(real: list[Calls]) -> Grid:
    """Bar 9 on real runs: at most 0.02 calls in 1000 healthy steps."""
    rows = [
        (
            calls.detector,
            calls.level,
            f"{calls.calls} in {calls.steps} steps of {calls.runs} runs",
            interval_text(calls.per_thousand),
        )
        for calls in real
        if calls.detector == OURS or calls.level == LEVELS[0]
    ]
    return Grid(
        "Bar 9: calls in recorded losses, at most 0.02 in 1000 steps",
        ("detector", "level", "calls", "in 1000 steps"),
        rows,
    )


def losses(folder: Path) -> Iterator[Curve]:
    """The loss of one run from each folder of logs; of its noise nothing is known."""
    seen: set[Path] = set()
    for path in sorted([*folder.rglob("*.txt"), *folder.rglob("*.log")]):
        if path.parent in seen:
            continue
        told = LOSS.findall(path.read_text(encoding="utf-8", errors="replace"))
        by_step = {int(step): float(loss) for step, loss in told}
        if len(by_step) < LEAST_STEPS:
            continue
        seen.add(path.parent)
        steps = np.array(sorted(by_step), dtype=np.int64)
        values = np.array([by_step[step] for step in steps.tolist()])
        unknown = np.full(steps.size, np.nan)
        yield Curve(steps=steps, mean=unknown, sd=unknown, values=values, stderr=None)
