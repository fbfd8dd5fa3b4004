"""OwnStreams: random generators that a job made for itself, found where its loss and its model can draw from them."""

import pickle
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from types import (
    BuiltinMethodType,
    CellType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor, nn

from probe_agent.undisturbed import TRIES, others

_MOST_LOOKED_AT: Final = 50_000
"""Things that are looked at for a generator; a model of a large library calls much."""

_LONGEST: Final = 4.0
"""Seconds after which no further evaluation tells who draws: attach is waited for."""

_MOST_PARTS: Final = 100
"""Of a list or dict."""

_DEAD_ENDS: Final = (bool, int, float, complex, str, bytes, type(None), Tensor, np.ndarray, ModuleType)
"""From where no code draws."""

_OF_MODULES: Final = vars(nn.Module()).keys()
"""What every module has."""

_OTHERS: Final = sys.stdlib_module_names | {"torch", "numpy"}
"""Packages whose code draws from the global streams, or from what it is given."""


@final
class OwnStreams:
    """Random generators that a job made for itself and that its loss or its model draws from without holding them.

    One that a module holds is copied with it. One in a closure, in a global or in an attribute of the loss function's object is not: drawing
    from it moves the training's own. So while probes run it stands where it stood at `attach`, the same at every snapshot, and is put
    back afterwards. One that is at hand and not drawn from is left alone: a loader in another thread may draw from it meanwhile.
    """

    def __init__(self, *drawing: object) -> None:
        self._streams: list[tuple[Any, Any]] = []
        for stream in _reached(drawing):
            with suppress(Exception):  # random.SystemRandom has no state
                self._streams.append((stream, _state(stream)))

    def keep_drawn(self, evaluate: Callable[[], object]) -> None:
        """Leave alone from here on what an evaluation does not draw from, and put back what it does.

        Where there are other threads, several times tell, and what moves as well while nobody evaluates is theirs.
        """
        until = time.perf_counter() + _LONGEST
        for i in range(TRIES if others() else 1):
            if not self._streams or (i and time.perf_counter() > until):
                break
            before, began = self._states(), time.perf_counter()
            with suppress(Exception):  # what cannot be evaluated is told where it is needed
                evaluate()
            after = self._states()
            if others():
                time.sleep(min(time.perf_counter() - began, _LONGEST / TRIES))
            told = zip(self._streams, before, after, self._states(), strict=True)
            self._streams = [stream for stream, was, then, now in told if was != then == now]
        for stream, first in self._streams:
            _set(stream, first)

    def _states(self) -> list[bytes]:
        return [_bytes(_state(stream)) for stream, _ in self._streams]

    @contextmanager
    def put_back(self) -> Iterator[None]:
        """What is drawn inside leaves no trace."""
        before = [(stream, _state(stream)) for stream, _ in self._streams]
        try:
            for stream, first in self._streams:
                _set(stream, first)
            yield
        finally:
            for stream, state in before:
                _set(stream, state)


def _state(stream: Any) -> Any:
    if isinstance(stream, np.random.Generator):
        return stream.bit_generator.state
    if isinstance(stream, np.random.RandomState):
        return stream.get_state(legacy=False)
    return stream.getstate() if isinstance(stream, random.Random) else stream.get_state()


def _bytes(state: Any) -> bytes:
    return state.numpy().tobytes() if isinstance(state, Tensor) else pickle.dumps(state)


def _set(stream: Any, state: Any) -> None:
    if isinstance(stream, np.random.Generator):
        stream.bit_generator.state = state
    elif isinstance(stream, random.Random):
        stream.setstate(state)
    else:
        stream.set_state(state)


def _reached(roots: Iterable[object]) -> list[object]:
    """The generators that code can draw from by what it is a method of, its closure, its defaults and what it calls by name."""
    of_all = {id(random.random.__self__), id(np.random.mtrand._rand), id(torch.default_generator)}  # type: ignore[attr-defined]  # noqa: SLF001
    found: list[object] = []
    seen, waiting = set(of_all), deque(roots)
    while waiting and len(seen) < _MOST_LOOKED_AT:
        thing = waiting.popleft()
        if id(thing) in seen or issubclass(type(thing), _DEAD_ENDS):
            continue
        seen.add(id(thing))
        if issubclass(type(thing), torch.Generator | np.random.Generator | np.random.RandomState | random.Random):
            found.append(thing)
            continue
        with suppress(Exception):  # a stranger's object may refuse to be looked into
            waiting.extend(_at_hand(thing))
    return found


def _at_hand(thing: Any) -> list[object]:
    """What is one step away; nothing is asked of an object that might compute it."""
    kind = type(thing)  # not isinstance: a stranger's object may compute its __class__
    if kind is FunctionType:
        cells = [_content(cell) for cell in thing.__closure__ or ()]
        names = _names(thing.__code__)
        called = [thing.__globals__[name] for name in names if name in thing.__globals__]
        further = [vars(module)[name] for module in called if _is_own(module) for name in names if name in vars(module)]
        return [*cells, *called, *further, *(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
    if kind is MethodType:
        return [thing.__func__, thing.__self__]
    if kind is BuiltinMethodType:  # random() of a random.Random
        return [thing.__self__]
    if issubclass(kind, partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if issubclass(kind, list | tuple | set | frozenset):
        return list(islice(thing, _MOST_PARTS))
    if issubclass(kind, dict):
        return list(islice(thing.values(), _MOST_PARTS))
    if issubclass(kind, type):
        return [vars(of).get(name) for of in thing.__mro__ if _is_others(of.__module__) is False for name in vars(of)]
    held = _attributes(thing, kind)
    if issubclass(kind, nn.Module):  # tables of hooks and tensors lead nowhere
        own = [each for name, each in held.items() if name not in _OF_MODULES]
        return [kind, *own, *held["_modules"].values()]
    return [kind, *held.values()]


def _attributes(thing: object, kind: type) -> dict[str, Any]:
    """What the object keeps itself; nothing is computed, as a proxy would."""
    held: dict[str, Any] = {}
    own_dict = next((vars(of)["__dict__"] for of in kind.__mro__ if "__dict__" in vars(of)), None)
    if type(own_dict) is GetSetDescriptorType:
        held |= own_dict.__get__(thing)
    for of in kind.__mro__:
        for name in vars(of).get("__slots__", ()) if not _is_others(of.__module__) else ():
            slot = vars(of).get(name)
            if type(slot) is MemberDescriptorType:
                with suppress(AttributeError):  # nothing yet
                    held[name] = slot.__get__(thing)
    return held


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # nothing yet
        return None


def _names(code: CodeType) -> set[str]:
    """What the code calls by name, and the functions within it."""
    return set(code.co_names).union(*(_names(part) for part in code.co_consts if isinstance(part, CodeType)))


def _is_own(module: object) -> bool:
    return isinstance(module, ModuleType) and not _is_others(module.__name__)


def _is_others(name: str) -> bool:
    return name.partition(".")[0] in _OTHERS
