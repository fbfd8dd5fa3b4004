"""Running statistics: what batch normalisation remembers of the batches it saw, which differ from rank to rank.

Data-parallel ranks hold the same parameters, but each normalises by its own batches until rank 0's buffers are
handed out at the next forward pass. What a job saves are those of rank 0, so these are what is measured.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from probe_agent.probe_set import as_bytes


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """The buffers of every normalisation layer, by their names in the model; not copied."""
    layers = [(path, module) for path, module in model.named_modules() if hasattr(module, "track_running_stats")]
    return {f"{path}.{name}": b for path, module in layers for name, b in module.named_buffers(recurse=False)}


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """The tensors' bytes in the order of their names."""
    return b"".join(as_bytes(t) for t in tensors.values())


def from_bytes(data: bytes, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of these names, types and shapes from the bytes of `to_bytes`, on the CPU."""
    found, at = {}, 0
    for name, t in like.items():
        part = np.frombuffer(data, np.uint8, t.numel() * t.itemsize, at).copy()
        found[name] = torch.from_numpy(part).view(t.dtype).view(t.shape)
        at += part.size
    return found
