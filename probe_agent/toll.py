"""Toll: the seconds that watching takes from the training thread."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch

from probe_agent.accelerator import Lap, settle

_MOST_LAPS = 8
"""So many may wait to be counted; only two belong to one measurement."""


@final
class Toll:
    """Counts seconds in which training cannot go on.

    A device is still at work on what training has launched when something is due. That is waited for, so that it is not taken
    for the probes', and counts as training's; nothing is waited for where nothing is due.

    Args:
        device: training's.

    Attributes:
        recording: seconds that it last took to keep the weights.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Those of measurements that have ended, and when the one in progress began: one object, for other threads read it.
        self._so_far: tuple[float, float | None] = 0.0, None
        self._laps: list[Lap] = []  # not yet counted: the device may not have come past them
        self.recording = 0.0

    @property
    def seconds(self) -> float:
        """All so far, those of a measurement in progress included. For any thread."""
        ended, began = self._so_far
        now = 0.0 if began is None else time.perf_counter() - began
        return ended + sum(lap.seconds for lap in self._laps) + now

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """What is done inside counts."""
        self._so_far = self._so_far[0], time.perf_counter()
        try:
            yield
        finally:
            ended, began = self._so_far
            self._so_far = ended + (time.perf_counter() - (began or 0.0)), None

    def settle(self) -> None:
        """Wait, within a measurement, for what training has launched; the wait does not count."""
        waited = settle(self._device)
        ended, began = self._so_far
        self._so_far = ended, None if began is None else began + waited
        self._count_laps()

    @contextmanager
    def keeping_weights(self) -> Iterator[None]:
        """What is launched inside counts."""
        if len(self._laps) >= _MOST_LAPS:
            self._count_laps()
        lap = Lap(self._device)
        try:
            with lap:
                yield
        finally:
            self._laps.append(lap)

    def _count_laps(self) -> None:
        """Count what keeping the weights took, once the device has come past it."""
        if self._laps:
            self.recording = self._laps[-1].seconds
            ended, began = self._so_far
            self._so_far = ended + sum(lap.seconds for lap in self._laps), began
            self._laps = []
