"""Estimate and Outcome: a number that knows how much to trust itself, and how it came out."""

import math
from enum import IntEnum
from typing import Self

import msgspec


class Outcome(IntEnum):
    """How an estimate came out. Travels as one byte; its name and sentence are for people."""

    OK = 0
    NOT_CONVERGED = 1
    NON_FINITE = 2
    OVER_BUDGET = 3
    NOT_APPLICABLE = 4
    FAILED = 5
    OUT_OF_MEMORY = 6

    @classmethod
    def _missing_(cls, _: object) -> "Outcome":
        """An outcome of a newer release reads as a failure: an old reader must not refuse the message."""
        return cls.FAILED

    @property
    def label(self) -> str:
        """The lower-case name used in labels and JSON, such as ``not_converged``."""
        return self.name.lower()

    @property
    def sentence(self) -> str:
        """What a person reads when the estimate is not simply ok."""
        return _SENTENCES[self]


_SENTENCES = {
    Outcome.OK: "The estimate is sound; its standard error says how sharp it is.",
    Outcome.NOT_CONVERGED: "The iteration stopped before its error bound was met; the value is a bound or a rough guess.",
    Outcome.NON_FINITE: "The value or its standard error is not a finite number; training may have diverged.",
    Outcome.OVER_BUDGET: "The measurement was skipped or stopped because it would have cost more than its share of training time.",
    Outcome.NOT_APPLICABLE: "The quantity is not defined for this model, loss or probe batch.",
    Outcome.FAILED: "The probe raised an error; training was not affected.",
    Outcome.OUT_OF_MEMORY: "The probe needed more memory than there was; give a smaller probe batch. Training was not affected.",
}


BY_CODE = tuple(map(Outcome, range(256)))
"""The outcome of each code: asking the Enum takes longer than all else that is done for a point."""


class Estimate(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A value with its standard errors, the number of independent draws behind it and its outcome.

    ``stderr`` is the *marginal* standard error: how far the value may be from what an infinite
    probe set would give. ``paired`` is the standard error of the *change* since the previous
    estimate on the same inputs and draws, scaled to one estimate (sd of the differences / sqrt(2n)):
    the one to judge a trend by. Both are NaN when they are not known.
    """

    value: float
    stderr: float = math.nan
    paired: float = math.nan
    n: int = 0
    outcome: Outcome = Outcome.OK

    @classmethod
    def without_value(cls, outcome: Outcome) -> Self:
        """An estimate that could not be made, with the reason as its outcome."""
        return cls(math.nan, outcome=outcome)

    def checked(self) -> "Estimate":
        """This estimate, or the same marked NON_FINITE when an ok value is NaN or infinite, or its error infinite."""
        if self.outcome is Outcome.OK and (not math.isfinite(self.value) or math.isinf(self.stderr)):
            return msgspec.structs.replace(self, outcome=Outcome.NON_FINITE)
        return self
