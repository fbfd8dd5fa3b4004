"""Finding: what one probe gave at one step; the findings of a step together are the columns of a Report."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from probe_agent.complaints import Complaints
from probe_agent.errors import is_refused_memory
from probe_agent.probe import Probe
from probe_wire import MAX_COLUMNS, Column, Estimate, Outcome, ProbeCost, Quantity

Measured = tuple[Quantity, Column, Estimate]
SeriesKey = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class Finding:
    """The columns of one probe, what it cost and how it came out; ``blame`` is what failed where it was not the probe."""

    columns: Sequence[Measured]
    cost: ProbeCost
    blame: str = ""

    @classmethod
    def without_value(
        cls, probe: Probe, outcome: Outcome, detail: str, seconds: float = 0.0, last: "Finding | None" = None
    ) -> "Finding":
        """The probe's columns without values, so that a failure is a visible gap in each of its series.

        ``last`` is what it gave before, which tells its series; else it is a gap in each of its quantities.
        """
        known = (
            [(quantity, column) for quantity, column, _ in last.columns]
            if last and last.columns
            else [(q, Column(q.name, {}, {"probe": probe.name})) for q in probe.quantities]
        )
        gap = Estimate.without_value(outcome)
        return cls([(q, column, gap) for q, column in known], ProbeCost(probe.name, seconds, outcome, detail[:2000]))


def complaints_of(findings: Iterable[Finding], step: int, complain: Complaints) -> None:
    """Tell of the probes that failed, once a cause."""
    for finding in findings:
        name, why = finding.cost.probe, finding.cost.detail
        if finding.cost.outcome in (Outcome.FAILED, Outcome.OUT_OF_MEMORY):
            where = f"step {step}" if finding.blame else f"probe {name} failed at step {step}"
            complain(finding.blame or f"probe {name}", f"{where}: {why}")


def columns_of(findings: Iterable[Finding], complain: Complaints) -> list[Measured]:
    """What a report may hold of the findings; anything left out is told."""
    return _fitting(_distinct([entry for finding in findings for entry in finding.columns], complain), complain)


def _distinct(columns: Sequence[Measured], complain: Complaints) -> list[Measured]:
    """The columns without any that names a series a second time: one step has one point of a series."""
    by_series: dict[SeriesKey, Measured] = {}
    for entry in columns:
        key = (entry[1].quantity, tuple(sorted(entry[1].labels.items())))
        if by_series.setdefault(key, entry) is not entry:
            complain(f"series {key}", f"{key[0]} {dict(key[1])} was measured twice in one step; the first is kept")
    return list(by_series.values())


def _fitting(columns: list[Measured], complain: Complaints) -> list[Measured]:
    """As many columns as a message may have: the whole network's before the layers'."""
    excess = len(columns) - MAX_COLUMNS
    if excess <= 0:
        return columns
    complain(
        "columns",
        f"{len(columns)} series were measured, and a report holds {MAX_COLUMNS}: the last {excess} of single layers are "
        "left out. Set per_layer=False on the probes that need no layers",
    )
    kept = sorted(range(len(columns)), key=lambda i: ("layer" in columns[i][1].labels, i))[:MAX_COLUMNS]
    return [columns[i] for i in sorted(kept)]


def failure_of(error: BaseException) -> Outcome:
    """Out of memory where a device or the machine refused some. Else failed."""
    return Outcome.OUT_OF_MEMORY if is_refused_memory(error) else Outcome.FAILED
