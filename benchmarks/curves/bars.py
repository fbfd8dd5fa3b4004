"""Bars: what a detector of phases has to reach, each as one number measured over families of curves."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from .families import FAMILIES
from .nulls import SOFT
from .score import Level, Rate, Score, poisson
from .spikes import STEPS
from .walks import NAMED as WALKS

Scores = Mapping[tuple[str, Level], Score]
"""By family and level of certainty."""
Interval = tuple[float, float, float]
"""A number with the ends of its 95 % interval."""
Measure = Callable[[Scores, Level], Interval]


@dataclass(frozen=True, slots=True)
class Bar:
    """A quantity, how it is measured, the bar and what we aim at beyond it; ``level`` is the one that has to pass."""

    number: int
    quantity: str
    measure: Measure
    bar: float
    aim: float
    unit: str = "%"
    level: Level = "detected"
    at_least: bool = False

    def passed(self, value: float) -> bool:
        """Whether a measured value reaches the bar."""
        return bool(value >= self.bar if self.at_least else value <= self.bar)


def early(*families: str) -> Measure:
    """Share of runs with a false or early call, families pooled."""
    return lambda scores, level: _percent(_pooled(scores[family, level].early for family in families))


def worst(*families: str) -> Measure:
    """The largest share of runs with a false or early call among families."""

    def measure(scores: Scores, level: Level) -> Interval:
        return max(_percent(scores[family, level].early) for family in families)

    return measure


def missed(*families: str) -> Measure:
    """Share of transitions not called, families pooled."""
    return lambda scores, level: _percent(_pooled(scores[family, level].missed for family in families))


def lost(*families: str) -> Measure:
    """Share of runs missed or early: no use was made of the transition."""

    def measure(scores: Scores, level: Level) -> Interval:
        found = [scores[family, level] for family in families]
        return _percent(_pooled(Rate(score.missed.k + score.early.k, score.missed.n) for score in found))

    return measure


def delay(family: str) -> Measure:
    """Median delay in rise times."""
    return lambda scores, level: scores[family, level].delay


def ratio(family: str) -> Measure:
    """Median delay over the oracle's."""

    def measure(scores: Scores, level: Level) -> Interval:
        score = scores[family, level]
        value, low, high = score.delay
        return value / score.bound, low / score.bound, high / score.bound

    return measure


def retracted(family: str) -> Measure:
    """Of the runs with a call, those that took it back."""
    return lambda scores, level: _percent(scores[family, level].retracted)


def per_thousand(*families: str) -> Measure:
    """False calls in 1000 steps of healthy loss."""

    def measure(scores: Scores, level: Level) -> Interval:
        outcomes = [outcome for family in families for outcome in scores[family, level].outcomes]
        return poisson(sum(outcome.false_calls for outcome in outcomes), len(outcomes) * STEPS / 1000.0)

    return measure


def _percent(rate: Rate) -> Interval:
    low, high = rate.interval
    return 100.0 * rate.value, 100.0 * low, 100.0 * high


def _pooled(rates: Iterable[Rate]) -> Rate:
    return sum(rates, Rate(0, 0))


def _bars() -> Iterator[Bar]:
    yield Bar(1, "`peak_passed`: false alarms, the worst soft null", worst(*SOFT), 1.0, 1.0)
    yield Bar(1, f"`peak_passed`: false alarms, {len(SOFT)} soft nulls pooled", early(*SOFT), 0.2, 0.2)
    for snr, times, bar, aim in ((10, 1.35, 2.2, 1.75), (20, 1.35, 1.65, 1.35), (50, 1.35, 1.1, 0.85)):
        yield Bar(2, f"median delay over the oracle's, SNR {snr}", ratio(f"peak SNR {snr}"), 1.7, times, "")
        yield Bar(2, f"median delay, SNR {snr}", delay(f"peak SNR {snr}"), bar, aim, "T")
    high = tuple(f"peak SNR {snr}" for snr in (10, 20, 50))
    yield Bar(3, "missed or early, SNR 10 to 50", lost(*high), 3.0, 1.0)
    yield Bar(3, "missed or early, SNR 5", lost("peak SNR 5"), 12.0, 6.0)
    yield Bar(4, "false alarms, AR(.8)", early("null, AR(.8)"), 15.0, 2.0)
    yield Bar(4, "the same, the error reported knows the process", early("null, AR(.8), whole error"), 15.0, 2.0)
    yield Bar(4, "median delay at SNR 10 beside it", delay("peak SNR 10"), 2.4, 2.2, "T")
    yield Bar(5, "transient dip called", early("null, dip"), 25.0, 5.0, level="confirmed")
    yield Bar(5, "transient dip: calls taken back", retracted("null, dip"), 95.0, 99.0, at_least=True)
    for family in ("peak, 40 probes", "peak, 600 probes"):
        yield Bar(6, f"median delay, {family}", delay(family), 2.4, 1.8, "T")
        yield Bar(6, f"missed or early, {family}", lost(family), 5.0, 5.0)
    settling = ("settling, saturating SNR 20", "settling, decay")
    yield Bar(7, "`stabilised`: early, SNR 20", early(*settling), 2.0, 2.0)
    yield Bar(7, "`stabilised`: early, SNR 5", early("settling, saturating SNR 5"), 1.0, 1.0)
    yield Bar(7, "false alarms, linear growth", worst("moving, linear SNR 20", "moving, linear SNR 5"), 1.0, 1.0)
    yield Bar(7, "median delay, SNR 20", delay(settling[0]), 0.5, 0.25, "T")
    yield Bar(7, "missed, SNR 5", missed("settling, saturating SNR 5"), 100.0, 40.0)
    yield Bar(8, "`eos_reached`: false alarms, stays below", early("edge null, below"), 1.0, 1.0)
    yield Bar(8, "false alarms, catapult", early("edge null, catapult"), 10.0, 2.0)
    yield Bar(8, "false alarms, passes through", early("edge null, passes through"), 1.0, 1.0)
    yield Bar(8, "median delay, clean", delay("edge, clean"), 0.2, 0.1, "T")
    yield Bar(8, "missed, noise of 10 %", missed("edge, noisy"), 50.0, 10.0)
    healthy = ("healthy loss, Gaussian", "healthy loss, skew", "healthy loss, heavy tails")
    yield Bar(9, "`spike`: calls in 1000 healthy steps, simulated", per_thousand(*healthy), 0.02, 0.0, "")
    yield Bar(9, "spikes missed", missed("spikes in a loss"), 5.0, 2.0)
    yield Bar(9, "median delay", delay("spikes in a loss"), 2.0, 1.0, "steps")
    flat = ("flat, white, onset_down", "flat, heavy tails, onset_down")
    yield Bar(10, "`onset_down`: median delay, grokking", delay("grokking"), 0.7, 0.5, "widths")
    yield Bar(10, "false alarms, flat", worst(*flat), 1.0, 1.0)
    yield Bar(10, "false alarms, flat, AR(.8)", early("flat, AR(.8), onset_down"), 25.0, 5.0)
    yield Bar(11, "local complexity, final descent: median delay", delay("complexity, two descents"), 0.6, 0.45, "T")
    yield Bar(11, "false alarms, batch norm", early("complexity, batch norm"), 1.0, 0.0)
    yield Bar(11, "early, double ascent", early("complexity, double ascent"), 5.0, 1.0)
    nulls = [n for n, family in FAMILIES.items() if family.null and "AR(.8)" not in n and n not in WALKS]
    honest = [name for name in nulls if name != "null, dip"]
    yield Bar(13, "false calls at alpha = 1 %, all nulls but AR(.8)", early(*nulls), 1.0, 1.0)
    yield Bar(13, "the same without the dip", early(*honest), 1.0, 1.0)
    for kind in ("random walk", "random walk in noise"):
        yield Bar(13, f"the same, {kind}", early(*(n for n in WALKS if n.startswith(f"{kind},"))), 1.0, 1.0)


BARS: tuple[Bar, ...] = tuple(_bars())
LEFT_OUT = {12: "costs are measured apart", 14: "real runs are measured apart"}
"""Bars that no simulated family can tell, and why."""
