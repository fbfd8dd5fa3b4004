"""How often the detectors of phases are wrong and how late they are, beside published rules and libraries.

    python benchmarks/detection.py [--seeds 300] [--families "peak SNR 10; null, constant"] [--jobs 2] [--ours]

Every detector meets every curve probe by probe. Curves, their truth and the oracle's delay come from ``curves``; seeds
below 1000 are for tuning (``--tuning``), those judged begin at 10000. Prints; a whole run also writes
benchmarks/results/detection.json and detection.md.
"""

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from against.change_points import SLOW
from against.detector_costs import cost_grid, costs
from against.detectors import MACHINES, OURS, applies, available
from against.recorded_losses import recorded, recorded_grid
from curves.families import FAMILIES, JUDGED_FROM
from curves.oracle import oracle_delay
from curves.score import LEVELS, Level, Outcome, Score, outcomes
from curves.tables import Grid, bar_grid, bar_rows, family_grid, rival_grid
from rich.console import Console
from rich.progress import track
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
AT_ONCE = 25
"""Curves a worker takes at a time."""
SLOW_SEEDS = 40
"""Curves of a family for the libraries that take a second a curve."""
ORACLE_OF = "peak_passed"
"""The kind of transition that the oracle knows."""


@dataclass(frozen=True, slots=True)
class Task:
    """Some curves of a family for a detector."""

    detector: str
    family: str
    seeds: range


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="False alarms and delays of the detectors of phases.")
    parser.add_argument("--seeds", type=int, default=300, help="curves of each family")
    parser.add_argument("--families", default="", help="some only, separated by semicolons; a beginning will do")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--ours", action="store_true", help="only the product's detectors of single transitions")
    parser.add_argument("--tuning", action="store_true", help="the curves one may tune to")
    parser.add_argument(
        "--far", type=int, default=100_000, help="probes after which time is taken again; 0 for no costs"
    )
    parser.add_argument("--losses", type=Path, help="training logs with a loss for every step, of healthy runs")
    parser.add_argument("--out", type=Path, help="where the results go; by default only those of a whole run are kept")
    given = parser.parse_args()
    console, began = Console(width=200), time.perf_counter()
    first = 0 if given.tuning else JUDGED_FROM
    names = [name for name in FAMILIES if name.startswith(tuple(part.strip() for part in given.families.split(";")))]
    refused = dict(_refused(names, ours=given.ours))
    scores = scored(list(_tasks(names, range(first, first + given.seeds), ours=given.ours)), given.jobs)
    rows = list(bar_rows(scores.get(OURS, {})))
    kinds = list(dict.fromkeys(FAMILIES[name].asked for name in names))
    spent = [costs(kind, (1000, given.far)) for kind in kinds if given.far and (kind, OURS) not in refused]
    real = recorded(given.losses) if given.losses else []
    grids = [bar_grid(rows), *([cost_grid(spent)] if spent else []), *([recorded_grid(real)] if real else [])]
    grids += [grid for kind in kinds if (grid := family_grid(kind, scores.get(OURS, {})))]
    grids += [grid for kind in kinds if not given.ours and (grid := rival_grid(kind, scores, refused))]
    for grid in grids:
        console.print(_table(grid))
    where = _machine(given.seeds, first, round(time.perf_counter() - began))
    console.print(f"{where['seconds']} s")
    whole = not (given.families or given.ours or given.tuning)
    if out := given.out or (RESULTS if whole else None):
        results = {
            "machine": where,
            "bars": [{key: value for key, value in row.items() if key != "cells"} for row in rows],
            "costs": [asdict(cost) for cost in spent],
            "recorded": [asdict(calls) for calls in real],
            "refused": [{"kind": kind, "detector": name, "why": why} for (kind, name), why in refused.items()],
            "scores": _as_json(scores),
        }
        out.mkdir(parents=True, exist_ok=True)
        (out / "detection.json").write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
        (out / "detection.md").write_text(page(grids, where))


def scored(tasks: list[Task], jobs: int) -> dict[str, dict[tuple[str, Level], Score]]:
    """Scores by detector, then by family and level."""
    kept: dict[tuple[str, str, Level], list[Outcome]] = {}
    with ProcessPoolExecutor(jobs) as pool:
        done = pool.map(run, tasks)
        for task, found in track(zip(tasks, done, strict=True), "Scoring", len(tasks), transient=True):
            for level, some in found.items():
                kept.setdefault((task.detector, task.family, level), []).extend(some)
    scores: dict[str, dict[tuple[str, Level], Score]] = {}
    for (name, family, level), some in kept.items():
        scores.setdefault(name, {})[family, level] = Score(tuple(some), FAMILIES[family].null)
    return scores


def run(task: Task) -> dict[Level, list[Outcome]]:
    """What became of the curves of a task."""
    family = FAMILIES[task.family]
    detect = available(family.asked)[0][task.detector]
    found: dict[Level, list[Outcome]] = {level: [] for level in LEVELS}
    for seed in task.seeds:
        curve = family(seed)
        calls = detect(curve)
        bound = oracle_delay(curve) if family.asked == ORACLE_OF else math.nan
        for level in LEVELS:
            found[level] += [replace(o, bound=bound) for o in outcomes(curve, calls, family.asked, level)]
    return found


def _tasks(names: list[str], seeds: range, *, ours: bool) -> Iterator[Task]:
    for name in names:
        for detector in available(FAMILIES[name].asked)[0]:
            if (ours and detector != OURS) or not applies(detector, name):
                continue
            some = seeds[:SLOW_SEEDS] if detector in SLOW else seeds
            for i in range(0, len(some), AT_ONCE):
                yield Task(detector, name, some[i : i + AT_ONCE])


def _refused(names: list[str], *, ours: bool) -> Iterator[tuple[tuple[str, str], str]]:
    for kind in dict.fromkeys(FAMILIES[name].asked for name in names):
        for name, why in available(kind)[1].items():
            if name == OURS or not ours:
                yield (kind, name), why


def _as_json(scores: dict[str, dict[tuple[str, Level], Score]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for detector, by_family in scores.items():
        for (family, level), score in by_family.items():
            if level == LEVELS[0] or detector in (OURS, *MACHINES):  # a rule is never more than detected
                found.setdefault(detector, {}).setdefault(family, {})[level] = score.as_json()
    return found


def _table(grid: Grid) -> Table:
    shown = Table(*grid.headings, title=grid.title, title_justify="left")
    for row in grid.rows:
        shown.add_row(*(cell.replace("**no**", "[bold red]no[/]") for cell in row))
    return shown


def page(grids: list[Grid], of: dict[str, Any]) -> str:
    """All tables as Markdown."""
    lines = [
        "# Detection: false alarms and delays",
        "",
        "Written by `benchmarks/detection.py`. Delays are medians in rise times T, from a tenth of the rise to the peak;",
        "a missed transition counts as an infinite delay. *Early* is a call before there was anything to call, on a null any",
        "call. Others' cells are early % / missed % / delay. The bound is the median delay that no causal detector with 1 %",
        "false alarms can beat. A step is counted where the call came, not where it points to.",
        "",
        *(f"- {key}: {value}" for key, value in of.items()),
        "",
    ]
    return "\n".join(lines + [line for grid in grids for line in grid.markdown()])


def _machine(seeds: int, first: int, seconds: int) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": ", ".join(f"{name} {_version(name)}" for name in ("numpy", "river", "ruptures")),
        "seeds": f"{first} to {first + seeds - 1}",
        "seconds": seconds,
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
