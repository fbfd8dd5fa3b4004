"""Hindsight: what truly happened in a stored series, told from the whole of it, to score what was told live.

Two methods that share nothing but the noise must agree. One asks whether a curve of any shape that
turns fits significantly better than one that does not (isotonic regression, likelihood ratio; the
null distribution is a chi-bar-square whose tail was simulated, Robertson, Wright and Dykstra 1988). The
other asks whether the levels of the series (PELT) turn. Where they differ, or where the noise is
so correlated that it makes turns by itself, nothing is labelled, and the label says why.
"""

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from collector.phases.axis import Floats, Scale
from collector.phases.hindsight import pelt
from collector.phases.hindsight.past import FIVE, GAIN, LEAST, THREE, Past, past
from collector.phases.hindsight.pieces import Way
from collector.phases.isotonic import isotonic
from collector.phases.turning_point import COVER

Shape = Literal["peak", "valley", "onset", "settled"]
_WAYS: tuple[Way, Way] = ("rise", "fall")

PENALTY = 16.0
"""Squared error that a change of level must save, in units of the noise."""
TENTH = 0.1
"""Share of a move that is done at its onset, and undone where it has settled."""
FLAT, NOT_FLAT = 0.4, 0.25
"""Length of what is flat over the length of the move: at least the first, and it is; below the second it is not.

A straight line has an eighth.
"""
EDGE = 4
"""Points on either side of a turn, at least: near the ends three wild probes in a row could pass for one."""
DRAWS = 99
"""Simulated series from which the interval of an onset is taken."""


class Label(msgspec.Struct, frozen=True):
    """Whether a shape is there in hindsight, at which step, between which (90 %), or why that is not known.

    ``happened`` is None where nothing is labelled. ``step`` and ``between`` are None unless it happened.
    """

    kind: Shape
    happened: bool | None
    step: int | None = None
    between: tuple[int, int] | None = None
    reason: str = ""


def label(
    steps: ArrayLike,
    values: ArrayLike,
    paired: ArrayLike | None,
    shape: Shape,
    *,
    value_scale: Scale = "linear",
    step_scale: Scale = "linear",
) -> Label:
    """The truth about one shape in a whole series, arrays of shape (n,); ``paired`` are standard errors or NaN.

    ``peak``: it rose, fell, and at the end is still below where it was: a dip that was made good is none.
    The first such peak counts. ``valley``: the same upside down. ``onset``: flat, then moved, from where
    a tenth of the first move is done. ``settled``: moved, then flat to the end, from where nine tenths
    of the last move are done. For a turn that later ones undo, pass the series up to the next turn.
    """
    seen = past(steps, values, paired, value_scale, step_scale)
    if seen is None:
        return Label(shape, None, reason=f"fewer than {LEAST} values that can be judged, or all the same")
    if shape in {"valley", "settled"}:
        seen = seen.mirrored(upside_down=shape == "valley", backwards=shape == "settled")
    return _peak(seen, shape) if shape in {"peak", "valley"} else _onset(seen, shape)


def _peak(seen: Past, shape: Shape) -> Label:
    turned = seen.pieces.fit(THREE)
    saved = seen.pieces.fit(THREE[:2]).error - turned.error
    by_levels = _levels_turn(seen)
    if saved < seen.gain:
        return _not_shown(seen, shape, saved, by_levels=by_levels)
    if seen.refusal or not by_levels:
        return Label(shape, None, reason=seen.refusal or "the fitted curve turns and the levels do not")
    if not EDGE <= turned.ends[1] <= seen.y.size - EDGE:
        return Label(shape, None, reason="only the first or the last probes show it")
    first = _earlier(seen, turned.error, shape)
    if first is not None:
        return first
    error = seen.pieces.joins(THREE)
    mass = np.cumsum(np.exp(-0.5 * (error - error.min()) / seen.inflation))
    ends = np.searchsorted(mass / mass[-1], ((1.0 - COVER) / 2, 0.5, (1.0 + COVER) / 2))
    return _at(seen, shape, *(int(i) - 1 for i in ends))  # the fall begins at probe i, so the top is the one before


def _earlier(seen: Past, error: float, shape: Shape) -> Label | None:
    """The label of an earlier peak, where a second one follows, if the series ends below that one too."""
    twice = seen.pieces.fit(FIVE)
    if error - twice.error < 1.5 * seen.gain or not 0 < twice.ends[1] < twice.ends[2] < twice.ends[3] < seen.y.size:
        return None
    top, valley = twice.ends[1], twice.ends[2]
    last = pelt.levels(seen.y, seen.sigma, PENALTY * seen.inflation)[-1]
    found = _peak(seen.part(valley), shape) if valley >= LEAST else None
    return found if found is not None and found.happened and twice.curve[top - 1] > last else None


def _levels_turn(seen: Past) -> bool:
    """Whether some level has one before it and the last one after it that are lower beyond doubt."""
    penalty = PENALTY * seen.inflation
    ends = [0, *pelt.changes(seen.y, seen.sigma, penalty), seen.y.size]
    weight = 1.0 / seen.sigma**2
    level = pelt.levels(seen.y, seen.sigma, penalty)[ends[:-1]]
    variance = 1.0 / np.add.reduceat(weight, ends[:-1])
    fall = level[:, None] - level  # of the level in the row, to that in the column
    clear = (fall > 0.0) & (fall**2 > penalty * (variance[:, None] + variance))
    return bool((np.tril(clear).any(axis=1) & clear[:, -1]).any())


def _onset(seen: Past, shape: Shape) -> Label:
    """The onset of the first move: what comes after a turn is cut off until what is left has none."""
    while True:
        straight = min(seen.pieces.fit((way,)).error for way in _WAYS)
        turned = min((seen.pieces.fit(pattern) for pattern in (_WAYS, _WAYS[::-1])), key=lambda fit: fit.error)
        until = turned.ends[0]
        if straight - turned.error < seen.gain or not LEAST <= until < seen.y.size:
            return _first_move(seen, shape)
        seen = seen.part(until)


def _first_move(seen: Past, shape: Shape) -> Label:
    fits = {way: seen.pieces.fit((way,)) for way in _WAYS}
    way = min(fits, key=lambda w: fits[w].error)
    seen = seen.mirrored(upside_down=way == "fall")
    weight = 1.0 / seen.sigma**2
    saved = float(np.sum(weight * (seen.y - np.average(seen.y, weights=weight)) ** 2)) - fits[way].error
    changes = pelt.changes(seen.y, seen.sigma, PENALTY * seen.inflation)
    if saved < seen.gain:
        return _not_shown(seen, shape, saved, by_levels=bool(changes))
    if seen.refusal or not changes:
        return Label(shape, None, reason=seen.refusal or "the fitted curve moves and the levels do not")
    curve = isotonic(seen.y, weight)
    begun, done, level = _span(seen.y, curve, weight)
    ratio = begun / max(done - begun, 1)
    if ratio < NOT_FLAT:
        return Label(shape, happened=False, reason=f"it moves from one end to the other: {shape} asks for a flat part")
    if ratio < FLAT or changes[0] < begun / 2 or _bends(seen.y, weight, begun, done) < PENALTY * seen.inflation:
        return Label(shape, None, reason="what should be flat is too short, or moves itself")
    rng = np.random.default_rng(0)
    spread = np.sqrt(seen.inflation) * seen.sigma
    drawn = [_crossing(isotonic(curve + spread * rng.standard_normal(curve.size), weight), level) for _ in range(DRAWS)]
    low, high = np.quantile(drawn, ((1.0 - COVER) / 2, (1.0 + COVER) / 2))
    return _at(seen, shape, min(int(low), begun), begun, max(int(high), begun))


def _span(y: Floats, curve: Floats, weight: Floats) -> tuple[int, int, float]:
    """Where a rise has done a tenth and nine tenths of its way, and the level at the first.

    Its way leads between the means of the outer halves of what lies before and after: the outer
    halves, because a straight line would otherwise look flat at both ends.
    """
    begun, done = y.size // 2, y.size // 2
    level = 0.0
    for _ in range(8):
        early, late = slice(0, max(begun // 2, 3)), slice(min((done + y.size) // 2, y.size - 3), y.size)
        start, end = (float(np.average(y[part], weights=weight[part])) for part in (early, late))
        level = start + TENTH * (end - start)
        begun, done = _crossing(curve, level), _crossing(curve, end - TENTH * (end - start))
    return begun, done, level


def _bends(y: Floats, weight: Floats, begun: int, done: int) -> float:
    """The squared error that level, line, level saves over one straight line."""
    index = np.arange(y.size)
    share = weight / weight.sum()
    lines = np.stack([index, np.clip(index, begun, max(done, begun + 1))]).astype(np.float64)
    lines -= (lines @ share)[:, None]
    straight, bent = (lines @ (weight * y)) ** 2 / (lines**2 @ weight)
    return float(bent - straight)


def _crossing(curve: Floats, level: float) -> int:
    return min(int(np.searchsorted(curve, level)), curve.size - 1)


def _not_shown(seen: Past, shape: Shape, saved: float, *, by_levels: bool) -> Label:
    """It did not happen, unless it half seems so."""
    if saved > GAIN / 2 or by_levels:
        why = "the levels show it and the fitted curve does not" if by_levels else "it is neither shown nor ruled out"
        return Label(shape, None, reason=seen.refusal or why)
    return Label(shape, happened=False, reason="a curve without it fits as well")


def _at(seen: Past, shape: Shape, first: int, at: int, last: int) -> Label:
    n = seen.y.size
    a, step, b = (int(seen.steps[min(max(i, 0), n - 1)]) for i in (first, at, last))
    return Label(shape, happened=True, step=step, between=(min(a, b), max(a, b)))
