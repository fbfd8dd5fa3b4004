"""Figures: numbers as they are told."""

import math


def rounded(value: float) -> float:
    """A figure to six significant digits: the last bits of a logarithm differ between processors."""
    return float(f"{value:.6g}")


def finite(value: float) -> float | None:
    """A rounded figure, or None for what is not finite, for which JSON has no number."""
    return rounded(value) if math.isfinite(value) else None
