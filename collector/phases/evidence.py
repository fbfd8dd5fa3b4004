"""Evidence of a verdict, in the units of the quantity and in one sentence a person can check on the chart."""

import math

import numpy as np

from collector.phases.machine import Machine
from collector.phases.noise import Cleaned
from collector.phases.series import Floats, Scale
from collector.phases.transition import Evidence, Window
from collector.phases.verdict import Verdict

STATISTIC = "reflected_gauss_e_process"

TELLING = 12
"""Powers of ten up to which an e-value is quoted: no noise is Gaussian further out, so more digits would mislead."""


def evidence(shown: Verdict, probes: Cleaned, machine: Machine, labels: dict[str, str]) -> Evidence:
    """The figures behind a verdict on the probes since the phase began.

    On a logarithmic axis a window's mean is the geometric one. Figures are rounded to six digits:
    the last bits of a logarithm differ between processors, and a replay should not.
    """
    n, k = probes.y.size, shown.k
    before = _window(probes, slice(n - 2 * k, n - k), shown.before, machine.value_scale)
    after = _window(probes, slice(n - k, n), shown.after, machine.value_scale)
    sigma = _root_mean_square(probes.sigma)
    return Evidence(
        quantity=machine.quantity,
        labels=labels,
        statistic=STATISTIC,
        log_e=rounded(shown.log_e),
        alpha=shown.turn.alpha,
        before=before,
        after=after,
        change=rounded(shown.change),
        noise=rounded(sigma if machine.value_scale == "log" else sigma / (abs(shown.before) or 1.0)),
        points=n,
        cleaned=int(probes.replaced.sum()),
        sentence=sentence(machine.quantity, labels, before, after, shown),
    )


def sentence(quantity: str, labels: dict[str, str], before: Window, after: Window, shown: Verdict) -> str:
    """Both windows, the change between them and how sure it is."""
    subject = quantity + (f" of {', '.join(labels.values())}" if labels else "")
    way = "lower" if shown.change < 0 else "higher"
    return (
        f"{subject} averaged {_told(before)} and {_told(after)}: "
        f"{100 * abs(shown.change):.1f} % {way}, {_power(shown.log_e)} against alpha {100 * shown.turn.alpha:g} %"
    )


def rounded(value: float) -> float:
    """A figure to six significant digits."""
    return float(f"{value:.6g}")


def _window(probes: Cleaned, part: slice, mean: float, value_scale: Scale) -> Window:
    steps = probes.steps[part]
    stderr = _root_mean_square(probes.sigma[part]) / math.sqrt(steps.size)
    if value_scale == "log":
        mean = math.exp(mean)
        stderr *= mean
    return Window(int(steps[0]), int(steps[-1]), int(steps.size), rounded(mean), rounded(stderr))


def _root_mean_square(sigma: Floats) -> float:
    unit = float(sigma.max())
    return unit * float(np.sqrt(np.mean((sigma / unit) ** 2)))


def _told(window: Window) -> str:
    """Such as ``31.2 ± 0.4 over steps 500–700 (9 probes)``, to the digit where the error begins."""
    digits = -math.floor(math.log10(window.stderr)) if window.stderr > 0.0 else 0
    mean, stderr = f"{window.mean:.4g}", f"{window.stderr:.1g}"
    if 0 <= digits <= 6 and abs(window.mean) < 1e6:
        mean, stderr = f"{window.mean:.{digits}f}", f"{window.stderr:.{digits}f}"
    return f"{mean} ± {stderr} over steps {window.first_step}–{window.last_step} ({window.n} probes)"


def _power(log_e: float) -> str:
    """Such as ``e = 2.1e3``, or ``e > 1e12`` where only the order can be believed."""
    if log_e > TELLING * math.log(10.0):
        return f"e > 1e{TELLING}"
    exponent, mantissa = divmod(log_e / math.log(10.0), 1.0)
    digits = f"{10.0**mantissa:.1f}"
    return f"e = 1.0e{exponent + 1:.0f}" if digits == "10.0" else f"e = {digits}e{exponent:.0f}"
