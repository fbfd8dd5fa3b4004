"""Steps: what an optimizer tells of its steps to one who listens, and how to stop listening at any moment."""

import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, final

import torch
from torch.utils.hooks import RemovableHandle

Listener = Callable[..., None]

_LISTENER = "phasewatch"

_AFTER, _BEFORE = "_optimizer_step_post_hooks", "_optimizer_step_pre_hooks"
"""Where an optimizer keeps its listeners; no public name leads there, and a version without these names goes without what we do there."""

_STEPPING = torch.optim.Optimizer.register_step_post_hook.__code__.co_filename
"""The file whose code is running while listeners are called."""


def _uncompiled(listener: Listener) -> Listener:
    """The listener as it is, also where the optimizer's step is compiled: no part of it, and nothing it calls is compiled."""
    set_compiler: Callable[[Any], Any]
    try:
        set_compiler = torch._C._dynamo.eval_frame.set_eval_frame  # noqa: SLF001 - torch.compiler.disable would import the compiler
    except AttributeError:  # not in every version of torch
        set_compiler = _nobody

    def listen(*args: object) -> None:
        compiler = set_compiler(None)
        try:
            listener(*args)
        finally:
            set_compiler(compiler)

    listen.__name__ = _LISTENER
    listen._torchdynamo_disable, listen._torchdynamo_disable_msg = True, None  # type: ignore[attr-defined]  # noqa: SLF001
    return listen


def listened_to(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a monitor listens to its steps."""
    table: dict[int, Any] = getattr(optimizer, _AFTER, {})
    return any(listener.__name__ == _LISTENER for listener in table.values() if hasattr(listener, "__name__"))


def has_places(optimizer: torch.optim.Optimizer) -> bool:
    """Whether somebody can listen: not to one that was made without ``Optimizer.__init__``."""
    try:
        optimizer.register_step_post_hook(_nobody).remove()
    except AttributeError:
        return False
    return True


def _nobody(*_: object) -> None:
    """Stands where somebody listened."""


@final
class Steps:
    """Calls ``before`` and ``after`` around every step of the optimizer, until `stop`.

    A step walks through the tables its listeners are in, and raises into the training loop when one changes
    under it. So `stop` puts a function that does nothing in their places, which is safe within a step, in a signal
    handler and in another thread. The places themselves go when no step can be under way, at the latest when
    the next one listens to the same optimizer.

    In a forked child nobody listens any more: a child's steps are not the run's.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, before: Listener, after: Listener) -> None:
        self._thread = threading.get_ident()
        for table in (_BEFORE, _AFTER):
            _clear(getattr(optimizer, table, {}))
        self._places = (
            optimizer.register_step_pre_hook(_uncompiled(before)),
            optimizer.register_step_post_hook(_uncompiled(after)),
        )
        _all.add(self)

    def stop(self) -> None:
        """Nobody is called from here on; harmless when repeated."""
        self.fall_silent()
        if threading.get_ident() == self._thread and not _within_a_step():
            for place in self._places:
                place.remove()

    def fall_silent(self) -> None:
        """Leave the places, and nobody in them."""
        for place in self._places:
            table = _table_of(place)
            if table is not None and place.id in table:
                table[place.id] = _nobody


def _table_of(place: RemovableHandle) -> dict[int, Listener] | None:
    """The table a listener is in; None where the optimizer is gone."""
    table: dict[int, Listener] | None = place.hooks_dict_ref()
    return table


def _clear(table: dict[int, Any]) -> None:
    """Take away the places where somebody listened once."""
    if not _within_a_step():
        for place in [place for place, listener in table.items() if listener is _nobody]:
            del table[place]


def _within_a_step() -> bool:
    """Whether any thread is between the beginning and the end of an optimizer's step."""
    for frame in sys._current_frames().values():  # noqa: SLF001 - the documented way to see other threads
        here = frame
        while here is not None:
            if here.f_code.co_filename == _STEPPING:
                return True
            here = here.f_back  # type: ignore[assignment]
    return False


_all: "weakref.WeakSet[Steps]" = weakref.WeakSet()


def _fall_silent_in_child() -> None:
    for steps in list(_all):
        steps.fall_silent()


os.register_at_fork(after_in_child=_fall_silent_in_child)
