"""The calibration probe: how sure the network is of its predictions, and whether it should be."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from probe_agent.estimators.calibration import BINS, calibration_draws
from probe_agent.estimators.draws import mean_of
from probe_agent.needs import Need
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.snapshot import Snapshot
from probe_wire import Quantity

CONFIDENCE = Quantity(
    "probe_confidence",
    "ratio",
    "The mean probability the network gives to the class it predicts. Above the accuracy it is over-confident.",
    "Confidence",
)
ERROR = Quantity(
    "calibration_error",
    "ratio",
    f"Expected calibration error: |accuracy − confidence| in {BINS} equal bins of confidence, averaged over the "
    "predictions (Guo et al. 2017). Read it against its floor.",
    "Calibration error",
)
FLOOR = Quantity(
    "calibration_error_floor",
    "ratio",
    "What the calibration error would be on average, with as many predictions of the same confidence, were the network "
    "perfectly calibrated. An error near it is no evidence of miscalibration.",
    "Calibration error of a calibrated network",
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration(Probe):
    """Confidence, expected calibration error and its floor, on the probe set and on each further set."""

    name: ClassVar[str] = "calibration"
    quantities: ClassVar[tuple[Quantity, ...]] = (CONFIDENCE, ERROR, FLOOR)
    needs: ClassVar = frozenset({Need.CLASSES})
    takes_complex: ClassVar[bool] = True

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:  # noqa: ARG002 - a Probe's signature
        """The three quantities of the probe set, then those of the further sets in their order."""
        for labels, view in snapshot.views():
            found = calibration_draws(view)
            for quantity, draws in ((CONFIDENCE, found.confidence), (ERROR, found.error), (FLOOR, found.floor)):
                yield Measurement(
                    quantity=quantity,
                    estimate=mean_of(draws),
                    labels=labels,
                    draws=draws,
                    settings={"n": str(view.probe_set.n), "bins": str(BINS)},
                )
