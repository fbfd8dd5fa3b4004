"""Seeing pre-activations: the input of every activation function of a model, during one forward pass.

An activation function may be a module, a function, a method, in place or not; all of them pass
through `torch.overrides`, where each call is seen once. Modules are hooked for their names alone:
a pre-activation is named after the module with parameters that last began to run, so that a layer
bears the same name here and where its parameters are measured.

Out of sight are activation functions inside one fused operation (``nn.LSTM``, ``nn.GRU`` and their
cells, scripted modules; `fused` finds them), ReLUs spelled as ``clamp`` or ``maximum``, and the gate
inside ``glu``. Softmax, dropout and normalisation are no activation functions.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

See = Callable[[str, str, Tensor], None]
"""Told the layer, the activation function's name and its input, which is only lent: it may be overwritten after."""

BENT_AT_ZERO = frozenset({"relu", "leaky_relu", "prelu", "rrelu"})
"""Piecewise linear, with the one bend where the pre-activation is zero."""

BENT_ELSEWHERE = frozenset(
    {
        *("celu", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "log_sigmoid", "mish", "relu6"),
        *("selu", "sigmoid", "silu", "softplus", "softshrink", "softsign", "special_expit", "tanh", "tanhshrink"),
        "threshold",
    }
)
"""Smooth, or piecewise linear with other bends as well: the sign of the pre-activation only stands for the bend."""


def see_activations(model: nn.Module, forward: Callable[[], Any], see: See) -> str | None:
    """Run ``forward``, a pass through ``model``, and show ``see`` each pre-activation before it is used.

    A layer is the path of a module ("features.0"), "input" before the first one, "root" for
    parameters the model itself owns; when it activates again in the same pass, "features.0#2".

    Returns:
        The layer whose activation function gave the model's output itself, bent elsewhere than at
        zero: a link function, such as the sigmoid of a binary classifier. None if there is none.
    """
    watch = _Watch(see)
    handles = []
    try:
        for path, module in model.named_modules():
            if _names_a_layer(module):
                layer = path.partition("parametrizations.")[0].rstrip(".") or "root"
                handles.append(module.register_forward_pre_hook(watch.entering(layer)))
        with watch:
            output = forward()
    finally:
        for handle in handles:
            handle.remove()
    return watch.link_to(output)


def fused(model: nn.Module) -> list[str]:
    """Names of the model's module types whose activation functions are out of sight, in order, each once."""
    kinds = (nn.RNNBase, nn.RNNCellBase, torch.jit.ScriptModule)
    return sorted({type(module).__name__ for module in model.modules() if isinstance(module, kinds)})


def _names_a_layer(module: nn.Module) -> bool:
    """Whether it owns parameters and is no activation function itself."""
    if isinstance(module, nn.PReLU | torch.jit.ScriptModule):
        return False
    return next(module.parameters(recurse=False), None) is not None


@final
class _Watch(TorchFunctionMode):
    """Sees each call of a torch function once: what a function calls in turn runs outside the mode.

    While any such mode is active, ``nn.TransformerEncoderLayer`` keeps off its fused path, so its
    activation function is seen as well.
    """

    def __init__(self, see: See) -> None:
        super().__init__()
        self._see = see
        self._layer = "input"
        self._activated: Counter[str] = Counter()
        # The last activation function's output is kept until the next, so that its memory is not
        # given to another tensor and `link_to` cannot be misled.
        self._last: tuple[str, str, Any] = ("", "", None)

    def entering(self, layer: str) -> Callable[[nn.Module, Any], None]:
        """The hook that says a layer begins to run."""

        def enter(_: nn.Module, __: Any) -> None:
            self._layer = layer

        return enter

    def link_to(self, output: object) -> str | None:
        layer, function, result = self._last
        if function not in BENT_ELSEWHERE or not isinstance(output, Tensor) or not isinstance(result, Tensor):
            return None
        same = output.untyped_storage().data_ptr() == result.untyped_storage().data_ptr()
        return layer if same else None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        function = getattr(func, "__name__", "").strip("_")
        if function not in BENT_AT_ZERO and function not in BENT_ELSEWHERE:
            return func(*args, **kwargs)
        self._activated[self._layer] += 1
        again = self._activated[self._layer]
        layer = self._layer if again == 1 else f"{self._layer}#{again}"
        seen: Tensor = args[0] if args else kwargs["input"]
        self._see(layer, function, seen.detach())  # a model that needs a gradient in its forward pass enables it there
        result = func(*args, **kwargs)
        self._last = (layer, function, result)
        return result
