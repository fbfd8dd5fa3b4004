"""The gradient noise probe: the gradient, how much the gradients of samples differ, and in which direction most."""

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from torch import nn

from probe_agent.errors import NotApplicable
from probe_agent.estimators import gradient_covariance as covariance
from probe_agent.estimators.draws import Draws, mean_of
from probe_agent.estimators.group_gradients import GroupGradients, equal_parts, group_gradients
from probe_agent.estimators.perturbation import gradient_here, length
from probe_agent.needs import Need
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.snapshot import Snapshot
from probe_wire import Estimate, Outcome, Quantity

NORM = Quantity(
    "gradient_norm",
    "1",
    "Euclidean norm of the gradient of the probe loss, whole and per layer. A layer's going to zero is a layer that has "
    "stopped learning.",
    "Gradient norm",
    "log",
)
TRACE = Quantity(
    "gradient_covariance_trace",
    "1",
    "Trace of the covariance K of single samples' gradients: the total variance of the gradient noise (Jastrzębski et "
    "al. 2020).",
    "Gradient variance",
    "log",
)
LARGEST = Quantity(
    "gradient_covariance_lambda_max",
    "1",
    "Largest eigenvalue of the covariance K of single samples' gradients. It grows until the break-even point of the "
    "optimization trajectory and is held there by the learning rate (Jastrzębski et al. 2020).",
    "Largest gradient variance in one direction",
    "log",
)
SHARE = Quantity(
    "gradient_covariance_top_share",
    "ratio",
    "Largest eigenvalue of the gradient covariance over its trace: how much of the gradient noise lies in one direction.",
    "Gradient variance in one direction, share",
)
SCALE = Quantity(
    "gradient_noise_scale",
    "samples",
    "Simple noise scale tr K / |G|²: the batch size at which the noise of the gradient is as large as the gradient "
    "(McCandlish et al. 2018). A ratio of means over the last few measurements.",
    "Gradient noise scale",
    "log",
)

DISCREPANCY = 0.1
"""How far the groups' mean gradient may be from the whole's, relative to it or to its noise."""


CORRECTION = 0.25
"""What the jackknife may take away of an eigenvalue. A flat spectrum, whose largest value few groups cannot see, loses more."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GradientNoise(Probe):
    """Gradient norm, covariance and noise scale of the probe set, from the gradients of equal groups of it.

    Everything is in evaluation mode: with BatchNorm in the model these are the gradients at its running
    statistics, each sample's its own, and not the noise of a training pass, where samples of a batch share
    statistics. The settings say so.

    Attributes:
        groups: how many; the standard errors are jackknifed over them.
        window: measurements the noise scale is averaged over.
        per_layer: whether to give the gradient norm by layer.

    Raises:
        ValueError: at construction, for settings that cannot be met.
    """

    name: ClassVar[str] = "gradient_noise"
    quantities: ClassVar[tuple[Quantity, ...]] = (NORM, TRACE, LARGEST, SHARE, SCALE)
    needs: ClassVar = frozenset({Need.AVERAGING_LOSS, Need.SEVERAL_INPUTS})
    looks_back: ClassVar[bool] = True  # the noise scale is a mean over measurements

    groups: int = 32
    window: int = 5
    per_layer: bool = True

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        if self.groups < 4:
            raise ValueError(f"Got groups={self.groups}; need at least 4 gradients to see how they differ.")
        if self.window < 1:
            raise ValueError(f"Got window={self.window}; need at least the measurement itself.")

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        """The norm whole and by layer, then the covariance, then the noise scale."""
        parts = equal_parts(snapshot, self.groups)
        if len(parts) < 4:
            raise NotApplicable(
                f"Got a probe set of {snapshot.probe_set.n} samples; need at least 4 gradients to compare."
            )
        size = parts[0].n
        found = group_gradients(snapshot, parts)
        gram = found.gram()
        self._check_mean(snapshot, gram, size)
        settings = {"groups": str(len(parts)), "group_size": str(size)} | _mode(snapshot.model)
        if found.sketched:
            settings["sketched"] = "yes"
        yield from self._norms(found, gram, settings)
        yield _measured(TRACE, covariance.draws_of(gram, lambda m: covariance.trace(m, size)), settings)
        yield _corrected(LARGEST, gram, lambda m: covariance.largest(m, size), settings)
        yield _corrected(SHARE, gram, lambda m: covariance.largest(m, size) / covariance.trace(m, size), settings)
        yield self._scale(gram, size, memory, tuple(snapshot.params), settings)

    def _check_mean(self, snapshot: Snapshot, gram: Draws, size: int) -> None:
        """The groups' mean must be the gradient of the whole, or the loss is no mean over samples."""
        whole = length(gradient_here(snapshot))
        noise = math.sqrt(max(float(covariance.trace(gram, size)), 0.0) / snapshot.probe_set.n)
        if abs(math.sqrt(max(float(covariance.mean_square(gram)), 0.0)) - whole) > DISCREPANCY * whole + 2 * noise:
            raise NotApplicable(
                "Got a loss whose gradient is not the mean of the gradients of groups of samples (a sum, or a contrast between "
                "samples); the covariance of single samples' gradients is not defined. Use a loss that averages over samples."
            )

    def _norms(self, found: GroupGradients, gram: Draws, settings: dict[str, str]) -> Iterator[Measurement]:
        def norm(m: Draws) -> Draws:
            found: Draws = np.sqrt(np.maximum(covariance.mean_square(m), 0.0))
            return found

        yield _measured(NORM, covariance.draws_of(gram, norm), settings)
        if self.per_layer:
            for layer, m in found.gram_by_layer().items():
                yield _measured(NORM, covariance.draws_of(m, norm), settings, {"layer": layer})

    def _scale(
        self, gram: Draws, size: int, memory: Memory, trainable: tuple[str, ...], settings: dict[str, str]
    ) -> Measurement:
        if memory.get("trainable") != trainable:  # the gradient of other parameters is another gradient
            memory["trainable"], memory["grams"] = trainable, deque(maxlen=self.window)
        grams: deque[Draws] = memory["grams"]
        if np.isfinite(gram).all():
            grams.append(gram)
        scale, draws = covariance.noise_scale(list(grams) or [gram], size)
        # The signal must stand clear of its own error before anything is divided by it.
        below = mean_of(np.mean([covariance.draws_of(m, covariance.signal) for m in list(grams) or [gram]], axis=0))
        seen = below.value > 2 * below.stderr
        estimate = Estimate(
            scale if seen else math.nan,
            mean_of(draws).stderr,
            n=len(gram),
            outcome=Outcome.OK if seen or math.isnan(below.value) else Outcome.NOT_CONVERGED,
        )
        return Measurement(
            quantity=SCALE,
            estimate=estimate.checked(),
            draws=draws if seen else None,
            settings=settings | {"window": str(self.window)},
        )


def _measured(
    quantity: Quantity, draws: Draws, settings: dict[str, str], labels: dict[str, str] | None = None
) -> Measurement:
    return Measurement(quantity=quantity, estimate=mean_of(draws), labels=labels or {}, draws=draws, settings=settings)


def _corrected(
    quantity: Quantity, gram: Draws, statistic: Callable[[Draws], Draws], settings: dict[str, str]
) -> Measurement:
    """Corrected for its bias by the jackknife, and not converged where that takes away much of it."""
    draws, correction = covariance.corrected_draws(gram, statistic)
    estimate = mean_of(draws)
    if estimate.outcome is Outcome.OK and correction > CORRECTION:
        estimate = Estimate(estimate.value, estimate.stderr, n=estimate.n, outcome=Outcome.NOT_CONVERGED)
    return Measurement(quantity=quantity, estimate=estimate, draws=draws, settings=settings)


def _mode(model: nn.Module) -> dict[str, str]:
    """A word of warning where training mode would give other gradients."""
    normalised = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())  # noqa: SLF001 - the common class
    return {"batchnorm": "running statistics"} if normalised else {}
