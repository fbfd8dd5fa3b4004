"""Reading an optimizer: the UpdateRule it follows at this step, and the steps it took last."""

import os
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from probe_agent.complaints import warn
from probe_agent.steps import Count
from probe_agent.update_rule import Kind, UpdateRule

_ADAPTIVE = (torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad)


def rule_of(
    optimizer: torch.optim.Optimizer, model: nn.Module, updates: tuple[Mapping[str, Tensor], ...] = ()
) -> UpdateRule:
    """What the optimizer does to the parameters of ``model``, by the names they have there.

    The first parameter group speaks for the kind and the momentum; learning rates and the
    preconditioner are each parameter's own. A group may have no rate, such as one of an optimizer around others.
    """
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    groups = [(group, [p for p in group["params"] if id(p) in names]) for group in optimizer.param_groups]
    groups = [(group, parameters) for group, parameters in groups if parameters]
    kind, momentum = _family(optimizer, groups[0][0]) if groups else ("unknown", 0.0)
    preconditioner = {
        names[id(p)]: _preconditioner(optimizer, group, p)
        for group, parameters in groups
        for p in parameters
        if kind == "adam" and optimizer.state.get(p)
    }
    return UpdateRule(
        optimizer=type(optimizer).__name__ + (" that maximizes" if groups and groups[0][0].get("maximize") else ""),
        kind=kind,
        learning_rates={
            names[id(p)]: float(group["lr"])
            for group, parameters in groups
            for p in parameters
            if group.get("lr") is not None
        },
        momentum=momentum,
        preconditioner=preconditioner or None,
        updates=updates,
    )


def _family(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> tuple[Kind, float]:
    """The family whose stability theory applies, and its momentum. A subclass may do anything: unknown."""
    if group.get("maximize"):
        return "unknown", 0.0
    if type(optimizer) is torch.optim.SGD:
        momentum = float(group["momentum"])
        if group["dampening"]:
            return "unknown", momentum
        return ("nesterov" if group["nesterov"] else "momentum") if momentum else "gradient", momentum
    if type(optimizer) in _ADAPTIVE and not group.get("centered") and not group.get("momentum"):
        return "adam", float(group["betas"][0]) if "betas" in group else 0.0
    return "unknown", float(group.get("momentum") or 0.0)


def _preconditioner(optimizer: torch.optim.Optimizer, group: Mapping[str, Any], p: Tensor) -> Tensor:
    """What the averaged gradient of ``p`` is divided by, momentum's bias correction included.

    Cohen et al. (2022, "Adaptive gradient methods at the edge of stability", section 2): for Adam
    P = (1 − β1ᵗ) (√(v / (1 − β2ᵗ)) + ε).
    """
    state = optimizer.state[p]
    with torch.inference_mode(mode=False), torch.no_grad():
        if isinstance(optimizer, torch.optim.Adam):  # AdamW is one
            beta1, beta2 = (float(beta) for beta in group["betas"])
            step = float(state["step"])
            second = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
            root = (second / (1 - beta2**step)).sqrt_().add_(float(group["eps"]))
            return _wide(root.mul_(1 - beta1**step))
        second = state["square_avg"] if "square_avg" in state else state["sum"]
        return _wide(second.sqrt().add_(float(group["eps"])))


@final
class Recorder:
    """The weights before the last steps, kept only around a step that is due, so that its updates can be told.

    Takes a copy of the trainable parameters a step; at most two are held.
    """

    def __init__(self) -> None:
        self._before: deque[tuple[int, dict[str, Tensor]]] = deque(maxlen=2)

    def remember(self, model: nn.Module, step: int) -> None:
        """Keep the weights as they are after ``step`` steps."""
        with torch.inference_mode(mode=False), torch.no_grad():
            self._before.append((step, {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}))

    def updates(self, model: nn.Module, step: int) -> tuple[dict[str, Tensor], ...]:
        """w_t − w_{t−1} and, if it was seen, w_{t−1} − w_{t−2}, in at least single precision."""
        now = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        found: list[dict[str, Tensor]] = []
        for ago, (at, before) in enumerate(reversed(self._before), start=1):
            if at != step - ago or _shapes(before) != _shapes(now):  # a layer may be replaced by another
                break
            found.append({name: _wide(now[name]) - _wide(before[name]) for name in now})
            now = before
        return tuple(found)

    def forget(self) -> None:
        """Let the weights go: no step that is due is near."""
        self._before.clear()


def tell_of_unseen_steps(
    watcher: object, model: nn.Module | None, optimizer: torch.optim.Optimizer, count: Count
) -> Callable[[], object]:
    """Warn when the watcher ends, or when what is returned is called, if the weights have changed and no step of the optimizer was seen."""
    parameters = [] if model is None else list(model.parameters())
    # Nothing that is kept keeps the model alive, or the watcher.
    before = [(weakref.ref[Tensor](p), _writes(p)) for p in parameters if p.requires_grad]
    return weakref.finalize(
        watcher, _tell_of_unseen_steps, before, type(optimizer).__name__, count, count.step, os.getpid()
    )


def _tell_of_unseen_steps(
    before: Sequence[tuple["weakref.ref[Tensor]", object]], optimizer: str, count: Count, first: int, process: int
) -> None:
    changed = [p for p, writes in before if (there := p()) is not None and _writes(there) != writes]
    if changed and count.step == first and process == os.getpid():
        warn(
            f"the weights have changed, and no step() of the {optimizer} was seen, so that nothing was measured after attach(). It may take "
            "its steps by other methods (first_step and second_step of SAM), or have others take them: attach to the optimizer "
            "whose step() is called, such as its base_optimizer."
        )


def _writes(p: Tensor) -> object:
    """What is another after each write to the tensor, as far as torch tells."""
    try:
        return p._version, p.data_ptr()  # noqa: SLF001 - no public name leads to it
    except RuntimeError:  # of a tensor of inference mode, or of one without memory
        return None


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
