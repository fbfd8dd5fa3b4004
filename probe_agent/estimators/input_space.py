"""Input space: the points a network's inputs are, and how it is run where they are moved to.

Real-valued inputs are points themselves. Tokens have no neighbours; what the first embedding makes of
them has (Humayun et al. 2024 look around the points of a transformer there).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from probe_agent.errors import NotApplicable
from probe_agent.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class InputSpace:
    """``points`` of shape ``(n, ...)``, and ``evaluate(moved, which)``: the outputs at as many moved points a point."""

    points: Tensor
    evaluate: Callable[[Tensor, slice], Any]
    name: str


def input_space(snapshot: Snapshot, most: int) -> InputSpace:
    """The space of the first ``most`` inputs of the snapshot's probe set.

    Raises:
        NotApplicable: the inputs are several tensors, or integers that no embedding takes in.
    """
    inputs = snapshot.probe_set.inputs
    if not isinstance(inputs, Tensor):
        raise NotApplicable(
            f"Got probe inputs that are a {type(inputs).__name__} of tensors; local complexity moves one tensor about. "
            "Wrap the model so that it takes one floating-point tensor."
        )
    inputs = inputs[:most]
    if inputs.is_floating_point():
        return InputSpace(inputs, lambda moved, _: snapshot.outputs(inputs=moved), "inputs")
    embedding = _embedding_of(snapshot, inputs[:1])
    with torch.no_grad():
        points = embedding(inputs)

    def evaluate(moved: Tensor, which: slice) -> Any:
        tokens = inputs[which]
        each = len(moved) // len(tokens)
        return _in_place_of(snapshot, embedding, tokens.repeat_interleave(each, 0), moved)

    return InputSpace(points, evaluate, "embedding")


def _embedding_of(snapshot: Snapshot, tokens: Tensor) -> nn.Embedding:
    """The embedding that takes in the tokens as they are."""
    found: list[nn.Embedding] = []

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        takes_them = isinstance(args[0], Tensor) and args[0].shape == tokens.shape and torch.equal(args[0], tokens)
        if isinstance(module, nn.Embedding) and takes_them:
            found.append(module)

    handles = [m.register_forward_pre_hook(note) for m in snapshot.model.modules() if isinstance(m, nn.Embedding)]
    try:
        with torch.no_grad():
            snapshot.outputs(inputs=tokens)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise NotApplicable(
            f"Got probe inputs of type {tokens.dtype} that no nn.Embedding takes in; local complexity needs real numbers, "
            "which have neighbours. Attach the model behind what makes numbers of them."
        )
    return found[0]


def _in_place_of(snapshot: Snapshot, embedding: nn.Embedding, tokens: Tensor, moved: Tensor) -> Any:
    """The outputs when the embedding gives ``moved`` for these tokens."""

    def replace(_: nn.Module, __: Any, given: Tensor) -> Tensor:
        return moved if given.shape == moved.shape else given

    handle = embedding.register_forward_hook(replace)
    try:
        return snapshot.outputs(inputs=tokens)
    finally:
        handle.remove()
