"""Budget: how much of a run's time probes may take."""

import math
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

ADVANCE = 1000.0
"""Seconds of training whose share may be spent in advance, as far as that is not more than ``MOST``."""

MOST = 20.0
"""Seconds that are advanced, whatever the share: a short run should not be held up for minutes."""

RELEASED = 0.2
"""The part of the time for which the advance is the share, after which all of it may have been spent."""

AT_FIRST = 0.25
"""The part of the advance that may be spent on the state that training begins from."""

LATEST = 2**62
"""The step at which everything will have been earned."""


class Claim(NamedTuple):
    """What one probe asks for: the ``seconds`` it is expected to take; those it ``had`` so far; whether it is ``due`` now.

    An ``urgent`` one is paid before the others, from what they have saved as well. One that may be halved up to ``halvings`` times
    is, rather than left out; half of it takes half the seconds. Its part of the budget is in proportion to its ``weight``.
    """

    seconds: float
    had: float
    due: bool = True
    urgent: bool = False
    halvings: int = 0
    weight: float = 1.0


class Bought(NamedTuple):
    """The claims that are paid for, by their places, and how often each was ``halved``; the seconds ``missing`` for the next; those ``left``."""

    chosen: list[int]
    missing: float
    halved: dict[int, int]
    left: float


@dataclass(frozen=True, slots=True)
class Budget:
    """Probes may take ``share`` of the training time, ``allowance`` seconds of it in advance.

    The advance makes the early period dense: the first minutes of a run decide most. It comes in equal parts for equal distances on a
    logarithmic axis of steps, as phases do, so that the first dozen steps, which decide little, do not take what the first epochs
    need; after ``allowance / share / 5`` seconds of training (three minutes, where nothing else is said) all of it is there. The state
    that training begins from may have a quarter.

    It is paid back by half the share, so that measuring never pauses: after ``2 × allowance / share`` seconds of training (half an
    hour) the share holds over the whole run so far, and from then on always.
    """

    share: float = 0.02
    allowance: float = MOST

    def __post_init__(self) -> None:
        if not (0 <= self.share <= 1000 and self.allowance >= 0):
            raise ValueError(
                f"Got Budget(share={self.share}, allowance={self.allowance}); need a share of training time from 0 up "
                "(0.02 is 2 %) and an allowance of 0 or more seconds."
            )

    @classmethod
    def of(cls, share: str) -> Self:
        """A budget of a share, such as "1%" or "0.5 %".

        Raises:
            ValueError: it is no percentage.
        """
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", share)
        if found is None:
            raise ValueError(f'Got budget={share!r}; need a percentage of training time, such as "1%", or a Budget.')
        part = float(found[1]) / 100
        return cls(part, min(ADVANCE * part, MOST))

    def allowed(self, training: float, steps: int) -> float:
        """Seconds that probes may take in all, after so many of training and so many steps."""
        advanced = self.allowance * self._released(training, steps)
        return max(self.share * training, advanced + self.share * training / 2)

    def _released(self, training: float, steps: int) -> float:
        """The part of the advance that may be spent by now."""
        if not 0 < self.share < 1 or self.allowance == math.inf:
            # Nothing is earned, so nothing tells how long it has to last; or the run is there to be measured.
            return 1.0
        if training <= 0 or steps <= 0:
            return AT_FIRST
        until = steps * RELEASED * self.allowance / self.share / training
        return min(1.0, math.log1p(steps) / math.log1p(until)) if until > 0 else 1.0

    def steps_to_wait(self, missing: float, *, training: float, steps: int) -> int:
        """How many more training steps must pass before ``missing`` more seconds are allowed, at least 1.

        Args:
            missing: seconds of probes beyond those that are allowed now.
            training: seconds of training so far, probes excluded.
            steps: training steps in that time.
        """
        if self.share == 0:
            return 1000  # nothing will ever be earned: look again much later
        if training <= 0 or steps == 0:
            return 1  # nothing to extrapolate from
        needed, each = self.allowed(training, steps) + missing, training / steps
        latest = math.ceil(min(needed / self.share / each, LATEST))  # by then it is earned without any advance
        return max(1, bisect_left(range(latest), needed, lo=steps, key=lambda at: self.allowed(each * at, at)) - steps)


UNLIMITED = Budget(share=1000.0, allowance=math.inf)
"""For a job that is run to be looked at."""


def affordable(claims: Sequence[Claim], left: float, allowed: float) -> Bought:
    """Which of the due claims ``left`` seconds pay for, of those that are ``allowed`` in all.

    Those that had least for their weight come first. A claim that is too dear now keeps what it has saved, up to its part of all
    that was allowed: so a dear probe neither keeps the cheap ones waiting nor is starved by them, and each has its part or all it asks
    for. After an urgent claim the others had less, and come first until that is made good.
    """
    halved: dict[int, int] = {}
    missing = math.inf
    whole = sum(claim.weight for claim in claims)
    for i in sorted(range(len(claims)), key=lambda i: (not claims[i].urgent, claims[i].had / claims[i].weight)):
        seconds, had, due, _, most, weight = claims[i]
        times = next((k for k in range(most + 1) if seconds / 2**k <= left), None) if due else None
        if times is not None:
            halved[i] = times
            left -= seconds / 2**times
            continue
        if due:
            missing = min(missing, seconds / 2**most - left)
        left -= max(0.0, min(seconds, allowed * weight / whole - had))
    return Bought(sorted(halved), missing, halved, left)
