"""What values depend on beside the network travels with every series, so that a change of it cannot pass for learning."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import probe_agent
from collector.phases.conditions import conditions
from probe_agent import Every, ListOutbox, Watch
from probe_agent.probes.fisher_trace import FisherTrace
from probe_agent.probes.loss import Loss


def settings_of(*, seed: int = 0, shift: float = 0.0, probe: FisherTrace | None = None) -> dict[str, dict[str, str]]:
    """The settings of each quantity as a job with these reports them."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs, targets = torch.randn(16, 4) + shift, torch.arange(16) % 3
    outbox = ListOutbox()
    monitor = probe_agent.attach(
        model,
        optimizer,
        loss_fn=F.cross_entropy,
        probe_batch=(inputs, targets),
        run="r",
        watches=[Watch(Every(1), (Loss(), probe or FisherTrace()))],
        outbox=outbox,
        seed=seed,
    )
    monitor.close()
    return {column.quantity: dict(column.settings) for _, column, _ in outbox.drafts[0].columns if not column.labels}


def test_the_same_job_has_the_same_conditions_each_time_it_is_started() -> None:
    assert settings_of() == settings_of()


def test_another_probe_set_seed_or_setting_of_the_probe_makes_other_conditions() -> None:
    usual = settings_of()["fisher_trace"]
    changed = {
        "probe_set": settings_of(shift=1.0),
        "seed": settings_of(seed=1),
        "configuration": settings_of(probe=FisherTrace(draws=7)),
    }
    for name, found in changed.items():
        assert found["fisher_trace"][name] != usual[name], name
        assert conditions(found["fisher_trace"]) != conditions(usual), name
