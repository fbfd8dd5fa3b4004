"""Factored gradients: per-sample norms of layers whose gradient is a product of two signals, without forming it.

A linear layer z = W a + b has the per-sample gradient ∂/∂W = δ aᵀ with δ the gradient at z, hence
‖δ aᵀ‖² = ‖δ‖² ‖a‖²; over T positions it is Σ_tt' (δ_t·δ_t')(a_t·a_t') (Goodfellow 2015, "Efficient
per-example gradient computations", sec. 5). One ordinary backward pass over the batch gives every δ,
because a sample's δ is its own row. The price of K cotangents is K backward passes without weight
gradients: tens of times cheaper than forming the gradients, for models of the modules known here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - as torch's own documentation names it
from torch import Tensor, nn

from probe_agent.estimators.certificate import Uncertified, widened
from probe_agent.probe_set import Inputs, rows
from probe_agent.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Factors:
    """The per-sample gradient of one parameter.

    With ``left`` of shape ``(m, T, p)`` and ``right`` ``(m, T, q)`` it is Σ_t left_t right_tᵀ, ``(m, p, q)``;
    with ``rows`` of shape ``(m, T)`` it is ``(m, count, p)`` with left_t added to row ``rows[t]``; with neither
    it is ``left`` itself, ``(m, p)``.
    """

    left: Tensor
    right: Tensor | None = None
    rows: Tensor | None = None
    count: int = 0

    def squares(self) -> Tensor:
        """The squared norm of each sample's gradient, shape ``(m,)``: instantiated or not, whichever is less work."""
        if self.rows is not None:
            same = self.rows[:, :, None] == self.rows[:, None, :]
            return ((self.left @ self.left.mT) * same).sum((1, 2))
        if self.right is None:
            return self.left.square().sum(1)
        (_, t, p), q = self.left.shape, self.right.shape[2]
        if t == 1:
            return self.left.square().sum((1, 2)) * self.right.square().sum((1, 2))
        if t * (p + q) < p * q:
            return ((self.left @ self.left.mT) * (self.right @ self.right.mT)).sum((1, 2))
        return (self.left.mT @ self.right).square().sum((1, 2))

    def added(self, signs: Tensor) -> Tensor:
        """The sum of the samples' gradients with a sign each, of the shape of one."""
        if self.rows is not None:
            signed = (signs[:, None, None] * self.left).flatten(0, 1)
            return signed.new_zeros(self.count, signed.shape[1]).index_add_(0, self.rows.flatten(), signed)
        if self.right is None:
            return signs @ self.left
        return (signs[:, None, None] * self.left).flatten(0, 1).T @ self.right.flatten(0, 1)


Combine = Callable[[Tensor], dict[str, Factors]]
"""The gradient at a module's output → the factors of its own parameters, by name."""

Rule = Callable[[nn.Module, Tensor], Combine]
"""(module, its input) → how to combine it with gradients; what depends on the input alone is computed once."""


def linear(_: nn.Module, a: Tensor) -> Combine:
    """Weight: δ aᵀ; bias: δ."""
    right = a.reshape(len(a), -1, a.shape[-1])

    def combine(delta: Tensor) -> dict[str, Factors]:
        positions = delta.reshape(len(delta), -1, delta.shape[-1])
        return {"weight": Factors(positions, right), "bias": Factors(positions.sum(1))}

    return combine


def convolution(module: nn.Module, a: Tensor) -> Combine:
    """A linear layer on patches of the input: weight Σ_t δ_t patch_tᵀ; bias: δ summed."""
    assert isinstance(module, nn.Conv1d | nn.Conv2d)  # noqa: S101 - narrows for the type checker
    if module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise Uncertified("a convolution with groups or unusual padding")
    flat = isinstance(module, nn.Conv1d)

    def sizes(of: tuple[int, ...], unit: int) -> tuple[int, ...]:
        return (unit, *of) if flat else of

    patches = F.unfold(
        a.unsqueeze(2) if flat else a,
        sizes(module.kernel_size, 1),
        sizes(module.dilation, 1),
        sizes(module.padding, 0),
        sizes(module.stride, 1),
    ).mT

    def combine(delta: Tensor) -> dict[str, Factors]:
        positions = delta.flatten(2).mT
        return {"weight": Factors(positions, patches), "bias": Factors(positions.sum(1))}

    return combine


def embedding(module: nn.Module, a: Tensor) -> Combine:
    """Weight: δ_t in the row of token t."""
    assert isinstance(module, nn.Embedding)  # noqa: S101 - narrows for the type checker
    if a.dim() < 2 or module.scale_grad_by_freq:
        raise Uncertified("an embedding that is not given each sample's tokens, or counts them")
    tokens = a.reshape(len(a), -1)

    def combine(delta: Tensor) -> dict[str, Factors]:
        positions = delta.reshape(*tokens.shape, -1)
        if module.padding_idx is not None:
            positions = positions * (tokens != module.padding_idx)[..., None]
        return {"weight": Factors(positions, rows=tokens, count=module.num_embeddings)}

    return combine


def layer_norm(module: nn.Module, a: Tensor) -> Combine:
    """Weight: δ ∘ the normalised input, summed over positions; bias: δ summed."""
    assert isinstance(module, nn.LayerNorm | nn.RMSNorm)  # noqa: S101 - narrows for the type checker
    shape = tuple(module.normalized_shape)
    if isinstance(module, nn.LayerNorm):
        normal = F.layer_norm(a, shape, None, None, module.eps)
    else:
        normal = F.rms_norm(a, shape, None, module.eps)

    def combine(delta: Tensor) -> dict[str, Factors]:
        each = (len(delta), -1, math.prod(shape))
        return {
            "weight": Factors((delta * normal).reshape(each).sum(1)),
            "bias": Factors(delta.reshape(each).sum(1)),
        }

    return combine


def channel_norm(module: nn.Module, a: Tensor) -> Combine:
    """As `layer_norm`, by channel, within groups of channels or with the running statistics."""
    if isinstance(module, nn.GroupNorm):
        normal = F.group_norm(a, module.num_groups, eps=module.eps)
    else:
        assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)  # noqa: S101 - narrows for the type checker
        if module.running_mean is None or module.running_var is None:
            raise Uncertified("a batch normalisation without running statistics mixes samples")
        normal = F.batch_norm(a, module.running_mean, module.running_var, eps=module.eps)

    def combine(delta: Tensor) -> dict[str, Factors]:
        each = (*a.shape[:2], -1)
        return {
            "weight": Factors((delta * normal).reshape(each).sum(2)),
            "bias": Factors(delta.reshape(each).sum(2)),
        }

    return combine


# Exact types: a subclass may compute something else.
RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: linear,
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.Embedding: embedding,
    nn.LayerNorm: layer_norm,
    nn.RMSNorm: layer_norm,
    nn.GroupNorm: channel_norm,
    nn.BatchNorm1d: channel_norm,
    nn.BatchNorm2d: channel_norm,
}

CONVOLUTION_COTANGENTS = 4
"""From so many on the patches of a convolution pay. On a ResNet-18 of width 16 at 32 × 32 this route took 4.9 training
steps for one cotangent and vmap 2.6; for eleven it took 9.8 and vmap 12.0."""

PATCH_BYTES = 256 * 2**20
"""What the patches of all convolutions may take at once."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a module during the forward pass."""

    module: nn.Module
    path: str
    a: Tensor
    z: Tensor

    @property
    def patch_bytes(self) -> int:
        """What the patches of a convolution take: one for each position of its output."""
        if not isinstance(self.module, nn.Conv1d | nn.Conv2d):
            return 0
        patch = self.a.shape[1] * math.prod(self.module.kernel_size)
        return self.a.shape[0] * patch * math.prod(self.z.shape[2:]) * self.a.element_size()


def _wide(a: Tensor, dtype: torch.dtype) -> Tensor:
    return a.to(dtype) if a.is_floating_point() else a  # tokens stay what they are


def factored(
    snapshot: Snapshot, inputs: Inputs, cotangents: Tensor, signs: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """‖J_iᵀ c_ik‖² and Σ_i r_i J_iᵀ c_i0, as `squared_norms` asks of every route.

    Where the patches of convolutions would take too much the samples are taken in halves.

    Raises:
        Uncertified: a trainable parameter belongs to a module without a rule, to two modules, or to
            one that is called twice.
    """
    calls, outputs = _forward(snapshot, inputs)
    m, count = cotangents.shape[:2]
    if count < CONVOLUTION_COTANGENTS and any(call.patch_bytes for call in calls):
        raise Uncertified("patches of convolutions are not worth their making for so few cotangents")
    if m > 1 and sum(call.patch_bytes for call in calls) > PATCH_BYTES:
        half = m // 2
        one = factored(snapshot, rows(inputs, slice(0, half)), cotangents[:half], signs[:half])
        other = factored(snapshot, rows(inputs, slice(half, m)), cotangents[half:], signs[half:])
        return (
            {name: torch.cat([one[0][name], other[0][name]]) for name in one[0]},
            {name: one[1][name] + other[1][name] for name in one[1]},
        )
    wide = widened(outputs.dtype)
    combines = [RULES[type(call.module)](call.module, _wide(call.a, wide)) for call in calls]
    squares = {name: p.new_zeros(m, count, dtype=wide) for name, p in snapshot.params.items()}
    added = {name: torch.zeros_like(p) for name, p in snapshot.params.items()}
    signals = [call.z for call in calls]
    for k in range(count):
        deltas = torch.autograd.grad(
            outputs, signals, cotangents[:, k], retain_graph=k + 1 < count, allow_unused=True, materialize_grads=True
        )
        for call, combine, delta in zip(calls, combines, deltas, strict=True):
            for own, factors in combine(delta.to(wide)).items():
                name = f"{call.path}.{own}" if call.path else own
                if name in snapshot.params:
                    squares[name][:, k] = factors.squares()
                    if k == 0:
                        added[name] = factors.added(signs.to(wide)).to(outputs.dtype).reshape(added[name].shape)
    return squares, added


def _forward(snapshot: Snapshot, inputs: Inputs) -> tuple[list[Call], Tensor]:
    """Run the model once, keeping what goes in and out of the modules that own trainable parameters."""
    owners = _owners(snapshot)
    calls: list[Call] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...], z: Tensor) -> Tensor:
        calls.append(Call(module, owners[module], args[0].detach(), z))
        # What follows gets a copy: an in-place activation would overwrite the tensor we differentiate by.
        return z.clone()

    handles = [module.register_forward_hook(keep) for module in owners]
    try:
        outputs: Tensor = snapshot.outputs(inputs=inputs)
    finally:
        for handle in handles:
            handle.remove()
    if len({call.module for call in calls}) < len(calls):
        raise Uncertified("a module is called more than once")
    return calls, outputs


def _owners(snapshot: Snapshot) -> dict[nn.Module, str]:
    """The modules that own the trainable parameters, with their paths."""
    trainable = {id(p) for p in snapshot.params.values()}
    owners: dict[nn.Module, str] = {}
    seen: set[int] = set()
    for path, module in snapshot.model.named_modules():
        for p in module.parameters(recurse=False):
            if id(p) in seen:
                raise Uncertified("two modules share a parameter")
            if id(p) in trainable:
                if type(module) not in RULES:
                    raise Uncertified(f"no rule for {type(module).__name__}")
                owners[module] = path
                seen.add(id(p))
    return owners
