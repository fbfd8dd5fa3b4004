"""Reconstruction: how much of the input a linear decoder recovers from a layer (Schneider & Prabhushankar 2024).

Only the inner products of the inputs matter to the squared errors of a linear decoder. They are therefore
rotated, exactly, into their principal coordinates, and the many of little variance mixed into few. Token inputs are taken as one-hot codes, whose inner product is
the number of positions at which two sequences agree.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from probe_agent.estimators.draws import Draws, numbers, ratio_draws
from probe_agent.estimators.features import Features, features_of
from probe_agent.estimators.ranks import Spectrum, spectrum
from probe_agent.estimators.ridge import leave_one_out, squared_errors
from probe_agent.likelihood import IGNORED
from probe_agent.probe_set import Inputs, tensors_of

PRINCIPAL = 64
"""Coordinates of the inputs that are decoded one by one: those of most variance."""

MIXED = 64
"""Random mixtures of all other coordinates that are decoded in their place."""


def input_coordinates(inputs: Inputs, generator: torch.Generator) -> Tensor:
    """The inputs less their mean in coordinates of their own, shape ``(n, m)`` with m at most `PRINCIPAL` + `MIXED`.

    The principal coordinates are kept as they are. Those beyond `PRINCIPAL` are mixed by a normal
    random matrix, which keeps every squared error on average (Johnson & Lindenstrauss 1984). Of
    several input tensors the first is taken. There is no coordinate if all inputs are the same.
    """
    first = tensors_of(inputs)[0]
    of = spectrum(features_of(first) if first.is_floating_point() else _one_hot(first), centred=True)
    coordinates = of.left * of.squares.sqrt()
    if coordinates.shape[1] <= PRINCIPAL + MIXED:
        return coordinates
    principal, others = coordinates[:, :PRINCIPAL], coordinates[:, PRINCIPAL:]
    size = (others.shape[1], MIXED)
    mixing = torch.randn(size, generator=generator, dtype=others.dtype, device=others.device) / MIXED**0.5
    return torch.cat([principal, others @ mixing], 1)


def reconstruction_draws(of: Spectrum, inputs: Tensor) -> Draws:
    """Draws, one a sample, whose mean is the normalised squared error of reconstructing held-out inputs.

    Σ‖t_i − t̂_i‖² / Σ‖t_i − t̄_i‖², both held out: t̂_i decodes the features of sample i by the ridge
    regression of all others, t̄_i is the mean of all others. 0 where the inputs can be read off
    linearly, 1 where the features say nothing of them; above 1 is the price of having believed them.

    Args:
        of: the spectrum of the features, centred.
        inputs: their `input_coordinates`.
    """
    nothing = Spectrum(of.squares[:0], of.left[:, :0])
    return ratio_draws(numbers(squared_errors(of, inputs)), numbers(squared_errors(nothing, inputs)))


def probe_hits(of: Spectrum, labels: Tensor) -> Draws:
    """Whether a linear probe, a ridge regression of all other samples on one-hot labels, puts each at its label: 0 or 1.

    Args:
        of: the spectrum of the features, centred.
        labels: class indices, shape ``(n,)``, none ignored.
    """
    _, classes = labels.unique(return_inverse=True)
    codes = F.one_hot(classes)
    errors = leave_one_out(of, codes, refit_mean=False)
    hits = numbers((codes - errors).argmax(1) == classes)
    hits[~numbers(errors.isfinite().all(1)).astype(bool)] = torch.nan
    return hits


def has_labels(targets: Tensor, ignored: int = IGNORED) -> bool:
    """Whether the targets are one class index a sample, none of them ignored."""
    return targets.dim() == 1 and not targets.is_floating_point() and bool((targets != ignored).all())


def _one_hot(tokens: Tensor) -> Features:
    """One-hot codes by their inner products; positions one at a time, since all at once would be n² of them."""
    n = len(tokens)
    agree = torch.zeros(n, n, dtype=torch.float64, device=tokens.device)
    for position in tokens.reshape(n, -1).T:
        agree += position[:, None] == position[None, :]
    return Features(agree, n + 1, agree.new_ones(n, 1))
