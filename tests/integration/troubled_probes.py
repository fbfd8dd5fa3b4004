"""Probes that do wrong in every way, for `troubled_jobs`: what they raise, and what they give instead of a measurement."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, final

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from probe_agent import Measurement, Memory, Probe, Snapshot
from probe_wire import Estimate, Outcome, Quantity

FINE = Estimate(1.0, 0.1)


@final
@dataclass(frozen=True)
class Does(Probe):
    """A probe that does something at one step, with the switches of the process turned the other way."""

    name: ClassVar = "does"
    quantities: ClassVar = (Quantity("does", "1", "Does.", "Does"),)
    what: Callable[[], object]
    at: int = 3

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        torch.rand(3)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            if snapshot.step == self.at:
                self.what()
        yield Measurement(quantity=self.quantities[0], estimate=FINE)


@final
@dataclass(frozen=True)
class Gives(Probe):
    """A probe of any name that gives whatever it is told to."""

    name: str  # type: ignore[misc]
    quantities: tuple[Quantity, ...]  # type: ignore[misc]
    what: Callable[[], Any]

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        found: Iterator[Measurement] = self.what()
        return found


class Abort(BaseException):
    """A script's own, beside Exception."""


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")

    __repr__ = __str__


def _raises(error: BaseException) -> Callable[[], NoReturn]:
    def what() -> NoReturn:
        raise error

    return what


def _recurses() -> Any:
    return _recurses()


def _measured(quantity: Quantity, *, estimate: Any = FINE, **more: Any) -> Callable[[], list[Measurement]]:
    return lambda: [Measurement(quantity=quantity, estimate=estimate, **more)]


def _troubles(q: Quantity) -> dict[str, Callable[[], Any]]:
    return {
        "error": _raises(ValueError("bad luck")),
        "error_beside_exception": _raises(Abort()),
        "error_without_words": _raises(Unspeakable()),
        "error_in_words_that_cannot_travel": _raises(ValueError("\ud800")),
        "error_of_iteration": _raises(StopIteration()),
        "error_of_a_device": _raises(RuntimeError("CUDA error: an illegal memory access was encountered")),
        "no_memory": _raises(MemoryError()),
        "recursion": _recurses,
        "nothing": lambda: None,
        "no_measurements": lambda: iter([1, "two", None]),
        "not_a_number": _measured(q, estimate=Estimate(math.nan, math.nan)),
        "no_value": _measured(q, estimate=Estimate(None)),  # type: ignore[arg-type]
        "words_for_a_value": _measured(q, estimate=Estimate("three")),  # type: ignore[arg-type]
        "a_tensor_for_a_value": _measured(q, estimate=Estimate(torch.ones(3))),  # type: ignore[arg-type]
        "fewer_than_no_draws": _measured(q, estimate=Estimate(1.0, 0.1, n=-1)),
        "no_such_outcome": _measured(q, estimate=Estimate(1.0, outcome=999)),  # type: ignore[arg-type]
        "no_estimate": _measured(q, estimate=7),
        "draws_of_a_shape": _measured(q, draws=np.ones((2, 3, 4))),
        "words_for_draws": _measured(q, draws="many"),
        "huge_label": _measured(q, labels={"layer": "x" * 10**6}),
        "label_without_a_name": _measured(q, labels={"": "x"}),
        "label_of_a_bad_name": _measured(q, labels={"Bad Name": "x"}),
        "number_for_a_name_of_a_label": _measured(q, labels={3: "x", "layer": "y"}),  # type: ignore[dict-item]
        "list_for_a_name": _measured(Quantity(["x"], "1", "Bad.", "Bad")),  # type: ignore[arg-type]
        "outcome_without_a_value": _measured(q, estimate=Estimate(None, outcome=Outcome.FAILED)),  # type: ignore[arg-type]
        "label_that_is_a_number": _measured(q, labels={"layer": 3}),
        "too_many_labels": _measured(q, labels={f"l{i}": "x" for i in range(100)}),
        "setting_that_is_a_number": _measured(q, settings={"draws": 3}),
        "quantity_of_a_bad_name": _measured(Quantity("Bad Name", "1", "Bad.", "Bad")),
        "no_quantity": _measured("loss"),  # type: ignore[arg-type]
        "a_million_series": lambda: (
            Measurement(quantity=q, estimate=FINE, labels={"layer": str(i)}) for i in range(10**6)
        ),
    }


TROUBLES = tuple(
    Gives(name, (quantity,), _troubles(quantity)[name])
    for name in _troubles(Quantity("q", "1", "Q.", "Q"))
    for quantity in [Quantity(name, "1", "Trouble.", "Trouble")]
)
