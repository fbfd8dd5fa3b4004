"""Every probe there is, on one screen. To add one: a file of this folder, and a line here."""

from probe_agent.probe import Probe
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

PROBES: tuple[type[Probe], ...] = (
    Loss,
    FisherTrace,
    Sharpness,
    LocalComplexity,
    Reconstruction,
    Features,
    EdgeOfStability,
    CriticalSharpness,
    Perturbation,
    GradientNoise,
    GradientSubspace,
    FisherBatch,
    GaussNewton,
    HessianSpectrum,
    HessianTrace,
    LocalLearningCoefficient,
    Calibration,
    Weights,
)
