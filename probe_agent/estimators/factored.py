"""Factored gradients: per-sample norms of layers whose gradient is a product of two signals, without forming it.

One ordinary backward pass over the batch gives the gradient at every module's output, because a sample's
own is its own row; `factors` makes norms of it. The price of K cotangents is K backward passes without
weight gradients: tens of times cheaper than forming the gradients, for models of the modules known there.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

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
) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """‖J_iᵀ c_ik‖², Σ_i r_i J_iᵀ c_i0 and the outputs, as `squared_norms` asks of every route.

    Raises:
        Uncertified: a trainable parameter belongs to a module without a rule, to two modules, to one that is
            called twice or not on one row a sample, or is used beside its module.
    """
    calls, outputs = _forward(snapshot, inputs)
    m, count = cotangents.shape[:2]
    for call in calls:
        if len(call.a) != m or len(call.z) != m:
            raise Uncertified(f"{call.path or 'the model'} is not given one row a sample")
    _check_used_once(snapshot, outputs)
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
    return squares, added, outputs.detach()


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


def _check_used_once(snapshot: Snapshot, outputs: Tensor) -> None:
    """Refuse a parameter that the graph leads to from two places: only its module's use of it is seen."""
    names = {id(p): name for name, p in snapshot.params.items()}
    used = Counter(id(node.variable) for node in _parents([outputs]) if hasattr(node, "variable"))
    for p, times in used.items():
        if times > 1 and p in names:
            raise Uncertified(f"{names[p]} is used beside its module")


def _parents(tensors: list[Tensor]) -> Iterator[Node]:
    """The nodes of the graph behind the tensors, each once for every edge that leads to it."""
    ahead = [t.grad_fn for t in tensors if t.grad_fn is not None]
    seen = set(ahead)
    while ahead:
        for parent, _ in ahead.pop().next_functions:
            if parent is not None:
                yield parent
                if parent not in seen:
                    seen.add(parent)
                    ahead.append(parent)
