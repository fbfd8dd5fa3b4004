"""Process: the settings of a process of its own for probes."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Process:
    """Probes run in a process of their own: what it may take.

    Attributes:
        device: where they compute; the CPU's spare cores, or another GPU than training's.
        threads: of the CPU; None for one for each core that training has no thread for, at least one.
        seconds: one probe may take; past that it is over budget, and past twice that the process is ended.
        memory: bytes on the CPU; None for half of what is free when it starts.
    """

    device: str = "cpu"
    threads: int | None = None
    seconds: float = 120.0
    memory: int | None = None

    def __post_init__(self) -> None:
        try:
            torch.device(self.device)
        except RuntimeError as error:
            raise ValueError(
                f'Got Process(device={self.device!r}); need a device of torch, such as "cpu" or "cuda:1".'
            ) from error
        if not (self.seconds > 0 and (self.threads is None or self.threads > 0)):
            raise ValueError(
                f"Got Process(threads={self.threads}, seconds={self.seconds}); need a number of threads of at least 1 and more "
                "than 0 seconds."
            )

    @property
    def patience(self) -> float:
        """Seconds after which one probe hangs."""
        return 2 * self.seconds + 1
