"""Extremes: both ends of a symmetric operator's spectrum as a Krylov space sees them, and how far each may be off.

The largest Ritz value θ is a Rayleigh quotient, so λ_max ≥ θ. How far above it may λ_max lie?
(For λ_min read −A.)

*Where θ approximates λ_max* the residual r = ‖Ay − θy‖ says: at most r, and at most r²/gap where every
other eigenvalue is further than gap below θ (Kato-Temple; Parlett, 1998, "The Symmetric Eigenvalue
Problem", section 11.7). The second Ritz value lies below the second eigenvalue, so the gap is taken
to the upper end of the other pairs' own intervals: gap = θ_1 − max_j (θ_j + r_j).

*Where θ approximates a smaller eigenvalue*, because the Krylov space has not met the top eigenvector
yet, no residual can tell. The Lanczos polynomials can. With q_{j+1} = p_j(A) q_1, an eigenvector u of
eigenvalue λ has ⟨u, q_{j+1}⟩ = p_j(λ) ⟨u, q_1⟩, and Σ_j p_j(λ)² ⟨u, q_1⟩² ≤ 1 because the q_j are
orthonormal. Beyond the largest θ every p_j grows with λ, so an eigenvalue above a certain *ceiling*
would need a start with less of u in it than chance allows: for a random q_1 in n dimensions,
P(|⟨u, q_1⟩| ≤ δ) ≤ δ √(2n/π). (van Dorsselaer, Hochstenbach & van der Vorst, 2000, "Computing
probabilistic bounds for extreme eigenvalues of symmetric matrices with the Lanczos method",
SIAM J. Matrix Anal. Appl. 22(3), 837-852.)

The start is therefore random and never warm. A warm start meets a residual test sooner, but what it
has met may be yesterday's top eigenvector, and the ceiling must be earned from the random part alone.
Nor would it save much: against 5.4 products from noise a trained network took 4.2 from the previous
vector, 4.5 from the gradient, and 3.8 and some cheap ones from an eighth of the inputs, each without a
ceiling.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from probe_agent.estimators.lanczos import Krylov
from probe_wire import Outcome

End = Literal["top", "bottom"]

RISK = 0.05
"""The probability that a ceiling is too low, over the random start, whatever the operator is."""

ONE_SIGMA = 0.32
"""The risk of a bound that is to count as a standard error."""

_PRUDENCE = 2.0
"""What r²/gap is multiplied by: the gap to eigenvalues that were not met yet is smaller than the one seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extreme:
    """One end of the spectrum as a Krylov space sees it. The eigenvalue lies beyond ``value``, never short of it.

    ``residual`` is how far, prudently, if the pair is the outermost: 2 r²/gap. ``error`` and ``reach``
    hold whatever the operator is, up to rounding: it lies no further with probability 68 % (a standard
    error) and 1 − risk. ``gap`` is the distance to the near end of the other pairs' intervals
    [θ − r, θ + r]: 0 where the next eigenvalue is not resolved, infinite in one dimension.
    ``weights`` are the Ritz vector in the basis.
    """

    value: float
    residual: float
    error: float
    reach: float
    gap: float
    weights: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopEigenpair:
    """The largest eigenvalue found, its unit vector of shape ``(n,)``, and the bounds of its `Extreme`."""

    value: float
    vector: Tensor
    error: float
    reach: float
    gap: float
    products: int
    outcome: Outcome


def top_eigenpair(krylov: Krylov, *, tolerance: float, max_products: int, risk: float = RISK) -> TopEigenpair:
    """Grow the space until its largest Ritz value is within the tolerance of λ_max.

    That is taken to be so when 2 r²/gap is below the tolerance and the reach below ten times it. Only
    the second holds whatever the operator is; how often the first is true of networks was measured
    (see the card of the sharpness probe).

    Args:
        krylov: a space from a start of standard normal numbers, drawn without knowledge of A.
        tolerance: the error to reach, relative to the value.
        max_products: where to give up; 1 or more.
        risk: the probability that λ_max lies beyond the reach.

    Returns:
        The pair. Its outcome is OK when the tolerance is met or the Krylov space is exhausted (then
        the value is exact), NON_FINITE at the first product that is not finite, else NOT_CONVERGED.
    """
    while True:
        krylov.grow_to(max(1, krylov.products))
        if not krylov.finite:
            return _non_finite(krylov)
        top = extreme(krylov, "top", risk)
        allowed = tolerance * abs(top.value)
        met = krylov.exhausted or (top.residual <= allowed and top.reach <= 10 * allowed)
        met = met and krylov.noise <= allowed
        # What is left may be the products' own errors, which more of them do not mend.
        lost = krylov.noise > allowed and top.residual <= 2 * krylov.tiny
        if met or lost or krylov.exhausted or krylov.products >= max_products:
            return TopEigenpair(
                value=top.value,
                vector=krylov.combination(top.weights),
                error=top.error,
                reach=top.reach,
                gap=top.gap,
                products=krylov.products,
                outcome=Outcome.OK if met else Outcome.NOT_CONVERGED,
            )
        krylov.grow_to(krylov.products + 1)


def extreme(krylov: Krylov, end: End, risk: float = RISK) -> Extreme:
    """What the space, as it is, says of one end of the spectrum. It takes no product; the space is finite and not empty."""
    sign = 1.0 if end == "top" else -1.0
    values, vectors = np.linalg.eigh(sign * krylov.tridiagonal)
    residuals = np.zeros_like(values) if krylov.exhausted else krylov.betas[-1] * np.abs(vectors[-1])
    top, gap = float(values[-1]), 0.0
    if krylov.products > 1 or krylov.exhausted:
        gap = max(0.0, float(top - (values + residuals)[:-1].max(initial=-math.inf)))
    residual = _PRUDENCE * _kato_temple(float(residuals[-1]), gap) + krylov.tiny

    def beyond(chance: float) -> float:
        if krylov.exhausted:
            return residual
        overlap = chance * math.sqrt(math.pi / (2 * krylov.dimension))
        return max(residual, _ceiling(top, [sign * alpha for alpha in krylov.alphas], krylov.betas, overlap) - top)

    return Extreme(
        value=sign * top,
        residual=residual,
        error=beyond(ONE_SIGMA),
        reach=beyond(risk),
        gap=gap,
        weights=vectors[:, -1].tolist(),
    )


def _non_finite(krylov: Krylov) -> TopEigenpair:
    return TopEigenpair(
        value=math.nan,
        vector=krylov.basis[0],
        error=math.nan,
        reach=math.nan,
        gap=math.nan,
        products=krylov.products,
        outcome=Outcome.NON_FINITE,
    )


def _kato_temple(residual: float, gap: float) -> float:
    return min(residual, residual * residual / gap) if gap > 0 else residual


def _ceiling(top: float, alphas: Sequence[float], betas: Sequence[float], overlap: float) -> float:
    """The λ above ``top`` at which Σ_j p_j(λ)² reaches 1/overlap², by bisection."""
    width = max(betas)
    while not _excluded(top + width, alphas, betas, overlap):
        width *= 2
    low, high = 0.0, width
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if _excluded(top + middle, alphas, betas, overlap) else (middle, high)
    return top + high


def _excluded(value: float, alphas: Sequence[float], betas: Sequence[float], overlap: float) -> bool:
    """Whether an eigenvalue there would need a start with less than ``overlap`` of its eigenvector.

    p_0 = 1 and β_{j+1} p_{j+1}(λ) = (λ − α_{j+1}) p_j(λ) − β_j p_{j−1}(λ).
    """
    before, p, total, beta = 0.0, 1.0, 1.0, 0.0
    for alpha, following in zip(alphas, betas, strict=True):
        before, p = p, ((value - alpha) * p - beta * before) / following
        beta = following
        total += p * p
        if total * overlap * overlap >= 1:
            return True
    return False
