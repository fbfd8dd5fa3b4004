"""Weights and optimizers: what is told of them is what they are, step by step."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import probe_agent
from probe_agent import Budget, Every, ListOutbox, Watch
from probe_agent.optimizers import Recorder, rule_of
from probe_agent.probes.loss import Loss
from probe_agent.probes.weights import Weights
from probe_wire import Outcome
from tests.problems import EVERY_PROBE

X = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 0, 1, 1, 0, 1, 0])


def model_of(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).double().clone()


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(X), Y).backward()
    optimizer.step()


def watched(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, every: int = 1
) -> tuple[list[dict[tuple[str, str], Any]], list[Tensor]]:
    """The estimates of each report by quantity and layer, and the weights after each step."""
    outbox = ListOutbox()
    monitor = probe_agent.attach(
        model,
        optimizer,
        loss_fn=F.cross_entropy,
        probe_batch=(X, Y),
        run="test",
        watches=[Watch(Every(every), (Weights(),))],
        budget=Budget(share=1000),
        outbox=outbox,
    )
    weights = [flat(model)]
    for _ in range(steps):
        train(model, optimizer)
        weights.append(flat(model))
    monitor.close()
    reports = [
        {(column.quantity, column.labels.get("layer", "")): estimate for _, column, estimate in draft.columns}
        for draft in outbox.drafts
    ]
    return reports, weights


@pytest.mark.parametrize("every", [1, 5])
def test_norms_updates_and_cosines_are_those_of_the_real_steps(every: int) -> None:
    model = model_of()
    reports, w = watched(model, torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9), 10, every)
    last = reports[-1]
    now, one = w[10] - w[9], w[9] - w[8]
    assert last["weight_norm", ""].value == pytest.approx(float(w[10].norm()))
    assert last["distance_from_start", ""].value == pytest.approx(float((w[10] - w[0]).norm()))
    assert last["update_ratio", ""].value == pytest.approx(float(now.norm() / w[9].norm()), rel=1e-5)
    assert last["update_cosine", ""].value == pytest.approx(float(now @ one / now.norm() / one.norm()), rel=1e-5)
    assert last["learning_rate", ""].value == 0.3
    assert last["weight_norm", "0"].value == pytest.approx(float(w[10][:16].norm()))
    assert last["update_ratio", "2"].value == pytest.approx(float(now[16:].norm() / w[9][16:].norm()), rel=1e-5)


def test_what_no_step_was_seen_for_is_not_applicable_and_has_its_column() -> None:
    model = model_of()
    reports, _ = watched(model, torch.optim.SGD(model.parameters(), lr=0.3), 2)
    assert reports[0]["update_ratio", ""].outcome is Outcome.NOT_APPLICABLE
    assert reports[0]["update_cosine", ""].outcome is Outcome.NOT_APPLICABLE
    assert reports[1]["update_ratio", ""].outcome is Outcome.OK
    assert reports[1]["update_cosine", ""].outcome is Outcome.NOT_APPLICABLE
    assert reports[2]["update_cosine", ""].outcome is Outcome.OK
    assert reports[0].keys() == reports[2].keys()


def test_a_frozen_layer_has_an_update_of_zero_and_a_norm() -> None:
    model = model_of()
    model[0].requires_grad_(False)
    reports, w = watched(model, torch.optim.SGD(model[2].parameters(), lr=0.3), 2)
    assert reports[-1]["update_ratio", "0"].outcome is Outcome.NOT_APPLICABLE
    assert reports[-1]["distance_from_start", "0"].value == 0
    assert reports[-1]["weight_norm", ""].value == pytest.approx(float(w[-1].norm()))


def test_weights_that_left_the_numbers_are_non_finite() -> None:
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=math.inf)
    reports, _ = watched(model, optimizer, 1)
    assert reports[-1]["weight_norm", ""].outcome in (Outcome.NON_FINITE, Outcome.NOT_APPLICABLE)


def test_the_recorder_holds_no_weights_between_measurements() -> None:
    model = model_of()
    recorder = Recorder()
    recorder.remember(model, 3)
    recorder.remember(model, 4)
    assert len(recorder.updates(model, 5)) == 2
    recorder.forget()
    assert recorder.updates(model, 5) == ()


def test_updates_across_a_gap_are_not_told() -> None:
    model = model_of()
    recorder = Recorder()
    recorder.remember(model, 2)
    recorder.remember(model, 4)
    assert len(recorder.updates(model, 5)) == 1


SGD, Adam = torch.optim.SGD, torch.optim.Adam


@pytest.mark.parametrize(
    ("make", "kind", "momentum"),
    [
        (lambda p: SGD(p, lr=0.1), "gradient", 0.0),
        (lambda p: SGD(p, lr=0.1, momentum=0.9), "momentum", 0.9),
        (lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True), "nesterov", 0.9),
        (lambda p: SGD(p, lr=0.1, momentum=0.9, dampening=0.1), "unknown", 0.9),
        (lambda p: SGD(p, lr=0.1, maximize=True), "unknown", 0.0),
        (lambda p: Adam(p, lr=0.1), "adam", 0.9),
        (lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.8, 0.99)), "adam", 0.8),
        (lambda p: torch.optim.RMSprop(p, lr=0.1), "adam", 0.0),
        (lambda p: torch.optim.RMSprop(p, lr=0.1, centered=True), "unknown", 0.0),
        (lambda p: torch.optim.Adagrad(p, lr=0.1), "adam", 0.0),
        (lambda p: torch.optim.Rprop(p, lr=0.1), "unknown", 0.0),
    ],
)
def test_the_family_of_an_optimizer_is_named_only_where_its_theory_holds(
    make: Callable[[Any], torch.optim.Optimizer], kind: str, momentum: float
) -> None:
    model = model_of()
    rule = rule_of(make(model.parameters()), model)
    assert (rule.kind, rule.momentum) == (kind, momentum)
    assert rule.learning_rates == dict.fromkeys(dict(model.named_parameters()), 0.1)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad])
def test_the_preconditioner_is_what_the_step_divides_by(optimizer: type[torch.optim.Optimizer]) -> None:
    """Read after a step, it explains that step: Δw = −η m / P, where m is the plain average of the gradients."""
    model = model_of().double()
    x = X.double()
    made = optimizer(model.parameters(), lr=0.01)  # type: ignore[call-arg]
    average = torch.zeros_like(flat(model))
    for _ in range(4):
        made.zero_grad()
        F.cross_entropy(model(x), Y).backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])  # type: ignore[union-attr]
        beta = 0.9 if optimizer is torch.optim.Adam else 0.0
        average = beta * average + (1 - beta) * gradient
        before = flat(model)
        made.step()
    rule = rule_of(made, model)
    assert rule.preconditioner is not None
    divisor = torch.cat([p.flatten() for p in rule.preconditioner.values()])
    assert torch.allclose(flat(model) - before, -0.01 * average / divisor, rtol=1e-9)


def test_parameters_of_another_model_are_not_told_of() -> None:
    model, other = model_of(), model_of(1)
    rule = rule_of(SGD([{"params": other.parameters()}, {"params": model[2].parameters(), "lr": 0.5}], lr=0.1), model)
    assert rule.learning_rates == {"2.weight": 0.5, "2.bias": 0.5}


class Waves(nn.Module):
    """Complex weights, integers nobody learns, a weight without elements, one that is a single number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w, self.scale = nn.Parameter(torch.randn(3, 4, dtype=torch.complex64)), nn.Parameter(torch.tensor(1.5))
        self.table, self.none = nn.Parameter(torch.arange(3), requires_grad=False), nn.Parameter(torch.empty(0, 2))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x.to(torch.complex64) @ self.w).abs()) * self.scale


def test_complex_weights_count_as_two_numbers_each_and_derivatives_by_them_are_not_taken() -> None:
    model = Waves()
    optimizer, outbox = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1), ListOutbox()
    monitor = probe_agent.attach(
        model,
        optimizer,
        loss_fn=F.cross_entropy,
        probe_batch=(X, Y),
        run="test",
        watches=[Watch(Every(1), (Weights(), Loss(), *EVERY_PROBE))],
        budget=Budget(share=1000),
        outbox=outbox,
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, optimizer)
    monitor.close()
    outcomes = {cost.probe: cost.outcome for cost in outbox.drafts[-1].costs}
    measured = {probe for probe, outcome in outcomes.items() if outcome == Outcome.OK}
    assert measured == {"weights", "loss", "calibration"}
    assert set(outcomes.values()) == {Outcome.OK, Outcome.NOT_APPLICABLE}
    found = {c.quantity: e.value for _, c, e in outbox.drafts[-1].columns if not c.labels}
    learned = [(p, before[name]) for name, p in model.named_parameters() if name != "table"]
    norm = math.sqrt(sum(float(p.detach().abs().square().sum()) for p, _ in learned))
    moved = math.sqrt(sum(float((p.detach() - start).abs().square().sum()) for p, start in learned))
    assert found["weight_norm"] == pytest.approx(norm, rel=1e-6)
    assert found["distance_from_start"] == pytest.approx(moved, rel=1e-5)


class Around(torch.optim.Optimizer):
    """Has others take its steps; its own parameter groups have no learning rate."""

    def __init__(self, *others: torch.optim.Optimizer) -> None:
        self.others = others
        super().__init__([p for other in others for group in other.param_groups for p in group["params"]], {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for other in self.others:
            other.step(closure)


def test_an_optimizer_whose_groups_have_no_rate_of_their_own_is_watched_without_one() -> None:
    model = model_of()
    mine, theirs = list(model.parameters())[:2], list(model.parameters())[2:]
    optimizer = Around(torch.optim.SGD(mine, lr=0.3), torch.optim.Adam(theirs))
    assert rule_of(optimizer, model).learning_rates == {}
    reports, w = watched(model, optimizer, 2)
    assert reports[-1]["update_ratio", ""].value == pytest.approx(float((w[2] - w[1]).norm() / w[1].norm()))
    assert reports[-1]["learning_rate", ""].outcome is Outcome.NOT_APPLICABLE


@pytest.mark.parametrize("rate", [None, 0.1])
def test_a_rate_that_is_none_is_no_rate(rate: float | None) -> None:
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["lr"] = rate
    assert set(rule_of(optimizer, model).learning_rates.values()) == ({rate} if rate else set())


def test_a_layer_may_be_replaced_by_one_of_another_size() -> None:
    model = model_of()
    assert isinstance(model, nn.Sequential)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    outbox = ListOutbox()
    every = [Watch(Every(1), (Weights(), Loss()))]
    monitor = probe_agent.attach(
        model,
        optimizer,
        loss_fn=F.cross_entropy,
        probe_batch=(X, Y),
        run="test",
        watches=every,
        outbox=outbox,
        budget=Budget(share=1000),
    )
    first = model[0].weight.detach().clone(), model[0].bias.detach().clone()
    train(model, optimizer)
    model[2] = nn.Linear(4, 5)
    optimizer.param_groups[0]["params"] = list(model.parameters())
    for _ in range(3):
        train(model, optimizer)
    monitor.close()
    assert [d.step for d in outbox.drafts] == [0, 1, 2, 3, 4]
    for draft in outbox.drafts[1:]:
        found = {c.quantity: e for _, c, e in draft.columns if not c.labels}
        assert found["probe_loss"].outcome is Outcome.OK
        assert found["update_ratio"].outcome is Outcome.OK
        told = found["update_cosine"].outcome is Outcome.OK
        assert told == (draft.step > 2), "the step before the replacement was one of other weights"
    stayed = torch.cat([(p.detach() - was).flatten() for p, was in zip(model[0].parameters(), first, strict=True)])
    assert found["distance_from_start"].value == pytest.approx(float(stayed.norm()), rel=1e-5)
