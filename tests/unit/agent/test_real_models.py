"""Jobs as people write them: what their losses and models reach outside of themselves."""

import logging
import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import probe_agent
from probe_agent import Every, ListOutbox, Watch
from probe_agent.errors import AttachError
from probe_agent.own_streams import OwnStreams
from probe_agent.probes.loss import Loss
from probe_agent.probes.sharpness import Sharpness
from probe_wire import Outcome

WATCHES = (Watch(Every(1), (Loss(), Sharpness())),)

TORCH_STREAM = torch.Generator()
NUMPY_STREAM = np.random.default_rng(0)
"""As a script has them at its top."""


def some(weights: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss on a random half of the samples."""
    losses = F.cross_entropy(outputs, targets, reduction="none")
    mean: Tensor = (losses * weights).sum() / weights.sum().clamp(min=1)
    return mean


def by_global_generator(outputs: Tensor, targets: Tensor) -> Tensor:
    return some((torch.rand(len(targets), generator=TORCH_STREAM) < 0.5).float(), outputs, targets)


def by_numpy(outputs: Tensor, targets: Tensor) -> Tensor:
    return some(torch.tensor(NUMPY_STREAM.random(len(targets)) < 0.5).float(), outputs, targets)


def by_argument(outputs: Tensor, targets: Tensor, *, stream: random.Random) -> Tensor:
    return some(torch.tensor([float(stream.random() < 0.5) for _ in targets]), outputs, targets)


class Trainer:
    """A trainer of one's own, whose loss is a method."""

    def __init__(self) -> None:
        self.stream = np.random.RandomState(1)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return some(torch.tensor(self.stream.rand(len(targets)) < 0.5).float(), outputs, targets)


class Noisy(nn.Module):
    """A forward pass that draws from a global of the script."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def noise(self, x: Tensor) -> Tensor:
        return 0.1 * torch.randn(x.shape, generator=TORCH_STREAM)

    def forward(self, x: Tensor) -> Any:
        return self.layer(x + self.noise(x))


def in_a_closure() -> tuple[nn.Module, Callable[..., Tensor], Callable[[], object]]:
    stream = torch.Generator().manual_seed(5)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return some((torch.rand(len(targets), generator=stream) < 0.5).float(), outputs, targets)

    return nn.Linear(4, 3), loss, lambda: stream.get_state().tolist()


def in_a_partial() -> tuple[nn.Module, Callable[..., Tensor], Callable[[], object]]:
    stream = random.Random(3)
    return nn.Linear(4, 3), partial(by_argument, stream=stream), stream.getstate


def in_an_object() -> tuple[nn.Module, Callable[..., Tensor], Callable[[], object]]:
    trainer = Trainer()
    return nn.Linear(4, 3), trainer.loss, lambda: repr(trainer.stream.get_state(legacy=False))


def in_a_global() -> tuple[nn.Module, Callable[..., Tensor], Callable[[], object]]:
    TORCH_STREAM.manual_seed(7)
    return nn.Linear(4, 3), by_global_generator, lambda: TORCH_STREAM.get_state().tolist()


def in_a_numpy_global() -> tuple[nn.Module, Callable[..., Tensor], Callable[[], object]]:
    NUMPY_STREAM.bit_generator.state = np.random.default_rng(9).bit_generator.state
    return nn.Linear(4, 3), by_numpy, lambda: repr(NUMPY_STREAM.bit_generator.state)


def in_the_forward_pass() -> tuple[nn.Module, Callable[..., Tensor], Callable[[], object]]:
    TORCH_STREAM.manual_seed(7)
    return Noisy(), F.cross_entropy, lambda: TORCH_STREAM.get_state().tolist()


STREAMS = (in_a_closure, in_a_partial, in_an_object, in_a_global, in_a_numpy_global, in_the_forward_pass)


def trained(make: Callable[[], Any], watch: Callable[..., Any]) -> list[Any]:
    """What a short training leaves behind."""
    torch.manual_seed(0)
    model, loss_fn, place = make()
    x, y = torch.randn(12, 4), torch.randint(3, (12,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, optimizer, loss_fn, (x, y))
    for _ in range(3):
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    return [*(p.tolist() for p in model.parameters()), torch.get_rng_state().tolist(), place()]


@pytest.mark.parametrize("make", STREAMS)
def test_a_job_with_a_generator_of_its_own_ends_as_if_nobody_had_watched(make: Callable[[], Any]) -> None:
    seen: list[ListOutbox] = []

    def watch(model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn: Any, batch: Any) -> None:
        seen.append(ListOutbox())
        probe_agent.attach(
            model, optimizer, loss_fn=loss_fn, probe_batch=batch, run="own", watches=WATCHES, outbox=seen[-1]
        )

    assert trained(make, watch) == trained(make, lambda *_: None)
    assert len(seen[0].drafts) == 4  # and it was watched


def test_the_generator_gives_the_probes_the_same_numbers_at_every_snapshot() -> None:
    outbox = ListOutbox()
    model, loss_fn, _ = in_a_closure()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)  # nothing changes but what is drawn
    batch = torch.randn(12, 4), torch.randint(3, (12,))
    watches = (Watch(Every(1), (Loss(),)),)
    probe_agent.attach(model, optimizer, loss_fn=loss_fn, probe_batch=batch, run="same", watches=watches, outbox=outbox)
    for _ in range(2):
        loss_fn(model(batch[0]), batch[1]).backward()
        optimizer.step()
    values = {e.value for d in outbox.drafts for quantity, _, e in d.columns if quantity.name == "probe_loss"}
    assert len(outbox.drafts) == 3
    assert len(values) == 1


def test_a_generator_that_the_loss_only_could_draw_from_is_left_to_those_who_do() -> None:
    class Trainer:
        """Whose loss is a method, and whose loader draws from the trainer's generator in a thread."""

        def __init__(self) -> None:
            self.stream, self.drawn = np.random.default_rng(0), list[float]()
            self.over = threading.Event()
            self.loader = threading.Thread(target=self.load)

        def load(self) -> None:
            while not self.over.wait(0.0005):
                self.drawn.append(self.stream.random())

        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(outputs, targets)

    trainer, model = Trainer(), nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = torch.randn(12, 4), torch.randint(3, (12,))
    trainer.loader.start()
    try:
        probe_agent.attach(
            model, optimizer, loss_fn=trainer.loss, probe_batch=batch, run="left", watches=WATCHES, outbox=ListOutbox()
        )
        for _ in range(3):
            trainer.loss(model(batch[0]), batch[1]).backward()
            optimizer.step()
    finally:
        trainer.over.set()
        trainer.loader.join()
    assert len(trainer.drawn) > 10
    assert trainer.drawn == list(np.random.default_rng(0).random(len(trainer.drawn)))


def test_a_generator_is_found_behind_a_large_model() -> None:
    blocks = [nn.TransformerEncoderLayer(4, 1, 4) for _ in range(60)]
    stream = random.Random(0)

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(*blocks)

        def forward(self, x: Tensor) -> Tensor:
            return x * stream.random()

    with OwnStreams(Deep()).put_back():
        drawn = stream.random()
    assert drawn == stream.random()


def test_the_global_streams_are_none_of_its_own() -> None:
    def drawn() -> tuple[int, ...]:
        return random.randint(0, 10**9), np.random.randint(10**9), int(torch.randint(10**9, ()))  # noqa: NPY002

    of_all = random.randint, np.random.mtrand._rand, torch.default_generator
    with OwnStreams(*of_all).put_back():
        first = drawn()
    assert all(now != before for now, before in zip(drawn(), first, strict=True))


class Criterion(nn.Module):
    """A loss that was given the model, out of sight of ``parameters()``."""

    def __init__(self, model: nn.Linear, penalty: float | None) -> None:
        super().__init__()
        self.model, self.penalty = [model], penalty

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        (model,) = self.model
        loss = F.cross_entropy(outputs, targets) / model.in_features
        return loss if self.penalty is None else loss + self.penalty * model.weight.square().sum()


def criterion_attached(penalty: float | None) -> ListOutbox:
    outbox, model = ListOutbox(), nn.Linear(4, 3)
    probe_agent.attach(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        loss_fn=Criterion(model, penalty),
        probe_batch=(torch.randn(12, 4), torch.randint(3, (12,))),
        run="criterion",
        watches=WATCHES,
        outbox=outbox,
    )
    return outbox


def test_a_criterion_with_a_penalty_on_the_model_it_holds_is_refused() -> None:
    with pytest.raises(AttachError, match=r"a Criterion, that holds the model .* Leave that part out of loss_fn"):
        criterion_attached(0.01)


@pytest.mark.parametrize("penalty", [None, 0.0], ids=["no function of it", "its parameters times nothing"])
def test_a_criterion_that_only_knows_the_model_is_measured(penalty: float | None) -> None:
    (draft,) = criterion_attached(penalty).drafts
    assert {cost.outcome for cost in draft.costs} == {Outcome.OK}


def test_a_loss_that_raises_on_parts_of_the_batch_says_why_its_error_is_unknown(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Unreachable(OSError):
        """Told once a kind and process."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if len(targets) < 12:
            raise Unreachable("the server of my metrics is away")
        return F.cross_entropy(outputs, targets) + outputs.std()

    outbox, model = ListOutbox(), nn.Linear(4, 3)
    batch = torch.randn(12, 4), torch.randint(3, (12,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with caplog.at_level(logging.WARNING, "probe_agent"):
        probe_agent.attach(
            model, optimizer, loss_fn=loss, probe_batch=batch, run="parts", watches=WATCHES, outbox=outbox
        )
    assert "Unreachable: the server of my metrics is away; its standard error is not known" in caplog.text
    (found,) = [e for q, _, e in outbox.drafts[0].columns if q.name == "probe_loss"]
    assert found.value == pytest.approx(loss(model(batch[0]), batch[1]).item())
