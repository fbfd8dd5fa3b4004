"""Handwritten digits in a loop of one's own that accelerate has prepared; it is watched as any loop is.

pip install accelerate
probe-collector serve                   # in one terminal
python examples/digits_accelerate.py    # in another; then open http://127.0.0.1:8757
"""

import argparse

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from accelerate import Accelerator
from digits import digits, network
from torch.utils.data import DataLoader, TensorDataset

import probe_agent


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=100)
    epochs = parser.parse_args().epochs
    torch.manual_seed(0)
    (x, y), _ = digits()
    accelerator = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=2)
    module = network()
    model, optimizer, loader = accelerator.prepare(
        module, torch.optim.SGD(module.parameters(), lr=0.02), DataLoader(TensorDataset(x, y), 16, shuffle=True)
    )
    probe_batch = (x[:256].to(accelerator.device), y[:256].to(accelerator.device))
    with probe_agent.attach(
        model, optimizer, loss_fn=F.cross_entropy, probe_batch=probe_batch, run="digits with accelerate"
    ):
        for _ in range(epochs):
            for images, labels in loader:
                with accelerator.accumulate(model):
                    accelerator.backward(F.cross_entropy(model(images), labels))
                    optimizer.step()
                    optimizer.zero_grad()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
