"""Pre-activations: each is seen once, before it is used, under a stable name; and nothing is left behind."""

import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from probe_agent.estimators.activations import fused, see_activations
from tests.curvature_problems import Encoder, Recurrent, normal, same_state, state_of


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def seen(model: nn.Module, x: Tensor) -> list[tuple[str, str, Tensor]]:
    found: list[tuple[str, str, Tensor]] = []
    with torch.no_grad():
        see_activations(model.eval(), lambda: model(x), lambda *what: found.append((*what[:2], what[2].clone())))
    return found


def names(model: nn.Module, x: Tensor) -> list[tuple[str, str]]:
    return [(layer, function) for layer, function, _ in seen(model, x)]


class Between(nn.Module):
    """Two linear layers with any function between them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.function(self.first(x)))


SPELLINGS: dict[str, list[Callable[[Tensor], Tensor]]] = {
    "relu": [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        F.relu,
        F.relu_,
        lambda z: F.relu(z, inplace=True),
        torch.relu,
        torch.relu_,
        Tensor.relu,
        Tensor.relu_,
        lambda z: F.relu(input=z),
    ],
    "leaky_relu": [nn.LeakyReLU(), nn.LeakyReLU(inplace=True), F.leaky_relu, F.leaky_relu_],
    "prelu": [nn.PReLU(), lambda z: F.prelu(z, torch.ones(1))],
    "gelu": [nn.GELU(), F.gelu, nn.GELU("tanh")],
    "silu": [nn.SiLU(), nn.SiLU(inplace=True), F.silu],
    "mish": [nn.Mish(), F.mish],
    "tanh": [nn.Tanh(), torch.tanh, Tensor.tanh, Tensor.tanh_, F.tanh],
    "sigmoid": [nn.Sigmoid(), torch.sigmoid, Tensor.sigmoid, F.sigmoid],
    "elu": [nn.ELU(), F.elu, nn.ELU(inplace=True)],
    "selu": [nn.SELU(), F.selu, torch.selu],
    "celu": [nn.CELU(), F.celu],
    "softplus": [nn.Softplus(), F.softplus],
    "hardswish": [nn.Hardswish(), F.hardswish],
    "hardtanh": [nn.Hardtanh(), nn.ReLU6(), F.hardtanh],
    "relu6": [F.relu6],
    "threshold": [nn.Threshold(0.1, 0.0), lambda z: F.threshold(z, 0.1, 0.0)],
}


@pytest.mark.parametrize("function", SPELLINGS)
def test_every_spelling_is_seen_once_and_before_it_is_used(function: str) -> None:
    x = torch.randn(6, 4)
    for spelling in SPELLINGS[function]:
        model = Between(spelling)
        [(layer, name, z)] = seen(model, x)
        assert (layer, name) == ("first", function)
        assert torch.equal(z, model.first(x))


def test_what_is_no_activation_function_is_not_seen() -> None:
    model = nn.Sequential(
        nn.Linear(4, 5), nn.LayerNorm(5), nn.Dropout(), nn.Softmax(dim=1), nn.Linear(5, 3), nn.LogSoftmax(dim=1)
    )
    assert seen(model, torch.randn(6, 4)) == []


def test_layers_are_named_as_their_parameters_are() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.PReLU()),
    )
    assert names(model, torch.randn(2, 2, 8, 8)) == [("1", "relu"), ("4.0", "prelu")]


def test_a_residual_block_names_the_layer_that_ran_last() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.shortcut = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.b(F.relu(self.a(x))) + self.shortcut(x))

    assert names(nn.Sequential(Residual()), torch.randn(2, 4)) == [("0.a", "relu"), ("0.shortcut", "relu")]


def test_repeats_in_one_pass_are_numbered_and_passes_start_anew() -> None:
    model = Between(lambda z: torch.tanh(F.relu(F.relu(z))))
    expected = [("first", "relu"), ("first#2", "relu"), ("first#3", "tanh")]
    assert names(model, torch.randn(2, 4)) == expected
    assert names(model, torch.randn(2, 4)) == expected


def test_a_shared_layer_is_numbered_by_its_runs() -> None:
    linear = nn.Linear(4, 4)
    model = nn.Sequential(linear, nn.ReLU(), linear, nn.ReLU())
    assert names(model, torch.randn(2, 4)) == [("0", "relu"), ("0#2", "relu")]


def test_parameters_used_directly_name_their_module() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return (x @ self.weight).relu()

    assert names(nn.Sequential(nn.Linear(4, 4), Dense()), torch.randn(2, 4)) == [("1", "relu")]
    assert names(Dense(), torch.randn(2, 4)) == [("root", "relu")]
    assert names(nn.Sequential(nn.ReLU(), nn.Linear(4, 4)), torch.randn(2, 4)) == [("input", "relu")]


def test_a_parametrised_layer_keeps_its_name() -> None:
    model = nn.Sequential(weight_norm(nn.Linear(4, 4, bias=False)), nn.ReLU())
    assert names(model, torch.randn(2, 4)) == [("0", "relu")]


def test_an_encoder_layer_shows_its_activation_off_the_fused_path() -> None:
    model = Encoder().eval()
    assert torch.backends.mha.get_fastpath_enabled()
    assert names(model, torch.randn(2, 3, 4)) == [("layer.linear1", "relu")]


def test_fused_layers_are_out_of_sight_and_said_to_be() -> None:
    model = nn.Sequential(Recurrent(), nn.ReLU(), nn.GRUCell(3, 2))
    assert names(model[0], torch.randn(2, 5, 3)) == []
    assert fused(model) == ["GRUCell", "LSTM"]
    assert fused(nn.Sequential(nn.Linear(2, 2), nn.ReLU())) == []


def link(model: nn.Module) -> str | None:
    with torch.no_grad():
        return see_activations(model, lambda: model(torch.randn(6, 4)), lambda *_: None)


def test_a_link_function_is_told_from_a_hidden_one() -> None:
    assert link(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1), nn.Sigmoid())) == "2"
    assert link(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1), nn.Sigmoid(), nn.Flatten(0))) == "2"
    assert link(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))) is None
    assert link(nn.Sequential(nn.Linear(4, 5), nn.ReLU())) is None  # a bend at zero is a bend of the network


def test_nothing_is_kept_of_what_was_seen() -> None:
    kept: list[weakref.ref[Tensor]] = []
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3))
    with torch.no_grad():
        see_activations(model, lambda: model(torch.randn(6, 4)), lambda *what: kept.append(weakref.ref(what[2])))
    assert [ref() for ref in kept] == [None, None]


def test_hooks_and_mode_are_gone_even_when_the_model_raises() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(6, 3))
    before = state_of(model)
    found: list[str] = []
    with pytest.raises(RuntimeError, match="shapes"):
        see_activations(model, lambda: model(torch.ones(2, 4)), lambda *what: found.append(what[0]))
    assert same_state(before, state_of(model))
    torch.relu(normal(3))
    assert found == ["0"]
