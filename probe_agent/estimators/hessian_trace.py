"""The trace of the Hessian: the Fisher trace, which is the Gauss-Newton part, plus what random vectors say of the rest.

For random signs v, E vᵀHv = tr H (Hutchinson 1990), with a large variance. The Gauss-Newton matrix G
is most of H, its trace is the Fisher trace (Martens 2020, section 9), which per-sample gradient norms give
without any random vector, and vᵀGv nearly follows vᵀHv. So

    tr H = c tr F + E[vᵀHv − c vᵀGv]

for any c: it is a control variate, and its best c is the one at which c Λ is the loss's own curvature
in output space, 1 for a mean cross-entropy.

Each group of samples gets signs of its own. The spread over groups then holds both errors at once, that
of the samples and that of the signs, and all groups together cost one product with the whole set.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from probe_agent.errors import NotApplicable
from probe_agent.estimators.draws import Draws, numbers
from probe_agent.estimators.fisher import fisher_draws
from probe_agent.estimators.gauss_newton import GaussNewtonProduct
from probe_agent.estimators.group_gradients import equal_parts
from probe_agent.estimators.hvp import HessianProduct
from probe_agent.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class TraceDraws:
    """Parts by group, shape ``(groups,)``: of the trace, and of its part beside the Gauss-Newton matrix.

    ``residual`` is None where the likelihood is not known, and the trace then comes from random signs alone.
    """

    trace: Draws
    residual: Draws | None


def trace_draws(snapshot: Snapshot, groups: int) -> TraceDraws:
    """One product with H, and one with G where there is one, on each of the groups.

    Raises:
        NotApplicable: the loss has no second derivative in the weights.
    """
    parts = [replace(snapshot, probe_set=part) for part in equal_parts(snapshot, groups)]
    generator = snapshot.generator(f"trace signs {snapshot.step}")
    scale = _output_scale(snapshot)
    traces, residuals = [], []
    for part in parts:
        hessian = HessianProduct(part)
        signs = 2 * torch.randint(0, 2, (hessian.dimension,), generator=generator, device=generator.device) - 1
        v = signs.to(hessian.device, hessian.dtype)
        curvature = hessian.curvature(v)
        if scale is None:
            traces.append(curvature)
            continue
        residual = curvature - scale * float(GaussNewtonProduct(part).draws(v).mean())
        residuals.append(residual)
    if scale is None:
        return TraceDraws(np.array(traces), None)
    fisher = _fisher(parts)
    return TraceDraws(scale * fisher + np.array(residuals), np.array(residuals))


def _fisher(parts: Sequence[Snapshot]) -> Draws:
    """The Fisher trace of each group."""
    found = [fisher_draws(part).true for part in parts]
    return np.array([sum(float(layer.mean()) for layer in (each or {}).values()) for each in found])


def _output_scale(snapshot: Snapshot) -> float | None:
    """c: the loss's curvature in output space over the likelihood's, along one random direction; None without a likelihood."""
    likelihood, targets = snapshot.likelihood, snapshot.probe_set.targets
    with torch.no_grad():
        outputs = snapshot.outputs()
    if likelihood is None or not isinstance(outputs, Tensor) or not likelihood.fits(outputs, targets):
        return None
    leaf = outputs.detach().requires_grad_()
    generator = snapshot.generator("output direction")
    u = torch.randn(outputs.shape, generator=generator, device=generator.device).to(outputs)
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(snapshot.loss_fn(leaf, targets), leaf, create_graph=True)
        if not slope.requires_grad:
            raise NotApplicable(
                "Got a loss that is linear in the model's outputs; it has no curvature there to compare with."
            )
        (curved,) = torch.autograd.grad((slope * u).sum(), leaf)
    loss_curvature = float((curved * u).double().sum())
    own = likelihood.output_curvature(outputs, targets, u)
    count = float(numbers(likelihood.predictions(outputs, targets)).sum())
    along = float((own * u).double().sum()) / count
    return loss_curvature / along if along > 0 else None
