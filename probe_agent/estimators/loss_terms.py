"""Loss terms: independent parts whose mean is the loss, found out numerically for a loss function of any making."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from probe_agent.complaints import Complaints, said
from probe_agent.estimators.draws import Draws, jackknife_draws, numbers, ratio_draws
from probe_agent.interruption import is_interruption
from probe_agent.probe_set import rows
from probe_agent.snapshot import Snapshot

JACKKNIFE_GROUPS = 16

_complain = Complaints()

Terms = Literal["likelihood", "samples", "jackknife", "unknown"]
"""The terms of the likelihood; the losses of single samples; a jackknife over groups, where the loss is no mean of
these (normalised weights, contrasts between samples); or nothing that could be found."""


def loss_terms(
    snapshot: Snapshot, outputs: Any, whole: float, params: Mapping[str, Tensor] | None = None
) -> tuple[Draws | None, Terms]:
    """Independent parts whose mean is the loss, tried in order of how sharp an error they give.

    ``outputs`` are those at ``params`` (default: the snapshot's), and ``whole`` the loss of them.
    """
    if not math.isfinite(whole):
        return None, "unknown"
    targets = snapshot.probe_set.targets
    if isinstance(outputs, Tensor):
        known = snapshot.likelihood
        if known is not None and known.fits(outputs, targets):
            counts = numbers(known.predictions(outputs, targets))
            draws = ratio_draws(numbers(known.negative_log(outputs, targets)), counts)
            if _mean_is(draws, whole, outputs.dtype):
                return draws, "likelihood"
    if not snapshot.stands_alone(outputs, targets):
        return None, "unknown"
    if isinstance(outputs, Tensor):
        alone = _alone(snapshot, outputs)
        for reduction in (1, snapshot.probe_set.n):  # a mean of the samples' losses, or a sum
            if alone is not None and _mean_is(reduction * alone, whole, outputs.dtype):
                return reduction * alone, "samples"
    without = _without(snapshot, outputs, params)
    if without is None or not np.isfinite(without).all():
        return None, "unknown"
    return jackknife_draws(whole, without), "jackknife"


def _alone(snapshot: Snapshot, outputs: Tensor) -> Draws | None:
    """The loss of every sample as a batch of its own, shape ``(n,)``."""
    targets = snapshot.probe_set.targets

    def one(output: Tensor, target: Tensor) -> Tensor:
        return snapshot.loss_fn(output[None], target[None]).reshape(())

    try:
        return numbers(torch.func.vmap(one)(outputs, targets))
    except Exception as error:  # a stranger's loss may refuse vmap in any way
        if is_interruption(error):
            raise
        try:
            return numbers(torch.stack([one(output, target) for output, target in zip(outputs, targets, strict=True)]))
        except Exception as alone:  # or one sample alone
            if is_interruption(alone):
                raise
            return None


def _without(snapshot: Snapshot, outputs: Any, params: Mapping[str, Tensor] | None) -> Draws | None:
    """The loss with each of the groups left out, shape ``(G,)``; sample i is in group i modulo G."""
    n = snapshot.probe_set.n
    groups = min(JACKKNIFE_GROUPS, n)
    member = torch.arange(n, device=snapshot.probe_set.device) % groups
    losses, targets = [], snapshot.probe_set.targets
    try:
        for group in range(groups):
            kept = (member != group).nonzero().squeeze(1)
            targets = snapshot.probe_set.targets[kept]
            if isinstance(outputs, Tensor):
                losses.append(float(snapshot.loss_fn(outputs[kept], targets)))
            else:  # outputs of a type of their own cannot be cut, only computed again
                losses.append(float(snapshot.loss(params, rows(snapshot.probe_set.inputs, kept), targets)))
    except Exception as error:  # a loss may need its whole batch; then its error is not known
        if is_interruption(error):
            raise
        _complain(
            f"loss of parts: {type(error).__name__}",
            f"the loss of {len(targets)} of the {n} samples raises {said(error)}; its standard error is not known. Need one that averages "
            "over samples",
        )
        return None
    return np.array(losses)


def _mean_is(draws: Draws, whole: float, dtype: torch.dtype) -> bool:
    """Whether the parts' mean is the loss, to the digits its type carries through a sum."""
    with np.errstate(invalid="ignore", over="ignore"):
        return bool(abs(draws.mean() - whole) <= torch.finfo(dtype).eps ** 0.5 * np.abs(draws).mean())
