"""Draws: independent parts whose mean is an estimate, and what their spread says of its error."""

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from probe_wire import Estimate

Draws = NDArray[np.float64]
"""One number a probe sample or group of samples along the first axis, in float64."""


def numbers(values: Tensor) -> Draws:
    """The values of a tensor on any device, in double precision."""
    draws: Draws = values.detach().cpu().double().numpy()
    return draws


def mean_of(draws: Draws) -> Estimate:
    """The mean of the draws with its standard error, NaN for a single draw.

    It is sd / √n (``ddof=1``), made larger for few draws by what Student's distribution is wider than the
    normal (`student`): of all standard errors, ± 1.96 of them is what must hold in 95 of 100 cases.
    """
    n = draws.size
    with np.errstate(invalid="ignore", over="ignore"):
        stderr = student(n) * float(np.std(draws, ddof=1)) / math.sqrt(n) if n > 1 else math.nan
        return Estimate(float(np.mean(draws)), stderr, n=n).checked()


def student(n: int) -> float:
    """Student's t over the normal z: how much wider a 95 % interval of the mean of n draws is for not knowing their spread; 1.6 for 4, 1.2 for 8.

    By the expansion of the quantile in 1 / (n − 1) (Fisher and Cornish 1960), good to 1 % from 3 draws on; of 2 exactly.
    """
    z, v = 1.959964, n - 1
    if v == 1:
        return math.tan(0.475 * math.pi) / z  # Cauchy's
    terms = (
        (z**2 + 1) / 4,
        (5 * z**4 + 16 * z**2 + 3) / 96,
        (3 * z**6 + 19 * z**4 + 17 * z**2 - 15) / 384,
        (79 * z**8 + 776 * z**6 + 1482 * z**4 - 1920 * z**2 - 945) / 92160,
    )
    return 1 + math.fsum(term / v**power for power, term in enumerate(terms, 1))


def ratio_draws(amounts: Draws, counts: Draws) -> Draws:
    """Draws whose mean is R = Σ amounts / Σ counts: an average per prediction when samples make unequally many.

    By linearisation, R + (amount_i − R count_i) / mean count, so that their spread is the delta-method
    error of the ratio (Cochran 1977, Sampling Techniques, sec. 2.11). With equal counts they are
    ``amounts / counts``.
    """
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        if (counts == counts[0]).all():
            return amounts / counts
        ratio = amounts.sum() / counts.sum()
        linearised: Draws = ratio + (amounts - ratio * counts) / counts.mean()
        return linearised


def jackknife_draws(whole: float, without: Draws) -> Draws:
    """Draws whose mean is ``whole`` and whose spread is its delete-a-group jackknife error.

    The pseudo-values G·whole − (G − 1)·without_g (Tukey 1958), moved so that their mean is the
    statistic itself and not its bias-corrected version: what is reported stays what was computed.

    Args:
        whole: the statistic of all samples.
        without: the same statistic with each of G groups left out, shape ``(G,)``.
    """
    groups = without.size
    with np.errstate(invalid="ignore", over="ignore"):
        moved: Draws = whole - (groups - 1) * (without - without.mean())
        return moved
