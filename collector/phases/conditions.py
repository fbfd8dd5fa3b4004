"""Conditions: what a series is measured with, as far as its values depend on it.

Values of two probe sets, of two random streams or of two settings of a probe differ by more than the network has
learned between them, and their paired error does not know it. So evidence is never taken across such a change.
"""

from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256

DECIDING = (
    "probe",
    "configuration",
    "probe_set",
    "seed",
    "precision",
    "dtype",
    "n",
    "n_train",
    "labels",
    "draws",
    "score",
    "points",
    "directions",
    "radius",
    "space",
    "groups",
    "group_size",
    "k",
    "trainable",
)
"""The settings that decide. Others do not: remarks, such as how many products it took, and routes to one and the same number,
of which a probe may have to take another at some step."""


def conditions(settings: Mapping[str, str]) -> str:
    """Twelve hexadecimal digits that change where one of the settings that decide does; one that is absent is one of its own."""
    return _digest(tuple(settings.get(name) for name in DECIDING))


@lru_cache(maxsize=4096)
def _digest(deciding: tuple[str | None, ...]) -> str:
    return sha256(repr(deciding).encode()).hexdigest()[:12]
