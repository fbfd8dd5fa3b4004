"""A small job, made of what every job is made of, watched or not."""

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import probe_agent
from probe_agent import Budget, Every, Monitor, Probe, Watch
from probe_agent.probes.loss import Loss
from probe_agent.probes.sharpness import Sharpness
from probe_agent.witness import state, streams

STEPS = 6


def say(what: object) -> None:
    """Print it, at once: a child that is forked later must not print it again."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


class Job:
    """What every job is made of: a small network, its optimizer, and a loop that draws from the global stream."""

    def __init__(self, name: str, address: str, folder: Path) -> None:
        self.name, self.address, self.folder = name, address, folder
        self.watched = address != "-"
        random.seed(0)
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Linear(8, 3)
        )
        self.optimizer = self.make_optimizer()
        self.x, self.y = torch.randn(64, 6), torch.randint(3, (64,))
        self.monitor: Monitor | None = None

    def make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)

    def places(self) -> list[int]:
        """How many listen before and after each step, us and others."""
        return [len(self.optimizer._optimizer_step_pre_hooks), len(self.optimizer._optimizer_step_post_hooks)]

    def watch(self, *more: Probe, at_all: bool = True) -> Monitor | None:
        if self.watched:
            self.monitor = probe_agent.attach(
                self.model,
                self.optimizer,
                loss_fn=F.cross_entropy,
                probe_batch=(self.x, self.y),
                run=self.name,
                collector=self.address,
                watches=[Watch(Every(1), (Loss(), *more, Sharpness()))] if at_all else [],
                budget=Budget(share=1000),
            )
        return self.monitor

    def step(self) -> None:
        at = torch.randint(64, (16,))
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(self.x[at]), self.y[at]).backward()
        self.optimizer.step()

    def train(self, steps: int = STEPS) -> None:
        for _ in range(steps):
            self.step()

    def close(self) -> None:
        if self.monitor is not None:
            self.monitor.close()

    @staticmethod
    def until_heard(*monitors: Monitor | None) -> None:
        """Wait until the collector has all there is: on a machine with much to do the two seconds of closing may not do."""
        until = time.monotonic() + 20.0
        for outbox in (monitor._outbox for monitor in monitors if monitor is not None):
            while getattr(outbox, "undelivered", 0) and time.monotonic() < until:
                time.sleep(0.02)

    def tell(self, **facts: Any) -> None:
        """Write down what training has come to, and when."""
        switches = [torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.backends.cuda.flash_sdp_enabled()]
        found = dict(state(self.model, self.optimizer)) | dict(streams()) | {"switches": switches}
        told = {"state": found, "facts": facts, "at": time.monotonic()}
        (self.folder / "told.json").write_text(json.dumps(told), encoding="utf-8")

    def leave(self, mark: str) -> None:
        (self.folder / mark).touch()

    def reach(self) -> None:
        """Let the test do something to the world, and go on when it is done."""
        self.leave("reached")
        deadline = time.monotonic() + 30
        while not (self.folder / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
