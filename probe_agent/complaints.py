"""Complaints: what went wrong in the agent, told once a cause and counted after that."""

import logging
from collections import Counter
from contextlib import suppress
from typing import final

logger = logging.getLogger("probe_agent")

CAUSES = 1000
"""So many causes are told apart; what comes after them is only counted."""


@final
class Complaints:
    """Nothing of ours raises into training; this is where it goes instead."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __call__(self, cause: str, text: str) -> None:
        """Log ``text`` if it is the first complaint of this cause, and count it."""
        if cause not in self.counts and len(self.counts) >= CAUSES:
            cause = "others"
        self.counts[cause] += 1
        if self.counts[cause] == 1:
            warn(f"{text.rstrip('.')}. Training goes on; further failures of this kind are only counted.")


def warn(text: str) -> None:
    """Log a warning. A log handler of the user's that raises does not raise into training."""
    with suppress(Exception):
        logger.warning("phasewatch: %s", text)


def tell(text: str) -> None:
    """Log what is worth knowing and nobody has to act on. A log handler of the user's that raises does not raise into training."""
    with suppress(Exception):
        logger.info("phasewatch: %s", text)


def said(error: BaseException) -> str:
    """The exception's type and words, whatever it does when it is asked for them, in characters that can travel."""
    try:
        words = str(error)
    except Exception:  # noqa: BLE001 - a stranger's class
        words = "(it raises when it is asked for its words)"
    text = f"{type(error).__name__}: {words}" if words else type(error).__name__
    return text.encode(errors="replace").decode()
