"""Recognition: which likelihood a loss function stands for, found out by trying it."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from probe_agent.likelihood import Bernoulli, Categorical, Gaussian, Likelihood

CANDIDATES: tuple[Likelihood, ...] = (
    Categorical(),
    Categorical(class_axis=1),
    Categorical(shifted=True),
    Gaussian(),
    Bernoulli(),
)

_ROUNDING = 32
"""So many units in the last place two ways to compute one mean may differ by."""


def named(name: str) -> Likelihood:
    """The likelihood of that name.

    Raises:
        ValueError: there is none.
    """
    for likelihood in CANDIDATES:
        if likelihood.name == name:
            return likelihood
    raise ValueError(
        f'Got likelihood={name!r}; the known ones are "categorical" (cross-entropy), "gaussian" (squared error) and "bernoulli" '
        "(binary cross-entropy with logits). "
        "Leave it out to have it recognised from the loss."
    )


def recognise(loss_fn: Callable[[Any, Tensor], Tensor], outputs: Any, targets: Tensor) -> Likelihood | None:
    """The likelihood whose −log p(y | f), per prediction, the loss is a constant multiple of; None where there is none.

    The loss is tried, not read: on the outputs it will see and on made-up ones, so that a module, a
    function and a lambda that reshapes are all the same. Label smoothing, class weights and penalties
    break the proportion and give None.
    """
    if not isinstance(outputs, Tensor):
        return None
    for likelihood in CANDIDATES:
        if likelihood.fits(outputs, targets) and _stands_for(loss_fn, likelihood, outputs.detach(), targets):
            return likelihood
    return None


def _stands_for(
    loss_fn: Callable[[Any, Tensor], Tensor], likelihood: Likelihood, outputs: Tensor, targets: Tensor
) -> bool:
    """Whether loss / mean negative log-likelihood is one constant over three sets of outputs."""
    generator = torch.Generator().manual_seed(0)
    made_up = [
        spread * torch.randn(outputs.shape, generator=generator, device="cpu").to(outputs) for spread in (1.0, 3.0)
    ]
    if isinstance(likelihood, Categorical) and likelihood.normalised(outputs):
        # The model ends in log_softmax: a loss such as nll_loss is a likelihood on log-probabilities only.
        made_up = [torch.log_softmax(values, likelihood.class_axis) for values in made_up]
    count = likelihood.predictions(outputs, targets).sum()
    pairs = []
    with torch.no_grad():
        for values in (*made_up, outputs):
            try:
                loss = loss_fn(values, targets)
            except Exception:  # noqa: BLE001 - a stranger's loss may refuse made-up outputs in any way
                return False
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                return False
            pairs.append((float(loss), float(likelihood.negative_log(values, targets).sum() / count)))
    return multiple(pairs, outputs.dtype) is not None


def multiple(pairs: Sequence[tuple[float, float]], dtype: torch.dtype) -> float | None:
    """The constant c > 0 with loss = c · reference in every pair; None where there is none.

    From the first pair to every other the loss must change by c times what the reference does, to half the digits of the type: where
    the reference changes little, a small penalty beside it would else pass for a part of c.
    """
    (loss_0, reference_0), *others = pairs
    if not (0 < loss_0 < math.inf and 0 < reference_0 < math.inf):
        return None
    c = loss_0 / reference_0
    eps = torch.finfo(dtype).eps
    # Rounding is measured against the first loss as well: a perfect fit has no digits of its own to compare.
    if all(
        abs(loss - c * reference)
        <= eps**0.5 * c * abs(reference - reference_0) + _ROUNDING * eps * (abs(c * reference) + loss_0)
        for loss, reference in others
    ):
        return c
    return None
