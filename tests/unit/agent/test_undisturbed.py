"""What probes do is seen by nobody: not by the instruments around training, not by threads that share its random streams."""

import random
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import probe_agent
from probe_agent import Budget, Every, ListOutbox, Monitor, Watch
from probe_agent.frozen_copy import copy_of
from probe_agent.probes.fisher_trace import FisherTrace
from probe_agent.probes.loss import Loss
from probe_agent.probes.sharpness import Sharpness
from probe_agent.probes.weights import Weights
from probe_agent.undisturbed import streams, undisturbed, unseen
from probe_wire import Outcome
from tests.problems import EVERY_PROBE

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 3
CPU = torch.device("cpu")
SOME = (Loss(), FisherTrace(), Sharpness(), Weights())


def job(
    around: AbstractContextManager[object], probes: tuple[probe_agent.Probe, ...] = SOME, steps: int = 2
) -> ListOutbox:
    """Some steps of training; ``around`` them, not around attach, an instrument."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer, outbox = torch.optim.SGD(model.parameters(), lr=0.1), ListOutbox()
    if probes:
        probe_agent.attach(
            model,
            optimizer,
            loss_fn=F.cross_entropy,
            probe_batch=(X, Y),
            run="test",
            watches=[Watch(Every(1), probes)],
            budget=Budget(share=1000),
            outbox=outbox,
        )
    with around:
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()
    return outbox


@contextmanager
def operations(seen: list[Any]) -> Iterator[None]:
    class Counting(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    with Counting():
        yield


@contextmanager
def flops(seen: list[Any]) -> Iterator[None]:
    with FlopCounterMode(display=False) as counter:
        yield
    seen.append(counter.get_total_flops())


@contextmanager
def modules(seen: list[Any]) -> Iterator[None]:
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    yield
    handle.remove()


@contextmanager
def saved_tensors(seen: list[Any]) -> Iterator[None]:
    def pack(tensor: Tensor) -> Tensor:
        seen.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield


@pytest.mark.parametrize("instrument", [operations, flops, modules, saved_tensors])
def test_an_instrument_around_training_counts_training_alone(
    instrument: Callable[[list[Any]], AbstractContextManager[None]],
) -> None:
    plain: list[Any] = []
    watched: list[Any] = []
    job(instrument(plain), probes=())
    outbox = job(instrument(watched))
    assert plain == watched != []
    assert {cost.outcome for draft in outbox.drafts for cost in draft.costs} == {Outcome.OK}


def test_anomaly_detection_of_the_training_is_not_set_off_by_a_probe() -> None:
    with warnings.catch_warnings(record=True) as told, torch.autograd.set_detect_anomaly(mode=True):
        warnings.simplefilter("always")
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        optimizer, outbox = torch.optim.SGD(model.parameters(), lr=0.1), ListOutbox()
        probe_agent.attach(
            model,
            optimizer,
            loss_fn=F.cross_entropy,
            probe_batch=(X, Y),
            run="test",
            watches=[Watch(Every(1), (FisherTrace(), Sharpness()))],
            budget=Budget(share=1000),
            outbox=outbox,
        )
        with torch.no_grad():
            model[2].weight.fill_(torch.nan)
        optimizer.step()
        assert torch.is_anomaly_enabled()
    assert [str(warning.message) for warning in told if "Error detected" in str(warning.message)] == []
    assert {cost.outcome for cost in outbox.drafts[-1].costs} == {Outcome.NON_FINITE}


def test_probes_may_wait_for_a_device_where_training_is_forbidden_to(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[object] = ["error"]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)  # without a GPU torch has no such mode
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with unseen():
        assert modes[-1] == 0
    assert modes[-1] == "error"


def test_a_loader_in_a_thread_draws_nothing_twice_while_probes_run() -> None:
    torch.manual_seed(1)  # the job begins with 0, and what is drawn before that is not to be the same
    drawn: list[tuple[float, float, float]] = []
    over = threading.Event()

    def load() -> None:
        while not over.wait(0.001):
            drawn.append((random.random(), float(np.random.rand()), float(torch.rand(()))))  # noqa: NPY002

    loader = threading.Thread(target=load)
    loader.start()
    try:
        outbox = job(undisturbed(CPU, None))
    finally:
        over.set()
        loader.join()
    assert len(outbox.drafts) == 3
    assert [len({draw[stream] for draw in drawn}) for stream in range(3)] == [len(drawn)] * 3


def test_no_probe_draws_from_the_global_streams() -> None:
    waiting = threading.Event()
    bystander = threading.Thread(target=waiting.wait)  # with it alive nothing is put back
    bystander.start()
    try:
        job(undisturbed(CPU, None), probes=(), steps=1)
        before = streams(CPU)
        torch.manual_seed(0)
        outbox = job(undisturbed(CPU, None), probes=EVERY_PROBE, steps=1)
    finally:
        waiting.set()
        bystander.join()
    assert streams(CPU) == before
    assert len(outbox.drafts) == 2


def test_what_the_instruments_saw_they_see_again_afterwards() -> None:
    seen: list[Any] = []
    with modules(seen), operations(seen):
        copied = copy_of(nn.Linear(2, 2))
        seen.clear()
        with undisturbed(CPU, 0):
            copied(torch.zeros(1, 2))
            assert seen == []
        nn.Linear(2, 2)(torch.zeros(1, 2))
    assert "Linear" in seen
    assert "linear" in seen


def test_what_is_made_without_a_device_is_made_where_the_probe_set_is() -> None:
    with torch.device("meta"):
        with unseen():
            assert torch.ones(1).device.type == "meta", "a copy that makes tensors makes them where the model would"
        with undisturbed(CPU, 0):
            assert torch.ones(1).device == CPU
        assert torch.ones(1).device.type == "meta"
    assert torch.ones(1).device == CPU


class Drawing(nn.Linear):
    """Draws in evaluation mode from when it is told, and makes nothing of it."""

    now = True

    def forward(self, inputs: Tensor) -> Tensor:
        if self.now and not self.training:
            random.random(), np.random.random(), torch.rand(())  # noqa: NPY002
        return super().forward(inputs)


@contextmanager
def bystander() -> Iterator[None]:
    waiting = threading.Event()
    other = threading.Thread(target=waiting.wait)
    other.start()
    try:
        yield
    finally:
        waiting.set()
        other.join()


def watched(model: nn.Module) -> tuple[Monitor, torch.optim.Optimizer]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = probe_agent.attach(
        model,
        optimizer,
        loss_fn=F.cross_entropy,
        probe_batch=(X, Y),
        run="test",
        watches=[Watch(Every(1), (Loss(),))],
        budget=Budget(share=1000),
        outbox=ListOutbox(),
    )
    return monitor, optimizer


def test_a_model_that_draws_without_effect_moves_no_stream_beside_another_thread() -> None:
    with bystander():
        model = Drawing(4, 3)
        before = streams(CPU)
        monitor, optimizer = watched(model)
        assert monitor.subject.draws
        assert streams(CPU) == before
        optimizer.step()
        assert streams(CPU) == before


def test_a_model_that_begins_to_draw_moves_the_streams_once_and_then_no_more() -> None:
    with bystander():
        model = Drawing(4, 3)
        model.now = False
        monitor, optimizer = watched(model)
        assert not monitor.subject.draws
        model.now = True
        optimizer.step()
        before = streams(CPU)
        optimizer.step()
        assert streams(CPU) == before


@pytest.mark.parametrize(
    "name",
    [
        "torch._C._len_torch_dispatch_stack",
        "torch._C._len_torch_function_stack",
        "torch._C._autograd._top_saved_tensors_default_hooks",
        "torch.overrides._pop_mode_temporarily",
        "torch.utils._python_dispatch._pop_mode_temporarily",
        "torch.utils._device.DeviceContext",
    ],
)
def test_a_version_of_torch_without_a_private_name_leaves_that_instrument_as_it_is(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    with operations(seen), modules(seen):
        with monkeypatch.context() as renamed:
            renamed.delattr(name)
            with unseen():
                torch.zeros(1)
        seen.clear()
        nn.Linear(2, 2)(torch.zeros(1, 2))
    assert {"Linear", "linear"} <= set(seen)


def test_a_name_that_torch_has_no_more_does_not_raise_into_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model, outbox = nn.Linear(4, 3), ListOutbox()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = probe_agent.attach(
        model,
        optimizer,
        loss_fn=F.cross_entropy,
        probe_batch=(X, Y),
        run="test",
        watches=[Watch(Every(1), (Weights(),))],
        budget=Budget(share=1000),
        outbox=outbox,
    )
    with monkeypatch.context() as renamed:
        renamed.delattr("torch.is_anomaly_enabled")
        optimizer.step()
    optimizer.step()
    assert (monitor.step, monitor.snapshots_skipped) == (2, 1)
    assert {cost.outcome for cost in outbox.drafts[-1].costs} == {Outcome.OK}
