"""OwnStreams: random generators that a job made for itself, found where its loss and its model can draw from them."""

import random
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final, final

import numpy as np
import torch
from torch import Tensor, nn

_MOST_LOOKED_AT: Final = 5000
"""Things that are looked at for a generator; a model of a large library calls much."""

_MOST_PARTS: Final = 100
"""Of a list or dict."""

_OTHERS: Final = sys.stdlib_module_names | {"torch", "numpy"}
"""Packages whose code draws from the global streams, or from what it is given."""


@final
class OwnStreams:
    """Random generators that a job made for itself and that its loss or its model draws from without holding them.

    One that a module holds is copied with it. One in a closure, in a global or in an attribute of the loss function's object is not: drawing
    from it moves the training's own. So while probes run it stands where it stood at `attach`, the same at every snapshot, and is put
    back afterwards.
    """

    def __init__(self, *drawing: object) -> None:
        self._streams: list[tuple[Any, Any]] = []
        for stream in _reached(drawing):
            with suppress(Exception):  # random.SystemRandom has no state
                self._streams.append((stream, _state(stream)))

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
    return stream.getstate() if isinstance(stream, random.Random) else stream.get_state()


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
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        with suppress(Exception):  # a stranger's object may refuse to be looked into
            if isinstance(thing, torch.Generator | np.random.Generator | np.random.RandomState | random.Random):
                found.append(thing)
            else:
                waiting.extend(_at_hand(thing))
    return found


def _at_hand(thing: Any) -> list[object]:
    """What is one step away; nothing is asked of an object that might compute it."""
    if isinstance(thing, FunctionType):
        cells = [_content(cell) for cell in thing.__closure__ or ()]
        names = _names(thing.__code__)
        called = [thing.__globals__[name] for name in names if name in thing.__globals__]
        further = [vars(module)[name] for module in called if _is_own(module) for name in names if name in vars(module)]
        return [*cells, *called, *further, *(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
    if isinstance(thing, MethodType):
        return [thing.__func__, thing.__self__]
    if isinstance(thing, partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, list | tuple | set | frozenset):
        return list(islice(thing, _MOST_PARTS))
    if isinstance(thing, dict):
        return list(islice(thing.values(), _MOST_PARTS))
    if isinstance(thing, Tensor | ModuleType):
        return []
    if isinstance(thing, type):
        return [vars(of).get(name) for of in thing.__mro__ if _is_others(of.__module__) is False for name in vars(of)]
    held = list(vars(thing).values()) if hasattr(thing, "__dict__") else []
    modules = list(thing.children()) if isinstance(thing, nn.Module) else []
    return [type(thing), *held, *modules]


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
