"""Curvature draws: what the curvature along one direction is on some of the inputs, and so how far others would move it.

To first order an eigenvalue λ of the Hessian moves by vᵀ(dH)v when the inputs change, v its
eigenvector. Over groups of the probe set the curvatures vᵀH_g v vary as a mean over so many inputs
does. Half of the inputs show that nearly as well as all of them, at half the cost: the variance of a
mean of m inputs is σ²/m, whichever m it is measured at. (A quarter does too while no few inputs make
up the curvature; once a network has learned its data by heart, they do.)
"""

import math

import numpy as np
import torch
from torch import Tensor

from probe_agent.complaints import Complaints
from probe_agent.errors import Indivisible
from probe_agent.estimators.draws import Draws
from probe_agent.estimators.hvp import HessianProduct
from probe_agent.probe_set import ProbeSet
from probe_agent.snapshot import Snapshot

_complain = Complaints()

SHARE = 2
"""One input in so many is looked at, where there are enough of them."""

DISCREPANCY = 0.5
"""How far the groups' mean may be from the whole's, relative and beside chance, for the loss to be a mean over inputs."""

STANDARD_ERRORS = 4.0
"""What chance may do."""


def curvature_draws(snapshot: Snapshot, v: Tensor, curvature: float, *, error: float, groups: int) -> Draws | None:
    """Numbers whose mean is the curvature and whose spread is its sampling error, shape ``(groups,)``.

    They are the groups' curvatures, moved so that their mean is the whole's and drawn together as if
    the groups made up the probe set. None where they do not agree with the whole's, because the loss
    is no mean over inputs (a sum, a contrast), nor where it cannot be computed on some of them.

    Args:
        snapshot: the model.
        v: the direction, shape ``(P,)``, of any length.
        curvature: vᵀHv on the whole probe set.
        error: how far that may be off.
        groups: how many, two or more; as many as there are inputs where those are fewer.
    """
    parts = _parts(snapshot, groups)
    try:
        products = snapshot.once(
            f"hessian products of {groups} groups", lambda: [HessianProduct(snapshot, part) for part in parts]
        )
    except Indivisible as refused:
        _complain("curvature of groups", f"the standard error of curvatures is not known. {refused}")
        return None
    curvatures = np.array([product.curvature(v) for product in products])
    if len(parts) < 2:
        return None
    seen = sum(part.n for part in parts)
    mean, spread = float(curvatures.mean()), float(curvatures.std(ddof=1)) / math.sqrt(len(parts))
    if not abs(mean - curvature) <= max(DISCREPANCY * abs(curvature), STANDARD_ERRORS * spread) + error:
        return None
    drawn: Draws = curvature + (curvatures - mean) * math.sqrt(seen / snapshot.probe_set.n)
    return drawn


def _parts(snapshot: Snapshot, groups: int) -> list[ProbeSet]:
    """Groups of equal size from the probe set, dealt at random; the same deal at every step."""
    whole = snapshot.probe_set
    generator = snapshot.generator("curvature groups")
    order = torch.randperm(whole.n, generator=generator, device=generator.device)
    groups = min(groups, whole.n)
    size = max(whole.n // (SHARE * groups), min(4, whole.n // groups))
    return [whole.part(order[i * size : (i + 1) * size]) for i in range(groups)]
