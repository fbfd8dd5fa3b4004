"""Factored gradients: per-sample norms of layers whose gradient is a product of two signals, without forming it.

One ordinary backward pass over the batch gives the gradient at every module's output, because a sample's
own is its own row; `factors` makes norms of it. The price of K cotangents is K backward passes without
weight gradients: tens of times cheaper than forming the gradients, for models of the modules known there.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from probe_agent.estimators.certificate import Uncertified, widened
from probe_agent.estimators.factors import RULES
from probe_agent.probe_set import Inputs
from probe_agent.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a module during the forward pass."""

    module: nn.Module
    path: str
    a: Tensor
    z: Tensor


def _wide(a: Tensor, dtype: torch.dtype) -> Tensor:
    return a.to(dtype) if a.is_floating_point() else a  # tokens stay what they are


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
                    raise Uncertified(f"no rule for {type(module).__name__} at {path or 'the root'}")
                owners[module] = path
                seen.add(id(p))
    return owners
