"""Machine: the phases a quantity may pass through and what must be shown to move between them, as plain data.

A machine says nothing about how evidence is computed and holds no state, so it can be read, kept in
a file, hashed and replayed. Any graph is allowed: a phase may be left by several turns, and a cycle
arms the machine again after its last phase.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from collector.phases.axis import Floats, Scale
from collector.phases.transition import Severity

When = Literal["rise", "fall", "settle", "still", "hover", "spike", "calm", "diverge", "given"]
"""What must be shown; `Turn` tells each."""
Subject = Literal["network", "layer"]
Level = Literal["detected", "confirmed"]

TESTED: tuple[When, ...] = ("rise", "fall")
"""What is shown by an e-process, whose errors the run's alpha bounds."""

EQUIVALENCE: tuple[When, ...] = ("settle", "hover")
"""What is shown by equivalence: that a slope is certainly small."""

RAW: tuple[When, ...] = ("spike", "calm", "diverge")
"""What is told by single values as they come, uncleaned: a machine has one idea of what lies above the median."""

LEVEL: tuple[When, ...] = ("settle", "still", "hover", "calm")
"""What leads to a phase that is a level."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")
JUDGEMENT = 6
"""Counted up whenever the same machine would judge the same measurements otherwise: it is part of every version."""
LEAST_POINTS = 8
"""Probes since a phase began without which nothing is judged: two windows of four."""


class MachineError(ValueError):
    """A machine that contradicts itself; the message names the machine, what is wrong and the remedy."""


class Phase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named stretch of steps and what it means. Healthy runs may pass by an ``optional`` one."""

    name: str
    meaning: str
    optional: bool = False


class Given(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """That ``quantity`` with ``labels`` was last at least ``at_least`` and at most ``at_most``."""

    quantity: str
    labels: dict[str, str] = {}
    at_least: float | None = None
    at_most: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a value is so."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


class Turn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a run leaves ``from_phase`` for ``to_phase``.

    ``when``:
        "rise", "fall": the mean is not what it would be had it only fallen (risen) since the phase began. Out
            of a phase that began with a rise, a fall has passed a peak. The only ones with a bound on the
            probability of a false claim: ``share`` is this turn's part of the machine's alpha.
        "settle": the slope has become less than ``slope`` times the steepest seen, with error and for as
            long as the whole change took at its steepest; with a ``min_effect``, the mean would besides change by no more than
            that if the series lasted as long again and went on so. That no trend is seen is not enough.
        "still": the mean of ``window`` probes has changed by at most ``slope`` of the largest value in one
            probe, after it once changed by more. A rule as published, without control of its errors.
        "hover": the mean lies within ``band`` times the target, with error, and has settled there.
        "spike": two probes in a row lie ``spreads`` robust standard deviations and ``min_effect`` above the
            running median. "calm": five in a row do not any more. "diverge": two in a row are not finite,
            or eight in a row lie above and still climb.
        "given": other quantities are where ``given`` has them, at two probes in a row.

    ``min_effect`` is the least relative change that matters, however certain; ``at_least`` and ``at_most``
    bound the mean after it; ``given`` must hold too whatever ``when`` is; ``flat`` says that the phase is a level and no trend, so that slow wandering is noise;
    ``min_points`` is the least number of probes since the phase began. ``act`` is
    the state in which a training loop is told: "detected", or "confirmed" where acting too early does harm.
    """

    from_phase: str
    to_phase: str
    when: When
    share: float = 1.0
    min_effect: float = 0.0
    min_points: int = 10
    flat: bool = False
    at_least: float | None = None
    at_most: float | None = None
    slope: float = 0.25
    band: tuple[float, float] = (0.93, 1.12)
    window: int = 8
    given: tuple[Given, ...] = ()
    spreads: float = 5.0
    act: Level = "detected"
    severity: Severity = "info"
    advice: str = ""
    undo: str = ""

    def admits(self, mean: Floats) -> NDArray[np.bool_]:
        """Whether means lie where the turn asks for them."""
        low = -np.inf if self.at_least is None else self.at_least
        high = np.inf if self.at_most is None else self.at_most
        return np.asarray((mean >= low) & (mean <= high))


class Aside(Given, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What another quantity says about a phase at the moment it is entered.

    Where it is as given, the transition into ``to_phase`` carries ``says``: "dead units", for a descent that they explain.
    """

    to_phase: str
    says: str


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The phases of one quantity. The first phase is where a run begins.

    ``value_scale`` and ``step_scale`` are the axes of the test: a logarithmic value suits what is
    positive with noise in proportion, a logarithmic step what is probed at log-spaced steps.
    ``subject`` is the whole network, whose series has just the ``labels``, or each layer by itself.
    ``weight`` is its part of a run's alpha beside other machines, ``source`` where its rule comes from.
    ``target`` is the level that "hover" compares with. Making one that contradicts itself raises MachineError.
    """

    name: str
    quantity: str
    phases: tuple[Phase, ...]
    turns: tuple[Turn, ...]
    value_scale: Scale = "linear"
    step_scale: Scale = "linear"
    subject: Subject = "network"
    labels: dict[str, str] = {}
    weight: float = 1.0
    target: float = 1.0
    source: str = ""
    asides: tuple[Aside, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        names = [phase.name for phase in self.phases]
        for name in (self.name, self.quantity, *names):
            self._need(_NAME.fullmatch(name), f"Got the name {name!r}; names are lower case letters, digits and _.")
        self._need(names, "Got no phases; name at least the one a run begins in.")
        twice = sorted({name for name in names if names.count(name) > 1})
        self._need(not twice, f"Got more than one phase named {', '.join(twice)}; rename or remove one.")
        self._need(
            0.0 < self.weight <= 100.0, f"Got weight {self.weight}; it is a part of the whole, above 0 and up to 100."
        )
        for turn in self.turns:
            self._check_turn(turn, names)
        for name in ("spreads", "min_effect"):
            got = sorted({getattr(turn, name) for turn in self.turns if turn.when in RAW})
            self._need(
                len(got) <= 1,
                f"Its turns on a spike, calm or diverge have {name} {', '.join(f'{one:g}' for one in got)}; they compare with "
                f"one running median, so give them all the same {name}.",
            )
        lost = [name for name in names if name not in self._reachable()]
        self._need(not lost, f"Nothing leads to {', '.join(lost)} from {names[0]}; add a turn or remove the phase.")
        for name in (phase.name for phase in self.phases if phase.optional):
            self._need(name != names[0], f"The first phase, {name}, cannot be optional.")
            stuck = set(names) - self._reachable(without=name) - {name}
            self._need(
                not stuck, f"{name} is optional, but only it leads to {', '.join(sorted(stuck))}; add a turn past it."
            )
        for aside in self.asides:
            self._need(aside.to_phase in names, f"An aside names the unknown phase {aside.to_phase}.")

    @property
    def version(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of the machine as JSON and of ``JUDGEMENT``: equal machines, one version."""
        return hashlib.sha256(b"%d" % JUDGEMENT + msgspec.json.encode(self)).hexdigest()[:12]

    def turns_from(self, phase: str) -> tuple[Turn, ...]:
        """The turns that leave a phase, in the order they were written."""
        return tuple(turn for turn in self.turns if turn.from_phase == phase)

    def judges(self, labels: dict[str, str]) -> bool:
        """Whether a series with these labels is a subject of this machine."""
        if self.subject == "network":
            return labels == self.labels
        return "layer" in labels and {k: v for k, v in labels.items() if k != "layer"} == self.labels

    @property
    def minds_infinity(self) -> bool:
        """Whether values that are not finite mean something to it."""
        return any(turn.when == "diverge" for turn in self.turns)

    def overhears(self) -> set[str]:
        """The other quantities it asks for."""
        given = [*self.asides, *(each for turn in self.turns for each in turn.given)]
        return {each.quantity for each in given}

    @property
    def tests(self) -> bool:
        """Whether it has a turn that spends alpha."""
        return any(turn.when in TESTED for turn in self.turns)

    def alpha(self, turn: Turn) -> float:
        """A turn's part of the machine's alpha: by ``share`` among those that are tested; 0 for the others."""
        if turn.when not in TESTED:
            return 0.0
        return turn.share / sum(t.share for t in self.turns if t.when in TESTED)

    def _check_turn(self, turn: Turn, names: list[str]) -> None:
        here = f"The turn from {turn.from_phase} to {turn.to_phase}"
        unknown = [name for name in (turn.from_phase, turn.to_phase) if name not in names]
        self._need(not unknown, f"{here} names the unknown phase {', '.join(unknown)}; known are {', '.join(names)}.")
        self._need(turn.from_phase != turn.to_phase, f"{here} goes nowhere; remove it.")
        self._need(
            0.0 < turn.share <= 100.0,
            f"{here} has share {turn.share}; it is a part of the whole, above 0 and up to 100.",
        )
        self._need(0.0 <= turn.min_effect < 10.0, f"{here} has min_effect {turn.min_effect}; 0.05 means 5 %.")
        self._need(
            turn.min_points >= LEAST_POINTS, f"{here} has min_points {turn.min_points}; use {LEAST_POINTS} or more."
        )
        self._need(0.0 < turn.slope < 1.0, f"{here} has slope {turn.slope}; it is a fraction, between 0 and 1.")
        self._need(1 <= turn.window <= 64, f"{here} has window {turn.window}; use 1 to 64 probes.")
        self._need(turn.spreads >= 3.0, f"{here} has spreads {turn.spreads}; below 3 noise alone is a spike.")
        low, high = turn.band
        self._need(0.0 < low < high, f"{here} has the band {low} to {high}; it rises, above 0.")
        if turn.at_least is not None and turn.at_most is not None:
            self._need(
                turn.at_least <= turn.at_most, f"{here} asks for at least {turn.at_least} and at most {turn.at_most}."
            )
        self._need(
            turn.given or turn.when != "given",
            f"{here} is taken on what is given, and nothing is; add [[turns.given]].",
        )
        same = [t for t in self.turns if (t.from_phase, t.when) == (turn.from_phase, turn.when)]
        self._need(len(same) == 1, f"{here} is not the only one taken on a {turn.when}; keep one.")

    def _reachable(self, without: str = "") -> set[str]:
        found, todo = set[str](), [self.phases[0].name]
        while todo:
            found.add(here := todo.pop())
            todo += [t.to_phase for t in self.turns_from(here) if t.to_phase not in {*found, without}]
        return found

    def _need(self, holds: object, otherwise: str) -> None:
        if not holds:
            raise MachineError(f"Machine {self.name!r}: {otherwise}")


def shared(machines: Iterable[Machine], alpha: float) -> dict[str, float]:
    """Each machine's part of a run's alpha, by weight among those that test anything; 0 for the others, which need none."""
    weights = {machine.name: machine.weight * machine.tests for machine in machines}
    whole = sum(weights.values()) or 1.0
    return {name: alpha * weight / whole for name, weight in weights.items()}
