"""Critical sharpness: 2/η_c, where η_c is the rate at which a step along a direction stops lowering the loss.

Kalra et al. (2026, arXiv 2601.16979). With h(η) = (L(w + η u) − L(w)) / η the critical rate is the root of
h; on a quadratic loss h(η) = gᵀu + ½ η uᵀHu is a line, so the secant method meets it at once and
2/η_c = −uᵀHu / gᵀu, a Rayleigh quotient of the Hessian for u = −g. It takes forward passes alone, and so
works where a second derivative does not exist.
"""

from dataclasses import dataclass

from probe_agent.estimators.draws import Draws
from probe_agent.estimators.perturbation import Direction, Loss, loss_at, loss_here
from probe_agent.snapshot import Snapshot

_REACH = 4.0
"""How much further to look for a rise when there was none."""


@dataclass(frozen=True, slots=True)
class Critical:
    """2/η_c with its parts by sample, and whether the root was found within the passes; NaN where there is none."""

    value: float
    draws: Draws | None
    passes: int
    converged: bool


def critical_sharpness(
    snapshot: Snapshot,
    along: Direction,
    rate: float,
    *,
    start: Direction | None = None,
    tolerance: float = 0.01,
    most: int = 12,
) -> Critical:
    """Search for η_c from ``rate`` on.

    Args:
        snapshot: where the loss is evaluated.
        along: u, the update for a rate of one.
        rate: a positive guess of η_c; the optimizer's own rate is a good one.
        start: where the step begins, relative to the snapshot's weights; by default there.
        tolerance: relative width of the bracket around η_c to reach.
        most: forward passes after which to give up.
    """
    here = loss_here(snapshot) if start is None else loss_at(snapshot, start)
    passes = 0

    def slope(eta: float) -> Loss:
        nonlocal passes
        passes += 1
        step = {name: eta * t + (0 if start is None else start[name]) for name, t in along.items()}
        rise = loss_at(snapshot, step).rise_from(here)
        return Loss(rise.value / eta, None if rise.draws is None else rise.draws / eta)

    low, high = 0.0, float("inf")
    below: Loss | None = None
    above: Loss | None = None
    eta = rate
    while passes < most:
        found = slope(eta)
        if found.value < 0:
            low, below = eta, found
        else:  # also where the loss is no number any more: beyond every edge
            high, above = eta, found
        if below is None:
            eta = high / _REACH
        elif above is None:
            eta = low * _REACH
        elif high - low <= tolerance * high:
            return _root(low, below, high, above, passes)
        else:
            eta = _between(low, below.value, high, above.value)
    return Critical(float("nan"), None, passes, converged=False)


def _between(low: float, below: float, high: float, above: float) -> float:
    """Where the line through both ends is zero, moved a little beyond so that the root is soon held from both sides."""
    share = -below / (above - below) if above < float("inf") else 0.5
    nudge = 0.3 * 0.01 if share < 0.5 else -0.3 * 0.01
    return low + (high - low) * min(max(share, 0.02), 0.98) + nudge * high


def _root(low: float, below: Loss, high: float, above: Loss, passes: int) -> Critical:
    share = -below.value / (above.value - below.value)
    eta = low + share * (high - low)
    value = 2 / eta
    draws = None
    if below.draws is not None and above.draws is not None:
        # η_c moves by −h_i(η_c) / h′ when sample i weighs more, and 2/η_c by −2/η_c² of that.
        at_root = (1 - share) * below.draws + share * above.draws
        steepness = (above.value - below.value) / (high - low)
        draws = value + 2 / eta**2 * (at_root - at_root.mean()) / steepness
    return Critical(value, draws, passes, converged=True)
