"""The Fisher trace probe: how much information about the labels the weights hold, layer by layer."""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np

from probe_agent.estimators.draws import Draws, mean_of, ratio_draws
from probe_agent.estimators.fisher import FisherDraws, fisher_draws, fisher_of
from probe_agent.needs import Need
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.snapshot import Snapshot
from probe_wire import Estimate, Outcome, Quantity

TRUE = Quantity(
    "fisher_trace",
    "1",
    "Trace of the Fisher information, labels drawn from the model: the mean squared gradient norm of log p(y | x), "
    "per prediction. It rises while the network takes in information about the task and falls as it "
    "compresses (Achille, Rovere and Soatto 2019).",
    "Fisher trace",
    "log",
)
EMPIRICAL = Quantity(
    "fisher_trace_empirical",
    "1",
    "Mean squared gradient norm of one prediction's loss with the labels of the probe batch: the trace of the empirical Fisher. "
    "It follows the Fisher trace early in training and the fit to the data later.",
    "Empirical Fisher trace",
    "log",
)
PER_PARAMETER = Quantity(
    "fisher_trace_per_parameter",
    "1",
    "Fisher trace over the number of trainable parameters (Liu and Gurevych 2024, eq. 2). Unfreezing changes both; "
    "trainable_parameters shows when.",
    "Fisher trace per trainable parameter",
    "log",
)
SHARE = Quantity(
    "fisher_trace_share",
    "ratio",
    "A layer's share of the Fisher trace: where in the network the information about the task is held (Achille, Rovere "
    "and Soatto 2019, fig. 5).",
    "Share of the Fisher trace",
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FisherTrace(Probe):
    """The true and the empirical Fisher trace, of the whole network and of each layer.

    ``labels``: "exact" sums over all labels, "sampled" draws ``draws`` labels a sample, "auto" is exact
    where that is affordable. Layers are labelled with the path of the module that owns the parameters.

    Raises:
        ValueError: at construction, for settings that do not exist.
    """

    name: ClassVar[str] = "fisher_trace"
    quantities: ClassVar[tuple[Quantity, ...]] = (TRUE, EMPIRICAL, PER_PARAMETER, SHARE)
    needs: ClassVar = frozenset({Need.ONE_OUTPUT, Need.INDEPENDENT_OUTPUTS})
    uses: ClassVar = frozenset({Need.LIKELIHOOD})

    labels: Literal["auto", "exact", "sampled"] = "auto"
    draws: int = 1
    per_layer: bool = True

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        if self.labels not in ("auto", "exact", "sampled"):
            raise ValueError(f'Got labels={self.labels!r}; need "auto", "exact" or "sampled".')
        if self.draws < 1:
            raise ValueError(f"Got draws={self.draws}; need at least one label draw a sample.")

    def averages(self, n: int) -> int:
        """All of them."""
        return n

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:  # noqa: ARG002 - a Probe's signature
        """Whole first, then the layers in the order of the model; the true trace before the empirical."""
        found = self._found(snapshot)
        why = {"route_because": found.why[:200]} if found.why else {}
        settings = {"route": found.route, "n": str(snapshot.probe_set.n)} | why
        expectation = {"labels": found.labels} | ({"draws": str(self.draws)} if found.labels == "sampled" else {})
        if found.true is None:
            yield from self._undefined(list(found.empirical), found.undefined)
        else:
            yield from self._each(TRUE, found.true, expectation | settings)
        yield from self._each(EMPIRICAL, found.empirical, {"score": found.score} | settings)
        if found.true is not None:
            yield from self._views(found.true, snapshot, expectation | settings)

    def _found(self, snapshot: Snapshot) -> FisherDraws:
        if (self.labels, self.draws) == ("auto", 1):
            return fisher_of(snapshot)
        return fisher_draws(snapshot, labels=None if self.labels == "auto" else self.labels, draws=self.draws)

    def _each(self, quantity: Quantity, layers: dict[str, Draws], settings: dict[str, str]) -> Iterator[Measurement]:
        whole: Draws = np.sum(list(layers.values()), axis=0)
        yield Measurement(quantity=quantity, estimate=mean_of(whole), draws=whole, settings=settings)
        if self.per_layer:
            for layer, draws in layers.items():
                yield Measurement(
                    quantity=quantity,
                    estimate=mean_of(draws),
                    labels={"layer": layer},
                    draws=draws,
                    settings=settings,
                )

    def _views(self, layers: dict[str, Draws], snapshot: Snapshot, settings: dict[str, str]) -> Iterator[Measurement]:
        """The trace per parameter and the layers' shares of it."""
        count = sum(p.numel() for p in snapshot.params.values())
        marked = {"trainable": f"{count} in {len(snapshot.params)} tensors, {_digest(snapshot.params)}"}
        whole: Draws = np.sum(list(layers.values()), axis=0)
        per = whole / count
        yield Measurement(quantity=PER_PARAMETER, estimate=mean_of(per), draws=per, settings=settings | marked)
        for layer, draws in layers.items() if self.per_layer else ():
            share = ratio_draws(draws, whole)
            yield Measurement(
                quantity=SHARE, estimate=mean_of(share), labels={"layer": layer}, draws=share, settings=settings
            )

    def _undefined(self, layers: list[str], reason: str) -> Iterator[Measurement]:
        estimate = Estimate.without_value(Outcome.NOT_APPLICABLE)
        by_layer = [{"layer": layer} for layer in layers if self.per_layer]
        absent = [(TRUE, {}), *((TRUE, labels) for labels in by_layer), (PER_PARAMETER, {})]
        for quantity, labels in [*absent, *((SHARE, labels) for labels in by_layer)]:
            yield Measurement(quantity=quantity, estimate=estimate, labels=labels, settings={"reason": reason[:200]})


def _digest(names: Iterable[str]) -> str:
    """Eight characters that change when other parameters are trained."""
    return f"{zlib.crc32(chr(10).join(names).encode()):08x}"
