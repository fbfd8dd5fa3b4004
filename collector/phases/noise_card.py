"""Noise card: what is known of the noise of a series, in figures that a person can judge a verdict by."""

import math
from itertools import pairwise
from typing import Literal

from collector.phases.figures import finite, rounded
from collector.phases.meter import NoiseMeter
from collector.phases.transition import NoiseCard

CORRELATED = 0.3
"""AR(1) coefficient from which noise is called correlated: below it the tests keep their promise."""

_GAUSSIAN_TAIL = 1.6449 / 0.6745  # the 90 % quantile of a Gaussian's size over its median
# AR(1) coefficients and how much more means of two probes scatter than single ones, as standard deviations.
_GROWTH = ((0.0, 1.0), (0.2, 1.17), (0.3, 1.25), (0.5, 1.41), (0.7, 1.53), (0.8, 1.58), (0.9, 1.62), (0.95, 1.64))


def noise_card(meter: NoiseMeter, level: float, restarts: int = 0, *, wandered: bool = False) -> NoiseCard:
    """The noise card of a series whose values are about ``level`` on the axis of the test, and that ``wandered`` of late."""
    unit = 1.0 if meter.relative else abs(level) or 1.0
    reported = meter.paired.quantile(0.5) if len(meter.paired) else None
    seen = meter.seen()
    process = math.sqrt(max(seen**2 - (reported or 0.0) ** 2, 0.0)) if not math.isnan(seen) else math.nan
    residuals = meter.residuals[1]
    middle = residuals.quantile(0.5) if len(residuals) else 0.0
    return NoiseCard(
        probes=meter.probes,
        believed=finite(meter.sigma() / unit),
        estimator=None if reported is None else rounded(reported / unit),
        process=finite(process / unit),
        autocorrelation=rounded(autocorrelation(meter)),
        tails=rounded(residuals.quantile(0.9) / middle / _GAUSSIAN_TAIL) if middle > 0.0 else 1.0,
        outliers=rounded(meter.replaced / meter.probes) if meter.probes else 0.0,
        verdict=_verdict(meter, wandered=wandered),
        restarts=restarts,
    )


def autocorrelation(meter: NoiseMeter) -> float:
    """The coefficient of the AR(1) process whose means of two probes would scatter alike; 0 where they scatter no more."""
    single, double = meter.seen(1), meter.seen(2)
    if not (single > 0.0 and double > 0.0):
        return 0.0
    growth = double / single
    for (low, less), (high, more) in pairwise(_GROWTH):
        if growth <= more:
            return max(0.0, low + (high - low) * (growth - less) / (more - less))
    return _GROWTH[-1][0]


def _verdict(meter: NoiseMeter, *, wandered: bool) -> Literal["white", "correlated", "unassessable", "unknown"]:
    if meter.few:
        return "unknown"
    if wandered or meter.walks():
        return "unassessable"
    return "correlated" if autocorrelation(meter) >= CORRELATED else "white"
