"""The joint probe set of a gang: the inputs of all ranks as one, the same on each, so that an estimate is of them all."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from probe_agent.gang import Gang
from probe_agent.probe_set import Inputs, ProbeSet, digest, tensors_of_set

MOST_INPUTS: Final = 4096
MOST_BYTES: Final = 2**28
"""What a joint set may hold; beyond it each rank's part is thinned evenly."""


def joint(gang: Gang, sets: Mapping[str, ProbeSet]) -> dict[str, ProbeSet]:
    """The sets of all ranks joined, split by split, in the order of ranks.

    Ranks often give the same batch: each is taken once. A batch that cannot stand beside the first
    (other shapes, types or names of tensors) is left out.

    Raises:
        Dissolved: the ranks did not all take part.
    """
    plan = json.loads(gang.agree(json.dumps({s: _facts(of) for s, of in sets.items()}).encode(), _planned))
    device = next(iter(sets.values())).device
    found = {}
    with torch.inference_mode(mode=False), torch.no_grad(), gang.line("probe sets") as line:
        for split, ((names, of), kept) in plan.items():
            parts = []
            for rank, keep in kept:
                own = tensors_of_set(sets[split]) if rank == gang.rank else None
                buffers = [torch.empty((keep, *shape), dtype=getattr(torch, dtype)) for dtype, shape in of]
                for i, buffer in enumerate(buffers):
                    if own is not None:
                        buffer.copy_(own[i][_evenly(len(own[i]), keep)])
                    line.broadcast(buffer.view(-1).view(torch.uint8), rank).wait()
                parts.append(buffers)
            joined = [torch.cat(column).to(device) for column in zip(*parts, strict=True)]
            found[split] = _set_of(joined, names, sets[split].inputs if split in sets else None)
    gang.agree(b"joined", lambda _: b"")  # either all ranks measure on it or none
    return found


def _facts(of: ProbeSet) -> tuple[int, tuple[Any, list[tuple[str, tuple[int, ...]]]], str]:
    """How many inputs, their form (names of the inputs, then type and shape of each tensor), and a digest of them."""
    form = [(str(t.dtype).removeprefix("torch."), tuple(t.shape[1:])) for t in tensors_of_set(of)]
    return of.n, (_names(of.inputs), form), digest([of])


def _planned(words: Sequence[bytes]) -> bytes:
    """The form of each split's inputs, which ranks' are taken, and how many of each."""
    said = [json.loads(word) for word in words]
    plan = {}
    for split in dict.fromkeys(split for facts in said for split in facts):
        kept = _kept([facts.get(split) for facts in said])
        plan[split] = said[kept[0][0]][split][1], kept
    return json.dumps(plan).encode()


def _kept(said: Sequence[Any]) -> list[tuple[int, int]]:
    """Which ranks' inputs are taken, and how many of each."""
    givers: list[int] = []
    taken: set[str] = set()
    for rank, facts in enumerate(said):
        fits = facts is not None and (not givers or facts[1] == said[givers[0]][1])
        if fits and facts[2] not in taken:
            givers.append(rank)
            taken.add(facts[2])
    per_input = sum(
        getattr(torch, dtype).itemsize * torch.Size(shape).numel() for dtype, shape in said[givers[0]][1][1]
    )
    most = max(1, min(MOST_INPUTS, MOST_BYTES // max(1, per_input)) // len(givers))
    return [(giver, min(most, said[giver][0])) for giver in givers]


def _evenly(n: int, keep: int) -> Tensor:
    return torch.arange(keep) * n // keep


def _names(inputs: Inputs) -> list[str] | int | None:
    if isinstance(inputs, Tensor):
        return None
    return list(inputs) if isinstance(inputs, dict) else len(inputs)


def _set_of(tensors: Sequence[Tensor], names: list[str] | int | None, own: Inputs | None) -> ProbeSet:
    *inputs, targets = tensors
    if names is None:
        return ProbeSet(inputs[0], targets)
    if not isinstance(names, int):
        return ProbeSet(dict(zip(names, inputs, strict=True)), targets)
    alike = isinstance(own, tuple) and len(own) == names  # perhaps a NamedTuple
    return ProbeSet(getattr(own, "_make", tuple)(inputs) if alike else tuple(inputs), targets)
