"""SecondOrder: the certificate that products by double backward are the derivative of the gradient, once a run.

PyTorch's own operations have second derivatives or refuse them. A stranger's `torch.autograd.Function` may do neither: a
backward pass that detaches what it has saved, or calls a kernel that autograd does not see, is taken for a
constant, and the product lacks a term without a word. So where there is one in the graph of the loss, one product is
compared with finite differences of gradients along the same random direction. What the model itself detaches
is no concern here: it is held constant, as it is for the optimizer.
"""

from dataclasses import dataclass
from typing import Any

import torch

from probe_agent.errors import NotApplicable
from probe_agent.estimators.hvp import DIFFERENCES, DOUBLE_BACKWARD, ROUTE, HessianProduct
from probe_agent.snapshot import Snapshot

TOLERANCE = 0.01
"""How far the two may be apart, relative and beside the differences' own error."""

TOO_ROUGH = 0.1
"""Differences that may be off by more than this, relatively, prove nothing."""


@dataclass(frozen=True, slots=True)
class SecondOrder:
    """The route to take, and what the comparison said; nothing where there was no need of one."""

    route: str
    said: str = ""


def certified(snapshot: Snapshot, memory: dict[str, Any]) -> None:
    """Choose the route of this snapshot's products by what was found when the run's first were compared.

    To be called before `hessian_of` and `krylov_of`. ``memory`` is the probe's.
    """
    known = memory.get("second order")
    if known is None:
        known = memory["second order"] = snapshot.once("second order", lambda: compared(snapshot))
    route: str = known.route
    snapshot.once(ROUTE, lambda: route)


def settings_of(route: str, memory: dict[str, Any]) -> dict[str, str]:
    """What is to be said of products made by this route, beside the numbers made of them; nothing where nothing is unusual."""
    said = memory["second order"].said
    return ({} if route == DOUBLE_BACKWARD else {"product": route}) | ({"certificate": said} if said else {})


def compared(snapshot: Snapshot) -> SecondOrder:
    """One product by double backward beside one by differences, where a stranger's function is in the graph."""
    exact = HessianProduct(snapshot, route=DOUBLE_BACKWARD)
    if exact.route == DIFFERENCES or not exact.strangers:
        return SecondOrder(exact.route)
    generator = snapshot.generator("second order")
    v = torch.randn(exact.dimension, generator=generator, device=generator.device).to(exact.device, exact.dtype)
    product = exact(v)
    if exact.route == DIFFERENCES:
        return SecondOrder(DIFFERENCES)
    names = " and ".join(exact.strangers)
    try:
        rough = HessianProduct(snapshot, route=DIFFERENCES)
    except NotApplicable:  # the gradients are others each time
        return SecondOrder(DOUBLE_BACKWARD, f"second derivatives of {names} could not be compared with differences")
    expected = rough(v)
    size = max(float(torch.linalg.vector_norm(each)) for each in (product, expected))
    gap = float(torch.linalg.vector_norm(product - expected))
    if not rough.error <= TOO_ROUGH * size:
        return SecondOrder(DOUBLE_BACKWARD, f"second derivatives of {names} could not be compared with differences")
    if gap > rough.error + TOLERANCE * size:
        return SecondOrder(DIFFERENCES, f"double backward through {names} is off by {gap / size:.0%}")
    return SecondOrder(DOUBLE_BACKWARD, f"second derivatives of {names} agree with differences")
