"""Noise: how far one probe strays from the trend, known from the past alone and without knowing the trend.

Two sources are compared and the larger is believed: what the estimator reports (the *paired*
standard error, never the marginal one, which on a fixed probe set overstates the noise of a trend
several times) and what the series shows (training itself wanders). Values far outside are replaced
before any test: one giant probe would otherwise decide every window it falls into.
"""

import statistics
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from collector.phases.series import Floats, Points

HAMPEL = 7
"""Window of the Hampel filter, probes; up to three wild probes in a row are replaced."""
HAMPEL_CUT = 4.0
"""Spreads from the window's median beyond which a value is an outlier."""
LOCAL = 24
"""Residuals that tell the noise around one probe: noise may grow, and an average over the run hides it."""
FLOOR = 0.005
"""Least relative noise believed: below it are rounding and smoothing, which a test must not read as precision."""
OUT_OF_RANGE = 1e6
"""Times above or below the usual noise that no probe is believed to be: only overflow would tell it apart."""

_MAD = 1.4826  # the median size of a Gaussian is sigma / 1.4826
_MEAN = 1.2533  # its mean size is sigma / 1.2533


@dataclass(frozen=True, slots=True)
class Cleaned:
    """Probes ready to be tested: values, the noise of each as a standard deviation, and which were replaced."""

    steps: NDArray[np.int64]
    y: Floats
    sigma: Floats
    replaced: NDArray[np.bool_]

    def since(self, step: int) -> "Cleaned":
        """The probes from a step on."""
        i = int(np.searchsorted(self.steps, step))
        return Cleaned(self.steps[i:], self.y[i:], self.sigma[i:], self.replaced[i:])


def clean(points: Points, *, relative: bool) -> Cleaned:
    """The values of a series with outliers replaced, and the noise of each probe.

    sigma_i = max(seen_i, sqrt(paired_i^2 + floor^2)). ``seen`` is the largest of the chord noise of
    single probes, of means of two (positively correlated noise hides from single chords and shows
    there), and of the ``LOCAL`` residuals around probe i; as medians, none minds an outlier.
    ``relative`` says that the values are logarithms, so the floor is ``FLOOR`` itself and not that
    fraction of the median level. With fewer than three probes the noise is unknown and sigma is NaN.
    """
    residuals = chord_residuals(points.x, points.y)
    seen = np.maximum(robust_sigma(residuals), _local_sigma(residuals, points.y.size))
    of_two = chord_residuals(points.x, points.y, block=2)
    if of_two.size >= 10:  # fewer say less than their widening costs
        seen = np.maximum(seen, robust_sigma(of_two))
    floor = FLOOR * (1.0 if relative else float(np.median(np.abs(points.y))))
    sigma = np.maximum(seen, np.hypot(np.nan_to_num(points.paired), floor))
    usual = np.median(sigma)
    sigma = np.clip(sigma, usual / OUT_OF_RANGE, usual * OUT_OF_RANGE)
    y, replaced = hampel(points.y, sigma)
    return Cleaned(points.steps, y, sigma, replaced)


def chord_residuals(x: Floats, y: Floats, block: int = 1) -> Floats:
    """Distance of each probe from the chord of its neighbours, scaled to the noise of one probe.

    With u = (x_i - x_{i-1}) / (x_{i+1} - x_{i-1}) the chord passes (1-u) y_{i-1} + u y_{i+1}; for
    independent noise of variance s^2 the distance has variance s^2 (1 + u^2 + (1-u)^2). A straight
    trend leaves no trace, at any spacing. With ``block`` m the points are means of m probes and the
    distance is scaled by sqrt(m) as well. Shape (n,) to (max(n - 3m + 1, 0),).
    """
    if y.size < 3 * block:
        return np.empty(0)
    if block > 1:
        mean = np.full(block, 1.0 / block)
        x, y = np.convolve(x, mean, "valid"), np.convolve(y, mean, "valid")
    left, middle, right = slice(None, -2 * block), slice(block, -block), slice(2 * block, None)
    width = x[right] - x[left]
    u = np.divide(x[middle] - x[left], width, out=np.full(width.size, 0.5), where=width > 0.0)  # 0 by rounding only
    distance = y[middle] - (1.0 - u) * y[left] - u * y[right]
    scaled: Floats = np.sqrt(block) * distance / np.sqrt(1.0 + u**2 + (1.0 - u) ** 2)
    return scaled


def robust_sigma(residuals: Floats) -> float:
    """The standard deviation of one probe from residuals about zero, by their median size.

    Up to half may be outliers. A few residuals know it poorly and too small a sigma is the
    dangerous side, so it is widened by 1 + 3/m for m of them. NaN without any.
    """
    if residuals.size == 0:
        return float("nan")
    size = np.abs(residuals)
    sigma = _MAD * float(np.median(size)) or _MEAN * float(size.mean())  # the median of quantised values may be 0
    return sigma * (1.0 + 3.0 / size.size)


def hampel(y: Floats, sigma: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """The values with outliers replaced by the median of their seven, and which were replaced.

    Hampel (1974): an outlier lies more than ``HAMPEL_CUT`` sigma from the median of the window
    around it. A trend passes through that median; at the ends, where it does not, the window's own
    spread counts too. The first three probes have the shorter windows that lie around them, so
    that a rise within a few probes survives; the last three have the last seven, so that the
    newest is judged by more than itself and its neighbours.
    """
    if y.size < HAMPEL:
        return y, np.zeros(y.size, dtype=np.bool_)
    half = HAMPEL // 2
    middle = np.pad(np.sort(sliding_window_view(y, HAMPEL), axis=1)[:, half], half, mode="edge")
    cut = HAMPEL_CUT * sigma
    ends = [(i, y[: i + half + 1]) for i in range(half)] + [(-1 - i, y[-HAMPEL:]) for i in range(half)]
    for i, window in ends:
        middle[i], spread = _median_and_spread(window.tolist())
        cut[i] = max(cut[i], HAMPEL_CUT * spread)
    replaced = np.abs(y - middle) > cut
    return np.where(replaced, middle, y), replaced


def _median_and_spread(values: list[float]) -> tuple[float, float]:
    middle = statistics.median(values)
    return middle, _MAD * statistics.median(abs(value - middle) for value in values)


def _local_sigma(residuals: Floats, n: int) -> Floats:
    """The noise around each of ``n`` probes; zero, which claims nothing, while ``LOCAL`` residuals are not there."""
    if residuals.size < LOCAL:
        return np.zeros(n)
    around = _MAD * np.sort(sliding_window_view(np.abs(residuals), LOCAL), axis=1)[:, LOCAL // 2]
    before = (n - around.size) // 2
    return np.pad(around, (before, n - around.size - before), mode="edge")
