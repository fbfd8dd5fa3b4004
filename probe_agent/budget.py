"""Budget: how much of a run's time probes may take."""

import math
import re
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Budget:
    """Probes may take ``allowance`` seconds, and beyond that ``share`` of the training time.

    The allowance makes the early period dense: the first minutes of a run decide most, and a few
    seconds are nothing to a run of hours. Over the whole run the share holds.
    """

    share: float = 0.02
    allowance: float = 20.0

    def __post_init__(self) -> None:
        if not (0 <= self.share <= 1000 and self.allowance >= 0):
            raise ValueError(
                f"Got Budget(share={self.share}, allowance={self.allowance}); need a share of training time from 0 up "
                "(0.02 is 2 %) and an allowance of 0 or more seconds."
            )

    @classmethod
    def of(cls, share: str) -> Self:
        """A budget of a share, such as "1%" or "0.5 %", beyond the default allowance.

        Raises:
            ValueError: it is no percentage.
        """
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", share)
        if found is None:
            raise ValueError(f'Got budget={share!r}; need a percentage of training time, such as "1%", or a Budget.')
        return cls(share=float(found[1]) / 100)

    def remaining(self, *, spent: float, training: float) -> float:
        """Seconds that are left when ``spent`` went to probes and ``training`` to training."""
        return self.allowance + self.share * training - spent

    def steps_to_wait(self, *, spent: float, expected: float, training: float, steps: int) -> int:
        """How many more training steps must pass before a measurement of ``expected`` seconds is affordable.

        Args:
            spent: seconds probes took so far.
            expected: seconds the measurement will take, as far as known.
            training: seconds of training so far, probes excluded.
            steps: training steps in that time.

        Returns:
            0 when it is affordable now.
        """
        missing = expected - self.remaining(spent=spent, training=training)
        if missing <= 0:
            return 0
        if self.share == 0 or training <= 0 or steps == 0:
            return 1000  # nothing to extrapolate from, or nothing will ever free time: look again much later
        return max(1, math.ceil(missing / (self.share * training / steps)))
