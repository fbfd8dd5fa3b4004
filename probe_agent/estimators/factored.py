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
from probe_agent.probe_set import Inputs
from probe_agent.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Factors:
    """The per-sample gradient of one parameter.

    With ``left`` of shape ``(m, T, p)`` and ``right`` ``(m, T, q)`` it is Σ_t left_t right_tᵀ, ``(m, p, q)``;
    without ``right`` it is ``left`` itself, ``(m, p)``.
    """

    left: Tensor
    right: Tensor | None = None

    def squares(self) -> Tensor:
        """The squared norm of each sample's gradient, shape ``(m,)``."""
        if self.right is None:
            return self.left.square().sum(1)
        (_, t, p), q = self.left.shape, self.right.shape[2]
        if t == 1:
            return self.left.square().sum((1, 2)) * self.right.square().sum((1, 2))
        if t * (p + q) < p * q:
            return ((self.left @ self.left.mT) * (self.right @ self.right.mT)).sum((1, 2))
        return (self.left.mT @ self.right).square().sum((1, 2))

    def added(self, signs: Tensor) -> Tensor:
        """The sum of the samples' gradients with a sign each, shape ``(p, q)`` or ``(p,)``."""
        if self.right is None:
            return signs @ self.left
        return (signs[:, None, None] * self.left).flatten(0, 1).T @ self.right.flatten(0, 1)


Rule = Callable[[nn.Module, Tensor, Tensor], dict[str, Factors]]
"""(module, its input, the gradient at its output) → the factors of its own parameters, by name."""


def linear(_: nn.Module, a: Tensor, delta: Tensor) -> dict[str, Factors]:
    """Weight: δ aᵀ; bias: δ."""
    m = delta.shape[0]
    positions = delta.reshape(m, -1, delta.shape[-1])
    return {"weight": Factors(positions, a.reshape(m, -1, a.shape[-1])), "bias": Factors(positions.sum(1))}


def layer_norm(module: nn.Module, a: Tensor, delta: Tensor) -> dict[str, Factors]:
    """Weight: δ ∘ the normalised input, summed over positions; bias: δ summed."""
    assert isinstance(module, nn.LayerNorm)  # noqa: S101 - narrows for the type checker
    normal = F.layer_norm(a, module.normalized_shape, None, None, module.eps)
    m, width = a.shape[0], math.prod(module.normalized_shape)
    return {
        "weight": Factors((delta * normal).reshape(m, -1, width).sum(1)),
        "bias": Factors(delta.reshape(m, -1, width).sum(1)),
    }


def batch_norm(module: nn.Module, a: Tensor, delta: Tensor) -> dict[str, Factors]:
    """As `layer_norm`, by channel, with the running statistics."""
    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)  # noqa: S101 - narrows for the type checker
    if module.running_mean is None or module.running_var is None:
        raise Uncertified("a batch normalisation without running statistics mixes samples")
    normal = F.batch_norm(a, module.running_mean, module.running_var, eps=module.eps)
    m, channels = a.shape[:2]
    return {
        "weight": Factors((delta * normal).reshape(m, channels, -1).sum(2)),
        "bias": Factors(delta.reshape(m, channels, -1).sum(2)),
    }


# Convolutions are left out on purpose: at image resolutions their factors cost more than the gradient
# (measured: no gain over vmap on a ResNet). Exact types: a subclass may compute something else.
RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: linear,
    nn.LayerNorm: layer_norm,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
}


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a module during the forward pass."""

    module: nn.Module
    path: str
    a: Tensor
    z: Tensor


def factored(
    snapshot: Snapshot, inputs: Inputs, cotangents: Tensor, signs: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """‖J_iᵀ c_ik‖² and Σ_i r_i J_iᵀ c_i0, as `squared_norms` asks of every route.

    Raises:
        Uncertified: a trainable parameter belongs to a module without a rule, to two modules, or to
            one that is called twice.
    """
    calls, outputs = _forward(snapshot, inputs)
    m, count = cotangents.shape[:2]
    wide = widened(outputs.dtype)
    squares = {name: p.new_zeros(m, count, dtype=wide) for name, p in snapshot.params.items()}
    added = {name: torch.zeros_like(p) for name, p in snapshot.params.items()}
    signals = [call.z for call in calls]
    for k in range(count):
        deltas = torch.autograd.grad(
            outputs, signals, cotangents[:, k], retain_graph=k + 1 < count, allow_unused=True, materialize_grads=True
        )
        for call, delta in zip(calls, deltas, strict=True):
            for own, factors in RULES[type(call.module)](call.module, call.a.to(wide), delta.to(wide)).items():
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
