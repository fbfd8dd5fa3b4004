"""HessianProduct: v ↦ H v, the Hessian of the mean probe loss applied to a vector, without the Hessian.

By double backward over one retained graph (Pearlmutter, 1994, "Fast exact multiplication by the
Hessian"): the gradient g(w) is built once with its own graph; each product is then one backward
pass of ⟨g(w), v⟩. Of the second-derivative routes of PyTorch it is the one that is right for every
layer: `torch.func.hessian`, `jvp(jacrev)` and `grad(jvp)` are silently wrong for LayerNorm and for
BatchNorm in training mode. Where it cannot be had, by `CentralDifferences` of gradients.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import final

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd.graph import Node

from probe_agent.errors import Indivisible, NotApplicable
from probe_agent.estimators.central_differences import CentralDifferences, best_step
from probe_agent.estimators.repetition import REFUSED, repeats
from probe_agent.estimators.written_out import WrittenOut
from probe_agent.probe_set import ProbeSet
from probe_agent.snapshot import Snapshot

DOUBLE_BACKWARD, DIFFERENCES = "double backward", "finite differences of gradients"
"""The routes to a product."""

ROUTE = "route of hessian products"
"""What a snapshot remembers the chosen one as."""

# The words in which PyTorch refuses a second derivative. Anything else that a backward pass raises
# (out of memory, a shape error in the model) is a failure, not a property of the model.
_REFUSALS = (
    "derivative for",
    "double backward",
    "Double backward",
    "not compatible with .grad()",
    "can only be called in training mode",
)


@final
class Flat:
    """The trainable parameters laid end to end: vectors of shape ``(P,)`` and their pieces, in the order of ``snapshot.params``.

    Raises:
        NotApplicable: nothing is trainable, or a parameter is complex.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.params = list(snapshot.params.values())
        if not self.params:
            raise NotApplicable("The model has no trainable parameter, so its loss has no Hessian. Unfreeze a layer.")
        if any(p.is_complex() for p in self.params):
            raise NotApplicable("The model has complex parameters; the Hessian is measured for real ones only.")
        self._slices = _slices(self.params)
        self.dimension = self._slices[-1].stop
        self.device = self.params[0].device
        self.dtype = torch.float32  # at least: a Krylov space in half precision is noise
        for p in self.params:
            self.dtype = torch.promote_types(self.dtype, p.dtype)

    def pieces(self, v: Tensor) -> list[Tensor]:
        """The vector cut into the shapes and types of the parameters."""
        return [v[s].view_as(p).to(p) for p, s in zip(self.params, self._slices, strict=True)]

    def joined(self, pieces: Sequence[Tensor | None]) -> Tensor:
        """The pieces end to end, zero where one is None."""
        flat = torch.zeros(self.dimension, dtype=self.dtype, device=self.device)
        for piece, s in zip(pieces, self._slices, strict=True):
            if piece is not None:
                flat[s] = piece.reshape(-1)
        return flat


@final
class HessianProduct:
    """H v for H = ∂²L/∂w², L the mean loss over a probe set, w the snapshot's parameters as `Flat`.

    Where an operation cannot be differentiated twice, or `probe_agent.estimators.second_order` found that what it gives is
    not the derivative of the gradient, products are finite differences of gradients: ``route`` says which, and
    ``error`` how far the last product may be off, as the length of a vector; 0 by double backward, where rounding is all.

    A parameter the loss does not use has zeros in its rows and columns. The graph is held until the
    object is dropped, and dies if a parameter is changed in place.

    Raises:
        NotApplicable: nothing is trainable, or a parameter is complex.
        Indivisible: the probe set is a part of the snapshot's, and the loss cannot be computed on it.
    """

    def __init__(self, snapshot: Snapshot, probe_set: ProbeSet | None = None, *, route: str = "") -> None:
        self._part = snapshot.probe_set if probe_set is None else probe_set
        self._snapshot = snapshot
        self._flat = Flat(snapshot)
        self._twice = twice_differentiable(snapshot)
        self._differences: CentralDifferences | None = None
        self.dimension = self._flat.dimension
        self.device = self._flat.device
        self.dtype = self._flat.dtype
        if (route or route_of(snapshot)) == DIFFERENCES:
            self._differences = self._by_differences()
            return
        with self._twice():
            loss = snapshot.loss_of(self._part)
            try:
                grads = graphed_gradient(loss, self._flat.params)
            except NotApplicable:
                self._differences = self._by_differences()
                return
        self._graph = loss
        # A gradient without a graph of its own is constant in w: its rows of H are zero.
        self._moving = [(i, g) for i, g in enumerate(grads) if g is not None and g.requires_grad]

    @property
    def route(self) -> str:
        """How products are made."""
        return DOUBLE_BACKWARD if self._differences is None else DIFFERENCES

    @property
    def strangers(self) -> list[str]:
        """Names of the operations in the graph of the loss that are not PyTorch's own."""
        found = {node._forward_cls.__name__ for node in _nodes([self._graph]) if hasattr(node, "_forward_cls")}  # noqa: SLF001 - no public name leads to it
        return sorted(found | {node.name() for node in _nodes([self._graph]) if "CppNode" in node.name()})

    @property
    def error(self) -> float:
        """How far the last product may be off, beside rounding."""
        return 0.0 if self._differences is None else self._differences.error

    def __call__(self, v: Tensor) -> Tensor:
        """H v, shape ``(P,)``, for v of shape ``(P,)``. One backward pass, of 1.9 to 2.4 training steps, or four gradients."""
        self._snapshot.deadline.check()
        if self._differences is None:
            try:
                return self._exact(v)
            except NotApplicable:
                self._differences = self._by_differences()
                self._moving = []
        return self._differences(v)

    def _exact(self, v: Tensor) -> Tensor:
        if not self._moving:
            return torch.zeros_like(v)
        pieces = self._flat.pieces(v)
        with self._twice(), refusals_named(self._graph):
            products = torch.autograd.grad(
                [g for _, g in self._moving],
                self._flat.params,
                grad_outputs=[pieces[i] for i, _ in self._moving],
                retain_graph=True,
                allow_unused=True,
            )
        return self._flat.joined(products)

    def curvature(self, v: Tensor) -> float:
        """The second derivative vᵀH v of the loss along v, shape ``(P,)``; an eigenvalue where v is a unit eigenvector."""
        return float(torch.dot(v, self(v)))

    def _by_differences(self) -> CentralDifferences:
        try:
            return differences_of(self._snapshot, self._flat, self._gradient, "gradients")
        except NotApplicable as error:
            if self._part.n == self._snapshot.probe_set.n or isinstance(error, Indivisible):
                raise
            raise Indivisible(str(error)) from error  # of the whole probe set the same is drawn each time

    def _gradient(self, w: Tensor) -> Tensor:
        """∂L/∂w elsewhere than at the snapshot's parameters, shape ``(P,)``."""
        pieces = [piece.detach().requires_grad_() for piece in self._flat.pieces(w)]
        params = dict(zip(self._snapshot.params, pieces, strict=True))
        loss = self._snapshot.loss_of(self._part, params)
        return self._flat.joined(torch.autograd.grad(loss, pieces, allow_unused=True))


def differences_of(snapshot: Snapshot, flat: Flat, field: Callable[[Tensor], Tensor], what: str) -> CentralDifferences:
    """Differences of a field over the parameters at the snapshot's, with one step for all fields that are called the same.

    Raises:
        NotApplicable: the field is no function of the parameters alone.
    """
    here = flat.joined([p.detach() for p in flat.params])
    if not repeats(field(here), field(here)):
        raise NotApplicable(f"Got {what} that are others when they are evaluated again at the same weights: {REFUSED}")

    def chosen() -> float:
        generator = snapshot.generator(f"step of differences of {what}")
        random = torch.randn(3, flat.dimension, generator=generator, device=generator.device).to(here)
        epsilon = max(torch.finfo(p.dtype).eps for p in flat.params)
        return best_step(field, here, list(F.normalize(random, dim=1)), epsilon)

    return CentralDifferences(field, here, snapshot.once(f"step of differences of {what}", chosen))


def route_of(snapshot: Snapshot) -> str:
    """The way products of this snapshot are made, if an operation does not force another: by double backward where nobody said otherwise."""
    return snapshot.once(ROUTE, lambda: DOUBLE_BACKWARD)


def twice_differentiable(snapshot: Snapshot) -> Callable[[], AbstractContextManager[None]]:
    """Kernels that can be differentiated twice: fused attention cannot, nor can cuDNN's recurrent layers.

    To be held in the backward pass too, where activation checkpointing runs the forward pass again.
    """
    recurrent = any(isinstance(module, nn.RNNBase) for module in snapshot.model.modules())
    on_gpu = any(p.is_cuda for p in snapshot.params.values())

    @contextmanager
    def kernels() -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(WrittenOut())
            if recurrent and on_gpu:
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            yield

    return kernels


def graphed_gradient(
    outputs: Tensor, inputs: Sequence[Tensor], grad_outputs: Tensor | None = None
) -> tuple[Tensor | None, ...]:
    """The gradient with a graph of its own, None where an input is not used.

    Raises:
        NotApplicable: an operation has no second derivative.
    """
    with refusals_named(outputs):
        grads: tuple[Tensor | None, ...] = torch.autograd.grad(
            outputs, inputs, grad_outputs, create_graph=True, allow_unused=True
        )
    # A function marked as differentiable once leaves a dead end in the graph of the gradient. A product
    # would pass by it without a word, and be wrong.
    if any(node.name() == "torch::autograd::Error" for node in _nodes(g for g in grads if g is not None)):
        raise NotApplicable(_refusal(_once_differentiable(outputs)))
    return grads


def hessian_of(snapshot: Snapshot) -> HessianProduct:
    """The Hessian of the loss on the whole probe set: one graph for all probes of a snapshot, built by the first that asks."""
    return snapshot.once("hessian product", lambda: HessianProduct(snapshot))


def _slices(params: list[Tensor]) -> list[slice]:
    slices, start = [], 0
    for p in params:
        slices.append(slice(start, start + p.numel()))
        start += p.numel()
    return slices


@contextmanager
def refusals_named(loss: Tensor) -> Iterator[None]:
    """Turn PyTorch's refusal of a second derivative into NotApplicable that names the operation; ``loss`` leads to the graph."""
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        words = str(error)
        if not any(refusal in words for refusal in _REFUSALS):
            raise
        raise NotApplicable(_refusal(_operation(words, loss))) from error


def _refusal(operation: str) -> str:
    return (
        f"The Hessian needs a second derivative that {operation} does not have. Use an implementation made of "
        "differentiable operations (for attention, torch.nn.functional.scaled_dot_product_attention), or watch a "
        "quantity of first derivatives."
    )


def _operation(words: str, loss: Tensor) -> str:
    """The operation PyTorch's refusal is about, by its name in the message, else in the graph."""
    named = re.search(r"derivative for '?([\w:]+)", words)
    if named:
        return named[1]
    if "cudnn" in words.lower():
        return "a cuDNN recurrent layer"
    if "heckpointing" in words:
        return "reentrant activation checkpointing (use_reentrant=True)"
    if "torch.compile" in words or "aot_autograd" in words:
        return "a module compiled with torch.compile"
    return _once_differentiable(loss)


def _once_differentiable(loss: Tensor) -> str:
    """Names of the `torch.autograd.Function`s in the graph of the loss that are marked as differentiable once."""
    custom = [node._forward_cls for node in _nodes([loss]) if hasattr(node, "_forward_cls")]  # noqa: SLF001 - no public name leads to it
    marked = [function for function in custom if hasattr(function.backward, "__wrapped__")] or custom
    return " or ".join(sorted({function.__name__ for function in marked})) or "an operation in the model"


def _nodes(tensors: Iterable[Tensor]) -> Iterator[Node]:
    """The nodes of the autograd graph behind the tensors, each once."""
    ahead = [t.grad_fn for t in tensors if t.grad_fn is not None]
    seen: set[Node] = set()
    while ahead:
        node = ahead.pop()
        if node not in seen:
            seen.add(node)
            yield node
            ahead.extend(parent for parent, _ in node.next_functions if parent is not None)
