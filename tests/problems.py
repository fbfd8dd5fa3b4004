"""Small problems in double precision, and snapshots of them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from probe_agent import Probe
from probe_agent.probe_set import ProbeSet
from probe_agent.probes import PROBES
from probe_agent.probes.edge_of_stability import EdgeOfStability
from probe_agent.probes.fisher_batch import FisherBatch
from probe_agent.probes.gauss_newton import GaussNewton
from probe_agent.probes.gradient_noise import GradientNoise
from probe_agent.probes.hessian_spectrum import HessianSpectrum
from probe_agent.probes.hessian_trace import HessianTrace
from probe_agent.probes.local_complexity import LocalComplexity
from probe_agent.probes.local_learning_coefficient import LocalLearningCoefficient
from probe_agent.probes.sharpness import Sharpness
from probe_agent.recognition import recognise
from probe_agent.snapshot import LossFn, Snapshot

_LESS: dict[type[Probe], Probe] = {
    EdgeOfStability: EdgeOfStability(tolerance=0.1, groups=4),
    FisherBatch: FisherBatch(groups=4),
    GaussNewton: GaussNewton(tolerance=0.1),
    GradientNoise: GradientNoise(groups=8),
    HessianSpectrum: HessianSpectrum(products=6, groups=4),
    HessianTrace: HessianTrace(groups=4),
    LocalComplexity: LocalComplexity(points=32, side_points=8),
    LocalLearningCoefficient: LocalLearningCoefficient(chains=2, burn_in=2, draws=4),
    Sharpness: Sharpness(tolerance=0.1, groups=4),
}
EVERY_PROBE: tuple[Probe, ...] = tuple(_LESS.get(probe) or probe() for probe in PROBES)
"""Every probe there is, the dearer ones with fewer groups and products than at their defaults: the same is done, less often."""


@dataclass(frozen=True)
class Problem:
    model: nn.Module
    loss_fn: LossFn
    probe_set: ProbeSet


def snapshot_of(problem: Problem, seed: int = 0) -> Snapshot:
    outputs = Snapshot.take(problem.model, 0, problem.probe_set, problem.loss_fn, None, seed).outputs()
    likelihood = recognise(problem.loss_fn, outputs, problem.probe_set.targets)
    return Snapshot.take(problem.model, 0, problem.probe_set, problem.loss_fn, likelihood, seed)


def vectors(n: int, d: int, classes: int, seed: int = 0) -> ProbeSet:
    """Inputs (n, d) and class targets (n,)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return ProbeSet(x, torch.randint(classes, (n,), generator=generator))


def tokens(n: int, t: int, vocabulary: int, targets: tuple[int, ...], seed: int = 0) -> ProbeSet:
    """Token inputs (n, t) and targets of the given shape drawn from three classes."""
    generator = torch.Generator().manual_seed(seed)
    return ProbeSet(
        torch.randint(vocabulary, (n, t), generator=generator), torch.randint(3, targets, generator=generator)
    )


def _seeded(seed: int) -> None:
    torch.manual_seed(seed)


def softmax_regression(n: int = 12, seed: int = 0) -> Problem:
    _seeded(seed)
    return Problem(nn.Linear(4, 3).double(), F.cross_entropy, vectors(n, 4, 3, seed))


def linear_regression(n: int = 12, outputs: int = 1, seed: int = 0) -> Problem:
    _seeded(seed)
    x = vectors(n, 4, 3, seed).inputs
    assert isinstance(x, Tensor)
    y = torch.randn(n, outputs, dtype=torch.float64)
    return Problem(nn.Linear(4, outputs, bias=False).double(), F.mse_loss, ProbeSet(x, y))


def mlp(n: int = 6, seed: int = 0) -> Problem:
    _seeded(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.LayerNorm(5), nn.Linear(5, 3))
    return Problem(_randomised(model), nn.CrossEntropyLoss(), vectors(n, 4, 3, seed))


def conv_batch_norm(n: int = 4, seed: int = 0) -> Problem:
    _seeded(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 4, 3, stride=2),
        nn.GroupNorm(2, 4),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    x = torch.randn(n, 2, 6, 6, dtype=torch.float64)
    return Problem(_randomised(model), F.cross_entropy, ProbeSet(x, torch.randint(3, (n,))))


class Transformer(nn.Module):
    """Embedding, one encoder layer, and a head for the sequence or for each of its tokens."""

    def __init__(self, *, per_token: bool) -> None:
        super().__init__()
        self.per_token = per_token
        self.embedding = nn.Embedding(7, 4)
        self.encoder = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.1, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.encoder(self.embedding(x))
        return self.head(hidden if self.per_token else hidden.mean(1))


def transformer(n: int = 4, seed: int = 0) -> Problem:
    _seeded(seed)
    return Problem(_randomised(Transformer(per_token=False)), F.cross_entropy, tokens(n, 5, 7, (n,), seed))


def token_transformer(n: int = 4, seed: int = 0) -> Problem:
    """Predicts a class for each of 3 tokens; the loss is a lambda that flattens."""
    _seeded(seed)
    return Problem(
        _randomised(Transformer(per_token=True)),
        lambda outputs, targets: F.cross_entropy(outputs.flatten(0, 1), targets.flatten()),
        tokens(n, 3, 7, (n, 3), seed),
    )


class Tied(nn.Module):
    """A bag of words whose output layer is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 4)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.embedding(x).mean(1)).tanh())


def tied_weights(n: int = 5, seed: int = 0) -> Problem:
    _seeded(seed)
    return Problem(Tied().double(), F.cross_entropy, tokens(n, 4, 3, (n,), seed))


class WithUnused(nn.Module):
    """Owns a layer and a parameter that nothing depends on, and uses a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(4, 3)
        self.unused = nn.Linear(4, 3)
        self.gain = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * self.used(x)


def unused_parameter(n: int = 5, seed: int = 0) -> Problem:
    _seeded(seed)
    return Problem(WithUnused().double(), F.cross_entropy, vectors(n, 4, 3, seed))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def lstm(n: int = 4, seed: int = 0) -> Problem:
    _seeded(seed)
    return Problem(
        Recurrent().double(), F.cross_entropy, ProbeSet(torch.randn(n, 5, 3).double(), torch.randint(3, (n,)))
    )


def _randomised(model: nn.Module) -> nn.Module:
    """In double precision, with no parameter or statistic at a value that hides mistakes (ones and zeros)."""
    model.double()
    for p in model.parameters():
        p.data += 0.3 * torch.randn_like(p)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return model


CLASSIFIERS = (softmax_regression, mlp, conv_batch_norm, transformer, tied_weights, unused_parameter, lstm)
"""Problems with outputs (n, 3) and class targets (n,)."""
