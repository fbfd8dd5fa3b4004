"""Trial: what a machine says of simulated curves, before it is trusted with a run: false alarms, misses and delays."""

import statistics
from collections.abc import Callable, Iterable, Iterator
from statistics import NormalDist
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from collector.phases.engine import ALPHA
from collector.phases.isotonic import prefix_errors
from collector.phases.machine import TESTED, Machine, Turn, When
from collector.phases.score import wilson
from collector.phases.simulated import HARD, NULLS, Null, Simulated, simulated
from collector.phases.track import Track

SNRS = (10.0, 50.0)
"""Signal over noise at which truths are tried; nulls have the first."""
EVERY = 10
"""Steps from one probe to the next."""
SETTLED: tuple[When, ...] = ("settle", "still")
Each = Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]]
EARLY = 0.2
"""Part of the way by which a curve that bends may be called settled before it is: a slope is never known to the probe."""


class Alarms(msgspec.Struct, frozen=True):
    """On how many of ``n`` curves without a turn it was told, and how many of those claims were retracted again."""

    null: str
    n: int
    false: int
    retracted: int
    hard: bool


class Found(msgspec.Struct, frozen=True):
    """Of ``n`` curves with the turn: how many were told after it, before it, never, or not even had the phase before it entered.

    ``delay`` is the median in rise times, infinite where most are missed. ``over_bound`` is the median of delay over the least
    that any rule could have that is wrong in at most alpha of the runs, for what is tested; None for the rest.
    """

    snr: float
    n: int
    hits: int
    early: int
    missed: int
    unreached: int
    delay: float
    over_bound: float | None


class Trial(msgspec.Struct, frozen=True):
    """What came of one turn; nothing where other quantities alone decide on it or on the way there."""

    from_phase: str
    to_phase: str
    when: When
    alarms: list[Alarms]
    found: list[Found]

    @property
    def unit(self) -> str:
        """What delays are told in."""
        return "probes" if self.when in {"spike", "calm", "diverge"} else "rise times"


def trials(machine: Machine, seeds: int = 100, alpha: float = ALPHA, each: Each = map) -> list[Trial]:
    """Each turn of a machine, on ``seeds`` curves of every kind; ``alpha`` is the machine's, ``each`` maps, in parallel perhaps."""
    ways = _ways(machine)
    tried = []
    for turn in machine.turns:
        way = (*ways[turn.from_phase], turn)
        alone = all(one.when != "given" for one in way)
        nulls = [_Job(machine, way, seeds, alpha, null=null) for null in _nulls(way) if alone]
        truths = [_Job(machine, way, seeds, alpha, snr=snr) for snr in SNRS if alone]
        tried.append((turn, each(_alarms, nulls), each(_found, truths)))
    return [
        Trial(turn.from_phase, turn.to_phase, turn.when, list(alarms), list(found)) for turn, alarms, found in tried
    ]


def sentence(tried: list[Trial], alpha: float) -> str:
    """What came of all turns, in words; the rules that promise nothing, and the nulls on which none can, apart."""
    promised, unpromised, hard = list[Alarms](), list[Alarms](), list[Alarms]()
    for trial in tried:
        for one in trial.alarms:
            (hard if one.hard else promised if trial.when in TESTED else unpromised).append(one)
    said = [
        _rate(alarms, of)
        for alarms, of in (
            (promised, "curves without a turn"),
            (unpromised, "for rules whose errors alpha does not bound"),
            (hard, "that correlated noise or a passing dip makes look like a turn"),
        )
        if alarms
    ]
    for trial in tried:
        name = f"{trial.to_phase} after {trial.from_phase}"
        if not trial.found:
            said.append(f"{name} is for other quantities to decide and was not tried")
            continue
        found = trial.found[0]
        if not np.isfinite(found.delay):
            said.append(f"{name} is known in {found.hits} of {found.n} at SNR {found.snr:g}")
            continue
        least = f", {found.over_bound:.1f} times the least possible" if found.over_bound else ""
        said.append(f"{name} is known {found.delay:.1f} {trial.unit} after it at SNR {found.snr:g}{least}")
    return f"At alpha {100 * alpha:g} %: {'; '.join(said)}."


def _rate(alarms: list[Alarms], of: str) -> str:
    false, n = sum(one.false for one in alarms), sum(one.n for one in alarms)
    return f"{false} false alarms in {n:,} {of} (at most {percent(wilson(false, n)[1])} at 95 % confidence)"


def percent(rate: float) -> str:
    """Such as ``0.27 %`` or ``84 %``."""
    return f"{100 * rate:.0f} %" if rate >= 0.1 else f"{100 * rate:.2g} %"


class _Job(msgspec.Struct, frozen=True):
    """The turns that lead to one and itself, and the curves to try it on."""

    machine: Machine
    way: tuple[Turn, ...]
    seeds: int
    alpha: float
    null: Null | None = None
    snr: float = SNRS[0]

    def told(self) -> "Iterator[tuple[Simulated, _Told]]":
        """Each curve, and what was told of the turn."""
        turn = self.way[-1]
        instead, noise = self.null or (None, "white")
        for seed in range(self.seeds):
            curve = simulated(
                [one.when for one in self.way],
                seed,
                instead=instead,
                noise=noise,
                snr=self.snr,
                slope=turn.slope,
                target=self.machine.target,
                bounds=[(one.at_least, one.at_most) for one in self.way],
                log=self.machine.value_scale == "log",
            )
            yield curve, _told(self.machine, self.way, curve, self.alpha)


def _ways(machine: Machine) -> dict[str, tuple[Turn, ...]]:
    """The shortest way from the first phase to each."""
    ways: dict[str, tuple[Turn, ...]] = {machine.phases[0].name: ()}
    todo = list(ways)
    for phase in todo:
        for turn in machine.turns_from(phase):
            if turn.to_phase not in ways:
                ways[turn.to_phase] = (*ways[phase], turn)
                todo.append(turn.to_phase)
    return ways


def _nulls(way: tuple[Turn, ...]) -> tuple[Null, ...]:
    """What the last turn is tried on. What falls cannot do so for ever, so that nothing is left to tell from settling."""
    when = way[-1].when
    return () if when in SETTLED and len(way) > 1 and way[-2].when == "fall" else NULLS[when]


def _alarms(job: _Job) -> Alarms:
    assert job.null is not None  # noqa: S101 - it is a null's
    told = [one for _, one in job.told() if one.at is not None]
    hard = any(word in HARD for word in job.null)
    return Alarms(", ".join(job.null), job.seeds, len(told), sum(one.retracted for one in told), hard)


def _found(job: _Job) -> Found:
    when = job.way[-1].when
    early = missed = unreached = 0
    delays, over = list[float](), list[float]()
    for curve, told in job.told():
        if told.at is None:
            missed, unreached = missed + told.reached, unreached + (not told.reached)
            continue
        late = told.at - curve.turned
        if late < (-EARLY * curve.rise if when in SETTLED else 0.0):
            early += 1
            continue
        delays.append(late / curve.rise)
        least = _least(curve, when, job.alpha) if when in TESTED else None
        if least:
            over.append(late / least)
    late_or_never = [*delays, *[float("inf")] * (missed + unreached)]
    return Found(
        job.snr,
        job.seeds,
        len(delays),
        early,
        missed,
        unreached,
        statistics.median(late_or_never) if late_or_never else float("inf"),
        statistics.median(over) if over else None,
    )


class _Told(msgspec.Struct, frozen=True):
    """The probe at which a turn was first detected, whether that was retracted, whether its phase was ever entered."""

    at: int | None
    retracted: bool
    reached: bool


def _told(machine: Machine, way: tuple[Turn, ...], curve: Simulated, alpha: float) -> _Told:
    turn, asked = way[-1], [given for one in way for given in one.given]
    steps = _steps(machine, curve.values.size)
    track = Track(machine, {}, alpha)
    track.observed.holds = asked.__contains__  # other quantities are as the way asks for
    told = [
        found
        for step, value, paired in zip(steps.tolist(), curve.values.tolist(), curve.paired.tolist(), strict=True)
        for found in track.update(step, value, paired)
        if (found.from_phase, found.to_phase) == (turn.from_phase, turn.to_phase)
    ]
    claims = [found for found in told if found.state == "detected"]
    first = claims[0] if claims else None
    return _Told(
        None if first is None else int(np.searchsorted(steps, first.known_step)),
        first is not None and any(one.state == "retracted" and one.ordinal == first.ordinal for one in told),
        any(span.phase == turn.from_phase for span in track.spans),
    )


def _steps(machine: Machine, n: int) -> NDArray[np.int64]:
    """The steps of n probes, evenly spaced on the machine's axis."""
    if machine.step_scale == "log":
        return np.round(np.geomspace(1.0, 1e5, n)).astype(np.int64) + np.arange(n)
    return EVERY * np.arange(n)


def _least(curve: Simulated, when: When, alpha: float) -> int | None:
    """Probes after the turn at which the best rule would know of it in half of all runs; None if never.

    As in `planner`, with the curve itself in place of a parabola: by Neyman and Pearson (1933) that is where its distance
    from the nearest curve that has not turned is the upper alpha quantile of a Gaussian.
    """
    sign = 1.0 if when == "fall" else -1.0
    since = slice(curve.began, None)
    distance = prefix_errors(sign * curve.mean[since], 1.0 / curve.sd[since] ** 2)
    known = np.flatnonzero(distance >= NormalDist().inv_cdf(1.0 - alpha) ** 2)
    known = known[curve.began + known > curve.turned]
    return int(curve.began + known[0] - curve.turned) if known.size else None
