"""Local complexity against closed forms, the published count, and its own error bar."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from probe_agent.errors import NotApplicable
from probe_agent.estimators import local_complexity
from probe_agent.estimators.draws import mean_of
from probe_agent.estimators.local_complexity import FRAMES, crossed_by, crossings, frames
from probe_agent.probe import Measurement, Memory
from probe_agent.probe_set import ProbeSet
from probe_agent.probes.local_complexity import AUTOMATIC, LocalComplexity
from probe_agent.snapshot import Snapshot
from probe_wire import Column, Outcome
from tests.curvature_problems import Encoder, Recurrent, labels, normal, randomised, same_state, snapshot_of, state_of


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def mlp(d: int = 8, width: int = 30) -> nn.Module:
    return nn.Sequential(
        nn.Linear(d, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)
    ).double()


def at(model: nn.Module, x: Tensor, seed: int = 0) -> Snapshot:
    return snapshot_of(model, x, labels(len(x)), seed=seed)


def measured(snapshot: Snapshot, memory: Memory | None = None, **settings: Any) -> list[Measurement]:
    """Local complexity of the probe inputs at the larger radius, whole and by layer."""
    return [
        m
        for m in everything(snapshot, memory, **settings)
        if m.quantity.name == "local_complexity" and not {"radius", "split"} & set(m.labels)
    ]


def everything(snapshot: Snapshot, memory: Memory | None = None, **settings: Any) -> list[Measurement]:
    return list(LocalComplexity(**settings).measure(snapshot, {} if memory is None else memory))


def published(model: nn.Module, modules: list[str], x: Tensor, frame: Tensor, r: float) -> Tensor:
    """The count as Humayun et al. publish it: signs that differ from the first vertex's, by layer and point."""
    vertices = torch.cat([x.flatten(1)[:, None] + r * frame, x.flatten(1)[:, None] - r * frame], dim=1)
    outputs: list[Tensor] = []
    hooks = [model.get_submodule(name).register_forward_hook(lambda *a: outputs.append(a[2])) for name in modules]
    with torch.no_grad():
        model.eval()(vertices.reshape(-1, *x.shape[1:]))
    for hook in hooks:
        hook.remove()
    signs = [z.sign().reshape(len(x), vertices.shape[1], -1) for z in outputs]
    return torch.stack([(s != s[:, :1]).any(dim=1).sum(dim=1) for s in signs])


@pytest.mark.parametrize("radius", [0.01, 0.1, 1, 10])
def test_the_first_layer_has_a_closed_form(radius: float) -> None:
    x, model = normal(20, 8), mlp()
    snapshot = at(model, x)
    frame = frames(snapshot.generator(FRAMES), x, 5)
    linear = model[0]
    reach = torch.einsum("npd,ud->nup", frame, linear.weight).abs().amax(dim=2)
    expected = (linear(x).abs() <= radius * reach).sum(dim=1)
    found = crossings(snapshot, x, radius=radius, directions=5)
    assert found.by_layer["0"].tolist() == expected.tolist()


@pytest.mark.parametrize("radius", [0.01, 0.3, 3])
def test_the_count_is_the_published_one(radius: float) -> None:
    dense, x = mlp(), normal(9, 8)
    with torch.no_grad():
        dense[2].weight[:5] = 0  # pre-activations that are zero at every vertex, and others that never move
        dense[2].bias[:3] = 0
    conv = randomised(
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Flatten())
    )
    for model, points, modules in ((dense, x, ["0", "2"]), (conv, normal(5, 2, 7, 7), ["1", "3"])):
        snapshot = at(model, points)
        frame = frames(snapshot.generator(FRAMES), points, 6)
        found = crossings(snapshot, points, radius=radius, directions=6)
        assert list(found.by_layer) == modules
        expected = published(model, modules, points, frame, radius)
        assert np.array_equal(np.stack(list(found.by_layer.values())), expected.numpy())


def test_axis_aligned_hyperplanes_are_counted_by_their_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    axes = torch.eye(12, dtype=torch.float64)
    monkeypatch.setattr(local_complexity, "frames", lambda *_: axes.expand(1, 12, 12))
    model = nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3)).double()
    with torch.no_grad():
        model[0].weight.copy_(axes)
        model[0].bias.copy_(torch.linspace(-1, 1, 12))
    snapshot = at(model, torch.zeros(1, 12, dtype=torch.float64))
    points = snapshot.probe_set.inputs
    for radius, crossed in ((0.05, 0), (0.1, 2), (0.5, 6), (1, 12)):
        assert crossings(snapshot, points, radius=radius, directions=12).by_layer["0"].tolist() == [crossed]


def test_gaussian_units_are_crossed_as_often_as_theory_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a bias and with x ⟂ frame, ‖x‖ = R: E[erf(rM / (R√2))], M the largest of P half-normals."""
    d, p, units, radius, length = 100, 25, 20000, 1.5, 3.0
    basis = torch.linalg.qr(normal(d, p + 1)).Q.T
    monkeypatch.setattr(local_complexity, "frames", lambda *_: basis[1:].unsqueeze(0))
    model = nn.Sequential(nn.Linear(d, units, bias=False), nn.ReLU(), nn.Linear(units, 3)).double()
    with torch.no_grad():
        model[0].weight.copy_(normal(units, d, seed=1))
    x = length * basis[:1]
    crossed = crossings(at(model, x), x, radius=radius, directions=p).by_layer["0"][0] / units
    largest = normal(100_000, p, seed=2).abs().amax(dim=1)
    expected = float(torch.erf(radius * largest / (length * math.sqrt(2))).mean())
    assert crossed == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / units))


def test_rescaling_a_unit_and_undoing_it_in_the_next_layer_changes_nothing() -> None:
    x, model, scaled = normal(16, 8), mlp(), mlp()
    scaled.load_state_dict(model.state_dict())
    factors = 0.1 + 3 * torch.rand(30, dtype=torch.float64)
    with torch.no_grad():
        scaled[0].weight.mul_(factors[:, None])
        scaled[0].bias.mul_(factors)
        scaled[2].weight.div_(factors)
    one, other = (crossings(at(m, x), x, radius=0.3) for m in (model, scaled))
    assert all(np.array_equal(one.by_layer[layer], other.by_layer[layer]) for layer in one.by_layer)


def test_permuting_units_changes_nothing() -> None:
    x, model, permuted = normal(16, 8), mlp(), mlp()
    permuted.load_state_dict(model.state_dict())
    order = torch.randperm(30)
    with torch.no_grad():
        permuted[0].weight.copy_(model[0].weight[order])
        permuted[0].bias.copy_(model[0].bias[order])
        permuted[2].weight.copy_(model[2].weight[:, order])
    one, other = (crossings(at(m, x), x, radius=0.3) for m in (model, permuted))
    assert all(np.array_equal(one.by_layer[layer], other.by_layer[layer]) for layer in one.by_layer)


def test_the_first_layer_only_gains_with_the_radius() -> None:
    x = normal(16, 8)
    snapshot = at(mlp(), x)
    counts = [crossings(snapshot, x, radius=r).by_layer["0"] for r in (0.01, 0.05, 0.2, 1, 5)]
    assert all((a <= b).all() for a, b in pairwise(counts))
    assert counts[0].sum() < counts[-1].sum()


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7, 100])
def test_the_chunk_does_not_matter(chunk: int) -> None:
    x = normal(7, 8)
    snapshot = at(mlp(), x)
    whole = crossings(snapshot, x, radius=0.5, directions=4)
    row = 2 * 4 * 30 * 8
    parts = crossings(snapshot, x, radius=0.5, directions=4, chunk_bytes=chunk * row)
    assert all(np.array_equal(whole.by_layer[layer], parts.by_layer[layer]) for layer in whole.by_layer)
    assert all(counts.min() > 0 for counts in parts.by_layer.values())


class Spelled(nn.Module):
    """Two hidden layers, one of them residual, with the activation function spelled as one likes."""

    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 20), nn.Linear(20, 20), nn.Linear(20, 3)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.a(x))
        return self.c(self.activation(x + self.b(x)))


def test_modules_functions_and_in_place_activations_count_alike() -> None:
    x = normal(10, 8)
    spellings = [nn.ReLU(), nn.ReLU(inplace=True), F.relu, torch.relu, Tensor.relu_, nn.LeakyReLU(), nn.PReLU(init=0.0)]
    state, counts = Spelled(F.relu).state_dict(), []
    for activation in spellings:
        model = Spelled(activation).double()
        model.load_state_dict(state, strict=False)
        if isinstance(activation, nn.LeakyReLU):
            activation.negative_slope = 0.0
        found = crossings(at(model, x), x, radius=0.5)
        assert list(found.by_layer) == ["a", "b"]
        counts.append(np.stack(list(found.by_layer.values())))
    assert all(np.array_equal(counts[0], other) for other in counts)
    assert counts[0].min() > 0


def test_frames_are_orthonormal_and_each_points_own() -> None:
    snapshot = at(mlp(), normal(6, 8))
    found = frames(snapshot.generator(FRAMES), normal(6, 8), 5)
    assert found.shape == (6, 5, 8)
    torch.testing.assert_close(found @ found.mT, torch.eye(5, dtype=torch.float64).expand(6, 5, 5))
    assert not torch.allclose(found[0], found[1])


def test_there_are_no_more_directions_than_dimensions() -> None:
    x = normal(4, 8)
    assert crossings(at(mlp(), x), x, radius=0.1, directions=25).directions == 8
    assert measured(at(mlp(), x))[0].settings["directions"] == "8"


def test_a_model_that_takes_gradients_in_its_forward_pass_is_counted_as_one_that_does_not() -> None:
    class Residual(nn.Module):
        """Of a differential equation: u′ + u."""

        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                u = self.net(x)
                return u + torch.autograd.grad(u.sum(), x, create_graph=True)[0][:, :3]

    net, x = mlp(), normal(24, 8)
    ours, theirs = (list(LocalComplexity().measure(at(model, x), {})) for model in (Residual(net), net))
    assert [m.estimate.value for m in ours[:3]] == [m.estimate.value for m in theirs[:3]]


def test_a_dead_layer_is_never_crossed() -> None:
    x, model = normal(6, 8), mlp()
    with torch.no_grad():
        model[2].bias.fill_(-1e6)
    assert crossings(at(model, x), x, radius=0.1).by_layer["2"].sum() == 0


def test_a_sigmoid_that_gives_the_output_is_not_a_layer() -> None:
    x = normal(6, 8)
    model = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 784), nn.Sigmoid()).double()
    assert list(crossings(at(model, x), x, radius=0.1).by_layer) == ["0"]


def test_the_batch_is_found_on_any_axis_or_folded() -> None:
    class Sequence(nn.Module):
        def __init__(self, arrange: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.up, self.down, self.arrange, self.back = nn.Linear(4, 6), nn.Linear(6, 3), arrange, back

        def forward(self, x: Tensor) -> Tensor:
            return self.back(self.down(F.relu(self.up(self.arrange(x))))).mean(dim=1)

    x = normal(5, 3, 4)
    arrangements = (
        (lambda t: t, lambda t: t),
        (lambda t: t.transpose(0, 1), lambda t: t.transpose(0, 1)),
        (lambda t: t.flatten(0, 1), lambda t: t.unflatten(0, (-1, 3))),
    )
    counts = []
    state = Sequence(*arrangements[0]).double().state_dict()
    for arrangement in arrangements:
        model = Sequence(*arrangement).double()
        model.load_state_dict(state)
        counts.append(crossings(at(model, x), x, radius=0.5).by_layer["up"].tolist())
    assert counts[0] == counts[1] == counts[2]
    assert sum(counts[0]) > 0


def test_activations_of_something_else_than_the_inputs_are_left_out() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Linear(1, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            bias = F.relu(self.table(torch.ones(3, 1, dtype=x.dtype)))
            return self.head(F.relu(x + bias.sum(dim=0)))

    x = normal(6, 8)
    assert list(crossings(at(Positions().double(), x), x, radius=0.1).by_layer) == ["table#2"]


def test_points_that_are_not_looked_around_still_tell_which_units_are_alive() -> None:
    x, model = normal(64, 8), mlp()
    snapshot = at(model, x)
    found = crossings(snapshot, x, radius=1e-3, around=5)
    first = crossings(snapshot, x[:5], radius=1e-3, centres=False)
    for layer, counts in found.by_layer.items():
        assert np.array_equal(counts, first.by_layer[layer])
    hidden = model[0](x).detach()
    groups = torch.arange(64) * 8 // 64
    expected = torch.stack([(hidden[groups == g] > 0).any(0) for g in range(8)]).numpy()
    vertices = torch.cat([x[:5, None] + s * 1e-3 * frames(snapshot.generator(FRAMES), x[:5], 8) for s in (1, -1)], 1)
    expected[0] |= (model[0](vertices).detach() > 0).flatten(0, 1).any(0).numpy()
    assert np.array_equal(found.alive["0"], expected)
    assert not expected.all()


@pytest.mark.parametrize("points", [1, 3, 8, 11, 29])
def test_groups_of_points_do_not_depend_on_the_chunk(points: int) -> None:
    x = normal(points, 8)
    snapshot = at(mlp(), x)
    whole, parts = (crossings(snapshot, x, radius=0.2, chunk_bytes=size) for size in (2**24, 1))
    assert all(np.array_equal(whole.alive[layer], parts.alive[layer]) for layer in whole.alive)
    assert whole.alive["0"].shape == (min(points, 8), 30)


def test_kept_frames_are_those_that_would_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(12, 8)
    snapshot = at(mlp(), x)
    drawn = crossings(snapshot, x, radius=0.3, directions=5)
    memory: Memory = {}
    for n in (4, 12, 7):  # more are needed, then fewer
        kept = crossings(snapshot, x[:n], radius=0.3, directions=5, memory=memory)
        assert all(np.array_equal(kept.by_layer[layer], drawn.by_layer[layer][:n]) for layer in drawn.by_layer)
    assert memory["frames"].shape == (12, 5, 8)
    held = memory["frames"]
    crossings(at(mlp(), normal(12, 8)), x, radius=0.3, directions=5, memory=memory)
    assert memory["frames"] is held
    monkeypatch.setattr(local_complexity, "KEPT_BYTES", 12 * 5 * 8 * 8 - 1)
    too_large: Memory = {}
    again = crossings(snapshot, x, radius=0.3, directions=5, memory=too_large)
    assert too_large == {}
    assert all(np.array_equal(again.by_layer[layer], drawn.by_layer[layer]) for layer in drawn.by_layer)


def test_signs_of_zero_and_of_what_is_not_a_number_are_told_apart() -> None:
    z = torch.tensor([[[0.0, 0.0, -1.0, 1.0, math.inf], [0.0, 1.0, 0.0, 2.0, -math.inf]]])
    assert crossed_by(z.amax(1), z.amin(1)).tolist() == [3.0]
    broken = torch.tensor([[[math.nan, 1.0]], [[1.0, -1.0]]])
    counts = crossed_by(broken.amax(1), broken.amin(1))
    assert counts.isnan().tolist() == [True, False]
    assert counts[1] == 0


# -- the probe ------------------------------------------------------------------------------------


def test_the_whole_is_the_sum_of_the_layers_and_draws_average_to_values() -> None:
    whole, *layers = measured(at(mlp(), normal(20, 8)), radius=0.3)
    assert [dict(m.labels) for m in (whole, *layers)] == [{}, {"layer": "0"}, {"layer": "2"}]
    assert whole.estimate.value == pytest.approx(sum(m.estimate.value for m in layers))
    for m in (whole, *layers):
        assert m.draws is not None
        assert m.draws.mean() == pytest.approx(m.estimate.value)
        assert m.estimate.stderr == pytest.approx(mean_of(m.draws).stderr)
        assert (m.estimate.n, m.estimate.outcome) == (20, Outcome.OK)
    assert len(measured(at(mlp(), normal(20, 8)), per_layer=False)) == 1


def trained() -> nn.Module:
    """A network that has learnt which few directions of its inputs matter, where the luck of a frame counts most."""
    x = normal(512, 20)
    y = ((x[:, 0] * x[:, 1] > 0).long() + (x[:, 0] > 1).long()).clamp(max=2)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)).double()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def spread_over_reported(model: nn.Module, repeats: int = 80) -> float:
    """Itself known to within 8 %."""
    estimates = [
        measured(at(model, normal(64, 20, seed=seed), seed=seed), radius=0.5, directions=2, per_layer=False)[0].estimate
        for seed in range(repeats)
    ]
    reported = math.sqrt(np.mean([e.stderr**2 for e in estimates]))
    return float(np.std([e.value for e in estimates], ddof=1) / reported)


def test_the_standard_error_is_the_spread_over_fresh_points_and_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the published design fails this: with one frame for all points the spread is far beyond what is reported."""
    model = trained()
    assert 0.8 < spread_over_reported(model) < 1.25

    def shared(generator: torch.Generator, points: Tensor, directions: int) -> Tensor:
        one = torch.Generator().manual_seed(generator.initial_seed())
        return frames(one, points[:1], directions).expand(len(points), -1, -1)

    monkeypatch.setattr(local_complexity, "frames", shared)
    assert spread_over_reported(model) > 1.5


def test_frames_are_the_same_at_every_step_so_that_an_unchanged_network_is_unchanged() -> None:
    x, model = normal(20, 8), mlp()
    first, second = (measured(snapshot_of(model, x, labels(20), step=step), radius=0.3)[0] for step in (0, 50))
    assert np.array_equal(first.draws, second.draws)


def test_the_automatic_radius_scales_with_the_inputs() -> None:
    x, model, scaled = normal(20, 8) + 5, mlp(), mlp()
    scaled.load_state_dict(model.state_dict())
    with torch.no_grad():
        scaled[0].weight.div_(16)
    one, other = measured(at(model, x))[0], measured(at(scaled, 16 * x))[0]
    assert np.array_equal(one.draws, other.draws)
    assert float(other.settings["radius"]) == pytest.approx(16 * float(one.settings["radius"]), rel=1e-5)
    spread = float((x - x.mean(dim=0)).norm(dim=1).mean())
    assert float(one.settings["radius"]) == pytest.approx(AUTOMATIC * spread, rel=1e-5)


def test_the_radius_stays_what_it_was_at_first() -> None:
    memory: Memory = {}
    [first, *_] = measured(at(mlp(), normal(20, 8)), memory)
    [later, *_] = measured(at(mlp(), 3 * normal(20, 8)), memory)
    assert first.settings["radius"] == later.settings["radius"]


def test_only_the_first_points_are_looked_around() -> None:
    x = normal(40, 8)
    few = measured(at(mlp(), x), points=10, radius=0.1)[0]
    assert (few.estimate.n, few.settings["points"]) == (10, "10")


def test_no_more_points_are_looked_around_than_the_precision_asks_for() -> None:
    x, model = normal(128, 8), mlp(width=300)
    memory: Memory = {}
    [all_of_them, *_] = measured(at(model, x), radius=0.5, enough=0)
    [few, *_] = measured(at(model, x), memory, radius=0.5, enough=0.05)
    relative = all_of_them.draws[:16].std(ddof=1) / all_of_them.draws[:16].mean()
    assert few.estimate.n == max(16, math.ceil((relative / 0.05) ** 2)) < 128
    assert np.array_equal(few.draws, all_of_them.draws[: few.estimate.n])
    assert few.estimate.stderr / few.estimate.value < 0.1
    [later, *_] = measured(at(mlp(width=30), x), memory, radius=0.5, enough=0.05)
    assert later.estimate.n == few.estimate.n, "as many for good"
    [nothing, *_] = measured(at(model, x), radius=1e-9, enough=0.05)
    assert nothing.estimate.n == 128, "of none crossed there is no relative error"


def test_settings_tell_exact_counts_from_proxies_and_what_is_unseen() -> None:
    x = normal(6, 8)
    assert measured(at(mlp(), x))[0].settings["activation"] == "relu"
    mixed = nn.Sequential(nn.Linear(8, 5), nn.GELU(), nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    whole, first, second = measured(at(mixed, x))
    assert [m.settings["activation"] for m in (whole, first, second)] == ["gelu (proxy), relu", "gelu (proxy)", "relu"]
    headed = nn.Sequential(Recurrent(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    settings = measured(at(headed, normal(6, 5, 3)))[0].settings
    assert settings["unseen"] == "LSTM"
    assert settings["frames"] == "one per point"
    assert (settings["dimension"], settings["dtype"]) == ("15", "float64")


def test_a_transformer_is_measured_behind_its_embedding() -> None:
    whole, layer = measured(at(Encoder().double(), normal(6, 3, 4)), radius=0.5)
    assert layer.labels == {"layer": "layer.linear1"}
    assert 0 < whole.estimate.value < 3 * 5


def test_what_it_yields_fits_the_wire() -> None:
    for m in measured(at(mlp(), normal(6, 8))):
        column = Column(m.quantity.name, dict(m.labels), dict(m.settings))
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(column), type=Column) == column
        assert m.quantity in LocalComplexity.quantities


def test_a_diverged_network_is_not_finite() -> None:
    snapshot = at(mlp(), normal(6, 8))
    with torch.no_grad():
        snapshot.params["2.weight"].fill_(math.nan)
    whole, first, second = measured(snapshot)
    assert [m.estimate.outcome for m in (whole, first, second)] == [Outcome.NON_FINITE, Outcome.OK, Outcome.NON_FINITE]


class OneHot(nn.Module):
    """Makes numbers of its tokens without an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 3).double()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(F.relu(F.one_hot(tokens, 5).double()))


def by_name(found: list[Measurement], **of: str) -> dict[str, Measurement]:
    return {m.quantity.name: m for m in found if dict(m.labels) == of}


def test_shares_are_counts_over_units_and_over_live_units() -> None:
    model = mlp()
    with torch.no_grad():
        model[0].bias[:6] = -1e6  # six units that no input wakes
    found = by_name(everything(at(model, normal(40, 8)), radius=0.3))
    count = found["local_complexity"].estimate.value
    assert found["local_complexity_fraction"].estimate.value == pytest.approx(count / 60)
    dead = found["dead_units"].estimate.value
    assert dead >= 0.1 - 1e-9
    assert found["local_complexity_live"].estimate.value == pytest.approx(count / (60 * (1 - dead)))
    assert found["dead_units"].estimate.stderr < 0.1


def test_a_dead_network_has_no_live_units_to_share_among() -> None:
    model = mlp()
    with torch.no_grad():
        model[0].bias.fill_(-1e6)
        model[2].bias.fill_(-1e6)
    found = by_name(everything(at(model, normal(20, 8))))
    assert found["dead_units"].estimate.value == 1.0
    assert found["local_complexity_live"].estimate.outcome is Outcome.NOT_APPLICABLE
    assert found["local_complexity"].estimate.value == 0


def test_the_affine_defect_is_its_closed_form_and_zero_inside_a_region() -> None:
    class Quadratic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return self.gain * F.relu(x.square() + 1).sum(1, keepdim=True)

    x, radius = normal(30, 4, seed=3), 0.1
    space = crossings(at(Quadratic(), x), x, radius=radius, directions=4)
    # f = Σ x² + 4: the second difference along any v is 2r², the first 4r⟨x, v⟩.
    assert space.bend == pytest.approx(np.full(30, 2 * radius**2))
    found = by_name(everything(at(mlp(), normal(30, 8)), radius=1e-6))
    assert found["affine_defect"].estimate.value < 1e-6
    curved = by_name(
        everything(at(nn.Sequential(nn.Linear(8, 9), nn.GELU(), nn.Linear(9, 3)).double(), x=normal(30, 8)))
    )
    assert curved["affine_defect"].estimate.value > 1e-4


def test_the_small_radius_counts_few_units_and_stays_where_it_was() -> None:
    memory: Memory = {}
    snapshot = at(mlp(width=200), normal(80, 8))
    first = by_name(everything(snapshot, memory), radius="small")["local_complexity"]
    whole = by_name(everything(snapshot, memory))["local_complexity"]
    assert 0 < first.estimate.value < max(whole.estimate.value / 3, 3)
    again = by_name(everything(snapshot, memory), radius="small")["local_complexity"]
    assert first.settings["radius"] == again.settings["radius"]


def test_other_splits_are_looked_at_with_the_same_radius() -> None:
    x = normal(40, 8)
    snapshot = Snapshot.take(
        mlp(), 0, ProbeSet(x, labels(40)), F.cross_entropy, None, 0, further_sets={"test": ProbeSet(3 * x, labels(40))}
    )
    found = everything(snapshot)
    radii = {
        split: by_name(found, **({"split": split} if split else {}))["local_complexity"].settings["radius"]
        for split in ("", "test", "random")
    }
    assert len(set(radii.values())) == 1
    assert {m.labels["layer"] for m in found if m.labels.get("split") == "random" and "layer" in m.labels} == {"0", "2"}


def test_tokens_are_moved_about_in_the_space_of_their_embedding() -> None:
    torch.manual_seed(0)
    table, rest = nn.Embedding(7, 4), nn.Sequential(nn.Flatten(), nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 3))
    whole = nn.Sequential(table, rest).double()
    tokens = torch.randint(7, (30, 3), generator=torch.Generator().manual_seed(1))
    found = measured(at(whole, tokens), radius=0.2)
    behind = measured(at(rest, table(tokens).detach()), radius=0.2)
    assert found[0].estimate == behind[0].estimate
    assert found[0].settings["space"] == "embedding"
    assert not any(m.labels.get("split") == "random" for m in everything(at(whole, tokens)))


def test_below_the_rounding_of_its_type_a_count_is_not_called_sound() -> None:
    model = nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 3))
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.copy_(torch.tensor([40.0, 0.0, 0.0]))
    x = normal(20, 8).float()
    learned = snapshot_of(model, x, torch.zeros(20, dtype=torch.long))
    found = everything(learned)
    assert {m.estimate.outcome for m in found} <= {Outcome.NOT_CONVERGED, Outcome.NOT_APPLICABLE}
    assert "rounding of float32" in found[0].settings["floor"]
    wide = everything(snapshot_of(model.double(), x.double(), torch.zeros(20, dtype=torch.long)))
    assert wide[0].estimate.outcome is Outcome.NOT_CONVERGED
    with torch.no_grad():
        model[2].bias.copy_(torch.tensor([20.0, 0.0, 0.0]))
    sound = everything(snapshot_of(model.double(), x.double(), torch.zeros(20, dtype=torch.long)))
    assert sound[0].estimate.outcome is Outcome.OK, "a loss of 4e-9 is far above the rounding of float64"


def test_what_has_no_local_complexity_says_why() -> None:
    x, y = normal(6, 8), labels(6)
    linear = nn.Linear(8, 3).double()
    cases = (
        (snapshot_of(OneHot(), torch.arange(6) % 5, y), "no nn.Embedding takes in"),
        (snapshot_of(linear, {"input": x}, y), "dict of tensors"),
        (snapshot_of(linear, (x,), y), "tuple of tensors"),
        (at(linear, x), "no activation function"),
        (at(Recurrent().double(), normal(6, 5, 3)), "LSTM run theirs inside one fused operation"),
        (
            Snapshot.take(mlp().bfloat16(), 0, ProbeSet(x.bfloat16(), y), F.cross_entropy, None, 0, widen=False),
            "rounding",
        ),
        (at(mlp(), x * 0), "Give radius="),
    )
    for snapshot, words in cases:
        with pytest.raises(NotApplicable, match=words):
            measured(snapshot)


def test_settings_that_cannot_be_met_are_refused() -> None:
    for settings, words in (
        ({"points": 1}, "points"),
        ({"directions": 0}, "directions"),
        ({"radius": 0.0}, "radius"),
        ({"enough": -0.1}, "enough"),
    ):
        with pytest.raises(ValueError, match=words):
            LocalComplexity(**settings)


def test_the_live_model_and_its_streams_are_untouched() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 3)
    ).double()
    x, y = normal(16, 2, 4, 4), labels(16)
    F.cross_entropy(model(x), y).backward()
    before = state_of(model)
    snapshot = snapshot_of(model, x, y)
    copied = state_of(snapshot.model)
    measured(snapshot)
    assert same_state(before, state_of(model))
    assert same_state(copied, state_of(snapshot.model))
