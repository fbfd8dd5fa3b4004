"""WrittenOut: attention of this thread as its formula is written, which can be differentiated twice and mapped; a fused kernel cannot."""

from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any, Final, final

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,  # noqa: FBT001, FBT002 - torch's own signature
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: FBT001, FBT002
) -> Tensor:
    """`F.scaled_dot_product_attention`, by the kernel it chooses where all others are switched off."""
    if attn_mask is not None and attn_mask.dtype is torch.bool:  # as torch does it, to the last bit
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
    settings = {"attn_mask": attn_mask, "dropout_p": dropout_p, "is_causal": is_causal, "scale": scale}
    settings["enable_gqa"] = enable_gqa
    written_out = getattr(torch, "_scaled_dot_product_attention_math", None)
    if written_out is None:  # this version's only way; it is that of all threads
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(query, key, value, **settings)  # type: ignore[arg-type]
    found: Tensor = written_out(query, key, value, **settings)[0]
    return found


def _many_headed() -> Callable[..., Any]:
    """`F.multi_head_attention_forward` that calls this attention; itself it would not see a mode."""
    whole = F.multi_head_attention_forward
    names = dict(whole.__globals__)
    again = FunctionType(whole.__code__, names, whole.__name__, whole.__defaults__, whole.__closure__)
    again.__kwdefaults__ = whole.__kwdefaults__
    names |= {"scaled_dot_product_attention": _attention, whole.__name__: again}
    return again


_INSTEAD: Final[Mapping[Callable[..., Any], Callable[..., Any]]] = {
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _many_headed(),
}


@final
class WrittenOut(TorchFunctionMode):
    """While it is active. Which kernels may be chosen is a switch of all threads; a mode is this thread's, and that of its backward passes."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return _INSTEAD.get(func, func)(*args, **(kwargs or {}))
