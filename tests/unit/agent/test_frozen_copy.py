"""A copy computes what its model computes, bit for bit, and hooks of all modules do not hear of it."""

import copy
import gc
import pickle
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
    register_module_full_backward_hook,
)

from probe_agent import frozen_copy
from probe_agent.frozen_copy import copy_of, with_own_modules
from probe_agent.undisturbed import undisturbed

CPU = torch.device("cpu")


class Shared(nn.Module):
    """One module in two places, a list of modules, and a plain list of them."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.both = nn.ModuleList([self.one, nn.Sequential(self.one, nn.Linear(4, 4))])
        self.hidden = [nn.Linear(4, 4)]

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.both, *self.hidden):
            x = layer(x)
        return x


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x[:, None])[0]


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.layer(x[:, None])
        return self.attention(seen, seen, seen)[0]


class CallsItself(nn.Linear):
    """Has a way of its own to be called."""

    def __call__(self, *args: Any) -> Tensor:
        return 2 * super().__call__(*args)


def compiled_within() -> nn.Module:
    return nn.Sequential(torch.compile(nn.Linear(4, 4), backend="eager"), nn.Tanh())  # type: ignore[arg-type]


def compiled_in_place() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    model.compile(backend="eager")
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "shared": Shared,
    "recurrent": Recurrent,
    "attending": Attending,
    "calls itself": lambda: nn.Sequential(CallsItself(4, 4), nn.Tanh()),
    "graph": lambda: fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4), nn.Tanh())),
    "compiled within": compiled_within,
    "compiled in place": compiled_in_place,
}


@contextmanager
def hearing() -> Iterator[list[str]]:
    """The modules that hooks of all modules hear of inside."""
    found: list[str] = []

    def hear(module: nn.Module, *_: object) -> None:
        found.append(type(module).__name__)

    handles = [
        register(hear)
        for register in (
            register_module_forward_pre_hook,
            register_module_forward_hook,
            register_module_full_backward_hook,
        )
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def numbers_of(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs, gradients, and by torch.func the gradients by the inputs, one sample at a time."""
    params = {name: p.detach() for name, p in model.named_parameters()}

    def one(sample: Tensor) -> Tensor:
        return torch.func.functional_call(model, params, (sample[None],)).sum()

    outputs = model(x)
    gradients = torch.autograd.grad(outputs.square().sum(), list(model.parameters()))
    return [outputs, *gradients, torch.zeros(0) if _fused(model) else torch.func.vmap(torch.func.grad(one))(x)]


def _fused(model: nn.Module) -> bool:
    return any(isinstance(module, nn.LSTM | nn.MultiheadAttention) for module in model.modules())


@pytest.mark.parametrize("kind", MODELS)
def test_a_copy_computes_the_same_and_is_not_heard_of(kind: str) -> None:
    torch.manual_seed(0)
    model, x = MODELS[kind](), torch.randn(3, 4)
    with undisturbed(CPU, None):
        expected = numbers_of(copy.deepcopy(model).eval(), x)
    with hearing() as heard:
        with undisturbed(CPU, None):
            found = numbers_of(copy_of(model), x)
        assert heard == []
        nn.Identity()(x)
        assert heard != []
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_a_copys_own_hooks_are_called_with_all_they_may_ask_for() -> None:
    frozen, told = copy_of(nn.Sequential(nn.Linear(2, 2))), []
    frozen[0].register_forward_pre_hook(lambda *given: told.append(given[0]), with_kwargs=True)
    frozen[0].register_forward_hook(lambda module, _args, out: told.append(module) or out + 1)
    frozen[0].register_full_backward_hook(lambda module, *_: told.append(module))
    frozen(torch.zeros(1, 2).requires_grad_()).sum().backward()
    assert all(module is frozen[0] for module in told)
    assert len(told) == 3


def test_a_copy_is_gone_with_its_last_reference() -> None:
    gone = weakref.ref(frozen := copy_of(nn.Sequential(nn.Linear(2, 2))))
    gc.disable()
    try:
        del frozen
        assert gone() is None
    finally:
        gc.enable()


class KeepsAll(nn.Linear):
    """Is copied and pickled with all its attributes, by a way of its own."""

    def __getstate__(self) -> dict[str, Any]:
        return dict(vars(self))


def test_a_copy_can_be_copied_and_sent_elsewhere() -> None:
    frozen = copy_of(KeepsAll(2, 2))
    x = torch.ones(1, 2)
    for again in (copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):  # noqa: S301 - our own bytes
        assert torch.equal(again(x), frozen(x))


def test_where_torch_calls_modules_in_another_way_copies_are_called_as_any_module(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert frozen_copy._without_hooks_of_all(None) is None
    with monkeypatch.context() as renamed:
        renamed.delattr(nn.Module, "_compiled_call_impl")
        assert frozen_copy._without_hooks_of_all(nn.Module._call_impl) is None
    with monkeypatch.context() as older:
        older.setattr(frozen_copy, "_CALL", None)
        frozen = copy_of(nn.Linear(2, 2))
    assert "_compiled_call_impl" not in vars(frozen)
    assert frozen(torch.ones(1, 2)).shape == (1, 2)


def test_a_module_that_is_called_in_a_way_of_somebody_elses_is_called_so_in_the_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs = nn.Module._call_impl
    monkeypatch.setattr(nn.Module, "_call_impl", lambda *args: theirs(*args) + 1)
    model, x = nn.Linear(2, 2), torch.ones(1, 2)
    assert torch.equal(copy_of(model)(x), model(x))


class ItsOwnCopy(nn.Linear):
    def __deepcopy__(self, memo: dict[int, Any]) -> "ItsOwnCopy":
        return self


def test_a_module_that_deepcopy_gives_itself_is_refused_in_training_mode_and_else_left_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(2, 2), ItsOwnCopy(2, 2))
    with pytest.raises(TypeError, match="deepcopy of its ItsOwnCopy gives that itself; have it copied, or call eval"):
        copy_of(model)
    assert model[1].training
    before = dict(vars(model[1].eval()))
    assert copy_of(model)[1] is model[1]
    assert vars(model[1]) == before


class Counts(nn.Module):
    """A criterion that keeps state."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.calls = 0

    def forward(self, out: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        self.mean += 1
        return nn.functional.mse_loss(out, target)


criterion = Counts()


def by_name(out: Tensor, target: Tensor) -> Tensor:
    return criterion(out, target)


def by_default(out: Tensor, target: Tensor, *, given: nn.Module = criterion) -> Tensor:
    return given(out, target)


def by_closure() -> Callable[[Tensor, Tensor], Tensor]:
    here, later = criterion, None

    def loss(out: Tensor, target: Tensor) -> Tensor:
        assert later is None
        return here(out, target)

    return loss


class Objective(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.criterion = criterion

    def loss(self, out: Tensor, target: Tensor) -> Tensor:
        return self.criterion(out, target)


LOSSES = {
    "itself": criterion,
    "by name": by_name,
    "by default": by_default,
    "by closure": by_closure(),
    "by method": Objective().loss,
    "given": partial(lambda way, out, target: way(out, target), criterion),
    "given by name": partial(by_default, given=criterion),
}


@pytest.mark.parametrize("way", LOSSES)
def test_the_criterion_that_a_loss_calls_is_not_heard_of_and_counts_no_calls(way: str) -> None:
    frozen = with_own_modules(LOSSES[way])
    with hearing() as heard:
        assert frozen(torch.ones(2), torch.zeros(2)) == 1
        assert heard == []
    assert (criterion.calls, float(criterion.mean)) == (0, 0.0)


def test_a_loss_keeps_what_is_no_criterion_of_its_own() -> None:
    teacher, scale = nn.Linear(2, 2), [2.0]

    def distilled(out: Tensor, target: Tensor) -> Tensor:
        return scale[0] * nn.functional.mse_loss(out, teacher(target))

    assert with_own_modules(distilled) is distilled
    assert with_own_modules(nn.functional.mse_loss) is nn.functional.mse_loss
    assert with_own_modules(len) is len
