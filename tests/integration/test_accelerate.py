"""A plain attach to what the real accelerate has prepared; it needs no adapter."""

import copy
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState, GradientState
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import probe_agent
from probe_agent import AttachError, ListOutbox
from probe_agent.frozen_copy import copy_of
from tests.framework_runs import WATCHES, left_behind, measured_plainly, run_example, same, seed_all, values

CLASSES = 3


@pytest.fixture(autouse=True)
def _one_accelerator() -> Iterator[None]:
    """Accelerate keeps its state in the process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, CLASSES))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(48, 6, generator=generator), torch.randint(CLASSES, (48,), generator=generator)


def trained(precision: str, outbox: ListOutbox | None) -> tuple[nn.Module, list[Any], int]:
    """Twelve batches, of which every two make a step."""
    seed_all()
    accelerator = Accelerator(cpu=True, mixed_precision=precision, gradient_accumulation_steps=2)
    module = network()
    model, optimizer, loader = accelerator.prepare(
        module, torch.optim.AdamW(module.parameters(), lr=1e-2), DataLoader(TensorDataset(*batch()), 8, shuffle=True)
    )
    steps = 0
    if outbox is not None:
        settings = {"probe_batch": batch(), "run": "accelerated", "watches": WATCHES, "outbox": outbox}
        monitor = probe_agent.attach(model, optimizer, loss_fn=F.cross_entropy, **settings)
    for _ in range(2):
        for x, y in loader:
            with accelerator.accumulate(model):
                accelerator.backward(F.cross_entropy(model(x), y))
                optimizer.step()
                optimizer.zero_grad()
    if outbox is not None:
        steps = monitor.step
        monitor.close()
    return model, left_behind(model, optimizer.optimizer), steps


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_training_is_the_same_to_the_bit_watched_or_not_and_measured_as_the_unprepared_model(precision: str) -> None:
    _, unwatched, _ = trained(precision, None)
    AcceleratorState._reset_state(reset_partial_state=True)
    outbox = ListOutbox()
    model, watched, steps = trained(precision, outbox)
    assert same(unwatched, watched)
    assert steps == 6
    assert list(values(outbox)) == [0, 2, 4, 6]
    assert values(outbox)[0] == measured_plainly(network(), F.cross_entropy, batch())
    plain = network()
    plain.load_state_dict(model.state_dict())
    assert values(outbox)[6] == measured_plainly(plain, F.cross_entropy, batch())


def test_the_copy_of_a_model_prepared_for_autocast_computes_in_full_and_dies_with_its_last_user() -> None:
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    module, (x, _) = network().eval(), batch()
    model = accelerator.prepare(copy.deepcopy(module))
    frozen = copy_of(model)
    assert torch.equal(frozen(x), module(x))
    assert not torch.equal(model(x), module(x))
    alive = weakref.ref(frozen)
    gc.disable()
    try:
        del frozen
        assert alive() is None
    finally:
        gc.enable()


def test_a_step_that_the_scaler_skips_is_not_counted() -> None:
    Accelerator(cpu=True)
    model, (x, y) = network(), batch()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = AcceleratedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), scaler=scaler)
    outbox = ListOutbox()
    settings = {"probe_batch": batch(), "run": "scaled", "watches": WATCHES, "outbox": outbox}
    with probe_agent.attach(model, optimizer, loss_fn=F.cross_entropy, **settings) as monitor:
        for i in range(5):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(x), y) * (float("inf") if i == 2 else 1.0)).backward()
            optimizer.step()
            assert optimizer.step_was_skipped == (i == 2)
    assert monitor.step == 4
    assert list(values(outbox)) == [0, 2, 4]


def test_a_wrapper_that_takes_no_steps_of_its_own_is_refused() -> None:
    class Wrapper(torch.optim.Optimizer):
        def __init__(self) -> None:
            """Like one of another library, around something that is no optimizer of torch."""

    with pytest.raises(AttachError, match="Got an optimizer of type Wrapper that wraps another"):
        probe_agent.attach(network(), Wrapper(), loss_fn=F.cross_entropy, probe_batch=batch(), run="refused")


def test_the_example_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    run_example("digits_accelerate.py", monkeypatch, "--epochs", "1")
    assert "has not acknowledged" in caplog.text
    assert "not watched" not in caplog.text
