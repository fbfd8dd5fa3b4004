"""The perturbation probe: how much the loss rises when the weights are moved, at worst and on average."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np

from probe_agent.estimators.auto_pgd import auto_pgd
from probe_agent.estimators.draws import Draws, mean_of
from probe_agent.estimators.perturbation import (
    Loss,
    Norm,
    average_rise,
    gradient_here,
    length,
    loss_at,
    loss_here,
    one_step,
    scaled,
)
from probe_agent.estimators.repetition import check_loss_repeats
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.snapshot import Snapshot
from probe_wire import Estimate, Quantity

WORST = Quantity(
    "sharpness_worst",
    "1",
    "The largest rise of the loss within a ball of weights around the network (Andriushchenko et al. 2023). Its trend "
    "says when an early intervention may end (Liu and Gurevych 2024); its level depends on the radius and on scale.",
    "Worst-case sharpness",
    "log",
)
FIRST_ORDER = Quantity(
    "sharpness_first_order",
    "1",
    "Radius times gradient norm: the worst-case rise were the loss a plane. Where it equals the worst-case sharpness, "
    "that sharpness is the gradient norm in disguise and says nothing of curvature.",
    "Worst case to first order",
    "log",
)
ADAPTIVE = Quantity(
    "sharpness_adaptive",
    "1",
    "The largest rise of the loss when each weight may move in proportion to its size (Kwon et al. 2021): not changed by "
    "rescalings of the weights that leave a ReLU network the same function.",
    "Adaptive sharpness",
    "log",
)
AVERAGE = Quantity(
    "sharpness_average",
    "1",
    "The mean rise of the loss under normal noise on the weights, to second order half the noise's variance times the "
    "trace of the Hessian. May be negative away from a minimum.",
    "Average-case sharpness",
)

NORMS: tuple[Norm, ...] = ("l2", "linf")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Perturbation(Probe):
    """S_worst by one ascent step or by Auto-PGD, its first-order form, S_avg, and on request the adaptive kinds.

    The rises of the samples' losses at the δ that was found are the draws; δ itself was chosen on the same
    samples, so a worst case is too high by what it owes to them, as every maximum over a sample is. Where
    the loss is no mean over samples the standard error is NaN.

    Attributes:
        radius: ρ of the ball ‖δ‖₂ ≤ ρ, the radius of the whole vector (0.01 as Liu and Gurevych 2024).
        method: "one step" of SAM, or "auto-pgd", the reference search of ``iterations`` gradients.
        sigma: σ of the average case, the standard deviation of each single weight: a vector of length σ √P.
        pairs: antithetic pairs of perturbations for the average case, two forward passes each.
        adaptive: whether to measure the adaptive kinds, by ``adaptive_iterations`` of Auto-PGD in both norms.
        adaptive_l2: ρ of ‖δ / |w|‖₂ ≤ ρ.
        adaptive_linf: ρ of ‖δ / |w|‖_∞ ≤ ρ: the share by which each weight may change.

    Raises:
        ValueError: at construction, for settings that cannot be met.
    """

    name: ClassVar[str] = "perturbation"
    quantities: ClassVar[tuple[Quantity, ...]] = (WORST, FIRST_ORDER, AVERAGE, ADAPTIVE)

    radius: float = 0.01
    method: Literal["one step", "auto-pgd"] = "one step"
    iterations: int = 20
    sigma: float = 0.01
    pairs: int = 4
    adaptive: bool = False
    adaptive_iterations: int = 5
    adaptive_l2: float = 0.1
    adaptive_linf: float = 0.001

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        for name in ("radius", "sigma", "adaptive_l2", "adaptive_linf"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"Got {name}={getattr(self, name)}; need a positive size, such as 0.01.")
        if self.method not in ("one step", "auto-pgd"):
            raise ValueError(f'Got method={self.method!r}; need "one step" or "auto-pgd".')
        if self.pairs < 2:
            raise ValueError(f"Got pairs={self.pairs}; need at least two to see how much perturbations differ.")
        if min(self.iterations, self.adaptive_iterations) < 1:
            raise ValueError("Got fewer than one iteration; need at least 1.")

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:  # noqa: ARG002 - a Probe's signature
        """The worst case, its first-order form, the average, then the adaptive kinds where they are asked for."""
        check_loss_repeats(snapshot)
        here = loss_here(snapshot)
        step = one_step(snapshot, self.radius)
        found = step if self.method == "one step" else auto_pgd(snapshot, self.radius, self.iterations)
        method = self.method if self.method == "one step" else f"auto-pgd, {self.iterations} iterations"
        ball = {"radius": f"{self.radius:g}", "ball": "||d||_2 <= radius"}
        up = loss_at(snapshot, step).rise_from(here)
        worst = up if self.method == "one step" else loss_at(snapshot, found).rise_from(here)
        yield _measured(WORST, worst, settings=ball | {"method": method})
        down = here.rise_from(loss_at(snapshot, scaled(step, -1)))
        yield self._first_order(snapshot, up, down, ball)
        average, each = average_rise(snapshot, self.sigma, self.pairs)
        luck = mean_of(np.array(each)).stderr  # of the perturbations, beside that of the samples
        settings = {"sigma": f"{self.sigma:g}", "noise": "sigma on each weight", "pairs": str(self.pairs)}
        yield _measured(AVERAGE, average, luck=luck, settings=settings)
        if self.adaptive:
            for norm, radius in zip(NORMS, (self.adaptive_l2, self.adaptive_linf), strict=True):
                delta = auto_pgd(snapshot, radius, self.adaptive_iterations, norm, adaptive=True)
                yield _measured(
                    ADAPTIVE,
                    loss_at(snapshot, delta).rise_from(here),
                    labels={"norm": norm},
                    settings={
                        "radius": f"{radius:g}",
                        "ball": "||d / |w| || <= radius",
                        "method": f"auto-pgd, {self.adaptive_iterations} iterations",
                    },
                )

    def _first_order(self, snapshot: Snapshot, up: Loss, down: Loss, ball: dict[str, str]) -> Measurement:
        """ρ‖g‖ with the samples' own slopes along g, by the central difference over the ball, as its draws."""
        value = self.radius * length(gradient_here(snapshot))
        draws: Draws | None = None
        if up.draws is not None and down.draws is not None:
            slopes = (up.draws + down.draws) / 2
            draws = slopes - slopes.mean() + value
        return _measured(FIRST_ORDER, Loss(value, draws), settings=ball)


def _measured(
    quantity: Quantity,
    rise: Loss,
    *,
    luck: float = 0.0,
    labels: dict[str, str] | None = None,
    settings: dict[str, str],
) -> Measurement:
    """The rise with the samples' error and, in quadrature, that of the perturbations' luck."""
    samples = Estimate(math.nan) if rise.draws is None else mean_of(rise.draws)
    return Measurement(
        quantity=quantity,
        estimate=Estimate(rise.value, math.hypot(samples.stderr, luck), n=samples.n).checked(),
        labels=labels or {},
        draws=rise.draws,
        settings=settings,
    )
