"""Krylov: the space Lanczos iteration spans, one for all probes of a snapshot, grown by whoever needs more of it.

After k products with a symmetric A, the orthonormal basis Q = (q_1 … q_k) and the tridiagonal
T = QᵀAQ hold what the products said of A. The eigenvalues θ of T are Ritz values, y = Qs with its
eigenvectors s the Ritz vectors (Lanczos 1950; Parlett, 1998, "The Symmetric Eigenvalue Problem",
chapters 12 and 13). How far the ends of the spectrum may be from them: `probe_agent.estimators.extremes`.
"""

import math
from collections.abc import Callable, Sequence
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probe_agent.errors import NotApplicable
from probe_agent.estimators.hvp import Flat, hessian_of
from probe_agent.snapshot import Snapshot

_ROUNDINGS = 10.0
"""A vector shorter than this many ε‖A‖ is rounding, not a direction."""

_ASYMMETRY = 0.01
"""QᵀHQ of a Hessian departs from symmetry by rounding, some 1e-5 in float32; of anything else, by its size."""


@final
class Krylov:
    """An orthonormal basis of span{q, Aq, A²q, …} for a symmetric A, grown one product at a time, and T = QᵀAQ.

    Reorthogonalised in full, so that the basis stays orthonormal to rounding whatever converges.
    ``error`` tells how far the last product may be off beside rounding, as the length of a vector.

    Attributes:
        basis: q_1 … q_k, each of shape ``(n,)``; never written to.
        alphas: the diagonal of T, length k.
        betas: what is left of A q_j beside the basis, length k; all but the last are T's off-diagonal.
    """

    def __init__(
        self, product: Callable[[Tensor], Tensor], start: Tensor, error: Callable[[], float] = lambda: 0.0
    ) -> None:
        self._product, self._error = product, error
        self._following = start / torch.linalg.vector_norm(start)
        self._departure = 0.0
        self._squared_errors = 0.0
        self.basis: list[Tensor] = []
        self.alphas: list[float] = []
        self.betas: list[float] = []

    @property
    def products(self) -> int:
        """How many products have been taken: the dimension k of the space."""
        return len(self.basis)

    @property
    def dimension(self) -> int:
        """The dimension n of the vectors."""
        n: int = self._following.numel()
        return n

    @property
    def finite(self) -> bool:
        """Whether every product was."""
        return all(math.isfinite(x) for x in (*self.alphas, *self.betas))

    @property
    def tridiagonal(self) -> NDArray[np.float64]:
        """T, shape ``(k, k)``."""
        t: NDArray[np.float64] = np.diag(self.alphas) + np.diag(self.betas[:-1], 1) + np.diag(self.betas[:-1], -1)
        return t

    @property
    def scale(self) -> float:
        """‖T‖, which ‖A‖ is at least."""
        return float(np.abs(np.linalg.eigvalsh(self.tridiagonal)).max()) if self.alphas else 0.0

    @property
    def noise(self) -> float:
        """How far the products' errors E may have moved an eigenvalue of T: ‖QᵀE‖ ≤ ‖E‖ in the Frobenius norm (Weyl)."""
        return math.sqrt(self._squared_errors)

    @property
    def tiny(self) -> float:
        """What rounding leaves of a vector as long as ‖T‖, and the products' own errors."""
        return _ROUNDINGS * torch.finfo(self._following.dtype).eps * self.scale + self.noise

    @property
    def exhausted(self) -> bool:
        """Whether A maps the space into itself, so that the Ritz pairs are eigenpairs and nothing is left to add."""
        return bool(self.betas) and (self.products == self.dimension or self.betas[-1] <= self.tiny)

    @property
    def asymmetry(self) -> float:
        """The largest entry of QᵀAQ that a symmetric A makes zero, relative to ‖T‖: beyond rounding, A was not symmetric."""
        return max(0.0, self._departure - 2 * self.noise) / self.scale if self.scale > 0 else 0.0

    def grow_to(self, products: int) -> None:
        """Take products until there are that many, the space is exhausted, or one is not finite."""
        while self.products < products and self.finite and not self.exhausted:
            basis = [*self.basis, self._following]
            product = self._product(self._following)
            self._squared_errors += self._error() ** 2
            w, along = _orthogonalised(product, basis)
            self.basis = basis  # only now: the product may be refused
            self._departure = max([self._departure, *_departures(along, self.betas)])
            self.alphas.append(along[-1])
            self.betas.append(float(torch.linalg.vector_norm(w)))
            if self.finite and not self.exhausted:
                self._following = w / self.betas[-1]

    def combination(self, weights: Sequence[float]) -> Tensor:
        """The unit vector along Σ_j weights_j q_j, shape ``(n,)``: a Ritz vector, for an eigenvector of T."""
        vector = torch.zeros_like(self.basis[0])
        for weight, q in zip(weights, self.basis, strict=True):
            vector.add_(q, alpha=weight)
        return vector.div_(torch.linalg.vector_norm(vector))


def krylov_of(snapshot: Snapshot) -> Krylov:
    """The Krylov space of the probe loss's Hessian from a random start, as far as the probes of this snapshot have paid for it.

    It may be empty. A probe that needs k products says ``krylov_of(snapshot).grow_to(k)`` and pays
    for those that are missing; all read ``basis``, ``alphas`` and ``betas``. The start is new at
    every step: a draw that is unlucky for a slowly turning eigenvector must not stay.

    Raises:
        NotApplicable: the loss has no Hessian, see `HessianProduct`.
    """

    def empty() -> Krylov:
        hessian = hessian_of(snapshot)
        return Krylov(hessian, random_start(snapshot, "krylov"), lambda: hessian.error)

    return snapshot.once("krylov", empty)


def random_start(snapshot: Snapshot, purpose: str) -> Tensor:
    """Independent standard normal numbers for vectors as `Flat`, shape ``(P,)``, new at every step."""
    flat = Flat(snapshot)
    generator = snapshot.generator(f"{purpose} start {snapshot.step}")
    start = torch.randn(flat.dimension, generator=generator, device=generator.device)
    return start.to(flat.device, flat.dtype)


def check_symmetry(krylov: Krylov) -> None:
    """Refuse an operator that is no Hessian.

    Raises:
        NotApplicable: QᵀAQ is not symmetric, by more than rounding can do.
    """
    if krylov.finite and krylov.asymmetry > _ASYMMETRY:
        raise NotApplicable(
            f"Got second derivatives that are not symmetric, by {krylov.asymmetry:.0%}: an operation in the model or the "
            "loss has a backward pass that is not its derivative (a clipped or normalised gradient), so there is no "
            "Hessian behind the gradient. Watch a quantity of first derivatives."
        )


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
