"""Noise of a whole series in hindsight: chords, a robust spread, and the Hampel filter over arrays.

What is judged as it comes has its noise from ``meter`` and its outliers replaced by ``cleaner``.
"""

import statistics

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from collector.phases.axis import Floats

HAMPEL = 7
"""Window of the Hampel filter, probes; up to three wild probes in a row are replaced."""
HAMPEL_CUT = 4.0
"""Spreads from the window's median beyond which a value is an outlier."""
_MAD = 1.4826  # the median size of a Gaussian is sigma / 1.4826
_MEAN = 1.2533  # its mean size is sigma / 1.2533


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
