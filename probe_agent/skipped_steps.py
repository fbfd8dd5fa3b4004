"""SkippedSteps: how many optimizer steps a GradScaler has skipped because gradients overflowed.

A skipped step never reaches the optimizer, so the monitor, which counts the optimizer's steps, does not see it. The scaler
tells by its scale: a skip multiplies it by the backoff factor, and so many steps in a row without one by the growth factor.
The scale is read when a report is made, never between.
"""

import math
from collections.abc import Iterator
from typing import final

import torch

from probe_wire import Column, Estimate, Outcome, Quantity

STEPS_SKIPPED = Quantity(
    name="steps_skipped",
    unit="1",
    help="Optimizer steps that the gradient scaler skipped since the agent was attached, because gradients overflowed in half "
    "precision. They are no steps of the run: the step axis counts those that were taken.",
    title="Steps skipped by the gradient scaler",
)


@final
class SkippedSteps:
    """Counts them from one report to the next, exactly where the scale cannot have grown meanwhile."""

    def __init__(self, scaler: torch.amp.GradScaler, step: int) -> None:
        self._scaler = scaler
        self._count, self._unsure = 0, 0
        self._first = step
        self._seen, self._scale, self._tracker = step, *self._read()

    def _read(self) -> tuple[float, int]:
        return float(self._scaler.get_scale()), int(self._scaler._get_growth_tracker())  # noqa: SLF001 - no public name leads to it

    def drain(self, step: int) -> Iterator[tuple[Quantity, Column, Estimate]]:
        """The count so far, at this step; its error is that of growths that may hide skips."""
        if not self._scaler.is_enabled():
            return
        scale, tracker = self._read()
        seen = max(self._first, step - 1)  # the scaler is updated after the step that this is called in
        scaler, taken = self._scaler, seen - self._seen
        least, most = skips(
            scale / self._scale,
            self._tracker,
            tracker,
            taken,
            scaler.get_growth_factor(),
            scaler.get_backoff_factor(),
            scaler.get_growth_interval(),
        )
        self._count += least
        self._unsure += most - least
        self._seen, self._scale, self._tracker = seen, scale, tracker
        # Anything up to so many more is as likely: a uniform distribution.
        count, error = self._count + self._unsure / 2, self._unsure / math.sqrt(12)
        yield STEPS_SKIPPED, Column(STEPS_SKIPPED.name), Estimate(count, error, 0.0, step, Outcome.OK)


def skips(
    ratio: float, before: int, after: int, taken: int, growth: float, backoff: float, interval: int
) -> tuple[int, int]:
    """The fewest and the most skips between two looks at a scaler.

    Args:
        ratio: its scale now over its scale then.
        before: steps without a skip in a row, then.
        after: the same now.
        taken: steps that were taken meanwhile.
        growth: what the scale is multiplied by after ``interval`` steps without a skip.
        backoff: what it is multiplied by at a skip.
        interval: see ``growth``.
    """
    possible = []
    for growths in range((before + taken) // interval + 1):
        exact = (math.log(ratio) - growths * math.log(growth)) / math.log(backoff)
        count = round(exact)
        undisturbed = (before + taken) % interval == after and growths == (before + taken) // interval
        if count >= 0 and math.isclose(exact, count, abs_tol=1e-3) and (count > 0 or undisturbed):
            possible.append(count)
    return (min(possible), max(possible)) if possible else (0, 0)
