"""Episode: one claim of a machine from the first suspicion to its confirmation or retraction."""

import math

import msgspec
import numpy as np

from collector.phases import signs
from collector.phases.axis import Floats
from collector.phases.history import Buckets
from collector.phases.machine import Turn
from collector.phases.transition import Transition

SUSPECTED = math.log(10.0)
"""Log e-value from which a claim is suspected."""
LAPSED_AFTER = 8
"""Probes in a row without any evidence after which a suspicion is withdrawn."""
SECOND_KEY = math.log(20.0)
"""Log e-value at which the sign test agrees."""
SIGNS_FROM = 48
"""Probes of a phase from which a claim needs the sign test not to speak against it: fewer make too few pairs."""
SHARP = 4.0
"""Standard deviations of a single probe between two means that need no signs: noise that lasted for ever would not go as far."""
HOLD = 8
"""Probes a claim must have stood before it is confirmed, at least."""
HOLD_OF_RISE = 0.5
"""The same as a part of the time the rise (or fall) before it took."""
LONG_HOLD = 2.0
"""Times as long that a claim must have stood where the sign test does not agree."""


class Suspicion(msgspec.Struct):
    """A claim with some evidence, as it was told, and for how many probes now there has been none."""

    turn: int
    told: Transition
    without: int = 0

    def withdrawn(self, step: int) -> Transition:
        """What is told where it came to nothing."""
        return msgspec.structs.replace(self.told, state="retracted", known_step=step, advice="", undo="")


class Episode(msgspec.Struct):
    """A claim that was detected. ``hold`` is how many probes it must stand, ``stood`` how many it has.

    ``few`` says that the phase before had too few probes for the sign test; a change beyond all noise stands in for it.
    ``far`` says that no random walk of such steps would have gone so far.
    ``slope`` and ``whole`` are the steepest slope before a level, and how far the values went: what it is flat beside.
    """

    turn: int
    detected: Transition
    hold: int
    stood: int = 0
    agreed: bool = False
    confirmed: bool = False
    few: bool = False
    far: bool = False
    slope: float = 0.0
    whole: float = 0.0

    def stands(self, turn: Turn, mean: float) -> bool:
        """Whether a mean of late is still on the far side: beyond the least effect and half of the change there was."""
        before, after = self.detected.evidence.before.mean or 0.0, self.detected.evidence.after.mean or 0.0
        way = 1.0 if turn.when == "rise" else -1.0
        return way * (mean - before) >= max(turn.min_effect * abs(before), 0.5 * way * (after - before))

    def gone(self, turn: Turn, mean: float) -> bool:
        """Whether a mean of late is back where it was before, but for the least effect."""
        before = self.detected.evidence.before.mean or 0.0
        way = 1.0 if turn.when == "rise" else -1.0
        return way * (mean - before) < turn.min_effect * abs(before)

    def ripe(self) -> bool:
        """Whether it has stood for long enough to be confirmed."""
        return self.stood >= (self.hold if self.agreed else LONG_HOLD * self.hold)


def outdated(told: Transition, step: int) -> Transition:
    """What is told of a claim that cannot be followed from a step on, because the series is measured otherwise there."""
    reason = f"{told.evidence.sentence}; from step {step} on it is measured otherwise, so this has to be shown anew"
    return msgspec.structs.replace(
        told,
        state="retracted",
        known_step=step,
        happened_step=step,
        happened_between=(step, step),
        advice="",
        undo="",
        act=False,
        evidence=msgspec.structs.replace(told.evidence, sentence=reason),
    )


def hold_after(buckets: Buckets, at: int) -> int:
    """How many probes a turn at bucket ``at`` must stand: by how long the way there took from a tenth of it on."""
    mean = buckets.y[: at + 1] / buckets.n[: at + 1]
    done = np.abs(mean - mean[-1]) <= 0.9 * float(np.abs(mean - mean[-1]).max())
    begun = (
        int(np.argmin(done[::-1])) if not done.all() else at + 1
    )  # buckets since the last that was still below a tenth
    return max(HOLD, math.ceil(HOLD_OF_RISE * float(buckets.n[at + 1 - begun : at + 1].sum())))


def agrees(when: str, newest: Floats, before: int, log_e: float) -> bool:
    """Whether the sign test on the newest cleaned probes gives a rise or a fall that log e-value."""
    return signs.fallen(newest if when == "fall" else -newest, before) >= log_e
