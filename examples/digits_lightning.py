"""Handwritten digits trained by Lightning's Trainer, watched by one callback.

pip install lightning
probe-collector serve                  # in one terminal
python examples/digits_lightning.py    # in another; then open http://127.0.0.1:8757
"""

import argparse

import lightning.pytorch as pl
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from digits import digits, network
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from probe_agent.integrations.lightning import PhasewatchCallback


class Digits(pl.LightningModule):
    """A classifier as Lightning wants it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(n, 64)`` → logits ``(n, 10)``."""
        logits: Tensor = self.network(x)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:  # noqa: ARG002
        """The loss of a batch."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer whose steps are counted."""
        return torch.optim.SGD(self.parameters(), lr=0.02)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=6000)
    steps = parser.parse_args().steps
    pl.seed_everything(0)
    (x, y), test = digits()
    watch = PhasewatchCallback(
        "digits with Lightning", loss_fn=F.cross_entropy, probe_batch=(x[:256], y[:256]), test_batch=test
    )
    trainer = pl.Trainer(max_steps=steps, max_epochs=-1, callbacks=[watch], logger=False, enable_checkpointing=False)
    trainer.fit(Digits(), DataLoader(TensorDataset(x, y), 32, shuffle=True))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
