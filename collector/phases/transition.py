"""Transition: a run entered a phase, at which step, known when, how sure, and on what evidence."""

from typing import Literal

import msgspec

Severity = Literal["info", "warning", "critical"]


class Window(msgspec.Struct, frozen=True):
    """A stretch of probes and what they averaged to."""

    first_step: int
    last_step: int
    n: int
    mean: float
    stderr: float


class Evidence(msgspec.Struct, frozen=True):
    """The figures that decided a transition, enough for a person to check it on the chart.

    ``log_e`` is the natural logarithm of the e-value against the null hypothesis; the rule fires at
    ``log_e >= log(1 / alpha)``. ``change`` is the relative change from ``before`` to ``after``.
    ``noise`` is the standard deviation of one probe used by the test, relative to the level.
    """

    quantity: str
    labels: dict[str, str]
    statistic: str
    log_e: float
    alpha: float
    before: Window
    after: Window
    change: float
    noise: float
    points: int
    cleaned: int
    sentence: str


class Transition(msgspec.Struct, frozen=True):
    """A run left one phase of a machine and entered another.

    ``happened_step`` is where it took place, in hindsight, within ``happened_between``;
    ``known_step`` is the first step whose report made it certain enough. ``confidence`` is
    1 - 1/e: one minus the anytime-valid p-value. ``ordinal`` counts the machine's transitions on
    this ``subject`` (the labels of the series judged, empty for the whole network) from 1.
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
