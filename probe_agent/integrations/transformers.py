"""A transformers callback: watches what a Hugging Face Trainer trains.

Trainer(..., callbacks=[PhasewatchCallback("my run", probe_batch=collator([dataset[i] for i in range(256)]))])
"""

from typing import Any, final

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from probe_agent.complaints import warn
from probe_agent.integrations.attachment import Attachment
from probe_agent.monitor import Monitor
from probe_agent.snapshot import LossFn


@final
class PhasewatchCallback(TrainerCallback):
    """Attaches when training begins and closes when it ends.

    Args:
        run: the name people will read.
        probe_batch: some training samples as the collator gives them, a dict with ``labels``; or ``(inputs, targets)``.
        loss_fn: ``loss_fn(outputs, targets)`` of the logits or of all that the model returns, where the Trainer computes
            another loss than the model's own.
        settings: the other arguments of `attach`.

    Raises:
        TypeError: attach() knows no setting of that name.
    """

    def __init__(self, run: str, *, probe_batch: Any, loss_fn: LossFn | None = None, **settings: Any) -> None:
        self._attachment = Attachment(run=run, probe_batch=probe_batch, loss_fn=loss_fn, **settings)
        self._own_loss = loss_fn is None

    @property
    def monitor(self) -> Monitor | None:
        """The monitor of this training, or of the last one."""
        return self._attachment.monitor

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **found: Any,
    ) -> None:
        """Attach before the first step: by now a checkpoint has been restored."""
        if self._own_loss and args.label_smoothing_factor:
            warn("the loss is measured as the model computes it, without the Trainer's label smoothing.")
        self._attachment.open(
            lambda: {"model": found["model"], "optimizer": found["optimizer"], "step": state.global_step}
        )

    def on_train_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,  # noqa: ARG002
        control: TrainerControl,  # noqa: ARG002
        **found: Any,  # noqa: ARG002
    ) -> None:
        """Close when the training ends."""
        self._attachment.close("finished")
