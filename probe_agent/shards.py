"""Shards: a model whose parameters lie in parts on many ranks (FSDP2, tensor parallel), put together on rank 0."""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast, final

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor

from probe_agent.errors import AttachError
from probe_agent.frozen_copy import stand_ins
from probe_agent.gang import Gang, Line
from probe_agent.room import short_of, weight_bytes
from probe_agent.update_rule import UpdateRule

_STATE = ("__composable_api_state_key", "_is_fsdp_managed_module", "_fsdp_use_orig_params")
"""What `fully_shard` keeps among a module's attributes."""

Part = tuple[tuple[int, ...], tuple[int, ...]]
"""Where in the whole tensor a part begins, and its size."""


def is_sharded(model: nn.Module) -> bool:
    """Whether this rank holds only parts of some parameters.

    Raises:
        AttachError: the parts are those of FSDP1, flattened so that no parameter can be told from the next.
    """
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        raise AttachError(
            "Got a model wrapped in FullyShardedDataParallel (FSDP1), which flattens parameters into one; need FSDP2, "
            "torch.distributed.fsdp.fully_shard, which keeps them apart."
        )
    return any(isinstance(p, DTensor) for p in model.parameters())


@final
class Shards:
    """The live model in parts, and on rank 0 a whole copy of it in the CPU's memory, without a trace of sharding, if ``whole`` is to be.

    Tensors travel one at a time over a line of the gang's own: no rank but 0 ever holds more than its parts,
    no device holds more than before, and the training's process groups are not used.

    Raises:
        AttachError: rank 0 has no room for the whole model.
    """

    def __init__(self, model: nn.Module, gang: Gang, *, whole: bool = True) -> None:
        self.model = model
        self.gang = gang
        self.whole = self._with_room_for_it() if whole and gang.rank == 0 else None

    def _with_room_for_it(self) -> nn.Module:
        if short := short_of(3 * weight_bytes(self.model), torch.device("cpu")):
            self.gang.leave("it has no room for the whole model")
            raise AttachError(
                f"{short} That is three times a sharded model's parameters, which rank 0 measures whole; give it the memory, or watch with "
                "probes that each rank's part is enough for: watches=[Watch(LogSpaced(), (Weights(),))]."
            )
        return plain_copy(self.model)

    def gather(self) -> None:
        """Bring the copy on rank 0 up to date. Every rank calls it at the same step.

        Raises:
            Dissolved: a rank did not.
        """
        whole = self._joined(_tensors(self.model))
        if self.whole is not None:
            with torch.no_grad():
                for name, tensor in _tensors(self.whole).items():
                    tensor.copy_(whole[name])

    def rule(self, of: UpdateRule | None) -> UpdateRule | None:
        """On rank 0 the rule with whole tensors. Every rank calls it at the same step."""
        if of is None:
            return None
        adam = None if of.preconditioner is None else self._joined(of.preconditioner)
        updates = tuple(self._joined(update) for update in of.updates)
        return None if self.gang.rank else replace(of, preconditioner=adam, updates=updates)

    def _joined(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors whole, in the order of their names, on rank 0; nothing on the others."""
        own = {name: part_of(tensor) for name, tensor in tensors.items()}
        held = [json.loads(word) for word in self.gang.exchange(json.dumps(own).encode())]
        whole = {}
        with torch.inference_mode(mode=False), torch.no_grad(), self.gang.line("shards") as line:
            for name, tensor in tensors.items():
                of = givers([parts[name] for parts in held])
                if self.gang.rank in of and self.gang.rank:
                    line.send([_local(tensor)], 0, 0).wait()
                if self.gang.rank == 0:
                    whole[name] = _put_together(line, tensor, of)
        return whole


def givers(parts: Sequence[Part]) -> dict[int, Part]:
    """Which ranks give their part: of those that hold the same one, the first."""
    found: dict[int, Part] = {}
    for rank, part in enumerate(parts):
        if part not in found.values():
            found[rank] = part
    return found


def _put_together(line: Line, tensor: Tensor, parts: Mapping[int, Part]) -> Tensor:
    whole = torch.empty(tensor.shape, dtype=tensor.dtype)
    covered = 0
    for rank, (offset, size) in parts.items():
        part = _local(tensor) if rank == 0 else torch.empty(size, dtype=tensor.dtype)
        if rank:
            line.recv([part], rank, 0).wait()
        whole[tuple(slice(at, at + n) for at, n in zip(offset, size, strict=True))] = part
        covered += part.numel()
    if covered != whole.numel():
        raise ValueError(f"the parts of a tensor of shape {tuple(whole.shape)} do not fit together")
    return whole


def part_of(tensor: Tensor) -> Part:
    """What this rank holds of a tensor."""
    if not isinstance(tensor, DTensor):
        return (0,) * tensor.ndim, tuple(tensor.shape)
    (chunk,) = tensor.__create_chunk_list__()
    return tuple(chunk.offsets), tuple(chunk.sizes)


def _local(tensor: Tensor) -> Tensor:
    held = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return held.detach().cpu().contiguous()


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def plain_copy(model: nn.Module) -> nn.Module:
    """The module as it was before it was sharded, on the CPU, with tensors whose numbers are yet to come.

    Built attribute by attribute: a module that `fully_shard` has taken refuses `copy.deepcopy`.
    """
    modules = list(model.modules())
    memo = stand_ins(modules, lambda t: torch.empty(t.shape, dtype=t.dtype))
    memo |= {id(module): _class_of(module).__new__(_class_of(module)) for module in modules}
    for module in modules:
        for name, value in vars(module).items():
            if not name.startswith(_STATE):
                vars(memo[id(module)])[name] = copy.deepcopy(value, memo)
    return cast("nn.Module", memo[id(model)])


def _class_of(module: nn.Module) -> type[nn.Module]:
    """The class the module had before `fully_shard` swapped it for one that is also an FSDPModule."""
    if not isinstance(module, FSDPModule):
        return type(module)
    return next(cls for cls in type(module).__bases__ if cls is not FSDPModule)
