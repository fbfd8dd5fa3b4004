"""Undisturbed: what probes do inside leaves no trace in the process, and nobody's instruments see it."""

import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import numpy as np
import torch
from torch.nn.modules import module
from torch.overrides import _pop_mode_temporarily as _without_function_mode
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _pop_mode_temporarily as _without_dispatch_mode

Evaluated = tuple[Any, torch.Tensor]

OURS: Final = "phasewatch"
"""How the names of the agent's own threads begin."""

_HOOKS_OF_ALL_MODULES: Final = (
    "_global_forward_pre_hooks",
    "_global_forward_hooks",
    "_global_backward_pre_hooks",
    "_global_backward_hooks",
)


@contextmanager
def undisturbed(device: torch.device, seed: int | None) -> Iterator[None]:
    """Run probes inside: on leaving, every random stream and switch of the process is as it was.

    Inside, gradients are enabled, autocast is off and nothing is compiled. The global streams are seeded, so that a model that
    draws in evaluation mode draws the same at every snapshot; where it does not draw (``seed`` is None) they are not, and where
    there are other threads they are not touched at all: a loader in a thread draws on from where it was.
    """
    with ExitStack() as stack:
        if seed is not None or not _others():
            stack.enter_context(_streams_restored(device))
        stack.enter_context(unseen())
        if torch._C._len_torch_function_stack():  # noqa: SLF001 - a default device, which may not be that of the probe set
            stack.enter_context(device)
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type != "cpu":
            stack.enter_context(torch.autocast("cpu", enabled=False))
        if "torch._dynamo" in sys.modules:
            # What a copy compiles counts towards the limit of the training's own recompilations, and has no second derivative.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if seed is not None:
            _seed(device, seed)
        yield


def streams(device: torch.device) -> tuple[Any, ...]:
    """Where the global random streams are; equal where nobody has drawn."""
    numpy_stream = np.random.get_state(legacy=False)  # noqa: NPY002 - the legacy stream is the one training code shares
    places = [random.getstate(), repr(numpy_stream), torch.default_generator.get_state().numpy().tobytes()]
    if device.type == "cuda":
        places.append(torch.cuda.get_rng_state(device).numpy().tobytes())
    return tuple(places)


def drawing(device: torch.device, evaluate: Callable[[], Evaluated]) -> tuple[Evaluated, bool]:
    """Outputs and loss, and whether they are drawn from the global streams; where another thread may have, a second time tells."""
    before = streams(device)
    found = evaluate()
    if streams(device) == before:
        return found, False
    return found, not (_others() and torch.equal(found[1], evaluate()[1]))


def _others() -> bool:
    """Whether other threads of the job are alive; what they draw from the global streams must not be drawn again."""
    here = threading.current_thread()
    return any(other is not here and not other.name.startswith(OURS) for other in threading.enumerate())


@contextmanager
def _streams_restored(device: torch.device) -> Iterator[None]:
    with ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        yield


def _seed(device: torch.device, seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


@contextmanager
def unseen() -> Iterator[None]:
    """Without what is switched on around training: anomaly detection, counters of operations, hooks of all modules."""
    with ExitStack() as stack:
        stack.enter_context(torch.autograd.set_detect_anomaly(mode=False))
        while torch._C._len_torch_dispatch_stack():  # noqa: SLF001 - torch has no public way to step out of a mode
            stack.enter_context(_without_dispatch_mode())
        modes = []
        while torch._C._len_torch_function_stack():  # noqa: SLF001
            modes.append(stack.enter_context(_without_function_mode()))
        for mode in modes:
            if isinstance(mode, DeviceContext):  # the default device: models that make tensors rely on it
                stack.enter_context(mode.device)
                break
        if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:  # noqa: SLF001 - the same
            stack.enter_context(torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is))
        for name in _HOOKS_OF_ALL_MODULES:
            if table := getattr(module, name):
                stack.callback(_put_back, table, dict(table))
                table.clear()
        yield


def _as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _put_back(table: dict[int, Any], hooks: dict[int, Any]) -> None:
    since = dict(table)
    table.clear()
    table.update(hooks | since)
