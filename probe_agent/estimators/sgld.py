"""Langevin chains around the weights: draws from exp(−nβ L(w) − γ |w − w*|² / 2), and how well they mixed.

The distribution is the tempered posterior of Lau et al. (2023, "The local learning coefficient"),
confined around the weights w* by a Gaussian. They draw by stochastic gradient Langevin dynamics (SGLD),
whose step size biases the draws. Here the gradient is the whole probe set's and each step is accepted or
refused after Metropolis and Hastings (Roberts and Tweedie 1996, MALA), so that no step size biases anything:
one badly chosen makes the chains slow, which `mixing` sees.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from probe_agent.estimators.draws import Draws, numbers
from probe_agent.estimators.graph_memory import BLOCK_BYTES, bytes_of_a_sample
from probe_agent.estimators.mapping import mappable
from probe_agent.estimators.repetition import check_loss_repeats
from probe_agent.snapshot import Snapshot

BEST_ACCEPTANCE = 0.574
"""At which MALA moves fastest in many dimensions (Roberts and Rosenthal 1998)."""

Both = Callable[[Tensor], tuple[Tensor, Tensor]]


@final
@dataclass(frozen=True, slots=True)
class Chains:
    """What was seen along the chains, ``(chains, draws)``, after burn-in.

    ``excess`` is L(w_t) − L(w*) and ``virial`` −(w_t − w*)·∇ log p(w_t), whose mean is the
    number of weights for whatever loss, by partial integration: chains that have not filled the directions the
    loss leaves free show less. ``acceptance`` is the mean probability that a step was accepted, ``(chains,)``.
    """

    excess: Draws
    virial: Draws
    acceptance: Draws


def langevin_chains(
    snapshot: Snapshot, *, inverse_temperature: float, localisation: float, chains: int, burn_in: int, draws: int
) -> Chains:
    """Run chains from the snapshot's weights.

    The step size is one for all chains. It is adapted in burn-in towards `BEST_ACCEPTANCE`, with a gain
    that falls in its second half (Robbins and Monro 1951), and then kept. A proposal at which the loss is
    not finite is refused.

    Args:
        snapshot: where the chains begin, with the loss and the probe set.
        inverse_temperature: nβ, what the mean loss is multiplied with.
        localisation: γ, the inverse variance of the Gaussian around w*.
        chains: how many, independent of each other.
        burn_in: steps before the first draw.
        draws: steps, each a draw, after it.

    Raises:
        NotApplicable: the loss is no function of the weights alone.
    """
    check_loss_repeats(snapshot)
    loss_and_gradient = _loss_and_gradient(snapshot, chains)
    generator = snapshot.generator("langevin chains")
    here = torch.cat([p.detach().flatten() for p in snapshot.params.values()])

    def normal() -> Tensor:
        shape = (chains, here.numel())
        return torch.randn(shape, generator=generator, device=generator.device, dtype=here.dtype).to(here.device)

    away = torch.zeros(chains, here.numel(), dtype=here.dtype, device=here.device)
    loss, gradient = loss_and_gradient(here + away)
    start = loss
    drift = -inverse_temperature * gradient
    step = BEST_ACCEPTANCE / max(localisation, 1.0)
    excess, virial, acceptance = [], [], []
    for t in range(burn_in + draws):
        noise = normal()
        now = _held(drift, step)
        move = step / 2 * now + math.sqrt(step) * noise
        proposed = away + move
        proposed_loss, gradient = loss_and_gradient(here + proposed)
        proposed_drift = -inverse_temperature * gradient - localisation * proposed
        both = now + _held(proposed_drift, step)
        gain = inverse_temperature * (loss - proposed_loss) - localisation / 2 * (move * (away + proposed)).sum(1)
        # log q(w | w') − log q(w' | w), written so that no large squares are subtracted from each other.
        back = -(math.sqrt(step) * (noise * both).sum(1) + step / 4 * both.square().sum(1)) / 2
        chance = (gain + back).clamp(max=0).exp().nan_to_num(0.0)
        accepted = torch.rand(chains, generator=generator, device=generator.device).to(chance) < chance
        away = torch.where(accepted[:, None], proposed, away)
        drift = torch.where(accepted[:, None], proposed_drift, drift)
        loss = torch.where(accepted, proposed_loss, loss)
        if t < burn_in:
            late = max(1, t - burn_in // 2 + 1)
            step *= math.exp(late**-0.6 * (float(chance.mean()) - BEST_ACCEPTANCE))
        else:
            excess.append(numbers(loss - start))
            virial.append(-numbers((away * drift).sum(1)))
            acceptance.append(numbers(chance))
    return Chains(np.stack(excess, 1), np.stack(virial, 1), np.stack(acceptance, 1).mean(1))


def _held(drift: Tensor, step: float) -> Tensor:
    """The drift, where it would move a chain farther than the noise does shortened to that.

    Roberts and Tweedie (1996) truncate it so (MALTA): where the loss is steeper than quadratic, the plain
    drift throws a chain from the tail to the far side, the step is refused, and tails are missed.
    """
    longest = 2 * math.sqrt(drift.shape[1] / step)
    held: Tensor = drift * (longest / drift.norm(dim=1, keepdim=True)).clamp(max=1)
    return held


def _loss_and_gradient(snapshot: Snapshot, chains: int) -> Both:
    """Loss ``(chains,)`` and gradient ``(chains, parameters)`` at weights ``(chains, parameters)``."""

    def parts(flat: Tensor) -> Mapping[str, Tensor]:
        cut = flat.split([p.numel() for p in snapshot.params.values()])
        # Copies: an embedding with a largest norm writes to the weights it is given.
        return {
            name: part.view_as(p).to(p.dtype, copy=True)
            for part, (name, p) in zip(cut, snapshot.params.items(), strict=True)
        }

    def one(flat: Tensor) -> Tensor:
        return snapshot.loss(parts(flat))

    at_once = max(1, BLOCK_BYTES // (bytes_of_a_sample(snapshot) * snapshot.probe_set.n))

    def each(weights: Tensor) -> tuple[Tensor, Tensor]:
        found = []
        for flat in weights:
            at = flat.detach().requires_grad_()
            value = one(at)
            found.append((value.detach(), torch.autograd.grad(value, at)[0]))
        losses, gradients = zip(*found, strict=True)
        return torch.stack(losses), torch.stack(gradients)

    def together(weights: Tensor) -> tuple[Tensor, Tensor]:
        with mappable():
            gradients, losses = torch.func.vmap(torch.func.grad_and_value(one), chunk_size=at_once)(weights)
        return losses, gradients

    # Not every model can be mapped over (recurrent kernels, values read in Python), and a few map wrongly.
    apart = torch.cat([p.detach().flatten() for p in snapshot.params.values()]).expand(chains, -1)
    try:
        mapped, looped = together(apart), each(apart[:1])
    except RuntimeError:
        return each
    same = all(
        torch.allclose(m[:1], e, rtol=1e-3, atol=1e-6, equal_nan=True) for m, e in zip(mapped, looped, strict=True)
    )
    return together if same else each


@final
@dataclass(frozen=True, slots=True)
class Mixing:
    """The mean of chains with its standard error, and two witnesses of whether to believe them.

    ``rhat`` is the split R̂ (Gelman et al. 2013, sec. 11.4), one for chains that agree with each other and
    with themselves; ``effective`` the number of independent draws that would be as good. NaN and zero for
    chains that do not move.
    """

    mean: float
    stderr: float
    rhat: float
    effective: float


def mixing(draws: Draws) -> Mixing:
    """What chains ``(chains, draws)`` say of their mean, each chain cut in two.

    Autocorrelations are summed over Geyer's (1992) initial monotone sequence, as in Vehtari et al. (2021,
    "Rank-normalization, folding, and localization: an improved R̂").
    """
    half = draws.shape[1] // 2
    halves = np.concatenate([draws[:, :half], draws[:, -half:]])
    within = halves.var(1, ddof=1).mean()
    pooled = (half - 1) / half * within + halves.mean(1).var(ddof=1)
    if not within > 0 or not math.isfinite(pooled):
        return Mixing(float(draws.mean()), math.nan, math.nan, 0.0)
    correlations = 1 - (within - _autocovariances(halves)) / pooled
    effective = halves.size / max(_summed(correlations), 1.0)
    stderr = math.sqrt(pooled / effective)
    return Mixing(float(draws.mean()), stderr, math.sqrt(pooled / within), effective)


def _autocovariances(chains: Draws) -> Draws:
    """By lag, averaged over the chains."""
    length = chains.shape[1]
    transformed = np.fft.rfft(chains - chains.mean(1, keepdims=True), 2 * length)
    found: Draws = np.fft.irfft(np.abs(transformed) ** 2)[:, :length].mean(0) / (length - 1)
    return found


def _summed(correlations: Draws) -> float:
    """1 + 2 Σ ρ_t over the lags before the sum of two neighbours is negative, no such sum above the one before."""
    return 2 * sum(_pairs(correlations)) - 1


def _pairs(correlations: Draws) -> Iterator[float]:
    least = math.inf
    for k in range(0, len(correlations) - 1, 2):
        pair = (1.0 if k == 0 else float(correlations[k])) + float(correlations[k + 1])
        if pair < 0:
            return
        least = min(least, pair)
        yield least
