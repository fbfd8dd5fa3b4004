"""Parcel: objects as bytes for another process, their tensors laid in memory that both processes share.

The tensors of a model are copied once, into the shared memory; what is pickled is the structure around them.
Classes and functions of the training script itself travel by value (cloudpickle).
"""

import copyreg
import io
import mmap
import os
import pickle
import sys
import tempfile
from typing import Any, NamedTuple, final

import cloudpickle
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

ALIGNMENT = 64
"""Bytes: what vector instructions like, and a place of its own for a tensor without elements."""


class Slot(NamedTuple):
    """Where a tensor lies in the shared memory, and what it is there."""

    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    parameter: bool
    requires_grad: bool

    def view(self, memory: "SharedFile") -> Tensor:
        """The slot, as a tensor."""
        meta = torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")
        if meta.numel() == 0:
            return torch.empty_strided(self.shape, self.stride, dtype=self.dtype)
        raw = torch.frombuffer(memory.map, dtype=torch.uint8, count=_bytes(meta), offset=self.offset)
        return raw.view(self.dtype).as_strided(self.shape, self.stride)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


@final
class SharedFile:
    """An anonymous file that two processes map. It has no name: when both are gone, so is it.

    It is no part of /dev/shm, whose size a container often limits to 64 MB.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        if descriptor is not None:
            self.descriptor = descriptor
        elif hasattr(os, "memfd_create"):
            self.descriptor = os.memfd_create("phasewatch")
        else:
            with tempfile.TemporaryFile() as file:
                self.descriptor = os.dup(file.fileno())
        self._map: mmap.mmap | None = None

    @property
    def map(self) -> mmap.mmap:
        """The memory, all of it."""
        size = os.fstat(self.descriptor).st_size
        if self._map is None or len(self._map) < size:
            self._map = mmap.mmap(self.descriptor, size)  # the former one lives as long as tensors in it do
        return self._map

    def hold(self, size: int) -> None:
        """Grow to at least so many bytes."""
        if os.fstat(self.descriptor).st_size < size:
            os.ftruncate(self.descriptor, size)

    def close(self) -> None:
        """Let the file go; mapped tensors stay valid."""
        self._map = None
        os.close(self.descriptor)
        self.descriptor = -1  # the number may soon be another file's


class _Packer(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.size = 0
        self.laid: dict[int, tuple[Tensor, Slot]] = {}

    def reducer_override(self, value: object) -> Any:
        """A parametrized module by the class that torch has made for it, which refuses, and what that of its kind would pickle."""
        if isinstance(value, nn.Module) and is_parametrized(value):
            kind: Any = type(value).__base__
            return copyreg.__newobj__, (type(value),), kind.__getstate__(value)  # type: ignore[attr-defined]
        return super().reducer_override(value)

    def persistent_id(self, value: object) -> Slot | None:
        """The slot of a plain tensor; None for all else, which is pickled."""
        if not isinstance(value, Tensor) or type(value) not in (Tensor, nn.Parameter) or value.layout != torch.strided:
            return None
        if id(value) not in self.laid:
            like = torch.empty_like(value, device="meta")  # dense, in the order of the original
            parameter = type(value) is nn.Parameter
            grad = value.requires_grad and value.is_leaf
            slot = Slot(self.size, value.dtype, tuple(like.shape), like.stride(), parameter, grad)
            self.laid[id(value)] = value, slot
            self.size += max(1, -(-_bytes(like) // ALIGNMENT)) * ALIGNMENT
        return self.laid[id(value)][1]


def packed(content: object, memory: SharedFile) -> bytes:
    """The content as bytes; its tensors are copied into ``memory``, over what was there.

    Raises:
        Exception: whatever pickling raises for what cannot leave its process (locks, files, generators).
    """
    script = sys.modules.get("__mp_main__")
    spawned = (
        script is not None and script.__name__ == "__mp_main__"
    )  # by multiprocessing: its script has no other name
    ours = spawned and "__mp_main__" not in cloudpickle.list_registry_pickle_by_value()
    file = io.BytesIO()
    packer = _Packer(file)
    if ours:
        cloudpickle.register_pickle_by_value(script)
    try:
        packer.dump(content)
    finally:
        if ours:  # the job's own pickles are none of our business
            cloudpickle.unregister_pickle_by_value(script)
    memory.hold(packer.size)
    with torch.inference_mode(mode=False), torch.no_grad():
        for tensor, slot in packer.laid.values():
            if tensor.numel():
                slot.view(memory).copy_(tensor.detach())
    return file.getvalue()


class _Unpacker(pickle.Unpickler):
    def __init__(self, data: bytes, memory: SharedFile, device: torch.device) -> None:
        super().__init__(io.BytesIO(data))
        self._memory, self._device = memory, device
        self._found: dict[int, Tensor] = {}

    def persistent_load(self, slot: Any) -> Tensor:
        """The tensor in the slot, once: what was one object is one again."""
        if slot.offset not in self._found:
            tensor = slot.view(self._memory).to(self._device)
            self._found[slot.offset] = (
                nn.Parameter(tensor, slot.requires_grad)
                if slot.parameter
                else tensor.requires_grad_(slot.requires_grad)
            )
        return self._found[slot.offset]


def unpacked(data: bytes, memory: SharedFile, device: torch.device) -> Any:
    """The content. On the CPU its tensors *are* the shared memory: copy what must outlive the next parcel."""
    return _Unpacker(data, memory, device).load()
