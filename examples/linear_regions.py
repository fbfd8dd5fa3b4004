"""Where does a network bend? Its linear regions in the plane through three digits, early and late in training.

    python examples/linear_regions.py

Writes a figure of each, counts regions, and compares near the decision boundary with far from it.
"""

import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn

from probe_agent.studies.linear_regions import LinearRegions, linear_regions
from probe_agent.studies.linear_regions_figure import figure


def digits() -> tuple[Tensor, Tensor]:
    """The 1797 real 8×8 digits, of mean 0 and standard deviation 1."""
    loaded = load_digits()
    x = torch.tensor(loaded.data, dtype=torch.float32)
    return (x - x.mean()) / x.std(), torch.tensor(loaded.target)


def network() -> nn.Module:
    """64 → 64 → 64 → 10 with ReLU."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def main() -> None:
    """Train, look twice, write and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 5000], help="when to look")
    parser.add_argument("--digits", type=int, nargs=3, default=[3, 5, 8], help="classes of the three inputs")
    parser.add_argument("--out", type=Path, default=Path(), help="where the figures go")
    arguments = parser.parse_args()
    x, y = digits()
    three = torch.stack([x[y == digit][0] for digit in arguments.digits])
    model, order = network(), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    table = Table("step", "accuracy", "regions", "near", "far", "area off", "map off")
    for step in range(max(arguments.steps) + 1):
        if step in arguments.steps:
            found = linear_regions(model, three)
            table.add_row(str(step), f"{accuracy(model, x, y):.3f}", *row(found))
            path = arguments.out / f"regions_{step}.svg"
            labels = [f"a {digit}" for digit in arguments.digits]
            path.write_text(figure(found, title=f"Digits, step {step}", labels=labels), encoding="utf-8")
        some = torch.randint(len(x), (64,), generator=order)
        optimizer.zero_grad()
        F.cross_entropy(model(x[some]), y[some]).backward()
        optimizer.step()
    Console().print(table)


def row(found: LinearRegions) -> tuple[str, ...]:
    """Counts, boundary length per area within a tenth of the side of the decision boundary and beyond, and the proofs."""
    left, right, *_ = found.box
    near, far = found.density((0, (right - left) / 10, math.inf))
    return str(len(found)), f"{near:.2f}", f"{far:.2f}", f"{found.area_error:.0e}", f"{found.map_error:.0e}"


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of digits that are told right."""
    return float((model(x).argmax(1) == y).float().mean())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
