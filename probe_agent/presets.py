"""Presets: which probes run, and when, if nobody says otherwise. The budget wins over all of them."""

from collections.abc import Callable, Mapping

from probe_agent.probes.calibration import Calibration
from probe_agent.probes.critical_sharpness import CriticalSharpness
from probe_agent.probes.edge_of_stability import EdgeOfStability
from probe_agent.probes.features import Features
from probe_agent.probes.fisher_batch import FisherBatch
from probe_agent.probes.fisher_trace import FisherTrace
from probe_agent.probes.gauss_newton import GaussNewton
from probe_agent.probes.gradient_noise import GradientNoise
from probe_agent.probes.gradient_subspace import GradientSubspace
from probe_agent.probes.hessian_spectrum import HessianSpectrum
from probe_agent.probes.hessian_trace import HessianTrace
from probe_agent.probes.local_complexity import LocalComplexity
from probe_agent.probes.local_learning_coefficient import LocalLearningCoefficient
from probe_agent.probes.loss import Loss
from probe_agent.probes.perturbation import Perturbation
from probe_agent.probes.reconstruction import Reconstruction
from probe_agent.probes.sharpness import Sharpness
from probe_agent.probes.weights import Weights
from probe_agent.schedule import Every, LogSpaced, Watch


def light() -> tuple[Watch, ...]:
    """Forward passes and a few gradients: no second derivative, nothing per sample. For large models."""
    probes = (Loss(), Calibration(), Weights(), FisherBatch(per_layer=False), Perturbation(), CriticalSharpness())
    return (Watch(LogSpaced(), probes),)


def standard() -> tuple[Watch, ...]:
    """What phases are judged by and what is cheap beside it 25 times in every decade of steps; the dearer rest 10 times."""
    often = (Loss(), FisherTrace(), Sharpness(), LocalComplexity(), Calibration(), Weights())
    seldom = (
        EdgeOfStability(),
        Perturbation(),
        CriticalSharpness(),
        FisherBatch(per_layer=False),
        Reconstruction(),
        Features(),
        GradientNoise(),
    )
    return (Watch(LogSpaced(), often), Watch(LogSpaced(per_decade=10), seldom))


def full() -> tuple[Watch, ...]:
    """Everything there is, the heavy probes 5 times in every decade of steps, the heaviest twice."""
    heavy = (GaussNewton(), HessianSpectrum(), HessianTrace(), GradientSubspace())
    chains = Watch(LogSpaced(per_decade=2, at_most_apart=10_000), (LocalLearningCoefficient(),))
    return (*standard(), Watch(LogSpaced(per_decade=5), heavy), chains)


def liu_gurevych(every: int = 10) -> tuple[Watch, ...]:
    """The signals that tell when to end an early intervention: tr(F), S_worst and S_avg (Liu and Gurevych 2024, sec. 4).

    They record every 10 steps. The budget spaces that out: with ``Budget(share=0.01)`` training takes 1 % longer.
    """
    signals = (Loss(), FisherTrace(labels="sampled", per_layer=False), Perturbation())
    return (Watch(Every(every), signals),)


PRESETS: Mapping[str, Callable[[], tuple[Watch, ...]]] = {"light": light, "standard": standard, "full": full}
"""By name, each a part of the next."""
