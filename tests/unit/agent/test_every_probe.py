"""What holds for every probe on every kind of model: it works or says why not, and leaves no trace."""

import copy
import math
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from probe_agent import Measurement, NotApplicable, Probe, Snapshot
from probe_agent.likelihood import Categorical
from probe_agent.probes.hessian_trace import HessianTrace
from probe_agent.probes.loss import Loss
from probe_agent.probes.sharpness import Sharpness
from probe_agent.update_rule import UpdateRule
from probe_wire import Column, Outcome, Schema, decode_for_collector, encode
from tests.curvature_problems import KINDS, dense_hessian, kind, normal, same_state, snapshot_of, state_of
from tests.problems import EVERY_PROBE

NOT_DEFINED = {
    ("local_complexity", "LSTM"): "fused",
    ("local_complexity", "unused parameter"): "no activation function",
}
"""Where a probe has nothing to measure, and a word of the reason it must give."""


def two_snapshots(name: str) -> tuple[Snapshot, Snapshot]:
    """The same training at two steps: the second after a small step of plain gradient descent."""
    template = kind(name, n=48)
    moved = copy.deepcopy(template.model)
    gradients = torch.autograd.grad(template.loss(), list(template.params.values()), allow_unused=True)
    steps = {
        n: torch.zeros_like(p) if g is None else -0.05 * g
        for (n, p), g in zip(template.params.items(), gradients, strict=True)
    }
    with torch.no_grad():
        for n, p in moved.named_parameters():
            p.add_(steps[n])

    def taken(model: nn.Module, step: int, updates: tuple[dict[str, Tensor], ...]) -> Snapshot:
        rates = dict.fromkeys(template.params, 0.05)
        rule = UpdateRule(optimizer="SGD", kind="gradient", learning_rates=rates, updates=updates)
        return Snapshot.take(model, step, template.probe_set, template.loss_fn, Categorical(), 0, rule=rule)

    return taken(template.model, 0, ()), taken(moved, 1, (steps, steps))


def columns(measured: list[Measurement]) -> list[Column]:
    return [Column(m.quantity.name, dict(m.labels), dict(m.settings)) for m in measured]


@pytest.mark.parametrize("name", list(KINDS))
@pytest.mark.parametrize("probe", EVERY_PROBE, ids=lambda probe: probe.name)
def test_a_probe_measures_every_kind_of_model_or_says_why_not(probe: Probe, name: str) -> None:
    before, after = two_snapshots(name)
    memory: dict[str, object] = {}
    states = [state_of(snapshot.model) for snapshot in (before, after)]
    if reason := NOT_DEFINED.get((probe.name, name)):
        with pytest.raises(NotApplicable, match=reason):
            list(probe.measure(before, memory))
        return
    first, second = list(probe.measure(before, memory)), list(probe.measure(after, memory))
    for snapshot, state in zip((before, after), states, strict=True):
        assert same_state(state, state_of(snapshot.model)), "the copy other probes will use was changed"
    series = [(c.quantity, sorted(c.labels.items())) for c in columns(second)]
    assert series == [(c.quantity, sorted(c.labels.items())) for c in columns(first)], "the same columns every time"
    assert len(series) == len({str(each) for each in series}), "no series twice"
    assert {q for q, _ in series} <= {q.name for q in probe.quantities}
    decode_for_collector(encode(Schema(1, probe.quantities, tuple(columns(second)))))
    for m in second:
        said = f"{m.quantity.name} {dict(m.labels)} {m.estimate} {dict(m.settings)}"
        assert m.estimate.outcome in (Outcome.OK, Outcome.NOT_CONVERGED, Outcome.NOT_APPLICABLE), said
        if m.estimate.outcome is Outcome.OK:
            assert math.isfinite(m.estimate.stderr), f"no number without its uncertainty: {said}"
            assert m.estimate.stderr >= 0
            if m.draws is not None:
                assert m.draws.dtype == np.float64
                close = 1e-6 * (abs(m.estimate.value) + np.abs(m.draws).max()) + 4 * m.estimate.stderr
                assert abs(m.draws.mean() - m.estimate.value) <= close, f"draws are not parts of the value: {said}"
    tried = (Outcome.OK, Outcome.NOT_CONVERGED)
    assert any(m.estimate.outcome in tried for m in second), "nothing at all was measured"


@pytest.mark.parametrize("probe", EVERY_PROBE, ids=lambda probe: probe.name)
def test_a_probe_gives_the_same_numbers_for_the_same_snapshot(probe: Probe) -> None:
    """Common random numbers: a curve does not carry the luck of its draws."""

    def values() -> list[float]:
        memory: dict[str, object] = {}
        before, after = two_snapshots("MLP")
        return [m.estimate.value for snapshot in (before, after) for m in probe.measure(snapshot, memory)]

    assert np.array_equal(values(), values(), equal_nan=True)


@pytest.mark.parametrize("probe", EVERY_PROBE, ids=lambda probe: probe.name)
def test_a_diverged_network_never_gets_a_number_that_looks_sound(probe: Probe) -> None:
    template = kind("MLP", n=48)
    with torch.no_grad():
        template.params["0.weight"][0, 0] = math.nan
    snapshot = Snapshot.take(template.model, 5, template.probe_set, template.loss_fn, Categorical(), 0)
    try:
        measured = list(probe.measure(snapshot, {}))
    except Exception:  # noqa: BLE001 - it becomes an outcome
        return
    sound = {
        m.quantity.name
        for m in measured
        if m.estimate.outcome is Outcome.OK and not m.labels.get("layer") and math.isfinite(m.estimate.value)
    }
    assert sound <= {"learning_rate", "trainable_parameters", "probe_accuracy"}, sound


class Pairing(nn.Module):
    """Likenesses of every image to every text of the batch, as CLIP has them."""

    def __init__(self) -> None:
        super().__init__()
        self.images, self.texts = nn.Linear(5, 3), nn.Linear(4, 3)

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        return self.images(images).tanh() @ self.texts(texts).tanh().T


def paired_up() -> Snapshot:
    """The target of an image is the place of its text in the batch, which a part of the batch may not have."""
    torch.manual_seed(0)
    inputs, places = (normal(32, 5), normal(32, 4, seed=1)), torch.arange(32)
    rule = UpdateRule(optimizer="SGD", kind="gradient", learning_rates={}, updates=())
    return replace(
        snapshot_of(Pairing().double(), inputs, places, F.cross_entropy), likelihood=Categorical(), rule=rule
    )


GROUPING = [probe for probe in EVERY_PROBE if hasattr(probe, "groups")]


@pytest.mark.parametrize("probe", GROUPING, ids=lambda probe: probe.name)
def test_of_a_loss_that_needs_its_whole_batch_a_probe_measures_what_it_can_or_says_why_not(probe: Probe) -> None:
    with suppress(NotApplicable):
        list(probe.measure(paired_up(), {}))


def contrasted(outputs: Tensor, places: Tensor) -> Tensor:
    """In-batch contrast of embeddings (van den Oord et al. 2018). On a GPU a place beyond the batch ends the process's use of it."""
    if places.max() >= len(outputs):
        BEYOND.append(len(outputs))
    return F.cross_entropy(outputs @ outputs.roll(1, 0).T, places)


def scored(likenesses: Tensor, places: Tensor) -> Tensor:
    if places.max() >= likenesses.shape[1]:
        BEYOND.append(likenesses.shape[1])
    return F.cross_entropy(likenesses, places)


BEYOND: list[int] = []


@pytest.mark.parametrize("probe", [*GROUPING, Loss()], ids=lambda probe: probe.name)
def test_a_loss_is_never_tried_on_samples_whose_targets_lie_beyond_them(probe: Probe) -> None:
    shuffled = torch.arange(32).flip(0)
    embedded = replace(
        snapshot_of(nn.Linear(5, 3).double(), normal(32, 5), shuffled, contrasted), rule=paired_up().rule
    )
    BEYOND.clear()
    for snapshot in (replace(paired_up(), loss_fn=scored), embedded):
        with suppress(NotApplicable):
            list(probe.measure(snapshot, {}))
    assert not BEYOND


def test_of_a_loss_that_needs_its_whole_batch_the_hessian_is_that_of_the_whole() -> None:
    snapshot = paired_up()
    truth = torch.linalg.eigvalsh(dense_hessian(snapshot))
    sharpness, trace = (next(probe.measure(snapshot, {})).estimate for probe in (Sharpness(), HessianTrace()))
    assert sharpness.value == pytest.approx(float(truth[-1]), rel=0.02)
    spread = math.sqrt(
        2 / HessianTrace().groups * float(truth.square().sum())
    )  # of random signs (Hutchinson 1990), at the most
    assert trace.value == pytest.approx(float(truth.sum()), abs=4 * spread)
    assert math.isnan(sharpness.stderr), "how it varies over samples cannot be told"
    assert math.isnan(trace.stderr)
