"""Perturbation: the loss at w + δ, what it rises by, and the δ that raises it most.

With scales c (1, or |w| for the *adaptive* kind) and the ball ‖δ / c‖_p ≤ ρ,

    S_worst = max_δ L(w + δ) − L(w)          S_avg = E_{δ ~ N(0, σ² diag c²)} L(w + δ) − L(w)

(Andriushchenko et al. 2023, "A modern look at the relationship between sharpness and generalization",
sec. 2). In the coordinates u = δ / c the ball is round, the gradient is c ∘ g, and one ascent step to its
edge is the step of SAM (Foret et al. 2021) for p = 2, ASAM (Kwon et al. 2021) with c = |w|, and the
sign step for p = ∞.

Every loss is evaluated at parameters handed to the model, which itself is never written to.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from probe_agent.errors import NotApplicable
from probe_agent.estimators.draws import Draws
from probe_agent.estimators.loss_terms import loss_terms
from probe_agent.probe_set import ProbeSet
from probe_agent.snapshot import Snapshot

Norm = Literal["l2", "linf"]
Direction = dict[str, Tensor]
"""A vector in the space of the parameters, by their names."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss and the independent parts it is the mean of, one a sample; None where it is no such mean."""

    value: float
    draws: Draws | None

    def rise_from(self, other: "Loss") -> "Loss":
        """This loss minus the other, sample by sample."""
        both = self.draws is not None and other.draws is not None and self.draws.shape == other.draws.shape
        return Loss(self.value - other.value, self.draws - other.draws if both else None)  # type: ignore[operator]


def loss_at(snapshot: Snapshot, delta: Direction | None = None) -> Loss:
    """L(w + δ) on the snapshot's probe set."""
    params = None if delta is None else {name: p.detach() + delta[name] for name, p in snapshot.params.items()}
    with torch.no_grad():
        outputs = snapshot.predictions() if params is None else snapshot.outputs(params)
        value = float(snapshot.loss_fn(outputs, snapshot.probe_set.targets))
        return Loss(value, loss_terms(snapshot, outputs, value, params)[0])


def loss_here(snapshot: Snapshot) -> Loss:
    """L(w), computed once a snapshot."""
    return snapshot.once("loss here", lambda: loss_at(snapshot))


def gradient(snapshot: Snapshot, delta: Direction | None = None, part: ProbeSet | None = None) -> Direction:
    """∂L/∂w at w + δ, of the whole probe set or a part; zero for parameters the loss does not use.

    Raises:
        NotApplicable: nothing is trainable.
    """
    if not snapshot.params:
        raise NotApplicable("Got a model whose parameters are all frozen; there is no direction to perturb it in.")
    at = snapshot.params
    if delta is not None:
        at = {name: (p.detach() + delta[name]).requires_grad_() for name, p in at.items()}
    where = snapshot.probe_set if part is None else part
    with torch.enable_grad():
        loss = snapshot.loss_of(where, None if delta is None else at)
    found = torch.autograd.grad(loss, list(at.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(at, (g.detach() for g in found), strict=True))


def gradient_here(snapshot: Snapshot) -> Direction:
    """∂L/∂w of the probe set, computed once a snapshot."""
    return snapshot.once("gradient here", lambda: gradient(snapshot))


def dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """⟨a, b⟩ in double precision."""
    return math.fsum(float((a[name].double() * b[name].double()).sum()) for name in a)


def length(a: Mapping[str, Tensor]) -> float:
    """‖a‖₂ in double precision."""
    return math.sqrt(math.fsum(float(torch.linalg.vector_norm(t, dtype=torch.float64)) ** 2 for t in a.values()))


def scaled(a: Mapping[str, Tensor], by: float) -> Direction:
    """A multiple of the direction."""
    return {name: by * t for name, t in a.items()}


def steepest(slope: Direction, norm: Norm, radius: float) -> Direction:
    """The u of the given norm that rises most to first order; zero where the slope is."""
    if norm == "linf":
        return {name: radius * t.sign() for name, t in slope.items()}
    size = length(slope)
    return scaled(slope, radius / size if size > 0 else 0.0)


def projected(u: Direction, norm: Norm, radius: float) -> Direction:
    """The point of the ball next to u."""
    if norm == "linf":
        return {name: t.clamp(-radius, radius) for name, t in u.items()}
    size = length(u)
    return u if size <= radius else scaled(u, radius / size)


def scales(snapshot: Snapshot, *, adaptive: bool) -> Direction:
    """c: the size of each weight where the ball is adaptive, else one."""
    return {name: p.detach().abs() if adaptive else torch.ones_like(p) for name, p in snapshot.params.items()}


def one_step(snapshot: Snapshot, radius: float, norm: Norm = "l2", *, adaptive: bool = False) -> Direction:
    """The δ at the edge of the ball that the gradient points to."""
    c = scales(snapshot, adaptive=adaptive)
    u = steepest({name: c[name] * g for name, g in gradient_here(snapshot).items()}, norm, radius)
    return {name: c[name] * t for name, t in u.items()}


def average_rise(snapshot: Snapshot, sigma: float, pairs: int, *, adaptive: bool = False) -> tuple[Loss, list[float]]:
    """S_avg from antithetic pairs ±δ, and the value of each pair.

    The mean of a pair has no odd terms: on a quadratic loss it is ½ δᵀHδ, whatever the gradient. The same
    normal numbers are used at every snapshot.
    """
    here, c = loss_here(snapshot), scales(snapshot, adaptive=adaptive)
    generator = snapshot.generator("perturbation normals")
    rises: list[Loss] = []
    for _ in range(pairs):
        delta = {
            name: sigma * c[name] * torch.randn(p.shape, generator=generator, dtype=p.dtype, device=p.device)
            for name, p in snapshot.params.items()
        }
        up = loss_at(snapshot, delta).rise_from(here)
        down = loss_at(snapshot, scaled(delta, -1)).rise_from(here)
        both = up.draws is not None and down.draws is not None
        rises.append(Loss((up.value + down.value) / 2, (up.draws + down.draws) / 2 if both else None))  # type: ignore[operator]
    values = [rise.value for rise in rises]
    draws = [rise.draws for rise in rises if rise.draws is not None]
    return Loss(math.fsum(values) / pairs, np.mean(draws, axis=0) if len(draws) == pairs else None), values
