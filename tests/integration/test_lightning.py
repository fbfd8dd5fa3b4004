"""The Lightning callback on the real Trainer."""

import copy
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from lightning.fabric import Fabric
from lightning.pytorch.utilities.compile import from_compiled
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.utils.data import DataLoader, TensorDataset

import probe_agent
from probe_agent import ListOutbox
from probe_agent.frozen_copy import copy_of
from probe_agent.integrations.lightning import PhasewatchCallback
from tests.framework_runs import WATCHES, left_behind, measured_plainly, run_example, same, seed_all, values

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

CLASSES = 3


class Classifier(pl.LightningModule):
    """Draws a number a step, logs, and is evaluated in between."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self(x + 0.01 * torch.randn_like(x)), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("validation_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(48, 6, generator=generator), torch.randint(CLASSES, (48,), generator=generator))


def trainer(*callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(
        accelerator="cpu",
        callbacks=list(callbacks),
        enable_model_summary=False,
        **{"max_epochs": 2, **quiet, **settings},
    )


def watching(**settings: Any) -> tuple[PhasewatchCallback, ListOutbox]:
    outbox = ListOutbox()
    return PhasewatchCallback("lit", watches=WATCHES, outbox=outbox, **settings), outbox


def trained(module: pl.LightningModule, *callbacks: pl.Callback, **settings: Any) -> list[Any]:
    seed_all()
    fit = trainer(*callbacks, **settings)
    fit.fit(module, DataLoader(data(), 8, shuffle=True), DataLoader(data(), 8))
    return left_behind(module, fit.optimizers[0])


class Witness(pl.Callback):
    """Keeps the first batch, and how many steps the Trainer says it took."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 0 and batch_idx == 0:
            self.batch, self.before = [t.clone() for t in batch], copy.deepcopy(pl_module.net)
            self.copied = copy_of(pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.steps = trainer.global_step


def fresh() -> Classifier:
    torch.manual_seed(0)
    return Classifier()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_a_fit_is_the_same_to_the_bit_watched_or_not_and_measured_as_a_plain_attach_does(precision: Any) -> None:
    settings = {"precision": precision, "accumulate_grad_batches": 2, "val_check_interval": 2, "gradient_clip_val": 0.5}
    unwatched = trained(fresh(), **settings)
    (callback, outbox), witness, module = watching(loss_fn=F.cross_entropy), Witness(), fresh()
    assert same(unwatched, trained(module, witness, callback, **settings))

    assert callback.monitor is not None
    assert callback.monitor.step == witness.steps == 6
    assert list(values(outbox)) == [0, 2, 4, 6]
    assert values(outbox)[0] == measured_plainly(witness.before, F.cross_entropy, tuple(witness.batch))
    assert values(outbox)[6] == measured_plainly(module.net, F.cross_entropy, tuple(witness.batch))
    assert outbox.closed == "finished"
    assert witness.copied._trainer is None


class Adversarial(pl.LightningModule):
    """Two networks, two optimizers, optimised by hand: the judge twice as often as the maker."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.maker, self.judge = nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        making, judging = self.optimizers()
        x, ones = batch[0], torch.ones(len(batch[0]), 1)
        loss = F.binary_cross_entropy_with_logits
        judging.zero_grad()
        self.manual_backward(loss(self.judge(x), ones) + loss(self.judge(self.maker(x).detach()), 0 * ones))
        judging.step()
        if batch_idx % 2:
            making.zero_grad()
            self.manual_backward(loss(self.judge(self.maker(x)), ones))
            making.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(self.maker.parameters()), torch.optim.Adam(self.judge.parameters())]


def test_of_several_optimizers_each_callback_counts_the_steps_of_its_own() -> None:
    x = data().tensors[0][:16]
    settings = {"limit_val_batches": 0}
    torch.manual_seed(0)
    module = Adversarial()
    start = copy.deepcopy(module)
    maker, made = watching(module="maker", optimizer=0, loss_fn=F.mse_loss, probe_batch=(x, x))
    judge, judged = watching(
        module="judge", optimizer=1, loss_fn=F.binary_cross_entropy_with_logits, probe_batch=(x, torch.ones(16, 1))
    )
    assert same(trained(start, **settings), trained(module, maker, judge, **settings))
    assert maker.monitor is not None
    assert judge.monitor is not None
    assert (maker.monitor.step, judge.monitor.step) == (6, 12)
    assert list(values(made)) == [0, 2, 4, 6]
    assert list(values(judged)) == [0, 2, 4, 6, 8, 10, 12]


def test_a_fit_resumed_from_a_checkpoint_goes_on_counting(tmp_path: Path) -> None:
    module = fresh()
    seed_all()
    first = trainer(max_epochs=1)
    first.fit(module, DataLoader(data(), 8))
    first.save_checkpoint(tmp_path / "half.ckpt")
    callback, outbox = watching(loss_fn=F.cross_entropy)
    trainer(callback, max_epochs=2).fit(module, DataLoader(data(), 8), ckpt_path=tmp_path / "half.ckpt")
    assert list(values(outbox)) == [6, 8, 10, 12]


class Raising(Classifier):
    def on_train_epoch_end(self) -> None:
        raise ZeroDivisionError


def test_a_fit_that_raises_closes_with_the_reason_and_one_told_to_stop_with_none() -> None:
    callback, outbox = watching(loss_fn=F.cross_entropy)
    with pytest.raises(ZeroDivisionError):
        trained(Raising(), callback)
    assert outbox.closed == "stopped by ZeroDivisionError"
    callback, outbox = watching(loss_fn=F.cross_entropy)
    stopped = Classifier()
    stopped.on_train_batch_end = lambda *_: setattr(stopped.trainer, "should_stop", True)  # type: ignore[method-assign]
    trained(stopped, callback)
    assert outbox.closed == "finished"
    assert list(values(outbox)) == [0]


def test_what_cannot_be_watched_is_a_warning_and_the_fit_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    unwatched = trained(fresh())
    for settings in ({"loss_fn": F.mse_loss}, {"loss_fn": F.cross_entropy, "module": "nothing"}, {}):
        callback, outbox = watching(**settings)
        with caplog.at_level(logging.WARNING, logger="probe_agent"):
            assert same(unwatched, trained(fresh(), callback))
        assert "this training is not watched: " in caplog.text
        assert callback.monitor is None
        assert not outbox.drafts
        caplog.clear()
    with pytest.raises(TypeError, match="nothing"):
        PhasewatchCallback("lit", nothing=1)


class WithLoss(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.criterion = nn.CrossEntropyLoss()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.criterion(self(batch[0]), batch[1])  # logging does not compile


def test_the_one_loss_a_module_holds_is_taken_and_a_compiled_module_is_measured_by_its_own_forward() -> None:
    torch.manual_seed(0)
    plain = WithLoss()
    (callback, outbox), (again, compiled) = watching(), watching()
    trained(plain, callback)
    torch.manual_seed(0)
    trained(from_compiled(torch.compile(WithLoss(), backend="eager")), again)
    assert list(values(outbox)) == [0, 2, 4, 6, 8, 10, 12]
    assert values(compiled)[0] == values(outbox)[0]
    assert list(values(compiled)) == list(values(outbox))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_what_fabric_has_set_up_needs_no_callback(precision: Any) -> None:
    module, batch, outbox = fresh().net, data().tensors, ListOutbox()
    start = copy.deepcopy(module)
    fabric = Fabric(accelerator="cpu", precision=precision)
    model, optimizer = fabric.setup(module, torch.optim.SGD(module.parameters(), lr=0.1))
    settings: Any = {"loss_fn": F.cross_entropy, "probe_batch": batch, "watches": WATCHES, "outbox": outbox}
    with probe_agent.attach(model, optimizer, run="fabric", **settings) as monitor:
        for _ in range(4):
            optimizer.zero_grad()
            fabric.backward(F.cross_entropy(model(batch[0]), batch[1]))
            optimizer.step()
    assert monitor.step == 4
    assert list(values(outbox)) == [0, 2, 4]
    assert values(outbox)[0] == measured_plainly(start, F.cross_entropy, batch)


def test_nothing_is_compiled_for_a_measurement() -> None:
    compiled = CompileCounter()
    module = fresh()
    module.net = torch.compile(module.net, backend=compiled)  # type: ignore[assignment]
    callback, outbox = watching(loss_fn=F.cross_entropy)
    trained(module, callback, limit_val_batches=0)
    assert list(values(outbox)) == [0, 2, 4, 6, 8, 10, 12]
    assert compiled.frame_count == 1


def test_a_second_fit_has_a_monitor_of_its_own_and_a_callback_can_be_copied() -> None:
    callback, outbox = watching(loss_fn=F.cross_entropy)
    trained(fresh(), callback, max_epochs=1)
    first = callback.monitor
    assert copy.deepcopy(callback).monitor is None
    trained(fresh(), callback, max_epochs=1)
    assert first is not callback.monitor
    assert [draft.step for draft in outbox.drafts] == [0, 2, 4, 6] * 2


UNDER_ITS_OLDER_NAME = """
import sys, probe_agent, probe_agent.cli
print({"lightning", "pytorch_lightning", "transformers", "accelerate"} & set(sys.modules))
sys.modules["lightning"] = None  # as if it were not installed
import pytorch_lightning as pl, torch
from pytorch_lightning.demos.boring_classes import BoringModel
from probe_agent.integrations.lightning import PhasewatchCallback
outbox = probe_agent.ListOutbox()
watch = PhasewatchCallback(
    "old", loss_fn=torch.nn.functional.mse_loss, probe_batch=(torch.ones(4, 32), torch.ones(4, 2)), outbox=outbox
)
trainer = pl.Trainer(accelerator="cpu", callbacks=[watch], max_steps=2, limit_val_batches=0, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer.fit(BoringModel())
print([draft.step for draft in outbox.drafts], outbox.closed)
"""


def test_importing_the_agent_imports_no_framework_and_lightning_is_known_under_its_older_name() -> None:
    command = [sys.executable, "-W", "ignore", "-c", UNDER_ITS_OLDER_NAME]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[0] == "set()"
    assert done.stdout.splitlines()[-1] == "[0, 1, 2] finished"


def test_the_example_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    run_example("digits_lightning.py", monkeypatch, "--steps", "3")
    assert "has not acknowledged" in caplog.text
    assert "not watched" not in caplog.text
