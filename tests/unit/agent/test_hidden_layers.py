"""Features of the hidden layers: the right tensors under the right names, in one pass, with nothing left behind."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from probe_agent.errors import NotApplicable
from probe_agent.estimators import features
from probe_agent.estimators.features import HiddenLayers, features_of, hidden_layers
from probe_agent.estimators.ranks import spectrum
from probe_agent.probes.features import Features
from probe_agent.probes.reconstruction import Reconstruction
from probe_agent.snapshot import Snapshot
from tests.curvature_problems import KINDS, kind, labels, normal, same_state, snapshot_of, state_of


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def at(model: nn.Module, x: Tensor) -> Snapshot:
    return snapshot_of(model.double(), x, labels(len(x)))


def seen(model: nn.Module, x: Tensor) -> HiddenLayers:
    return hidden_layers(at(model, x), 1024)


class By(nn.Module):
    """A first and a last linear layer, and any function between them."""

    def __init__(self, between: Callable[[Tensor], Tensor], width: int = 5) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 5), nn.Linear(width, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self.first(x)))


ACTIVATIONS: list[Callable[[Tensor], Tensor]] = [
    nn.ReLU(),
    nn.ReLU(inplace=True),
    F.relu_,
    torch.tanh,
    Tensor.sigmoid,
    nn.LeakyReLU(0.3, inplace=True),
    nn.GELU(),
    lambda z: F.elu(z, 2.0),
]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_features_are_what_the_activation_function_gave(activation: Callable[[Tensor], Tensor]) -> None:
    x, model = normal(9, 4), By(activation)
    found = seen(model, x)
    with torch.no_grad():
        expected = activation(model.first(x))
    assert list(found.by_layer) == ["first"]
    assert torch.equal(found.by_layer["first"].matrix, expected)
    assert torch.equal(found.by_layer["first"].magnitudes, expected.abs())
    assert found.last is found.by_layer["first"]
    assert found.where == "after first"


def in_place(z: Tensor) -> Tensor:
    h = torch.relu(z)
    h += 1
    return h


def test_an_activation_changed_in_place_is_no_longer_the_same_features() -> None:
    x = normal(9, 4)
    for between in (in_place, lambda z: torch.relu(z) + 1):
        model = By(between)
        found = seen(model, x)
        with torch.no_grad():
            h = torch.relu(model.first(x))
        assert torch.equal(found.by_layer["first"].matrix, h)
        assert torch.equal(found.last.matrix, h + 1)
        assert found.where == "input of head"


def test_memory_given_to_another_tensor_does_not_pass_for_the_activation() -> None:
    found = seen(By(lambda z: (torch.relu(z) * 2) - 1), normal(9, 4))
    assert found.where == "input of head"


LAST = {
    "MLP": "after 0",
    "in-place ReLU": "after 0",
    "unused parameter": "outputs",
    "LayerNorm": "after 1",
    "GroupNorm": "after 1",
    "TransformerEncoderLayer": "input of head",
    "GPT with fused attention": "input of head",
    "LSTM": "input of head",
}


@pytest.mark.parametrize("name", LAST)
def test_the_last_hidden_layer_is_what_the_last_layer_takes(name: str) -> None:
    assert hidden_layers(kind(name), 1024).where == LAST[name]


def test_a_last_layer_whose_weight_is_reparametrised_is_a_layer() -> None:
    class Normed(By):
        def __init__(self) -> None:
            super().__init__(lambda z: torch.relu(z) + 1)
            self.head = weight_norm(nn.Linear(5, 3, bias=False))

    assert seen(Normed(), normal(9, 4)).where == "input of head"


def test_without_a_hidden_layer_the_outputs_are_taken() -> None:
    x, model = normal(9, 4), nn.Sequential(nn.Linear(4, 3))
    found = seen(model, x)
    assert (dict(found.by_layer), found.where) == ({}, "outputs")
    assert torch.equal(found.last.matrix, model(x).detach())


def test_a_network_of_bare_parameters_is_known_by_its_last_activation() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.v = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(5, 3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x @ self.w) @ self.v

    assert seen(Bare(), normal(9, 4)).where == "after root"


def test_a_link_function_is_no_hidden_layer() -> None:
    found = seen(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1), nn.Sigmoid()), normal(9, 4))
    assert list(found.by_layer) == ["0"]


def test_a_wide_layer_keeps_inner_products_that_have_the_same_spectrum(monkeypatch: pytest.MonkeyPatch) -> None:
    h = normal(12, 40)
    monkeypatch.setattr(features, "BLOCK_BYTES", 8 * 12 * 7)  # seven columns at a time
    wide = features_of(h)
    assert wide.is_gram
    torch.testing.assert_close(wide.matrix, h @ h.T)
    for centred in (False, True):
        of = spectrum(wide, centred=centred)
        singular = torch.linalg.svdvals(h - centred * h.mean(0))
        torch.testing.assert_close(of.squares, singular[: len(of.squares)].square())
        assert len(of.squares) == 12 - centred


def test_units_are_channels_of_convolutions_and_entries_of_the_last_axis_elsewhere() -> None:
    conv = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)).eval()
    x = normal(7, 2, 5, 5)
    found = seen(conv, x).by_layer["1"]
    with torch.no_grad():
        expected = conv[:3](x).abs().mean((2, 3))
    torch.testing.assert_close(found.magnitudes, expected)
    assert found.width == 36

    sequence = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(30, 3))
    x = normal(7, 6, 4)
    with torch.no_grad():
        found = seen(sequence, x).by_layer["0"]
        expected = sequence[:2](x).abs().mean(1)
    torch.testing.assert_close(found.magnitudes, expected)


def test_samples_are_found_behind_time_and_inside_a_folded_batch() -> None:
    class TimeFirst(By):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.first(x.transpose(0, 1))).mean(0))

    class Folded(By):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.first(x.flatten(0, 1))).unflatten(0, x.shape[:2]).mean(1))

    x = normal(7, 6, 4)
    for make in (TimeFirst, Folded):
        model = make(nn.Identity())
        found = seen(model, x).by_layer["first"]
        with torch.no_grad():
            h = torch.relu(model.first(x))
        torch.testing.assert_close(found.magnitudes, h.abs().mean(1))
        torch.testing.assert_close(found.matrix, h.flatten(1) @ h.flatten(1).T)


def test_frames_folded_into_the_batch_of_a_convolution_keep_their_channels() -> None:
    class Video(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(2, 4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.conv(x.flatten(0, 1)))
            return self.head(h.unflatten(0, x.shape[:2]).mean((1, 3, 4)))

    model, x = Video(), normal(7, 3, 2, 5, 5)
    found = seen(model, x).by_layer["conv"]
    with torch.no_grad():
        expected = torch.relu(model.conv(x.flatten(0, 1))).abs().unflatten(0, (7, 3)).mean((1, 3, 4))
    torch.testing.assert_close(found.magnitudes, expected)


def test_both_probes_share_one_forward_pass_which_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = kind("GroupNorm", 12)
    passes: list[int] = []
    outputs = Snapshot.outputs
    monkeypatch.setattr(Snapshot, "outputs", lambda self, *a, **k: passes.append(1) or outputs(self, *a, **k))
    before = state_of(snapshot.model)
    for probe in (Reconstruction(), Features()):
        list(probe.measure(snapshot, {}))
    assert len(passes) == 1
    assert same_state(before, state_of(snapshot.model))


def test_hooks_are_removed_when_the_model_raises() -> None:
    class Breaks(By):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError(str(self.first(x).shape))

    snapshot = at(Breaks(nn.ReLU()), normal(9, 4))
    before = state_of(snapshot.model)
    with pytest.raises(RuntimeError):
        hidden_layers(snapshot, 64)
    assert same_state(before, state_of(snapshot.model))


def test_only_as_many_samples_as_asked_for_are_used() -> None:
    snapshot = at(By(nn.ReLU()), normal(30, 4))
    assert hidden_layers(snapshot, 10).n == len(hidden_layers(snapshot, 10).last.matrix) == 10


def test_too_few_samples_and_none_at_all_are_not_applicable() -> None:
    with pytest.raises(NotApplicable, match="Got 3 samples; features need at least 4"):
        seen(By(nn.ReLU()), normal(3, 4))

    class Pooled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean().tanh()

    with pytest.raises(NotApplicable, match="no hidden layer has an axis of 9 samples"):
        seen(Pooled(), normal(9, 4))


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_model_gives_the_same_columns_every_time(name: str) -> None:
    snapshot = kind(name, 12)
    for probe in (Reconstruction(), Features()):
        one, other = ([(m.quantity.name, m.labels, m.settings) for m in probe.measure(snapshot, {})] for _ in range(2))
        assert one == other
        assert {name for name, _, _ in one} == {q.name for q in probe.quantities}
