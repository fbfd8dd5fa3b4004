"""A snapshot is a copy nobody in training can notice, and nobody in training can move."""

import random
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from probe_agent.frozen_copy import copy_of
from probe_agent.probe_set import ProbeSet
from probe_agent.snapshot import Snapshot
from probe_agent.undisturbed import undisturbed


def take(model: nn.Module, inputs: Tensor, step: int = 0) -> Snapshot:
    return Snapshot.take(
        model, step, ProbeSet(inputs, torch.zeros(len(inputs), dtype=torch.long)), F.cross_entropy, None, 0
    )


def test_a_snapshot_keeps_its_values_while_training_goes_on() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    snapshot = take(model, torch.randn(5, 3))
    before = snapshot.outputs()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    model(torch.randn(50, 3) * 10)  # moves the live running statistics
    assert torch.equal(snapshot.outputs(), before)


def test_a_snapshot_is_in_evaluation_mode_and_the_model_stays_in_training_mode() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5))
    snapshot = take(model, torch.randn(5, 3))
    assert not any(m.training for m in snapshot.model.modules())
    assert all(m.training for m in model.modules())


def test_tied_weights_stay_tied_and_frozen_ones_frozen() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.embed.weight
            self.fixed = nn.Parameter(torch.ones(4), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.embed(x) * self.fixed)

    frozen = copy_of(Tied())
    assert frozen.head.weight is frozen.embed.weight
    assert not frozen.fixed.requires_grad
    assert list(take(Tied(), torch.arange(3)).params) == ["embed.weight"]


def test_what_a_forward_pass_keeps_or_counts_stays_in_the_copy() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.seen: list[Tensor] = []
            self.last: Tensor | None = None
            self.cache: OrderedDict[str, Tensor] = OrderedDict()

        def forward(self, x: Tensor) -> Tensor:
            self.last = self.linear(x)
            self.seen.append(self.last)
            self.cache["last"] = self.last
            return self.last

    model = Keeps()
    model(torch.randn(2, 3))  # now it holds tensors with a graph, which deepcopy refuses
    snapshot = take(model, torch.randn(5, 3))
    snapshot.outputs()
    assert len(model.seen) == 1
    assert model.last is not None
    assert model.last.shape == (2, 3)


def test_a_plain_list_of_modules_is_copied_too() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.others = [nn.Linear(3, 3)]

        def forward(self, x: Tensor) -> Tensor:
            return self.others[0](self.linear(x))

    model = Hidden()
    snapshot = take(model, torch.randn(5, 3))
    assert snapshot.model.others[0].weight is not model.others[0].weight
    assert torch.equal(snapshot.outputs(), model(snapshot.probe_set.inputs))


def test_recurrent_layers_use_the_copied_weights() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[0][:, -1]

    model = Recurrent()
    snapshot = take(model, torch.randn(5, 6, 3))
    before = snapshot.outputs()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert torch.equal(snapshot.outputs(), before)


def test_bystander_hooks_do_not_run_but_weight_norm_still_computes() -> None:
    called: list[int] = []
    with pytest.warns(FutureWarning):
        normed = torch.nn.utils.weight_norm(nn.Linear(3, 4))
    model = nn.Sequential(normed, nn.Linear(4, 2))
    model.register_forward_hook(lambda *_: called.append(1))
    model[1].register_forward_pre_hook(lambda *_: called.append(2))
    x = torch.randn(5, 3)
    snapshot = take(model, x)
    with torch.no_grad():
        snapshot.params["0.weight_g"].mul_(2.0)  # acts only if the copy's own hook computes the weight
    doubled = snapshot.outputs()
    assert called == []
    model[0].weight_g.data.mul_(2.0)
    assert torch.allclose(doubled, model(x))


def test_a_sparse_embedding_has_a_dense_gradient_in_the_copy() -> None:
    model = nn.Embedding(7, 4, sparse=True)
    snapshot = take(model, torch.arange(5))
    snapshot.outputs().sum().backward()
    assert not next(iter(snapshot.params.values())).grad.is_sparse  # type: ignore[union-attr]
    assert model.sparse


def test_gradients_are_not_copied() -> None:
    model = nn.Linear(3, 2)
    model(torch.randn(4, 3)).sum().backward()
    assert all(p.grad is None for p in copy_of(model).parameters())


def test_random_streams_and_switches_are_as_they_were_after_undisturbed() -> None:
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())  # noqa: NPY002
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        with undisturbed(torch.device("cpu"), seed=3):
            torch.rand(5)
            np.random.rand(5)  # noqa: NPY002
            random.random()
            assert torch.is_grad_enabled()
            assert not torch.is_autocast_enabled("cpu")
        assert not torch.is_grad_enabled()
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert before[2] == random.getstate()


def test_streams_are_restored_when_a_probe_raises() -> None:
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="size"), undisturbed(torch.device("cpu"), seed=3):
        torch.rand(5) + torch.rand(4)
    assert torch.equal(before, torch.get_rng_state())


def test_a_model_that_draws_in_evaluation_mode_draws_the_same_at_every_snapshot() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x + torch.randn_like(x))

    snapshot = take(Noisy(), torch.randn(5, 3))
    with undisturbed(torch.device("cpu"), seed=3):
        first = snapshot.outputs()
    with undisturbed(torch.device("cpu"), seed=3):
        second = snapshot.outputs()
    assert torch.equal(first, second)


def test_a_generator_gives_the_same_draws_for_the_same_purpose_only() -> None:
    snapshot = take(nn.Linear(3, 2), torch.randn(5, 3))
    same = [torch.rand(4, generator=snapshot.generator("labels")) for _ in range(2)]
    other = torch.rand(4, generator=snapshot.generator("vectors"))
    assert torch.equal(*same)
    assert not torch.equal(same[0], other)


def test_predictions_are_computed_once_and_a_loss_that_works_in_place_spoils_them_for_nobody() -> None:
    calls = []
    model = nn.Linear(3, 2)
    snapshot = take(model, torch.randn(5, 3))
    snapshot.model.register_forward_hook(lambda *_: calls.append(1))
    first = snapshot.predictions()
    expected = first.clone()
    first.mul_(0)
    assert torch.equal(snapshot.predictions(), expected)
    assert not first.requires_grad
    assert len(calls) == 1


def test_what_is_computed_on_a_further_set_is_shared_and_is_not_that_of_the_probe_set() -> None:
    further = {"test": ProbeSet(torch.ones(4, 3), torch.zeros(4, dtype=torch.long))}
    probe_set = ProbeSet(torch.zeros(5, 3), torch.zeros(5, dtype=torch.long))
    snapshot = Snapshot.take(nn.Linear(3, 2), 0, probe_set, F.cross_entropy, None, 0, further_sets=further)
    assert snapshot.on("test") is snapshot.on("test")
    assert snapshot.on("test").predictions().shape == (4, 2)
    assert snapshot.predictions().shape == (5, 2)


def test_a_module_in_two_places_is_evaluated_at_other_weights_and_gets_its_own_back() -> None:
    """torch.func.functional_call leaves the weights it was given in a module that stands in two places."""
    torch.manual_seed(0)
    inner = nn.Linear(3, 3)
    snapshot = take(nn.Sequential(inner, nn.Tanh(), inner), torch.randn(5, 3))
    own = dict(snapshot.model.named_parameters())
    before = snapshot.outputs()
    moved = {name: p.detach() + 1.0 for name, p in snapshot.params.items()}
    expected = F.linear(F.linear(snapshot.probe_set.inputs, *moved.values()).tanh(), *moved.values())
    torch.testing.assert_close(snapshot.outputs(moved), expected)
    assert all(own[name] is p for name, p in snapshot.model.named_parameters())
    assert torch.equal(snapshot.outputs(), before)


def test_tied_weights_of_two_modules_move_together() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.other.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.other(self.one(x).tanh())

    snapshot = take(Tied(), torch.randn(5, 3))
    assert list(snapshot.params) == ["one.weight"]
    weight = torch.randn(3, 3)
    expected = F.linear(F.linear(snapshot.probe_set.inputs, weight).tanh(), weight)
    torch.testing.assert_close(snapshot.outputs({"one.weight": weight}), expected)
    assert snapshot.model.other.weight is snapshot.model.one.weight is snapshot.params["one.weight"]


def test_what_a_model_holds_beside_its_weights_and_never_writes_to_is_not_copied() -> None:
    model = nn.Linear(2, 2)
    model.optimizer = torch.optim.Adam(model.parameters())  # type: ignore[assignment]
    model.data = torch.utils.data.TensorDataset(torch.zeros(4, 2))  # type: ignore[assignment]
    model.seen = [0]  # type: ignore[assignment]
    frozen = copy_of(model)
    assert (frozen.optimizer, frozen.data) == (model.optimizer, model.data)
    assert frozen.seen == model.seen
    assert frozen.seen is not model.seen
    assert frozen.weight is not model.weight
