"""The features probe: units that fell silent and directions that are no longer used, the marks of lost plasticity."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from probe_agent.estimators.dormancy import dormant_draws, reweighted
from probe_agent.estimators.draws import Draws, mean_of
from probe_agent.estimators.features import Features as LayerFeatures
from probe_agent.estimators.features import HiddenLayers, hidden_layers
from probe_agent.estimators.ranks import effective_rank, spectrum, srank, stable_rank
from probe_agent.needs import Need
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.snapshot import Snapshot
from probe_wire import Estimate, Outcome, Quantity

DORMANT = Quantity(
    "dormant_units",
    "ratio",
    "The share of hidden units whose mean activation is at most a small part τ of their layer's mean (Sokar et al. "
    "2023). They hardly pass on anything, and little reaches them by which to learn. A dead layer counts as wholly dormant.",
    "Dormant units",
)
EFFECTIVE = Quantity(
    "feature_effective_rank",
    "1",
    "Effective rank of a layer's features, uncentred: the exponential of the entropy of their singular values (Roy and "
    "Vetterli 2007); of the last hidden layer where no layer is named. It falls as plasticity is lost.",
    "Effective rank of the features",
)
STABLE = Quantity(
    "feature_stable_rank",
    "1",
    "Stable rank of a layer's features, uncentred: sum of squared singular values over the largest square; of the last "
    "hidden layer where no layer is named.",
    "Stable rank of the features",
)
SRANK = Quantity(
    "feature_srank",
    "1",
    "How many of the largest singular values of a layer's features, uncentred, make up all but a part δ of their sum "
    "(srank, Kumar et al. 2021); of the last hidden layer where no layer is named.",
    "srank of the features",
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Features(Probe):
    """Dormant units and three ranks of the hidden layers' features, as they are published: not centred.

    With n probe inputs no rank exceeds n, and all are biased low unless n is well above a layer's
    width: the standard error speaks of ranks measured with n inputs (setting ``n``). Dormancy is meant
    for activation functions that can be silent; a sigmoid's units never are.

    Attributes:
        samples: how many of the probe inputs to use, at most.
        threshold: τ of dormancy.
        delta: δ of srank.
        per_layer: whether every layer with an activation function is reported too.

    Raises:
        ValueError: at construction, for settings that cannot be met.
    """

    name: ClassVar[str] = "features"
    quantities: ClassVar[tuple[Quantity, ...]] = (DORMANT, EFFECTIVE, STABLE, SRANK)
    needs: ClassVar = frozenset({Need.SEVERAL_INPUTS})
    uses: ClassVar = frozenset({Need.ACTIVATIONS})

    samples: int = 1024
    threshold: float = 0.025
    delta: float = 0.01
    per_layer: bool = True

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        if self.samples < 8:
            raise ValueError(f"Got samples={self.samples}; need at least 8 for a standard error.")
        if not 0 <= self.threshold < 1:
            raise ValueError(f"Got threshold={self.threshold}; need a part of the layer's mean, from 0 to less than 1.")
        if not 0 < self.delta < 1:
            raise ValueError(f"Got delta={self.delta}; need a part of the sum, between 0 and 1.")

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:  # noqa: ARG002 - a Probe's signature
        """Of each quantity the whole first, then the layers in the order they run."""
        hidden = hidden_layers(snapshot, self.samples)
        settings = {"n": str(hidden.n)}
        yield from self._dormant(snapshot, hidden, settings | {"threshold": f"{self.threshold:g}"})

        def ranks(layer: LayerFeatures) -> tuple[Draws, Draws, Draws]:
            snapshot.deadline.check()
            of = spectrum(layer, centred=False)
            return effective_rank(of), stable_rank(of), srank(of, self.delta)

        settings |= {"last": hidden.where[:200]}
        found = hidden.each(ranks, per_layer=self.per_layer)
        for labels, (draws, _, _) in found:
            yield _measurement(EFFECTIVE, mean_of(draws), draws, labels, settings)
        for labels, (_, draws, _) in found:
            yield _measurement(STABLE, mean_of(draws), draws, labels, settings)
        for labels, (_, _, draws) in found:
            estimate = mean_of(draws)
            rounding = 12**-0.5 if estimate.value > 0 else 0.0  # of a whole number
            stderr = math.hypot(estimate.stderr, rounding)
            estimate = Estimate(estimate.value, stderr, n=estimate.n, outcome=estimate.outcome)
            yield _measurement(SRANK, estimate, draws, labels, settings | {"delta": f"{self.delta:g}"})

    def _dormant(self, snapshot: Snapshot, hidden: HiddenLayers, settings: dict[str, str]) -> Iterator[Measurement]:
        layers = {name: layer.magnitudes for name, layer in hidden.by_layer.items()}
        if not layers:
            nothing = Estimate.without_value(Outcome.NOT_APPLICABLE)
            yield _measurement(DORMANT, nothing, None, {}, settings)
            return
        weights = reweighted(hidden.n, snapshot.generator("dormancy"))
        apart = [({"layer": name}, [of]) for name, of in layers.items() if self.per_layer]
        for labels, some in [({}, list(layers.values())), *apart]:
            draws = dormant_draws(some, self.threshold, weights)
            estimate = mean_of(draws)
            estimate = Estimate(estimate.value, estimate.stderr, n=hidden.n, outcome=estimate.outcome)
            yield _measurement(DORMANT, estimate, draws, labels, settings)


def _measurement(
    quantity: Quantity, estimate: Estimate, draws: Draws | None, labels: dict[str, str], settings: dict[str, str]
) -> Measurement:
    return Measurement(quantity=quantity, estimate=estimate, labels=labels, draws=draws, settings=settings)
