"""Scalars: what the training loop itself observes, averaged between two reports."""

import math
import re
from collections import deque
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from probe_wire import Column, Estimate, Outcome, Quantity

MOST_NAMES = 50
MOST_VALUES = 1024
"""Values of one name kept between two reports: the latest ones."""


def quantity_name(name: str) -> str:
    """The quantity under which an observed name travels: ``observed_learning_rate`` for ``learning-rate``."""
    return f"observed_{re.sub(r'[^a-z0-9_]', '_', name.lower())}"[:100]


def _read(values: list[float | Tensor]) -> list[float]:
    """The numbers, those on a device fetched at once: each by itself would be waited for."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    plain = all(type(tensor) is Tensor and not tensor.is_complex() for tensor in tensors)  # a DTensor has no tolist
    if plain and len({(tensor.device, tensor.dtype) for tensor in tensors}) == 1:
        fetched = iter(torch.stack(tensors).tolist())
        return [next(fetched) if isinstance(value, Tensor) else value for value in values]
    return [float(value) for value in values]


class Scalars:
    """Collects ``observe(loss=…)`` calls. A device tensor is not read until a report is due: no synchronisation."""

    def __init__(self) -> None:
        self.dropped = 0
        self._values: dict[str, deque[float | Tensor]] = {}
        self._counts: dict[str, int] = {}

    def observe(self, name: str, value: float | Tensor) -> None:
        """Keep one value of a name."""
        values = self._values.get(name)
        if values is None:
            # A name that differs only in what a quantity's name cannot hold would mix two series.
            if len(self._values) >= MOST_NAMES or quantity_name(name) in map(quantity_name, self._values):
                self.dropped += 1
                return
            values = self._values[name] = deque(maxlen=MOST_VALUES)
        if isinstance(value, Tensor):
            if value.numel() != 1:
                raise ValueError(f"{name} has {value.numel()} elements; need a scalar")
            value = value.detach()  # the graph behind it must not be kept alive
            # A copy: the loop may write to its tensor again, as a CUDA graph does at every replay.
            values.append(float(value) if value.device.type == "cpu" else value.reshape(()).clone())
        else:
            values.append(float(value))
        self._counts[name] = self._counts.get(name, 0) + 1

    def drain(self) -> Iterator[tuple[Quantity, Column, Estimate]]:
        """The mean of each name since the last report, with the standard error of that mean."""
        for name, values in self._values.items():
            if not values:
                continue
            taken, count = list(values), self._counts[name]
            values.clear()
            self._counts[name] = 0
            try:
                numbers = np.array(_read(taken))
            except (RuntimeError, ValueError, TypeError, NotImplementedError):  # a tensor that has no number to read
                self.dropped += count
                continue
            self.dropped += count - len(taken)
            n = numbers.size
            stderr = float(numbers.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
            quantity = Quantity(
                name=quantity_name(name),
                unit="1",
                help=f"'{name}' as the training loop observed it: the mean of the steps since the last report, "
                "with the spread between those steps as its standard error.",
                title=f"Observed {name}"[:200],
            )
            estimate = Estimate(float(numbers.mean()), stderr, math.nan, n, Outcome.OK).checked()
            yield quantity, Column(quantity.name), estimate
