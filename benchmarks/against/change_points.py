"""Change points: detectors of public libraries, as a stream of probes would meet them; a library may be missing.

A change counts as a passed peak where the newer level is the lower one. Libraries' defaults are kept, but for KSWIN's
window, which by default waits for 100 probes.
"""

from importlib import import_module

import numpy as np
from curves.curve import Curve

from against.phase_rules import Flags, Rule

REFIT_EVERY = 10
"""Probes between two fits of PELT; each takes up to a tenth of a second."""
PENALTY = 16.0
"""PELT's, in units of the noise variance."""


def page_hinkley(curve: Curve) -> Flags:
    """River's Page-Hinkley test for a decrease; its threshold is in the units of the signal."""
    detector = import_module("river.drift").PageHinkley(mode="down")
    found = []
    for value in curve.values.tolist():
        detector.update(value)
        found.append(detector.drift_detected)
    return np.array(found, dtype=np.bool_)


def adwin(curve: Curve) -> Flags:
    """River's ADWIN, where its estimate of the mean went down."""
    detector = import_module("river.drift").ADWIN()
    found, before = [], 0.0
    for value in curve.values.tolist():
        detector.update(value)
        found.append(detector.drift_detected and detector.estimation < before)
        before = detector.estimation
    return np.array(found, dtype=np.bool_)


def kswin(curve: Curve) -> Flags:
    """River's KSWIN with a window of 60, where the newest 20 lie below the 40 before them."""
    detector = import_module("river.drift").KSWIN(window_size=60, stat_size=20, seed=0)
    x, found = curve.values, []
    for i, value in enumerate(x.tolist(), start=1):
        detector.update(value)
        found.append(detector.drift_detected and x[i - 20 : i].mean() < x[i - 60 : i - 20].mean())
    return np.array(found, dtype=np.bool_)


def pelt(curve: Curve) -> Flags:
    """PELT of ruptures, refitted as probes come: the last segment's mean is below that of the highest segment.

    Values are in units of the reported noise, or of that of neighbours' differences where none is reported.
    """
    fit, x = import_module("ruptures").Pelt(model="l2", jump=1, min_size=3).fit, curve.values
    found = np.zeros(x.size, dtype=np.bool_)
    for end in range(2 * REFIT_EVERY, x.size + 1, REFIT_EVERY):
        if curve.stderr is None:
            sigma = np.median(np.abs(np.diff(x[:end]))) / (0.6745 * np.sqrt(2.0))
        else:
            sigma = curve.stderr[:end].mean()
        ends = fit(x[:end] / sigma).predict(pen=PENALTY)
        means = [part.mean() for part in np.split(x[:end], ends[:-1])]
        found[end - 1] = means[-1] < max(means)
    return found


CHANGE_POINTS: dict[str, tuple[str, Rule]] = {
    "river PageHinkley": ("river", page_hinkley),
    "river ADWIN": ("river", adwin),
    "river KSWIN": ("river", kswin),
    "ruptures PELT": ("ruptures", pelt),
}
"""Name, package, and the rule, all for a passed peak."""
SLOW = ("ruptures PELT",)
"""Those that take a second for what the others do in milliseconds, so get fewer runs."""
