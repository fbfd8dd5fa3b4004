"""Train a small network on scikit-learn's handwritten digits, watched by Phasewatch.

    probe-collector serve          # in one terminal
    python examples/digits.py      # in another; then open http://127.0.0.1:8757

Attaching takes the one statement marked below; the training loop is an ordinary one.
"""

import argparse
from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from sklearn.datasets import load_digits
from torch import Tensor, nn

import probe_agent


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The 1797 real 8×8 digits, standardised and split into 1347 to train on and 450 to test on."""
    data = load_digits()
    x = torch.tensor(data.data, dtype=torch.float32)
    y = torch.tensor(data.target)
    x = (x - x.mean()) / x.std()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:1347], order[1347:]
    return (x[train], y[train]), (x[test], y[test])


def noisy(x: Tensor) -> Tensor:
    """The same digits under noise as strong as they are: inputs the network is not trained for."""
    return x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1))


def network() -> nn.Module:
    """64 → 128 → 128 → 10 with ReLU."""
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def batches(x: Tensor, y: Tensor, size: int = 32) -> Iterator[tuple[Tensor, Tensor]]:
    """Random mini-batches without end."""
    while True:
        order = torch.randperm(len(x))
        for i in range(0, len(x) - size + 1, size):
            yield x[order[i : i + size]], y[order[i : i + size]]


def train(steps: int, collector: str | None = None, seed: int = 0) -> float:
    """Train for so many steps; returns the accuracy on the test set."""
    torch.manual_seed(seed)
    (x, y), (x_test, y_test) = digits()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)

    # The one statement that attaches the agent.
    monitor = probe_agent.attach(
        model,
        optimizer,
        loss_fn=F.cross_entropy,
        probe_batch=(x[:256], y[:256]),
        test_batch=(x_test, y_test),  # optional: what is not trained on
        ood_batch=(noisy(x_test), y_test),  # optional: what comes from elsewhere
        run="digits",
        collector=collector,
        labels={"dataset": "scikit-learn digits", "network": "64-128-128-10 ReLU"},
    )

    for _, (xb, yb) in zip(range(steps), batches(x, y), strict=False):
        loss = F.cross_entropy(model(xb), yb)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        monitor.observe(loss=loss)  # optional: numbers the loop has anyway

    monitor.close()
    with torch.no_grad():
        return float((model(x_test).argmax(1) == y_test).float().mean())


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--collector", help="the collector's inlet; default tcp://127.0.0.1:5757")
    arguments = parser.parse_args()
    accuracy = train(arguments.steps, arguments.collector, arguments.seed)
    print(f"test accuracy {accuracy:.3f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
