"""Budget: how much of a run's time probes may take."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

ADVANCE = 1000.0
"""Seconds of training whose share may be spent at once."""


class Claim(NamedTuple):
    """What one probe asks for: the ``seconds`` it is expected to take; those it ``had`` so far; whether it is ``due`` now.

    An ``urgent`` one is paid before the others, from what they have saved as well. One that may be halved up to ``halvings`` times
    is, rather than left out; half of it takes half the seconds.
    """

    seconds: float
    had: float
    due: bool = True
    urgent: bool = False
    halvings: int = 0


class Bought(NamedTuple):
    """The claims that are paid for, by their places, and how often each was ``halved``; the seconds ``missing`` for the next; those ``left``."""

    chosen: list[int]
    missing: float
    halved: dict[int, int]
    left: float


@dataclass(frozen=True, slots=True)
class Budget:
    """Probes may take ``share`` of the training time, ``allowance`` seconds of it in advance.

    The advance makes the early period dense: the first minutes of a run decide most. It is paid back by half
    the share, so that measuring never pauses: after ``2 × allowance / share`` seconds of training (half an hour,
    where nothing else is said) the share holds over the whole run so far, and from then on always.
    """

    share: float = 0.02
    allowance: float = 0.02 * ADVANCE

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
        return cls(share=float(found[1]) / 100, allowance=float(found[1]) / 100 * ADVANCE)

    def allowed(self, training: float) -> float:
        """Seconds that probes may take in all, after so many of training."""
        return max(self.share * training, self.allowance + self.share * training / 2)

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
        needed = self.allowed(training) + missing
        paid = min(needed / self.share, 2 * (needed - self.allowance) / self.share)
        return max(1, math.ceil((paid - training) / (training / steps)))


UNLIMITED = Budget(share=1000.0, allowance=math.inf)
"""For a job that is run to be looked at."""


def affordable(claims: Sequence[Claim], left: float, fair: float) -> Bought:
    """Which of the due claims ``left`` seconds pay for.

    Those that had least come first. A claim that is too dear now keeps what it has saved, up to the ``fair`` share
    of all that was allowed: so a dear probe neither keeps the cheap ones waiting nor is starved by them, and each of
    n has an n-th part or all it asks for. After an urgent claim the others had less, and come first until that is made good.
    """
    halved: dict[int, int] = {}
    missing = math.inf
    for i in sorted(range(len(claims)), key=lambda i: (not claims[i].urgent, claims[i].had)):
        seconds, had, due, _, most = claims[i]
        times = next((k for k in range(most + 1) if seconds / 2**k <= left), None) if due else None
        if times is not None:
            halved[i] = times
            left -= seconds / 2**times
            continue
        if due:
            missing = min(missing, seconds / 2**most - left)
        left -= max(0.0, min(seconds, fair - had))
    return Bought(sorted(halved), missing, halved, left)
