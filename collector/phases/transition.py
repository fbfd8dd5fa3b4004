"""Transition: a run entered a phase, at which step, known when, how sure, and on what evidence."""

from typing import Literal

import msgspec

Severity = Literal["info", "warning", "critical"]
State = Literal["suspected", "detected", "confirmed", "retracted"]


class Window(msgspec.Struct, frozen=True):
    """A stretch of probes and what they averaged to; None for what is not finite or not known."""

    first_step: int
    last_step: int
    n: int
    mean: float | None
    stderr: float | None


class NoiseCard(msgspec.Struct, frozen=True):
    """How far single probes of a series stray, from what, and in what manner.

    Standard deviations are of one probe and relative to the level: ``estimator`` as its own paired error has it, None
    where it reports none; ``process`` what training itself adds; ``believed`` what tests use. ``autocorrelation`` is the
    coefficient of the AR(1) process whose means of several probes would scatter alike. ``tails`` is the 90 %
    quantile of residuals over their median, 1 for a Gaussian; ``outliers`` the share of probes replaced. ``verdict`` is
    "unassessable" where the series wanders like a random walk: no trend can be told from that. ``restarts`` is how
    often the series was measured otherwise from some step on, and all this begun anew there.
    """

    probes: int
    believed: float | None
    estimator: float | None
    process: float | None
    autocorrelation: float
    tails: float
    outliers: float
    verdict: Literal["white", "correlated", "unassessable", "unknown"]
    restarts: int = 0


class Evidence(msgspec.Struct, frozen=True):
    """The figures that decided a transition, enough for a person to check it on the chart.

    ``log_e`` is the natural logarithm of the e-value against the null hypothesis (of the bound on 1/p for a rule
    that is no e-process, whose name is in ``statistic``); it fires at ``log_e >= log(1 / alpha)``. ``change`` is the
    relative change from ``before`` to ``after``. ``noise`` is the standard deviation of one probe used by
    the test, relative to the level, and ``card`` tells it in full. ``asides`` is what other quantities said.
    """

    quantity: str
    labels: dict[str, str]
    statistic: str
    log_e: float
    alpha: float
    before: Window
    after: Window
    change: float | None
    noise: float | None
    points: int
    cleaned: int
    sentence: str
    card: NoiseCard | None = None
    asides: tuple[str, ...] = ()


class Transition(msgspec.Struct, frozen=True):
    """What became known of a run's way from one phase of a machine to another.

    ``state`` tells how far the claim has come: "suspected" (e at least 10), "detected" (e at least 1/alpha: the phase
    is entered), "confirmed" (it has stood for long enough, and a second test agrees), "retracted" (it was not so, or
    is not so any more). One ``ordinal`` is one episode: it counts the machine's claims on this ``subject``
    (the labels of the series judged, empty for the whole network) from 1, and each of its states is told once.

    ``happened_step`` is where it took place, in hindsight, within ``happened_between``; ``known_step`` is the step whose
    report brought the state, ``suspected_step`` where the claim was first suspected. ``confidence`` is 1 - 1/e: one minus
    the anytime-valid p-value. ``act`` says that now is the time to tell the training loop.
    """

    machine: str
    machine_version: str
    subject: dict[str, str]
    ordinal: int
    from_phase: str
    to_phase: str
    happened_step: int
    happened_between: tuple[int, int]
    known_step: int
    confidence: float
    severity: Severity
    advice: str
    undo: str
    evidence: Evidence
    state: State = "detected"
    suspected_step: int | None = None
    act: bool = True
