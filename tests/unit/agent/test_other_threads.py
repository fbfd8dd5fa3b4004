"""What other threads of the job do while probes run, they do as ever: nothing that is set for probes is set for them."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, final

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils import _device

import probe_agent
from probe_agent import Budget, Every, ListOutbox, Measurement, Memory, Probe, Watch
from probe_agent.estimators.graph_memory import bytes_of_a_sample
from probe_agent.probe_set import ProbeSet
from probe_agent.probes.loss import Loss
from probe_agent.snapshot import Snapshot
from probe_agent.undisturbed import undisturbed
from probe_wire import Outcome, Quantity
from tests.problems import EVERY_PROBE

CPU = torch.device("cpu")


@contextmanager
def over_and_over(turn: Callable[[], None]) -> Iterator[None]:
    """Another thread takes turns all the while; what it raises is raised here."""
    over, begun = threading.Event(), threading.Event()

    def run() -> None:
        while not over.is_set():
            turn()
            begun.set()

    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(run)
        try:
            assert begun.wait(30)
            yield
        finally:
            over.set()
            running.result(30)


def elsewhere(do: Callable[[], Any]) -> Any:
    """What a thread of its own finds."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(do).result(30)


def measured() -> ListOutbox:
    """Every probe, twice."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer, outbox = torch.optim.SGD(model.parameters(), lr=0.1), ListOutbox()
    x, y = torch.randn(16, 4), torch.arange(16) % 3
    probe_agent.attach(
        model,
        optimizer,
        loss_fn=F.cross_entropy,
        probe_batch=(x, y),
        run="test",
        watches=[Watch(Every(1), EVERY_PROBE)],
        budget=Budget(share=1000),
        outbox=outbox,
    )
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    return outbox


def test_hooks_of_all_modules_hear_another_threads_model_while_probes_run() -> None:
    theirs, heard, calls = nn.Linear(2, 2), [0], [0]

    def hear(module: nn.Module, *_: object) -> None:
        heard[0] += module is theirs

    def call() -> None:
        theirs(torch.zeros(1, 2))
        calls[0] += 1

    handle = register_module_forward_hook(hear)
    try:
        with over_and_over(call):
            outbox = measured()
    finally:
        handle.remove()
    assert heard == calls
    assert calls[0] > 1
    assert Outcome.FAILED not in {cost.outcome for draft in outbox.drafts for cost in draft.costs}


def test_a_thread_adds_and_removes_hooks_of_all_modules_while_probes_run() -> None:
    theirs, heard = nn.Linear(2, 2), [0]

    def hear(module: nn.Module, *_: object) -> None:
        heard[0] += module is theirs

    def turn() -> None:
        handle = register_module_forward_hook(hear)
        theirs(torch.zeros(1, 2))
        assert heard == [1], "a hook that was added is there"
        handle.remove()
        theirs(torch.zeros(1, 2))
        assert heard == [1], "a hook that was removed is gone"
        heard[0] = 0

    with over_and_over(turn):
        measured()
    assert not nn.modules.module._global_forward_hooks


@pytest.fixture
def compiled() -> Iterator[tuple[Callable[[Tensor], Tensor], list[int]]]:
    """A compiled function, and the threads in which it ran compiled."""
    ran: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
        def run(*args: Tensor) -> Any:
            ran.append(threading.get_ident())
            return graph.forward(*args)

        return run

    yield torch.compile(lambda x: x.sin() + 1, backend=backend), ran
    torch._dynamo.reset()


def test_compiled_functions_of_other_threads_run_compiled_while_probes_run(
    compiled: tuple[Callable[[Tensor], Tensor], list[int]],
) -> None:
    function, ran = compiled
    x = torch.zeros(3)
    function(x)
    with undisturbed(CPU, None):
        function(x)
        other = elsewhere(lambda: (function(x), threading.get_ident())[1])
    function(x)
    assert ran == [threading.get_ident(), other, threading.get_ident()]


def test_a_stance_that_another_thread_takes_while_probes_run_is_kept(
    compiled: tuple[Callable[[Tensor], Tensor], list[int]],
) -> None:
    function, ran = compiled
    x = torch.zeros(3)
    function(x)
    try:
        with undisturbed(CPU, None):
            elsewhere(lambda: torch.compiler.set_stance("force_eager"))
        function(x)
        assert len(ran) == 1, "their stance holds"
    finally:
        torch.compiler.set_stance("default")
    with undisturbed(CPU, None):
        function(x)
        assert len(ran) == 1
    function(x)
    assert len(ran) == 2


@pytest.mark.parametrize("name", ["_stash_obj_in_tls", "_remove_obj_from_tls"])
def test_a_version_of_torch_that_keeps_nothing_for_a_thread_compiles_nowhere_while_probes_run(
    name: str, compiled: tuple[Callable[[Tensor], Tensor], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    function, ran = compiled
    x = torch.zeros(3)
    with monkeypatch.context() as older:
        older.delattr(torch._C, name)
        with undisturbed(CPU, None):
            function(x)
            assert elsewhere(lambda: function(x)).shape == (3,)
    assert ran == []
    function(x)
    assert len(ran) == 1


def test_casts_that_another_thread_keeps_under_autocast_are_kept_while_probes_run() -> None:
    layer, x = nn.Linear(3, 3), torch.zeros(1, 3)
    casts = []

    def cast_of_weight() -> Any:
        node: Any = layer(x).grad_fn  # addmm, of the transposed, of the cast weight
        return node.next_functions[-1][0].next_functions[0][0]

    def train(begun: threading.Event, go_on: threading.Event) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            casts.append(cast_of_weight())
            begun.set()
            assert go_on.wait(30)
            casts.append(cast_of_weight())

    begun, go_on = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(train, begun, go_on)
        assert begun.wait(30)
        with undisturbed(CPU, None):
            assert not torch.is_autocast_enabled("cpu")
        go_on.set()
        running.result(30)
    assert "ToCopy" in casts[0].name()
    assert casts[0] is casts[1]


def test_the_default_device_that_compiled_functions_look_for_stays_while_probes_run() -> None:
    torch.set_default_device("meta")
    try:
        with undisturbed(CPU, None):
            assert torch.ones(1).device == CPU
            assert torch.device("meta") == _device.CURRENT_DEVICE
        assert torch.ones(1).is_meta
    finally:
        torch.set_default_device(None)


def test_in_a_job_that_compiles_no_graph_of_a_measurement_is_left_behind(
    compiled: tuple[Callable[[Tensor], Tensor], list[int]],
) -> None:
    function, _ = compiled
    function(torch.zeros(3))
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    batch = ProbeSet(torch.randn(8, 4), torch.arange(8) % 3)
    snapshot = Snapshot.take(model, 0, batch, F.cross_entropy, None, 0)
    bytes_of_a_sample(snapshot)
    gone = weakref.ref(snapshot.model[0].weight)
    del snapshot
    gc.collect()
    assert gone() is None


@final
@dataclass(frozen=True)
class Late(Probe):
    """Its time is up, and meanwhile a loader in a thread has drawn."""

    name: ClassVar[str] = "late"
    quantities: ClassVar[tuple[Quantity, ...]] = ()

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        elsewhere(lambda: torch.rand(1))
        snapshot.deadline.at = 0.0
        snapshot.deadline.check()
        yield from ()


def test_a_report_is_not_lost_where_another_thread_drew_and_the_last_probe_was_stopped() -> None:
    model, outbox, over = nn.Linear(4, 3), ListOutbox(), threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        probe_agent.attach(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            loss_fn=F.cross_entropy,
            probe_batch=(torch.randn(16, 4), torch.arange(16) % 3),
            run="test",
            watches=[Watch(Every(1), (Loss(), Late()))],
            outbox=outbox,
        )
    finally:
        over.set()
        thread.join()
    assert [cost.outcome for cost in outbox.drafts[0].costs] == [Outcome.OK, Outcome.OVER_BUDGET]
