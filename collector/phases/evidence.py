"""Evidence of a verdict, in the units of the quantity and in one sentence a person can check on the chart."""

import math

from collector.phases.figures import finite, rounded
from collector.phases.machine import Given, Machine
from collector.phases.transition import Evidence, NoiseCard, Window
from collector.phases.verdict import Verdict

TELLING = 12
"""Powers of ten up to which an e-value is quoted: no noise is Gaussian further out, so more digits would mislead."""

PLAIN = 4
"""Powers of ten up to which it is written out."""


def evidence(case: Verdict, machine: Machine, labels: dict[str, str], card: NoiseCard, but: str = "") -> Evidence:
    """The figures behind a verdict; ``but`` says why it is not claimed for all that.

    On a logarithmic axis a window's mean is the geometric one. Figures are rounded to six digits:
    the last bits of a logarithm differ between processors, and a replay should not.
    """
    return Evidence(
        quantity=machine.quantity,
        labels=labels,
        statistic=case.statistic,
        log_e=rounded(case.log_e),
        alpha=rounded(case.alpha),
        before=case.before,
        after=case.after,
        change=finite(case.change),
        noise=finite(case.noise),
        points=card.probes,
        cleaned=round(card.outliers * card.probes),
        sentence=sentence(machine.quantity, labels, case) + (f", but {but}" if but else ""),
        card=card,
    )


def sentence(quantity: str, labels: dict[str, str], case: Verdict) -> str:
    """Both windows, the change between them and how sure it is."""
    subject = quantity + (f" of {', '.join(labels.values())}" if labels else "")
    told = f"{subject} averaged {_told(case.before)} and {_told(case.after)}"
    match case.turn.when:
        case "rise" | "fall":
            return f"{told}: {_change(case.change)}, {_power(case.log_e)} against alpha {100 * case.alpha:.2g} %"
        case "settle" | "hover":
            return f"{told}: {_level(case)}, p = {math.exp(-case.log_e):.1g}"
        case "still":
            return (
                f"{told}: the moving average of {case.turn.window} probes moves by at most {case.turn.slope:g} of the largest "
                "value a probe; a rule as published, whose errors are not controlled"
            )
        case "given":
            asked = " and ".join(_asked(given) for given in case.turn.given)
            return f"{subject} averaged {_told(case.after)}, with {asked}"
        case "spike":
            return f"{told}: {case.after.n} in a row at least {case.turn.spreads:g} robust standard deviations above the median"
        case "calm":
            return (
                f"{told}: {case.after.n} in a row within {case.turn.spreads:g} robust standard deviations of the median"
            )
        case "diverge":
            if case.after.mean is None:
                return f"{subject} was not finite at steps {case.after.first_step} and {case.after.last_step}"
            return f"{told}: {case.after.n} in a row far above the median, and climbing"


def _level(case: Verdict) -> str:
    """What speaks for a level, or against one that was claimed."""
    if case.turn.when == "hover":
        low, high = case.turn.band
        band = f"{low:g} to {high:g} of its target"
        return f"certainly out of {band}" if case.against else f"within {band} and no longer approaching"
    if case.against:
        return "it has certainly moved on from the level where it had settled"
    slope = f"there its slope is certainly less than {case.turn.slope:g} of the steepest before"
    if not case.turn.min_effect:
        return slope
    return f"{slope}, and as many steps again would change it by {100 * case.goes_on:.2g} % at that slope"


def _told(window: Window) -> str:
    """Such as ``31.2 ± 0.4 over steps 500–700 (9 probes)``, to the digit where the error begins."""
    mean = "nothing finite" if window.mean is None else f"{window.mean:.4g}"
    if window.mean is not None and window.stderr is not None:
        digits = -math.floor(math.log10(window.stderr)) if window.stderr > 0.0 else 0
        told = f".{digits}f" if 0 <= digits <= 6 and abs(window.mean) < 1e6 else ""
        mean = f"{window.mean:{told or '.4g'}} ± {window.stderr:{told or '.1g'}}"
    return f"{mean} over steps {window.first_step}–{window.last_step} ({window.n} probes)"


def _asked(given: Given) -> str:
    """Such as ``probe_accuracy at least 0.99``."""
    name = given.quantity + (f" of {', '.join(given.labels.values())}" if given.labels else "")
    bounds = (("at least", given.at_least), ("at most", given.at_most))
    return f"{name} {' and '.join(f'{word} {bound:g}' for word, bound in bounds if bound is not None)}"


def _change(change: float) -> str:
    """Such as ``12.5 % lower``, or ``4.5 times as high``."""
    if change >= 1.0:
        return f"{1.0 + change:.3g} times as high"
    return f"{100 * abs(change):.1f} % {'lower' if change < 0.0 else 'higher'}"


def _power(log_e: float) -> str:
    """Such as ``e = 20`` or ``e = 2.1e6``, or ``e > 1e12`` where only the order can be believed."""
    if log_e > TELLING * math.log(10.0):
        return f"e > 1e{TELLING}"
    if log_e < PLAIN * math.log(10.0):
        return f"e = {math.exp(log_e):,.0f}"
    exponent, mantissa = divmod(log_e / math.log(10.0), 1.0)
    digits = f"{10.0**mantissa:.1f}"
    return f"e = 1.0e{exponent + 1:.0f}" if digits == "10.0" else f"e = {digits}e{exponent:.0f}"
