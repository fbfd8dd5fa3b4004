"""Watch a network memorise modular addition and, long after, understand it: grokking, within half a minute on a CPU.

    probe-collector serve                    # in one terminal
    python examples/modular_addition.py      # in another; then open http://127.0.0.1:8757

After Power et al. (2022) and Gromov (2023): half of all sums modulo a prime are trained on, all at once, with weight decay. They are
fitted after some dozen steps; the other half follows over thousands. With ``--weight-decay 0 --rate 0.001`` it never does.
"""

import argparse

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import Tensor, nn

import probe_agent
from probe_agent import Budget, Every, ListOutbox, Watch
from probe_agent.probes.loss import Loss

PRIME = 31


def sums(seed: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """All a + b modulo the prime, the terms one-hot, in two random halves: to train on, to test on."""
    a, b = torch.cartesian_prod(torch.arange(PRIME), torch.arange(PRIME)).unbind(1)
    x = torch.cat([F.one_hot(a, PRIME), F.one_hot(b, PRIME)], 1).float()
    y = (a + b) % PRIME
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    train, test = order[: len(x) // 2], order[len(x) // 2 :]
    return (x[train], y[train]), (x[test], y[test])


def train(
    steps: int,
    *,
    rate: float = 0.01,
    weight_decay: float = 1.0,
    seed: int = 0,
    collector: str | None = None,
    outbox: ListOutbox | None = None,
) -> float:
    """Train for so many steps; returns the accuracy on the half that is not trained on."""
    torch.manual_seed(seed)
    (x, y), held_out = sums(seed)
    model = nn.Sequential(nn.Linear(2 * PRIME, 256, bias=False), nn.ReLU(), nn.Linear(256, PRIME, bias=False))
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=weight_decay)
    monitor = probe_agent.attach(
        model,
        optimizer,
        loss_fn=F.cross_entropy,
        probe_batch=(x[:256], y[:256]),
        test_batch=held_out,
        run="modular addition",
        collector=collector,
        watches=[Watch(Every(20), (Loss(),))],
        budget=Budget.of("30%"),  # steps take a few milliseconds here
        labels={"prime": str(PRIME), "weight_decay": str(weight_decay)},
        outbox=outbox,
    )
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    monitor.close()
    x_test, y_test = held_out
    with torch.no_grad():
        return float((model(x_test).argmax(1) == y_test).float().mean())


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--weight-decay", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--collector", help="the collector's inlet; default tcp://127.0.0.1:5757")
    given = parser.parse_args()
    accuracy = train(
        given.steps, rate=given.rate, weight_decay=given.weight_decay, seed=given.seed, collector=given.collector
    )
    print(f"accuracy on sums that were not trained on {accuracy:.3f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
