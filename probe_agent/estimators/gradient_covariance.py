"""Gradient covariance: how much the gradients of samples differ, from the Gram matrix of group gradients alone.

Let L groups of b samples have mean gradients g_l with the covariance Σ/b, Σ the covariance K of one
sample's gradient. With M = (⟨g_i, g_j⟩) all that is asked for is a function of M:

    |G|²  = mean of the off-diagonal entries              the squared norm of the expected gradient
    tr K  = b (mean of the diagonal − |G|²)               unbiased, both (McCandlish et al. 2018, App. A.1)
    λ_K   = b λ_max(C M C) / (L − 1), C = 1 − 11ᵀ/L       biased upwards, corrected by the jackknife
    B     = tr K / |G|²                                   the simple noise scale, in samples

(Jastrzębski et al. 2020, "The break-even point on optimization trajectories of deep neural networks",
for λ_K and tr K.) Leaving one group out is leaving out a row and a column, so that every standard
error costs no further gradient.
"""

from collections.abc import Callable, Sequence

import numpy as np

from probe_agent.estimators.draws import Draws, jackknife_draws


def mean_square(gram: Draws) -> float:
    """‖ḡ‖², the squared norm of the mean gradient of the groups."""
    return float(gram.mean())


def signal(gram: Draws) -> float:
    """|G|², unbiased; negative where the noise has it so."""
    groups = len(gram)
    return float((gram.sum() - np.trace(gram)) / (groups * (groups - 1)))


def trace(gram: Draws, size: int) -> float:
    """Tr K of a single sample's gradient, unbiased; ``size`` is b."""
    return size * (float(np.trace(gram)) / len(gram) - signal(gram))


def largest(gram: Draws, size: int) -> float:
    """The largest eigenvalue of the sample covariance; biased upwards by what few groups can hold."""
    groups = len(gram)
    centred = gram - gram.mean(0) - gram.mean(1)[:, None] + gram.mean()
    return size * float(np.linalg.eigvalsh(centred)[-1]) / (groups - 1)


def left_out(gram: Draws, statistic: Callable[[Draws], float]) -> Draws:
    """The statistic with each group left out in turn, shape ``(L,)``."""
    keep = ~np.eye(len(gram), dtype=bool)
    return np.array([statistic(gram[np.ix_(kept, kept)]) for kept in keep])


def draws_of(gram: Draws, statistic: Callable[[Draws], float], *, corrected: bool = False) -> Draws:
    """Parts whose mean is the statistic and whose spread is its jackknife error, shape ``(L,)``.

    ``corrected`` moves them to the jackknife's bias-corrected value, L θ − (L − 1) mean θ_(l) (Quenouille 1956).
    """
    whole, without = statistic(gram), left_out(gram, statistic)
    if corrected:
        whole += (len(gram) - 1) * (whole - float(without.mean()))
    return jackknife_draws(whole, without)


def noise_scale(grams: Sequence[Draws], size: int) -> tuple[float, Draws]:
    """B as the ratio of the means of tr K and |G|² over several snapshots, never a mean of ratios, and its parts.

    The groups are the same at each snapshot, so that one left out is left out of all.
    """

    def ratio(of: Sequence[Draws]) -> float:
        below = float(np.mean([signal(m) for m in of]))
        return float(np.mean([trace(m, size) for m in of])) / below if below else float("nan")

    keep = ~np.eye(len(grams[0]), dtype=bool)
    whole = ratio(grams)
    without = np.array([ratio([m[np.ix_(kept, kept)] for m in grams]) for kept in keep])
    return whole, jackknife_draws(whole, without)
