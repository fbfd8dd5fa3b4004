"""Room: how much memory a device still has for training and for whoever watches it, and how much a probe took."""

import os
import resource
from pathlib import Path
from types import TracebackType
from typing import Self, final

import torch
from torch import nn

from probe_agent import accelerator

SAFE = 0.9
"""Of the free memory so much may be asked for."""

UNKNOWN = 2**62
"""Where nothing tells: as good as endless."""


def free_bytes(device: torch.device) -> int:
    """Bytes that can be taken on the device without anybody being refused.

    On a GPU that is what the driver has left and what torch's allocator holds unused; for the CPU the least of what the
    machine, the process's control group and its own limits leave (Linux; elsewhere it is not known).
    """
    if device.type != "cpu":
        there = accelerator.free_bytes(device)
        return UNKNOWN if there is None else there
    return min(_machine(), _control_group(), _limits())


def short_of(need: int, device: torch.device) -> str:
    """Why so many bytes must not be asked for: training might need them. Empty where there is room."""
    free = free_bytes(device)
    if need <= SAFE * free:
        return ""
    return (
        f"Got {free / 1e6:,.0f} MB of free memory on {device}, need about {need / 1e6:,.0f} MB; training comes first."
    )


def check_room(copies: int, model: nn.Module, device: torch.device) -> None:
    """See that so many copies of the model's weights can be made.

    Raises:
        MemoryError: training might need what they would take.
    """
    if short := short_of(copies * weight_bytes(model), device):
        raise MemoryError(short)


def _machine() -> int:
    return kernel_bytes("/proc/meminfo", "MemAvailable:").get("MemAvailable:", UNKNOWN)


def _limits() -> int:
    """What ``ulimit`` leaves to this process."""
    used = kernel_bytes("/proc/self/status", "VmSize:", "VmData:")
    left = UNKNOWN
    for limit, name in ((resource.RLIMIT_AS, "VmSize:"), (resource.RLIMIT_DATA, "VmData:")):
        most, _ = resource.getrlimit(limit)
        if most != resource.RLIM_INFINITY and name in used:
            left = min(left, max(0, most - used[name]))
    return left


def kernel_bytes(file: str, *names: str) -> dict[str, int]:
    """Some lines of one of the kernel's tables, in bytes."""
    try:
        lines = Path(file).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines if line.startswith(names))
    return {name: 1024 * int(count) for name, count, *_ in fields}


def _control_group(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """What the control groups this process is in have left: their limit less what they use, file pages that can be dropped not counted."""
    return min((_left_in(group) for group in _groups(root, own, "memory")), default=UNKNOWN)


def _groups(root: Path, own: Path, controller: str) -> list[Path]:
    """The folders of the control groups of this process for a controller, and of those around them."""
    try:
        lines = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        lines = []
    folders = {root, root / controller}
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers in ("", controller) or controller in controllers.split(","):
            base = root if controllers == "" else root / controller
            inner = base / path.strip("/")
            folders |= {inner, *(folder for folder in inner.parents if folder.is_relative_to(base))}
    return sorted(folders)


def _left_in(group: Path) -> int:
    for limit, used, dropped in (
        ("memory.max", "memory.current", "inactive_file "),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "),
    ):
        try:
            most = (group / limit).read_text(encoding="ascii").strip()
            if most == "max":
                return UNKNOWN
            lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
            file_pages = next((int(line.split()[1]) for line in lines if line.startswith(dropped)), 0)
            return max(0, int(most) - int((group / used).read_text(encoding="ascii")) + file_pages)
        except (OSError, ValueError):
            continue
    return UNKNOWN


def cores(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Processors this process may use: those it is bound to, and no more than its control groups pay for."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(
        1, min([bound, *(int(paid) for group in _groups(root, own, "cpu") if (paid := _quota(group)) is not None)])
    )


def _quota(group: Path) -> float | None:
    """Processors' worth of time a control group may use; None without a limit."""
    try:
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):
        return None


def weight_bytes(model: nn.Module) -> int:
    """What a copy of the model takes, in single precision at the least; of a sharded one, a copy of this rank's parts."""
    held = (t.to_local() if hasattr(t, "to_local") else t for t in (*model.parameters(), *model.buffers()))
    return sum(t.numel() * max(4, t.element_size()) for t in held)


@final
class Respite:
    """How long nobody asks again for memory that was refused.

    Each refusal in a row makes it twice as long, counted in what is due, so that in a run of n measurements at most log₂ n of them are.
    Where ranks measure together it is that of rank 0, which chooses for all.
    """

    def __init__(self) -> None:
        self._refusals = self._until = 0

    def note(self, step: int, interval: int, *, refused: bool) -> None:
        """Whether what was due at this step was refused; the next was due so many steps later."""
        self._refusals = self._refusals + 1 if refused else 0
        self._until = step + interval * 2**self._refusals if refused else 0

    def why(self, step: int) -> str:
        """Why nobody asks at this step; empty where one may."""
        again = f"asked for again from step {self._until} on"
        return f"Memory was refused {self._refusals} times in a row; it is {again}." if step < self._until else ""


@final
class HighWater:
    """How far what runs inside raises the most memory this process ever had on the device.

    The marks are the system's and torch's own; they are read and never reset, for others read them too. So a
    ``peak`` is known only where it was the highest so far: else what runs inside had room in what training had taken
    before.

    Attributes:
        raised: bytes by which the mark is higher than before.
        peak: the most bytes that were taken at once, beyond what was held when it began; 0 where it is not known.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.raised = self.peak = 0

    def _now(self) -> tuple[int, int]:
        if self._device.type != "cpu":
            return accelerator.held_and_most(self._device)
        status = kernel_bytes("/proc/self/status", "VmRSS:", "VmHWM:")
        return status.get("VmRSS:", 0), status.get("VmHWM:", 0)

    def __enter__(self) -> Self:
        self._held, self._mark = self._now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Read the marks again."""
        _, mark = self._now()
        self.raised = max(0, mark - self._mark)
        self.peak = mark - self._held if self.raised else 0
