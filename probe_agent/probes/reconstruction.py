"""The reconstruction probe: how much of its input, and how much of the label, a layer offers to a linear decoder."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from probe_agent.estimators.draws import Draws, mean_of
from probe_agent.estimators.features import Features, hidden_layers
from probe_agent.estimators.ranks import spectrum
from probe_agent.estimators.reconstruction import has_labels, input_coordinates, probe_hits, reconstruction_draws
from probe_agent.likelihood import Categorical
from probe_agent.needs import Need
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.probe_set import rows, tensors_of
from probe_agent.probes.loss import proportion
from probe_agent.snapshot import Snapshot
from probe_wire import Estimate, Outcome, Quantity

RECONSTRUCTION = Quantity(
    "reconstruction_loss",
    "1",
    "Normalised squared error of the best linear decoder from a layer's features to the input, on inputs it was not "
    "fitted to; of the last hidden layer where no layer is named. 0: the input is all there; 1: nothing of it. It falls, "
    "then rises as the network forgets what the task does not need (Schneider and Prabhushankar 2024).",
    "Reconstruction loss",
)
LINEAR_PROBE = Quantity(
    "linear_probe_accuracy",
    "ratio",
    "Accuracy of a linear classifier on a layer's features, on inputs it was not fitted to (Alain and Bengio 2017); of "
    "the last hidden layer where no layer is named.",
    "Linear probe accuracy",
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstruction(Probe):
    """Held-out error of ridge decoders to the input and to the label, from every hidden layer.

    Both are leave-one-out, exactly and in closed form, so that each probe input is decoded once by a
    decoder that has not seen it; the penalty is chosen anew for each layer and snapshot. See
    `probe_agent.estimators.ridge`. Each input's error is a draw.

    A few hundred inputs do not train the decoder that tens of thousands would: the level depends on
    how many there are (setting ``n``), the shape of the curve much less. The standard error is that
    of the inputs the decoders are judged on.

    Attributes:
        samples: how many of the probe inputs to use, at most. Memory and time grow with its square.
        per_layer: whether every layer with an activation function is reported, besides the last hidden one.

    Raises:
        ValueError: at construction, for settings that cannot be met.
    """

    name: ClassVar[str] = "reconstruction"
    quantities: ClassVar[tuple[Quantity, ...]] = (RECONSTRUCTION, LINEAR_PROBE)
    needs: ClassVar = frozenset({Need.SEVERAL_INPUTS})
    uses: ClassVar = frozenset({Need.CLASSES})

    samples: int = 1024
    per_layer: bool = True

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        if self.samples < 8:
            raise ValueError(f"Got samples={self.samples}; need at least 8 to fit and judge a decoder.")

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        """The last hidden layer first, then the layers in the order they run; reconstruction before accuracy."""
        hidden = hidden_layers(snapshot, self.samples)
        inputs = rows(snapshot.probe_set.inputs, slice(hidden.n))
        if "inputs" not in memory:  # they are the same at every snapshot
            memory["inputs"] = input_coordinates(inputs, snapshot.generator("reconstruction mixtures"))
        labels = snapshot.probe_set.targets[: hidden.n]
        known = snapshot.likelihood
        classified = isinstance(known, Categorical) and has_labels(labels, known.ignored)
        coordinates: Tensor = memory["inputs"]

        def decoded(features: Features) -> tuple[Draws | None, Draws | None]:
            snapshot.deadline.check()
            of = spectrum(features, centred=True)
            return (
                reconstruction_draws(of, coordinates) if coordinates.shape[1] else None,
                probe_hits(of, labels) if classified else None,
            )

        found = hidden.each(decoded, per_layer=self.per_layer)
        settings = {"n": str(hidden.n), "last": hidden.where[:200]}
        target = "inputs" if tensors_of(inputs)[0].is_floating_point() else "one-hot tokens"
        for label, (draws, _) in found:
            yield _measurement(RECONSTRUCTION, draws, mean_of, label, settings | {"target": target})
        for label, (_, hits) in found:
            yield _measurement(LINEAR_PROBE, hits, proportion, label, settings)


def _measurement(
    quantity: Quantity,
    draws: Draws | None,
    estimate: Callable[[Draws], Estimate],
    labels: dict[str, str],
    settings: dict[str, str],
) -> Measurement:
    return Measurement(
        quantity=quantity,
        estimate=Estimate.without_value(Outcome.NOT_APPLICABLE) if draws is None else estimate(draws),
        labels=labels,
        draws=draws,
        settings=settings,
    )
