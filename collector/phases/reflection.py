"""Reflected e-process: the evidence that a mean which should only have risen so far has fallen.

Null hypothesis: the mean has been non-decreasing since the first probe; nothing else, no shape, no
horizon. Fold the series at a split b: under the null each pair (y[b-i+1], y[b+i]) differs by at
most zero in the mean, so for independent noise of known sigma and any rate r > 0

    E_{b,k}(r) = exp( r * sum_{i<=k} (y[b-i+1] - y[b+i])  -  r^2/2 * sum_{i<=k} (s[b-i+1]^2 + s[b+i]^2) )

is a supermartingale in k, and so is its mean over a few rates. By Ville's inequality it ever
reaches 1/a with probability at most a; with weights 1/(b(b+1)), which sum to one, the union over
all splits keeps that bound for ever: P(some b, k: E_{b,k} / (b(b+1)) >= 1/alpha) <= alpha.

That is a theorem for independent noise of known sigma and a first probe fixed in advance. Here
sigma is estimated, outliers are replaced and the first probe is where the last turn happened, so
in use the bound is measured, on curves that never turn, and not proved. Noise that is strongly
correlated from probe to probe breaks it.

The probe that just came closes exactly the pairs with b + k = n, so these are all that is evaluated:
O(n) for a new probe, every (b, k) once in the life of a series. Of a rise: the same with -y.

After Ville (1939); Howard, Ramdas, McAuliffe, Sekhon (2020) for the sub-Gaussian exponential form.
"""

from dataclasses import dataclass

import numpy as np

from collector.phases.series import Floats

RATES = (0.125, 0.25, 0.5, 1.0, 2.0)
"""Rates of the mixture, in units of 1/sigma: from a drop of a quarter sigma kept up long to one of four sigma."""


@dataclass(frozen=True, slots=True)
class Folds:
    """The evidence of a fall at each fold that ends at the newest probe.

    Entry j is the pair of windows of k = j + 1 probes: ``before`` and ``after`` are their means,
    ``log_e`` the natural logarithm of the weighted e-value. Shape (n // 2,).
    """

    log_e: Floats
    before: Floats
    after: Floats


def fall(y: Floats, sigma: Floats) -> Folds:
    """The evidence against "the mean of ``y`` has been non-decreasing", ``sigma`` its noise, both of shape (n,)."""
    n = y.size
    k = np.arange(1, n // 2 + 1)
    newest_first = np.cumsum(y[::-1] - y.mean())  # centred: a sum of large levels would swallow the drop
    after = newest_first[k - 1]
    before = newest_first[2 * k - 1] - after
    variance = np.cumsum(sigma[::-1] ** 2)[2 * k - 1]
    rate = np.array(RATES)[:, None] / np.sqrt(np.mean(sigma**2))
    exponents = rate * (before - after) - 0.5 * rate**2 * variance
    top = exponents.max(axis=0)
    mixed = top + np.log(np.exp(exponents - top).mean(axis=0))
    split = (n - k).astype(np.float64)
    level = y.mean()
    return Folds(mixed - np.log(split * (split + 1.0)), before / k + level, after / k + level)


def rise(y: Floats, sigma: Floats) -> Folds:
    """The evidence against "the mean of ``y`` has been non-increasing": the fall of its mirror image."""
    mirror = fall(-y, sigma)
    return Folds(mirror.log_e, -mirror.before, -mirror.after)
