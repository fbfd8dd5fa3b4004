"""Machine: the phases a quantity may pass through and what must be shown to move between them, as plain data.

A machine says nothing about how evidence is computed and holds no state, so it can be read, kept in
a file, hashed and replayed. Any graph is allowed: a phase may be left by several turns, and a cycle
arms the machine again after its last phase.
"""

import hashlib
import re
from typing import Literal

import msgspec

from collector.phases.series import Scale
from collector.phases.transition import Severity

Direction = Literal["rise", "fall"]
Subject = Literal["network", "layer"]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")
LEAST_POINTS = 8
"""Probes since a phase began without which nothing is judged: two windows of four."""


class MachineError(ValueError):
    """A machine that contradicts itself; the message names the machine, what is wrong and the remedy."""


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """A named stretch of steps and what it means. Healthy runs may pass by an ``optional`` one."""

    name: str
    meaning: str
    optional: bool = False


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """When a run leaves ``from_phase`` for ``to_phase``.

    ``when`` is a "rise" (the mean is not what it would be had it only fallen since the phase began)
    or a "fall". Out of a phase that began with a rise, a fall has passed a peak; out of one that
    began with a fall, a rise has passed a valley. ``alpha`` is the probability allowed for taking the
    turn, ever, while its null hypothesis holds, each time its phase is entered. ``min_effect`` is
    the least relative change that matters, however certain; ``min_points`` the least number of
    probes since the phase began.
    """

    from_phase: str
    to_phase: str
    when: Direction
    alpha: float
    min_effect: float
    min_points: int = 10
    severity: Severity = "info"
    advice: str = ""
    undo: str = ""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The phases of one quantity. The first phase is where a run begins.

    ``value_scale`` and ``step_scale`` are the axes of the test: a logarithmic value suits what is
    positive with noise in proportion, a logarithmic step what is probed at log-spaced steps.
    ``subject`` is the whole network, whose series has no labels, or each layer by itself. Making
    one that contradicts itself raises MachineError.
    """

    name: str
    quantity: str
    value_scale: Scale
    step_scale: Scale
    phases: tuple[Phase, ...]
    turns: tuple[Turn, ...]
    subject: Subject = "network"

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        names = [phase.name for phase in self.phases]
        for name in (self.name, self.quantity, *names):
            self._need(_NAME.fullmatch(name), f"Got the name {name!r}; names are lower case letters, digits and _.")
        self._need(names, "Got no phases; name at least the one a run begins in.")
        twice = sorted({name for name in names if names.count(name) > 1})
        self._need(not twice, f"Got more than one phase named {', '.join(twice)}; rename or remove one.")
        for turn in self.turns:
            self._check_turn(turn, names)
        lost = [name for name in names if name not in self._reachable()]
        self._need(not lost, f"Nothing leads to {', '.join(lost)} from {names[0]}; add a turn or remove the phase.")
        for name in (phase.name for phase in self.phases if phase.optional):
            self._need(name != names[0], f"The first phase, {name}, cannot be optional.")
            stuck = set(names) - self._reachable(without=name) - {name}
            self._need(
                not stuck, f"{name} is optional, but only it leads to {', '.join(sorted(stuck))}; add a turn past it."
            )

    @property
    def version(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of the machine as JSON: two equal machines, one version."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:12]

    def turns_from(self, phase: str) -> tuple[Turn, ...]:
        """The turns that leave a phase, in the order they were written."""
        return tuple(turn for turn in self.turns if turn.from_phase == phase)

    def judges(self, labels: dict[str, str]) -> bool:
        """Whether a series with these labels is a subject of this machine."""
        return set(labels) == ({"layer"} if self.subject == "layer" else set())

    def _check_turn(self, turn: Turn, names: list[str]) -> None:
        here = f"The turn from {turn.from_phase} to {turn.to_phase}"
        unknown = [name for name in (turn.from_phase, turn.to_phase) if name not in names]
        self._need(not unknown, f"{here} names the unknown phase {', '.join(unknown)}; known are {', '.join(names)}.")
        self._need(turn.from_phase != turn.to_phase, f"{here} goes nowhere; remove it.")
        self._need(0.0 < turn.alpha < 1.0, f"{here} has alpha {turn.alpha}; it is a probability between 0 and 1.")
        self._need(0.0 <= turn.min_effect < 10.0, f"{here} has min_effect {turn.min_effect}; 0.05 means 5 %.")
        self._need(
            turn.min_points >= LEAST_POINTS, f"{here} has min_points {turn.min_points}; use {LEAST_POINTS} or more."
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
