"""The weights probe: how large the weights are, how far they have come, and how the optimizer moves them."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from probe_agent.estimators.fisher import layer_of
from probe_agent.needs import Need
from probe_agent.probe import Measurement, Memory, Summed, Sums
from probe_agent.update_rule import UpdateRule
from probe_wire import Estimate, Outcome, Quantity

NORM = Quantity(
    "weight_norm",
    "1",
    "Euclidean norm of all parameters. Growth without end goes with loss of plasticity (Dohare et al. 2024); shrinking "
    "goes with weight decay and grokking.",
    "Weight norm",
    "log",
)
DISTANCE = Quantity(
    "distance_from_start",
    "1",
    "Euclidean distance of all parameters from where they were when watching began (setting start_step).",
    "Distance from the start",
    "log",
)
UPDATE = Quantity(
    "update_ratio",
    "ratio",
    "Norm of the last optimizer step over the norm of the weights it was taken from. Around 0.001 is usual; a layer "
    "far above the others moves too fast, one far below has stopped learning.",
    "Update to weight ratio",
    "log",
)
COSINE = Quantity(
    "update_cosine",
    "1",
    "Cosine between the last two optimizer steps: near 1 the weights drift, around 0 they wander, below 0 they "
    "oscillate, as at the edge of stability.",
    "Cosine of successive updates",
)
RATE = Quantity(
    "learning_rate",
    "1",
    "The optimizer's learning rate at this step; the largest where parameter groups differ.",
    "Learning rate",
    "log",
)

TRAINABLE = Quantity(
    "trainable_parameters",
    "1",
    "How many numbers the optimizer may change. A step in it marks a change of the trainable set, across which no quantity "
    "of gradients compares.",
    "Trainable parameters",
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Weights(Summed):
    """Norms of the weights and of what the optimizer does to them, whole and by layer.

    These are the numbers themselves and no samples of anything: their standard error is 0. They are
    summed in double precision.
    """

    name: ClassVar[str] = "weights"
    quantities: ClassVar[tuple[Quantity, ...]] = (NORM, DISTANCE, UPDATE, COSINE, RATE, TRAINABLE)
    uses: ClassVar = frozenset({Need.OPTIMIZER, Need.UPDATES})
    takes_complex: ClassVar[bool] = True

    per_layer: bool = True

    def sums(
        self, parameters: Mapping[str, Tensor], updates: tuple[Mapping[str, Tensor], ...], step: int, memory: Memory
    ) -> Sums:
        """Squared norms, and how far the last two steps went the same way."""
        parameters = _real(parameters)
        if "weights" not in memory:
            memory["step"], memory["weights"] = step, {name: p.clone() for name, p in parameters.items()}
        start: Mapping[str, Tensor] = memory["weights"]
        lasting = {
            n: p for n, p in parameters.items() if n in start and p.shape == start[n].shape
        }  # layers may be replaced
        found = {
            "weights": _squares(parameters.items()),
            "travelled": _squares((name, p - start[name]) for name, p in lasting.items()),
        }
        steps = [_real(update) for update in updates]
        if steps:
            found["moved"] = _squares(steps[0].items())
            found["before"] = _squares((name, parameters[name] - update) for name, update in steps[0].items())
        if len(steps) > 1:
            now, earlier = steps
            found["earlier"] = _squares(earlier.items())
            found["along"] = {name: float((now[name].double() * earlier[name].double()).sum()) for name in now}
        return found

    def of(self, sums: Sums, rule: UpdateRule | None, trainable: int, memory: Memory) -> Iterator[Measurement]:
        """The whole network first, then the layers in the order of the model."""
        yield from self._norms(NORM, sums["weights"], {})
        yield from self._norms(DISTANCE, sums["travelled"], {"start_step": str(memory["step"])})
        yield from self._ratios(sums)
        yield Measurement(quantity=COSINE, estimate=_exact(_cosine(sums)))
        rates = () if rule is None else tuple(rule.learning_rates.values())
        yield Measurement(quantity=RATE, estimate=_exact(max(rates, default=math.nan)))
        yield Measurement(quantity=TRAINABLE, estimate=_exact(float(trainable)))

    def _norms(self, quantity: Quantity, squares: dict[str, float], settings: dict[str, str]) -> Iterator[Measurement]:
        for labels, of in self._groups(squares):
            norm = math.sqrt(math.fsum(squares[name] for name in of))
            yield Measurement(quantity=quantity, estimate=_exact(norm), labels=labels, settings=settings)

    def _ratios(self, sums: Sums) -> Iterator[Measurement]:
        moved, before = sums.get("moved"), sums.get("before", {})
        for labels, of in self._groups(sums["weights"]):
            numerator = math.nan if moved is None else math.fsum(moved.get(name, 0.0) for name in of)
            denominator = math.fsum(before.get(name, 0.0) for name in of)
            ratio = math.sqrt(numerator / denominator) if denominator > 0 else math.nan
            yield Measurement(quantity=UPDATE, estimate=_exact(ratio), labels=labels)

    def _groups(self, names: Mapping[str, object]) -> Iterator[tuple[dict[str, str], list[str]]]:
        """Labels and parameter names of the whole network and of each layer."""
        yield {}, list(names)
        if self.per_layer:
            layers: dict[str, list[str]] = {}
            for name in names:
                layers.setdefault(layer_of(name), []).append(name)
            yield from (({"layer": layer}, of) for layer, of in layers.items())


def _real(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each complex number as two; integers, which nobody learns, left out."""
    return {
        name: torch.view_as_real(t) if t.is_complex() else t
        for name, t in tensors.items()
        if t.is_complex() or t.is_floating_point()
    }


def _squares(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, float]:
    """Squared norm of each tensor."""
    return {name: float(torch.linalg.vector_norm(t.detach(), dtype=torch.float64).square()) for name, t in tensors}


def _cosine(sums: Sums) -> float:
    if "along" not in sums:
        return math.nan
    along, now, before = (math.fsum(sums[which].values()) for which in ("along", "moved", "earlier"))
    return along / math.sqrt(now * before) if now * before > 0 else math.nan


def _exact(value: float) -> Estimate:
    """A number without error, or none: NaN says that it does not exist yet (no step was seen)."""
    if math.isnan(value):
        return Estimate.without_value(Outcome.NOT_APPLICABLE)
    return Estimate(value, 0.0, 0.0, n=1).checked()
