"""GaussNewtonProduct: v ↦ G v, the Gauss-Newton matrix of the likelihood applied to a vector; it needs no labels.

G = (1/T) Σ_i J_iᵀ Λ_i J_i over the probe samples i, with J = ∂f/∂w the outputs' Jacobian, Λ the
likelihood's curvature in output space and T the number of predictions (Schraudolph 2002, "Fast
curvature matrix-vector products for second-order gradient descent", section 3). It is the Hessian of
the mean negative log-likelihood without the term in the model's own second derivative; it has no
negative eigenvalue, and for these likelihoods it is the true Fisher information (Martens 2020,
section 9).

J v comes from reverse mode alone: Jᵀu is linear in u, so differentiating ⟨Jᵀu, v⟩ by u gives J v, whatever u
is. Its graph is built once; a product is then one pass through it and one ordinary backward pass. Where an operation
cannot be differentiated twice, J v is a central difference of outputs: four forward passes.
"""

import sys
from typing import final

import torch
from torch import Tensor

from probe_agent.errors import NotApplicable
from probe_agent.estimators.central_differences import CentralDifferences
from probe_agent.estimators.draws import Draws, numbers, ratio_draws
from probe_agent.estimators.hvp import (
    DOUBLE_BACKWARD,
    Flat,
    differences_of,
    graphed_gradient,
    refusals_named,
    twice_differentiable,
)
from probe_agent.likelihood import Likelihood
from probe_agent.snapshot import Snapshot


@final
class GaussNewtonProduct:
    """G v over the snapshot's probe set, per prediction, vectors as `Flat`.

    Raises:
        NotApplicable: the likelihood is unknown or does not fit the outputs, or nothing is trainable.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot = snapshot.of_logits()
        self._flat = Flat(snapshot)
        self._twice = twice_differentiable(snapshot)
        self._differences: CentralDifferences | None = None
        self.error = 0.0
        self._targets = snapshot.probe_set.targets
        with self._twice():
            outputs = snapshot.outputs()
            self._likelihood = _fitting(snapshot.likelihood, outputs, self._targets)
            self._anything = torch.zeros_like(outputs, requires_grad=True)
            try:
                self._pulled = graphed_gradient(outputs, self._flat.params, self._anything)
            except NotApplicable:
                self._differences = self._by_differences()
        self._outputs = outputs
        self._counts = self._likelihood.predictions(outputs, self._targets)
        self.dimension = self._flat.dimension
        self.device = self._flat.device
        self.dtype = self._flat.dtype

    def __call__(self, v: Tensor) -> Tensor:
        """G v, shape ``(P,)``, for v of shape ``(P,)``."""
        along = self._pushed(v)
        with torch.no_grad():
            curved = self._likelihood.output_curvature(self._outputs, self._targets, along)
        with self._twice():
            pulled = torch.autograd.grad(self._outputs, self._flat.params, curved, retain_graph=True, allow_unused=True)
        product = self._flat.joined(pulled).div_(self._counts.sum())
        if self._differences is not None:  # G v is off by as much of its length as J v
            relative = self._differences.error / max(float(torch.linalg.vector_norm(along)), sys.float_info.min)
            self.error = relative * float(torch.linalg.vector_norm(product))
        return product

    def draws(self, v: Tensor) -> Draws:
        """Each sample's curvature along v; their mean is vᵀG v. Shape ``(n,)``."""
        along = self._pushed(v)
        with torch.no_grad():
            curved = self._likelihood.output_curvature(self._outputs, self._targets, along)
            curvatures = (along * curved).reshape(len(along), -1).sum(1)
        return ratio_draws(numbers(curvatures), numbers(self._counts))

    def _pushed(self, v: Tensor) -> Tensor:
        """J v, of the outputs' shape."""
        self._snapshot.deadline.check()
        if self._differences is None:
            try:
                return self._exactly_pushed(v)
            except NotApplicable:
                self._differences = self._by_differences()
        return self._differences(v)

    def _exactly_pushed(self, v: Tensor) -> Tensor:
        used = [(g, p) for g, p in zip(self._pulled, self._flat.pieces(v), strict=True) if g is not None]
        with self._twice(), refusals_named(self._outputs):
            (along,) = torch.autograd.grad(
                [g for g, _ in used], [self._anything], [p for _, p in used], retain_graph=True
            )
        return along

    def _by_differences(self) -> CentralDifferences:
        def outputs(w: Tensor) -> Tensor:
            with torch.no_grad():
                found: Tensor = self._snapshot.outputs(
                    dict(zip(self._snapshot.params, self._flat.pieces(w), strict=True))
                )
                return found

        return differences_of(self._snapshot, self._flat, outputs, "outputs")

    @property
    def route(self) -> str:
        """How J v is made."""
        return DOUBLE_BACKWARD if self._differences is None else "finite differences of outputs"


def _fitting(likelihood: Likelihood | None, outputs: object, targets: Tensor) -> Likelihood:
    if likelihood is None:
        raise NotApplicable(
            "Got a loss that is not a known likelihood (cross-entropy or squared error), so its outputs have no curvature "
            'of their own. attach(likelihood="categorical") names one.'
        )
    if not isinstance(outputs, Tensor) or not likelihood.fits(outputs, targets):
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise NotApplicable(
            f"Got outputs {shape} with {targets.dtype} targets {tuple(targets.shape)}; need what a {likelihood.name} "
            "likelihood speaks of. Wrap the model so that it returns its logits."
        )
    if not likelihood.predictions(outputs, targets).sum():
        raise NotApplicable("Got a probe set whose targets are all marked as ignored; need at least one prediction.")
    return likelihood
