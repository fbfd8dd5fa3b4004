"""Ranks: how many directions the features of a layer use, by three definitions that the literature mixes up.

All are of the singular values σ_1 ≥ σ_2 ≥ … of the features H, n samples by f numbers, as they are: not
centred, as they are published. Written as functions of weights of the samples, they do not change when
all weights grow alike, so the influences of the samples (the infinitesimal jackknife, Jaeckel 1972;
Efron 1982, ch. 6) add up to zero, and rank + n · influence are draws whose mean is the rank.

With n samples no rank exceeds n, and all are biased low unless n is well above f.
"""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from probe_agent.estimators.draws import Draws, numbers
from probe_agent.estimators.features import Features


@final
@dataclass(frozen=True, slots=True)
class Spectrum:
    """The singular value decomposition of features without its right side.

    Singular values that rounding hides are left out: for features that are all zero there are none.
    For features that are not finite there is one, and it is NaN.

    Attributes:
        squares: σ², largest first, shape ``(k,)``.
        left: the left singular vectors as columns, shape ``(n, k)``.
    """

    squares: Tensor
    left: Tensor


def spectrum(features: Features, *, centred: bool) -> Spectrum:
    """By the eigenvalues of HᵀH or H Hᵀ, whichever is smaller; of the features less their mean if ``centred``."""
    matrix = features.matrix
    n = len(matrix)
    if not matrix.isfinite().all():
        return Spectrum(matrix.new_full((1,), torch.nan), matrix.new_full((n, 1), torch.nan))
    if centred:
        matrix = matrix - matrix.mean(0)
        if features.is_gram:
            matrix = matrix - matrix.mean(1, keepdim=True)
    squares, vectors = torch.linalg.eigh(matrix if features.is_gram else matrix.mT @ matrix)
    squares, vectors = squares.flip(0), vectors.flip(1)
    # Rounding: of the decomposition, and of a mean that may have been all there was.
    scale = features.matrix.diagonal().sum() if features.is_gram else features.matrix.square().sum()
    kept = squares > torch.finfo(torch.float64).eps * (n * squares[0] + scale)
    squares, vectors = squares[kept], vectors[:, kept]
    return Spectrum(squares, vectors if features.is_gram else matrix @ vectors / squares.sqrt())


def effective_rank(of: Spectrum) -> Draws:
    """Draws of exp(−Σ p_k log p_k) with p_k = σ_k / Σσ (Roy & Vetterli 2007, "The effective rank", eq. 1–3)."""
    if not len(of.squares):
        return _none(of)
    p = _shares(of)
    entropy = -(p * p.log()).sum()
    slopes = -p * (p.log() + entropy) / 2  # ∂ entropy / ∂ log σ_k²
    return _draws(entropy.exp(), entropy.exp() * (of.left.square() @ slopes))


def stable_rank(of: Spectrum) -> Draws:
    """Draws of Σσ² / σ_1², the squared Frobenius norm over the squared spectral norm (Rudelson & Vershynin 2007)."""
    if not len(of.squares):
        return _none(of)
    relative = of.squares / of.squares[0]
    rank = relative.sum()
    weights = of.left.square()
    return _draws(rank, weights @ relative - rank * weights[:, 0])


def srank(of: Spectrum, delta: float) -> Draws:
    """Draws of the least k with Σ_{i≤k} σ_i ≥ (1 − δ) Σσ, a whole number (Kumar et al. 2021, sec. 3).

    Their spread is that of the point, somewhere between k − 1 and k, where the sum is reached.
    """
    if not len(of.squares):
        return _none(of)
    p = _shares(of)
    if p.isnan().any():
        return _draws(p[0], of.left[:, 0])
    reached = p.cumsum(0)
    # A hair less, so that equal singular values are not miscounted by the rounding of their sum.
    k = int((reached < (1 - delta) * (1 - 1e-12)).sum()) + 1
    into = torch.cat([p.new_ones(k - 1), ((1 - delta - reached[k - 1]) / p[k - 1] + 1)[None]])
    weights = of.left.square() / 2
    shares_move = p[:k] * (weights[:, :k] - weights @ p[:, None])  # ∂p_k / ∂ weight of a sample
    return _draws(p.new_tensor(k), -(shares_move @ into) / p[k - 1])


def _shares(of: Spectrum) -> Tensor:
    roots = of.squares.sqrt()
    return roots / roots.sum()


def _draws(rank: Tensor, influence: Tensor) -> Draws:
    n = len(influence)
    return numbers(rank + n * (influence - influence.mean()))


def _none(of: Spectrum) -> Draws:
    """The rank of nothing is 0."""
    return numbers(of.left.new_zeros(len(of.left)))
