"""FrozenCopy: the model as it is, copied without gradients, graphs and bystanders' hooks, in evaluation mode."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

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
    frozen = copy.deepcopy(model, stand_ins(model.modules(), like))
    # Not .eval(): user classes override train() with side effects of their own.
    for module in frozen.modules():
        module.training = False
        _unwrap_forward(module)
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            module.sparse = False  # the same gradient in a layout that every estimator can take
    return frozen


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
