"""Measuring: half precision, further sets, and what a change of the trainable parameters does to pairing."""

import math
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import probe_agent
from probe_agent import AttachError, Budget, Every, ListOutbox, Measurement, Memory, Monitor, Probe, Snapshot, Watch
from probe_agent.probes.fisher_trace import FisherTrace
from probe_agent.probes.loss import Loss
from probe_wire import MAX_COLUMNS, Column, Estimate, Outcome, Quantity

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randint(3, (12,), generator=torch.Generator().manual_seed(1))


def model_of() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def attached(
    model: nn.Module, x: Tensor = X, *, probes: tuple[Probe, ...] = (Loss(),), **options: Any
) -> tuple[Monitor, ListOutbox, torch.optim.Optimizer]:
    outbox = ListOutbox()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = probe_agent.attach(
        model,
        optimizer,
        loss_fn=F.cross_entropy,
        probe_batch=(x, Y),
        run="test",
        watches=[Watch(Every(1), probes)],
        outbox=outbox,
        **{"budget": Budget(share=1000), **options},
    )
    return monitor, outbox, optimizer


def series(
    outbox: ListOutbox, report: int = -1
) -> dict[tuple[str, tuple[tuple[str, str], ...]], tuple[Column, Estimate]]:
    return {
        (column.quantity, tuple(sorted(column.labels.items()))): (column, estimate)
        for _, column, estimate in outbox.drafts[report].columns
    }


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_is_measured_in_single_at_the_same_weights(half: torch.dtype) -> None:
    probes = (Loss(), FisherTrace())
    _, outbox, _ = attached(model_of().to(half), X.to(half), probes=probes)
    _, wide, _ = attached(model_of().to(half).float(), X.to(half).float(), probes=probes)
    found, expected = series(outbox), series(wide)
    assert found.keys() == expected.keys()
    for key, (column, estimate) in found.items():
        if estimate.outcome is Outcome.OK:
            assert estimate.value == expected[key][1].value
        assert column.settings["precision"] == f"{str(half).removeprefix('torch.')} weights, computed in float32"
        assert "precision" not in expected[key][0].settings


class Stubborn(nn.Module):
    """Casts inside its forward pass, as models written for one precision do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.to(torch.bfloat16))


def test_a_model_that_runs_in_its_own_precision_only_is_measured_there_and_says_so() -> None:
    _, outbox, _ = attached(Stubborn().to(torch.bfloat16), X)
    column, estimate = series(outbox)["probe_loss", ()]
    assert column.settings["precision"] == "bfloat16 weights, computed in that"
    assert math.isfinite(estimate.value)


def test_the_live_model_keeps_its_precision() -> None:
    model = model_of().to(torch.bfloat16)
    before = [p.clone() for p in model.parameters()]
    attached(model, X.to(torch.bfloat16))
    assert all(torch.equal(p, b) and p.dtype is torch.bfloat16 for p, b in zip(model.parameters(), before, strict=True))


def test_further_sets_are_measured_beside_the_probe_set_and_their_gap_is_told() -> None:
    model = model_of()
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(5))
    y = torch.randint(3, (8,), generator=torch.Generator().manual_seed(6))
    _, outbox, _ = attached(model, test_batch=(x, y), ood_batch=([10 * x[:5]], y[:5]))
    found = series(outbox)
    here, there = found["probe_loss", ()][1], found["probe_loss", (("split", "test"),)][1]
    gap = found["probe_loss_gap", (("split", "test"),)][1]
    assert there.value == pytest.approx(float(F.cross_entropy(model(x), y).detach()))
    assert gap.value == pytest.approx(there.value - here.value)
    assert gap.stderr == pytest.approx(math.hypot(there.stderr, here.stderr))
    assert found["probe_loss", (("split", "ood"),)][1].value == pytest.approx(
        float(F.cross_entropy(model(10 * x[:5]), y[:5]).detach())
    )
    assert found["probe_accuracy_gap", (("split", "ood"),)][1].outcome is Outcome.OK


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (3, r"Got a test batch of type int; need a pair"),
        ((torch.randn(3, 4), torch.zeros(2)), r"Got a test batch whose tensors have \[2, 3\] samples"),
        ((torch.randn(3, 7), torch.zeros(3, dtype=torch.long)), r"Got a test batch the model cannot take"),
        ((torch.randn(3, 4), torch.zeros(3, 3, 3)), r"Got a loss_fn that raises .* on the test batch"),
    ],
)
def test_a_test_batch_that_cannot_be_measured_is_refused_at_the_door(batch: Any, words: str) -> None:
    with pytest.raises(AttachError, match=words):
        attached(model_of(), test_batch=batch)


def test_changes_are_not_paired_across_a_change_of_the_trainable_parameters() -> None:
    model = model_of()
    model[0].requires_grad_(False)
    monitor, outbox, optimizer = attached(model, probes=(FisherTrace(),))

    def step() -> float:
        optimizer.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
        return series(outbox)["fisher_trace", ()][1].paired

    assert math.isfinite(step())
    model[0].requires_grad_(True)
    assert math.isnan(step())
    assert math.isfinite(step())
    monitor.close()


@final
@dataclass(frozen=True)
class Deep(Probe):
    """Measures more layers than a report can hold, and then the whole."""

    name: ClassVar = "deep"
    quantities: ClassVar = (Quantity("depth", "1", "Depth.", "Depth"),)

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        for layer in range(MAX_COLUMNS + 10):
            yield Measurement(quantity=self.quantities[0], estimate=Estimate(1.0), labels={"layer": str(layer)})
        yield Measurement(quantity=self.quantities[0], estimate=Estimate(2.0))


def test_more_series_than_a_report_holds_leave_out_layers_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    _, outbox, _ = attached(model_of(), probes=(Deep(), Loss()))
    found = series(outbox)
    assert len(found) == MAX_COLUMNS
    assert found["depth", ()][1].value == 2.0
    assert ("probe_loss", ()) in found
    assert "the last 13 of single layers are left out" in caplog.text


@final
@dataclass(frozen=True)
class Endless(Probe):
    """Evaluates the model for ever, and takes every exception for a property of the model."""

    name: ClassVar = "endless"
    quantities: ClassVar = (Quantity("passes", "1", "Passes.", "Passes"),)

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        while True:
            with suppress(Exception):
                snapshot.outputs()
        yield Measurement(quantity=self.quantities[0], estimate=Estimate(1.0))


def test_a_probe_that_has_begun_is_stopped_when_its_time_is_up() -> None:
    monitor, outbox, _ = attached(model_of(), probes=(Endless(), Loss()), budget=Budget(share=0.0, allowance=3.0))
    found = series(outbox)
    assert found["passes", ()][1].outcome is Outcome.OVER_BUDGET
    assert found["probe_loss", ()][1].outcome is Outcome.OK
    (cost, _) = outbox.drafts[0].costs
    assert (cost.outcome, cost.seconds) == (Outcome.OVER_BUDGET, pytest.approx(1.5, abs=0.5))
    monitor.close()


@final
@dataclass(frozen=True)
class Greedy(Probe):
    """Asks for more memory than there is."""

    name: ClassVar = "greedy"
    quantities: ClassVar = (Quantity("bytes_held", "bytes", "Bytes.", "Bytes"),)

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        torch.empty(2**60, dtype=torch.uint8)
        yield Measurement(quantity=self.quantities[0], estimate=Estimate(1.0))


def test_a_probe_that_finds_no_memory_is_an_outcome_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    _, outbox, _ = attached(model_of(), probes=(Greedy(), Loss()))
    found = series(outbox)
    assert found["bytes_held", ()][1].outcome is Outcome.OUT_OF_MEMORY
    assert found["probe_loss", ()][1].outcome is Outcome.OK
    assert "probe greedy failed at step 0" in caplog.text


@contextmanager
def only(megabytes: int) -> Iterator[None]:
    """The kernel gives this process so much more memory, and no more."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    used = next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmData:"))
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + megabytes * 10**6, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def test_a_probe_that_might_take_the_memory_training_needs_is_not_begun() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 1500), nn.ReLU(), nn.Linear(1500, 1500), nn.ReLU(), nn.Linear(1500, 3))  # 9 MB
    monitor, outbox, optimizer = attached(model)
    del outbox.drafts[:]
    monitor._place._measuring._records["loss"].peak = 0
    with only(20):
        optimizer.step()
    (cost,) = outbox.drafts[0].costs
    assert cost.outcome == Outcome.OUT_OF_MEMORY
    assert re.match(
        r"Got \d+ MB of free memory on cpu, need about \d+ MB; training comes first. Give a smaller", cost.detail
    )
    optimizer.step()
    assert outbox.drafts[-1].costs[0].outcome == Outcome.OK
    monitor.close()


def test_a_snapshot_that_might_take_the_memory_training_needs_is_not_taken() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3000), nn.Linear(3000, 3000), nn.Linear(3000, 3))  # 36 MB
    monitor, outbox, optimizer = attached(model)
    with only(30):
        optimizer.step()
    assert outbox.drafts[-1].costs[0].outcome == Outcome.OUT_OF_MEMORY
    assert "no snapshot: MemoryError: Got" in outbox.drafts[-1].costs[0].detail
    with only(30), pytest.raises(AttachError, match=r"Got 3\d MB of free memory on cpu, need about 36 MB"):
        attached(model)
    monitor.close()


@final
@dataclass(frozen=True)
class Wide(Probe):
    """Takes 300 MB for a moment."""

    name: ClassVar = "wide"
    quantities: ClassVar = (Quantity("width", "1", "Width.", "Width"),)

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        yield Measurement(quantity=self.quantities[0], estimate=Estimate(float(torch.ones(75_000_000).sum()), 0.0))


def test_how_far_a_probe_raised_the_memory_of_the_process_is_told_once() -> None:
    monitor, outbox, optimizer = attached(model_of(), probes=(Wide(), Loss()))
    optimizer.step()
    first, second = ({cost.probe: cost.memory_raised for cost in draft.costs} for draft in outbox.drafts)
    assert 0 < first["wide"] < 400e6, "less what the tests before had taken at most"
    assert second["wide"] < 50e6, "the second time it has room in what the first took"
    assert first["loss"] < 50e6
    monitor.close()


def test_every_series_says_which_probe_measured_it() -> None:
    _, outbox, _ = attached(model_of(), probes=(Loss(), FisherTrace()))
    probes = {column.quantity: column.settings["probe"] for column, _ in series(outbox).values()}
    assert probes["probe_accuracy"] == "loss"
    assert probes["fisher_trace"] == "fisher_trace"
