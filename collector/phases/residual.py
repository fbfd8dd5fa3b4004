"""Residual: how far means of probes stray from a polynomial, whatever the trend."""

import math

_NEAR = 1e-9  # of their whole width, steps too close to tell apart


def residual(m: int, means: list[tuple[float, float]]) -> float:
    """How far means of ``m`` probes, each at its place, stray from a polynomial, as the noise of one probe.

    Three of them from a straight line, by the second divided difference, and four, which span a good part of a rise,
    from a parabola, by the third.
    """
    if len(means) == 3:
        (start, y0), (middle, y1), (end, y2) = means
        width = end - start
        if middle - start <= _NEAR * width or end - middle <= _NEAR * width:
            return abs(y1 - y0) * math.sqrt(m / 2.0)
        u = (middle - start) / width
        v = 1.0 - u
        return abs(y1 - v * y0 - u * y2) * math.sqrt(m / (1.0 + u * u + v * v))
    (start, y0), (second, y1), (third, y2), (end, y3) = means
    width = end - start
    if second - start <= _NEAR * width or third - second <= _NEAR * width or end - third <= _NEAR * width:
        return abs(y1 - y0) * math.sqrt(m / 2.0)
    u, v = (second - start) / width, (third - start) / width
    a, b = -1.0 / (u * v), 1.0 / (u * (u - v) * (u - 1.0))
    c, d = 1.0 / (v * (v - u) * (v - 1.0)), 1.0 / ((1.0 - u) * (1.0 - v))
    stray = math.fsum((a * y0, b * y1, c * y2, d * y3))
    return abs(stray) * math.sqrt(m / math.fsum((a * a, b * b, c * c, d * d)))
