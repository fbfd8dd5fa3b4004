"""Hindsight: whether and when a series turned, once all of it is there; what was told live is measured by it.

``past`` is a series cleaned as a whole with its noise (``noise``), ``pieces`` and ``pelt`` fit it by pieces that rise and fall and by
levels, and ``label`` says what both agree on.
"""
