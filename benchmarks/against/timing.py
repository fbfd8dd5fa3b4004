"""Costs in training steps: the arms of a comparison and one step of training, timed in turns in one process."""

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Value = float | dict[str, float]

PATIENCE = 25.0
"""An arm that takes more training steps than this is not repeated: its cost is not in doubt."""


class Missing(Exception):
    """A peer that is not installed, or that does not cover the model."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to one number. ``run`` is all that is timed; ``error`` is what is wrong with what it returned."""

    name: str
    run: Callable[[], Value]
    error: Callable[[Value], float] | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """An arm's cost in seconds and in training steps (medians over ``runs``), its value and its relative error."""

    arm: str
    steps: float | None
    seconds: float | None
    value: float | None
    error: float | None
    runs: int
    note: str

    def as_json(self) -> dict[str, Any]:
        """Plain numbers of four digits."""
        return {key: _rounded(v) for key, v in asdict(self).items() if v is not None and v != ""}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A question, the workload it was asked of, and what each arm gave; a step of 0 seconds where nothing was timed."""

    quantity: str
    workload: str
    truth: str
    step_seconds: float
    results: list[Result]

    def steps(self, arm: str) -> float:
        """The cost of one arm, NaN where it did not run."""
        return next((r.steps for r in self.results if r.arm == arm and r.steps is not None), math.nan)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "quantity": self.quantity,
            "workload": self.workload,
            "truth": self.truth,
            "training_step_seconds": _rounded(self.step_seconds),
            "arms": [result.as_json() for result in self.results],
        }


def compare(
    quantity: str,
    workload: str,
    truth: str,
    arms: Sequence[Arm],
    step: Callable[[], object],
    *,
    rounds: int = 3,
    steps_a_round: int = 2,
    patience: float = PATIENCE,
) -> Comparison:
    """Time all arms and the training step ``rounds`` times, in a new random order each time; CPU time of this process."""
    order = random.Random(0)
    step()  # the first of anything allocates
    units: list[float] = []
    seconds: dict[str, list[float]] = {arm.name: [] for arm in arms}
    values: dict[str, Value] = {}
    refused: dict[str, str] = {}
    for _ in range(rounds):
        turn: list[Arm | None] = [*arms, *[None] * steps_a_round]
        order.shuffle(turn)
        for arm in turn:
            if arm is None:
                units.append(_timed(step)[0])
            elif arm.name not in refused and not _enough(seconds[arm.name], units, patience):
                try:
                    spent, values[arm.name] = _timed(arm.run)
                except Exception as error:  # noqa: BLE001 - what a peer does with a model is a finding
                    refused[arm.name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"[:140]
                else:
                    seconds[arm.name].append(spent)
    unit = statistics.median(units)
    results = []
    for arm in arms:
        if arm.name in refused:
            results.append(Result(arm.name, None, None, None, None, 0, refused[arm.name]))
            continue
        cost, value = statistics.median(seconds[arm.name]), values[arm.name]
        whole = math.fsum(value.values()) if isinstance(value, dict) else value
        wrong = arm.error(value) if arm.error else None
        results.append(Result(arm.name, cost / unit, cost, whole, wrong, len(seconds[arm.name]), arm.note))
    return Comparison(quantity, workload, truth, unit, results)


def relative(truth: float) -> Callable[[Value], float]:
    """|value − truth| / |truth|."""

    def error(value: Value) -> float:
        assert isinstance(value, float | int)  # noqa: S101 - for the type checker
        return abs(value - truth) / abs(truth)

    return error


def by_layer(truth: dict[str, float]) -> Callable[[Value], float]:
    """The largest relative error of a layer; infinite where one is missing."""

    def error(value: Value) -> float:
        assert isinstance(value, dict)  # noqa: S101 - for the type checker
        return max(abs(value.get(layer, math.inf) - t) / t for layer, t in truth.items() if t > 0)

    return error


def _enough(seconds: list[float], units: list[float], patience: float) -> bool:
    return bool(seconds and units) and seconds[-1] > patience * statistics.median(units)


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    value = run()
    return time.process_time() - began, value


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
