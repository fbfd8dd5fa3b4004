"""What a probe declares that it needs and uses is what it does not do without."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from typer.testing import CliRunner

from probe_agent import NotApplicable, Probe, Snapshot
from probe_agent.cli import app
from probe_agent.likelihood import Categorical, Gaussian, Likelihood
from probe_agent.needs import Need
from probe_agent.probe_set import Inputs, ProbeSet
from probe_agent.probes import PROBES
from probe_agent.update_rule import UpdateRule
from probe_wire import Outcome
from tests.problems import EVERY_PROBE

X = torch.randn(48, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.randint(3, (48,), generator=torch.Generator().manual_seed(1))


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


class Around(nn.Module):
    """A network, and what is done with its inputs and outputs."""

    def __init__(self, way: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self.way = mlp(), way

    def forward(self, *inputs: Tensor) -> Any:
        return self.way(self.network, *inputs)


class Reweighted(torch.autograd.Function):
    """The identity, with a backward pass that is not its derivative."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_: Any, grad: Tensor) -> Tensor:
        return grad * torch.linspace(0.2, 2, grad.shape[-1], dtype=grad.dtype)


def taken(
    model: nn.Module | None = None,
    inputs: Inputs = X,
    targets: Tensor = Y,
    loss_fn: Callable[..., Tensor] = F.cross_entropy,
    likelihood: Likelihood | None = Categorical(),  # noqa: B008 - it has no state
    *,
    rule: bool = True,
    updates: bool = True,
) -> Snapshot:
    model = mlp() if model is None else model
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    steps = ({name: 0.01 * torch.ones_like(model.get_parameter(name)) for name in names},) * 2 if updates else ()
    known = (
        UpdateRule(optimizer="SGD", kind="gradient", learning_rates=dict.fromkeys(names, 0.05), updates=steps)
        if rule
        else None
    )
    return Snapshot.take(model, 1, ProbeSet(inputs, targets), loss_fn, likelihood, 0, rule=known)


LACKING: dict[Need, tuple[Callable[[], Snapshot], set[Need]]] = {
    Need.LIKELIHOOD: (
        lambda: taken(loss_fn=lambda o, t: F.cross_entropy(o, t) ** 1.5, likelihood=None),
        {Need.CLASSES},
    ),
    Need.CLASSES: (lambda: taken(targets=mlp()(X).detach() + 1, loss_fn=F.mse_loss, likelihood=Gaussian()), set()),
    Need.ONE_OUTPUT: (
        lambda: taken(
            Around(lambda network, x: {"logits": network(x)}),
            loss_fn=lambda o, t: F.cross_entropy(o["logits"], t),
            likelihood=None,
        ),
        {Need.LIKELIHOOD, Need.CLASSES},
    ),
    Need.INDEPENDENT_OUTPUTS: (
        lambda: taken(Around(lambda network, x: network(x) - network(x).mean(0))),
        {Need.AVERAGING_LOSS},
    ),
    Need.AVERAGING_LOSS: (lambda: taken(loss_fn=lambda o, t: F.cross_entropy(o, t, reduction="sum")), set()),
    Need.REAL_INPUTS: (
        lambda: taken(
            Around(lambda network, tokens: network(F.one_hot(tokens, 4).double().mean(1))), torch.randint(4, (48, 3))
        ),
        set(),
    ),
    Need.ACTIVATIONS: (lambda: taken(nn.Linear(4, 3).double()), set()),
    Need.TRUE_GRADIENTS: (
        lambda: taken(Around(lambda network, x: network[2](Reweighted.apply(network[1](network[0](x)))))),  # type: ignore[no-untyped-call]
        set(),
    ),
    Need.SEVERAL_INPUTS: (lambda: taken(inputs=X[:2], targets=torch.tensor([0, 1])), set()),
    Need.OPTIMIZER: (lambda: taken(rule=False), {Need.UPDATES}),
    Need.UPDATES: (lambda: taken(updates=False), set()),
}
"""For each need a job that lacks it, and what it cannot help lacking beside."""


def inapplicable(probe: Probe, snapshot: Snapshot) -> tuple[int, int]:
    """How many of the probe's series are not applicable, and how many there are; all of them where it raises."""
    try:
        outcomes = [m.estimate.outcome for m in probe.measure(snapshot, {})]
    except NotApplicable:
        return 1, 1
    return outcomes.count(Outcome.NOT_APPLICABLE), len(outcomes)


@pytest.mark.parametrize("need", Need, ids=lambda need: need.name)
def test_a_probe_does_without_what_it_does_not_declare_and_not_without_what_it_does(need: Need) -> None:
    lacking, beside = LACKING[need]
    for probe in EVERY_PROBE:
        without, usual = inapplicable(probe, lacking()), inapplicable(probe, taken())
        assert usual[0] < usual[1], f"{probe.name} applies where nothing is lacking"
        lacked = {need} | beside
        if without[0] == without[1]:
            assert probe.needs & lacked, f"{probe.name} needs {need.label} and does not say so"
        elif without[0] > usual[0]:
            assert (probe.needs | probe.uses) & lacked, f"{probe.name} uses {need.label} and does not say so"
        if need in probe.needs:
            assert without[0] == without[1], f"{probe.name} does not need {need.label}"
        if need in probe.uses:
            assert without[0] > usual[0], f"{probe.name} does not use {need.label}"


def test_every_need_is_somebodys_and_has_its_sentence() -> None:
    assert set(Need) == {need for probe in PROBES for need in probe.needs | probe.uses}
    assert all(need.sentence.endswith(".") for need in Need)
    assert all(not probe.needs & probe.uses for probe in PROBES)


def test_the_list_of_probes_tells_what_each_needs() -> None:
    said = CliRunner().invoke(app, ["probes"]).output
    assert all(need.label in said for need in Need)
    assert '"needs":["true gradients","optimizer"]' in CliRunner().invoke(app, ["probes", "--json"]).output
