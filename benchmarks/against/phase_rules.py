"""Phase rules: what is used in practice or published to tell that a peak, a plateau, the edge or a spike has come.

Each takes a curve and gives, for each probe, whether the rule alarms there; shape (n,). Only what was seen up to a
probe decides about it. Constants are the published ones.
"""

from collections.abc import Callable

import numpy as np
from curves.curve import Curve, Floats
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Flags = NDArray[np.bool_]
Rule = Callable[[Curve], Flags]
WINDOW = 50
"""Steps that tell what is usual, for the rules on spikes."""


def consecutive(flags: Flags, times: int) -> Flags:
    """Whether a flag and the ``times`` - 1 before it are all set."""
    run, found = 0, []
    for flag in flags.tolist():
        run = run + 1 if flag else 0
        found.append(run >= times)
    return np.array(found, dtype=np.bool_)


def moving_average(x: Floats, width: int) -> Floats:
    """The mean of the last ``width`` values, of all where there are fewer."""
    total = np.concatenate([[0.0], np.cumsum(x)])
    i = np.arange(1, x.size + 1)
    j = np.maximum(i - width, 0)
    return np.asarray((total[i] - total[j]) / (i - j))


def ema(x: Floats, rate: float) -> Floats:
    """Exponential moving average, beginning with the first value."""
    kept, found = float(x[0]), []
    for value in x.tolist():
        kept += rate * (value - kept)
        found.append(kept)
    return np.array(found)


def ema_drop(curve: Curve) -> Flags:
    """An EMA of rate 0.1 that lies 5 % below its maximum, three times in a row."""
    smooth = ema(curve.values, 0.1)
    return consecutive(smooth < 0.95 * np.maximum.accumulate(smooth), 3)


def patience(curve: Curve) -> Flags:
    """No new maximum for ten probes."""
    x, i = curve.values, np.arange(curve.values.size)
    newest = np.maximum.accumulate(np.where(x >= np.maximum.accumulate(x), i, 0))
    return np.asarray(i - newest >= 10)


def generalization_loss(curve: Curve) -> Flags:
    """Prechelt (1998), GL with alpha = 5, for a quantity to be kept high: 5 % below the best."""
    return _loss(curve.values) > 5.0


def progress_quotient(curve: Curve) -> Flags:
    """Prechelt (1998), PQ with alpha = 1: GL over the progress of a strip of 5, 1000 (1 - mean / max), at strip ends."""
    x, found = curve.values, np.zeros(curve.values.size, dtype=np.bool_)
    loss = _loss(x)
    for end in range(4, x.size, 5):
        strip = x[end - 4 : end + 1]
        progress = 1000.0 * (1.0 - strip.mean() / strip.max())
        found[end] = progress > 0.0 and loss[end] / progress > 1.0
    return found


def _loss(x: Floats) -> Floats:
    best = np.maximum.accumulate(x)
    return np.asarray(100.0 * (best - x) / np.maximum(np.abs(best), 1e-300))


def successive_falls(curve: Curve) -> Flags:
    """Prechelt (1998), UP with s = 3: the ends of three successive strips of 5 each lie below the one before."""
    ends = np.arange(4, curve.values.size, 5)
    falls = np.concatenate([[False], np.diff(curve.values[ends]) < 0.0])
    found = np.zeros(curve.values.size, dtype=np.bool_)
    found[ends] = consecutive(falls, 3)
    return found


def critical_fl(curve: Curve) -> Flags:
    """Yan et al. (2023), CriticalFL: the mean of ten grew by no more than 1 % since the last check, two rounds ago."""
    smooth = moving_average(curve.values, 10)
    found = np.zeros(smooth.size, dtype=np.bool_)
    found[7::2] = smooth[7::2] - smooth[5:-2:2] <= 0.01 * np.abs(smooth[5:-2:2])
    return found


def info_reg(curve: Curve) -> Flags:
    """Huang et al. (2025), InfoReg, equation 11: the trace grew by no more than 4 % of itself since the last probe."""
    x = curve.values
    return np.concatenate([[False], np.diff(x) <= 0.04 * np.abs(x[1:])])


def liu_gurevych(width: int) -> Rule:
    """Liu and Gurevych (2024), Algorithm 2, causal: after the rapid change the moving average moves by <= 0.02 a record.

    The signal is normalised by its range so far, since its final range is not known; the rapid change is
    the first record that moved by more.
    """

    def rule(curve: Curve) -> Flags:
        x = curve.values
        spread = np.maximum.accumulate(x) - np.minimum.accumulate(x)
        moved = np.abs(np.diff(moving_average(x, width), prepend=x[0])) / np.maximum(spread, 1e-300)
        rapid = np.maximum.accumulate((moved > 0.02) & (np.arange(x.size) >= width))
        return np.asarray(rapid & (moved <= 0.02))

    return rule


def mann_kendall(curve: Curve) -> Flags:
    """No trend in the last 16 probes by Mann and Kendall's test at 5 %, after it had found one."""
    x, width = curve.values, 16
    windows = sliding_window_view(x, width)
    i, j = np.triu_indices(width, 1)
    s = np.sign(windows[:, j] - windows[:, i]).sum(axis=1)
    z = (np.abs(s) - 1.0) / np.sqrt(width * (width - 1) * (2 * width + 5) / 18.0)
    trend = z > 1.96
    return np.concatenate([np.zeros(width - 1, dtype=np.bool_), np.logical_or.accumulate(trend) & ~trend])


def reaches(share: float, times: int) -> Rule:
    """At least ``share`` of the target, ``times`` in a row."""

    def rule(curve: Curve) -> Flags:
        if curve.target is None:
            return np.zeros(curve.values.size, dtype=np.bool_)
        return consecutive(curve.values >= share * curve.target, times)

    return rule


def above_mean(spreads: float) -> Rule:
    """So many standard deviations above the mean of the last ``WINDOW`` values."""

    def rule(curve: Curve) -> Flags:
        windows = sliding_window_view(curve.values[:-1], WINDOW)
        return _after(curve.values[WINDOW:] > windows.mean(axis=1) + spreads * windows.std(axis=1))

    return rule


def above_median(spreads: float) -> Rule:
    """So many median absolute deviations (scaled to a Gaussian) above the median of the last ``WINDOW`` values."""

    def rule(curve: Curve) -> Flags:
        windows = sliding_window_view(curve.values[:-1], WINDOW)
        middle = np.median(windows, axis=1)
        spread = 1.4826 * np.median(np.abs(windows - middle[:, None]), axis=1)
        return _after(curve.values[WINDOW:] > middle + spreads * spread)

    return rule


def twice(rule: Rule) -> Rule:
    """The same at two steps in a row."""
    return lambda curve: consecutive(rule(curve), 2)


def above_ema(curve: Curve) -> Flags:
    """Half again as large as an EMA of rate 0.1 of what came before."""
    return np.concatenate([[False], curve.values[1:] > 1.5 * ema(curve.values, 0.1)[:-1]])


def _after(flags: Flags) -> Flags:
    return np.concatenate([np.zeros(WINDOW, dtype=np.bool_), flags])


RULES: dict[str, dict[str, Rule]] = {
    "peak_passed": {
        "EMA drop of 5 %, 3 times": ema_drop,
        "patience of 10": patience,
        "Prechelt GL 5": generalization_loss,
        "Prechelt PQ 1": progress_quotient,
        "Prechelt UP 3": successive_falls,
        "CriticalFL": critical_fl,
        "InfoReg": info_reg,
    },
    "stabilised": {
        "Liu-Gurevych, 3 records": liu_gurevych(3),
        "Liu-Gurevych, 8 records": liu_gurevych(8),
        "CriticalFL": critical_fl,
        "Mann-Kendall does not reject": mann_kendall,
    },
    "eos_reached": {
        "first crossing": reaches(1.0, 1),
        "3 in a row above": reaches(1.0, 3),
        "10 in a row above 0.9": reaches(0.9, 10),
    },
    "spike": {
        "mean + 3 sd": above_mean(3.0),
        "median + 6 MAD": above_median(6.0),
        "median + 6 MAD, twice": twice(above_median(6.0)),
        "1.5 EMA": above_ema,
    },
}
"""The rules for each kind of transition, by name."""
