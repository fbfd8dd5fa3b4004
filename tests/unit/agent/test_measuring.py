"""Measuring: half precision, further sets, and what a change of the trainable parameters does to pairing."""

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
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


def test_every_series_says_which_probe_measured_it() -> None:
    _, outbox, _ = attached(model_of(), probes=(Loss(), FisherTrace()))
    probes = {column.quantity: column.settings["probe"] for column, _ in series(outbox).values()}
    assert probes["probe_accuracy"] == "loss"
    assert probes["fisher_trace"] == "fisher_trace"
