"""Decimation: which points of a long series to draw, so that no spike and no failure is lost."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def keep(values: NDArray[np.float64], outcomes: NDArray[np.int64], limit: int) -> NDArray[np.intp]:
    """The positions of at most ``limit`` points, in order: all of them where they fit.

    Otherwise the first and the last, and of each bucket of neighbours its lowest, its highest and
    its first point that did not come out ok. Buckets hold equally many points, so that a curve
    measured on a logarithmic schedule keeps its early detail.
    """
    size = len(values)
    if size <= limit:
        return np.arange(size)
    buckets = max((limit - 2) // 3, 1)
    edges = np.linspace(0, size, buckets + 1).astype(np.intp)
    kept = {0, size - 1}
    for start, stop in pairwise(edges):
        finite = np.flatnonzero(np.isfinite(values[start:stop]))
        if finite.size:
            level = values[start:stop][finite]
            kept.update((int(start + finite[level.argmin()]), int(start + finite[level.argmax()])))
        not_ok = np.flatnonzero(outcomes[start:stop])
        if not_ok.size:
            kept.add(int(start + not_ok[0]))
    return np.fromiter(sorted(kept), dtype=np.intp)
