"""The ways of watching a training job whose overhead is compared: ours, Cockpit's, and hooks on the gradients."""

import copy
import importlib
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

import probe_agent
from against.timing import Missing
from against.workloads import Workload, loss_fn
from probe_agent import Budget, Every, ListOutbox, Monitor, Process, Watch
from probe_agent.accelerator import settle
from probe_agent.toll import Toll

PROBE_INPUTS = 32
NEVER = 10**12


class Block(NamedTuple):
    """Some steps of training: the seconds they took, those the training thread was at work, and how many there were."""

    seconds: float
    busy: float
    steps: int


class Job(ABC):
    """A copy of the workload in training, and something that watches it, or nothing."""

    name: str

    def __init__(self, workload: Workload) -> None:
        self.half = workload.half
        self.model, self.optimizer = copy.deepcopy((workload.model, workload.optimizer))
        self.model.train()
        self.inputs, self.targets, self.batch = workload.inputs, workload.targets, workload.batch
        self.device = self.inputs.device
        self._order = torch.Generator().manual_seed(0)

    def some(self) -> tuple[Tensor, Tensor]:
        """The next batch, the same for every job."""
        index = torch.randint(len(self.inputs), (self.batch,), generator=self._order).to(self.device, non_blocking=True)
        return self.inputs[index], self.targets[index]

    def block(self, seconds: float) -> Block:
        """Train for about so long, on a device to the end of what was launched."""
        began, busy, steps = time.perf_counter(), time.thread_time(), 0
        while time.perf_counter() - began < seconds:
            self.step()
            steps += 1
            if steps % 8 == 0:  # a program that goes far ahead would launch for seconds beyond the block's end
                settle(self.device)
        settle(self.device)
        return Block(time.perf_counter() - began, time.thread_time() - busy, steps)

    @abstractmethod
    def step(self) -> None:
        """One step of training, watched."""

    def told(self) -> dict[str, Any]:
        """What the watcher says of itself."""
        return {}


class Plain(Job):
    """Nobody watches."""

    name = "without"

    def step(self) -> None:
        """One step."""
        x, y = self.some()
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            loss = loss_fn(self.model(x), y)
        loss.backward()
        self.optimizer.step()


@final
class Watched(Plain):
    """Phasewatch in the long run: what may be spent early has been spent and paid back."""

    def __init__(self, workload: Workload, tier: str, share: float | None, where: str) -> None:
        super().__init__(workload)
        self.name = f"phasewatch {tier}, {f'{share:.0%}, {where}' if share else 'nothing due'}"
        watches: Any = probe_agent.presets.PRESETS[tier]()
        if share is None:
            watches = [Watch(Every(NEVER), watch.probes) for watch in watches]
        self._outbox = ListOutbox()
        self.monitor: Monitor = probe_agent.attach(
            self.model,
            self.optimizer,
            loss_fn=loss_fn,
            probe_batch=(self.inputs[:PROBE_INPUTS], self.targets[:PROBE_INPUTS]),
            run="overhead",
            watches=watches,
            budget=Budget.of(f"{share:%}") if share else Budget(),
            where=Process(threads=1, seconds=10_000) if where == "process" else "inline",
            outbox=self._outbox,
        )
        if where == "process":
            while self._worker() is None:
                time.sleep(0.05)
            self._signal(signal.SIGSTOP)
        self.first = self.monitor.probe_seconds
        self._settle(Budget(share=share or 0.0, allowance=0.0))

    def _settle(self, budget: Budget) -> None:
        """Forget what the first measurement took: from here on the share is all there is."""
        monitor = self.monitor
        purse, monitor._toll = monitor._purse, Toll(self.device)  # noqa: SLF001 - no run is long enough here to pay it back
        purse.budget, purse.charged, purse._had = budget, 0.0, dict.fromkeys(purse._had, 0.0)  # noqa: SLF001
        self._seconds = 0.0
        self._first_reports = len(self._outbox.drafts)

    def block(self, seconds: float) -> Block:
        """The monitor's clock stands still while other jobs are timed, and so does its worker."""
        monitor, began = self.monitor, time.perf_counter()
        monitor._started = began - self._seconds - monitor.probe_seconds  # noqa: SLF001
        self._signal(signal.SIGCONT)
        found = super().block(seconds)
        self._signal(signal.SIGSTOP)
        self._seconds = monitor.training_seconds
        return found

    def _worker(self) -> int | None:
        """The worker's process id."""
        worker = getattr(self.monitor._place, "_worker", None)  # noqa: SLF001
        return worker and worker._popen.pid  # noqa: SLF001

    def _signal(self, number: signal.Signals) -> None:
        if (pid := self._worker()) is not None:
            os.kill(pid, number)

    def told(self) -> dict[str, Any]:
        """How often it measured, the share it took by its own account, what the first measurement took.

        Not the share beside a worker: it is stopped while other jobs are timed, and its clock is not.
        """
        share = self.monitor.probe_seconds / max(1e-9, self._seconds)
        reports = len(self._outbox.drafts) - self._first_reports
        found = {"reports": reports, "first_measurement_seconds": self.first}
        return found if self._worker() else found | {"share_by_its_own_account": share}


@final
class GradientHooks(Plain):
    """A hook on every parameter that makes a histogram of the gradient every so many steps, as trackers offer."""

    def __init__(self, workload: Workload, every: int) -> None:
        super().__init__(workload)
        self.name = f"gradient histograms every {every} steps"
        self._every, self._step = every, 0
        self.histograms: dict[str, tuple[Tensor, float, float]] = {}
        for name, p in self.model.named_parameters():
            p.register_hook(self._listener(name))

    def _listener(self, name: str) -> Callable[[Tensor], None]:
        def listen(grad: Tensor) -> None:
            if self._step % self._every == 0:
                flat = grad.detach().float().flatten()
                low, high = flat.min().item(), flat.max().item()
                self.histograms[name] = flat.histc(64, low, high).cpu(), low, high

        return listen

    def step(self) -> None:
        """One step."""
        super().step()
        self._step += 1


@final
class Cockpitted(Job):
    """Cockpit (Schneider, Dangel and Hennig 2021) at every step of its own schedule, in one of its configurations."""

    def __init__(self, workload: Workload, configuration: str) -> None:
        super().__init__(workload)
        self.name = f"Cockpit {configuration}"
        try:
            extend = importlib.import_module("backpack").extend
            cockpit = importlib.import_module("cockpit")
            quantities = importlib.import_module("cockpit.utils.configuration").configuration
        except ImportError as error:
            raise Missing(f"{self.name} is not installed: {error}") from error
        self.model = extend(self.model)
        self._loss, self._losses = extend(nn.CrossEntropyLoss()), extend(nn.CrossEntropyLoss(reduction="none"))
        self._cockpit = cockpit.Cockpit(list(self.model.parameters()), quantities=quantities(configuration))
        self._step = 0
        try:
            self.step()
        except Exception as error:
            raise Missing(f"{self.name} does not take this model: {type(error).__name__}: {error}") from error

    def step(self) -> None:
        """One step, as its documentation writes it."""
        x, y = self.some()
        self.optimizer.zero_grad()
        outputs = self.model(x)
        outputs, y = outputs.reshape(-1, outputs.shape[-1]), y.reshape(-1)
        loss = self._loss(outputs, y)
        info = {
            "batch_size": len(x),
            "individual_losses": self._losses(outputs, y),
            "loss": loss,
            "optimizer": self.optimizer,
        }
        with self._cockpit(self._step, info=info):
            loss.backward(create_graph=self._cockpit.create_graph(self._step))
        self.optimizer.step()
        self._step += 1
