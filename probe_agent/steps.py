"""Steps: what an optimizer tells of its steps to one who listens, and how to stop listening at any moment."""

import os
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, final

import torch
from torch.utils.hooks import RemovableHandle

Listener = Callable[[], object]

_LISTENER = "phasewatch"

_AFTER, _BEFORE = "_optimizer_step_post_hooks", "_optimizer_step_pre_hooks"
"""Where an optimizer keeps its listeners; no public name leads there, and a version without these names goes without what we do there."""

_STEPPING = torch.optim.Optimizer.register_step_post_hook.__code__.co_filename
"""The file whose code is running while listeners are called."""


@final
class Count:
    """The steps so far, and which of them are listened to: all that is looked at where nothing is due.

    Attributes:
        step: how many were taken.
        due: after this one and all later ones listeners are called.
        near: before whatever follows this one they are.
        within: a step has begun and not ended.
    """

    __slots__ = ("due", "near", "step", "within")

    def __init__(self, step: int = 0) -> None:
        self.step = self.due = self.near = step
        self.within = False


def _hooks(count: Count, before: Listener, after: Listener) -> tuple[Callable[..., None], Callable[..., None]]:
    """What the optimizer calls. It does not ask the listeners whether they want to be called: that would be dearer than all else here."""

    def begin(*_: object) -> None:
        if count.step >= count.near and not count.within:
            before()
        count.within = True

    def end(*_: object) -> None:
        if count.within:  # an optimizer whose step calls super().step() comes here twice for one step: counted once
            count.within = False
            count.step += 1
            if count.step >= count.due:
                after()

    return _uncompiled(begin), _uncompiled(end)


def _uncompiled(hook: Callable[..., None]) -> Callable[..., None]:
    """The same function, also where the optimizer's step is compiled: no part of it, and nothing it calls is compiled."""
    with suppress(AttributeError):  # not in every version of torch; torch.compiler.disable would import the compiler
        frames = torch._C._dynamo.eval_frame  # noqa: SLF001
        skip = frames._FrameAction.SKIP  # noqa: SLF001
        frames.set_code_exec_strategy(hook.__code__, frames._FrameExecStrategy(skip, skip))  # noqa: SLF001
    hook.__name__ = _LISTENER
    hook._torchdynamo_disable, hook._torchdynamo_disable_msg = True, None  # type: ignore[attr-defined]  # noqa: SLF001
    return hook


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
    """Calls ``before`` and ``after`` around the steps of the optimizer that ``count`` says (default: every one), until `stop`.

    A step walks through the tables its listeners are in, and raises into the training loop when one changes
    under it. So `stop` puts a function that does nothing in their places, which is safe within a step, in a signal
    handler and in another thread. The places themselves go when no step can be under way, at the latest when
    the next one listens to the same optimizer.

    In a forked child nobody listens any more: a child's steps are not the run's.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, before: Listener, after: Listener, count: Count | None = None
    ) -> None:
        self._thread = threading.get_ident()
        for table in (_BEFORE, _AFTER):
            _clear(getattr(optimizer, table, {}))
        begin, end = _hooks(count or Count(), before, after)
        self._places = (optimizer.register_step_pre_hook(begin), optimizer.register_step_post_hook(end))
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


def _table_of(place: RemovableHandle) -> dict[int, Any] | None:
    """The table a listener is in; None where the optimizer is gone."""
    table: dict[int, Any] | None = place.hooks_dict_ref()
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
