"""Training on a device of its own: the same numbers, no bit of training changed, nothing waited for, nothing charged wrongly."""

import copy
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import probe_agent
from probe_agent import Budget, Every, ListOutbox, Measurement, Probe, Snapshot, Watch
from probe_agent.accelerator import settle
from probe_agent.probe_set import Inputs, ProbeSet, each
from probe_agent.probes.loss import Loss
from probe_agent.probes.weights import Weights
from probe_agent.process import Process
from probe_agent.room import HighWater, free_bytes
from probe_agent.scalars import Scalars
from probe_agent.undisturbed import undisturbed
from probe_agent.witness import streams
from tests.accelerator import simulated
from tests.accelerator.simulated import DEVICE
from tests.problems import EVERY_PROBE
from tests.training_jobs import JOBS
from tests.unit.agent.test_every_probe import two_snapshots
from tests.unit.agent.test_training_jobs import trained

# Of the kinds whose kernels the simulated device has: neither fused recurrent cells nor sparse tensors.
NETWORKS = ("in-place ReLU", "BatchNorm in evaluation", "tied embedding", "shared module")  # the third is a GPT
TRAININGS = (
    "MLP with BatchNorm and dropout",
    "GAN",
    "bfloat16 autocast",
    "GradScaler",
    "gradient checkpointing",
    "LBFGS",
)

# What falls back to the CPU resizes the number that it is to write to.
pytestmark = pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")


@pytest.fixture(autouse=True)
def _at_no_cost() -> Iterator[None]:
    """Operations take no time, unless a test says so."""
    yield
    simulated.pace(0.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program's clock is the device's: time passes only while the device is waited for."""
    monkeypatch.setattr(time, "perf_counter", simulated.now)


def there(tensor: Tensor) -> Tensor:
    return tensor.to(DEVICE)


def moved(model: nn.Module) -> nn.Module:
    """A copy on the device; what is one parameter in two places stays one."""
    model, taken = copy.deepcopy(model), {}
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = taken.setdefault(id(p), nn.Parameter(there(p.data), p.requires_grad))
        for name, b in module._buffers.items():
            module._buffers[name] = None if b is None else there(b)
    return model


def on_device(snapshot: Snapshot) -> Snapshot:
    """The same network and probe set, taken on the device."""
    rule = snapshot.rule
    assert rule is not None
    rule = replace(rule, updates=tuple({name: there(u) for name, u in update.items()} for update in rule.updates))
    inputs: Inputs = each(snapshot.probe_set.inputs, there)
    probe_set = ProbeSet(inputs, there(snapshot.probe_set.targets))
    model = moved(snapshot.model)
    return Snapshot.take(model, snapshot.step, probe_set, snapshot.loss_fn, snapshot.likelihood, 0, rule=rule)


def measured(probe: Probe, snapshots: tuple[Snapshot, ...]) -> list[Measurement]:
    memory: dict[str, object] = {}
    return [found for snapshot in snapshots for found in probe.measure(snapshot, memory)]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_probe_finds_on_the_device_what_it_finds_on_the_cpu(name: str) -> None:
    here = two_snapshots(name)
    away = tuple(map(on_device, here))
    for probe in EVERY_PROBE:
        for one, other in zip(measured(probe, here), measured(probe, away), strict=True):
            said = f"{probe.name}: {one.quantity.name} {dict(one.labels)}"
            assert one.estimate.outcome == other.estimate.outcome, said
            assert other.estimate.value == pytest.approx(one.estimate.value, rel=1e-3, abs=1e-6, nan_ok=True), said
            assert other.estimate.stderr == pytest.approx(one.estimate.stderr, rel=2e-2, abs=1e-6, nan_ok=True), said


@pytest.mark.parametrize("name", TRAININGS)
def test_a_watched_job_is_bit_by_bit_what_it_is_unwatched_on_a_device_too(name: str) -> None:
    with DEVICE:
        without, _ = trained(JOBS[name], watched=False)
        watched, outboxes = trained(JOBS[name], watched=True)
    assert f"random stream of torch on {DEVICE}" in without[0]
    for step, (one, other) in enumerate(zip(without, watched, strict=True)):
        assert [fact for fact in {**one, **other} if one.get(fact) != other.get(fact)] == [], f"step {step}"
    assert all(outbox.drafts[-1].columns for outbox in outboxes)


def test_what_a_probe_draws_from_the_devices_random_stream_is_put_back() -> None:
    before = dict(streams())
    with undisturbed(DEVICE, seed=3):
        drawn = torch.rand(3, device=DEVICE)
        assert dict(streams()) != before
    assert dict(streams()) == before
    torch.rand(1, device=DEVICE)
    with undisturbed(DEVICE, seed=3):
        assert torch.equal(torch.rand(3, device=DEVICE).cpu(), drawn.cpu()), "the same at every snapshot"


class Job:
    """A small network on the device, trained there and watched."""

    def __init__(
        self, *probes: Probe, every: int = 1, budget: Budget | None = None, process: Process | None = None
    ) -> None:
        torch.manual_seed(0)
        with DEVICE:
            self.model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
            self.batch = torch.randn(8, 6), torch.arange(8) % 3
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, foreach=False)
        self.outbox = ListOutbox()
        self.monitor = probe_agent.attach(
            self.model,
            self.optimizer,
            loss_fn=F.cross_entropy,
            probe_batch=self.batch,
            run="on a device",
            watches=[Watch(Every(every), probes)],
            budget=budget or Budget(share=1000),
            outbox=self.outbox,
            where=process or "inline",
        )

    def step(self) -> Tensor:
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.batch[0]), self.batch[1])
        loss.backward()
        self.optimizer.step()
        return loss

    def values(self, quantity: str) -> list[float]:
        return [
            e.value for draft in self.outbox.drafts for _, column, e in draft.columns if column.quantity == quantity
        ]


def test_nothing_waits_for_the_device_where_nothing_is_due() -> None:
    job = Job(*EVERY_PROBE, every=1000)
    before = simulated.waits()
    for _ in range(20):
        job.monitor.observe(loss=job.step())
    assert simulated.waits() == before
    job.step().item()
    assert simulated.waits() > before, "who waits is counted"


def test_an_observed_loss_is_what_it_was_though_the_loop_writes_to_its_tensor_again() -> None:
    job = Job(Loss(), every=3)
    written = torch.zeros((), device=DEVICE)
    before = simulated.waits()
    for i in range(1, 4):
        written.fill_(float(i))
        job.monitor.observe(written=written)
        if i < 3:
            job.step()
    assert simulated.waits() == before
    job.step()
    assert job.values("observed_written") == [2.0]


def test_what_was_observed_is_fetched_at_once() -> None:
    scalars = Scalars()
    for i in range(50):
        scalars.observe("loss", torch.full((), float(i), device=DEVICE))
    before = simulated.waits()
    [(_, _, estimate)] = scalars.drain()
    assert estimate.value == 24.5
    assert simulated.waits() == before + 1


@pytest.mark.usefixtures("clock")
def test_what_training_has_launched_is_not_charged_to_the_probes_that_wait_for_it() -> None:
    job = Job(Loss(), every=10)
    for _ in range(9):
        job.step()
    simulated.pace(0.25)
    launched, began, spent = simulated.launches(), simulated.now(), job.monitor.probe_seconds
    loss = F.cross_entropy(job.model(job.batch[0]), job.batch[1])
    loss.backward()
    training = simulated.launches() - launched
    assert simulated.now() == began, "the program went ahead"
    settled: list[int] = []
    job.optimizer.register_step_pre_hook(lambda *_: settled.append(simulated.launches()))
    after = simulated.launches()
    job.optimizer.step()
    taken = simulated.launches() - after
    job.monitor.close()
    in_probes = job.monitor.probe_seconds - spent
    cost = next(cost for cost in job.outbox.drafts[-1].costs if cost.probe == "loss")
    assert job.outbox.drafts[-1].step == 10
    assert 0.25 <= cost.seconds <= in_probes < 0.25 * taken, "the probes' own work"
    assert simulated.now() - began - in_probes >= 0.25 * training, "all that training launched is training's"


@pytest.mark.usefixtures("clock")
def test_keeping_the_weights_counts_by_the_devices_clock() -> None:
    simulated.pace(0.25)
    job = Job(Weights(), every=5)
    spent = job.monitor.probe_seconds
    for _ in range(4):
        job.step()  # before the last of which the weights are kept
    copies = len(list(job.model.parameters()))
    settle(DEVICE)
    assert job.monitor.probe_seconds - spent == pytest.approx(0.25 * copies)


def test_a_process_of_its_own_finds_on_the_cpu_what_is_found_inline_on_the_device() -> None:
    inline, apart = Job(Loss(), every=2), Job(Loss(), every=2, process=Process())
    for job in (inline, apart):
        for steps in (0, 2):  # the worker may still be starting when the first ones are due
            for _ in range(steps):
                job.step()
            for _ in range(1200):
                if any(draft.step == steps for draft in job.outbox.drafts):
                    break
                time.sleep(0.05)
        job.monitor.close()
    assert len(inline.values("probe_loss")) == 2
    assert apart.values("probe_loss") == pytest.approx(inline.values("probe_loss"))


def test_memory_is_asked_of_the_device_and_not_of_the_machine() -> None:
    free = free_bytes(DEVICE)
    with HighWater(DEVICE) as memory:
        held = torch.empty(2**28, dtype=torch.uint8, device=DEVICE)
        assert free - free_bytes(DEVICE) == held.nbytes
    assert memory.raised >= held.nbytes - 2**24
    assert memory.peak == held.nbytes
