"""Certificate: what proves that per-sample gradients are the gradients of this model's samples.

Routes to per-sample gradients can be wrong without an error: a rule that does not know a module, a
function transform that misses a parameter, a sequence axis taken for the samples' axis. And samples
may have no gradients of their own, where normalisation over the batch mixes them. But with any sign
r_i for each sample, Σ_i r_i J_iᵀ c_i must be what plain backpropagation through the batch gives for the
cotangents r_i c_i, parameter by parameter. With random signs, a term that is missing or belongs to
another sample has nothing to hide behind.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

ROUNDINGS = 1000.0
"""So many roundings of all parameters' gradients together are no difference."""


class Uncertified(Exception):
    """This route cannot be used for this model; says why."""


def certify(
    squares: Mapping[str, Tensor],
    added: Mapping[str, Tensor],
    lengths: Mapping[str, Tensor],
    whole: Mapping[str, Tensor],
) -> None:
    """Check that what a route found for some samples adds up to, and is as long as, what plain backpropagation gives.

    The distance is measured against √Σ‖g_i‖², the size of a random sum of the samples' gradients, and
    not against the sum itself, which may vanish. A gradient that is zero but for rounding, such as that of a bias
    before a normalisation, is measured against all parameters' together. Non-finite gradients prove nothing and
    pass: the estimate will say so itself.

    Args:
        squares: ‖J_iᵀ c_i‖² by parameter name, each of shape ``(m,)``.
        added: Σ_i r_i J_iᵀ c_i as the route found it, each of the parameter's shape.
        lengths: the squares by plain backpropagation.
        whole: the sums by plain backpropagation.

    Raises:
        Uncertified: they are further apart than `tolerance_of` their type.
    """
    names = list(whole)
    dtype = whole[names[0]].dtype
    gaps = torch.stack([_norm(added[name] - whole[name]) for name in names])
    wholes = torch.stack([_norm(whole[name]) for name in names])
    found, plain = (torch.stack([of[name].to(wholes).sqrt() for name in names]) for of in (squares, lengths))
    sizes = wholes + plain.norm(dim=1)
    rounding = ROUNDINGS * torch.finfo(dtype).eps * sizes.norm()
    gaps = torch.maximum(gaps, (found - plain).norm(dim=1))
    wrong = (gaps > tolerance_of(dtype) * sizes + rounding) | (gaps.isnan() & sizes.isfinite())
    if wrong.any():
        raise Uncertified(f"the samples' gradients of {names[int(wrong.int().argmax())]} do not add up to the batch's")


def certify_outputs(outputs: Tensor, predictions: Tensor) -> None:
    """Check that a route, which may have run each sample alone, met the outputs that the whole probe set has.

    Raises:
        Uncertified: a sample's outputs are further off than `tolerance_of` their type.
    """
    flat, expected = (t.detach().reshape(len(predictions), -1) for t in (outputs, predictions))
    size = expected.norm(dim=1) + expected.norm() / max(len(expected), 1) ** 0.5
    gaps = (flat - expected).norm(dim=1)
    if (gaps > tolerance_of(expected.dtype) * size).any():
        raise Uncertified("a sample's outputs depend on the samples beside it, or on chance")


def tolerance_of(dtype: torch.dtype) -> float:
    """How far two correct routes may be apart, relative to the size of what they compute.

    float32 on a GPU may be TF32 on one route and not on the other, which is worth a few 1e-3; routes
    that are wrong are wrong by a whole term, in the first digit.
    """
    match dtype:
        case torch.float64:
            return 1e-7
        case torch.float32:
            return 1e-2
    return 1e-1


def widened(dtype: torch.dtype) -> torch.dtype:
    """The type to add squares up in: at least single precision."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def _norm(values: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(values, dtype=widened(values.dtype))
    return norm
