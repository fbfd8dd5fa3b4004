"""Detector costs: time for one probe early and late in a run, what must be kept to restart, and whether that changes calls."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
from curves.families import FAMILIES, JUDGED_FROM
from curves.tables import Grid

from against.detectors import judge, target_of

TIMED = 1000
"""Updates that one measurement of time is the mean of: the last before the given number of probes."""


@dataclass(frozen=True, slots=True)
class Costs:
    """Microseconds an update after each number of probes; the most bytes of JSON to restart from; at how many probes.

    A mismatch is a probe where a detector that had been put away and taken out again said anything else than one that
    had not, compared byte by byte.
    """

    kind: str
    microseconds: dict[int, float]
    state_bytes: int
    restarts: int
    mismatches: int

    @property
    def met(self) -> bool:
        """No mismatch, at most 8 kB and 100 µs, and the same late in a run as early (20 %)."""
        early, *_, late = self.microseconds.values()
        return not self.mismatches and self.state_bytes <= 8192 and max(early, late) <= 100.0 and late <= 1.2 * early


def costs(kind: str, probes: tuple[int, ...], runs: int = 3) -> Costs:
    """The costs of a detector on endless saturating growth with noise, and restarts on every family of its kind."""
    names = [name for name, family in FAMILIES.items() if family.asked == kind]
    found = [_restarted(kind, name, seed) for name in names for seed in range(JUDGED_FROM, JUDGED_FROM + runs)]
    sizes, restarts, mismatches = zip(*found, strict=True)
    return Costs(kind, dict(_timed(kind, probes)), max(sizes), sum(restarts), sum(mismatches))


def _timed(kind: str, probes: tuple[int, ...]) -> Iterator[tuple[int, float]]:
    judged = judge(kind, 2.0 if kind == "eos_reached" else None)
    rng = np.random.default_rng(0)
    n = max(probes)
    values = ((1.0 - 0.8 * np.exp(-np.arange(n) / 300.0)) * (1.0 + 0.1 * rng.standard_normal(n))).tolist()
    done = 0
    for at in sorted(probes):
        for step in range(done, at - TIMED):
            judged(step, values[step], 0.1)
        began = time.process_time()
        for step in range(at - TIMED, at):
            judged(step, values[step], 0.1)
        yield at, 1e6 * (time.process_time() - began) / TIMED
        done = at


def _restarted(kind: str, name: str, seed: int) -> tuple[int, int, int]:
    """The bytes to restart from, how often that was done, and the mismatches."""
    curve = FAMILIES[name](seed)
    stderr = [None] * curve.steps.size if curve.stderr is None else curve.stderr.tolist()
    target = target_of(curve)
    through, restarted = judge(kind, target), judge(kind, target)
    size = mismatches = 0
    for probe in zip(curve.steps.tolist(), curve.values.tolist(), stderr, strict=True):
        kept = json.dumps(restarted.track.state(), separators=(",", ":"))
        size = max(size, len(kept))
        restarted = judge(kind, target)
        restarted.track.restore(json.loads(kept))
        mismatches += msgspec.json.encode(through(*probe)) != msgspec.json.encode(restarted(*probe))
    return size, curve.steps.size, mismatches


def cost_grid(spent: list[Costs]) -> Grid:
    """Bar 12, a row for each kind of transition."""
    rows = []
    for cost in spent:
        early, *_, late = cost.microseconds.values()
        cells = (f"{cost.mismatches} of {cost.restarts}", f"{cost.state_bytes}", f"{early:.0f}", f"{late:.0f}")
        rows.append((cost.kind, *cells, "yes" if cost.met else "**no**"))
    first, *_, last = spent[0].microseconds
    headings = ("restarts that changed a call", "state, bytes", f"µs an update, probe {first}", f"probe {last}")
    title = "Bar 12: costs; none, at most 8192 bytes, at most 100 µs and late within 20 % of early"
    return Grid(title, ("detector", *headings, "met"), rows)
