"""What a sample's graph takes in memory, so that no more samples are held at once than may be."""

from contextlib import suppress

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from probe_agent.errors import Indivisible
from probe_agent.probe_set import each
from probe_agent.snapshot import Snapshot

BLOCK_BYTES = 256 * 2**20
"""What the graph of the samples taken at once may hold for its backward pass."""

GRADIENT_BYTES = 64 * 2**20
"""What the samples' gradients that are formed at once may take, down to one sample at a time."""

FEW, MORE = 2, 4
"""Samples the difference is found from. Not one: normalisation over the batch refuses a sample alone."""


def bytes_of_a_sample(snapshot: Snapshot) -> int:
    """The bytes that one more sample's forward pass keeps for the backward pass, at least 1; found once a snapshot."""
    return snapshot.once("bytes of a sample's graph", lambda: _found(snapshot))


def _found(snapshot: Snapshot) -> int:
    n = snapshot.probe_set.n
    if n >= MORE:
        with suppress(Indivisible):  # a graph's nodes come all together
            return max(1, (_held(snapshot, MORE) - _held(snapshot, FEW)) // (MORE - FEW))
    return max(1, _held(snapshot, n) // n)


def _held(snapshot: Snapshot, samples: int) -> int:
    weights = {t.untyped_storage().data_ptr() for t in (*snapshot.model.parameters(), *snapshot.model.buffers())}
    held: dict[int, int] = {}

    def count(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return saved.detach()  # an output itself would hold the graph that holds it

    inputs = each(snapshot.probe_set.inputs, lambda x: x[:samples].clone())  # a view would count as the whole set
    with torch.enable_grad(), saved_tensors_hooks(count, lambda saved: saved):
        outputs = snapshot.outputs(inputs=inputs)
    del outputs  # until here: what it holds must not be freed and its address given to another
    return sum(held.values())
