"""Per-sample squared gradient norms, parameter by parameter: ‖J_iᵀ c_ik‖² for given cotangents at the outputs.

Three routes give the same numbers. *Factored* needs no gradient in memory but knows few modules;
*vmap* runs ``vmap(vjp)`` in chunks, on what is a pure function of one sample; the *loop* is plain
backpropagation, one sample at a time, and the word of reference. Each result is certified against the
batch's own gradient before it is believed. All are first derivatives, by the routes of ``torch.func``
that are sound (``vjp`` alone, never forward over it).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from probe_agent.errors import Indivisible, NotApplicable
from probe_agent.estimators.certificate import Uncertified, certify, certify_outputs, widened
from probe_agent.estimators.draws import Draws, numbers
from probe_agent.estimators.factored import factored
from probe_agent.estimators.graph_memory import BLOCK_BYTES, GRADIENT_BYTES, bytes_of_a_sample
from probe_agent.estimators.mapping import mappable
from probe_agent.probe_set import Inputs, each, rows
from probe_agent.snapshot import Snapshot

Route = Literal["factored", "vmap", "loop"]
Findings = tuple[dict[str, Tensor], dict[str, Tensor], Tensor]
"""By parameter name ‖J_iᵀ c_ik‖² of shape ``(m, K)``, and Σ_i r_i J_iᵀ c_i0 of the parameter's shape; and the outputs."""

CERTIFIED = 3
"""Samples of a block whose gradients are compared with plain backpropagation; others at every step of the run."""

CPU_GRADIENTS = 32
"""As many gradients at once as a CPU gains from: measured on a small conv net and a small GPT, flat from 24 to 96."""


@dataclass(frozen=True, slots=True)
class SquaredNorms:
    """‖J_iᵀ c_ik‖² by parameter name, each of shape ``(n, K)``, the route that gave them, and why no cheaper one did."""

    by_parameter: dict[str, Draws]
    route: Route
    why: str = ""


def squared_norms(snapshot: Snapshot, cotangents: Tensor, *, route: Route | None = None) -> SquaredNorms:
    """The squared norms of the gradients of c_ik · f(x_i) by each trainable parameter, for every probe sample i.

    A parameter the outputs do not depend on contributes zero.

    Args:
        snapshot: the model, whose outputs have the samples along their first axis.
        cotangents: the vectors c_ik, shape ``(n, K, *outputs.shape[1:])``.
        route: the one to take; by default the first that is certified for this model.

    Raises:
        NotApplicable: no route is certified, since the model mixes samples or does not repeat itself.
    """
    routes: tuple[Route, ...] = ("factored", "vmap", "loop") if route is None else (route,)
    why = ""
    for tried in routes:
        try:
            with torch.enable_grad():
                return SquaredNorms(_by_blocks(snapshot, cotangents, ROUTES[tried]), tried, why)
        except Uncertified as verdict:
            last = str(verdict)
        except (
            Exception
        ) as error:  # a model may refuse a route in any way; the last route's own error is the one to report
            if tried == routes[-1]:
                raise
            last = type(error.__cause__ if isinstance(error, Indivisible) else error).__name__
        why = why or f"not {tried}: {last}"
    raise NotApplicable(
        f"Got a model whose per-sample gradients cannot be trusted: {last}. Need outputs that depend on their own sample "
        "alone and repeat when evaluated again; batch statistics or random numbers in evaluation mode break that."
    )


def _by_blocks(
    snapshot: Snapshot, cotangents: Tensor, run: Callable[[Snapshot, Inputs, Tensor, Tensor], Findings]
) -> dict[str, Draws]:
    """Run a route over the probe set, certifying each block."""
    n = snapshot.probe_set.n
    generator = snapshot.generator(f"certificate {snapshot.step}")
    # The first cotangent is the one that is certified: it must not be the one that vanishes.
    largest = int(cotangents.detach().transpose(0, 1).flatten(1).norm(dim=1).argmax())
    cotangents = cotangents.roll(-largest, 1)
    # Two at least: a sample alone cannot be seen to mix with others.
    size = max(2, BLOCK_BYTES // bytes_of_a_sample(snapshot))
    found: dict[str, list[Draws]] = {name: [] for name in snapshot.params}
    for start in range(0, n, size):
        block = slice(start, start + size)
        inputs, scores = rows(snapshot.probe_set.inputs, block), cotangents[block]
        signs, chosen = _signs(len(scores), generator)
        squares, added, outputs = run(snapshot, inputs, scores, signs.to(scores))
        if run is not factored:  # which has run the block as it is
            certify_outputs(outputs, snapshot.predictions()[block])
        few = _plainly(snapshot, rows(inputs, chosen), scores[chosen, 0], signs[chosen].to(scores))
        certify_outputs(outputs[chosen], few.outputs)
        certify({name: s[chosen, 0] for name, s in squares.items()}, added, few.squares, few.added)
        for name, square in squares.items():
            found[name].append(np.roll(numbers(square), largest, 1))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _signs(m: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A random sign for the samples that are certified and zero for the others, and the places of the former."""
    device = generator.device
    chosen = torch.randperm(m, generator=generator, device=device)[:CERTIFIED]
    signs = torch.zeros(m, dtype=torch.int64, device=device)
    signs[chosen] = 2 * torch.randint(0, 2, (len(chosen),), generator=generator, device=device) - 1
    return signs, chosen


@dataclass(frozen=True, slots=True)
class _Plain:
    """‖J_iᵀ c_i‖², Σ_i r_i J_iᵀ c_i and the outputs of a few samples, as nothing but autograd gives them."""

    squares: dict[str, Tensor]
    added: dict[str, Tensor]
    outputs: Tensor


def _plainly(snapshot: Snapshot, inputs: Inputs, cotangents: Tensor, signs: Tensor) -> "_Plain":
    """By plain backpropagation through these samples, one after the other."""
    outputs = snapshot.outputs(inputs=inputs)
    added = {name: torch.zeros_like(p) for name, p in snapshot.params.items()}
    lengths: dict[str, list[Tensor]] = {name: [] for name in added}
    for i, sign in enumerate(signs):
        only = torch.zeros_like(cotangents)
        only[i] = cotangents[i]
        for name, g in _gradient(snapshot, outputs, only, keep=i + 1 < len(signs)).items():
            added[name] += sign * g
            lengths[name].append(_squares(g[None])[0])
    return _Plain({name: torch.stack(found) for name, found in lengths.items()}, added, outputs.detach())


def _gradient(snapshot: Snapshot, outputs: Tensor, cotangent: Tensor, *, keep: bool) -> dict[str, Tensor]:
    params = list(snapshot.params.values())
    if not outputs.requires_grad:
        return {name: torch.zeros_like(p) for name, p in snapshot.params.items()}
    gradients = torch.autograd.grad(
        outputs, params, cotangent, retain_graph=keep, allow_unused=True, materialize_grads=True
    )
    return dict(zip(snapshot.params, gradients, strict=True))


def vmapped(snapshot: Snapshot, inputs: Inputs, cotangents: Tensor, signs: Tensor) -> Findings:
    """The route by ``torch.func.vmap`` over samples of ``vmap`` over cotangents of one ``vjp``."""
    params = {name: p.detach() for name, p in snapshot.params.items()}
    m, count = cotangents.shape[:2]
    at_once = max(1, GRADIENT_BYTES // sum(p.numel() * p.element_size() for p in params.values()))
    if cotangents.device.type == "cpu":
        at_once = min(at_once, CPU_GRADIENTS)

    def one(inputs: Inputs, cotangents: Tensor) -> Findings:
        alone = each(inputs, lambda x: x[None])

        def outputs(params: dict[str, Tensor]) -> Tensor:
            found: Tensor = snapshot.outputs(params, alone).reshape(cotangents.shape[1:])
            return found

        seen, pull_back = torch.func.vjp(outputs, params)[:2]
        (gradients,) = torch.func.vmap(pull_back, chunk_size=at_once if at_once < count else None)(cotangents)
        squares = {name: _squares(g) for name, g in gradients.items()}
        return squares, {name: g[0] for name, g in gradients.items()}, seen

    squares: dict[str, list[Tensor]] = {name: [] for name in params}
    added = {name: torch.zeros_like(p) for name, p in params.items()}
    outputs_seen: list[Tensor] = []
    chunk = max(1, at_once // count)
    for start in range(0, m, chunk):
        part = slice(start, start + chunk)
        with mappable():
            found, first, seen = torch.func.vmap(one)(rows(inputs, part), cotangents[part])
        outputs_seen.append(seen)
        for name in params:
            squares[name].append(found[name])
            added[name] += torch.tensordot(signs[part], first[name], dims=1)
    return {name: torch.cat(parts) for name, parts in squares.items()}, added, torch.cat(outputs_seen)


def looped(snapshot: Snapshot, inputs: Inputs, cotangents: Tensor, signs: Tensor) -> Findings:
    """The route by plain backpropagation, one sample and one cotangent at a time."""
    m, count = cotangents.shape[:2]
    squares = {name: p.new_zeros(m, count, dtype=widened(p.dtype)) for name, p in snapshot.params.items()}
    added = {name: torch.zeros_like(p) for name, p in snapshot.params.items()}
    seen: list[Tensor] = []
    for i in range(m):
        try:
            outputs = snapshot.outputs(inputs=rows(inputs, slice(i, i + 1))).reshape(cotangents.shape[2:])
        except Exception as error:
            own = error.__cause__ if isinstance(error, Indivisible) and error.__cause__ else error
            raise Uncertified(f"one sample alone raises {type(own).__name__}: {own}") from error
        seen.append(outputs.detach())
        for k in range(count):
            for name, g in _gradient(snapshot, outputs, cotangents[i, k], keep=k + 1 < count).items():
                squares[name][i, k] = _squares(g[None])[0]
                if k == 0:
                    added[name] += signs[i] * g
    return squares, added, torch.stack(seen)


ROUTES: dict[Route, Callable[[Snapshot, Inputs, Tensor, Tensor], Findings]] = {
    "factored": factored,
    "vmap": vmapped,
    "loop": looped,
}


def _squares(gradients: Tensor) -> Tensor:
    """Squared norms along the first axis, accumulated in at least single precision."""
    flat = gradients.reshape(gradients.shape[0], -1)
    norms: Tensor = torch.linalg.vector_norm(flat, dim=1, dtype=widened(flat.dtype))
    return norms.square()
