"""The Fisher trace from batches: unbiased for every architecture, whole and by layer, also with batch statistics."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from probe_agent import NotApplicable, ProbeSet, Snapshot
from probe_agent.estimators.fisher import fisher_draws
from probe_agent.estimators.fisher_batch import batch_draws
from probe_agent.likelihood import IGNORED, Categorical
from probe_agent.probes.fisher_batch import FisherBatch
from tests.curvature_problems import KINDS, kind, same_state, state_of

SEEDS = 150
"""A draw spreads by less than its mean: at four standard errors a bias of a third is seen, and a wrong count of groups makes more."""


def seeded(template: Snapshot, seed: int) -> Snapshot:
    return Snapshot.take(template.model, 0, template.probe_set, template.loss_fn, Categorical(), seed)


def within(values: list[float], truth: float, errors: float = 4.0) -> bool:
    return abs(np.mean(values) - truth) < errors * np.std(values, ddof=1) / math.sqrt(len(values))


@pytest.mark.parametrize("name", ["MLP", "BatchNorm in evaluation", "GPT with fused attention", "tied embedding"])
def test_the_mean_over_labels_is_the_exact_trace_whole_and_by_layer(name: str) -> None:
    template = kind(name, n=6)
    exact = fisher_draws(seeded(template, 0), labels="exact").true
    assert exact is not None
    found = [batch_draws(seeded(template, seed), 3) for seed in range(SEEDS)]
    assert within(
        [sum(float(d.mean()) for d in f.values()) for f in found], sum(float(d.mean()) for d in exact.values())
    )
    for layer, draws in exact.items():
        assert within([float(f[layer].mean()) for f in found], float(draws.mean()), 4.5), layer


def test_with_batch_statistics_it_is_the_trace_of_the_joint_score() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    template = Snapshot.take(model, 0, ProbeSet(x, torch.zeros(4, dtype=torch.long)), F.cross_entropy, Categorical(), 0)

    def joint() -> float:
        """tr of J^T Lambda J over all outputs of the whole batch, per prediction."""
        twin = nn.Sequential(*[type(m)(*a) if a else type(m)() for m, a in SHAPES]).double()
        twin.load_state_dict(model.state_dict())
        twin.train()
        outputs = twin(x)
        p = torch.softmax(outputs, -1).detach()
        total = 0.0
        for i in range(4):
            for c in range(3):
                score = torch.zeros_like(outputs)
                score[i] = p[i] - torch.eye(3, dtype=torch.float64)[c]
                g = torch.autograd.grad(outputs, list(twin.parameters()), score, retain_graph=True)
                total += float(p[i, c]) * sum(float(each.square().sum()) for each in g)
        return total / 4

    values = [
        sum(float(d.mean()) for d in batch_draws(seeded_pairs(template, seed), 2, training=True).values())
        for seed in range(SEEDS)
    ]
    before = state_of(template.model)
    batch_draws(template, 2, training=True)
    assert same_state(before, state_of(template.model)), "running statistics and flags are as they were"
    assert within(values, joint())


SHAPES: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Linear(3, 4), (3, 4)),
    (nn.BatchNorm1d(4), (4,)),
    (nn.Tanh(), ()),
    (nn.Linear(4, 3), (4, 3)),
]


def seeded_pairs(template: Snapshot, seed: int) -> Snapshot:
    """The probe set twice, so that each of two groups is the whole batch whatever the deal."""
    x = template.probe_set.inputs
    assert isinstance(x, Tensor)

    class Twice(ProbeSet):
        __slots__ = ()

        def part(self, index: slice | Tensor) -> ProbeSet:
            return template.probe_set

    doubled = Twice(torch.cat([x, x]), template.probe_set.targets.repeat(2))
    return Snapshot.take(template.model, 0, doubled, template.loss_fn, Categorical(), seed)


def test_the_standard_error_covers_a_population() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()

    def snapshot(n: int, seed: int) -> Snapshot:
        x = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return Snapshot.take(
            model, 0, ProbeSet(x, torch.zeros(n, dtype=torch.long)), F.cross_entropy, Categorical(), seed
        )

    exact = fisher_draws(snapshot(20_000, 10**6), labels="exact").true
    assert exact is not None
    truth = sum(float(d.mean()) for d in exact.values())
    hits = 0
    for seed in range(120):
        whole = next(FisherBatch(groups=32).measure(snapshot(128, seed), {})).estimate
        hits += abs(whole.value - truth) < 2.04 * whole.stderr  # Student's quantile for 31 degrees of freedom
    assert 0.90 <= hits / 120 <= 0.985, hits / 120


@pytest.mark.parametrize("name", list(KINDS))
def test_every_kind_of_model_has_one(name: str) -> None:
    template = kind(name, n=8)
    found = batch_draws(seeded(template, 0), 4)
    assert all(np.isfinite(draws).all() for draws in found.values())
    assert sum(float(d.mean()) for d in found.values()) > 0


def test_a_loss_without_a_likelihood_has_none() -> None:
    template = kind("MLP", n=8)
    unknown = Snapshot.take(template.model, 0, template.probe_set, template.loss_fn, None, 0)
    with pytest.raises(NotApplicable, match="not a known likelihood"):
        batch_draws(unknown, 4)


def test_one_group_shows_no_spread_and_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two"):
        FisherBatch(groups=1)


def with_ignored(scored: list[int], seed: int = 0) -> Snapshot:
    """A tagger of 12 sequences of 3 tokens, of which the first so many of each sequence count."""
    torch.manual_seed(0)
    embedding = nn.Embedding(3, 4)
    model = nn.Sequential(embedding, nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    tokens, targets = torch.zeros(12, 3, dtype=torch.long), torch.zeros(12, 3, dtype=torch.long)
    for row, count in enumerate(scored):
        targets[row, count:] = IGNORED
        tokens[row, :] = min(count, 2)
    with torch.no_grad():  # so that sequences in which more of them count have another trace
        embedding.weight[2] *= 4
    return Snapshot.take(
        model,
        0,
        ProbeSet(tokens, targets),
        lambda outputs, y: F.cross_entropy(outputs.transpose(1, 2), y),
        Categorical(),
        seed,
    )


@pytest.mark.parametrize("groups", [12, 4])
def test_where_groups_have_unequally_many_targets_that_count_or_none_it_is_unbiased_all_the_same(groups: int) -> None:
    scored = [0, 3, 1, 0, 2, 0, 0, 3, 1, 1, 0, 2]
    model, known = with_ignored(scored).model, with_ignored(scored).probe_set
    assert isinstance(known.inputs, Tensor)
    by_hand, predictions = 0.0, 0
    for row, position in (known.targets != IGNORED).nonzero().tolist():
        logp = torch.log_softmax(model(known.inputs[row, position]), -1)
        for c in range(3):  # one label after the other, each as often as the model would draw it
            slopes = torch.autograd.grad(logp[c], list(model.parameters()), retain_graph=True)
            by_hand += float(logp[c].detach().exp()) * sum(float(g.square().sum()) for g in slopes)
        predictions += 1
    found = [batch_draws(with_ignored(scored, seed), groups) for seed in range(SEEDS)]
    means = [sum(float(d.mean()) for d in f.values()) for f in found]
    assert within(means, by_hand / predictions)


def test_groups_without_a_target_that_counts_are_not_counted() -> None:
    measured = next(FisherBatch(groups=12).measure(with_ignored([0, 3, 1, 0, 2, 0, 0, 3, 1, 1, 0, 2]), {}))
    assert (measured.estimate.n, measured.settings["groups"]) == (7, "7")
    assert 0 < measured.estimate.stderr < measured.estimate.value


@pytest.mark.parametrize(("scored", "left"), [([0] * 12, 0), ([0] * 11 + [2], 1)])
def test_targets_that_count_in_one_group_alone_show_no_spread_and_say_so(scored: list[int], left: int) -> None:
    with pytest.raises(NotApplicable, match=f"in {left} of 12 groups"):
        batch_draws(with_ignored(scored), 12)
