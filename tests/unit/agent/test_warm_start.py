"""The warm-start study: twins that differ in their start alone, and a gap with the error of their differences."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.datasets import load_digits
from torch import Tensor, nn

from probe_agent.studies.warm_start import WarmStartGap, nested, warm_start_gap


def weight(model: nn.Module) -> float:
    return float(model.get_parameter("weight").detach().sum())


def walk(model: nn.Module, steps: int) -> None:
    """Moves the weight by a random number for each step."""
    with torch.no_grad():
        for _ in range(steps):
            model.get_parameter("weight").add_(torch.randn(()))


def test_twins_differ_by_what_came_before_the_last_stage_alone() -> None:
    made: list[float] = []

    def make() -> nn.Module:
        model = nn.Linear(1, 1)
        with torch.no_grad():
            model.weight.zero_()
        return model

    def train(model: nn.Module, steps: int) -> None:
        before = weight(model)
        walk(model, steps)
        made.append(weight(model) - before)

    found = warm_start_gap(make, lambda _: [2, 3, 5], weight, train, [0, 1])
    (first, second, warm, fresh), others = made[:4], made[4:]
    assert warm == pytest.approx(fresh, abs=1e-6)  # the same random numbers
    assert found.warm[0] - found.fresh[0] == pytest.approx(first + second, abs=1e-6)
    assert len(others) == 4
    assert others[0] != first


def test_every_seed_may_have_data_of_its_own() -> None:
    found = warm_start_gap(
        lambda: nn.Linear(1, 1),
        lambda seed: [seed, 10 * seed],
        weight,
        lambda model, stage: model.get_parameter("weight").data.add_(stage),
        [1, 2],
    )
    assert found.warm - found.fresh == pytest.approx([1, 2], abs=1e-5)


def test_the_last_stage_may_be_trained_otherwise_for_both() -> None:
    stages: list[tuple[str, str]] = []
    warm_start_gap(
        lambda: nn.Linear(1, 1),
        lambda _: ["part", "all"],
        weight,
        lambda _, stage: stages.append(("train", stage)),
        [0],
        tune=lambda _, stage: stages.append(("tune", stage)),
    )
    assert stages == [("train", "part"), ("tune", "all"), ("tune", "all")]


def test_the_gap_is_the_mean_of_differences_and_its_error_theirs() -> None:
    found = WarmStartGap(warm=np.array([0.8, 0.7, 0.9]), fresh=np.array([0.9, 0.75, 1.0]))
    assert found.gap == pytest.approx(-0.25 / 3)
    assert found.stderr == pytest.approx(np.std([0.1, 0.05, 0.1], ddof=1) / math.sqrt(3))
    assert math.isnan(WarmStartGap(warm=np.ones(1), fresh=np.ones(1)).stderr)


def test_the_global_random_stream_is_put_back() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    warm_start_gap(lambda: nn.Linear(1, 1), lambda _: [1, 2], weight, walk, [0, 1])
    assert torch.equal(torch.rand(3), expected)


def test_parts_grow_within_one_another_to_all_of_the_data() -> None:
    parts = nested(10, 4, torch.Generator().manual_seed(0))
    assert [len(part) for part in parts] == [2, 5, 7, 10]
    assert sorted(parts[-1].tolist()) == list(range(10))
    assert all(set(a.tolist()) < set(b.tolist()) for a, b in pairwise(parts))


def test_a_network_fitted_to_wrong_labels_first_ends_up_worse() -> None:
    """A gap that is there in a second of training: the first stage teaches labels that are not the digits'."""
    data = load_digits()
    x, y = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
    wrong = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]

    def train(model: nn.Module, stage: tuple[Tensor, Tensor]) -> None:
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(200):
            optimizer.zero_grad()
            F.cross_entropy(model(stage[0]), stage[1]).backward()
            optimizer.step()

    def accuracy(model: nn.Module) -> float:
        with torch.no_grad():
            return float((model(x[100:]).argmax(1) == y[100:]).float().mean())

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    found = warm_start_gap(make, lambda _: [(x[:100], wrong[:100]), (x[:100], y[:100])], accuracy, train, range(4))
    assert found.fresh.mean() > 0.75
    assert found.gap < -3 * found.stderr


def test_a_study_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(ValueError, match="Got one stage; need at least two"):
        warm_start_gap(lambda: nn.Linear(1, 1), lambda _: [1], weight, walk, [0])
    with pytest.raises(ValueError, match="Got no seeds"):
        warm_start_gap(lambda: nn.Linear(1, 1), lambda _: [1, 2], weight, walk, [])
    with pytest.raises(ValueError, match="Got 6 stages of 5 samples"):
        nested(5, 6, torch.Generator())
