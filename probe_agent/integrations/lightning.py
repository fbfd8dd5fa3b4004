"""A Lightning callback: watches what a Trainer trains.

Trainer(callbacks=[PhasewatchCallback("my run", loss_fn=F.cross_entropy)])
"""

from typing import Any, final

from torch.nn.modules.loss import _Loss

from probe_agent.errors import AttachError
from probe_agent.integrations.attachment import Attachment
from probe_agent.monitor import Monitor
from probe_agent.snapshot import LossFn

try:
    import lightning.pytorch as pl
except ImportError:  # the same code under its older name
    import pytorch_lightning as pl  # type: ignore[no-redef]


@final
class PhasewatchCallback(pl.Callback):
    """Attaches at the first batch of a fit and closes when the fit ends.

    Args:
        run: the name people will read.
        loss_fn: ``loss_fn(module(inputs), targets)``, the loss ``training_step`` computes. It may be left out where
            the module holds exactly one loss of ``torch.nn``, and where the module returns its loss.
        probe_batch: as for `attach`; default the first training batch, as the loop hands it out: no loader,
            sampler or worker is asked for anything. More samples give smaller errors.
        module: the path of the part to watch where that is not the whole module, such as "generator".
        optimizer: which of several optimizers counts the steps.
        step: the number of its steps already taken; default what the Trainer has counted, shared evenly among
            several optimizers.
        settings: the other arguments of `attach`.

    Raises:
        TypeError: attach() knows no setting of that name.
    """

    def __init__(
        self,
        run: str,
        *,
        loss_fn: LossFn | None = None,
        probe_batch: Any = None,
        module: str = "",
        optimizer: int = 0,
        step: int | None = None,
        **settings: Any,
    ) -> None:
        self._attachment = Attachment(run=run, loss_fn=loss_fn, probe_batch=probe_batch, step=step, **settings)
        self._module = module
        self._optimizer = optimizer
        self._tried = False

    @property
    def monitor(self) -> Monitor | None:
        """The monitor of this fit, or of the last one."""
        return self._attachment.monitor

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """A new fit, a new monitor."""
        self._tried = False

    def on_train_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Attach before the first step: by now a checkpoint has been restored."""
        if self._tried:
            return
        self._tried = True
        self._attachment.open(lambda: self._found(trainer, pl_module, batch))

    def _found(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any) -> dict[str, Any]:
        model = pl_module.get_submodule(self._module)
        if self._optimizer >= len(trainer.optimizers):
            raise AttachError(
                f"Got optimizer={self._optimizer} and {len(trainer.optimizers)} optimizers; need the place of one of them, from 0."
            )
        losses = [module for module in model.modules() if isinstance(module, _Loss)]
        return {
            "model": model,
            "optimizer": trainer.optimizers[self._optimizer],
            "loss_fn": losses[0] if len(losses) == 1 else None,
            "probe_batch": batch,
            "scaler": getattr(trainer.precision_plugin, "scaler", None),
            "step": trainer.global_step // len(trainer.optimizers),
        }

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:  # noqa: ARG002
        """Close, with the exception's name as the reason."""
        self._attachment.close(f"stopped by {type(exception).__name__}")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: ARG002
        """Close when the fit ends."""
        if stage == "fit":
            self._attachment.close("finished")
