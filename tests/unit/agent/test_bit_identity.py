"""The first test of the project: an observed run ends bit-identical to an unobserved one."""

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import probe_agent
from probe_agent import Budget, Every, ListOutbox, Watch
from probe_wire import Outcome, Tighten
from tests.problems import EVERY_PROBE

STEPS = 6


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 32), nn.ReLU(inplace=True), nn.Linear(32, 4)
    )


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.drop, self.head = nn.Dropout2d(0.3), nn.Linear(6, 4)
        self.calls: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(len(x))  # a live model may keep books; a probe's evaluation is not to be in them
        x = F.relu(self.bn1(self.conv1(x.view(-1, 1, 4, 4))))
        x = F.relu(x + self.bn2(self.conv2(x)))
        return self.head(self.drop(x).mean((2, 3)))


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x.view(-1, 4, 4))).mean(1))


MODELS: dict[str, Callable[[], nn.Module]] = {"mlp": mlp, "cnn": Cnn, "transformer": Transformer}
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd with momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=3e-3),
}


def seed_everything() -> None:
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    random.seed(7)


def streams() -> tuple[object, ...]:
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return (torch.get_rng_state().tolist(), name, keys.tolist(), *rest, random.getstate())


def train(
    model_kind: str, optimizer_kind: str, *, observed: bool, wishes: Sequence[Tighten] = ()
) -> tuple[dict[str, object], ListOutbox]:
    """Some steps that draw from every random stream; everything a probe could disturb."""
    seed_everything()
    model = MODELS[model_kind]()
    optimizer = OPTIMIZERS[optimizer_kind](list(model.parameters()))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    data = torch.Generator().manual_seed(1)
    x, y = torch.randn(64, 16, generator=data), torch.randint(0, 4, (64,), generator=data)
    hooked: list[int] = []
    handle = model.register_forward_hook(lambda *_: hooked.append(1))
    outbox = ListOutbox()
    watches = [Watch(Every(2), EVERY_PROBE)]
    monitor = None
    if observed:
        monitor = probe_agent.attach(
            model,
            optimizer,
            loss_fn=F.cross_entropy,
            probe_batch=(x[:32], y[:32]),
            run="identity",
            watches=watches,
            budget=Budget(share=1000),
            outbox=outbox,
        )
        monitor.agenda.wishes.extend(wishes)
    losses = []
    for _ in range(STEPS):
        at = torch.randint(0, 64, (16,))
        noise = 0.1 * np.random.randn() + 0.1 * random.random()  # noqa: NPY002
        model.train()
        loss = F.cross_entropy(model(x[at] + noise), y[at])
        loss.backward()
        if monitor is not None:
            monitor.observe(loss=loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        scheduler.step()
        losses.append(loss.item())
    # One more backward, so that gradients are there to be compared.
    F.cross_entropy(model(x), y).backward()
    state = {
        "parameters": {n: p.detach().clone() for n, p in model.named_parameters()},
        "buffers": {n: b.clone() for n, b in model.named_buffers()},
        "gradients": {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
        "optimizer": optimizer.state_dict(),
        "losses": losses,
        "random streams": streams(),
        "modes": [m.training for m in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()],
        "hook calls": len(hooked),
        "calls": list(getattr(model, "calls", [])),
        "grad mode": torch.is_grad_enabled(),
    }
    handle.remove()
    if monitor is not None:
        monitor.close()
    return state, outbox


def identical(a: object, b: object) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(identical(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(identical, a, b))
    return a == b


@pytest.mark.parametrize(
    ("model_kind", "optimizer_kind"),  # the CNN with AdamW is below
    [("mlp", "sgd with momentum"), ("mlp", "adamw"), ("cnn", "sgd with momentum"), ("transformer", "adamw")],
)
def test_an_observed_run_ends_bit_identical_to_an_unobserved_one(model_kind: str, optimizer_kind: str) -> None:
    unobserved, _ = train(model_kind, optimizer_kind, observed=False)
    observed, outbox = train(model_kind, optimizer_kind, observed=True)
    differing = [what for what in unobserved if not identical(unobserved[what], observed[what])]
    assert differing == []
    assert [draft.step for draft in outbox.drafts] == [0, 2, 4, 6]
    outcomes = {(c.quantity, e.outcome) for draft in outbox.drafts for _, c, e in draft.columns}
    sound = {Outcome.OK, Outcome.NOT_CONVERGED, Outcome.NOT_APPLICABLE}
    assert {outcome for _, outcome in outcomes} <= sound, outcomes


def test_a_run_whose_probes_are_tightened_ends_bit_identical_all_the_same() -> None:
    wishes = [Tighten(probe.quantities[0].name, 5, times=2) for probe in EVERY_PROBE]
    unobserved, _ = train("cnn", "adamw", observed=False)
    observed, outbox = train("cnn", "adamw", observed=True, wishes=wishes)
    assert [what for what in unobserved if not identical(unobserved[what], observed[what])] == []
    assert [draft.step for draft in outbox.drafts] == [0, 2, 3, 4, 5, 6]
    between = next(draft for draft in outbox.drafts if draft.step == 3)
    assert {cost.probe for cost in between.costs} == {probe.name for probe in EVERY_PROBE if not probe.looks_back}


def test_the_comparison_notices_a_probe_that_draws_from_the_global_stream() -> None:
    """The test above can fail: the same comparison catches a deliberately bad observer."""
    unobserved, _ = train("mlp", "adamw", observed=False)

    original = probe_agent.attach

    def bad_attach(*args: object, **kwargs: object) -> object:
        monitor = original(*args, **kwargs)  # type: ignore[arg-type]
        torch.rand(1)
        return monitor

    probe_agent.attach = bad_attach  # type: ignore[assignment]
    try:
        observed, _ = train("mlp", "adamw", observed=True)
    finally:
        probe_agent.attach = original
    assert [what for what in unobserved if not identical(unobserved[what], observed[what])] != []
