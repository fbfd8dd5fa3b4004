"""Does a head start hurt? Networks that learn handwritten digits in one go, and in stages.

    python examples/warm_start.py

Every network ends on the same data with the same budget and fits it; only where it started from differs.
"""

import argparse
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn

from probe_agent.studies.warm_start import Train, nested, warm_start_gap

Data = tuple[Tensor, Tensor]


def digits() -> tuple[Data, Data]:
    """Of the 1797 real 8×8 digits 797 to train on, and 1000 to test on."""
    loaded = load_digits()
    x = torch.tensor(loaded.data, dtype=torch.float32)
    y = torch.tensor(loaded.target)
    x = (x - x.mean()) / x.std()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return (x[order[:797]], y[order[:797]]), (x[order[797:]], y[order[797:]])


def network() -> nn.Module:
    """64 → 128 → 128 → 128 → 10 with ReLU."""
    hidden = [layer for width in (64, 128, 128) for layer in (nn.Linear(width, 128), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(128, 10))


def adam(learning_rate: float, steps: int) -> Train[Data]:
    """Training by so many steps of Adam on random batches of 32."""

    def train(model: nn.Module, data: Data) -> None:
        x, y = data
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
        for _ in range(steps):
            some = torch.randint(len(x), (32,))
            optimizer.zero_grad()
            F.cross_entropy(model(x[some]), y[some]).backward()
            optimizer.step()

    return train


def main() -> None:
    """Run the study and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--steps", type=int, default=700)
    arguments = parser.parse_args()
    (x, y), (x_test, y_test) = digits()

    @torch.no_grad()
    def accuracy(model: nn.Module) -> float:
        return float((model(x_test).argmax(1) == y_test).float().mean())

    def stages(count: int, seed: int) -> list[Data]:
        generator = torch.Generator().manual_seed(seed)
        own = torch.randperm(len(x), generator=generator)[: arguments.samples]
        return [(x[own[part]], y[own[part]]) for part in nested(len(own), count, generator)]

    usual, fast = adam(1e-3, arguments.steps), adam(1e-2, arguments.steps)
    table = Table(
        "start", "fresh", "warm", "gap in points", title=f"{arguments.samples} digits, {arguments.seeds} seeds"
    )
    for name, count, tune in (
        ("half the data, then all", 2, usual),
        ("six growing parts", 6, usual),
        ("half, then all at ten times the rate", 2, fast),
    ):
        found = warm_start_gap(network, partial(stages, count), accuracy, usual, range(arguments.seeds), tune=tune)
        gap = f"{100 * found.gap:+.2f} ± {100 * found.stderr:.2f}"
        table.add_row(name, f"{found.fresh.mean():.4f}", f"{found.warm.mean():.4f}", gap)
    Console().print(table)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
