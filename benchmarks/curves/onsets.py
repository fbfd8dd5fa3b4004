"""Onsets: a level that holds, then leaves: grokking, loss of plasticity, reconstruction on log-spaced probes."""

from dataclasses import replace

import numpy as np

from .curve import Curve, Family
from .noise import Noise, observe
from .shapes import rising, spacing

TENTH, HUNDREDTH = float(np.log(9.0)), float(np.log(99.0))
"""How long before its middle a logistic of unit rate has done a tenth and a hundredth of its way."""


def grokking(noise: Noise, n: int = 200) -> Family:
    """Validation loss: flat, then a sigmoidal drop whose width (a tenth to nine tenths) is the rise time.

    Power et al. (2022), figure 1. The truth is where a tenth of the drop is done; a call is early before a hundredth is.
    """

    def draw(rng: np.random.Generator) -> Curve:
        t = np.arange(float(n))
        width = np.exp(rng.uniform(np.log(8.0), np.log(50.0)))
        onset = rng.uniform(0.3, 0.6) * n
        drop = rng.uniform(0.5, 0.95)
        u = 2.0 * TENTH * (t - onset) / width - TENTH
        mean = 1.0 - drop / (1.0 + np.exp(np.clip(-u, -60.0, 60.0)))
        every = spacing(rng)
        begun = onset - width * (HUNDREDTH - TENTH) / (2.0 * TENTH)
        curve = _true(observe(rng, np.arange(n) * every, mean, noise), every * onset, every * width)
        return replace(curve, earliest=round(every * begun))

    return Family("", "onset_down", null=False, draw=draw)


def plasticity(noise: Noise, n: int = 300) -> Family:
    """Error for each task: flat, then a slow drift upward to the end; the drift is the rise time.

    Dohare et al. (2024), figure 1: over thousands of tasks the error of continual training creeps up.
    """

    def draw(rng: np.random.Generator) -> Curve:
        t = np.arange(float(n))
        onset = rng.uniform(0.15, 0.35) * n
        drift = rng.uniform(0.5, 0.65) * n
        mean = 1.0 + rng.uniform(0.3, 1.2) * np.clip((t - onset) / drift, 0.0, 1.0) ** rng.uniform(0.8, 1.4)
        every = spacing(rng)
        return _true(observe(rng, np.arange(n) * every, mean, noise), every * onset, every * drift)

    return Family("", "onset_up", null=False, draw=draw)


def reconstruction(noise: Noise, n: int) -> Family:
    """Reconstruction loss at steps 0 and 1 to 65536, log-spaced: flat, down to a valley, up to above where it began.

    After Schneider and Prabhushankar (2024). The truth is the valley, T is from a tenth of the fall to there.
    """

    def draw(rng: np.random.Generator) -> Curve:
        steps = np.unique(np.concatenate([[0], np.round(2.0 ** np.linspace(0.0, 16.0, n - 1))])).astype(np.int64)
        x = np.log10(1.0 + steps)
        onset, valley = rng.uniform(0.6, 1.2), rng.uniform(2.0, 2.8)
        low, end = rng.uniform(0.55, 0.85), rng.uniform(1.0, 1.4)
        fall, climb = rising(rng), rising(rng)
        falling = 1.0 + (low - 1.0) * fall((x - onset) / (valley - onset))
        climbing = low + (end - low) * climb(0.7 * (x - valley) / (x[-1] - valley))
        fine = np.linspace(0.0, 1.0, 2001)
        tenth = onset + (valley - onset) * float(fine[np.argmax(fall(fine) >= 0.1)])
        curve = observe(rng, steps, np.where(x < valley, falling, climbing), noise)
        turns = (round(10.0**onset - 1.0), round(10.0**valley - 1.0))
        return replace(curve, truth=turns[-1], turns=turns, rise=valley - tenth, log_axis=True)

    return Family("", "valley_passed", null=False, draw=draw)


def flat(asked: str, noise: Noise, n: int = 200) -> Family:
    """A level that holds to the end."""

    def draw(rng: np.random.Generator) -> Curve:
        return observe(rng, np.arange(n) * spacing(rng), np.ones(n), noise)

    return Family("", asked, null=True, draw=draw)


def _true(curve: Curve, at: float, rise: float) -> Curve:
    return replace(curve, truth=round(at), turns=(round(at),), rise=rise)


NAMED: dict[str, Family] = {
    "grokking": grokking(Noise(10.0)),
    "grokking, AR(.8)": grokking(Noise(10.0, ar=0.8)),
    "plasticity loss": plasticity(Noise(10.0)),
    "reconstruction, 17 probes": reconstruction(Noise(20.0), 17),
    "reconstruction, 33 probes": reconstruction(Noise(20.0), 33),
    **{
        f"flat, {name}, {asked}": flat(asked, noise)
        for asked in ("onset_down", "onset_up")
        for name, noise in {
            "white": Noise(10.0),
            "heavy tails": Noise(10.0, tails="heavy"),
            "AR(.8)": Noise(10.0, ar=0.8),
        }.items()
    },
}
