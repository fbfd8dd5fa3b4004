"""FrozenCopy: the model as it is, copied without gradients, graphs and bystanders' hooks, in evaluation mode."""

import copy
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial, update_wrapper
from types import CellType, FunctionType, MethodType
from typing import Any, Final, final

import torch
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)

# Forward hooks that are part of the function a module computes; every other hook is a bystander
# (loggers, profilers, feature extractors) and must not run when a probe evaluates the copy.
_LOAD_BEARING_HOOKS = ("torch.nn.utils.weight_norm", "torch.nn.utils.spectral_norm")
_HOOK_TABLES = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)

_OF_ALL_MODULES: Final = (
    "_global_forward_pre_hooks",
    "_global_forward_hooks",
    "_global_backward_pre_hooks",
    "_global_backward_hooks",
)
"""Where torch keeps the hooks that every module of the process has."""

_SHARED = (
    torch.utils.data.Dataset,
    torch.utils.data.DataLoader,
    torch.optim.Optimizer,
    torch.optim.lr_scheduler.LRScheduler,
)
"""What a model may hold and its forward pass does not write to; a copy of it would take memory that nobody has counted."""


def single(tensor: Tensor) -> Tensor:
    """Half precision taken to single; other tensors as they are."""
    return tensor.float() if tensor.dtype in HALF else tensor


def copy_of(model: nn.Module, *, widen: bool = False) -> nn.Module:
    """A copy of the model in evaluation mode: same structure, cloned tensors, no bystanders' hooks.

    Everything a module holds is copied, so a forward pass that appends to a list or counts its calls
    does so in the copy. Gradients, autograd graphs and hooks stay behind.
    """

    def like(tensor: Tensor) -> Tensor:
        own = tensor.detach().clone()
        return single(own) if widen else own

    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise TypeError(
            "a module of torch.jit computes with the parameters it was made with; attach to what it was made from"
        )
    memo = stand_ins(model.modules(), like)
    compiled = [module for module in model.modules() if _is_compiled(module)]
    memo |= {id(module): _Uncompiled() for module in compiled}
    for module in compiled:
        memo[id(module)].stand_for(copy.deepcopy(module.get_submodule("_orig_mod"), memo))
    frozen = copy.deepcopy(model, memo)
    ours = {*frozen.modules()}
    live = [module for module in model.modules() if module in ours]  # their __deepcopy__ gives themselves
    if (trains := next((module for module in live if module.training), None)) is not None:
        raise TypeError(
            f"deepcopy of its {type(trains).__name__} gives that itself; have it copied, or call eval() on it"
        )
    made = (value for key, value in memo.items() if isinstance(value, nn.Module) and id(value) != key)
    for module in {*ours, *made}.difference(live):
        _call_past_hooks(module)  # also those in plain lists, which no table of modules knows
    # Not .eval(): user classes override train() with side effects of their own.
    for module in ours.difference(live):
        module.training = False
        _unwrap_forward(module)
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            module.sparse = False  # the same gradient in a layout that every estimator can take
    return frozen


def with_own_modules(function: Any, *, widen: bool = False) -> Any:
    """The function with copies of the modules it has at hand: a criterion may count its calls, and hooks of all modules would hear of it.

    At hand is what it is or is a method of, its defaults, its closure, what it calls by name, and what `functools.partial` gives it. A module with
    parameters is none of the function's, but somebody's model; what cannot be copied stays.
    """
    if isinstance(function, nn.Module):
        return copy_of(function, widen=widen)
    memo: dict[int, Any] = {}

    def own(value: Any) -> Any:
        if isinstance(value, nn.Module) and id(value) not in memo:
            with suppress(Exception):
                if not list(value.parameters()):
                    memo[id(value)] = copy_of(value, widen=widen)
        return memo.get(id(value), value)

    if isinstance(function, MethodType):
        return MethodType(with_own_modules(function.__func__, widen=widen), own(function.__self__))
    if isinstance(function, partial):
        given = {name: own(value) for name, value in function.keywords.items()}
        return partial(with_own_modules(function.func, widen=widen), *map(own, function.args), **given)
    if not isinstance(function, FunctionType):
        return function
    names = {
        name: own(function.__globals__[name]) for name in function.__code__.co_names if name in function.__globals__
    }
    cells = tuple(_cell_of(cell, own) for cell in function.__closure__ or ())
    defaults = None if function.__defaults__ is None else tuple(map(own, function.__defaults__))
    keywords = {name: own(value) for name, value in (function.__kwdefaults__ or {}).items()}
    if not memo:
        return function
    again = FunctionType(function.__code__, function.__globals__ | names, function.__name__, defaults, cells or None)
    again.__kwdefaults__ = keywords or None
    return update_wrapper(again, function)


def _cell_of(cell: CellType, own: Callable[[Any], Any]) -> CellType:
    """The cell, or one with a copy of the module that is in it."""
    try:
        content = cell.cell_contents
    except ValueError:  # nothing yet
        return cell
    copied = own(content)
    return cell if copied is content else CellType(copied)


def _is_compiled(module: nn.Module) -> bool:
    """Whether it is what ``torch.compile`` makes of a module."""
    frames = sys.modules.get("torch._dynamo.eval_frame")
    return frames is not None and isinstance(module, getattr(frames, "OptimizedModule", ()))


@final
class _Uncompiled(nn.Module):
    """Stands where a compiled module stood, with parameters of the same names.

    A copy of that itself would warn of hooks of all modules, and tell every thread that a compiled module runs.
    """

    def stand_for(self, module: nn.Module) -> None:
        self._modules["_orig_mod"] = module  # not as an attribute: of that, too, hooks of all modules hear

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gives."""
        return self._orig_mod(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # how it is copied and sent elsewhere is its own affair
            raise AttributeError(name)
        module = vars(self)["_modules"]["_orig_mod"]
        return module if name == "_orig_mod" else getattr(module, name)


def _without_hooks_of_all(call: object) -> Callable[..., Any] | None:
    """How torch calls a module, in a world without hooks of all modules; None where this version does it in another way."""
    if not isinstance(call, FunctionType) or not hasattr(nn.Module, "_compiled_call_impl"):
        return None
    names = {**call.__globals__, **{table: {} for table in _OF_ALL_MODULES}}
    return FunctionType(call.__code__, names, call.__name__, call.__defaults__, call.__closure__)


_TORCHS_CALL: Final = getattr(nn.Module, "_call_impl", None)
_CALL: Final = _without_hooks_of_all(_TORCHS_CALL)


@final
class _Call:
    """What ``module(...)`` does: all that it does elsewhere, with the module's own hooks alone.

    Does not hold the module, which holds it; is nothing in a copy, and in another process.
    """

    def __init__(self, module: nn.Module, call: Callable[..., Any]) -> None:
        self._module, self._call = weakref.ref(module), call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(self._module(), *args, **kwargs)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


def _call_past_hooks(module: nn.Module) -> None:
    """Have hooks of all modules, which other threads may add, remove and rely on at any moment, not hear of this one."""
    if _CALL is not None and getattr(type(module), "_call_impl", None) is _TORCHS_CALL:  # else it is somebody's own
        vars(module)["_compiled_call_impl"] = _Call(module, _CALL)


def _unwrap_forward(module: nn.Module) -> None:
    """Take away what accelerate (for autocast) and Lightning (for ``torch.compile``) put in front of a module's forward.

    What they keep in its attributes would hold the copy in a cycle.
    """
    held = vars(module)
    original = held.pop("_original_forward", None) or (held.get("_compiler_ctx") or {}).get("original_forward")
    if original is None:
        return
    compiled = held.pop("_compiler_ctx", None) or {}
    for name in ("forward", *(key.removeprefix("original_") for key in compiled)):
        held.pop(name, None)
    if getattr(original, "__func__", None) is not type(module).forward:
        module.forward = original


def stand_ins(modules: Iterable[nn.Module], like: Callable[[Tensor], Tensor]) -> dict[int, Any]:
    """What a copy holds in place of the modules' tensors, hook tables and graphs: a memo for `copy.deepcopy`.

    ``like`` makes the copy's tensor from the module's.
    """
    memo: dict[int, Any] = {}
    for module in modules:
        for p in module._parameters.values():  # noqa: SLF001 - the tables themselves: no recursion, no deduplication
            if p is not None and id(p) not in memo:
                memo[id(p)] = nn.Parameter(like(p), requires_grad=p.requires_grad)
        for b in module._buffers.values():  # noqa: SLF001
            if b is not None and id(b) not in memo:
                memo[id(b)] = like(b)
        for name in _HOOK_TABLES:
            table = vars(module).get(name)
            if table is not None:
                memo[id(table)] = _load_bearing(table)
        for value in vars(module).values():
            if isinstance(value, _SHARED):
                memo[id(value)] = value
            _detach_graph(value, memo)
    return memo


def _load_bearing(table: Mapping[int, Any]) -> "OrderedDict[int, Any]":
    kept = ((key, copy.copy(hook)) for key, hook in table.items() if type(hook).__module__ in _LOAD_BEARING_HOOKS)
    return OrderedDict(kept)


def _detach_graph(value: object, memo: dict[int, Any]) -> None:
    """Let deepcopy pass tensors kept from a forward pass (attention maps and the like), which it refuses."""
    if isinstance(value, Tensor):
        if value.grad_fn is not None and id(value) not in memo:
            memo[id(value)] = value.detach().clone()
    elif isinstance(value, list | tuple):
        for item in value:
            _detach_graph(item, memo)
    elif isinstance(value, dict):
        for item in value.values():
            _detach_graph(item, memo)
