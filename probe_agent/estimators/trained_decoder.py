"""The trained decoder: reconstruction loss as it is published, by a linear layer trained with Adam; for comparison only.

Schneider and Prabhushankar (2024) train ``nn.Linear`` from a layer's raw activations to the input. Where the
features are small or badly scaled, as early in training, it stops far from the best linear decoder, so
that a falling curve may be the decoder's and not the network's. The probe uses `ridge` instead.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def trained_decoder(
    features: Tensor,
    inputs: Tensor,
    held_out: tuple[Tensor, Tensor],
    generator: torch.Generator,
    *,
    epochs: int = 20,
    batch_size: int = 128,
    learning_rate: float = 3e-4,
    weight_decay: float = 1e-5,
) -> float:
    """Normalised squared error on held-out samples of a decoder trained as published; defaults are the published ones.

    Args:
        features: what to decode from, shape ``(n, f)``.
        inputs: what to decode, shape ``(n, d)``.
        held_out: features and inputs to judge it on, whose mean error is 1 by definition.
        generator: draws the initial weights (as ``nn.Linear`` would) and the order of the batches; on the CPU.
        epochs: passes over the samples.
        batch_size: samples in a step.
        learning_rate: of Adam.
        weight_decay: of Adam, added to the gradient.
    """
    n, width = features.shape
    reach = 1 / math.sqrt(width)
    sizes = ((inputs.shape[1], width), (inputs.shape[1],))
    parameters = [
        ((2 * torch.rand(size, generator=generator) - 1) * reach).to(features).requires_grad_() for size in sizes
    ]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, weight_decay=weight_decay)
    for _ in range(epochs):
        for some in torch.randperm(n, generator=generator).to(features.device).split(batch_size):
            loss = F.mse_loss(F.linear(features[some], *parameters), inputs[some])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    of, truth = held_out
    with torch.no_grad():
        error = (F.linear(of, *parameters) - truth).square().sum()
        return float(error / (truth - truth.mean(0)).square().sum())
