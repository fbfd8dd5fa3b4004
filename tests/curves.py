"""Seeded families of curves whose phases are known: what a detector is judged on."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """Probes with the truth behind them.

    ``turns`` are the true steps of the turning points in order. ``rise_steps`` is the rise time T,
    from a tenth of the rise to the peak, in steps: the unit delays are told in.
    """

    steps: NDArray[np.int64]
    values: Floats
    paired: Floats
    turns: tuple[int, ...] = ()
    rise_steps: float = float("nan")


Family = Callable[[int], Curve]


def _noisy(seed: int, mean: Floats, snr: float, *, tails: str = "gauss", rho: float = 0.0) -> tuple[Floats, Floats]:
    """The mean with noise of sd 30 % additive and 70 % proportional to the level, and its paired standard error.

    ``snr`` is the highest level over the sd there. Two thirds of the variance is the estimator's,
    which is what the paired error can know, with 8 % error of its own. Scales differ by 10^6.
    """
    rng = np.random.default_rng((seed, 7))
    top = float(mean.max())
    sd = (0.3 * top + 0.7 * mean) / snr
    z = rng.standard_normal(mean.size)
    if tails == "heavy":
        z = rng.standard_t(2.5, mean.size) / np.sqrt(5.0)
    if tails == "skew":
        z = rng.exponential(1.0, mean.size) - 1.0
    for i in range(1, mean.size if rho else 0):
        z[i] = rho * z[i - 1] + np.sqrt(1 - rho**2) * z[i]
    scale = 10.0 ** rng.uniform(-3, 3)
    paired = np.sqrt(2 / 3) * sd * (1 + 0.08 * rng.standard_normal(mean.size))
    return scale * (mean + sd * z), scale * np.abs(paired)


def _curve(seed: int, mean: Floats, snr: float, *, every: int = 20, **noise: object) -> Curve:
    values, paired = _noisy(seed, mean, snr, **noise)  # type: ignore[arg-type]
    return Curve(np.arange(mean.size) * every, values, paired)


def bump(t: Floats, peak: float, sharpness: float) -> Floats:
    """A fast rise to 1 at ``peak`` and a slower decay: (t/p)^a e^{a(1 - t/p)}."""
    u = np.maximum(t, 0.0) / peak
    return np.asarray(u**sharpness * np.exp(sharpness * (1.0 - u)))


def rise_peak_decay(seed: int, snr: float = 20.0, n: int = 150, rise: tuple[float, float] = (18.0, 40.0)) -> Curve:
    """The Fisher trace of Achille et al. (2019): fast rise, peak, slow decline to above where it began."""
    rng = np.random.default_rng((seed, 1))
    probes, sharpness, base = rng.uniform(*rise), rng.uniform(1.0, 2.5), rng.uniform(0.05, 0.4)
    t = np.arange(n, dtype=np.float64)
    fine = np.linspace(0, probes, 2001)
    tenth = fine[np.searchsorted(bump(fine, probes, sharpness), 0.1)]
    curve = _curve(seed, base + (1 - base) * bump(t, probes, sharpness), snr)
    return Curve(curve.steps, curve.values, curve.paired, (round(probes * 20),), 20 * float(probes - tenth))


def saturating(seed: int, snr: float = 10.0) -> Curve:
    rng = np.random.default_rng((seed, 2))
    t = np.arange(150.0)
    return _curve(seed, 1 - rng.uniform(0.6, 0.95) * np.exp(-t / rng.uniform(8, 40)), snr)


def linear_growth(seed: int, snr: float = 10.0) -> Curve:
    return _curve(seed, 0.3 + np.arange(150.0) * np.random.default_rng((seed, 3)).uniform(0.002, 0.01), snr)


def constant(seed: int, snr: float = 10.0, n: int = 150) -> Curve:
    return _curve(seed, np.ones(n), snr)


def staged_growth(seed: int, snr: float = 10.0) -> Curve:
    rng = np.random.default_rng((seed, 4))
    t = np.arange(150.0)
    return _curve(seed, 0.2 + sum(0.25 / (1 + np.exp(-(t - at) / 3.0)) for at in rng.uniform(10, 140, 3)), snr)


def monotone_decline(seed: int, snr: float = 10.0) -> Curve:
    rng = np.random.default_rng((seed, 5))
    return _curve(seed, rng.uniform(0.05, 0.4) + np.exp(-np.arange(150.0) / rng.uniform(10, 60)), snr)


def dip_then_saturating(seed: int, snr: float = 10.0) -> Curve:
    """A transient from a high start down to a dip, then a rise that stays."""
    rng = np.random.default_rng((seed, 9))
    t, dip = np.arange(150.0), rng.uniform(8, 20)
    transient = rng.uniform(0.5, 1.5) * np.exp(-t / rng.uniform(1.5, 4.0))
    mean = 0.5 + transient + 1.5 * (1 - np.exp(-np.maximum(t - dip, 0) / rng.uniform(10, 40)))
    curve = _curve(seed, mean, snr)
    return Curve(curve.steps, curve.values, curve.paired, (round(dip * 20),))


def heavy_tails(seed: int) -> Curve:
    rng = np.random.default_rng((seed, 2))
    mean = 1 - rng.uniform(0.6, 0.95) * np.exp(-np.arange(150.0) / rng.uniform(8, 40))
    return _curve(seed, mean, 10.0, tails="heavy")


def skewed(seed: int) -> Curve:
    return _curve(seed, 0.5 + 0.5 * saturating(seed).steps / 3000, 10.0, tails="skew")


def giant_spike(seed: int) -> Curve:
    curve = saturating(seed)
    at = int(np.random.default_rng((seed, 6)).integers(3, 147))
    curve.values[at] *= 60.0
    return curve


def spiky(seed: int) -> Curve:
    """3 % of the probes are 3 to 10 times too large."""
    curve = saturating(seed)
    rng = np.random.default_rng((seed, 6))
    wild = rng.random(150) < 0.03
    curve.values[wild] *= rng.uniform(3, 10, int(wild.sum()))
    return curve


def autocorrelated(seed: int, rho: float = 0.3) -> Curve:
    rng = np.random.default_rng((seed, 2))
    mean = 1 - rng.uniform(0.6, 0.95) * np.exp(-np.arange(150.0) / rng.uniform(8, 40))
    return _curve(seed, mean, 10.0, rho=rho)


def irregular(seed: int) -> Curve:
    """A saturating curve seen at ragged steps, a third of them lost, some not a number."""
    curve = saturating(seed)
    rng = np.random.default_rng((seed, 6))
    keep = rng.random(150) > 0.3
    curve.values[rng.random(150) < 0.05] = np.nan
    steps = curve.steps * 3 + rng.integers(0, 50, 150)
    return Curve(steps[keep], curve.values[keep], curve.paired[keep])


NULLS: dict[str, Family] = {
    "constant": constant,
    "saturating": saturating,
    "saturating at SNR 50": lambda seed: saturating(seed, 50.0),
    "linear growth": linear_growth,
    "staged growth": staged_growth,
    "heavy tails": heavy_tails,
    "skewed": skewed,
    "giant spike": giant_spike,
    "spiky": spiky,
    "AR(0.3)": autocorrelated,
    "irregular": irregular,
    "monotone decline": monotone_decline,
}
"""Curves that never rise and then decline: whoever says the critical period ended is wrong."""


def double_descent(seed: int, snr: float = 20.0, per_decade: int = 15) -> Curve:
    """Local complexity after Humayun et al. (2024): descent, ascent, final descent, on log-spaced steps to 10^5."""
    rng = np.random.default_rng((seed, 8))
    decades = np.linspace(0, 5, 5 * per_decade)
    steps = np.unique(np.round(10**decades)).astype(np.int64)
    x = np.log10(steps)
    valley, top = rng.uniform(1.6, 2.0), rng.uniform(3.5, 3.9)
    knots, levels = (
        [0.0, 0.3, valley, top, 5.0],
        [1.0, 0.97, rng.uniform(0.35, 0.5), rng.uniform(0.8, 1.0), rng.uniform(0.2, 0.4)],
    )
    mean = _monotone_between(x, np.array(knots), np.array(levels))
    values, paired = _noisy(seed, mean, snr)
    return Curve(steps, values, paired, (int(10**valley), int(10**top)))


def batch_norm_rise(seed: int, snr: float = 20.0) -> Curve:
    """Local complexity with batch norm: one rise, on log-spaced steps, no second descent."""
    curve = double_descent(seed, snr)
    mean = 0.5 + 0.5 * (1 - np.exp(-np.log10(curve.steps + 1.0)))
    values, paired = _noisy(seed, mean, snr)
    return Curve(curve.steps, values, paired)


def _monotone_between(x: Floats, knots: Floats, levels: Floats) -> Floats:
    """A smooth curve with flat turns exactly at the knots."""
    i = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, knots.size - 2)
    u = np.clip((x - knots[i]) / (knots[i + 1] - knots[i]), 0.0, 1.0)
    return np.asarray(levels[i] + (levels[i + 1] - levels[i]) * (1 - np.cos(np.pi * u)) / 2)
