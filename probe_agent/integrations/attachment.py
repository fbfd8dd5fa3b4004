"""Attachment: a monitor on behalf of a framework's callback. What would fail training is a warning instead."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, final

import torch
from torch import Tensor

from probe_agent.attach import attach
from probe_agent.complaints import said, warn
from probe_agent.errors import AttachError, LikelihoodError
from probe_agent.monitor import Monitor

_BATCHES = ("probe_batch", "test_batch", "ood_batch")


@final
class Attachment:
    """What is to be watched, as `attach` takes it, and the monitor while a training runs.

    Raises:
        TypeError: attach() knows no setting of that name.
    """

    def __init__(self, **settings: Any) -> None:
        signature(attach).bind_partial(**settings)
        self.monitor: Monitor | None = None
        self._settings = settings

    def open(self, found: Callable[[], Mapping[str, Any]]) -> None:
        """Attach to what the framework has: ``model``, ``optimizer``, and what else was not given in the settings."""
        self.close("replaced")
        try:
            given = {name: value for name, value in self._settings.items() if value is not None}
            settings = {**found(), **given}
            home = next(settings["model"].parameters()).device
            settings |= {name: _moved(settings[name], home) for name in _BATCHES if name in settings}
            try:
                self.monitor = attach(**settings)
            except LikelihoodError as error:
                warn(f"this training is watched as if no likelihood had been named: {error}")
                self.monitor = attach(**settings | {"likelihood": None})
        except Exception as error:  # noqa: BLE001 - the training goes on, unwatched
            why = str(error) if isinstance(error, AttachError) else said(error)
            warn(f"this training is not watched: {why}")

    def close(self, reason: str) -> None:
        """Close the monitor, if there is one."""
        if self.monitor is not None:
            self.monitor.close(reason)

    def __getstate__(self) -> dict[str, Any]:
        # A framework may copy its callbacks, or send them to a process that it spawns.
        return {**vars(self), "monitor": None}


def _moved(batch: Any, home: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(home)
    if isinstance(batch, Mapping):
        return {name: _moved(part, home) for name, part in batch.items()}
    if isinstance(batch, tuple | list):
        return getattr(batch, "_make", tuple)(_moved(part, home) for part in batch)
    return batch
