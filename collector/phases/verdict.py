"""Verdict: whether a turn is shown by the probes since its phase began, and by which windows."""

import math
from dataclasses import dataclass

import numpy as np

from collector.phases import reflection, turning_point
from collector.phases.machine import Turn
from collector.phases.noise import Cleaned
from collector.phases.series import Floats, Scale
from collector.phases.turning_point import TurningPoint

LEAST_WINDOW = 4
"""Probes in a window of evidence, at least: three wild ones in a row could have slipped past the Hampel filter's edge."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A turn that was shown: windows of ``k`` probes before and after, the newest last.

    ``before`` and ``after`` are the windows' means on the axis of the test, ``change`` the relative
    change between them, ``log_e`` the evidence, ``at`` the turning point as indices.
    """

    turn: Turn
    k: int
    log_e: float
    before: float
    after: float
    change: float
    at: TurningPoint


def verdict(turn: Turn, probes: Cleaned, value_scale: Scale) -> Verdict | None:
    """The verdict on a turn from the probes since its phase began, or None while it is not shown.

    Among the folds whose change reaches the turn's least effect, the one with the most evidence
    decides; it is shown when its e-value reaches 1/alpha.
    """
    unit = float(np.median(probes.sigma)) if probes.y.size else 0.0
    if probes.y.size < turn.min_points or not unit > 0.0:  # too few, or all equal
        return None
    y, sigma = probes.y / unit, probes.sigma / unit  # so that no scale of the quantity overflows a square
    folds = reflection.rise(y, sigma) if turn.when == "rise" else reflection.fall(y, sigma)
    change = _relative(folds.before * unit, folds.after * unit, value_scale)
    enough = change >= turn.min_effect if turn.when == "rise" else change <= -turn.min_effect
    enough[: LEAST_WINDOW - 1] = False
    log_e = np.where(enough, folds.log_e, -np.inf)
    j = int(log_e.argmax())
    if not log_e[j] >= math.log(1.0 / turn.alpha):
        return None
    at = turning_point.peak(y if turn.when == "fall" else -y, sigma)
    before, after = float(folds.before[j]) * unit, float(folds.after[j]) * unit
    return Verdict(turn, j + 1, float(log_e[j]), before, after, float(change[j]), at)


def _relative(before: Floats, after: Floats, value_scale: Scale) -> Floats:
    if value_scale == "log":
        return np.expm1(np.minimum(after - before, 700.0))  # beyond lies infinity
    level = np.abs(before)
    # From exactly zero any change is the whole change.
    return np.where(level > 0.0, (after - before) / np.where(level > 0.0, level, 1.0), np.sign(after - before))
