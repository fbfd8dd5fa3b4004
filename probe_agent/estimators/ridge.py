"""Ridge: the best linear decoder of a layer's features in closed form, judged on samples it has not seen.

With centred features H = U S Vᵀ and penalty λ, predictions of the targets T are T̄ + U D Uᵀ T with
D = S² / (S² + λ); with the mean refitted too, the error at sample i of the decoder trained on all the
others is its error in training over 1 − (1/n + Σ_k d_k u_ik²), exactly (Cook & Weisberg 1982, sec. 2.2).
The penalty is the one of least generalised cross-validation (Golub, Heath & Wahba 1979): what is
reported is what a linear decoder can do, not how a fixed penalty or a learning rate suits the scale
of the features, which changes as a network learns. A rotation of the features changes nothing, nor does
a factor.
"""

import torch
from torch import Tensor

from probe_agent.estimators.ranks import Spectrum

PENALTIES = (-10.0, 4.0, 85)
"""Decades of λ, in units of the mean σ², from where to where, and how many values: six in each."""


def leave_one_out(of: Spectrum, targets: Tensor, *, refit_mean: bool = True) -> Tensor:
    """The errors of each sample's targets, decoded by the ridge regression of all other samples.

    Args:
        of: the features' spectrum, centred.
        targets: shape ``(n, m)``, real or whole numbers.
        refit_mean: whether the targets' mean, too, is that of the others. For labels it must not be: a
            class that misses the sample to be classified is rarer by one, so that a classifier with
            nothing to go by would choose any class but the right one.

    Returns:
        Errors of shape ``(n, m)``. Of features that carry nothing they are those of the mean.
    """
    return _decoded(of, targets, refit_mean=refit_mean)[0]


def squared_errors(of: Spectrum, targets: Tensor) -> Tensor:
    """Parts, one a sample, whose mean is the mean squared error ‖e_i‖² of `leave_one_out`: shape ``(n,)``.

    A sample is decoded once, and teaches the decoder of every other. Were sample j left out of
    training too, the error at i would be about e_i + h_ij e_j. So, up to a constant, the part of j is what
    Σ‖e_i‖² owes to it in both ways, a jackknife value: their spread tells how other samples would
    move the mean. That of ‖e_j‖² alone is a quarter too small where there are twice as many samples
    as features.
    """
    errors, shrinkage = _decoded(of, targets, refit_mean=True)
    n = len(errors)
    weights = of.left.square()
    own = weights @ shrinkage + 1 / n
    others = of.left @ (shrinkage[:, None] * (of.left.mT @ errors)) + errors.mean(0) - own[:, None] * errors
    alone = errors.square().sum(1)
    reach = weights @ shrinkage.square() + 1 / n - own.square()  # Σ_{i≠j} h_ij²
    taught = -2 * (errors * others).sum(1) - reach * alone
    return alone + taught - taught.mean()


def _decoded(of: Spectrum, targets: Tensor, *, refit_mean: bool) -> tuple[Tensor, Tensor]:
    """The errors of `leave_one_out`, and the shrinkage d."""
    targets = targets.to(of.left)
    centred = targets - targets.mean(0)
    along = of.left.mT @ centred
    shrinkage = _shrinkage(of, centred, along)
    errors = centred - of.left @ (shrinkage[:, None] * along)
    mean = 1 / len(targets) if refit_mean else 0.0
    freedom = 1 - mean - of.left.square() @ shrinkage
    return errors / freedom.clamp(min=torch.finfo(freedom.dtype).eps)[:, None], shrinkage


def _shrinkage(of: Spectrum, centred: Tensor, along: Tensor) -> Tensor:
    """d_k at the penalty of least generalised cross-validation, shape ``(k,)``."""
    n, k = of.left.shape
    if not k:
        return of.squares
    start, stop, count = PENALTIES
    decades = torch.linspace(start, stop, count, dtype=of.squares.dtype, device=of.squares.device)
    penalties = of.squares.mean() * 10 ** decades[:, None]
    # Written with what is missed, 1 - d: residual and freedom both vanish where the features can fit anything.
    missed = penalties / (of.squares + penalties)
    energy = along.square().sum(1)
    outside = (centred.square().sum() - energy.sum()).clamp(min=0) if k < n - 1 else 0.0
    residual = outside + missed.square() @ energy
    freedom = n - 1 - k + missed.sum(1)
    best: Tensor = 1 - missed[(residual / freedom.square()).argmin()]
    return best
