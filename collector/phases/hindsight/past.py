"""Past: a whole stored series made ready for judgement in hindsight, with its noise and how far that wanders.

With the end in sight the noise can be known better than live: around each probe from both sides, and
from what is left over once a curve of up to five pieces that rise and fall has been taken out.
"""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from collector.phases.axis import Floats, Scale
from collector.phases.hindsight.noise import chord_residuals, hampel, robust_sigma
from collector.phases.hindsight.pieces import Pieces, Way

MOST = 256
"""Points of a past; more probes than that are averaged in blocks."""
LEAST = 12
"""Probes without which nothing is said."""
GAIN = 30.0
"""Squared error, in units of the noise, that one more piece must save: one constant series of white noise in 1000 does."""
AROUND = 32
"""Chord residuals that tell the noise around one probe."""
FLOOR = 0.005
"""Least noise believed, relative to the range of the series."""
LEFT = 5.0
"""A curve of five pieces takes low frequencies out of white noise as well: it leaves a fifth of its long-run variance."""
APART = (3, 4, 6, 8)
"""Probes between the ends of the chords that show noise which lasts; none longer than a sixteenth of the series."""
WANDERING = 1.5
"""Squared residual of the best curve, in units of the chord noise, beyond which the noise is mostly slow wandering."""

THREE: tuple[Way, ...] = ("fall", "rise", "fall")
FIVE: tuple[Way, ...] = (*THREE, "rise", "fall")


@dataclass(frozen=True, slots=True)
class Past:
    """Points of a series, shapes (n,).

    ``inflation`` is by how much correlation from probe to probe multiplies the variance of slow
    averages, 1 for white noise; ``refusal`` is why the noise cannot be told from the signal, if it cannot.
    """

    steps: NDArray[np.int64]
    y: Floats
    sigma: Floats
    pieces: Pieces
    inflation: float
    refusal: str

    @property
    def gain(self) -> float:
        """What one more piece must save here to be believed."""
        return GAIN * self.inflation

    def part(self, until: int) -> "Past":
        """The first ``until`` points, with the noise of all."""
        y, sigma = self.y[:until], self.sigma[:until]
        return Past(self.steps[:until], y, sigma, Pieces(y, sigma), self.inflation, self.refusal)

    def mirrored(self, *, upside_down: bool = False, backwards: bool = False) -> "Past":
        """The past with values, time, or both reversed; steps keep their order of probes."""
        way = -1 if backwards else 1
        y, sigma = (-1.0 if upside_down else 1.0) * self.y[::way], self.sigma[::way]
        return Past(self.steps[::way], y, sigma, Pieces(y, sigma), self.inflation, self.refusal)


def past(
    steps: ArrayLike, values: ArrayLike, paired: ArrayLike | None, value_scale: Scale, step_scale: Scale
) -> Past | None:
    """The past of a series, or None when fewer than ``LEAST`` of its values can be judged or all are the same.

    Values that are not finite, not positive on a logarithmic axis, or at a step not beyond the last
    are left out: after a resume the run lived through its past again. Outliers are replaced.
    """
    at, x, y, stderr = _kept(steps, values, paired, value_scale, step_scale)
    if y.size < LEAST or not np.ptp(y) > 0.0:
        return None
    y, _ = hampel(y, _sigma(x, y, stderr))
    block = -(-y.size // MOST)
    whole = y.size // block * block
    x, y, variance = (row[:whole].reshape(-1, block).mean(axis=1) for row in (x, y, stderr**2))
    if not np.ptp(y) > 0.0:
        return None
    sigma = _sigma(x, y, np.sqrt(variance / block))
    pieces = Pieces(y / sigma.max(), sigma / sigma.max())
    inflation, refusal = _correlation(pieces)
    return Past(at[:whole].reshape(-1, block)[:, block // 2], pieces.y, pieces.sigma, pieces, inflation, refusal)


def _kept(
    steps: ArrayLike, values: ArrayLike, paired: ArrayLike | None, value_scale: Scale, step_scale: Scale
) -> tuple[NDArray[np.int64], Floats, Floats, Floats]:
    at, y = np.asarray(steps, dtype=np.int64), np.asarray(values, dtype=np.float64)
    stderr = np.zeros(y.size) if paired is None else np.nan_to_num(np.asarray(paired, dtype=np.float64), posinf=0.0)
    furthest = np.maximum.accumulate(np.append(-1, at))[:-1]
    good = np.isfinite(y) & (at > furthest) & ((y > 0.0) if value_scale == "log" else True)
    at, y, stderr = at[good], y[good], stderr[good]
    x = np.log1p(at) if step_scale == "log" else at.astype(np.float64)
    return (at, x, np.log(y), stderr / y) if value_scale == "log" else (at, x, y, stderr)


def _sigma(x: Floats, y: Floats, stderr: Floats) -> Floats:
    """The noise of each value: what was reported or what is seen around it, whichever is more."""
    residuals = chord_residuals(x, y)
    over_all = robust_sigma(residuals)
    seen = np.full(y.size, over_all)
    if residuals.size >= AROUND:
        around = 1.4826 * np.median(sliding_window_view(np.abs(residuals), AROUND), axis=1)
        before = (y.size - around.size) // 2
        seen = np.maximum(np.pad(around, (before, y.size - around.size - before), mode="edge"), over_all / 4.0)
    middle = np.subtract(*np.quantile(y, (0.95, 0.05)))  # the range without the outliers that may still be there
    sigma: Floats = np.maximum(seen, np.maximum(stderr, FLOOR * middle + np.finfo(float).tiny))
    return sigma


def _correlation(pieces: Pieces) -> tuple[float, str]:
    """By how much to inflate the noise, and why it cannot be judged, if so.

    Three witnesses, since none alone tells an AR(1) process of coefficient 0.8 from white noise in 150
    probes: the long-run variance of what the best curve leaves, after Newey and West (1987) with
    1.5 n^(1/3) lags; its lag-one correlation, as the long-run variance of the AR(1) process that
    would have it; and how much noisier long chords are than short ones, which no curve has smoothed.
    The constants are from simulation: white noise comes out near 1, and constant, linear and
    saturating series of 150 probes with AR(1) noise of 0.3 and 0.8 are labelled wrongly in 1 of 100 at
    most. In 40 probes no witness sees enough: 1 in 20.
    """
    left = (pieces.y - pieces.fit(FIVE).curve) / pieces.sigma
    n = left.size
    lags = int(1.5 * n ** (1.0 / 3.0))
    products = np.array([float(left[k:] @ left[: n - k]) / n for k in range(lags + 1)])
    if not products[0] > 0.0:
        return 1.0, ""
    bartlett = 2.0 * (1.0 - np.arange(1, lags + 1) / (lags + 1))
    long_run = max(LEFT * (products[0] + float(bartlett @ products[1:])), 1.0)
    first = float(products[1] / products[0])
    short = min(max(2.0 * first + 0.15, 0.0), 0.9)
    inflation = long_run * (1.0 + short) / (1.0 - short) * _lasting(pieces)
    refused = products[0] > WANDERING
    return (
        inflation,
        "the noise is too correlated from probe to probe to tell its wandering from a turn" if refused else "",
    )


def _lasting(pieces: Pieces) -> float:
    """The sixth power of the noise of long chords over that of one probe, between 1 and 4."""
    apart = [k for k in APART if 16 * k <= pieces.y.size]
    if not apart:
        return 1.0
    noise = [
        robust_sigma((pieces.y[k:-k] - (pieces.y[2 * k :] + pieces.y[: -2 * k]) / 2.0) / pieces.sigma[k:-k])
        for k in (1, *apart)
    ]
    unit = max(noise[0], float(np.sqrt(1.5)))
    return float(np.clip(np.mean(noise[1:]) / unit, 1.0, 4.0 ** (1.0 / 6.0)) ** 6)
