"""Tables: scores and bars as text, the same for a terminal and for Markdown."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .bars import BARS, Bar, Interval, Scores
from .families import FAMILIES
from .score import LEVELS, Score, plain

All = Mapping[str, Scores]
"""Scores of every detector, by its name."""
SHOWN = {
    "peak_passed": (
        *("null, constant", "null, linear", "null, saturating SNR 10", "null, saturating SNR 50", "null, heavy tails"),
        *("null, giant spike", "null, staircase", "null, AR(.8)", "null, dip", "random walk, peak_passed"),
        *("peak SNR 5", "peak SNR 10", "peak SNR 20", "peak SNR 50"),
    )
}
"""Families beside which rivals are shown, where not all are."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: its title, headings and rows of cells."""

    title: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def markdown(self) -> list[str]:
        """Lines of Markdown."""
        rule = "|---" + "|---:" * (len(self.headings) - 1) + "|"
        lines = ["| " + " | ".join(row) + " |" for row in (self.headings, *self.rows)]
        return [f"## {self.title}", "", lines[0], rule, *lines[1:], ""]


def bar_rows(scores: Scores) -> Iterator[dict[str, Any]]:
    """Each bar whose families were run: what was measured at each level, and whether the bar is met."""
    for bar in BARS:
        found: dict[str, Interval] = {}
        for level in LEVELS:
            try:
                found[level] = bar.measure(scores, level)
            except KeyError:  # not all of its families were run
                break
        else:
            yield {
                "number": bar.number,
                "quantity": bar.quantity,
                "level": bar.level,
                "measured": {level: [plain(x) for x in interval] for level, interval in found.items()},
                "bar": bar.bar,
                "met": bar.passed(found[bar.level][0]),
                "cells": _bar_cells(bar, found),
            }


def bar_grid(rows: list[dict[str, Any]]) -> Grid:
    """The bars as one table."""
    headings = ("quantity", *(f"{level} (95 %)" for level in LEVELS), "bar", "met", "aim")
    return Grid("Bars", ("#", *headings), [(str(row["number"]), *row["cells"]) for row in rows])


def _bar_cells(bar: Bar, found: dict[str, Interval]) -> tuple[str, ...]:
    sign = "≥" if bar.at_least else "≤"
    met = "yes" if bar.passed(found[bar.level][0]) else "**no**"
    unit = f" {bar.unit}" if bar.unit else ""
    shown = [interval_text(found[level], unit) for level in LEVELS]
    return (bar.quantity, *shown, f"{sign} {bar.bar:g}{unit} {bar.level}", met, f"{sign} {bar.aim:g}{unit}")


def interval_text(interval: Interval, unit: str = "") -> str:
    """A number and its interval; ∞ where most runs were missed."""
    value, low, high = ("–" if math.isnan(x) else "∞" if math.isinf(x) else f"{x:.3g}" for x in interval)
    return value if value == "–" else f"{value}{unit} ({low} to {high})"


def family_grid(asked: str, scores: Scores) -> Grid | None:
    """Our detector on every family of a kind: its detections, then its confirmations."""
    rows = [
        (name, *_cells(scores[name, "detected"]), *_cells(scores[name, "confirmed"])[:3])
        for name, family in FAMILIES.items()
        if family.asked == asked and (name, "detected") in scores
    ]
    what = ("early %", "missed %", "delay")
    headings = ("family", *what, "over bound", "run by run", *(f"confirmed: {word}" for word in what))
    return Grid(f"{asked}, family by family", headings, rows) if rows else None


def rival_grid(asked: str, scores: All, refused: Mapping[tuple[str, str], str]) -> Grid | None:
    """All detectors of a kind, called `detected`: early % / missed % / median delay, for nulls false alarms %."""
    families = [
        name
        for name, family in FAMILIES.items()
        if family.asked == asked
        and name in SHOWN.get(asked, (name,))
        and any((name, "detected") in s for s in scores.values())
    ]
    rows = []
    for detector, found in scores.items():
        if any((name, "detected") in found for name in families):
            rows.append((detector, *(_short(found.get((name, "detected"))) for name in families)))
    rows += [(detector, why, *[""] * (len(families) - 1)) for (kind, detector), why in refused.items() if kind == asked]
    return Grid(f"{asked}, beside others", ("detector", *families), rows) if rows and families else None


def _cells(score: Score) -> tuple[str, ...]:
    early = interval_text(tuple(100.0 * x for x in (score.early.value, *score.early.interval)))  # type: ignore[arg-type]
    if score.null:
        return early, "–", "–", "–", "–"
    value = score.delay[0]
    times = (_number(value / score.bound), _number(score.run_by_run))
    return early, f"{100.0 * score.missed.value:.3g}", interval_text(score.delay), *times


def _short(score: Score | None) -> str:
    if score is None:
        return ""
    early = f"{100.0 * score.early.value:.0f}"
    if score.null:
        return early
    return f"{early} / {100.0 * score.missed.value:.0f} / {_number(score.delay[0])}"


def _number(x: float) -> str:
    return "–" if math.isnan(x) else "∞" if math.isinf(x) else f"{x:.2f}"
