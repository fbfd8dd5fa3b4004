"""Calibration: closed forms, its floor, its error, and where it is not defined."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from probe_agent import NotApplicable, ProbeSet, Snapshot
from probe_agent.estimators.calibration import BINS, calibration_draws
from probe_agent.likelihood import IGNORED, Categorical, Gaussian
from probe_agent.probes.calibration import Calibration
from probe_wire import Outcome


def snapshot_of(logits: Tensor, targets: Tensor, further: dict[str, ProbeSet] | None = None) -> Snapshot:
    """A network that gives out the logits it is given."""
    model = nn.Sequential(nn.Identity(), nn.Identity())
    return Snapshot.take(
        model, 0, ProbeSet(logits, targets), F.cross_entropy, Categorical(), 0, further_sets=further or {}
    )


def binary(confidence: Tensor, correct: Tensor) -> Snapshot:
    """A network of two classes that predicts class 1 with the given confidence."""
    logits = torch.stack([torch.zeros_like(confidence), torch.logit(confidence)], 1)
    return snapshot_of(logits, correct.long())


def calibrated(n: int, seed: int) -> Snapshot:
    generator = torch.Generator().manual_seed(seed)
    confidence = 0.5 + 0.5 * torch.rand(n, generator=generator, dtype=torch.float64)
    return binary(confidence, torch.rand(n, generator=generator, dtype=torch.float64) < confidence)


def test_the_calibration_error_is_the_mean_gap_over_bins_of_confidence() -> None:
    confidence = torch.tensor([0.62, 0.62, 0.62, 0.62, 0.91, 0.91], dtype=torch.float64)
    found = calibration_draws(binary(confidence, torch.tensor([1, 0, 0, 0, 1, 1])))
    assert found.confidence.mean() == pytest.approx((4 * 0.62 + 2 * 0.91) / 6)
    assert found.error.mean() == pytest.approx((4 * abs(0.25 - 0.62) + 2 * abs(1 - 0.91)) / 6)
    assert found.floor.mean() == pytest.approx(
        math.sqrt(2 / math.pi) * (math.sqrt(4 * 0.62 * 0.38) + math.sqrt(2 * 0.91 * 0.09)) / 6
    )


def test_a_calibrated_network_has_an_error_at_its_floor_on_average() -> None:
    found = [calibration_draws(calibrated(300, seed)) for seed in range(300)]
    errors = np.array([f.error.mean() for f in found])
    floors = np.array([f.floor.mean() for f in found])
    assert abs(errors.mean() - floors.mean()) < 4 * errors.std(ddof=1) / math.sqrt(300) + 0.02 * floors.mean()


def test_the_standard_errors_cover_what_larger_sets_give() -> None:
    """Over-confident by 0.15 everywhere, so that the error is 0.15 however finely it is binned."""

    def overconfident(n: int, seed: int) -> Snapshot:
        generator = torch.Generator().manual_seed(seed)
        confidence = 0.7 + 0.25 * torch.rand(n, generator=generator, dtype=torch.float64)
        return binary(confidence, torch.rand(n, generator=generator, dtype=torch.float64) < confidence - 0.15)

    truth = calibration_draws(overconfident(400_000, 10_000))
    hits = dict.fromkeys(("confidence", "error"), 0)
    for seed in range(400):
        found = calibration_draws(overconfident(400, seed))
        for name in hits:
            draws = getattr(found, name)
            error = draws.std(ddof=1) / math.sqrt(draws.size)
            hits[name] += abs(draws.mean() - getattr(truth, name).mean()) < 1.96 * error
    assert all(0.90 <= hit / 400 <= 0.98 for hit in hits.values()), hits


def test_ignored_predictions_do_not_count() -> None:
    logits = torch.randn(4, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(3, (4, 5), generator=torch.Generator().manual_seed(1))
    targets[:, 3:] = IGNORED
    some = Snapshot.take(nn.Identity(), 0, ProbeSet(logits, targets), F.cross_entropy, Categorical(), 0)
    kept = Snapshot.take(nn.Identity(), 0, ProbeSet(logits[:, :3], targets[:, :3]), F.cross_entropy, Categorical(), 0)
    for name in ("confidence", "error", "floor"):
        assert getattr(calibration_draws(some), name) == pytest.approx(getattr(calibration_draws(kept), name))


def test_every_further_set_has_series_of_its_own() -> None:
    logits = torch.randn(6, 3, dtype=torch.float64)
    targets = torch.zeros(6, dtype=torch.long)
    snapshot = snapshot_of(logits, targets, {"ood": ProbeSet(5 * logits[:4], targets[:4])})
    found = list(Calibration().measure(snapshot, {}))
    assert [dict(m.labels) for m in found] == [{}] * 3 + [{"split": "ood"}] * 3
    assert found[3].estimate.value > found[0].estimate.value
    assert found[3].settings == {"n": "4", "bins": str(BINS)}


def test_a_regression_has_no_calibration() -> None:
    snapshot = Snapshot.take(
        nn.Identity(), 0, ProbeSet(torch.randn(4, 1), torch.randn(4, 1)), F.mse_loss, Gaussian(), 0
    )
    with pytest.raises(NotApplicable, match="classifiers"):
        calibration_draws(snapshot)


def test_targets_that_are_all_ignored_predict_nothing() -> None:
    with pytest.raises(NotApplicable, match="ignored"):
        calibration_draws(snapshot_of(torch.randn(4, 3), torch.full((4,), IGNORED)))


def test_logits_that_are_not_numbers_are_non_finite_and_not_a_number() -> None:
    logits = torch.randn(4, 3)
    logits[1] = math.nan
    found = list(Calibration().measure(snapshot_of(logits, torch.zeros(4, dtype=torch.long)), {}))
    assert {m.estimate.outcome for m in found} == {Outcome.NON_FINITE}
