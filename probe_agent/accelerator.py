"""Accelerator: what differs where training computes on a device of its own, which works on while the program goes ahead.

Of every kind torch knows (CUDA, XPU, MPS, those of others), by what torch or its module offers; on the CPU nothing is to be done.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, final

import torch
from torch import Tensor

_REFUSED = (RuntimeError, NotImplementedError, AttributeError, ValueError)
"""What a device raises that has no such thing."""


def _module(device: torch.device) -> Any:
    """What torch has for devices of this kind; None for those that are no accelerator."""
    return None if device.type in {"cpu", "meta"} else getattr(torch, device.type, None)


def _offered(device: torch.device, name: str) -> Callable[..., Any] | None:
    """A function of the device's module, about this device; None where it has none."""
    function: Callable[..., Any] | None = getattr(_module(device), name, None)
    if function is None or device.type == "mps":  # of which there is one
        return function
    return lambda *args: function(*args, device)


def capturing() -> bool:
    """Whether what is done now would become part of a CUDA graph."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


@contextmanager
def waits_allowed() -> Iterator[None]:
    """Without the warning or the error that training may have asked CUDA for where somebody waits for it: probes read numbers."""
    asked_for = torch.cuda.get_sync_debug_mode() if torch.cuda.is_initialized() else 0
    if not asked_for:
        yield
        return
    torch.cuda.set_sync_debug_mode(0)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(asked_for)


def random_state(device: torch.device) -> Tensor | None:
    """Where the device's global random stream is; None where it has none."""
    state = _offered(device, "get_rng_state")
    return None if state is None else state()


def set_random_state(state: Tensor | None, device: torch.device) -> None:
    """Put the device's global random stream to where it was."""
    put = _offered(device, "set_rng_state")
    if put is not None and state is not None:
        put(state)


def seed(device: torch.device, number: int) -> None:
    """Seed the device's global random stream, and no other's."""
    generators = getattr(_module(device), "default_generators", None)
    if generators:
        generators[device.index or 0].manual_seed(number)
    elif (everywhere := getattr(_module(device), "manual_seed", None)) is not None:
        everywhere(number)


def all_devices() -> list[torch.device]:
    """The accelerators training may be using."""
    kind = torch.accelerator.current_accelerator()
    if kind is None:
        return []
    # To ask more of CUDA would start it, and a process that has it cannot fork.
    there = torch.cuda.is_initialized() if kind.type == "cuda" else torch.accelerator.is_available()
    return [torch.device(kind.type, i) for i in range(torch.accelerator.device_count())] if there else []


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can be taken: what the driver has left and what torch's allocator holds unused. None where nothing tells."""
    module = _module(device)
    if (left := _offered(device, "mem_get_info")) is not None:
        free, _ = left()
        return int(free + module.memory_reserved(device) - module.memory_allocated(device))
    if device.type == "mps":
        return int(module.recommended_max_memory() - module.current_allocated_memory())
    return None


def held_and_most(device: torch.device) -> tuple[int, int]:
    """Bytes that tensors hold there now, and the most they ever held; zeros where nothing tells."""
    held, most = _offered(device, "memory_allocated"), _offered(device, "max_memory_allocated")
    return (0, 0) if held is None or most is None else (held(), most())


def settle(device: torch.device) -> float:
    """Wait until the device has done what training has launched so far; the seconds that took.

    The current stream's work alone: on another one something may wait for a rank that goes on only when this one does.
    """
    if _module(device) is None:
        return 0.0
    began = time.perf_counter()
    with suppress(*_REFUSED):
        if device.type == "mps":  # has one stream, which cannot be waited for by itself
            torch.accelerator.synchronize(device)
        else:
            torch.accelerator.current_stream(device).synchronize()
    return time.perf_counter() - began


@final
class Lap:
    """Times what is launched inside, by the device's own clock where it has one. Nothing waits for it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: list[torch.Event] = []
        self._host = 0.0

    def __enter__(self) -> None:
        self._mark()
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._host = time.perf_counter() - self._began
        self._mark()

    def _mark(self) -> None:
        if _module(self._device) is not None:
            with suppress(*_REFUSED):
                event = torch.Event(self._device, enable_timing=True)
                event.record(torch.accelerator.current_stream(self._device))
                self._events.append(event)

    @property
    def seconds(self) -> float:
        """Seconds of the program, or of the device where that took longer and has come to the end."""
        if len(self._events) == 2:
            begin, end = self._events
            with suppress(*_REFUSED):
                if end.query():
                    return max(self._host, begin.elapsed_time(end) / 1e3)
        return self._host
