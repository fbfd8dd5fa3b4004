"""Distributed training jobs, each run by every rank of a real process group; what a rank finds goes into a file of its own.

torchrun --nproc-per-node N distributed_jobs.py FOLDER JOB [COLLECTOR]
"""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import probe_agent
import probe_agent.gang
import probe_agent.job
from probe_agent import AttachError, Budget, Every, ListOutbox, Monitor, Watch
from probe_agent.integrations.attachment import Attachment
from probe_agent.place import Inline
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.probes.loss import Loss
from probe_agent.probes.weights import Weights
from probe_agent.snapshot import Snapshot
from probe_wire import Quantity, Tighten
from tests.problems import EVERY_PROBE

STEPS = 4


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Broken(Probe):
    name: ClassVar[str] = "broken"
    quantities: ClassVar[tuple[Quantity, ...]] = (Quantity("broken", "1", "Never measured.", "Broken"),)

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        raise RuntimeError("a probe of rank " + os.environ["RANK"])
        yield


def rank() -> int:
    return dist.get_rank()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


def data(of: int) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(100 + of)
    return torch.randn(24, 4, generator=made), torch.randint(3, (24,), generator=made)


def everyone() -> tuple[Tensor, Tensor]:
    """The batches of all ranks as one."""
    parts = [data(of) for of in range(dist.get_world_size())]
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def watch(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor], run: str, **settings: Any
) -> Monitor:
    """Attach; ``alone`` where the other ranks do not, so that they are not waited for long."""
    loss_fn = settings.pop("loss", F.cross_entropy)
    probe_agent.job.MEETING_SECONDS = 0.5 if settings.pop("alone", False) else 30.0
    defaults = {"watches": [Watch(Every(2), (Loss(), Weights()))], "outbox": ListOutbox(), "test_batch": batch}
    return probe_agent.attach(
        model,
        optimizer,
        loss_fn=loss_fn,
        probe_batch=batch,
        run=run,
        budget=Budget(share=1000),
        **defaults | settings,
    )


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = STEPS) -> None:
    """Each step of two batches; the gradients are only exchanged at the second."""
    x, y = data(rank())
    quiet = getattr(model, "no_sync", nullcontext)
    for _ in range(steps):
        optimizer.zero_grad()
        with quiet():
            F.cross_entropy(model(x[:12]), y[:12]).backward()
        F.cross_entropy(model(x[12:]), y[12:]).backward()
        optimizer.step()


def parallel() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.parallel.DistributedDataParallel(network())
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def sharded() -> tuple[nn.Module, torch.optim.Optimizer]:
    model, mesh = network(), init_device_mesh("cpu", (dist.get_world_size(),))
    for module in (model[3], model):
        fully_shard(module, mesh=mesh)
    return model, torch.optim.Adam(model.parameters(), lr=0.01)


def numbers(model: nn.Module) -> list[float]:
    """Every parameter, each as a float holds it."""
    whole = [p.full_tensor() if isinstance(p, DTensor) else p for p in model.parameters()]
    return torch.cat([p.detach().flatten() for p in whole]).tolist()


def reports(monitor: Monitor) -> list[dict[str, Any]]:
    drafts = monitor._outbox.drafts
    return [
        {
            "step": draft.step,
            "columns": {
                f"{c.quantity} {sorted(c.labels.items())}": [e.value, e.stderr, e.paired, e.n, e.outcome]
                for _, c, e in draft.columns
            },
            "costs": {cost.probe: [int(cost.outcome), cost.detail] for cost in draft.costs},
        }
        for draft in drafts
    ]


def data_parallel(_: str) -> dict[str, Any]:
    """The same training three times: unwatched, watched by all ranks, and by rank 0 alone on the batches of all."""
    found: dict[str, Any] = {}
    model, optimizer = parallel()
    train(model, optimizer)
    found["unwatched"] = numbers(model)

    model, optimizer = parallel()
    monitor = watch(model, optimizer, data(rank()), "all", watches=[Watch(Every(2), EVERY_PROBE)])
    train(model, optimizer)
    monitor.close()
    found["watched"], found["together"], found["step"] = numbers(model), reports(monitor), monitor.step
    found["divided"] = sorted(name for name, ours in monitor._place._ours.items() if ours)
    found["id"] = monitor.run.id

    model, optimizer = parallel()
    if rank() == 0:
        monitor = watch(model, optimizer, everyone(), "rank 0", alone=True, watches=[Watch(Every(2), EVERY_PROBE)])
    train(model, optimizer)
    found["alone"] = reports(monitor)
    return found


def troubled(_: str) -> dict[str, Any]:
    """A probe that raises; a rank that closes its monitor early; identical batches; ranks that drift apart; steps before attach."""
    found: dict[str, Any] = {}
    model, optimizer = parallel()
    monitor = watch(model, optimizer, data(0), "broken", watches=[Watch(Every(2), (Broken(), Loss()))])
    train(model, optimizer)
    monitor.close()
    found["broken"], found["inputs"] = reports(monitor), monitor.subject.probe_set.n

    model, optimizer = parallel()
    monitor = watch(model, optimizer, data(rank()), "early")
    train(model, optimizer, 2)
    if rank() == 1:
        monitor.close()
    train(model, optimizer)
    monitor.close()
    found["early"], found["complaints"] = reports(monitor), monitor._complain.counts

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = watch(model, optimizer, data(rank()), "drifting")
    train(model, optimizer)
    monitor.close()
    found["drifting"], found["drift_told"] = reports(monitor), list(monitor._complain.counts)

    model = parallel()[0]
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, 1)
    told: list[str] = []
    logging.getLogger("probe_agent").addFilter(lambda record: bool(told.append(record.getMessage())) or True)
    watch(model, optimizer, data(rank()), "resumed").close()
    found["resumed_told"] = told
    return found


def fully_sharded(_: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    model, optimizer = sharded()
    train(model, optimizer)
    found["unwatched"] = numbers(model)

    model, optimizer = sharded()
    monitor = watch(model, optimizer, data(rank()), "sharded", watches=[Watch(Every(2), EVERY_PROBE)])
    train(model, optimizer)
    monitor.close()
    found["watched"], found["sharded"] = numbers(model), reports(monitor)

    model, optimizer = sharded()
    monitor = watch(model, optimizer, data(rank()), "summed", watches=[Watch(Every(2), (Weights(),))])
    found["course"] = [numbers(model)]
    for _ in range(STEPS):
        train(model, optimizer, 1)
        found["course"].append(numbers(model))
    monitor.close()
    found["summed"], found["put_together"] = reports(monitor), monitor._place._shards.whole is not None

    model, optimizer = sharded()
    found["refused"] = refusal(model, optimizer, "refused", alone=False, likelihood="bernoulli")
    attachment = Attachment(
        run="without", loss_fn=F.cross_entropy, probe_batch=data(rank()), likelihood="bernoulli", outbox=ListOutbox()
    )
    attachment.open(lambda: {"model": model, "optimizer": optimizer, "watches": [Watch(Every(2), (Loss(),))]})
    train(model, optimizer, 2)
    found["without"] = [] if attachment.monitor is None else reports(attachment.monitor)
    attachment.close("finished")

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    split = parallelize_module(
        network(), mesh, {"0": ColwiseParallel(), "3": ColwiseParallel(), "5": RowwiseParallel()}
    )
    monitor = watch(split, torch.optim.SGD(split.parameters(), lr=0.1), data(0), "tensor parallel")
    monitor.close()
    found["tensor_parallel"] = reports(monitor)

    if rank() == 0:
        plain = network()
        found["whole"] = reports(
            watch(plain, torch.optim.SGD(plain.parameters(), lr=0.1), data(0), "whole", alone=True)
        )
        adam = torch.optim.Adam(plain.parameters(), lr=0.01)
        watches = [Watch(Every(2), EVERY_PROBE)]
        found["plain"] = reports(watch(plain, adam, everyone(), "plain", alone=True, watches=watches))
        found["alone"] = refusal(model, optimizer, "alone")
    found["old"] = refusal(*flattened(), "old")
    return found


def flattened() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = FullyShardedDataParallel(network(), device_id=torch.device("cpu"))
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def refusal(model: nn.Module, optimizer: torch.optim.Optimizer, run: str, **settings: Any) -> str:
    try:
        watch(model, optimizer, data(rank()), run, **{"alone": True} | settings)
    except AttachError as error:
        return str(error)
    return ""


def pipeline(_: str) -> dict[str, Any]:
    """Each rank holds another stage; activations travel by send and receive."""
    found = {}
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Linear(4, 6), nn.Tanh()), nn.Linear(6, 3)]
    stage, (x, y) = stages[rank()], data(0)
    optimizer = torch.optim.SGD(stage.parameters(), lr=0.1)
    activations = stages[0](x).detach()
    monitors = []
    if rank() == 1:
        monitors.append(watch(stage, optimizer, (activations, y), "last stage", alone=True))
    if rank() == 0:
        targets = torch.zeros(24, 6)
        monitors.append(watch(stage, optimizer, (x, targets), "every stage", test_batch=None, loss=F.mse_loss))
    else:
        monitors.append(watch(stage, optimizer, (activations, y), "every stage"))
    for _ in range(STEPS):
        optimizer.zero_grad()
        if rank() == 0:
            sent = stage(x)
            dist.send(sent.detach(), 1)
            gradient = torch.empty_like(sent)
            dist.recv(gradient, 1)
            sent.backward(gradient)
        else:
            got = torch.empty(24, 6)
            dist.recv(got, 0)
            F.cross_entropy(stage(got.requires_grad_()), y).backward()
            dist.send(got.grad, 0)
        optimizer.step()
    for monitor in monitors:
        monitor.close()
        found[monitor.run.name] = {
            "id": monitor.run.id,
            "reports": reports(monitor),
            "alone": isinstance(monitor._place, Inline),
        }
    return found


def processes(_: str) -> dict[str, Any]:
    """Probes in a process of their own: until rank 0 has a report."""
    model, optimizer = parallel()
    monitor = watch(model, optimizer, data(rank()), "process", where="process")
    done = torch.zeros(1)
    for _ in range(400):
        train(model, optimizer, 1)
        done.fill_(any(report["columns"] for report in reports(monitor)))
        dist.broadcast(done, 0)
        if done:
            break
        time.sleep(0.05)
    monitor.close()
    return {"reports": reports(monitor), "inputs": monitor.subject.probe_set.n}


def tightened(_: str) -> dict[str, Any]:
    """Rank 0 is wished to measure the loss more often, and rank 1, which does not choose, the weights; replicas, then shards."""
    found: dict[str, Any] = {}
    for name, made in {"replicas": parallel, "shards": sharded}.items():
        model, optimizer = made()
        train(model, optimizer, 24)
        unwatched = numbers(model)
        model, optimizer = made()
        monitor = watch(model, optimizer, data(rank()), name, watches=[Watch(Every(6), (Loss(), Weights()))])
        wish = {0: Tighten("probe_loss", 18, times=3), 1: Tighten("weight_norm", 18, times=3)}.get(rank())
        monitor.agenda.wishes.extend([wish] if wish else [])
        train(model, optimizer, 24)
        monitor.close()
        found[name] = {
            "reports": reports(monitor),
            "same": numbers(model) == unwatched,
            "complaints": monitor._complain.counts,
            "answers": {answer.value: count for answer, count in monitor.agenda.answers.items()},
        }
    return found


def reporting(collector: str) -> dict[str, Any]:
    """To a real collector."""
    model, optimizer = parallel()
    with watch(model, optimizer, data(rank()), "reported", outbox=None, collector=collector) as monitor:
        for _ in range(STEPS):
            monitor.observe(loss=rank())
            train(model, optimizer, 1)
    return {"id": monitor.run.id}


def killed(_: str) -> dict[str, Any]:
    """Replicas that never synchronise: the one that is left must not wait for the other more than once."""
    probe_agent.gang.PATIENCE_SECONDS = 4.0
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = watch(model, optimizer, data(0), "killed")
    for step in range(8):
        if step == 3 and rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        began = time.monotonic()
        optimizer.zero_grad()
        F.cross_entropy(model(data(0)[0]), data(0)[1]).backward()
        optimizer.step()
        waits.append(time.monotonic() - began)
    monitor.close()
    return {"reports": reports(monitor), "waits": waits, "complaints": monitor._complain.counts}


waits: list[float] = []
JOBS = [data_parallel, troubled, fully_sharded, pipeline, processes, tightened, reporting, killed]


def main(folder: str, jobs: str, collector: str = "") -> None:
    logging.basicConfig(level="WARNING")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    by_name = {job.__name__: job for job in JOBS}
    found = {name: by_name[name](collector) for name in jobs.split(",")}
    Path(folder, f"rank{rank()}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
