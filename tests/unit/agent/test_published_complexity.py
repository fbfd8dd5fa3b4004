"""Local complexity as published: the same counts, to the unit, as the straightforward algorithm."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from probe_agent import NotApplicable, ProbeSet, Snapshot
from probe_agent.estimators.published_complexity import published_crossings, published_frame

RADII = (0.005, 0.05, 0.1, 0.5, 1.0, 5.0)


def straightforward(
    model: nn.Module, points: Tensor, frame: Tensor, radius: float, layers: list[str]
) -> dict[str, Tensor]:
    """All vertices at once, all outputs kept, signs compared with the first vertex's."""
    vertices = torch.cat([points.flatten(1)[:, None] + radius * frame, points.flatten(1)[:, None] - radius * frame], 1)
    kept: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(layer).register_forward_hook(lambda _m, _a, z, layer=layer: kept.update({layer: z}))
        for layer in layers
    ]
    with torch.no_grad():
        model(vertices.reshape(-1, *points.shape[1:]))
    for handle in handles:
        handle.remove()
    signs = {layer: z.sign().reshape(len(points), 2 * len(frame), -1) for layer, z in kept.items()}
    return {layer: (s != s[:, :1]).any(1).sum(1).double() for layer, s in signs.items()}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 10))


class Residual(nn.Module):
    def __init__(self, *, norm: bool) -> None:
        super().__init__()
        made = (lambda: nn.BatchNorm2d(6)) if norm else nn.Identity
        self.stem, self.bn0 = nn.Conv2d(1, 6, 3, padding=1), made()
        self.one, self.bn1 = nn.Conv2d(6, 6, 3, padding=1), made()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn0(self.stem(x)))
        return self.head((x + F.relu(self.bn1(self.one(x)))).mean((2, 3)))


CASES = {
    "MLP": (mlp, ["1", "3", "5"]),
    "residual with BatchNorm": (lambda: Residual(norm=True), ["bn0", "bn1"]),
    "residual without": (lambda: Residual(norm=False), ["bn0", "bn1", "head"]),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", list(CASES))
def test_the_counts_are_those_of_the_published_algorithm(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    make, layers = CASES[name]
    model = make().to(dtype).eval()
    points = torch.randn(37, 1, 6, 6, dtype=dtype)
    snapshot = Snapshot.take(model, 0, ProbeSet(points, torch.zeros(37, dtype=torch.long)), F.cross_entropy, None, 0)
    frame = published_frame(36, 8, torch.Generator().manual_seed(1), dtype)
    found = published_crossings(snapshot, points, frame, RADII, layers)
    wrong = compared = 0
    for radius, counts in zip(RADII, found, strict=True):
        for layer, expected in straightforward(model, points, frame, radius, layers).items():
            wrong += int((torch.from_numpy(counts[layer]) != expected).sum())
            compared += len(expected)
    assert wrong == 0, f"{wrong} of {compared}"


def test_a_first_layer_whose_units_are_flat_dead_or_no_number_is_counted_as_published() -> None:
    """What its closed form could get wrong: no slope, a zero that stays or moves, no number."""
    torch.manual_seed(0)
    model, points = mlp().double(), torch.randn(9, 1, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        model[1].weight[:4] = 0
        model[1].bias[:2] = 0
        model[1].bias[4:20] = 0
        points[0] = 0
    snapshot = Snapshot.take(model, 0, ProbeSet(points, torch.zeros(9, dtype=torch.long)), F.cross_entropy, None, 0)
    frame = published_frame(36, 8, torch.Generator().manual_seed(1), torch.float64)
    for radius, found in zip(RADII, published_crossings(snapshot, points, frame, RADII, ["1"]), strict=True):
        assert found["1"].tolist() == straightforward(model, points, frame, radius, ["1"])["1"].tolist()
        assert found["1"][0] >= 16
    points[3] = torch.nan
    for found in published_crossings(snapshot, points, frame, RADII, ["1", "3"]):
        assert [np.isnan(found[layer]).tolist() for layer in ("1", "3")] == [[i == 3 for i in range(9)]] * 2


def test_the_snapshot_is_as_it_was_afterwards() -> None:
    torch.manual_seed(0)
    points = torch.randn(5, 1, 6, 6)
    snapshot = Snapshot.take(mlp(), 0, ProbeSet(points, torch.zeros(5, dtype=torch.long)), F.cross_entropy, None, 0)
    before = snapshot.outputs()
    published_crossings(snapshot, points, published_frame(36, 4, torch.Generator(), torch.float32), (0.1,), ["1", "5"])
    assert torch.equal(snapshot.outputs(), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in snapshot.model.modules())


def test_more_directions_than_dimensions_are_refused() -> None:
    with pytest.raises(NotApplicable, match="no more than there are dimensions"):
        published_frame(4, 5, torch.Generator(), torch.float32)


def test_directions_are_orthonormal() -> None:
    frame = published_frame(30, 7, torch.Generator().manual_seed(3), torch.float64)
    torch.testing.assert_close(frame @ frame.mT, torch.eye(7, dtype=torch.float64))
