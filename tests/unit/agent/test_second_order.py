"""Products where operations cannot be differentiated twice, or say they can and are wrong: against dense Hessians."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from probe_agent.errors import NotApplicable
from probe_agent.estimators.central_differences import CentralDifferences, best_step
from probe_agent.estimators.gauss_newton import GaussNewtonProduct
from probe_agent.estimators.hvp import DIFFERENCES, DOUBLE_BACKWARD, HessianProduct
from probe_agent.likelihood import Categorical
from probe_agent.probe import Probe
from probe_agent.probe_set import ProbeSet
from probe_agent.probes.edge_of_stability import EdgeOfStability
from probe_agent.probes.gauss_newton import GaussNewton
from probe_agent.probes.hessian_spectrum import HessianSpectrum
from probe_agent.probes.hessian_trace import HessianTrace
from probe_agent.probes.sharpness import Sharpness
from probe_agent.snapshot import Snapshot
from probe_agent.update_rule import UpdateRule
from probe_wire import Outcome
from tests.curvature_problems import CLASSES, dense_gauss_newton, dense_hessian, labels, normal, randomised

N = 24


class Sine(torch.autograd.Function):
    """As any function: differentiable as often as one likes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * x.cos()


class SineOnce(torch.autograd.Function):
    """It says that its backward pass cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * x.cos()


class SineDetached(torch.autograd.Function):
    """Its backward pass works on numbers that autograd does not see, and does not say so."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * x.detach().cos()


class SineNoisy(Sine):
    """A kernel that does not repeat itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin() + torch.randn_like(x)


class SineCoarse(SineOnce):
    """A kernel that works in bfloat16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.bfloat16().sin().to(x)


class Rounded(torch.autograd.Function):
    """A straight-through estimator."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return (x * 4).round() / 4

    @staticmethod
    def backward(_: Any, grad: Tensor) -> Tensor:
        return grad


class Acts(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Held(nn.Module):
    """Divides by a norm that the model itself holds constant."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sin() / x.norm(dim=1, keepdim=True).detach()


def taken(act: nn.Module, dtype: torch.dtype = torch.float64) -> Snapshot:
    torch.manual_seed(0)
    model = randomised(nn.Sequential(nn.Linear(4, 6), act, nn.Linear(6, CLASSES))).to(dtype)
    rates = dict.fromkeys((name for name, _ in model.named_parameters()), 0.1)
    rule = UpdateRule(optimizer="SGD", kind="gradient", learning_rates=rates)
    return Snapshot.take(
        model, 3, ProbeSet(normal(N, 4).to(dtype), labels(N)), F.cross_entropy, Categorical(), 0, rule=rule
    )


def truth() -> Tensor:
    return dense_hessian(taken(Acts(torch.sin)))


@pytest.mark.parametrize(("dtype", "worst"), [(torch.float64, 1e-8), (torch.float32, 3e-3)])
def test_differences_are_the_dense_hessian_times_the_vector_within_their_error(
    dtype: torch.dtype, worst: float
) -> None:
    product, dense = HessianProduct(taken(Acts(SineOnce.apply), dtype)), truth()
    assert product.route == DIFFERENCES
    for seed in range(20):
        v = normal(product.dimension, seed=seed)
        gap = float((product(v.to(dtype)).double() - dense @ v).norm())
        assert gap <= 1.5 * product.error <= worst * float((dense @ v).norm())


@pytest.mark.parametrize("h", [1e-1, 1e-2, 1e-3])
def test_the_error_of_differences_holds_for_a_smooth_field_and_across_a_jump(h: float) -> None:
    here = torch.tensor([0.3, -0.2], dtype=torch.float64)
    v = torch.tensor([3.0, 4.0], dtype=torch.float64)
    smooth = CentralDifferences(lambda w: torch.stack([w[0].exp() * w[1], w[1].sin()]), here, h)
    jacobian = torch.tensor([[math.exp(0.3) * -0.2, math.exp(0.3)], [0, math.cos(-0.2)]], dtype=torch.float64)
    assert float((smooth(v) - jacobian @ v).norm()) <= smooth.error
    jumping = CentralDifferences(lambda w: 2 * w + (w[0] > 0.3 + h / 4).double() * torch.ones(2), here, h)
    assert float((jumping(v) - 2 * v).norm()) == pytest.approx(jumping.error, rel=1e-6)
    assert float(smooth(0 * v).norm()) == 0


def test_the_step_is_where_truncation_and_rounding_meet() -> None:
    here, u = torch.ones(1), torch.ones(1)
    step = best_step(lambda w: (30 * w).sin(), here, [u], torch.finfo(torch.float32).eps)
    assert 1e-4 < step < 1e-2


@pytest.mark.parametrize(
    ("function", "route", "said"),
    [
        (Sine, DOUBLE_BACKWARD, "second derivatives of Sine agree with differences"),
        (SineOnce, DIFFERENCES, ""),
        (SineDetached, DIFFERENCES, "double backward through SineDetached is off by"),
    ],
)
@pytest.mark.parametrize("probe", [Sharpness(tolerance=1e-4, max_products=60), EdgeOfStability(), HessianSpectrum()])
def test_curvature_is_right_whatever_a_strangers_function_says_of_itself(
    probe: Probe, function: Any, route: str, said: str
) -> None:
    memory: dict[str, Any] = {}
    usual = {m.quantity.name: m for m in probe.measure(taken(Acts(torch.sin)), {})}
    for _ in range(2):  # the second snapshot knows what the first has found
        for m in probe.measure(taken(Acts(function.apply)), memory):
            expected = usual[m.quantity.name].estimate
            assert (m.estimate.outcome, m.settings.get("product", DOUBLE_BACKWARD)) == (expected.outcome, route)
            assert said in m.settings.get("certificate", "")
            assert m.estimate.value == pytest.approx(expected.value, rel=1e-5, abs=1e-7)
    assert "certificate" not in usual[m.quantity.name].settings


def test_a_silently_wrong_product_was_there_to_be_caught() -> None:
    product = HessianProduct(taken(Acts(SineDetached.apply)))
    v = normal(product.dimension)
    assert product.route == DOUBLE_BACKWARD
    assert float((product(v) - truth() @ v).norm()) > 0.05 * float((truth() @ v).norm())


def test_what_the_model_holds_constant_stays_constant() -> None:
    [m] = Sharpness(tolerance=1e-3).measure(taken(Held()), {})
    assert m.settings.get("product") is None
    assert m.estimate.outcome is Outcome.OK


def test_a_straight_through_estimator_has_no_hessian() -> None:
    with pytest.raises(NotApplicable, match="not symmetric"):
        list(Sharpness().measure(taken(Acts(Rounded.apply)), {}))


def test_where_differences_are_too_rough_to_prove_anything_double_backward_is_kept() -> None:
    [m] = Sharpness().measure(taken(Acts(SineNoisy.apply)), {})
    assert m.settings["certificate"] == "second derivatives of SineNoisy could not be compared with differences"
    assert "product" not in m.settings


def test_the_step_suits_a_kernel_that_is_coarser_than_its_type() -> None:
    product, dense = HessianProduct(taken(Acts(SineCoarse.apply), torch.float32)), truth()
    for seed in range(5):
        v = normal(product.dimension, seed=seed)
        gap = float((product(v.float()).double() - dense @ v).norm())
        assert gap <= 3 * product.error
        assert gap <= 0.5 * float((dense @ v).norm())


def test_differences_too_rough_for_the_tolerance_say_so() -> None:
    [m] = Sharpness(tolerance=1e-6).measure(taken(Acts(SineOnce.apply), torch.float32), {})
    assert m.estimate.outcome is Outcome.NOT_CONVERGED
    top = float(torch.linalg.eigvalsh(truth())[-1])
    assert abs(m.estimate.value - top) < m.estimate.stderr


def test_a_network_of_relus_in_single_precision_has_no_sound_differences_and_none_is_claimed() -> None:
    class ReLUOnce(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.relu()

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad * (ctx.saved_tensors[0] > 0)

    snapshot = taken(nn.Sequential(Acts(ReLUOnce.apply), *(nn.Linear(6, 6), Acts(ReLUOnce.apply))), torch.float32)
    for probe in (Sharpness(), HessianSpectrum()):
        for m in probe.measure(snapshot, {}):
            assert m.estimate.outcome is Outcome.NOT_CONVERGED
            assert not m.estimate.stderr < 0.1 * abs(m.estimate.value)


def test_the_trace_is_taken_by_signs_alone() -> None:
    exact = float(truth().trace())
    found = list(HessianTrace().measure(taken(Acts(SineOnce.apply)), {}))
    assert found[0].settings["product"] == DIFFERENCES
    assert abs(found[0].estimate.value - exact) < 4 * found[0].estimate.stderr
    assert found[-1].estimate.outcome is Outcome.NOT_APPLICABLE, "no division into Gauss-Newton and the rest"


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-7), (torch.float32, 1e-2)])
def test_gauss_newton_products_go_by_differences_of_outputs(dtype: torch.dtype, close: float) -> None:
    dense = dense_gauss_newton(taken(Acts(torch.sin)))
    product = GaussNewtonProduct(taken(Acts(SineOnce.apply), dtype))
    for seed in range(5):
        v = normal(product.dimension, seed=seed)
        gap = float((product(v.to(dtype)).double() - dense @ v).norm())
        assert gap <= 2 * product.error <= close * float((dense @ v).norm())
    [m] = GaussNewton().measure(taken(Acts(SineOnce.apply), dtype), {})
    assert m.settings["product"] == "finite differences of outputs"
    assert m.estimate.value == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=0.01)


def test_what_is_no_gradient_of_anything_is_refused_all_the_same() -> None:
    class Reweighted(torch.autograd.Function):
        @staticmethod
        def forward(_: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(_: Any, grad: Tensor) -> Tensor:
            return grad * torch.linspace(-1, 2, grad.shape[-1], dtype=grad.dtype)

    with pytest.raises(NotApplicable, match="not symmetric"):
        list(Sharpness().measure(taken(Acts(Reweighted.apply)), {}))
