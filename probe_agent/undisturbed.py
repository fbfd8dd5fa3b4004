"""Undisturbed: what probes do inside leaves no trace in the process, and nobody's instruments see it.

Of what is set here, other threads see three things: the random streams, where the model draws in evaluation mode, anomaly
detection, where it is on: it is off meanwhile, and the short cut of attention, where they evaluate without gradients: they take the long way. All else is this thread's own: gradients, inference, autocast, modes and saved tensors are so in torch, and whether functions are compiled
is made so here. Hooks for all modules are left where they are: copies are called past them (`frozen_copy`).
"""

import os
import pickle
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from operator import attrgetter
from typing import Any, Final, TypeVar, final

import numpy as np
import torch

from probe_agent import accelerator

_Found = TypeVar("_Found")

OURS: Final = "phasewatch"
"""How the names of the agent's own threads begin."""

TRIES: Final = 8
"""So often a model is evaluated until another thread draws nothing meanwhile."""

TURN: Final = threading.Lock()
"""Held while any monitor measures: the random streams are those of the whole process."""

os.register_at_fork(after_in_child=TURN._at_fork_reinit)  # type: ignore[attr-defined]  # noqa: SLF001 - whoever held it is not in the child

_place = threading.local()
"""Of this thread: ``again`` puts the global random streams to where they were seeded."""

_PROBING: Final = "phasewatch probes run"
"""What torch keeps for this thread while they do, and hands to the threads in which autograd runs the backward pass of this one."""


@contextmanager
def undisturbed(device: torch.device, seed: int | None) -> Iterator[None]:
    """Run probes inside: on leaving, every random stream and switch of the process is as it was.

    Inside, gradients are enabled, autocast is off and nothing is compiled. The global streams are seeded, so that a model that
    draws in evaluation mode draws the same at every snapshot; where it does not draw (``seed`` is None) they are not, and where
    there are other threads they are not touched at all: a loader in a thread draws on from where it was.
    """
    with ExitStack() as stack:
        if seed is not None or not others():
            stack.enter_context(_streams_restored(device))
        stack.enter_context(unseen(device))
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_in_full_precision({device.type, "cpu"}))
        stack.enter_context(_one_way_through_attention())
        stack.enter_context(_eager())
        if seed is not None:
            stack.enter_context(_repeatable(partial(_seed, device, seed)))
        yield


def draw_again() -> bool:
    """Put the global streams to where `undisturbed` has seeded them; False where it has not, and nothing draws.

    What is evaluated after each such call draws the same: of models that draw, too, two evaluations differ by the weights alone.
    """
    again: Callable[[], None] | None = getattr(_place, "again", None)
    if again is not None:
        again()
    return again is not None


@contextmanager
def _repeatable(again: Callable[[], None]) -> Iterator[None]:
    before, _place.again = getattr(_place, "again", None), again
    again()
    try:
        yield
    finally:
        _place.again = before


def streams(device: torch.device) -> tuple[Any, ...]:
    """Where the global random streams are; equal where nobody has drawn."""
    numpy_stream = np.random.get_state(legacy=False)  # noqa: NPY002 - the legacy stream is the one training code shares
    places = [random.getstate(), pickle.dumps(numpy_stream), torch.default_generator.get_state().numpy().tobytes()]
    if (state := accelerator.random_state(device)) is not None:
        places.append(state.numpy().tobytes())
    return tuple(places)


def drawing(device: torch.device, evaluate: Callable[[], _Found]) -> tuple[_Found, bool]:
    """What was found, and whether that draws from the global streams: it does where they move each time.

    Where other threads may have moved them, several times tell. That the same is found again tells nothing: a model may draw
    and make nothing of it.
    """
    for _ in range(TRIES if others() else 1):
        before = streams(device)
        found = evaluate()
        if streams(device) == before:
            return found, False
    return found, True


def others() -> bool:
    """Whether other threads of the job are alive; what they draw from the global streams must not be drawn again."""
    here = threading.current_thread()
    return any(other is not here and not other.name.startswith(OURS) for other in threading.enumerate())


@contextmanager
def _streams_restored(device: torch.device) -> Iterator[None]:
    rewind = rewinder(device)
    try:
        yield
    finally:
        rewind()


def rewinder(device: torch.device) -> Callable[[], None]:
    """Puts the global random streams, when it is called, to where they are now."""
    python, numpy_stream, cpu = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    theirs = accelerator.random_state(device)

    def rewind() -> None:
        random.setstate(python)
        np.random.set_state(numpy_stream)  # noqa: NPY002
        torch.default_generator.set_state(cpu)
        accelerator.set_random_state(theirs, device)

    return rewind


def _seed(device: torch.device, seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    accelerator.seed(device, seed)


@contextmanager
def unseen(device: torch.device | None = None) -> Iterator[None]:
    """Without what is switched on around training: anomaly detection, counters of operations, hooks of saved tensors.

    Where there is a default device it is ``device`` inside, if one is given. Most of it torch has no public way to step out of. In
    a version that has not the private one either it stays on.
    """
    with ExitStack() as stack:
        stack.enter_context(accelerator.waits_allowed())
        # For all threads; but what it would print of a probe would be taken for the training's.
        if torch.is_anomaly_enabled():
            stack.enter_context(torch.autograd.set_detect_anomaly(mode=False))
        _step_out(stack, "_len_torch_dispatch_stack", "torch.utils._python_dispatch")
        default_device = _private("torch.utils._device", "DeviceContext")
        if default_device is not None:  # else a default device would be lost with the modes
            for mode in _step_out(stack, "_len_torch_function_stack", "torch.overrides"):
                if isinstance(mode, default_device):  # models that make tensors rely on it
                    stack.enter_context(device or mode.device)
                    break
        saved = _private("torch._C", "_autograd._top_saved_tensors_default_hooks")
        if saved is not None and saved(True) is not None:
            stack.enter_context(torch.autograd.graph.saved_tensors_hooks(torch.Tensor.detach, _as_it_is))
        yield


@contextmanager
def _in_full_precision(kinds: set[str]) -> Iterator[None]:
    """Autocast off in this thread. Not by `torch.autocast`: when that ends, the casts that other threads have kept are gone."""
    on = [kind for kind in kinds if torch.is_autocast_enabled(kind)]
    for kind in on:
        torch.set_autocast_enabled(kind, False)
    try:
        yield
    finally:
        for kind in on:
            torch.set_autocast_enabled(kind, True)


@contextmanager
def _one_way_through_attention() -> Iterator[None]:
    """Attention is computed the same with and without gradients.

    Without them torch takes a short cut in evaluation mode that rounds otherwise and leaves zeros where a mask has padding, so that a
    loss and its gradient would be of two functions, and a sample's outputs would depend on how long those beside it are.
    """
    ways = _private("torch.backends", "mha")
    if ways is None or not ways.get_fastpath_enabled():
        yield
        return
    ways.set_fastpath_enabled(False)
    try:
        yield
    finally:
        ways.set_fastpath_enabled(True)


@final
class _Stance:
    """What dynamo's stance is to all others, and "force_eager" where probes run. Asked at every call of what is compiled."""

    def __init__(self, theirs: Any, probing: Callable[[str], bool]) -> None:
        vars(self).update(vars(theirs))
        self._theirs, self._probing = theirs, probing

    @property
    def stance(self) -> str:
        """Not as `__getattr__` alone, which is asked only once all else has failed: ten times the time."""
        return "force_eager" if self._probing(_PROBING) else self._theirs.stance

    def __getattr__(self, name: str) -> Any:
        return getattr(self._theirs, name)


@contextmanager
def _eager() -> Iterator[None]:
    """Nothing is compiled where probes run.

    What a copy compiles counts towards the limit of the training's own recompilations, and has no second derivative. A stance is
    that of the whole process, so one is put around it that other threads see through. It stays: taken away, it could take
    along a stance that another thread has set meanwhile.
    """
    if "torch._dynamo" not in sys.modules:
        yield
        return
    frames = sys.modules.get("torch._dynamo.eval_frame")
    keep, forget = _private("torch._C", "_stash_obj_in_tls"), _private("torch._C", "_remove_obj_from_tls")
    probing, theirs = _private("torch._C", "_is_key_in_tls"), getattr(frames, "_stance", None)
    if theirs is None or keep is None or forget is None or probing is None:
        with torch.compiler.set_stance("force_eager"):  # this version's only way
            yield
        return
    if not isinstance(theirs, _Stance):
        vars(frames)["_stance"] = _Stance(theirs, probing)
    keep(_PROBING, True)
    try:
        yield
    finally:
        forget(_PROBING)


def _private(place: str, name: str) -> Any:
    """What torch keeps to itself; None where this version has nothing of that name."""
    try:
        return attrgetter(name)(import_module(place))
    except (ImportError, AttributeError):
        return None


def _depth(name: str) -> int:
    """How many modes are on that stack."""
    depth = _private("torch._C", name)
    return 0 if depth is None else int(depth())


def _step_out(stack: ExitStack, depth: str, place: str) -> list[Any]:
    """Step out of all modes of one kind, the last entered first."""
    step_out, modes = _private(place, "_pop_mode_temporarily"), []
    while step_out is not None and _depth(depth):
        modes.append(stack.enter_context(step_out()))
    return modes


def _as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor
