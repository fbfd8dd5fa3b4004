"""Factors of a sample's gradient: by module, the two signals whose product it is, and its norm without the product.

A linear layer z = W a + b has the per-sample gradient ∂/∂W = δ aᵀ with δ the gradient at z, hence
‖δ aᵀ‖² = ‖δ‖² ‖a‖²; over T positions it is Σ_tt' (δ_t·δ_t')(a_t·a_t') (Goodfellow 2015, "Efficient
per-example gradient computations", sec. 5). Where T is large the product itself is less work, and for a
convolution it is the weight gradient of a grouped convolution with a group for each sample (Rochette,
Manoel and Tramel 2019, "Efficient per-example gradient computations in convolutional neural networks").
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - as torch's own documentation names it
from torch import Tensor, nn
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

from probe_agent.estimators.certificate import Uncertified
from probe_agent.estimators.graph_memory import GRADIENT_BYTES


class Gradients(Protocol):
    """The per-sample gradients of one parameter, in whatever form."""

    def squares(self) -> Tensor:
        """The squared norm of each sample's gradient, shape ``(m,)``."""

    def added(self, signs: Tensor) -> Tensor:
        """The sum of the samples' gradients with a sign each, or zero to leave it out, of the shape of one."""


@dataclass(frozen=True, slots=True)
class Factors:
    """The per-sample gradient of one parameter.

    With ``left`` of shape ``(m, T, p)`` and ``right`` ``(m, T, q)`` it is Σ_t left_t right_tᵀ, ``(m, p, q)``;
    with ``rows`` of shape ``(m, T)`` it is ``(m, count, p)`` with left_t added to row ``rows[t]``; with neither
    it is ``left`` itself, ``(m, p)``.
    """

    left: Tensor
    right: Tensor | None = None
    rows: Tensor | None = None
    count: int = 0

    def squares(self) -> Tensor:
        """The squared norm of each sample's gradient, shape ``(m,)``: instantiated or not, whichever is less work."""
        if self.rows is not None:
            return self._squares_by_rows(self.rows)
        if self.right is None:
            return _square(self.left)
        (_, t, p), q = self.left.shape, self.right.shape[2]
        if t == 1:
            return _square(self.left) * _square(self.right)
        if gram_is_less_work(t, p, q):
            return ((self.left @ self.left.mT) * (self.right @ self.right.mT)).sum((1, 2))
        return _square(self.left.mT @ self.right)

    def _squares_by_rows(self, rows: Tensor) -> Tensor:
        m, _, p = self.left.shape
        apart = rows + self.count * torch.arange(m, device=rows.device)[:, None]
        places, which = apart.unique(return_inverse=True)
        summed = self.left.new_zeros(len(places), p).index_add_(0, which.flatten(), self.left.flatten(0, 1))
        return self.left.new_zeros(m).index_add_(0, places // self.count, _square(summed))

    def added(self, signs: Tensor) -> Tensor:
        """The sum of the samples' gradients with a sign each, or zero to leave it out, of the shape of one."""
        of = signs.nonzero().squeeze(1)
        if self.right is None and self.rows is None:
            return signs[of] @ self.left[of]
        signed = (signs[of, None, None] * self.left[of]).flatten(0, 1)
        if self.rows is not None:
            return signed.new_zeros(self.count, signed.shape[1]).index_add_(0, self.rows[of].flatten(), signed)
        assert self.right is not None  # noqa: S101 - narrows for the type checker
        return signed.T @ self.right[of].flatten(0, 1)


def gram_is_less_work(t: int, p: int, q: int) -> bool:
    """Whether the norm of a ``(p, q)`` sum of T products is had for less by the products' inner products."""
    return t * (p + q) < p * q


def _square(gradients: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(gradients.flatten(1), dim=1)
    return norms.square()


Combine = Callable[[Tensor], Mapping[str, Gradients]]
"""The gradient at a module's output → the gradients of its own parameters, by name."""

Rule = Callable[[nn.Module, Tensor], Combine]
"""(module, its input) → how to combine it with gradients; what depends on the input alone is computed once."""


def linear(_: nn.Module, a: Tensor) -> Combine:
    """Weight: δ aᵀ; bias: δ."""
    right = a.reshape(len(a), -1, a.shape[-1])

    def combine(delta: Tensor) -> dict[str, Factors]:
        positions = delta.reshape(len(delta), -1, delta.shape[-1])
        return {"weight": Factors(positions, right), "bias": Factors(positions.sum(1))}

    return combine


Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
WEIGHT_GRADIENTS: Mapping[type, Callable[..., Tensor]] = {
    nn.Conv1d: conv1d_weight,
    nn.Conv2d: conv2d_weight,
    nn.Conv3d: conv3d_weight,
}


def convolution(module: nn.Module, a: Tensor) -> Combine:
    """Weight: Σ_t δ_t patch_tᵀ on patches of the input, by their inner products or as torch sums it; bias: δ summed."""
    assert isinstance(module, Convolution)  # noqa: S101 - narrows for the type checker
    if a.dim() != module.weight.dim():
        raise Uncertified("a convolution that is not given samples along a first axis")
    a = _padded(module, a)
    by_patches = gram_over_patches(module, _positions(module, a))
    patches = _patches(module, a) if by_patches else None

    def combine(delta: Tensor) -> Mapping[str, Gradients]:
        positions = delta.flatten(2)
        if patches is not None:
            return {"weight": Factors(positions.mT, patches), "bias": Factors(positions.sum(2))}
        return {"weight": Convolved(module, a, delta), "bias": Factors(positions.sum(2))}

    return combine


def gram_over_patches(module: Convolution, positions: int) -> bool:
    """Whether a convolution's norm is taken from patches: for few positions, where torch can cut them out."""
    plain = module.groups == 1 and not isinstance(module, nn.Conv3d)
    return plain and gram_is_less_work(positions, module.weight.shape[0], module.weight[0].numel())


def _padded(module: Convolution, a: Tensor) -> Tensor:
    """The input as the convolution sees it, so that what follows has no padding."""
    if module.padding == "valid":
        return a
    reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    if module.padding == "same":
        sides = [(r // 2, r - r // 2) for r in reach]
    else:
        sides = [(int(p), int(p)) for p in module.padding]
    if not any(map(any, sides)):
        return a
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return F.pad(a, [side for both in reversed(sides) for side in both], mode)


def _positions(module: Convolution, padded: Tensor) -> int:
    sizes = zip(padded.shape[2:], module.kernel_size, module.dilation, module.stride, strict=True)
    return math.prod((size - d * (k - 1) - 1) // step + 1 for size, k, d, step in sizes)


def _patches(module: Convolution, padded: Tensor) -> Tensor:
    """The patch at each position, ``(m, T, q)``."""
    flat = isinstance(module, nn.Conv1d)
    image = padded.unsqueeze(2) if flat else padded
    of = [(1, *sizes) if flat else sizes for sizes in (module.kernel_size, module.dilation, module.stride)]
    return F.unfold(image, of[0], of[1], 0, of[2]).mT


@dataclass(frozen=True, slots=True)
class Convolved:
    """The per-sample gradients of a convolution's weight, from its padded input and the gradient at its output."""

    module: Convolution
    padded: Tensor
    delta: Tensor

    def squares(self) -> Tensor:
        """Of so many samples at a time as may be formed at once: the groups of a grouped convolution."""
        size = self.module.weight.numel() * self.padded.element_size()
        chunks = zip(*(t.split(max(1, GRADIENT_BYTES // size)) for t in (self.padded, self.delta)), strict=True)
        return torch.cat([self._squares_of(a, delta) for a, delta in chunks])

    def added(self, signs: Tensor) -> Tensor:
        """One ordinary weight gradient."""
        of = signs.nonzero().squeeze(1)
        signed = signs[of].reshape(-1, *(1,) * (self.delta.dim() - 1)) * self.delta[of]
        return self._weight_gradient(self.padded[of], signed, 1)

    def _squares_of(self, a: Tensor, delta: Tensor) -> Tensor:
        m = len(a)
        side_by_side, deltas = (t.reshape(1, -1, *t.shape[2:]) for t in (a, delta))
        return _square(self._weight_gradient(side_by_side, deltas, m).reshape(m, -1))

    def _weight_gradient(self, a: Tensor, delta: Tensor, samples: int) -> Tensor:
        out, *rest = self.module.weight.shape
        of, module = WEIGHT_GRADIENTS[type(self.module)], self.module
        return of(a, (samples * out, *rest), delta, module.stride, 0, module.dilation, samples * module.groups)


def embedding(module: nn.Module, a: Tensor) -> Combine:
    """Weight: δ_t in the row of token t."""
    assert isinstance(module, nn.Embedding)  # noqa: S101 - narrows for the type checker
    if a.dim() < 2 or module.scale_grad_by_freq:
        raise Uncertified("an embedding that is not given each sample's tokens, or counts them")
    tokens = a.reshape(len(a), -1)

    def combine(delta: Tensor) -> dict[str, Factors]:
        positions = delta.reshape(*tokens.shape, -1)
        if module.padding_idx is not None:
            positions = positions * (tokens != module.padding_idx)[..., None]
        return {"weight": Factors(positions, rows=tokens, count=module.num_embeddings)}

    return combine


def layer_norm(module: nn.Module, a: Tensor) -> Combine:
    """Weight: δ ∘ the normalised input, summed over positions; bias: δ summed."""
    assert isinstance(module, nn.LayerNorm | nn.RMSNorm)  # noqa: S101 - narrows for the type checker
    shape = tuple(module.normalized_shape)
    if isinstance(module, nn.LayerNorm):
        normal = F.layer_norm(a, shape, None, None, module.eps)
    else:
        normal = F.rms_norm(a, shape, None, module.eps)

    def combine(delta: Tensor) -> dict[str, Factors]:
        each = (len(delta), -1, math.prod(shape))
        return {
            "weight": Factors((delta * normal).reshape(each).sum(1)),
            "bias": Factors(delta.reshape(each).sum(1)),
        }

    return combine


def channel_norm(module: nn.Module, a: Tensor) -> Combine:
    """As `layer_norm`, by channel, within groups of channels or with the running statistics."""
    if isinstance(module, nn.GroupNorm):
        normal = F.group_norm(a, module.num_groups, eps=module.eps)
    else:
        assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)  # noqa: S101 - narrows for the type checker
        if module.running_mean is None or module.running_var is None:
            raise Uncertified("a batch normalisation without running statistics mixes samples")
        normal = F.batch_norm(a, module.running_mean, module.running_var, eps=module.eps)

    def combine(delta: Tensor) -> dict[str, Factors]:
        each = (*a.shape[:2], -1)
        return {
            "weight": Factors((delta * normal).reshape(each).sum(2)),
            "bias": Factors(delta.reshape(each).sum(2)),
        }

    return combine


# Exact types: a subclass may compute something else.
RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: linear,
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.Conv3d: convolution,
    nn.Embedding: embedding,
    nn.LayerNorm: layer_norm,
    nn.RMSNorm: layer_norm,
    nn.GroupNorm: channel_norm,
    nn.BatchNorm1d: channel_norm,
    nn.BatchNorm2d: channel_norm,
    nn.BatchNorm3d: channel_norm,
}
