"""Attention written out gives what torch's own formula gives, to the last bit, and no other thread's attention is."""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from probe_agent.estimators.mapping import mappable
from probe_agent.estimators.written_out import WrittenOut

N, D = 5, 4
NAMED: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"is_causal": True},
    "scaled": {"scale": 0.3},
    "masked": {"attn_mask": torch.ones(N, N, dtype=torch.bool).tril()},
    "biased": {"attn_mask": torch.linspace(-1, 1, N * N).view(N, N)},
    "grouped": {"enable_gqa": True},
}


def both(compute: Callable[[], list[Tensor]]) -> None:
    with sdpa_kernel(SDPBackend.MATH):
        expected = compute()
    with WrittenOut():
        found = compute()
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def twice(outputs: Tensor, params: list[Tensor]) -> list[Tensor]:
    """The outputs, their gradient, and a product with the second derivative."""
    gradient = torch.autograd.grad(outputs.square().sum(), params, create_graph=True)
    product = torch.autograd.grad([g.square().sum() for g in gradient], params)
    return [outputs, *gradient, *product]


@pytest.mark.parametrize("name", NAMED)
def test_a_formula_gives_what_torchs_own_gives(name: str) -> None:
    torch.manual_seed(0)
    heads = 1 if name == "grouped" else 2
    given = [torch.randn(3, h, N, D, requires_grad=True) for h in (2, heads, heads)]
    both(lambda: twice(F.scaled_dot_product_attention(*given, **NAMED[name]), given))


def test_attention_within_torchs_own_modules_is_written_out() -> None:
    torch.manual_seed(0)
    layer, x = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=True).eval(), torch.randn(3, N, 8)
    both(lambda: twice(layer(x), list(layer.parameters())))
    with torch.device("cpu"):  # beside another mode
        both(lambda: twice(layer(x), list(layer.parameters())))


def test_mapped_attention_is_written_out() -> None:
    given = [torch.randn(3, 2, N, D) for _ in range(3)]
    both(lambda: [torch.func.vmap(F.scaled_dot_product_attention)(*given)])


@pytest.mark.parametrize("around", [WrittenOut, mappable])
def test_attention_of_another_thread_may_choose_any_kernel(around: Callable[[], AbstractContextManager[Any]]) -> None:
    with around(), ThreadPoolExecutor(1) as thread:
        assert thread.submit(torch.backends.cuda.flash_sdp_enabled).result(30)


def test_filters_of_warnings_that_another_thread_sets_meanwhile_stay() -> None:
    before = list(warnings.filters)
    with warnings.catch_warnings():
        with mappable(), ThreadPoolExecutor(1) as thread:
            warnings.warn("There is a performance drop because of this", stacklevel=1)
            thread.submit(warnings.simplefilter, "ignore", ResourceWarning).result(30)
        assert warnings.filters[0][:3] == ("ignore", None, ResourceWarning)
        assert not any("performance" in str(words) for _, words, *_ in warnings.filters)
    assert warnings.filters == before
