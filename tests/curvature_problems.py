"""Small models of many kinds, snapshots of them, and the dense Hessian to hold products against."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from probe_agent.door import unwrapped
from probe_agent.likelihood import Categorical, Likelihood
from probe_agent.probe_set import Inputs, ProbeSet
from probe_agent.snapshot import LossFn, Snapshot

CLASSES = 3


def snapshot_of(
    model: nn.Module,
    inputs: Inputs,
    targets: Tensor,
    loss_fn: LossFn = F.cross_entropy,
    *,
    seed: int = 0,
    step: int = 0,
    likelihood: Likelihood | None = None,
) -> Snapshot:
    return Snapshot.take(model, step, ProbeSet(inputs, targets), loss_fn, likelihood, seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(n: int, seed: int = 0) -> Tensor:
    return torch.randint(CLASSES, (n,), generator=torch.Generator().manual_seed(seed))


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in double precision with every parameter and running statistic in general position."""
    model = model.double()
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.data += noise if name.endswith("running_var") else 0.6 * noise - 0.3
    return model


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(4, CLASSES)
        self.unused = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x).tanh()


def _fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _explicit(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    later = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -math.inf).softmax(-1) @ v


class Attention(nn.Module):
    """One causal attention block, by ``scaled_dot_product_attention`` or written out, its embedding tied to the head or not."""

    def __init__(self, *, tied: bool = False, fused: bool = True) -> None:
        super().__init__()
        self.attend = _fused if fused else _explicit
        self.embed = nn.Embedding(CLASSES + 2, 6)
        self.norm = nn.LayerNorm(6)
        self.qkv = nn.Linear(6, 18)
        self.up = nn.Linear(6, 4)
        self.down = nn.Linear(4, 6)
        self.head = nn.Linear(6, CLASSES + 2, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        q, k, v = (part.unflatten(-1, (2, 3)).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, dim=-1))
        x = x + self.attend(q, k, v).transpose(1, 2).flatten(2)
        return self.head(x + self.down(F.gelu(self.up(x)))).mean(dim=1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.1, batch_first=True)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(dim=1))


def _mlp(*hidden: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), *hidden, nn.Linear(6, CLASSES))


def _conv(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), norm, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, CLASSES))


def _tokens(n: int) -> Tensor:
    return torch.randint(CLASSES + 2, (n, 4), generator=torch.Generator().manual_seed(1))


def _shared() -> nn.Module:
    """One module in two places."""
    inner = nn.Linear(6, 6)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), inner, nn.Tanh(), inner, nn.ReLU(), nn.Linear(6, CLASSES))


KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Tensor]]] = {
    "MLP": (lambda: _mlp(nn.ReLU()), lambda n: normal(n, 4)),
    "in-place ReLU": (lambda: _mlp(nn.ReLU(inplace=True)), lambda n: normal(n, 4)),
    "unused parameter": (Unused, lambda n: normal(n, 4)),
    "BatchNorm in training": (lambda: _conv(nn.BatchNorm2d(4)), lambda n: normal(n, 2, 4, 4)),
    "BatchNorm in evaluation": (lambda: _conv(nn.BatchNorm2d(4)).eval(), lambda n: normal(n, 2, 4, 4)),
    "GroupNorm": (lambda: _conv(nn.GroupNorm(2, 4)), lambda n: normal(n, 2, 4, 4)),
    "LayerNorm": (lambda: _mlp(nn.LayerNorm(6), nn.GELU()), lambda n: normal(n, 4)),
    "TransformerEncoderLayer": (Encoder, lambda n: normal(n, 3, 4)),
    "GPT with fused attention": (Attention, _tokens),
    "GPT with explicit attention": (lambda: Attention(fused=False), _tokens),
    "tied embedding": (lambda: Attention(tied=True), _tokens),
    "shared module": (_shared, lambda n: normal(n, 4)),
    "compiled": (lambda: unwrapped(torch.compile(_mlp(nn.GELU()), backend="eager")), lambda n: normal(n, 4)),
    "dropout": (lambda: _mlp(nn.Tanh(), nn.Dropout(0.5)), lambda n: normal(n, 4)),
    "LSTM": (Recurrent, lambda n: normal(n, 3, 3)),
}


def kind(name: str, n: int = 6) -> Snapshot:
    """A snapshot of one of KINDS at ``n`` inputs, in double precision."""
    make, inputs = KINDS[name]
    torch.manual_seed(0)
    return snapshot_of(randomised(make()), inputs(n), labels(n), likelihood=Categorical())


def dense_hessian(snapshot: Snapshot) -> Tensor:
    """The Hessian by `torch.autograd.functional.hessian`, double backward; `torch.func.hessian` is wrong for LayerNorm."""
    shapes = {name: p.shape for name, p in snapshot.params.items()}
    sizes = [math.prod(shape) for shape in shapes.values()]

    def loss(flat: Tensor) -> Tensor:
        pieces = zip(shapes.items(), flat.split(sizes), strict=True)
        return snapshot.loss({name: piece.view(shape) for (name, shape), piece in pieces})

    flat = torch.cat([p.detach().reshape(-1) for p in snapshot.params.values()])
    with sdpa_kernel(SDPBackend.MATH):
        hessian: Tensor = torch.autograd.functional.hessian(loss, flat)
    return hessian


def dense_gauss_newton(snapshot: Snapshot) -> Tensor:
    """(1/T) Σ_i J_iᵀ Λ_i J_i, J and Λ by double backward of the outputs and of the negative log-likelihood."""
    likelihood, targets = snapshot.likelihood, snapshot.probe_set.targets
    assert likelihood is not None
    with sdpa_kernel(SDPBackend.MATH):
        outputs = snapshot.outputs()
        rows = [
            torch.autograd.grad(number, list(snapshot.params.values()), retain_graph=True, allow_unused=True)
            for number in outputs.reshape(-1)
        ]
    zeros = [torch.zeros_like(p) for p in snapshot.params.values()]
    jacobian = torch.stack(
        [torch.cat([(z if r is None else r).reshape(-1) for r, z in zip(row, zeros, strict=True)]) for row in rows]
    )

    def loss(flat: Tensor) -> Tensor:
        return likelihood.negative_log(flat.view_as(outputs), targets).sum()

    curvature = torch.autograd.functional.hessian(loss, outputs.detach().reshape(-1))
    return jacobian.T @ curvature @ jacobian / likelihood.predictions(outputs, targets).sum()


def half_squared_error(outputs: Any, targets: Tensor) -> Tensor:
    """(1/2N) Σ ‖f(x) − y‖², whose Hessian for f(x) = wᵀx is XᵀX/N."""
    return 0.5 * (outputs - targets).square().sum(dim=-1).mean()


def linear_regression(x: Tensor, *, seed: int = 0, step: int = 0) -> Snapshot:
    """Least squares in one output, without a bias: H = XᵀX/N whatever w and y are."""
    model = nn.Linear(x.shape[1], 1, bias=False).double()
    return snapshot_of(model, x, normal(len(x), 1, seed=7), half_squared_error, seed=seed, step=step)


def state_of(model: nn.Module) -> dict[str, Any]:
    """Everything a measurement must leave alone, for comparison: bytes, gradients, flags, hooks and random streams."""
    return {
        "tensors": [t.detach().clone() for t in [*model.parameters(), *model.buffers()]],
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "training": [m.training for m in model.modules()],
        "hooks": [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()],
        "stream": torch.get_rng_state(),
    }


def same_state(a: dict[str, Any], b: dict[str, Any]) -> bool:
    def same(left: Any, right: Any) -> bool:
        return (
            torch.equal(left, right) if isinstance(left, Tensor) and isinstance(right, Tensor) else bool(left == right)
        )

    tensors = all(same(left, right) for key in ("tensors", "grads") for left, right in zip(a[key], b[key], strict=True))
    flags = all(a[key] == b[key] for key in ("requires_grad", "training", "hooks"))
    return tensors and flags and torch.equal(a["stream"], b["stream"])
