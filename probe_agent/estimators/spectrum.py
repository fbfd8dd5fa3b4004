"""The spectrum of the Hessian as a Krylov space sees it: Lanczos quadrature, and the distance to the second eigenvalue.

From a random start q_1 the eigenvalues θ of T, with the squared first components w of its eigenvectors
as weights, are the Gauss quadrature of the spectral measure q_1 sees: Σ_j w_j f(θ_j) estimates
tr f(A)/n (Golub & Welsch 1969; Ubaru, Chen & Saad 2017, "Fast estimation of tr(f(A)) via stochastic
Lanczos quadrature"; for networks Ghorbani, Krishnan & Xiao 2019, "An investigation into neural net
optimization via Hessian eigenvalue density", section 2).

A handful of nodes resolves integrals of functions that are small where most of a network's spectrum
lies, near zero; it does not resolve counts. The share of *eigenvalues* below zero, or their quantiles,
hang on which side of zero one node with most of the weight falls, and the nodes of different starts
agree on the wrong side.
"""

import math
import sys
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from probe_agent.estimators.extremes import extreme
from probe_agent.estimators.hvp import hessian_of
from probe_agent.estimators.lanczos import Krylov
from probe_agent.snapshot import Snapshot
from probe_wire import Estimate, Outcome

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Density:
    """A smoothed spectral density on a grid, and its standard error over the starts, all of shape ``(points,)``.

    ``width`` is the standard deviation of the Gaussian each node was smoothed with.
    """

    grid: Numbers
    density: Numbers
    stderr: Numbers
    width: float


def quadrature(krylov: Krylov) -> tuple[Numbers, Numbers]:
    """Nodes θ_j in ascending order and weights w_j that sum to one, each of shape ``(k,)``."""
    nodes, vectors = np.linalg.eigh(krylov.tridiagonal)
    return nodes, vectors[0] ** 2


def negative_share(krylov: Krylov) -> Estimate:
    """Σ|λ| over the negative eigenvalues, relative to Σ|λ| over all: ½ for a symmetric spectrum, 0 in a convex bowl.

    The standard error is that of the random start, Var(qᵀBq) = 2‖B‖² for the linearised ratio with
    ‖B‖² by the same quadrature, and what the last product changed, in quadrature.
    """
    nodes, weights = quadrature(krylov)
    total = float(weights @ np.abs(nodes))
    if total <= krylov.tiny:
        return Estimate.without_value(Outcome.NOT_APPLICABLE)
    share = _share(nodes, weights)
    apart = np.maximum(-nodes, 0) - share * np.abs(nodes)
    start = 2 * float(weights @ apart**2) / (krylov.dimension * total**2)
    change = 0.0
    if krylov.products > 1 and not krylov.exhausted:
        fewer, vectors = np.linalg.eigh(krylov.tridiagonal[:-1, :-1])
        change = share - _share(fewer, vectors[0] ** 2)
    return Estimate(share, math.sqrt(start + change**2), n=1)


def second_eigenpair(krylov: Krylov) -> tuple[float, float, list[float]]:
    """The second largest Ritz value, how far it may be off by 2 r²/gap, and its vector's weights; two products or more.

    A repeated eigenvalue is met once: from one start no Krylov space sees a multiplicity.
    """
    values, vectors = np.linalg.eigh(krylov.tridiagonal)
    residuals = np.zeros_like(values) if krylov.exhausted else krylov.betas[-1] * np.abs(vectors[-1])
    value, r = float(values[-2]), float(residuals[-2])
    below = value - float((values + residuals)[:-2].max(initial=-math.inf))
    gap = max(0.0, min(below, float(values[-1] - residuals[-1] - value)))
    error = min(r, 2 * r * r / gap) if gap > 0 else r
    return value, error + krylov.tiny, vectors[:, -2].tolist()


def spectral_density(snapshot: Snapshot, *, runs: int = 8, products: int = 40, points: int = 400) -> Density:
    """The density of the Hessian's spectrum from several random starts; ``runs · products`` products.

    Smoothed as widely as the nodes are apart on average, so that it shows no more than was resolved.

    Args:
        snapshot: the model.
        runs: random starts, two or more; their spread is the standard error.
        products: nodes a start.
        points: of the grid.

    Raises:
        ValueError: fewer than two runs or products.
        NotApplicable: the loss has no Hessian, see `HessianProduct`.
    """
    if runs < 2 or products < 2:
        raise ValueError(f"Got runs={runs}, products={products}; need at least two of each to see a spread.")
    hessian = hessian_of(snapshot)
    generator = snapshot.generator(f"spectral density {snapshot.step}")
    spaces = []
    for _ in range(runs):
        start = torch.randn(hessian.dimension, generator=generator, device=generator.device)
        spaces.append(Krylov(hessian, start.to(hessian.device, hessian.dtype), lambda: hessian.error))
        spaces[-1].grow_to(products)
    low = min(extreme(space, "bottom").value for space in spaces)
    high = max(extreme(space, "top").value for space in spaces)
    width = max((high - low) / products, *(space.tiny for space in spaces), sys.float_info.min)
    grid = np.linspace(low - 4 * width, high + 4 * width, points)
    densities = []
    for space in spaces:
        nodes, weights = quadrature(space)
        densities.append(
            np.exp(-(((grid[:, None] - nodes) / width) ** 2) / 2) @ weights / (width * math.sqrt(2 * math.pi))
        )
    stacked = np.array(densities)
    return Density(grid=grid, density=stacked.mean(0), stderr=stacked.std(0, ddof=1) / math.sqrt(runs), width=width)


def _share(nodes: Numbers, weights: Numbers) -> float:
    total = float(weights @ np.abs(nodes))
    return float(weights @ np.maximum(-nodes, 0)) / total if total > 0 else 0.0
