"""Complaints: what went wrong in the agent, told once a cause and counted after that."""

import logging
from collections import Counter
from contextlib import suppress
from typing import final

logger = logging.getLogger("probe_agent")


@final
class Complaints:
    """Nothing of ours raises into training; this is where it goes instead."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __call__(self, cause: str, text: str) -> None:
        """Log ``text`` if it is the first complaint of this cause, and count it."""
        self.counts[cause] += 1
        if self.counts[cause] == 1:
            with suppress(Exception):  # a user's log handler may raise; it must not raise out of optimizer.step()
                logger.warning(
                    "phasewatch: %s. Training goes on; further failures of this kind are only counted.", text
                )
