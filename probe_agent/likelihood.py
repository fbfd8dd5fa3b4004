"""Likelihood: the distribution p_w(y | x) a loss stands for, which the Fisher information is defined by.

A network's outputs f parametrise the distribution of the targets. Everything the Fisher information
needs to know of it lives in output space, as *scores* s = ∂(−log p(y | f)) / ∂f, which a backward pass
carries to the weights: F = E_x E_y [Jᵀ s sᵀ J] with J = ∂f / ∂w (Martens 2020, "New insights and
perspectives on the natural gradient method", sec. 5 and 9).
"""

# ruff: noqa: ARG002 - a Likelihood is asked everything in the same words, and need not use each of them

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, final

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

IGNORED = -100
"""The target that marks a prediction as not scored where nothing else is said, as in ``torch.nn.functional.cross_entropy``."""


class Likelihood(Protocol):
    """A distribution of targets given outputs. Samples lie along the first axis of every tensor, ``n`` of them."""

    @property
    def name(self) -> str:
        """The name it is known by in `attach` and in settings."""

    def fits(self, outputs: Tensor, targets: Tensor) -> bool:
        """Whether the tensors have the shapes and types this likelihood speaks of."""

    def predictions(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """How many predictions each sample makes, shape ``(n,)``: the unit everything is reported per."""

    def negative_log(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """−log p(y | f) in nats up to a constant, summed over a sample's predictions, shape ``(n,)``."""

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """∂(−log p(y | f)) / ∂f at the targets, of the outputs' shape."""

    def sampled_scores(self, outputs: Tensor, targets: Tensor, draws: int, generator: torch.Generator) -> Tensor:
        """Scores at labels the model itself draws, shape ``(n, draws, *outputs.shape[1:])``.

        The random numbers depend on the shapes alone: the same generator gives the same at every snapshot.
        Of the targets only is used which predictions count.
        """

    def exact_scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Vectors s_k with Σ_k s_k s_kᵀ = E_y[s sᵀ], one for each of a sample's K outputs, ``(n, K, *outputs.shape[1:])``."""

    def output_curvature(self, outputs: Tensor, targets: Tensor, v: Tensor) -> Tensor:
        """Λv for Λ = ∂²(−log p(y | f)) / ∂f², v and the result of the outputs' shape. Λ does not depend on the labels."""


@final
@dataclass(frozen=True, slots=True)
class Categorical:
    """Softmax over classes, the likelihood of cross-entropy.

    Outputs are logits (or log-probabilities, which are logits of the same distribution) of shape
    ``(n, ..., C)`` or, with ``class_axis=1``, ``(n, C, ...)``; targets are class indices ``(n, ...)``.
    Each index is one prediction, except those that are ``ignored``. With ``shifted``, the outputs ``(n, T, C)`` at each position are
    about the target of the next, as in a causal language model whose labels are its inputs.
    """

    class_axis: int = -1
    shifted: bool = False
    ignored: int = IGNORED
    name: ClassVar[str] = "categorical"

    def fits(self, outputs: Tensor, targets: Tensor) -> bool:
        """Whether outputs are floats with a class axis and targets indices into it."""
        if outputs.dim() < 2 or not outputs.is_floating_point():
            return False
        if targets.is_floating_point() or targets.is_complex() or targets.dtype is torch.bool:
            return False
        logits = outputs.movedim(self.class_axis, -1)
        if targets.shape != logits.shape[:-1] or targets.numel() == 0:
            return False
        if self.shifted and (targets.dim() != 2 or targets.shape[1] < 2):
            return False
        valid = (targets == self.ignored) | ((targets >= 0) & (targets < logits.shape[-1]))
        return bool(valid.all())

    def predictions(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The number of targets of each sample that are not ignored."""
        return (self.aligned(targets) != self.ignored).reshape(outputs.shape[0], -1).sum(1)

    def negative_log(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy summed over each sample's predictions."""
        labels, scored = self._labels(outputs, targets)
        logp = torch.log_softmax(self._logits(outputs), -1).gather(-1, labels[..., None]).squeeze(-1)
        return -torch.where(scored, logp, 0.0).sum(1)

    def graded(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of each prediction the largest probability, whether it is at the target, and whether it counts: ``(n, predictions)``."""
        labels, scored = self._labels(outputs, targets)
        confidence, guess = torch.softmax(self._logits(outputs), -1).max(-1)
        return confidence, (guess == labels) & scored, scored

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Softmax minus one-hot target, zero where the target is ignored."""
        labels, scored = self._labels(outputs, targets)
        return self._scores(outputs, labels[:, None], scored)[:, 0]

    def sampled_scores(self, outputs: Tensor, targets: Tensor, draws: int, generator: torch.Generator) -> Tensor:
        """Labels by inverse CDF from uniforms, so that a small move of the weights moves few labels."""
        _, scored = self._labels(outputs, targets)
        n, m = scored.shape
        u = torch.rand(draws, n, m, generator=generator, device=generator.device).to(outputs.device).transpose(0, 1)
        cdf = torch.softmax(self._logits(outputs), -1).cumsum(-1)
        # One draw at a time: the comparison is as large as the outputs. The last class takes what rounding leaves.
        labels = torch.stack([(u[:, k, :, None] >= cdf).sum(-1) for k in range(draws)], 1)
        return self._scores(outputs, labels.clamp(max=cdf.shape[-1] - 1), scored)

    def exact_scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The vectors √p_c (p − e_c), one for each class of each prediction: Σ_c p_c (p − e_c)(p − e_c)ᵀ."""
        _, scored = self._labels(outputs, targets)
        p = torch.softmax(self._logits(outputs), -1)
        n, m, c = p.shape
        one_hot = torch.eye(c, dtype=p.dtype, device=p.device)
        each = p.sqrt()[..., None] * (p[:, :, None, :] - one_hot) * scored[:, :, None, None]
        # The vector of prediction t is zero at every other prediction: given the outputs, labels are independent.
        apart = torch.eye(m, dtype=p.dtype, device=p.device)
        return self._as_outputs(torch.einsum("nmkc,ml->nmklc", each, apart).reshape(n, m * c, m, c), outputs)

    def output_curvature(self, outputs: Tensor, targets: Tensor, v: Tensor) -> Tensor:
        """(diag p − p pᵀ) v for each prediction that counts."""
        _, scored = self._labels(outputs, targets)
        p, along = torch.softmax(self._logits(outputs), -1), self._logits(v)
        curved = p * (along - (p * along).sum(-1, keepdim=True)) * scored[..., None]
        return self._as_outputs(curved[:, None], outputs)[:, 0]

    def normalised(self, outputs: Tensor) -> bool:
        """Whether the outputs are log-probabilities already."""
        sums = torch.logsumexp(self._logits(outputs), -1).abs()
        return bool((sums <= torch.finfo(outputs.dtype).eps ** 0.5).all())

    def _logits(self, outputs: Tensor) -> Tensor:
        """Logits as ``(n, predictions, C)``."""
        moved = outputs.movedim(self.class_axis, -1)
        return moved.reshape(outputs.shape[0], -1, moved.shape[-1])

    def aligned(self, targets: Tensor) -> Tensor:
        """The targets where the outputs about them are."""
        return F.pad(targets[:, 1:], (0, 1), value=self.ignored) if self.shifted else targets

    def _labels(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Labels that can index classes and whether each counts, both ``(n, predictions)``."""
        flat = self.aligned(targets).reshape(outputs.shape[0], -1)
        scored = flat != self.ignored
        return torch.where(scored, flat, 0).long(), scored

    def _scores(self, outputs: Tensor, labels: Tensor, scored: Tensor) -> Tensor:
        """Softmax minus one-hot for labels of shape ``(n, K, predictions)``, laid out as K outputs."""
        p = torch.softmax(self._logits(outputs), -1)
        s = p[:, None].repeat(1, labels.shape[1], 1, 1)
        s.scatter_add_(-1, labels[..., None], -torch.ones_like(s[..., :1]))
        return self._as_outputs(s * scored[:, None, :, None], outputs)

    def _as_outputs(self, scores: Tensor, outputs: Tensor) -> Tensor:
        """Scores of shape ``(n, K, predictions, C)`` in the layout of the outputs."""
        layout = outputs.movedim(self.class_axis, -1).shape[1:]
        axis = self.class_axis if self.class_axis < 0 else self.class_axis + 1
        return scores.reshape(*scores.shape[:2], *layout).movedim(-1, axis)


@final
@dataclass(frozen=True, slots=True)
class Gaussian:
    """A normal distribution of unit variance around the outputs, the likelihood of squared error.

    Outputs have any shape ``(n, ...)`` and targets the same, up to axes of length one. A sample is
    one prediction, however many numbers it has: with ``mse_loss``, which averages over the D numbers
    as well, F is D / 2 times the Gauss-Newton matrix of the loss.
    """

    name: ClassVar[str] = "gaussian"

    def fits(self, outputs: Tensor, targets: Tensor) -> bool:
        """Whether outputs are floats and targets are as many real numbers, sample by sample."""
        if outputs.dim() < 1 or not outputs.is_floating_point() or targets.is_complex() or targets.numel() == 0:
            return False
        return _squeezed(outputs) == _squeezed(targets)

    def predictions(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """One prediction a sample."""
        return torch.ones(outputs.shape[0], dtype=torch.long, device=outputs.device)

    def negative_log(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Half the squared distance."""
        return self.score(outputs, targets).square().reshape(outputs.shape[0], -1).sum(1) / 2

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs minus targets."""
        return outputs - targets.reshape(outputs.shape).to(outputs.dtype)

    def sampled_scores(self, outputs: Tensor, targets: Tensor, draws: int, generator: torch.Generator) -> Tensor:
        """Random signs.

        The score f − y of a drawn label is standard normal whatever f is, and only its covariance,
        the identity, enters F. Signs have that covariance with the least variance of the trace
        (Hutchinson 1990; Avron and Toledo 2011).
        """
        n, *shape = outputs.shape
        bits = torch.randint(0, 2, (draws, n, *shape), generator=generator, device=generator.device)
        return (2 * bits - 1).to(outputs).transpose(0, 1)

    def exact_scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The unit vectors: E_y[s sᵀ] is the identity, so tr F is the squared Frobenius norm of J."""
        n, *shape = outputs.shape
        d = outputs[0].numel()
        return torch.eye(d, dtype=outputs.dtype, device=outputs.device).reshape(1, d, *shape).expand(n, d, *shape)

    def output_curvature(self, outputs: Tensor, targets: Tensor, v: Tensor) -> Tensor:
        """V itself: the negative logarithm is half the squared distance."""
        return v


@final
@dataclass(frozen=True, slots=True)
class Bernoulli:
    """Independent yes-or-no predictions, the likelihood of binary cross-entropy with logits.

    Outputs are logits and targets the probabilities of yes, in [0, 1], of one shape; each number is a prediction.
    """

    name: ClassVar[str] = "bernoulli"

    def fits(self, outputs: Tensor, targets: Tensor) -> bool:
        """Whether both are floats of one shape and the targets could be probabilities."""
        if not (outputs.is_floating_point() and targets.is_floating_point()) or outputs.shape != targets.shape:
            return False
        return targets.numel() > 0 and bool(((targets >= 0) & (targets <= 1)).all())

    def predictions(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The number of outputs of each sample."""
        return torch.full((outputs.shape[0],), outputs[0].numel(), device=outputs.device)

    def negative_log(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy summed over each sample's outputs."""
        return (
            torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="none").flatten(1).sum(1)
        )

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """σ(f) − y."""
        return torch.sigmoid(outputs) - targets

    def sampled_scores(self, outputs: Tensor, targets: Tensor, draws: int, generator: torch.Generator) -> Tensor:
        """Yes where a uniform number is below σ(f), so that a small move of the weights moves few labels."""
        shape = (draws, *outputs.shape)
        u = torch.rand(shape, generator=generator, device=generator.device).to(outputs).transpose(0, 1)
        p = torch.sigmoid(outputs)[:, None]
        return p - (u < p).to(p)

    def exact_scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The vectors √(p (1 − p)) e_k: given the outputs, labels are independent."""
        n, shape = outputs.shape[0], outputs.shape[1:]
        p = torch.sigmoid(outputs).reshape(n, -1)
        return torch.diag_embed((p * (1 - p)).sqrt()).reshape(n, p.shape[1], *shape)

    def output_curvature(self, outputs: Tensor, targets: Tensor, v: Tensor) -> Tensor:
        """P (1 − p) v."""
        p = torch.sigmoid(outputs)
        return p * (1 - p) * v


def part_of(outputs: Any, name: str) -> Tensor | None:
    """A tensor by its name in an object or dict that a model returns; None where there is none."""
    found = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
    return found if isinstance(found, Tensor) else None


def logits_of(outputs: Any) -> Tensor | None:
    """The logits in what a model returns: those of an object or dict, the one tensor of a tuple that is no scalar; None where there are none."""
    found = part_of(outputs, "logits")
    if found is None and isinstance(outputs, tuple | list):
        tensors = [part for part in outputs if isinstance(part, Tensor) and part.dim()]
        return tensors[0] if len(tensors) == 1 else None
    return found


def _squeezed(tensor: Tensor) -> tuple[int, ...]:
    """The shape without the axes of length one, except the first."""
    return (tensor.shape[0], *(d for d in tensor.shape[1:] if d != 1)) if tensor.dim() else ()
