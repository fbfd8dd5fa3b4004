"""Planner: how long after a peak it can be known that it has passed, told in advance from noise and cadence.

Near its top a smooth peak is a parabola, mu(t) = h - c t^2 / 2 with t counted from the top. Suppose
it has been watched until t = d. The non-decreasing curve closest to it in least squares follows it
up to t = -s and stays level from there, at the mean of the block it pools:

    h - c (d^2 - d s + s^2) / 6  =  h - c s^2 / 2,   so  (2 s - d) (s + d) = 0  and  s = d / 2.

The squared distance between the two, with m probes in a rise time T and noise sigma, is then

    D^2  =  (m / T) / sigma^2 * integral over the block  =  (9 / 320) c^2 d^5 m / (T sigma^2).

A rule that is wrong in at most ``alpha`` of the runs that never turn is, at any one moment, a test of
that level between the two curves, and none has more power than that of Neyman and Pearson (1933):
it reaches one half when D is the upper ``alpha`` quantile z of a Gaussian. So no rule has a median delay below

    d / T  =  (320 z^2 / 9)^(1/5)  *  (kappa^2 SNR^2 m)^(-1/5),   kappa = c T^2 / h,   SNR = h / sigma.

Whence the fifths: a delay is halved by noise 2^(5/2) = 5.7 times smaller, or by 32 times the probes.
A peak whose fall flattens out into a tail needs longer than this says: a skewed one a fifth longer at
SNR^2 m = 1000, a fifteenth at 100,000.
"""

from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from collector.phases.hindsight.label import label
from collector.phases.hindsight.noise import chord_residuals, hampel, robust_sigma
from collector.phases.isotonic import isotonic

ALPHA = 0.01
"""Share of runs without a turn in which a rule may be wrong."""
DECLINE = 0.09
"""Share of its height that a peak has lost one rise time later, kappa / 2, unless told otherwise."""
METHOD = 1.6
"""Median delay of a good rule in units of the bound."""


class Plan(msgspec.Struct, frozen=True):
    """What to expect: ``bound`` and ``delay`` are medians in rise times after the peak, the best rule's and ours.

    ``noise`` is the standard deviation of one probe over the height of the peak, ``decline`` the
    share of that height lost one rise time after it. ``beyond`` says that a parabola would have
    come down to zero by then, so that the delay is longer than told.
    """

    noise: float
    every_steps: float
    rise_steps: float
    decline: float
    bound: float
    delay: float

    @property
    def delay_steps(self) -> float:
        """The delay in optimizer steps."""
        return self.delay * self.rise_steps

    @property
    def delay_probes(self) -> float:
        """The delay in probes."""
        return self.delay_steps / self.every_steps

    @property
    def beyond(self) -> bool:
        """Whether the delay is longer than a parabola lasts."""
        return self.decline * self.delay**2 > 1.0

    def changed(self, *, noise: float = 1.0, probes: float = 1.0) -> "Plan":
        """The plan with this many times the noise of a probe, and this many times the probes."""
        factor = (noise**2 / probes) ** 0.2
        return Plan(
            self.noise * noise,
            self.every_steps / probes,
            self.rise_steps,
            self.decline,
            self.bound * factor,
            self.delay * factor,
        )

    @property
    def sentence(self) -> str:
        """The plan in words."""
        return (
            f"With a noise of {100 * self.noise:.3g} % a probe and a probe every {self.every_steps:.3g} steps, a rise of "
            f"{self.rise_steps:,.0f} steps can be seen to have peaked {'more than' if self.beyond else 'about'} "
            f"{self.delay:.1f} rise times ({_rounded(self.delay_steps):,.0f} steps) after the peak; "
            f"with a quarter of the noise: {self.changed(noise=0.25).delay:.1f}."
        )


def squared_distance(curvature: float, after: float) -> float:
    """Of h - c t^2 / 2, watched until t = ``after``, from the closest non-decreasing curve: 9/320 c^2 d^5."""
    return 9.0 / 320.0 * curvature**2 * after**5


def bound(snr: float, probes_per_rise: float, *, decline: float = DECLINE, alpha: float = ALPHA) -> float:
    """The least median delay of any rule, in rise times after the peak.

    ``snr`` is the height of the peak over the noise of one probe. See the module for the derivation.
    """
    z = NormalDist().inv_cdf(1.0 - alpha)
    return float((z**2 / (squared_distance(2.0 * decline, 1.0) * snr**2 * probes_per_rise)) ** 0.2)


def plan(
    noise: float,
    every_steps: float,
    rise_steps: float,
    method_factor: float = METHOD,
    *,
    decline: float = DECLINE,
    alpha: float = ALPHA,
) -> Plan:
    """What to expect of a quantity probed every so many steps that takes ``rise_steps`` to its peak.

    Raises:
        ValueError: a number is not positive, or the rise is shorter than the time between probes.
    """
    for name, value in (("noise", noise), ("time between probes", every_steps), ("decline", decline)):
        if not value > 0.0:
            raise ValueError(f"Got a {name} of {value:g}; it must be above 0.")
    if not rise_steps >= every_steps:
        raise ValueError(
            f"Got a rise of {rise_steps:g} steps and a probe every {every_steps:g}; probe at least once in a rise."
        )
    least = bound(1.0 / noise, rise_steps / every_steps, decline=decline, alpha=alpha)
    return Plan(noise, every_steps, rise_steps, decline, least, method_factor * least)


class Cadence(msgspec.Struct, frozen=True):
    """What a stored series says of itself: relative noise of one probe, steps between probes, steps from a tenth of the rise to the peak.

    ``rise_steps`` is None where no peak can be seen in hindsight.
    """

    noise: float
    every_steps: float
    rise_steps: float | None


def cadence(steps: ArrayLike, values: ArrayLike, paired: ArrayLike | None = None) -> Cadence:
    """The cadence of a series, arrays of shape (n,); outliers and what is not finite do not count.

    Raises:
        ValueError: fewer than 3 values are finite, or all are zero.
    """
    y = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(y)
    x, y = np.asarray(steps, dtype=np.float64)[finite], y[finite]
    if y.size < 3 or not y.any():
        raise ValueError(f"Got {y.size} finite values; 3 are needed to tell noise, not all of them zero.")
    sigma = robust_sigma(chord_residuals(x, y))
    kept, _ = hampel(y, np.full(y.size, sigma))
    relative = robust_sigma(chord_residuals(x, np.log(y))) if (y > 0.0).all() else sigma / float(np.abs(kept).max())
    top = label(np.asarray(steps), np.asarray(values), paired, "peak").step
    rise = None
    if top is not None:
        until = x <= top
        curve = isotonic(kept[until], np.ones(int(until.sum())))
        tenth = np.searchsorted(curve, curve[0] + 0.1 * (curve[-1] - curve[0]))
        rise = float(top - x[until][tenth])
    return Cadence(relative, float(np.median(np.diff(x))), rise)


def _rounded(steps: float) -> float:
    return float(f"{steps:.2g}")
