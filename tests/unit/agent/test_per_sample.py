from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from probe_agent.errors import NotApplicable
from probe_agent.estimators import factors, per_sample
from probe_agent.estimators.factors import Factors
from probe_agent.estimators.graph_memory import bytes_of_a_sample
from probe_agent.estimators.per_sample import Route, SquaredNorms, squared_norms
from probe_agent.probe_set import ProbeSet
from probe_agent.snapshot import Snapshot
from tests import problems
from tests.problems import Problem, snapshot_of

ALL = [*problems.CLASSIFIERS, problems.token_transformer, problems.linear_regression]


def cotangents_for(snapshot: Snapshot, count: int = 2) -> Tensor:
    outputs = snapshot.outputs().detach()
    generator = torch.Generator().manual_seed(0)
    shape = (outputs.shape[0], count, *outputs.shape[1:])
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(outputs)


def by_hand(snapshot: Snapshot, cotangents: Tensor) -> dict[str, np.ndarray]:
    """Each squared norm from one backward pass through the whole batch."""
    outputs, found = snapshot.outputs(), {name: np.zeros(cotangents.shape[:2]) for name in snapshot.params}
    for i in range(cotangents.shape[0]):
        for k in range(cotangents.shape[1]):
            value = (outputs[i] * cotangents[i, k]).sum()
            gradients = torch.autograd.grad(value, snapshot.params.values(), retain_graph=True, allow_unused=True)
            for name, g in zip(snapshot.params, gradients, strict=True):
                found[name][i, k] = 0.0 if g is None else float(g.square().sum())
    return found


def assert_same(found: SquaredNorms, expected: dict[str, np.ndarray], rtol: float = 1e-10) -> None:
    assert list(found.by_parameter) == list(expected)
    for name, squares in expected.items():
        assert found.by_parameter[name].dtype == np.float64
        np.testing.assert_allclose(found.by_parameter[name], squares, rtol=rtol, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("problem", ALL)
def test_squared_norms_are_those_of_plain_backpropagation(problem: Callable[[], Problem]) -> None:
    snapshot = snapshot_of(problem())
    cotangents = cotangents_for(snapshot)
    assert_same(squared_norms(snapshot, cotangents), by_hand(snapshot, cotangents))


@pytest.mark.parametrize("problem", [p for p in ALL if p is not problems.lstm])
def test_the_vmap_route_equals_the_loop(problem: Callable[[], Problem]) -> None:
    snapshot = snapshot_of(problem())
    cotangents = cotangents_for(snapshot)
    loop = squared_norms(snapshot, cotangents, route="loop")
    assert_same(squared_norms(snapshot, cotangents, route="vmap"), loop.by_parameter)


@pytest.mark.parametrize(
    ("problem", "route"),
    [
        (problems.softmax_regression, "factored"),
        (problems.linear_regression, "factored"),
        (problems.mlp, "factored"),
        (problems.conv_batch_norm, "factored"),
        (problems.transformer, "vmap"),
        (problems.token_transformer, "vmap"),
        (problems.tied_weights, "vmap"),
        (problems.unused_parameter, "vmap"),
        (problems.lstm, "loop"),
    ],
)
def test_the_cheapest_route_a_model_can_take_is_taken_and_named(problem: Callable[[], Problem], route: Route) -> None:
    snapshot = snapshot_of(problem())
    assert squared_norms(snapshot, cotangents_for(snapshot)).route == route


@pytest.mark.parametrize("problem", [problems.mlp, problems.conv_batch_norm, problems.lstm])
def test_splitting_into_blocks_and_chunks_leaves_the_values(
    problem: Callable[[], Problem], monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = snapshot_of(problem())
    cotangents = cotangents_for(snapshot, 3)
    whole = squared_norms(snapshot, cotangents)
    held = bytes_of_a_sample(snapshot)
    for block, chunk in ((1, 1), (3, 5), (4, 100)):
        monkeypatch.setattr(per_sample, "BLOCK_BYTES", block * held)
        monkeypatch.setattr(per_sample, "CPU_GRADIENTS", chunk)
        assert_same(squared_norms(snapshot, cotangents), whole.by_parameter)


def test_vmap_holds_no_more_gradients_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = snapshot_of(problems.conv_batch_norm())
    cotangents = cotangents_for(snapshot, 3)
    whole = squared_norms(snapshot, cotangents)
    monkeypatch.setattr(per_sample, "GRADIENT_BYTES", 1)
    assert_same(squared_norms(snapshot, cotangents), whole.by_parameter)


def test_an_unused_parameter_contributes_nothing() -> None:
    snapshot = snapshot_of(problems.unused_parameter())
    for route in ("vmap", "loop"):
        found = squared_norms(snapshot, cotangents_for(snapshot), route=route).by_parameter
        assert not found["unused.weight"].any()
        assert found["gain"].all()


def test_a_model_that_uses_no_parameter_at_all_has_zero_gradients() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(2).double())

        def forward(self, x: Tensor) -> Tensor:
            return 2.0 * x

    snapshot = snapshot_of(Problem(Constant(), nn.CrossEntropyLoss(), problems.vectors(3, 4, 3)))
    assert not squared_norms(snapshot, cotangents_for(snapshot)).by_parameter["w"].any()


def test_frozen_parameters_are_left_out() -> None:
    problem = problems.mlp()
    problem.model[0].weight.requires_grad_(False)
    snapshot = snapshot_of(problem)
    found = squared_norms(snapshot, cotangents_for(snapshot))
    assert found.route == "factored"
    assert "0.weight" not in found.by_parameter
    assert_same(found, by_hand(snapshot, cotangents_for(snapshot)))


def test_an_operation_vmap_has_no_rule_for_is_looped_over_without_a_word() -> None:
    class Quadratic(nn.Bilinear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x, x)

    torch.manual_seed(0)
    snapshot = snapshot_of(Problem(Quadratic(4, 4, 3).double(), nn.CrossEntropyLoss(), problems.vectors(6, 4, 3)))
    found = squared_norms(snapshot, cotangents_for(snapshot))
    assert found.route == "vmap"
    assert_same(found, by_hand(snapshot, cotangents_for(snapshot)))


class Net(nn.Module):
    """A hidden layer used in some way of its own."""

    def __init__(self, use: Callable[["Net", Tensor], Tensor]) -> None:
        super().__init__()
        self.hidden, self.head, self.use = nn.Linear(4, 4), nn.Linear(4, 3), use
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, x)


def called_twice(net: Net, x: Tensor) -> Tensor:
    return net.head(net.hidden(net.hidden(x).tanh()).tanh())


def weight_used_outside_its_module(net: Net, x: Tensor) -> Tensor:
    return net.head(net.hidden(x).tanh() + x @ net.hidden.weight)


def input_changed_in_place(net: Net, x: Tensor) -> Tensor:
    doubled = x * 2.0
    hidden = net.hidden(doubled.clone()) + 0.0
    return net.head(hidden.relu_())


def sequence_axis_first(net: Net, x: Tensor) -> Tensor:
    """Six positions and six samples: taking one for the other leaves every shape and every sum as it is."""
    positions = torch.linspace(0.5, 1.5, 6, dtype=x.dtype)[:, None, None] * x
    return net.head(net.hidden(positions).tanh()).square().sum(0)


@pytest.mark.parametrize(
    ("use", "route"),
    [
        (called_twice, "vmap"),
        (weight_used_outside_its_module, "vmap"),
        (input_changed_in_place, "factored"),
        (sequence_axis_first, "vmap"),
    ],
)
def test_a_route_that_would_be_wrong_is_not_taken(use: Callable[[Net, Tensor], Tensor], route: Route) -> None:
    torch.manual_seed(0)
    snapshot = snapshot_of(Problem(Net(use), nn.CrossEntropyLoss(), problems.vectors(6, 4, 3)))
    cotangents = cotangents_for(snapshot)
    found = squared_norms(snapshot, cotangents)
    assert_same(found, by_hand(snapshot, cotangents))
    assert found.route == route


def _mix_by_statistics(net: Net, x: Tensor) -> Tensor:
    hidden = net.hidden(x)
    return net.head((hidden - hidden.mean(0)).tanh())


def _mix_neighbours(net: Net, x: Tensor) -> Tensor:
    return net.head(net.hidden(x).tanh().roll(1, 0))


def _draw_in_evaluation_mode(net: Net, x: Tensor) -> Tensor:
    return net.head(net.hidden(x) * (torch.rand_like(x) < 0.8))


@pytest.mark.parametrize("use", [_mix_by_statistics, _mix_neighbours, _draw_in_evaluation_mode])
def test_a_model_that_mixes_samples_is_not_applicable(use: Callable[[Net, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    snapshot = snapshot_of(Problem(Net(use), nn.CrossEntropyLoss(), problems.vectors(6, 4, 3)))
    with pytest.raises(
        NotApplicable, match=r"per-sample gradients cannot be trusted.*random numbers in evaluation mode"
    ):
        squared_norms(snapshot, cotangents_for(snapshot))


@pytest.mark.parametrize("track", [False, True])
def test_batch_norm_is_only_measured_with_running_statistics(track: bool) -> None:  # noqa: FBT001
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=track), nn.Linear(5, 3)).double()
    snapshot = snapshot_of(Problem(model, nn.CrossEntropyLoss(), problems.vectors(6, 4, 3)))
    cotangents = cotangents_for(snapshot)
    if track:
        found = squared_norms(snapshot, cotangents)
        assert found.route == "factored"
        assert_same(found, by_hand(snapshot, cotangents))
    else:
        with pytest.raises(NotApplicable, match=r"one sample alone raises ValueError: Expected more than 1 value"):
            squared_norms(snapshot, cotangents)


def test_sequences_through_linear_layers_are_factored_either_way() -> None:
    torch.manual_seed(0)
    for width in (3, 24):  # narrow: the gradient is formed; wide: it is not
        model = nn.Sequential(nn.Linear(4, width), nn.LayerNorm([2, 3, width]), nn.GELU(), nn.Linear(width, 3)).double()
        x = torch.randn(5, 2, 3, 4).double()
        snapshot = Snapshot.take(model, 0, ProbeSet(x, torch.zeros(5)), nn.CrossEntropyLoss(), None, 0)
        cotangents = cotangents_for(snapshot)
        found = squared_norms(snapshot, cotangents)
        assert found.route == "factored"
        assert_same(found, by_hand(snapshot, cotangents))


@pytest.mark.parametrize(("t", "p", "q"), [(1, 3, 4), (2, 9, 8), (7, 2, 3)])
def test_factors_are_the_gradient_they_stand_for(t: int, p: int, q: int) -> None:
    left, right = torch.randn(5, t, p).double(), torch.randn(5, t, q).double()
    gradients = torch.einsum("mtp,mtq->mpq", left, right)
    signs = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0]).double()
    torch.testing.assert_close(Factors(left, right).squares(), gradients.square().sum((1, 2)))
    torch.testing.assert_close(Factors(left, right).added(signs), torch.einsum("m,mpq->pq", signs, gradients))
    torch.testing.assert_close(Factors(left[:, 0]).squares(), left[:, 0].square().sum(1))


@pytest.mark.parametrize("kind", [tuple, dict])
def test_models_of_several_inputs_are_measured(kind: type) -> None:
    torch.manual_seed(0)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Embedding(5, 3)

        def forward(self, x: Tensor, ids: Tensor) -> Tensor:
            return self.a(x) * self.b(ids).sum(1)

    x, ids = torch.randn(6, 4).double(), torch.randint(5, (6, 2))
    inputs = (x, ids) if kind is tuple else {"ids": ids, "x": x}
    snapshot = Snapshot.take(Two().double(), 0, ProbeSet(inputs, torch.zeros(6)), nn.CrossEntropyLoss(), None, 0)
    cotangents = cotangents_for(snapshot)
    found = squared_norms(snapshot, cotangents)
    assert found.route == "factored"
    assert_same(found, by_hand(snapshot, cotangents))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("problem", [problems.mlp, problems.conv_batch_norm])
def test_lower_precision_agrees_to_its_digits(problem: Callable[[], Problem], dtype: torch.dtype) -> None:
    double = problem()
    exact = snapshot_of(double)
    cotangents = cotangents_for(exact)
    inputs = double.probe_set.inputs
    assert isinstance(inputs, Tensor)
    probe_set = ProbeSet(inputs.to(dtype), double.probe_set.targets)
    low = Snapshot.take(double.model.to(dtype), 0, probe_set, double.loss_fn, None, 0)
    found = squared_norms(low, cotangents.to(dtype))
    total = sum(squares.sum() for squares in squared_norms(exact, cotangents).by_parameter.values())
    assert sum(squares.sum() for squares in found.by_parameter.values()) == pytest.approx(
        total, rel=20 * torch.finfo(dtype).eps
    )


def test_gradients_are_taken_even_where_they_are_switched_off() -> None:
    snapshot = snapshot_of(problems.mlp())
    cotangents = cotangents_for(snapshot)
    expected = squared_norms(snapshot, cotangents)
    with torch.no_grad():
        assert_same(squared_norms(snapshot, cotangents), expected.by_parameter)


def test_an_error_of_the_model_itself_is_not_hidden() -> None:
    def broken(net: Net, x: Tensor) -> Tensor:
        if net.broken:
            raise RuntimeError("the sensor is gone")
        return net.head(net.hidden(x))

    net = Net(broken)
    net.broken = False
    snapshot = snapshot_of(Problem(net, nn.CrossEntropyLoss(), problems.vectors(6, 4, 3)))
    cotangents = cotangents_for(snapshot)
    snapshot.model.broken = True
    with pytest.raises(RuntimeError, match="the sensor is gone"):
        squared_norms(snapshot, cotangents)


CONVOLUTIONS: list[tuple[str, nn.Module, tuple[int, ...]]] = [
    ("padded", nn.Conv2d(2, 3, 3, padding=1), (2, 5, 4)),
    ("strided and dilated", nn.Conv2d(2, 3, 2, stride=2, dilation=2, bias=False), (2, 7, 6)),
    ("of sequences", nn.Conv1d(2, 3, 3, padding=2, stride=2), (2, 9)),
    ("of volumes", nn.Conv3d(2, 3, 2, padding=1), (2, 3, 4, 3)),
    ("in groups", nn.Conv2d(4, 6, 3, groups=2), (4, 5, 5)),
    ("of each channel apart", nn.Conv1d(4, 8, 3, groups=4, stride=3), (4, 9)),
    ("of the same size", nn.Conv2d(2, 3, (2, 3), padding="same", dilation=(1, 2)), (2, 5, 6)),
    ("without padding, by name", nn.Conv2d(2, 3, 3, padding="valid"), (2, 5, 4)),
    ("around a circle", nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="circular"), (2, 5, 6)),
    ("in a mirror", nn.Conv1d(2, 3, 3, padding=2, padding_mode="reflect"), (2, 7)),
    ("of few places and many channels", nn.Conv2d(8, 16, 3, padding=1), (8, 2, 3)),
    ("of few places in a sequence", nn.Conv1d(8, 16, 3, dilation=2, stride=2), (8, 9)),
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even")
@pytest.mark.parametrize(("what", "module", "shape"), CONVOLUTIONS, ids=[c[0] for c in CONVOLUTIONS])
def test_a_convolution_is_a_linear_layer_on_patches(what: str, module: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(module, nn.Tanh(), nn.Flatten(), nn.LazyLinear(4)).double()
    x = torch.randn(5, *shape, dtype=torch.float64)
    model(x)
    snapshot = Snapshot.take(model, 0, ProbeSet(x, torch.zeros(5, dtype=torch.long)), nn.CrossEntropyLoss(), None, 0)
    cotangents = torch.randn(5, 2, 4, dtype=torch.float64)
    found = squared_norms(snapshot, cotangents)
    assert (found.route, found.why) == ("factored", "")
    assert_same(found, squared_norms(snapshot, cotangents, route="loop").by_parameter)


@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4), nn.BatchNorm1d(4), nn.LayerNorm(4), nn.RMSNorm(4)], ids=type)
def test_normalisations_have_a_rule(norm: nn.Module) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), norm, nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    snapshot = Snapshot.take(model, 0, ProbeSet(x, torch.zeros(6, dtype=torch.long)), nn.CrossEntropyLoss(), None, 0)
    cotangents = torch.randn(6, 2, 2, dtype=torch.float64)
    found = squared_norms(snapshot, cotangents)
    assert found.route == "factored"
    assert_same(found, squared_norms(snapshot, cotangents, route="loop").by_parameter)


def test_an_embedding_adds_up_the_gradients_of_a_token_that_comes_twice() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 3, padding_idx=0), nn.Flatten(), nn.Linear(12, 2)).double()
    tokens = torch.tensor([[1, 1, 2, 0], [3, 1, 3, 3], [0, 0, 4, 1]])
    probe_set = ProbeSet(tokens, torch.zeros(3, dtype=torch.long))
    snapshot = Snapshot.take(model, 0, probe_set, nn.CrossEntropyLoss(), None, 0)
    cotangents = torch.randn(3, 2, 2, dtype=torch.float64)
    found = squared_norms(snapshot, cotangents)
    assert found.route == "factored"
    assert_same(found, squared_norms(snapshot, cotangents, route="loop").by_parameter)


def test_a_module_without_a_rule_is_named() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose1d(2, 3, 2), nn.Flatten(), nn.Linear(12, 2)).double()
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    snapshot = Snapshot.take(model, 0, ProbeSet(x, torch.zeros(5, dtype=torch.long)), nn.CrossEntropyLoss(), None, 0)
    found = squared_norms(snapshot, cotangents_for(snapshot))
    assert (found.route, found.why) == ("vmap", "not factored: no rule for ConvTranspose1d at 0")
    assert squared_norms(snapshot_of(problems.lstm()), cotangents_for(snapshot_of(problems.lstm()))).why.startswith(
        "not factored: no rule for LSTM at"
    )


def test_the_memory_of_a_sample_is_what_its_graph_holds() -> None:
    model = nn.Sequential(nn.Linear(100, 50), nn.Tanh(), nn.Linear(50, 10)).double()
    x = torch.randn(7, 100, dtype=torch.float64)
    snapshot = Snapshot.take(model, 0, ProbeSet(x, torch.zeros(7, dtype=torch.long)), nn.CrossEntropyLoss(), None, 0)
    assert bytes_of_a_sample(snapshot) == (100 + 50) * 8, (
        "what the first layer was given, and what tanh gave the second"
    )


def classified(model: nn.Module, x: Tensor) -> Snapshot:
    targets = torch.zeros(len(x), dtype=torch.long)
    return Snapshot.take(model, 0, ProbeSet(x, targets), nn.CrossEntropyLoss(), None, 0)


class Placed(nn.Module):
    """Positions that are embedded once for the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.place, self.head = nn.Embedding(3, 4), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x + self.place(torch.arange(3)[None])).flatten(1))


def test_a_module_that_is_run_once_for_all_samples_is_noticed_before_anything_is_indexed() -> None:
    torch.manual_seed(0)
    snapshot = classified(Placed().double(), torch.randn(6, 3, 4, dtype=torch.float64))
    cotangents = cotangents_for(snapshot)
    found = squared_norms(snapshot, cotangents)
    assert (found.route, found.why) == ("vmap", "not factored: place is not given one row a sample")
    assert_same(found, by_hand(snapshot, cotangents))


class Attention(nn.Module):
    """With a bias to its keys, by which no output changes."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x)).mean(1)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Attention(), (7, 4)),
        (nn.Sequential(nn.Conv1d(2, 3, 3), nn.InstanceNorm1d(3), nn.Flatten(), nn.Linear(15, 2)), (2, 7)),
        (nn.Sequential(nn.Conv1d(2, 3, 3), nn.GroupNorm(3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(15, 2)), (2, 7)),
    ],
    ids=["bias of keys", "bias before instance normalisation", "bias before group normalisation"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gradient_that_is_zero_but_for_rounding_is_no_reason_to_refuse(
    model: nn.Module, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    snapshot = classified(model.to(dtype), torch.randn(9, *shape, dtype=dtype))
    assert squared_norms(snapshot, cotangents_for(snapshot)).route == "factored"


def test_a_weight_that_few_samples_use_a_second_time_is_found_in_the_graph() -> None:
    class Rare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            again = torch.nn.functional.linear(x, self.a.weight).tanh()
            return self.b(self.a(x).tanh()) + (x[:, :1] > 2.5) * torch.nn.functional.linear(again, self.b.weight)

    torch.manual_seed(0)
    x = torch.randn(60, 4, dtype=torch.float64)
    x[0, 0] = 3.0
    snapshot = classified(Rare().double(), x)
    cotangents = cotangents_for(snapshot)
    found = squared_norms(snapshot, cotangents)
    assert (found.route, found.why) == ("vmap", "not factored: b.weight is used beside its module")
    assert_same(found, by_hand(snapshot, cotangents))


def test_a_model_that_mixes_only_large_batches_is_not_applicable() -> None:
    """Experts of limited capacity: which samples they take depends on all others, and a few alone never fill them."""

    class Capacity(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.expert, self.head = nn.Linear(4, 1), nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            gate = self.gate(x)
            taken = gate >= gate.sort(0, descending=True).values[min(8, len(gate) - 1)]
            return self.head(x) + taken * gate * self.expert(x)

    torch.manual_seed(0)
    snapshot = classified(Capacity().double(), torch.randn(40, 4, dtype=torch.float64))
    with pytest.raises(NotApplicable, match="outputs depend on the samples beside it"):
        squared_norms(snapshot, cotangents_for(snapshot), route="vmap")


def test_a_cotangent_that_vanishes_certifies_nothing() -> None:
    torch.manual_seed(0)
    snapshot = snapshot_of(Problem(Net(sequence_axis_first), nn.CrossEntropyLoss(), problems.vectors(6, 4, 3)))
    cotangents = cotangents_for(snapshot)
    cotangents[:, 0] = 0
    found = squared_norms(snapshot, cotangents)
    assert found.route == "vmap"
    assert_same(found, by_hand(snapshot, cotangents))


def test_convolutions_form_no_more_gradients_at_once_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = snapshot_of(problems.conv_batch_norm())
    cotangents = cotangents_for(snapshot, 3)
    whole = squared_norms(snapshot, cotangents, route="factored")
    monkeypatch.setattr(factors, "GRADIENT_BYTES", 1)
    assert_same(squared_norms(snapshot, cotangents, route="factored"), whole.by_parameter)


def test_inner_products_that_cancel_are_noticed() -> None:
    """‖Σ_t δ_t a_tᵀ‖² from inner products loses its digits where Σ δ is zero and a far from it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(32, 32, 3), nn.InstanceNorm1d(32), nn.Flatten(), nn.Linear(32 * 6, 2))
    snapshot = classified(model, torch.randn(6, 32, 8) + 3000)
    with pytest.raises(NotApplicable, match="cannot be trusted"):
        squared_norms(snapshot, cotangents_for(snapshot), route="factored")
