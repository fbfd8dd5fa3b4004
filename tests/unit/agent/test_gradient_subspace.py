"""Subspaces against dense projections and eigenvectors, and the probe of the gradient's share in them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from probe_agent.errors import NotApplicable
from probe_agent.estimators import subspace
from probe_agent.estimators.group_gradients import equal_deal
from probe_agent.likelihood import Categorical
from probe_agent.probe import Measurement
from probe_agent.probes.gradient_subspace import GradientSubspace
from probe_agent.snapshot import Snapshot
from probe_wire import Outcome
from tests.curvature_problems import CLASSES, dense_hessian, labels, normal, snapshot_of


def classifier(n: int = 60, seed: int = 0, moved: float = 0.0) -> Snapshot:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, CLASSES)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(moved * torch.randn_like(p))
    return snapshot_of(model, normal(n, 4, seed=seed), labels(n, seed=seed), seed=seed, likelihood=Categorical())


def measured(
    snapshot: Snapshot, memory: dict[str, Any] | None = None, **settings: Any
) -> tuple[Measurement, Measurement]:
    one, two = GradientSubspace(**settings).measure(snapshot, {} if memory is None else memory)
    return one, two


def flat_gradient(snapshot: Snapshot, chosen: torch.Tensor) -> torch.Tensor:
    part = snapshot.probe_set.part(chosen)
    found = torch.autograd.grad(snapshot.loss(inputs=part.inputs, targets=part.targets), list(snapshot.params.values()))
    return torch.cat([g.reshape(-1) for g in found])


def test_a_basis_is_orthonormal_and_spans_the_rows() -> None:
    rows = normal(5, 40) * torch.tensor([1e-6, 1.0, 1e3, 1.0, 1.0], dtype=torch.float64)[:, None]
    basis = subspace.orthonormal(rows)
    torch.testing.assert_close(basis @ basis.T, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-10)
    torch.testing.assert_close(rows @ basis.T @ basis, rows, rtol=1e-8, atol=1e-10)


def test_rows_that_add_nothing_add_no_dimension() -> None:
    rows = normal(3, 40)
    assert len(subspace.orthonormal(torch.cat([rows, rows[:1] + rows[1:2], torch.zeros(1, 40)]))) == 3


def test_the_overlap_is_one_with_itself_zero_with_an_orthogonal_one_and_k_over_p_at_random() -> None:
    eye = torch.eye(6, dtype=torch.float64)
    assert subspace.overlap(eye[:2], eye[:2].flip(0)) == pytest.approx(1)
    assert subspace.overlap(eye[:2], eye[2:4]) == pytest.approx(0)
    overlaps = [
        subspace.overlap(subspace.orthonormal(normal(4, 50, seed=i)), subspace.orthonormal(normal(4, 50, seed=100 + i)))
        for i in range(60)
    ]
    assert np.mean(overlaps) == pytest.approx(4 / 50, rel=0.15)


def test_the_fraction_is_that_of_the_held_out_gradient_in_the_span_of_the_other_folds() -> None:
    snapshot = classifier()
    targets = snapshot.probe_set.targets
    folds = 4
    inside = whole = 0.0
    members = [(targets == c).nonzero().squeeze(1) for c in range(CLASSES)]
    for fold in range(folds):
        rest = [torch.cat([m[f::folds] for f in range(folds) if f != fold]) for m in members]
        span, _ = torch.linalg.qr(torch.stack([flat_gradient(snapshot, index) for index in rest]).T)
        own = torch.cat([m[fold::folds] for m in members])
        g = flat_gradient(snapshot, own) * len(own)
        inside += float((span.T @ g).square().sum())
        whole += float(g.square().sum())
    fraction, _ = measured(snapshot, folds=folds)
    assert fraction.estimate.value == pytest.approx(inside / whole)
    assert fraction.draws is not None
    assert fraction.draws.mean() == pytest.approx(fraction.estimate.value)
    assert fraction.estimate.stderr > 0


def test_the_hessian_route_takes_the_top_eigenvectors() -> None:
    snapshot = classifier()
    _, vectors = torch.linalg.eigh(dense_hessian(snapshot))
    basis = subspace.top_eigenvectors(snapshot, 3, 60)
    assert subspace.overlap(basis, vectors[:, -3:].T) == pytest.approx(1, abs=1e-6)
    fraction, _ = measured(snapshot, route="hessian", k=3)
    assert 0 < fraction.estimate.value < 1
    assert fraction.estimate.stderr > 0


def test_the_hessian_routes_fraction_is_of_gradients_its_eigenvectors_have_not_seen() -> None:
    snapshot = classifier()
    fraction, _ = measured(snapshot, route="hessian", k=3, folds=4)
    n, inside, whole = snapshot.probe_set.n, 0.0, 0.0
    for part in equal_deal(snapshot, 4):
        others = torch.tensor([i for i in range(n) if i not in part.tolist()])
        _, vectors = torch.linalg.eigh(dense_hessian(replace(snapshot, probe_set=snapshot.probe_set.part(others))))
        g = flat_gradient(snapshot, part)
        inside, whole = inside + float((vectors[:, -3:].T @ g).square().sum()), whole + float(g.square().sum())
    assert fraction.estimate.value == pytest.approx(inside / whole, rel=1e-4)


def test_the_hessian_routes_overlap_has_an_error() -> None:
    memory: dict[str, Any] = {}
    measured(classifier(), memory, route="hessian", k=3)
    _, overlap = measured(classifier(moved=0.3), memory, route="hessian", k=3)
    assert overlap.estimate.outcome is Outcome.OK
    assert 0 < overlap.estimate.stderr < 1


def test_the_class_gradients_span_the_top_space_of_softmax_regression_better_than_chance() -> None:
    torch.manual_seed(0)
    y = labels(300)
    x = normal(300, 8) * 0.5 + 2 * torch.eye(8, dtype=torch.float64)[y]
    snapshot = snapshot_of(nn.Linear(8, CLASSES).double(), x, y, likelihood=Categorical())
    _, vectors = torch.linalg.eigh(dense_hessian(snapshot))
    gradients = torch.stack([flat_gradient(snapshot, (y == c).nonzero().squeeze(1)) for c in range(CLASSES)])
    held = subspace.overlap(subspace.orthonormal(gradients), vectors[:, -2:].T)
    assert held > 3 * CLASSES / vectors.shape[0]


def test_the_overlap_needs_a_previous_measurement_and_is_one_where_nothing_moved() -> None:
    memory: dict[str, Any] = {}
    _, first = measured(classifier(), memory)
    assert first.estimate.outcome is Outcome.NOT_APPLICABLE
    _, again = measured(classifier(), memory)
    assert again.estimate.value == pytest.approx(1)
    assert again.estimate.stderr == pytest.approx(0, abs=1e-9)
    _, moved = measured(classifier(moved=0.3), memory)
    assert 0 < moved.estimate.value < 1
    assert moved.estimate.stderr > 0
    _, still = measured(classifier(moved=0.3), memory)
    assert still.estimate.value == pytest.approx(1), "it is compared with the last, not the first"


def test_what_is_remembered_moves_no_fraction() -> None:
    memory: dict[str, Any] = {}
    measured(classifier(), memory)
    with_memory, _ = measured(classifier(moved=0.3), memory)
    assert with_memory.estimate == measured(classifier(moved=0.3))[0].estimate


def test_directions_in_another_space_do_not_overlap() -> None:
    memory: dict[str, Any] = {}
    measured(classifier(), memory)
    frozen = classifier()
    frozen.params.pop("0.bias")
    assert measured(frozen, memory)[1].estimate.outcome is Outcome.NOT_APPLICABLE


def without_classes() -> Snapshot:
    return snapshot_of(
        nn.Linear(4, 3).double(), normal(20, 4), normal(20, 3, seed=1), lambda o, t: (o - t).square().mean()
    )


def with_one_class() -> Snapshot:
    zeros = torch.zeros(20, dtype=torch.long)
    return snapshot_of(nn.Linear(4, 3).double(), normal(20, 4), zeros, likelihood=Categorical())


@pytest.mark.parametrize(
    ("problem", "words"), [(without_classes, "needs a classifier"), (with_one_class, "need two. Use a larger")]
)
def test_what_has_no_classes_says_so(problem: Callable[[], Snapshot], words: str) -> None:
    with pytest.raises(NotApplicable, match=words):
        measured(problem())


def test_the_hessian_route_needs_no_classes() -> None:
    assert measured(without_classes(), route="hessian", k=2)[0].estimate.outcome is Outcome.OK


def test_settings_that_cannot_be_met_are_refused() -> None:
    for settings in ({"route": "pca"}, {"k": 0}, {"folds": 1}, {"products": 5}):
        with pytest.raises(ValueError, match="Got"):
            GradientSubspace(**settings)
