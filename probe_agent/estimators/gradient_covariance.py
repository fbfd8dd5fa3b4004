"""Gradient covariance: how much the gradients of samples differ, from the Gram matrix of group gradients alone.

Let L groups of b samples have mean gradients g_l with the covariance Σ/b, Σ the covariance K of one
sample's gradient. With M = (⟨g_i, g_j⟩) all that is asked for is a function of M:

    |G|²  = mean of the off-diagonal entries              the squared norm of the expected gradient
    tr K  = b (mean of the diagonal − |G|²)               unbiased, both (McCandlish et al. 2018, App. A.1)
    λ_K   = b λ_max(C M C) / (L − 1), C = 1 − 11ᵀ/L       biased upwards, corrected by the jackknife
    B     = tr K / |G|²                                   the simple noise scale, in samples

(Jastrzębski et al. 2020, "The break-even point on optimization trajectories of deep neural networks",
for λ_K and tr K.) Leaving one group out is leaving out a row and a column, so that every standard
error costs no further gradient. Every statistic takes a Gram matrix, shape ``(L, L)``, or a stack of them,
``(..., L, L)``.
"""

from collections.abc import Callable, Sequence

import numpy as np

from probe_agent.estimators.draws import Draws, jackknife_draws


def mean_square(grams: Draws) -> Draws:
    """‖ḡ‖², the squared norm of the mean gradient of the groups."""
    found: Draws = grams.mean((-2, -1))
    return found


def signal(grams: Draws) -> Draws:
    """|G|², unbiased; negative where the noise has it so."""
    groups = grams.shape[-1]
    found: Draws = (grams.sum((-2, -1)) - np.trace(grams, axis1=-2, axis2=-1)) / (groups * (groups - 1))
    return found


def trace(grams: Draws, size: int) -> Draws:
    """Tr K of a single sample's gradient, unbiased; ``size`` is b."""
    found: Draws = size * (np.trace(grams, axis1=-2, axis2=-1) / grams.shape[-1] - signal(grams))
    return found


def largest(grams: Draws, size: int) -> Draws:
    """The largest eigenvalue of the sample covariance; biased upwards by what few groups can hold."""
    rows = grams - grams.mean(-2, keepdims=True)
    centred = rows - rows.mean(-1, keepdims=True)
    finite = np.isfinite(centred).all((-2, -1))
    # A stack is decomposed as one: LAPACK raises on what is not finite.
    values = np.linalg.eigvalsh(np.where(finite[..., None, None], centred, 0.0))[..., -1]
    found: Draws = np.where(finite, size * values / (grams.shape[-1] - 1), np.nan)
    return found


def left_out(gram: Draws) -> Draws:
    """The Gram matrices with each group left out in turn, shape ``(L, L − 1, L − 1)``."""
    groups = len(gram)
    kept = np.nonzero(~np.eye(groups, dtype=bool))[1].reshape(groups, groups - 1)
    return gram[kept[:, :, None], kept[:, None, :]]


def draws_of(gram: Draws, statistic: Callable[[Draws], Draws]) -> Draws:
    """Parts whose mean is the statistic and whose spread is its jackknife error, shape ``(L,)``."""
    return jackknife_draws(float(statistic(gram)), statistic(left_out(gram)))


def corrected_draws(gram: Draws, statistic: Callable[[Draws], Draws]) -> tuple[Draws, float]:
    """The same about the jackknife's bias-corrected value, L θ − (L − 1) mean θ_(l) (Quenouille 1956).

    And how large the correction is, relative to θ: where that is not small, it is not the last word.
    """
    whole, without = float(statistic(gram)), statistic(left_out(gram))
    correction = (len(gram) - 1) * (whole - float(without.mean()))
    return jackknife_draws(whole + correction, without), abs(correction / whole) if whole else 0.0


def noise_scale(grams: Sequence[Draws], size: int) -> tuple[float, Draws]:
    """B as the ratio of the means of tr K and |G|² over several snapshots, never a mean of ratios, and its parts.

    The groups are the same at each snapshot, so that one left out is left out of all. ``mean`` over
    snapshots and both statistics commute, being linear in the Gram matrix.
    """
    gram = np.mean(grams, axis=0)

    def ratio(of: Draws) -> Draws:
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Draws = trace(of, size) / signal(of)
        return found

    return float(ratio(gram)), draws_of(gram, ratio)
