"""Shards: a model whose parameters lie in parts on many ranks (FSDP2, tensor parallel), put together on rank 0."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast, final

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor

from probe_agent.complaints import said
from probe_agent.errors import AttachError
from probe_agent.findings import failure_of
from probe_agent.frozen_copy import stand_ins
from probe_agent.gang import Gang, Line
from probe_agent.interruption import is_interruption
from probe_agent.room import short_of, weight_bytes
from probe_agent.update_rule import UpdateRule
from probe_wire import Outcome

_STATE = ("__composable_api_state_key", "_is_fsdp_managed_module", "_fsdp_use_orig_params")
"""What `fully_shard` keeps among a module's attributes."""

Part = tuple[tuple[int, ...], tuple[int, ...]]
"""Where in the whole tensor a part begins, and its size."""


CPU = torch.device("cpu")


class Refused(Exception):
    """A rank cannot give its part this time, and every rank knows. The message says which and why, the outcome of what kind it is."""

    def __init__(self, why: str, outcome: Outcome) -> None:
        super().__init__(why)
        self.outcome = outcome


def is_sharded(model: nn.Module) -> bool:
    """Whether this rank holds only parts of some parameters.

    Raises:
        AttachError: the parts are those of FSDP1, flattened so that no parameter can be told from the next; or this version of
            torch does not tell where a part belongs.
    """
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        raise AttachError(
            "Got a model wrapped in FullyShardedDataParallel (FSDP1), which flattens parameters into one; need FSDP2, "
            "torch.distributed.fsdp.fully_shard, which keeps them apart."
        )
    sharded = any(isinstance(p, DTensor) for p in model.parameters())
    if sharded and not hasattr(DTensor, "__create_chunk_list__"):
        raise AttachError(
            f"Got a sharded model and torch {torch.__version__}, whose DTensor does not tell where its part belongs; need torch 2.13, "
            "with which this was tested."
        )
    return sharded


@final
class Shards:
    """The live model in parts, and on rank 0 a whole copy of it in the CPU's memory, without a trace of sharding, if ``whole`` is to be.

    Tensors travel one at a time over a line of the gang's own: no rank but 0 ever holds more than its parts,
    no device holds more than before, and the training's process groups are not used. Where the parts belong is told once.

    Raises:
        AttachError: rank 0 has no room for the whole model.
    """

    def __init__(self, model: nn.Module, gang: Gang, *, whole: bool = True) -> None:
        self.model = model
        self.gang = gang
        self._parts: dict[str, Part] = {}  # where this rank's belong
        self._given: dict[str, dict[int, Part]] = {}  # by name, the ranks that give their parts; on rank 0
        self._gives: set[str] = set()  # names of what this rank gives
        self.whole = self._with_room_for_it() if whole and gang.rank == 0 else None

    def _with_room_for_it(self) -> nn.Module:
        if short := short_of(3 * _whole_bytes(self.model), CPU):
            self.gang.leave("it has no room for the whole model")
            raise AttachError(
                f"{short} That is three times a sharded model's parameters, which rank 0 measures whole; give it the memory, or watch with "
                "probes that each rank's part is enough for: watches=[Watch(LogSpaced(), (Weights(),))]."
            )
        return plain_copy(self.model)

    def agreed(self, rule: Callable[[], UpdateRule | None], *, joined: bool) -> UpdateRule | None:
        """What every rank has of its rule, as far as this one goes: a rank that was short of memory may not have kept the last steps.

        Every rank calls it at the same step, before its part of the rule is copied, and before all of it is ``joined``.

        Raises:
            Refused: on every rank, where one has no room for it, or an optimizer that cannot be read. All may try again later.
            Dissolved: a rank did not call.
        """
        try:
            own, why = self._own(rule, joined=joined), ("", "")
        except BaseException as error:
            if is_interruption(error):
                raise
            own, why = None, (failure_of(error).name, said(error))
        kept = [0, 0, 0] if own is None else [1, own.preconditioner is not None, len(own.updates)]
        outcome, words, (known, adaptive, steps) = json.loads(
            self.gang.agree(json.dumps([*why, kept]).encode(), _in_common)
        )
        if outcome:
            raise Refused(words, Outcome[outcome])
        if own is None or not known:
            return None
        return replace(own, preconditioner=own.preconditioner if adaptive else None, updates=own.updates[:steps])

    def _own(self, rule: Callable[[], UpdateRule | None], *, joined: bool) -> UpdateRule | None:
        """This rank's part of the rule, where there is room for a preconditioner and two updates."""
        home = next(self.model.parameters()).device
        here = 3 * _whole_bytes(self.model) if joined and self.whole is not None else 0
        if short := short_of(3 * weight_bytes(self.model), home) or short_of(here, CPU):
            raise MemoryError(short)
        if joined and self._parts and self._parts != _parts_of(_tensors(self.model)):
            raise ValueError("the model is sharded in another way than when it was attached")
        return rule()

    def gather(self) -> None:
        """Bring the copy on rank 0 up to date. Every rank calls it at the same step.

        Raises:
            Dissolved: a rank did not.
        """
        tensors = _tensors(self.model)
        if not self._parts:
            self._tell_parts(tensors)
        with self.gang.line("weights") as line, torch.inference_mode(mode=False), torch.no_grad():
            of = {} if self.whole is None else _tensors(self.whole)
            for name, tensor in self._joined(line, tensors):
                of[name].copy_(tensor)

    def rule(self, of: UpdateRule | None) -> UpdateRule | None:
        """On rank 0 the rule with whole tensors. Every rank calls it at the same step."""
        if of is None:
            return None
        with self.gang.line("rule") as line, torch.inference_mode(mode=False), torch.no_grad():
            adam = None if of.preconditioner is None else dict(self._joined(line, of.preconditioner))
            updates = tuple(dict(self._joined(line, update)) for update in of.updates)
        return None if self.gang.rank else replace(of, preconditioner=adam, updates=updates)

    def _tell_parts(self, tensors: Mapping[str, Tensor]) -> None:
        """Tell rank 0 where this rank's parts belong, and hear which it is to give."""
        self._parts = _parts_of(tensors)

        def answers(words: Sequence[bytes]) -> list[bytes]:
            held = [{name: _part(of) for name, of in json.loads(word).items()} for word in words]
            self._given = {name: givers([parts[name] for parts in held]) for name in tensors}
            ranks = range(self.gang.size)
            return [json.dumps([n for n, of in self._given.items() if rank in of]).encode() for rank in ranks]

        self._gives = set(json.loads(self.gang.ask(json.dumps(self._parts).encode(), answers)))

    def _joined(self, line: Line, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The tensors whole, each with its name and in the order of all ranks, on rank 0; nothing on the others, which give theirs."""
        for name, tensor in tensors.items():
            if self.gang.rank == 0:
                yield name, _put_together(line, tensor, self._given[name])
            elif name in self._gives:
                line.send([_local(tensor)], 0, 0).wait()


def _in_common(words: Sequence[bytes]) -> bytes:
    """Why one of the ranks has nothing, or of each number the least that a rank has."""
    of_ranks = [json.loads(word) for word in words]
    least = [min(column) for column in zip(*(kept for _, _, kept in of_ranks), strict=True)]
    outcome, why = next(((kind, f"rank {i}: {why}") for i, (kind, why, _) in enumerate(of_ranks) if kind), ("", ""))
    return json.dumps([outcome, why, least]).encode()


def givers(parts: Sequence[Part]) -> dict[int, Part]:
    """Which ranks give their part: of those that hold the same one, the first."""
    first: dict[Part, int] = {}
    for rank, part in enumerate(parts):
        first.setdefault(part, rank)
    return {rank: part for part, rank in first.items()}


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


def _parts_of(tensors: Mapping[str, Tensor]) -> dict[str, Part]:
    return {name: part_of(tensor) for name, tensor in tensors.items()}


def _part(of: Sequence[Any]) -> Part:
    """A part that came as JSON."""
    offset, size = of
    return tuple(offset), tuple(size)


def _whole_bytes(model: nn.Module) -> int:
    """What a whole copy takes, in single precision at the least."""
    return sum(t.numel() * max(4, t.element_size()) for t in _tensors(model).values())


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
