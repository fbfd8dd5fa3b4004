"""Lanczos iteration for the largest algebraic eigenvalue of a symmetric operator, with an interval that holds it.

After k products with A, the orthonormal basis Q = (q_1 … q_k) and the tridiagonal T = QᵀAQ give Ritz
pairs (θ, y). The largest θ is a Rayleigh quotient, so λ_max ≥ θ. How far above it may λ_max lie?

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

The start is therefore random and never warm. A warm start meets a residual test in two or three
products, but what it has met may be yesterday's top eigenvector; and it makes the ceiling, which
must be earned from the random part alone, later rather than sooner.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_wire import Outcome

_ROUNDINGS = 10.0
"""A vector shorter than this many ε‖A‖ is rounding, not a direction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopEigenpair:
    """The largest eigenvalue found and its unit vector, shape ``(n,)``.

    λ_max lies in [value, value + error], up to rounding, with probability 1 − risk. ``gap`` is the
    distance from the value to the upper end of the other Ritz pairs' intervals [θ − r, θ + r]: 0 where
    the second eigenvalue is not resolved, infinite in one dimension. ``asymmetry`` is the largest
    entry of QᵀAQ that a symmetric A makes zero, relative to ‖T‖: beyond rounding, A was not symmetric.
    """

    value: float
    vector: Tensor
    error: float
    gap: float
    asymmetry: float
    products: int
    outcome: Outcome


def top_eigenpair(
    product: Callable[[Tensor], Tensor],
    random: Tensor,
    *,
    tolerance: float,
    max_products: int,
    risk: float = 0.05,
) -> TopEigenpair:
    """Lanczos with full reorthogonalisation until the interval is narrow enough.

    Args:
        product: v ↦ Av for a symmetric A; v and Av have shape ``(n,)``.
        random: independent standard normal numbers, shape ``(n,)``, drawn without knowledge of A:
            the interval is a statement about their luck.
        tolerance: the error to reach, relative to the value.
        max_products: where to give up; 1 or more.
        risk: the probability that the interval misses λ_max, whatever A is.

    Returns:
        The pair. Its outcome is OK when the tolerance is met or the Krylov space is exhausted (then
        the value is exact), NON_FINITE at the first product that is not finite, else NOT_CONVERGED.
    """
    following = random / torch.linalg.vector_norm(random)
    tiny = _ROUNDINGS * torch.finfo(random.dtype).eps
    overlap = risk * math.sqrt(math.pi / (2 * random.numel()))
    basis: list[Tensor] = []
    alphas: list[float] = []
    betas: list[float] = []
    asymmetry = 0.0
    while True:
        basis.append(following)
        w, along = _orthogonalised(product(following), basis)
        asymmetry = max([asymmetry, *_departures(along, betas)])
        alphas.append(along[-1])
        betas.append(float(torch.linalg.vector_norm(w)))
        if not (math.isfinite(alphas[-1]) and math.isfinite(betas[-1])):
            return _non_finite(following, products=len(basis))
        values, vectors = np.linalg.eigh(np.diag(alphas) + np.diag(betas[:-1], 1) + np.diag(betas[:-1], -1))
        top, scale = float(values[-1]), float(np.abs(values).max())
        exhausted = len(basis) == random.numel() or betas[-1] <= tiny * scale
        residuals = np.zeros_like(values) if exhausted else betas[-1] * np.abs(vectors[-1])
        gap = _gap(values, residuals) if len(basis) > 1 or exhausted else 0.0
        error = _kato_temple(float(residuals[-1]), gap) + tiny * scale
        allowed = tolerance * abs(top)
        met = exhausted or (error <= allowed and _excluded(top + allowed, alphas, betas, overlap))
        if met or len(basis) >= max_products:
            if not exhausted:
                error = max(error, _ceiling(top, alphas, betas, overlap) - top)
            return TopEigenpair(
                value=top,
                vector=_combination(basis, vectors[:, -1].tolist()),
                error=error,
                gap=gap,
                asymmetry=asymmetry / scale if scale > 0 else 0.0,
                products=len(basis),
                outcome=Outcome.OK if met else Outcome.NOT_CONVERGED,
            )
        following = w / betas[-1]


def _orthogonalised(w: Tensor, basis: Sequence[Tensor]) -> tuple[Tensor, list[float]]:
    """What is left of w beside the basis, and its components along it.

    Gram-Schmidt twice is enough (Parlett, 1998, "The Symmetric Eigenvalue Problem", section 6.9).
    """
    along = torch.zeros(len(basis), dtype=w.dtype, device=w.device)
    for _ in range(2):
        components = torch.stack([torch.dot(q, w) for q in basis])
        for component, q in zip(components, basis, strict=True):
            w = torch.addcmul(w, component, q, value=-1)
        along = along + components
    return w, along.tolist()


def _departures(along: Sequence[float], betas: Sequence[float]) -> list[float]:
    """How far the new column of QᵀAQ is from what symmetry makes it: 0 … 0, β_{k−1}, α_k."""
    expected = [0.0] * (len(along) - 2) + list(betas[-1:])
    return [abs(got - want) for got, want in zip(along[:-1], expected, strict=True)]


def _gap(values: NDArray[np.float64], residuals: NDArray[np.float64]) -> float:
    """From the top Ritz value down to the upper end of every other pair's interval; 0 where they overlap."""
    return max(0.0, float(values[-1] - (values + residuals)[:-1].max(initial=-math.inf)))


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


def _combination(basis: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    vector = torch.zeros_like(basis[0])
    for weight, q in zip(weights, basis, strict=True):
        vector.add_(q, alpha=weight)
    return vector.div_(torch.linalg.vector_norm(vector))


def _non_finite(start: Tensor, *, products: int) -> TopEigenpair:
    return TopEigenpair(
        value=math.nan,
        vector=start,
        error=math.nan,
        gap=math.nan,
        asymmetry=math.nan,
        products=products,
        outcome=Outcome.NON_FINITE,
    )
