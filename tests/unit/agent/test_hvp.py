"""Hessian-vector products against dense Hessians and closed forms."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from probe_agent.errors import NotApplicable
from probe_agent.estimators.hvp import (
    DIFFERENCES,
    DOUBLE_BACKWARD,
    HessianProduct,
    graphed_gradient,
    refusals_named,
    twice_differentiable,
)
from probe_agent.probe_set import ProbeSet
from tests.curvature_problems import (
    CLASSES,
    KINDS,
    dense_hessian,
    kind,
    labels,
    linear_regression,
    normal,
    randomised,
    same_state,
    snapshot_of,
    state_of,
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", KINDS)
def test_a_product_is_the_dense_hessian_times_the_vector(name: str) -> None:
    snapshot = kind(name)
    dense = dense_hessian(snapshot)
    product = HessianProduct(snapshot)
    assert product.dimension == len(dense)
    for seed in range(3):
        v = normal(product.dimension, seed=seed)
        torch.testing.assert_close(product(v), dense @ v, rtol=1e-9, atol=1e-11)


def test_linear_regression_has_the_hessian_of_its_inputs_alone() -> None:
    x = normal(20, 5)
    product = HessianProduct(linear_regression(x))
    columns = torch.stack([product(e) for e in torch.eye(5, dtype=torch.float64)])
    torch.testing.assert_close(columns, x.T @ x / 20, rtol=1e-12, atol=1e-14)


def test_softmax_regression_has_the_closed_form_hessian() -> None:
    n, d = 15, 4
    x = normal(n, d)
    snapshot = snapshot_of(nn.Linear(d, CLASSES, bias=False).double(), x, labels(n))
    p = snapshot.outputs().detach().softmax(dim=1)
    blocks = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    expected = torch.einsum("nab,ni,nj->aibj", blocks, x, x).reshape(CLASSES * d, CLASSES * d) / n
    product = HessianProduct(snapshot)
    columns = torch.stack([product(e) for e in torch.eye(CLASSES * d, dtype=torch.float64)])
    torch.testing.assert_close(columns, expected, rtol=1e-10, atol=1e-12)


def test_a_parameter_the_loss_does_not_use_has_zeros() -> None:
    product = HessianProduct(kind("unused parameter"))
    h = product(normal(product.dimension))
    used = 4 * CLASSES + CLASSES
    assert h[:used].abs().min() > 0
    assert torch.equal(h[used:], torch.zeros(12, dtype=torch.float64))


def test_a_loss_linear_in_the_parameters_has_no_curvature() -> None:
    snapshot = snapshot_of(nn.Linear(4, 1).double(), normal(6, 4), labels(6), lambda outputs, _: outputs.mean())
    product = HessianProduct(snapshot)
    assert torch.equal(product(normal(5)), torch.zeros(5, dtype=torch.float64))


def test_the_parts_of_a_probe_set_make_up_the_whole() -> None:
    snapshot = kind("LayerNorm", n=9)
    inputs, targets = snapshot.probe_set.inputs, snapshot.probe_set.targets
    assert isinstance(inputs, Tensor)
    v = normal(HessianProduct(snapshot).dimension)
    parts = [HessianProduct(snapshot, ProbeSet(inputs[s], targets[s])) for s in (slice(0, 2), slice(2, 9))]
    torch.testing.assert_close(2 / 9 * parts[0](v) + 7 / 9 * parts[1](v), HessianProduct(snapshot)(v))
    assert parts[0].curvature(v) == pytest.approx(float(v @ parts[0](v)))


def test_vectors_are_single_precision_where_parameters_are_half() -> None:
    half = nn.Linear(4, CLASSES).bfloat16()
    product = HessianProduct(snapshot_of(half, normal(6, 4).bfloat16(), labels(6)))
    assert product.dtype == product(torch.randn(15)).dtype == torch.float32


def test_fused_attention_is_put_aside_and_put_back() -> None:
    before = torch.backends.cuda.flash_sdp_enabled()
    snapshot = kind("GPT with fused attention")
    grads = torch.autograd.grad(snapshot.loss(), list(snapshot.params.values()), create_graph=True)
    with pytest.raises(RuntimeError, match="derivative for"):  # why it is put aside
        torch.autograd.grad(sum((g.square().sum() for g in grads), torch.zeros(())), list(snapshot.params.values()))
    HessianProduct(snapshot)
    assert torch.backends.cuda.flash_sdp_enabled() == before


class OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * ctx.saved_tensors[0].cos()


class Custom(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return OnceOnly.apply(super().forward(x))


class Raising(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError(f"shape {tuple(x.shape)} does not match")


def test_an_operation_without_a_second_derivative_is_named() -> None:
    snapshot = snapshot_of(Custom(4, CLASSES).double(), normal(6, 4), labels(6))
    with pytest.raises(NotApplicable, match="second derivative that OnceOnly does not have"):
        graphed_gradient(snapshot.loss(), list(snapshot.params.values()))


def test_a_kernel_without_a_second_derivative_is_named_and_gone_around(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, v = HessianProduct(kind("GPT with fused attention")), normal(256)
    monkeypatch.setattr("probe_agent.estimators.hvp.WrittenOut", nullcontext)
    snapshot = kind("GPT with fused attention")
    with twice_differentiable(snapshot)():
        loss = snapshot.loss()
        gradient = graphed_gradient(loss, list(snapshot.params.values()))
    with pytest.raises(NotApplicable, match="_scaled_dot_product_flash_attention"), refusals_named(loss):
        torch.autograd.grad(gradient[0].sum(), list(snapshot.params.values()))
    product = HessianProduct(snapshot)
    assert product.route == DOUBLE_BACKWARD
    torch.testing.assert_close(product(v), expected(v), rtol=1e-6, atol=1e-8)
    assert product.route == DIFFERENCES


def test_an_error_of_the_model_stays_itself() -> None:
    with pytest.raises(RuntimeError, match="does not match"):
        HessianProduct(snapshot_of(Raising(4, CLASSES).double(), normal(6, 4), labels(6)))


def test_what_has_no_hessian_says_so() -> None:
    frozen = nn.Linear(4, CLASSES).double().requires_grad_(False)
    with pytest.raises(NotApplicable, match="no trainable parameter"):
        HessianProduct(snapshot_of(frozen, normal(6, 4), labels(6)))
    with pytest.raises(NotApplicable, match="complex"):
        HessianProduct(snapshot_of(nn.Linear(4, CLASSES, dtype=torch.complex128), normal(6, 4), labels(6)))


def test_only_trainable_parameters_count() -> None:
    model = randomised(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, CLASSES)))
    model.get_submodule("0").requires_grad_(False)
    assert HessianProduct(snapshot_of(model, normal(6, 4), labels(6))).dimension == 6 * CLASSES + CLASSES


def test_the_live_model_is_untouched() -> None:
    model = KINDS["BatchNorm in evaluation"][0]().double()
    F.cross_entropy(model(normal(6, 2, 4, 4)), labels(6)).backward()  # leaves gradients behind
    before = state_of(model)
    product = HessianProduct(snapshot_of(model, normal(6, 2, 4, 4), labels(6)))
    product(normal(product.dimension))
    assert same_state(before, state_of(model))
