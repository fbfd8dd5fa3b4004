"""Recognition: which likelihood a loss function stands for, found out by trying it."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from probe_agent.complaints import warn
from probe_agent.errors import LikelihoodError
from probe_agent.likelihood import IGNORED, Bernoulli, Categorical, Gaussian, Likelihood, logits_of

logger = logging.getLogger("probe_agent")

LossFn = Callable[[Any, Tensor], Tensor]

CANDIDATES: tuple[Likelihood, ...] = (
    Categorical(),
    Categorical(class_axis=1),
    Categorical(shifted=True),
    Gaussian(),
    Bernoulli(),
)

_MEANS: Final = {"categorical": "logits of classes", "gaussian": "means", "bernoulli": "logits of yes and no"}
"""What the outputs are where a likelihood of that name is the right one."""

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


def chosen(loss_fn: LossFn, outputs: Any, targets: Tensor, name: str | None) -> Likelihood | None:
    """The likelihood of that name, else the one that is recognised; told of where there is none.

    Where the model returns more than logits, and its loss is none that is known, it is about the logits all the same.

    Raises:
        LikelihoodError: there is none of that name, or it does not fit the outputs and targets.
    """
    try:
        first = None if name is None else named(name)
    except ValueError as error:
        raise LikelihoodError(str(error)) from error
    found, fitting = None, []
    try:
        found = recognise(loss_fn, outputs, targets)
        fitting = [] if found is not None and name in (None, found.name) else layouts(loss_fn, outputs, targets)
    except Exception as error:  # noqa: BLE001 - an unusual output is no reason to refuse the run
        logger.debug("phasewatch: the likelihood could not be recognised: %r", error)
        if first is not None:
            return first
    if first is None:
        if found is None:
            _tell_of_none(fitting, targets)
        return found
    if (seen := _logits(outputs)) is None:
        warn(
            f"the model returns a {type(outputs).__name__} in which no logits are found, so that what needs likelihood={name!r} of them is not "
            "measured. Have it return one tensor, or an object or dict with it under the name logits."
        )
        return first
    of_name = (
        [found] if found is not None and found.name == name else [known for known in fitting if known.name == name]
    )
    if not of_name:  # nothing that asks for a likelihood would be measured
        got = (
            f"a tensor of shape {tuple(outputs.shape)}"
            if isinstance(outputs, Tensor)
            else f"a {type(outputs).__name__}"
        )
        raise LikelihoodError(
            f"Got likelihood={name!r}, a model that returns {got}, and targets of shape {tuple(targets.shape)} and type "
            f"{targets.dtype}; need one tensor of {_MEANS[first.name]} and targets that fit it. Leave likelihood out to have the rest measured."
        )
    if seen is not outputs and _differ(of_name, seen, targets) and _slopes(loss_fn, outputs, targets) is None:
        warn(
            f"the targets of shape {tuple(targets.shape)} can be about the model's logits of shape {tuple(seen.shape)} in several ways, and its "
            f"loss is computed from something else and does not tell which, so that what needs likelihood={name!r} is not measured."
        )
        return None
    return of_name[0]  # of one name there are several layouts, and the loss tells which


def _differ(layouts: Sequence[Likelihood], logits: Tensor, targets: Tensor) -> bool:
    """Whether they say different things of these."""
    return len({float(known.negative_log(logits.detach(), targets).sum()) for known in layouts}) > 1


def _logits(outputs: Any) -> Tensor | None:
    return outputs if isinstance(outputs, Tensor) else logits_of(outputs)


def _tell_of_none(fitting: Sequence[Likelihood], targets: Tensor) -> None:
    names = dict.fromkeys(known.name for known in fitting)
    advice = ""
    if "bernoulli" in names and _share_out_one(targets):
        advice = (
            f" Its targets of shape {tuple(targets.shape)} look like the probabilities of classes: give the classes' indices in the probe batch, "
            "such as targets.argmax(1), and a cross-entropy is recognised."
        )
    elif names:
        advice = (
            f" If the model's outputs are {' or '.join(_MEANS[name] for name in names)} all the same, pass "
            f"{' or '.join(f'likelihood={name!r}' for name in names)} to attach()."
        )
    warn(
        "the loss is not one of the likelihoods known here (cross-entropy, also binary, and squared error; class weights and label "
        "smoothing make it another), so the true Fisher trace and the accuracy are not measured and no critical period can be "
        f"found.{advice}"
    )


def _share_out_one(targets: Tensor) -> bool:
    """Whether they are as the probabilities of classes are, such as of labels that were mixed."""
    return targets.dim() > 1 and targets.shape[1] > 1 and bool(((targets.sum(1) - 1).abs() < 1e-3).all())


def recognise(loss_fn: LossFn, outputs: Any, targets: Tensor) -> Likelihood | None:
    """The likelihood whose −log p(y | f), per prediction, the loss is a constant multiple of; None where there is none.

    The loss is tried, not read: on the outputs it will see and on made-up ones, so that a module, a
    function and a lambda that reshapes are all the same. Label smoothing, class weights and penalties
    break the proportion and give None.
    """
    if not isinstance(outputs, Tensor):
        return None
    candidates = [known for known in CANDIDATES if known.fits(outputs, targets)]
    for known in candidates:
        if _stands_for(loss_fn, known, outputs.detach(), targets):
            return known
    for known in layouts(loss_fn, outputs, targets):  # also those that leave out targets of their own
        if known not in candidates and _stands_for(loss_fn, known, outputs.detach(), targets):
            return known
    return None


def layouts(loss_fn: LossFn, outputs: Any, targets: Tensor) -> list[Likelihood]:
    """The likelihoods that fit outputs and targets, first those about just the predictions that the loss is about.

    Which these are is seen by its slopes: they are zero at a prediction whose target it ignores.
    """
    if (logits := _logits(outputs)) is None:
        return []
    slopes = _slopes(loss_fn, outputs, targets)
    fitting = [
        known
        for known in (_as_used(each, loss_fn, outputs, targets, slopes) for each in CANDIDATES)
        if known.fits(logits, targets)
    ]
    return sorted(fitting, key=lambda known: not _is_about_what_is_used(known, slopes, targets))


def leaving_out(known: Likelihood | None, loss_fn: LossFn, outputs: Any, targets: Tensor) -> Likelihood | None:
    """The same, leaving out what the loss ignores on samples that it was not recognised on, such as the padding of a test batch."""
    if not isinstance(known, Categorical) or known.ignored != IGNORED:
        return known
    return _as_used(known, loss_fn, outputs, targets, _slopes(loss_fn, outputs, targets))


def _slopes(loss_fn: LossFn, outputs: Any, targets: Tensor) -> Tensor | None:
    """∂ loss / ∂ logits, at made-up ones where they are all that the loss takes; None where there are none."""
    try:
        with torch.enable_grad():
            given = _made_up(outputs, 1.0)[0].requires_grad_() if isinstance(outputs, Tensor) else outputs
            of = _logits(given)
            (slopes,) = torch.autograd.grad(loss_fn(given, targets), [] if of is None else [of], retain_graph=True)
    except Exception:  # noqa: BLE001 - a stranger's loss may refuse made-up outputs in any way
        return None
    return slopes


def _used(known: Categorical, slopes: Tensor | None, targets: Tensor) -> Tensor | None:
    """Which predictions the loss depends on, of the shape of the targets; None where that is not known in this layout."""
    if slopes is None or slopes.dim() < 2:
        return None
    used = slopes.movedim(known.class_axis, -1).ne(0).any(-1)
    return used if used.shape == targets.shape and (targets.dim() == 2 or not known.shifted) else None


def _as_used(known: Likelihood, loss_fn: LossFn, outputs: Any, targets: Tensor, slopes: Tensor | None) -> Likelihood:
    """The same, with the one target that the loss ignores wherever it stands and nowhere else, such as that of padding.

    It ignores the target of any sample: a loss with a margin is as flat wherever that is met, perhaps by all samples of one class.
    """
    used = _used(known, slopes, targets) if isinstance(known, Categorical) else None
    if not isinstance(known, Categorical) or used is None:
        return known
    labels = known.aligned(targets)
    left_out = labels[~used & (labels != IGNORED)].unique()
    if len(left_out) != 1 or (labels[used] == left_out).any():
        return known
    moved = targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(0)).to(targets.device)]
    there = _slopes(loss_fn, outputs, moved)
    if (
        there is not None and slopes is not None and not torch.equal(there, slopes)
    ):  # a model's own loss keeps its own labels
        used = _used(known, there, moved)
        if used is not None and (known.aligned(moved)[used] == left_out).any():
            return known
    return replace(known, ignored=int(left_out))


def _is_about_what_is_used(known: Likelihood, slopes: Tensor | None, targets: Tensor) -> bool:
    used = _used(known, slopes, targets) if isinstance(known, Categorical) else None
    if not isinstance(known, Categorical) or used is None:
        return True
    return torch.equal(used, known.aligned(targets) != known.ignored)


def _made_up(outputs: Tensor, *spreads: float) -> list[Tensor]:
    """Outputs of the same shape and type, drawn at random."""
    generator = torch.Generator().manual_seed(0)
    return [spread * torch.randn(outputs.shape, generator=generator, device="cpu").to(outputs) for spread in spreads]


def _stands_for(loss_fn: LossFn, likelihood: Likelihood, outputs: Tensor, targets: Tensor) -> bool:
    """Whether loss / mean negative log-likelihood is one constant over three sets of outputs."""
    made_up = _made_up(outputs, 1.0, 3.0)
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
