"""Linear regions: the exact partition against rasters, closed forms and the network itself."""

import copy
import itertools
import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn

from probe_agent.errors import NotApplicable
from probe_agent.studies.convex_polygons import Polygons
from probe_agent.studies.linear_regions import LinearRegions, linear_regions, raster

BOX = (-3.0, 3.0, -3.0, 3.0)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mlp(*widths: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    torch.manual_seed(1)
    layers: list[nn.Module] = []
    for wide, narrow in itertools.pairwise(widths):
        layers += [nn.Linear(wide, narrow), activation()]
    return nn.Sequential(*layers[:-1]).double()


class Residual(nn.Module):
    """Two blocks with a way around them, and activation functions called as functions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.stem, self.head = nn.Linear(5, 7), nn.Linear(7, 3)
        self.blocks = nn.ModuleList(nn.ModuleList([nn.Linear(7, 6), nn.Linear(6, 7)]) for _ in range(2))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for rise, fall in self.blocks:
            x = x + fall(F.relu(rise(F.relu(x))))
        return self.head(F.relu(x))


def convolutional() -> nn.Module:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(2),
        nn.Conv2d(3, 4, 2),
        nn.BatchNorm2d(4),
        nn.PReLU(4),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(16, 3),
    ).double()
    for _ in range(20):
        model(normal(16, 1, 6, 6) + 0.3)
    return model


KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: mlp(5, 9, 9, 4), (5,)),
    "leaky": (lambda: mlp(5, 9, 9, 4, activation=lambda: nn.LeakyReLU(0.2)), (5,)),
    "one output": (lambda: mlp(5, 9, 9, 1), (5,)),
    "residual": (Residual, (5,)),
    "convolutional": (convolutional, (1, 6, 6)),
    "single precision": (lambda: mlp(5, 9, 9, 4).float(), (5,)),
}


def problem(kind: str) -> tuple[nn.Module, Tensor]:
    """A network of which no class has a head start, and three inputs."""
    make, shape = KINDS[kind]
    model = make()
    *_, head = (module for module in model.modules() if isinstance(module, nn.Linear))
    head = model.head if isinstance(model, Residual) else head
    with torch.no_grad():
        some = normal(200, *shape, seed=5).to(head.weight)
        head.bias -= copy.deepcopy(model).eval()(some).mean(dim=0)
    return model, normal(3, *shape, seed=4)


def outputs(model: nn.Module, found: LinearRegions, where: NDArray[np.float64]) -> NDArray[np.float64]:
    model = model.double().eval()
    with torch.no_grad():
        return model(found.plane.inputs(where)).reshape(len(where), -1).numpy()


def within(polygons: Polygons, seed: int = 0) -> NDArray[np.float64]:
    """A random point in each polygon: a random mean of its corners."""
    weights = np.random.default_rng(seed).exponential(size=polygons.origin.shape)
    weights *= np.arange(weights.shape[1]) < polygons.sides[:, None]
    return np.einsum("nk,nkd->nd", weights / weights.sum(axis=1, keepdims=True), polygons.corners)


# -- regions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_regions_fill_the_rectangle_and_the_network_is_affine_on_each(kind: str) -> None:
    model, points = problem(kind)
    found = linear_regions(model, points, box=BOX)
    assert len(found) > 50
    assert found.area_error < 1e-12
    assert found.map_error < 1e-12
    corners = found.polygons.corners
    y, at = outputs(model, found, corners.reshape(-1, 2)).reshape(*corners.shape[:2], -1), within(found.polygons)
    for some in range(len(found)):
        if found.polygons.areas()[some] < 1e-6:
            continue  # a slope would be all rounding
        known = np.c_[corners[some], np.ones(len(corners[some]))]
        affine, *_ = np.linalg.lstsq(known, y[some], rcond=None)
        assert np.r_[at[some], 1] @ affine == pytest.approx(outputs(model, found, at[[some]])[0], abs=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fine_raster_finds_each_large_region_as_one_pattern_of_its_own(kind: str) -> None:
    """Cell by cell: points of one region have one pattern, and no two regions the same."""
    model, points = problem(kind)
    found, side = linear_regions(model, points, box=BOX), 90
    patterns = raster(model, found.plane, BOX, side)
    steps = BOX[0] + (BOX[1] - BOX[0]) * (np.arange(side) + 0.5) / side
    cells = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    corners, edges = found.polygons.corners, found.polygons.edges()
    owner = np.full(len(cells), -1)
    for some in range(len(found)):
        apart = cells[:, None] - corners[some]
        left_of = edges[some, :, 0] * apart[..., 1] - edges[some, :, 1] * apart[..., 0]
        owner[(left_of >= 0).all(axis=1)] = some
    assert (owner >= 0).all()
    pairs = np.unique(np.c_[owner, patterns.ravel()], axis=0)
    assert len(pairs) == len(np.unique(owner)) == patterns.max() + 1 <= len(found)


def test_a_raster_that_sees_all_regions_counts_as_many() -> None:
    model, points = mlp(4, 4, 3, 2), normal(3, 4)
    found = linear_regions(model, points, box=BOX)
    assert found.polygons.areas().min() > 1e-4
    assert raster(model, found.plane, BOX, 700).max() + 1 == len(found)


def test_one_layer_of_lines_makes_the_number_of_regions_steiner_counted() -> None:
    units = 15
    wide = (-1e4, 1e4, -1e4, 1e4)
    found = linear_regions(mlp(6, units, 3), normal(3, 6), box=wide)
    assert found.after == (len(found),) == (1 + units + units * (units - 1) // 2,)


def test_each_edge_lies_where_its_layer_bends() -> None:
    model, points = problem("mlp")
    found = linear_regions(model, points, box=BOX)
    assert found.layers == ("0", "2")
    lengths = np.linalg.norm(found.polygons.edges(), axis=2)
    middles = found.polygons.corners + found.polygons.edges() / 2
    for index, depth in enumerate((1, 3)):
        on_it = middles[(found.polygons.origin == index) & (lengths > 1e-9)]
        z = model[:depth](found.plane.inputs(on_it)).detach()
        assert z.abs().amin(dim=1).max() < 1e-12
    assert found.after[0] == (raster(model[:2], found.plane, BOX, 1200).max() + 1)
    assert set(found.born()) == {0, 1}


def test_lengths_in_the_plane_are_lengths_between_inputs() -> None:
    model, points = problem("convolutional")
    found = linear_regions(model, points)
    assert found.plane.inputs(found.points).numpy() == pytest.approx(points.numpy())
    apart = np.linalg.norm(found.points[:, None] - found.points, axis=2)
    assert apart == pytest.approx(torch.cdist(points.flatten(1), points.flatten(1)).numpy())
    left, right, bottom, top = found.box
    assert right - left == pytest.approx(top - bottom)
    assert right - left == pytest.approx(1.5 * np.ptp(found.points, axis=0).max())
    assert found.points.min(axis=0) == pytest.approx(found.points.min(axis=0).clip((left, bottom), (right, top)))


# -- the decision boundary ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_on_the_decision_boundary_the_two_largest_outputs_tie(kind: str) -> None:
    model, points = problem(kind)
    found = linear_regions(model, points, box=BOX)
    assert len(found.decision) > 5
    for share in (0, 0.3, 1):
        y = outputs(model, found, found.decision[:, 0] * (1 - share) + found.decision[:, 1] * share)
        y = np.c_[np.zeros(len(y)), y] if y.shape[1] == 1 else y
        second, first = np.sort(y, axis=1)[:, -2:].T
        assert first == pytest.approx(second, abs=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_the_class_changes_along_a_line_exactly_where_the_decision_boundary_crosses_it(kind: str) -> None:
    model, points = problem(kind)
    found = linear_regions(model, points, box=BOX)
    for height in (-1.7, 0.1234, 2.2):
        walk = np.c_[np.linspace(-3, 3, 20001), np.full(20001, height)]
        y = outputs(model, found, walk)
        label = (y[:, 0] > 0) if y.shape[1] == 1 else y.argmax(axis=1)
        start, end = found.decision[:, 0], found.decision[:, 1]
        crossed = (start[:, 1] - height) * (end[:, 1] - height) < 0
        share = (height - start[crossed, 1]) / (end - start)[crossed, 1]
        at = np.sort(start[crossed, 0] + share * (end - start)[crossed, 0])
        changes = walk[:-1, 0][np.diff(label.astype(int)) != 0]
        assert changes == pytest.approx(at, abs=6 / 20000)


@pytest.mark.parametrize("kind", KINDS)
def test_each_territory_has_one_class_and_together_they_are_the_regions(kind: str) -> None:
    model, points = problem(kind)
    found = linear_regions(model, points, box=BOX)
    parts = found.territories
    assert len(parts) > len(found)
    assert parts.areas().sum() == pytest.approx(36, rel=1e-13)
    for where in (parts.centroids(), within(parts)):
        y = outputs(model, found, where)
        y = np.c_[np.zeros(len(y)), y] if y.shape[1] == 1 else y
        assert y[np.arange(len(y)), found.classes] == pytest.approx(y.max(axis=1), abs=1e-10)


def test_three_classes_that_meet_leave_three_half_lines() -> None:
    """With logits −|x − corner|² up to what is common, a Voronoi diagram whose centre is known."""

    class Voronoi(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 3).double()
            sites = torch.tensor([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]])
            self.head.load_state_dict({"weight": sites, "bias": torch.zeros(3)})

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x) + 0 * F.relu(x[:, :1] + 50)

    found = linear_regions(Voronoi(), torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, -1.0]]), box=(-1, 1, -1, 1))
    assert len(found) == 1
    assert found.decision.shape == (3, 2, 2)
    ends = found.plane.inputs(found.decision.reshape(-1, 2)).norm(dim=1)
    assert int((ends < 1e-12).sum()) == 3


def test_density_is_length_over_area_in_each_band() -> None:
    model = mlp(2, 2, 1)
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[0].bias.copy_(torch.tensor([1.0, 0.25]))
        model[2].weight.copy_(torch.tensor([[1.0, 0.0]]))
        model[2].bias.fill_(-1.5)
    points = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 2.0]], dtype=torch.float64)
    found = linear_regions(model, points, box=(-2 + 1 / 3, 2 + 1 / 3, -2, 2))  # x in [−2, 2]
    # The units bend at x = −1 and y = −0.25, and x = 0.5 decides: the middle band is 0.1 wide around the first
    # line on the left, and 0.05 on the right, where the rectangle ends.
    near, middle, far = found.density((0, 1.45, 1.55, math.inf))
    assert near == pytest.approx(2.9 / (4 * 2.9), rel=0.02)
    assert middle == pytest.approx((4 + 0.15) / (4 * 0.15), rel=0.1)
    assert far == pytest.approx(0.95 / (4 * 0.95), rel=0.05)


def test_without_a_decision_boundary_there_is_no_distance_to_it() -> None:
    model = mlp(3, 4, 1)
    with torch.no_grad():
        model[2].bias.fill_(1e3)
    found = linear_regions(model, normal(3, 3), box=BOX)
    assert found.decision.shape == (0, 2, 2)
    assert np.isnan(found.density((0, 1, math.inf))).all()


# -- degenerate networks --------------------------------------------------------------------------


def test_a_unit_that_is_there_twice_cuts_once() -> None:
    once, twice = mlp(4, 6, 2), mlp(4, 12, 2)
    with torch.no_grad():
        for name in ("weight", "bias"):
            own = getattr(once[0], name)
            getattr(twice[0], name).copy_(torch.cat([own, -3 * own]))
    points = normal(3, 4)
    assert len(linear_regions(once, points, box=BOX)) == len(linear_regions(twice, points, box=BOX))


def test_dead_units_and_dead_layers_cut_nothing() -> None:
    model = mlp(4, 6, 5, 2)
    with torch.no_grad():
        model[0].bias[:3] = -1e3
        model[2].weight.zero_()
        model[2].bias.zero_()
    found = linear_regions(model, normal(3, 4), box=BOX)
    assert found.after[0] == found.after[1] == len(found)
    with torch.no_grad():
        model[0].bias.fill_(-1e3)
    assert len(linear_regions(model, normal(3, 4), box=BOX)) == 1


def test_lines_through_one_point_make_a_star() -> None:
    model = mlp(2, 8, 8, 3)
    with torch.no_grad():
        model[0].bias.zero_()
        model[2].bias.zero_()
    points = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [0.0, -1.0]])  # whose mean is the centre of the star
    found = linear_regions(model, points, box=(-2, 1, -1, 2))
    assert found.after[0] == 16
    assert found.polygons.sides.max() <= 5
    assert found.area_error < 1e-12
    assert raster(model, found.plane, found.box, 999).max() + 1 == len(found)


# -- refusals -------------------------------------------------------------------------------------


def test_three_inputs_on_a_line_and_boxes_without_area_are_refused() -> None:
    model, x = mlp(4, 5, 2), normal(3, 4)
    line = torch.stack([x[0], x[1], 2 * x[1] - x[0]])
    for points in (line, torch.stack([x[0], x[0], x[1]]), torch.stack([x[0], x[1], x[1]])):
        with pytest.raises(ValueError, match="on one line"):
            linear_regions(model, points)
    for points in (x[:2], normal(4, 4), torch.zeros(3, 4, dtype=torch.long)):
        with pytest.raises(ValueError, match="need three"):
            linear_regions(model, points)
    for box in ((1, 1, 0, 1), (0, 1, 2, 1), (0, math.inf, 0, 1)):
        with pytest.raises(ValueError, match="need left < right"):
            linear_regions(model, x, box=box)


def test_more_regions_than_allowed_are_refused_with_the_number_reached() -> None:
    model, points = problem("mlp")
    found = linear_regions(model, points, box=BOX)
    assert len(linear_regions(model, points, box=BOX, max_regions=len(found))) == len(found)
    for most in (found.after[0] - 1, len(found) - 1):
        with pytest.raises(NotApplicable, match=rf"need at most {most}.*raster") as refusal:
            linear_regions(model, points, box=BOX, max_regions=most)
        assert most < int(str(refusal.value).split()[1]) <= 2 * most


class Batchwise(nn.Module):
    """Knows the other rows of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(x)))


def test_what_is_not_piecewise_linear_is_refused() -> None:
    inner = [nn.Linear(4, 6), nn.ReLU()]
    cases = (
        (nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 2)), "Got gelu in layer 0"),
        (nn.Sequential(*inner, nn.Linear(6, 1), nn.Sigmoid()), "Got sigmoid in layer 2; .*leave the last layer off"),
        (nn.Sequential(*inner, nn.LayerNorm(6), nn.Linear(6, 2)), "not affine where its units are"),
        (nn.Sequential(*inner, nn.Linear(6, 2), nn.Softmax(1)), "not affine where its units are"),
        (nn.Sequential(*inner, nn.MaxPool1d(2), nn.Linear(3, 2)), "not affine where its units are"),
        (Batchwise(), "depends on the rest of its batch"),
        (nn.Sequential(*inner, nn.Linear(6, 4), nn.Unflatten(1, (2, 2))), "one row of numbers"),
        (nn.Sequential(nn.Unflatten(1, (1, 4)), nn.LSTM(4, 3, batch_first=True)), "Got LSTM"),
    )
    for model, words in cases:
        with pytest.raises(NotApplicable, match=words):
            linear_regions(model, normal(3, 4), box=BOX)


def test_a_diverged_network_is_refused() -> None:
    model = mlp(4, 6, 2)
    with torch.no_grad():
        model[2].weight[0, 0] = math.nan
    with pytest.raises(NotApplicable, match="not finite"):
        linear_regions(model, normal(3, 4), box=BOX)


def test_a_linear_network_is_one_region() -> None:
    found = linear_regions(nn.Linear(4, 3), normal(3, 4), box=BOX)
    assert (len(found), found.layers, found.after) == (1, (), ())
    assert found.map_error < 1e-12
    assert (raster(nn.Linear(4, 3), found.plane, BOX, 5) == 0).all()


def test_the_model_and_the_random_streams_are_as_before() -> None:
    model, points = convolutional().float(), normal(3, 1, 6, 6).float()
    model.train()
    model[0].eval()
    F.mse_loss(model(points), torch.zeros(3, 3)).backward()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = [p.grad.clone() for p in model.parameters()]
    streams = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002
    first, second = (linear_regions(model, points, box=BOX) for _ in range(2))
    assert np.array_equal(first.polygons.corners, second.polygons.corners)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert [m.training for m in model.children()] == [False] + [True] * 9
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == streams[1:]  # noqa: NPY002
