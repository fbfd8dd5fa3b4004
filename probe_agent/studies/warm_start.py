"""The warm-start study: how much test accuracy a network loses by having been trained on a part of the data first.

A network that continues from weights fitted to less data generalises worse than one that starts anew,
though both fit all of it (Ash & Adams 2020, "On warm-starting neural network training"); the more
often, the worse (Berariu et al. 2021, "A study on the plasticity of neural networks"). No snapshot of
one network shows it: it takes a twin that starts fresh.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Stage = TypeVar("Stage")
Train = Callable[[nn.Module, Stage], object]


@final
@dataclass(frozen=True, slots=True)
class WarmStartGap:
    """Scores of the same seeds, started warm and started fresh, shape ``(seeds,)``."""

    warm: NDArray[np.float64]
    fresh: NDArray[np.float64]

    @property
    def gap(self) -> float:
        """Mean of warm minus fresh: negative where the head start does harm."""
        return float((self.warm - self.fresh).mean())

    @property
    def stderr(self) -> float:
        """Its standard error over seeds, from the differences of each seed; NaN for one seed."""
        seeds = self.warm.size
        return float((self.warm - self.fresh).std(ddof=1)) / math.sqrt(seeds) if seeds > 1 else math.nan


def warm_start_gap(
    make_model: Callable[[], nn.Module],
    stages: Callable[[int], Sequence[Stage]],
    test: Callable[[nn.Module], float],
    train: Train[Stage],
    seeds: Sequence[int],
    *,
    tune: Train[Stage] | None = None,
) -> WarmStartGap:
    """Train on all stages in turn, and on the last alone, and compare.

    Both begin with the same fresh weights, and meet the last stage with the same random numbers and the
    same budget. Nothing but weights and buffers is carried from stage to stage: ``train`` makes its own
    optimizer. ``make_model``, ``train`` and ``tune`` draw from torch's global random streams, which are
    seeded for them and put back at the end.

    Args:
        make_model: a model with fresh weights.
        stages: gives a seed's stages, which ``train`` takes in order; the last is all of the data. If
            seeds have data of their own, the standard error speaks of other data as well.
        test: the score of a trained model, such as its accuracy on held-out data.
        train: trains the model in place.
        seeds: one pair of networks for each.
        tune: trains on the last stage in ``train``'s place, for warm and fresh alike: with another
            learning rate, say.

    Raises:
        ValueError: there is no stage before the last, or no seed.
    """
    if not seeds:
        raise ValueError("Got no seeds; need at least one, and several for a standard error.")
    warm: list[float] = []
    fresh: list[float] = []
    with torch.random.fork_rng():
        for seed in seeds:
            *parts, whole = stages(seed)
            if not parts:
                raise ValueError("Got one stage; need at least two: a part of the data, and all of it.")
            for scores, before in ((warm, parts), (fresh, ())):
                torch.manual_seed(seed)
                model = make_model()
                for stage in before:
                    train(model, stage)
                torch.manual_seed(seed)
                (tune or train)(model, whole)
                scores.append(test(model))
    return WarmStartGap(np.array(warm, dtype=np.float64), np.array(fresh, dtype=np.float64))


def nested(n: int, stages: int, generator: torch.Generator) -> list[Tensor]:
    """Indices of growing parts of n samples, each within the next and the last all of them.

    Raises:
        ValueError: there are fewer samples than stages.
    """
    if not 2 <= stages <= n:
        raise ValueError(f"Got {stages} stages of {n} samples; need at least two stages and a sample for each.")
    order = torch.randperm(n, generator=generator)
    return [order[: n * stage // stages] for stage in range(1, stages + 1)]
