"""The door: what cannot be watched is refused with what we got, what we need, and what to do."""

import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import probe_agent
from probe_agent import AttachError, Budget, Every, ListOutbox, Monitor, Watch
from probe_agent.door import unwrapped
from probe_agent.presets import light
from probe_agent.probes.fisher_trace import FisherTrace
from probe_agent.probes.hessian_trace import HessianTrace
from probe_agent.probes.local_complexity import LocalComplexity
from probe_agent.probes.loss import Loss
from probe_agent.probes.sharpness import Sharpness


def attach(model: object = None, optimizer: object = None, **changes: object) -> Monitor:
    if model is None:
        model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    if optimizer is None and isinstance(model, nn.Module) and list(model.parameters()):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    arguments: dict[str, object] = {
        "loss_fn": F.cross_entropy,
        "probe_batch": (torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1])),
        "run": "test",
        "outbox": ListOutbox(),
        **changes,
    }
    return probe_agent.attach(model, optimizer, **arguments)  # type: ignore[arg-type]


def frozen() -> nn.Module:
    return nn.Linear(3, 2).requires_grad_(requires_grad=False)


class Uncopyable(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 2)
        self.stream = (i for i in range(3))


def penalised() -> Monitor:
    model = nn.Linear(3, 2)
    return attach(model, loss_fn=lambda o, t: F.cross_entropy(o, t) + sum(p.square().sum() for p in model.parameters()))


def wrapped() -> Monitor:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    original = model.forward
    model.forward = lambda x: original(x)  # noqa: PLW0108 - what frameworks do
    return attach(model)


class AuxiliaryInTraining(nn.Linear):
    """Returns a second output in training alone."""

    def __init__(self) -> None:
        super().__init__(3, 2)

    def forward(self, x: torch.Tensor) -> Any:
        found = super().forward(x)
        return (found, found) if self.training else found


def traced() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is on its way out
        return torch.jit.trace(nn.Linear(3, 2), torch.zeros(1, 3))


GOOD_Y = torch.zeros(6, dtype=torch.long)
REFUSALS: dict[str, tuple[Callable[[], object], str]] = {
    "a model without parameters": (
        lambda: attach(nn.ReLU(), torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)),
        r"Got a model without parameters \(ReLU\); there is nothing to watch learn",
    ),
    "not a model": (
        lambda: attach("model", torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)),
        "Got a model of type str; need a torch.nn.Module",
    ),
    "not an optimizer": (lambda: attach(optimizer="sgd"), "Got an optimizer of type str; need a torch.optim.Optimizer"),
    "an optimizer of another model": (
        lambda: attach(optimizer=torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1)),
        "updates none of the model's parameters; pass the optimizer that trains this model",
    ),
    "all parameters frozen": (
        lambda: attach(frozen(), torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)),
        "parameters are all frozen .* unfreeze some",
    ),
    "a lazy model": (
        lambda: attach(nn.LazyLinear(2), torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)),
        "lazy parameters that have no shape yet; run one forward pass",
    ),
    "a model that cannot be copied": (
        lambda: attach(Uncopyable()),
        r"cannot be copied \(TypeError: .*generator.*Keep locks, files, generators",
    ),
    "inputs of the wrong shape": (
        lambda: attach(probe_batch=(torch.randn(6, 5), GOOD_Y)),
        r"the model cannot take: inputs of shape \(6, 5\) raise RuntimeError",
    ),
    "no pair": (
        lambda: attach(probe_batch=torch.randn(6, 3)),
        r"probe batch of type Tensor; need a pair \(inputs, targets\)",
    ),
    "targets of another length": (
        lambda: attach(probe_batch=(torch.randn(6, 3), GOOD_Y[:4])),
        r"whose tensors have \[4, 6\] samples along the first axis; need the same number",
    ),
    "a single sample": (
        lambda: attach(probe_batch=(torch.randn(1, 3), GOOD_Y[:1])),
        "need the same number, at least 2",
    ),
    "targets that are no tensor": (
        lambda: attach(probe_batch=(torch.randn(2, 3), [0, 1])),
        "Tensor inputs and list targets; need dense tensors",
    ),
    "sparse inputs": (
        lambda: attach(probe_batch=(torch.eye(6, 3).to_sparse(), GOOD_Y)),
        "Tensor inputs and Tensor targets; need dense tensors",
    ),
    "another device": (
        lambda: attach(probe_batch=(torch.randn(6, 3, device="meta"), GOOD_Y.to("meta"))),
        r"probe batch on meta and a model on cpu; need both on one device: pass probe_batch=\(inputs.to\('cpu'\)",
    ),
    "a loss that is not a scalar": (
        lambda: attach(loss_fn=lambda o, t: F.cross_entropy(o, t, reduction="none")),
        r"a loss_fn that returns a tensor of shape \(6,\); need a scalar tensor. Reduce it",
    ),
    "a loss that is no tensor": (
        lambda: attach(loss_fn=lambda _o, _t: 1.0),
        "a loss_fn that returns float; need a scalar tensor",
    ),
    "a loss that raises": (
        lambda: attach(loss_fn=lambda o, t: o / t["x"]),
        "a loss_fn that raises .* on the probe batch",
    ),
    "a model that returns something else in evaluation mode": (
        lambda: attach(AuxiliaryInTraining(), loss_fn=lambda o, t: F.cross_entropy(o[0], t) + F.cross_entropy(o[1], t)),
        r"called as loss_fn\(model\(inputs\), targets\), with the model in evaluation mode, where it returned a Tensor",
    ),
    "a loss without gradient": (
        lambda: attach(loss_fn=lambda o, t: F.cross_entropy(o.detach(), t)),
        "does not depend on any trainable parameter",
    ),
    "an unknown likelihood": (lambda: attach(likelihood="poisson"), "poisson"),
    "a run without a name": (lambda: attach(run=""), "Got the run name ''; need a text of 1 to 200 characters"),
    "a label out of bounds": (
        lambda: attach(labels={"Data Set": "x"}),
        "Got the label 'Data Set': 'x'; need a lower_case name",
    ),
    "a penalty on the live parameters": (
        penalised,
        "reaches around the copy to the live model .its parameters are part of the loss",
    ),
    "a forward that closes over the live model": (
        wrapped,
        "reaches around the copy to the live model .it writes to",
    ),
    "a model of torch.jit": (
        lambda: attach(traced()),
        "a module of torch.jit computes with the parameters it was made with; attach to what it was made from",
    ),
    "a step below zero": (lambda: attach(step=-5), r"a run the collector would refuse: .*Check step \(-5\)"),
    "two probes of one name": (
        lambda: attach(watches=[Watch(Every(1), (LocalComplexity(),)), Watch(Every(5), (LocalComplexity(points=9),))]),
        "Got two different probes named 'local_complexity'; their series could not be told apart",
    ),
    "an address that is none": (
        lambda: attach(outbox=None, collector="localhost:5757"),
        r"collector address 'localhost:5757'; need tcp://HOST:PORT or ipc://PATH",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_it_refuses_in_words(what: str) -> None:
    attempt, words = REFUSALS[what]
    with pytest.raises(AttachError, match=words):
        attempt()


@pytest.mark.parametrize("what", REFUSALS)
def test_a_refused_attach_leaves_no_hook_and_no_trace_in_the_random_stream(what: str) -> None:
    optimizers: list[torch.optim.Optimizer] = []
    original = torch.optim.SGD.__init__

    def remember(self: torch.optim.SGD, *args: object, **kwargs: object) -> None:
        original(self, *args, **kwargs)  # type: ignore[arg-type]
        optimizers.append(self)

    torch.optim.SGD.__init__ = remember  # type: ignore[method-assign]
    try:
        with pytest.raises(AttachError):
            REFUSALS[what][0]()
    finally:
        torch.optim.SGD.__init__ = original  # type: ignore[method-assign]
    assert all(not o._optimizer_step_post_hooks and not o._optimizer_step_pre_hooks for o in optimizers)


def test_inputs_may_be_a_tuple_or_a_dict() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.linear(a * b)

    a, b = torch.randn(6, 3), torch.randn(6, 3)
    for inputs in ((a, b), {"a": a, "b": b}):
        monitor = attach(Two(), probe_batch=(inputs, GOOD_Y))
        assert monitor.step == 0
        monitor.close()


def test_the_probe_batch_is_copied_so_that_a_loader_may_reuse_its_memory() -> None:
    x = torch.randn(6, 3)
    monitor = attach(probe_batch=(x, GOOD_Y))
    kept = monitor.subject.probe_set.inputs
    assert isinstance(kept, Tensor)
    x.zero_()
    assert kept.abs().sum() > 0
    monitor.close()


def test_a_compiled_model_is_looked_through() -> None:
    model = nn.Linear(3, 2)
    assert unwrapped(torch.compile(model, backend="eager")) is model  # type: ignore[arg-type]
    assert unwrapped(nn.DataParallel(model)) is model


def test_a_loss_that_is_no_known_likelihood_is_watched_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    attach(loss_fn=lambda o, t: F.cross_entropy(o, t, label_smoothing=0.1), watches=[]).close()
    assert "pass likelihood='categorical'" in caplog.text
    caplog.clear()
    attach(loss_fn=lambda o, t: F.cross_entropy(o, t), watches=[]).close()  # noqa: PLW0108 - told by its values, not its name
    assert caplog.text == ""


def test_a_run_id_the_collector_would_refuse_is_refused_at_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHASEWATCH_RUN_ID", "my job/3")
    with pytest.raises(AttachError, match=r"PHASEWATCH_RUN_ID .'my job/3'; letters"):
        attach()


def test_a_buffer_made_in_inference_mode_is_no_obstacle() -> None:
    model = nn.Linear(3, 2)
    with torch.inference_mode():
        model.register_buffer("mask", torch.ones(2))
    attach(model).close()


def test_a_launcher_that_leaves_its_variables_empty_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "")
    monkeypatch.setenv("RANK", "")
    attach().close()


def test_a_criterion_with_a_state_of_its_own_keeps_it() -> None:
    class Centering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("centre", torch.zeros(2))

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            self.centre.mul_(0.9).add_(0.1 * outputs.detach().mean(0))
            return F.cross_entropy(outputs - self.centre, targets)

    criterion = Centering()
    attach(loss_fn=criterion).close()
    assert torch.equal(criterion.centre, torch.zeros(2))


def test_the_environment_can_switch_the_agent_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHASEWATCH_DISABLE", "1")
    outbox = ListOutbox()
    monitor = attach(outbox=outbox)
    assert monitor._watches == ()
    assert outbox.drafts == []
    monitor.close()


class Centring(nn.Module):
    """Writes to its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.sub_(0.5).div_(2))


def tempered(outputs: Tensor, targets: Tensor) -> Tensor:
    """Writes to the outputs."""
    return F.cross_entropy(outputs.div_(2.0), targets)


def blunting(outputs: Tensor, targets: Tensor) -> Tensor:
    """Writes to the targets."""
    return (outputs - targets.mul_(0.9)).square().mean()


@pytest.mark.parametrize("way", ["inputs", "outputs", "targets", "none"])
def test_what_writes_to_what_it_is_given_is_given_copies(way: str) -> None:
    """Nothing moves, so no number may: neither the probe set nor shared outputs may be spoiled."""
    torch.manual_seed(0)
    model = Centring() if way == "inputs" else nn.Linear(3, 2)
    y = torch.randn(16, 2) if way == "targets" else torch.randint(2, (16,))
    loss = {"outputs": tempered, "targets": blunting}.get(way, F.cross_entropy)
    outbox = ListOutbox()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    probes = (Loss(), FisherTrace(), Sharpness(), HessianTrace(per_layer=False))
    watches = [Watch(Every(1), probes)]
    batch = (torch.randn(16, 3), y)
    monitor = attach(model, optimizer, loss_fn=loss, probe_batch=batch, watches=watches, outbox=outbox)
    assert monitor.subject.fresh == (way != "none")
    assert monitor.subject.likelihood is None or way not in ("outputs", "targets")
    optimizer.step()
    first, second = (
        {(c.quantity, *c.labels.values()): e.value for _, c, e in draft.columns} for draft in outbox.drafts
    )
    assert first.keys() == second.keys()
    for key, value in first.items():
        if key[0] != "hessian_trace":  # its signs are new at every step
            assert second[key] == pytest.approx(value, rel=1e-3, nan_ok=True), key
    monitor.close()


def test_a_budget_that_is_none_is_refused_at_the_door() -> None:
    with pytest.raises(
        AttachError, match=r'Got budget=0.01; need a percentage of training time, such as "1%", or a Budget'
    ):
        attach(budget=0.01)


def test_a_preset_and_a_budget_may_be_given_by_name() -> None:
    monitor = attach(watches="light", budget="1%")
    assert [watch.probes for watch in monitor._watches] == [watch.probes for watch in light()]
    assert monitor._purse.budget == Budget.of("1%")
    monitor.close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"watches": "everything"}, "Got watches='everything'; need 'light', 'standard', 'full' or a sequence"),
        ({"budget": "a little"}, "Got budget='a little'; need a percentage of training time, such as \"1%\""),
        ({"budget": "-1%"}, "Got budget='-1%'; need a percentage"),
    ],
)
def test_a_preset_or_a_budget_that_does_not_exist_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(AttachError, match=words):
        attach(**changes)


def test_a_version_of_torch_that_does_not_count_writes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe_agent.door.Tensor", object)
    with pytest.raises(AttachError, match=r"Got torch 2\..*, which does not count writes to tensors; need 2\.13\."):
        attach()


class LooksAhead(torch.optim.Optimizer):
    """Is made without Optimizer.__init__, as some that wrap another are."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner, self.defaults, self.param_groups, self.state = inner, {}, inner.param_groups, inner.state

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)


def test_an_optimizer_that_torch_has_no_listeners_for_is_refused() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(AttachError, match="Got an optimizer of type LooksAhead that wraps another"):
        attach(model, LooksAhead(torch.optim.SGD(model.parameters(), lr=0.1)))


def test_an_optimizer_whose_steps_torch_may_not_tell_of_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Linear(3, 2)
    optimizer = LooksAhead(torch.optim.SGD(model.parameters(), lr=0.1))
    optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks = OrderedDict(), OrderedDict()
    attach(model, optimizer)
    assert "torch may not tell of the steps of this LooksAhead" in caplog.text
