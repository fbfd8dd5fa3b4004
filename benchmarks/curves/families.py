"""Families: every kind of curve a detector is judged on, by name.

``FAMILIES[name](seed)`` is one curve. Tuning takes seeds below 1000, judging takes seeds from 10000 on.
"""

from dataclasses import replace

from . import complexity, nulls, onsets, peaks, spikes, stability, walks
from .curve import Curve, Family

PARTS = (peaks, nulls, stability, spikes, onsets, complexity, walks)
FAMILIES: dict[str, Family] = {
    name: replace(family, name=name) for part in PARTS for name, family in part.NAMED.items()
}
JUDGED_FROM = 10_000
"""The first seed of curves that nothing may be tuned to."""

__all__ = ["FAMILIES", "JUDGED_FROM", "Curve", "Family"]
