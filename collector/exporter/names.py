"""Names: what a Quantity, its labels and its layers are called in Prometheus."""

import re
from collections.abc import Container, Iterable

from collector.exporter.catalogue import Family
from probe_wire import Quantity

_NOT_IN_A_NAME = re.compile(r"[^a-z0-9_]+")


def metric_name(quantity: Quantity) -> str:
    """``phasewatch_<quantity>[_<unit>]``: a pure number ("1") adds nothing, a suffix already there is not doubled."""
    unit = quantity.unit.lower().replace("/", " per ").removeprefix("1 ")
    unit = _NOT_IN_A_NAME.sub("_", unit).strip("_")
    name = f"phasewatch_{_NOT_IN_A_NAME.sub('_', quantity.name)}"
    return name if unit in ("", "1") or name.endswith(f"_{unit}") else f"{name}_{unit}"


def families(quantity: Quantity) -> tuple[Family, Family, Family]:
    """``(value, stderr, paired stderr)``: the names of the errors are the value's name and a suffix.

    So a query can have one from the other without knowing the quantity: ``{__name__="${metric}_stderr"}``.
    """
    name = metric_name(quantity)
    return (
        Family(name, "gauge", quantity.help or quantity.title),
        Family(
            f"{name}_stderr",
            "gauge",
            f"Marginal standard error of {name}: how far it may be from an infinite probe set. NaN: not known.",
        ),
        Family(
            f"{name}_paired_stderr",
            "gauge",
            f"Standard error of {name} on fixed probe inputs: judge a change by this. Left out while not known.",
        ),
    )


def label_pairs(labels: Iterable[tuple[str, str]], taken: Container[str]) -> list[tuple[str, str]]:
    """Labels under names of their own: one of ours that an agent also uses becomes ``exported_<name>``, as Prometheus does."""
    pairs: dict[str, str] = {}
    for label, value in labels:
        name = _NOT_IN_A_NAME.sub("_", label)
        while name in taken or name in pairs:
            name = f"exported_{name}"
        pairs[name] = value
    return list(pairs.items())


class Layers:
    """Numbers a run's layers in the order they were first reported, so that their names sort by depth.

    ``features.3`` becomes ``02.features.3``. Numbers are only ever appended: a layer that reports
    late must not rename the others.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self.width = 2

    def learn(self, layers: Iterable[str]) -> bool:
        """Number the layers not seen before; true when the width grew and every name with it."""
        for layer in layers:
            self._numbers.setdefault(layer, len(self._numbers))
        width = max(self.width, len(str(len(self._numbers) - 1)))
        grew, self.width = width > self.width, width
        return grew

    def named(self, labels: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """The labels with the layer, if there is one, under its sortable name."""
        return [(name, self._sortable(value) if name == "layer" else value) for name, value in labels]

    def _sortable(self, layer: str) -> str:
        number = self._numbers.get(layer)
        return layer if number is None else f"{number:0{self.width}d}.{layer}"
