"""The trace of the Hessian: the Gauss-Newton part from the Fisher trace, the model's own curvature by random signs.

Where the loss is c times the mean negative log-likelihood of T predictions,

    H = c (G + R),    R = (1/T) Σ_i Σ_k s_ik ∂²f_ik/∂w²,

with s = ∂(−log p)/∂f held constant. tr G is the trace of the true Fisher information (Martens 2020, "New
insights and perspectives on the natural gradient method", section 9), which per-sample gradient norms give
without a random vector. What is left is E vᵀRv over random signs v (Hutchinson 1990, "A stochastic
estimator of the trace of the influence matrix"): the variance that tr G had is gone. Of a network that is
piecewise linear in each layer, such as one of ReLU layers, tr R is zero, and its noise is that of R's
other entries.

Each group of samples has signs of its own. All groups together cost one product with the whole set, the
signs' variance averages over them, and their spread holds the error of the samples and of the signs at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from probe_agent.complaints import Complaints
from probe_agent.errors import Indivisible, NotApplicable
from probe_agent.estimators.draws import Draws, numbers, ratio_draws
from probe_agent.estimators.fisher import fisher_of, layer_of
from probe_agent.estimators.hvp import (
    DOUBLE_BACKWARD,
    Flat,
    HessianProduct,
    graphed_gradient,
    hessian_of,
    refusals_named,
    route_of,
    twice_differentiable,
)
from probe_agent.likelihood import Likelihood
from probe_agent.probe_set import ProbeSet
from probe_agent.recognition import recognise
from probe_agent.snapshot import Snapshot

_complain = Complaints()

_MEAN = 1e-3
"""How far the groups' mean loss may be from the whole's, relative to it, for the loss to be a mean over samples."""


@dataclass(frozen=True, slots=True)
class TraceDraws:
    """Parts by group, shape ``(groups,)``, whose mean is a trace, the Gauss-Newton part of it or the residual.

    ``layers`` are the traces of the layers' diagonal blocks, which add up to the whole. ``gauss_newton`` and ``residual`` are None where the loss is not a known likelihood. Where it is no
    mean over samples either, ``by_samples`` is False: the spread is that of the random signs alone. ``error`` is how far the
    products' own errors, by the ``route`` they were made, may have moved the trace.
    """

    layers: dict[str, Draws]
    gauss_newton: Draws | None = None
    residual: Draws | None = None
    by_samples: bool = True
    route: str = DOUBLE_BACKWARD
    error: float = 0.0

    @property
    def trace(self) -> Draws:
        """Of the whole Hessian."""
        return _sum(self.layers)

    @property
    def residual_ratio(self) -> Draws | None:
        """Parts whose mean is tr(H − cG) / tr(cG), None where there is no such division."""
        if self.gauss_newton is None or self.residual is None or not self.gauss_newton.sum() > 0:
            return None
        return ratio_draws(self.residual, self.gauss_newton)


def trace_draws(snapshot: Snapshot, groups: int) -> TraceDraws:
    """One product with R (or with H, where the likelihood is not known or operations cannot be differentiated twice) on each group.

    The signs are new at every step: an unlucky draw must not stay.

    Raises:
        NotApplicable: nothing is trainable.
    """
    parts = _dealt(snapshot, groups)
    generator = snapshot.generator(f"trace signs {snapshot.step}")
    outputs = snapshot.predictions()
    likelihood = _exact_likelihood(snapshot, outputs)
    fisher = None if likelihood is None or route_of(snapshot) != DOUBLE_BACKWARD else _fisher(snapshot)
    found = None if likelihood is None or fisher is None else _residuals(snapshot, parts, likelihood, generator)
    if likelihood is None or fisher is None or found is None:
        return _by_signs_alone(snapshot, [snapshot.probe_set.part(part) for part in parts], generator)
    targets = snapshot.probe_set.targets
    counts = numbers(likelihood.predictions(outputs, targets))
    mean_nll = float(numbers(likelihood.negative_log(outputs, targets)).sum()) / counts.sum()
    scale = float(snapshot.loss_fn(outputs, targets)) / mean_nll if mean_nll > 0 else 1.0

    indices = [part.cpu().numpy() for part in parts]
    by_group = np.array([counts[index].sum() for index in indices])

    def gauss_newton_of(samples: Draws) -> Draws:
        means = np.array([samples[index].mean() for index in indices])
        moved: Draws = scale * (means - means.mean() + samples.mean())
        return moved

    gauss_newton = {layer: gauss_newton_of(samples) for layer, samples in fisher.items()}
    residual = {layer: scale * ratio_draws(amounts, by_group) for layer, amounts in _stacked(found).items()}
    layers = {layer: gauss_newton[layer] + residual[layer] for layer in gauss_newton}
    return TraceDraws(layers, _sum(gauss_newton), _sum(residual))


def _residuals(
    snapshot: Snapshot, parts: Sequence[Tensor], likelihood: Likelihood, generator: torch.Generator
) -> list[dict[str, float]] | None:
    """Those of all groups, None where an operation cannot be differentiated twice."""
    try:
        return [_residual(snapshot, snapshot.probe_set.part(part), likelihood, generator) for part in parts]
    except NotApplicable:
        return None


def _residual(
    snapshot: Snapshot, part: ProbeSet, likelihood: Likelihood, generator: torch.Generator
) -> dict[str, float]:
    """vᵀ(Σ_ik s_ik ∂²f_ik)v on one group, layer by layer, by double backward of ⟨s, f⟩ with s held constant."""
    flat, kernels = Flat(snapshot), twice_differentiable(snapshot)
    with kernels():
        outputs = snapshot.outputs(inputs=part.inputs)
        score = likelihood.score(outputs.detach(), part.targets)
        slopes = graphed_gradient(outputs, flat.params, score)
        v = flat.pieces(_signs(flat, generator))
        moving = [(g, p) for g, p in zip(slopes, v, strict=True) if g is not None and g.requires_grad]
        if not moving:  # the model is linear in its parameters
            return _along(snapshot, v, [None] * len(v))
        with refusals_named(outputs):
            products = torch.autograd.grad(
                [g for g, _ in moving], flat.params, [p for _, p in moving], allow_unused=True
            )
    return _along(snapshot, v, products)


def _along(snapshot: Snapshot, v: Sequence[Tensor], products: Sequence[Tensor | None]) -> dict[str, float]:
    """vᵀ(A v) by layer, for random signs v: on average the trace of each layer's block of A."""
    dots: dict[str, float] = {}
    for name, one, other in zip(snapshot.params, v, products, strict=True):
        layer = layer_of(name)
        dot = 0.0 if other is None else float(torch.dot(one.flatten(), other.flatten().to(one)))
        dots[layer] = dots.get(layer, 0.0) + dot
    return dots


def _stacked(groups: Sequence[dict[str, float]]) -> dict[str, Draws]:
    return {layer: np.array([group[layer] for group in groups]) for layer in groups[0]}


def _sum(layers: dict[str, Draws]) -> Draws:
    whole: Draws = np.sum(list(layers.values()), axis=0)
    return whole


def _by_signs_alone(snapshot: Snapshot, parts: list[ProbeSet], generator: torch.Generator) -> TraceDraws:
    """Hutchinson's estimator, on groups where the loss is a mean over samples and else on the whole."""
    flat, whole = Flat(snapshot), snapshot.probe_set
    with torch.no_grad():
        loss = float(snapshot.loss())
        try:
            mean = sum(part.n / whole.n * float(snapshot.loss_of(part)) for part in parts)
        except Indivisible as error:
            _complain("trace of groups", f"the standard error of the Hessian's trace is not known. {error}")
            mean = math.inf

    def along(hessian: HessianProduct) -> dict[str, float]:
        v = _signs(flat, generator)
        product = hessian(v)
        routes.append(hessian.route)
        errors.append(float(torch.linalg.vector_norm(v)) * hessian.error)
        return _along(snapshot, flat.pieces(v), flat.pieces(product))

    errors: list[float] = []
    routes: list[str] = []
    if abs(mean - loss) > _MEAN * abs(loss):
        hessian = hessian_of(snapshot)
        found = _stacked([along(hessian) for _ in parts])
        return TraceDraws(found, by_samples=False, route=routes[-1], error=float(np.mean(errors)))
    sizes = np.array([part.n for part in parts], dtype=np.float64)
    found = _stacked([along(HessianProduct(snapshot, part)) for part in parts])
    draws = {layer: ratio_draws(sizes * traces, sizes) for layer, traces in found.items()}
    return TraceDraws(draws, route=routes[-1], error=float(np.mean(errors)))


def _exact_likelihood(snapshot: Snapshot, outputs: object) -> Likelihood | None:
    """The likelihood whose mean negative logarithm the loss is a multiple of, whatever the user named it.

    A likelihood named for a loss that only resembles it (label smoothing, class weights) gives another H.
    """
    if snapshot.likelihood is None or recognise(snapshot.loss_fn, outputs, snapshot.probe_set.targets) is None:
        return None
    return snapshot.likelihood


def _fisher(snapshot: Snapshot) -> dict[str, Draws] | None:
    """Each sample's part of the layers' Fisher traces, shape ``(n,)``; shared with whoever measured them at this snapshot.

    None where outputs depend on other samples than their own: then neither part of H is a sum over samples.
    """
    try:
        return fisher_of(snapshot).true
    except NotApplicable:
        return None


def _signs(flat: Flat, generator: torch.Generator) -> Tensor:
    signs = 2 * torch.randint(0, 2, (flat.dimension,), generator=generator, device=generator.device) - 1
    return signs.to(flat.device, flat.dtype)


def _dealt(snapshot: Snapshot, groups: int) -> list[Tensor]:
    """Indices of all samples dealt at random into groups as equal as can be; the same deal at every snapshot."""
    generator = snapshot.generator("trace groups")
    n = snapshot.probe_set.n
    return list(torch.randperm(n, generator=generator, device=generator.device).tensor_split(min(groups, n)))
