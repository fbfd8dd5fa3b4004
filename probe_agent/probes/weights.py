"""The weights probe: how large the weights are, how far they have come, and how the optimizer moves them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from probe_agent.estimators.fisher import layer_of
from probe_agent.needs import Need
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.snapshot import Snapshot
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
class Weights(Probe):
    """Norms of the weights and of what the optimizer does to them, whole and by layer.

    These are the numbers themselves and no samples of anything: their standard error is 0. They are
    summed in double precision.
    """

    name: ClassVar[str] = "weights"
    quantities: ClassVar[tuple[Quantity, ...]] = (NORM, DISTANCE, UPDATE, COSINE, RATE, TRAINABLE)
    uses: ClassVar = frozenset({Need.OPTIMIZER, Need.UPDATES})

    per_layer: bool = True

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        """The whole network first, then the layers in the order of the model."""
        weights = {name: p.detach() for name, p in snapshot.model.named_parameters()}
        if "weights" not in memory:
            memory["step"], memory["weights"] = snapshot.step, {name: p.clone() for name, p in weights.items()}
        start: Mapping[str, Tensor] = memory["weights"]
        travelled = {name: p - start[name] for name, p in weights.items() if name in start}
        updates = () if snapshot.rule is None else snapshot.rule.updates
        yield from self._norms(NORM, _squares(weights), {})
        yield from self._norms(DISTANCE, _squares(travelled), {"start_step": str(memory["step"])})
        yield from self._ratios(weights, updates)
        yield self._cosine(updates)
        rates = () if snapshot.rule is None else tuple(snapshot.rule.learning_rates.values())
        yield Measurement(quantity=RATE, estimate=_exact(max(rates, default=math.nan)))
        yield Measurement(quantity=TRAINABLE, estimate=_exact(float(sum(p.numel() for p in snapshot.params.values()))))

    def _norms(self, quantity: Quantity, squares: dict[str, float], settings: dict[str, str]) -> Iterator[Measurement]:
        for labels, of in self._groups(squares):
            norm = math.sqrt(math.fsum(squares[name] for name in of))
            yield Measurement(quantity=quantity, estimate=_exact(norm), labels=labels, settings=settings)

    def _ratios(
        self, weights: Mapping[str, Tensor], updates: tuple[Mapping[str, Tensor], ...]
    ) -> Iterator[Measurement]:
        moved = _squares(updates[0]) if updates else {}
        before = _squares({name: weights[name] - step for name, step in updates[0].items()}) if updates else {}
        for labels, of in self._groups(weights):
            numerator = math.fsum(moved.get(name, math.nan if not updates else 0.0) for name in of)
            denominator = math.fsum(before.get(name, 0.0) for name in of)
            ratio = math.sqrt(numerator / denominator) if denominator > 0 else math.nan
            yield Measurement(quantity=UPDATE, estimate=_exact(ratio), labels=labels)

    def _cosine(self, updates: tuple[Mapping[str, Tensor], ...]) -> Measurement:
        if len(updates) < 2:
            return Measurement(quantity=COSINE, estimate=_exact(math.nan))
        now, before = updates
        along = math.fsum(float((now[name].double() * before[name].double()).sum()) for name in now)
        lengths = math.sqrt(math.fsum(_squares(now).values()) * math.fsum(_squares(before).values()))
        return Measurement(quantity=COSINE, estimate=_exact(along / lengths if lengths > 0 else math.nan))

    def _groups(self, names: Mapping[str, object]) -> Iterator[tuple[dict[str, str], list[str]]]:
        """Labels and parameter names of the whole network and of each layer."""
        yield {}, list(names)
        if self.per_layer:
            layers: dict[str, list[str]] = {}
            for name in names:
                layers.setdefault(layer_of(name), []).append(name)
            yield from (({"layer": layer}, of) for layer, of in layers.items())


def _squares(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Squared norm of each tensor."""
    return {
        name: float(torch.linalg.vector_norm(t.detach(), dtype=torch.float64).square()) for name, t in tensors.items()
    }


def _exact(value: float) -> Estimate:
    """A number without error, or none: NaN says that it does not exist yet (no step was seen)."""
    if math.isnan(value):
        return Estimate.without_value(Outcome.NOT_APPLICABLE)
    return Estimate(value, 0.0, 0.0, n=1).checked()
