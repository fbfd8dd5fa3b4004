"""Auto-PGD: the reference search for the δ in a ball that raises the loss most, without a step size to choose.

Croce & Hein (2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
parameter-free attacks", Algorithm 1), in weight space as by Andriushchenko et al. (2023). Momentum
steps of size η, starting at 2ρ; at checkpoints η is halved and the search goes back to its best point
when too few steps rose, or when nothing changed since the last checkpoint. It starts at the one step of
steepest ascent, so that it never returns less than that, nor less than no perturbation at all.
"""

import math

from probe_agent.estimators.perturbation import (
    Direction,
    Norm,
    gradient_here,
    loss_at,
    loss_here,
    projected,
    scales,
    steepest,
)
from probe_agent.estimators.perturbation import gradient as gradient_at
from probe_agent.snapshot import Snapshot

_MOMENTUM = 0.75
_SUCCESSES = 0.75


def auto_pgd(
    snapshot: Snapshot, radius: float, iterations: int, norm: Norm = "l2", *, adaptive: bool = False
) -> Direction:
    """The best δ found, of the shape of the parameters; each iteration takes a gradient and a forward pass."""
    c = scales(snapshot, adaptive=adaptive)

    def loss(u: Direction) -> float:
        return loss_at(snapshot, {name: c[name] * t for name, t in u.items()}).value

    def slope(u: Direction) -> Direction:
        found = gradient_at(snapshot, {name: c[name] * t for name, t in u.items()})
        return {name: c[name] * g for name, g in found.items()}

    def step(u: Direction, along: Direction, size: float) -> Direction:
        ascent = steepest(along, norm, size)
        return projected({name: u[name] + ascent[name] for name in u}, norm, radius)

    start = {name: 0 * t for name, t in c.items()}
    u = steepest({name: c[name] * g for name, g in gradient_here(snapshot).items()}, norm, radius)
    before, now = start, loss(u)
    here = loss_here(snapshot).value
    best, most = (u, now) if now > here else (start, here)
    size, rose, since, halved_at_last = 2 * radius, 0, 0, False
    most_at_last = most
    ahead = checkpoints(iterations)
    for k in range(1, iterations):
        z = step(u, slope(u), size)
        following = projected(
            {n: u[n] + _MOMENTUM * (z[n] - u[n]) + (1 - _MOMENTUM) * (u[n] - before[n]) for n in u}, norm, radius
        )
        before, u, last, now = u, following, now, loss(following)
        rose, since = rose + (now > last), since + 1
        if now > most:
            best, most = u, now
        if k in ahead:
            stuck = not halved_at_last and most == most_at_last
            halved_at_last = rose < _SUCCESSES * since or stuck
            if halved_at_last:
                size, before, u, now = size / 2, best, best, most
            most_at_last, rose, since = most, 0, 0
    return {name: c[name] * t for name, t in best.items()}


def checkpoints(iterations: int) -> set[int]:
    """The iterations after which the step size is reconsidered (the paper's section 3.1)."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return {math.ceil(round(share * iterations, 6)) for share in shares[1:] if share <= 1}
