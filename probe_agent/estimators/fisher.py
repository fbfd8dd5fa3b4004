"""The trace of the Fisher information, true and empirical, layer by layer.

True: tr F = E_x E_{y ~ p_w(y|x)} ‖∇_w log p_w(y|x)‖², labels from the *model* (Achille, Rovere, Soatto
2019, sec. 3; Liu, Gurevych 2024, eq. 2). Empirical: the same with the labels of the data, which is not
a Fisher information once the model fits (Kunstner, Balles, Hennig 2019), but is the mean squared
gradient of a sample. Layers are diagonal blocks: their traces add up to the whole.

The unit is one *prediction*. A sample of T predictions (tokens, pixels) has
tr F = E‖∇ Σ_t log p(y_t)‖² / T. Given the outputs, drawn labels are independent and their scores have
mean zero, so cross terms vanish and this is the mean over predictions of tr(J_tᵀ Λ_t J_t): exactly the
trace of the Gauss-Newton matrix of the loss that averages over predictions. Empirically the cross terms
stay, and are part of what is measured. Neither number is divided by the number of parameters.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from probe_agent.errors import NotApplicable
from probe_agent.estimators.draws import Draws, numbers, ratio_draws
from probe_agent.estimators.per_sample import Route, squared_norms
from probe_agent.likelihood import Likelihood
from probe_agent.snapshot import Snapshot

Labels = Literal["exact", "sampled"]

EXACT_OUTPUTS = 16
"""Up to this many outputs a sample the expectation over labels is summed; it takes a backward pass for each."""

EXACT_BYTES = 256 * 2**20
"""And up to this much for one sample's gradients by all of its outputs."""

SCORES_BYTES = 2**30
"""What the scores of all labels of all samples may take where "exact" is asked for."""


@dataclass(frozen=True, slots=True)
class FisherDraws:
    """The independent parts of both traces, by layer: float64 of shape ``(n,)``, whose mean is the trace.

    ``true`` is None where it is not defined, and ``undefined`` then says why. ``labels`` is how the
    expectation over labels was taken, ``route`` how the gradients were and ``why`` by no cheaper one, and
    ``score`` whose gradient the empirical trace is made of: the "likelihood"'s, or the "loss"'s where none is known.
    """

    true: dict[str, Draws] | None
    empirical: dict[str, Draws]
    labels: Labels
    route: Route
    why: str
    score: Literal["likelihood", "loss"]
    undefined: str = ""


def fisher_of(snapshot: Snapshot) -> "FisherDraws":
    """Both traces at the default settings, computed once a snapshot: the Gauss-Newton trace for whoever needs it."""
    return snapshot.once("fisher draws", lambda: fisher_draws(snapshot))


def fisher_draws(
    snapshot: Snapshot, *, labels: Labels | None = None, draws: int = 1, route: Route | None = None
) -> FisherDraws:
    """Both traces on the probe set, from one backward pass for every output (exact) or draw (sampled) and one for the data.

    Sampled labels are drawn by inverse CDF from uniforms that are the same at every snapshot (common
    random numbers), so that a curve does not carry the noise of its labels.

    Args:
        snapshot: the model.
        labels: "exact" sums the expectation over labels, "sampled" draws them; by default exact
            where a sample has at most `EXACT_OUTPUTS` outputs and its gradients fit `EXACT_BYTES`.
        draws: label draws a sample, when sampled.
        route: see `squared_norms`.

    Raises:
        NotApplicable: there is nothing to differentiate by, or no way to certified per-sample gradients.
    """
    if not snapshot.params:
        raise NotApplicable(
            "Got a model whose parameters are all frozen; the Fisher information is defined by the trainable ones."
        )
    whole, snapshot = snapshot, snapshot.of_logits()
    outputs = _outputs(snapshot)
    targets = snapshot.probe_set.targets
    likelihood, undefined = _usable(snapshot.likelihood, outputs, targets)
    labels = labels or ("exact" if _exact_is_affordable(snapshot, outputs) else "sampled")
    if labels == "exact" and outputs.numel() * outputs[0].numel() * outputs.element_size() > SCORES_BYTES:
        likelihood, undefined = (
            None,
            (
                f"The sum over the labels of {outputs[0].numel()} outputs a sample does not fit in memory; "
                'use labels="sampled" or "auto".'
            ),
        )
    if likelihood is None:
        if snapshot is not whole:  # whose loss is no function of the logits
            raise NotApplicable(undefined)
        norms = squared_norms(snapshot, _loss_cotangents(snapshot, outputs)[:, None], route=route)
        empirical = by_layer({name: s[:, 0] for name, s in norms.by_parameter.items()})
        return FisherDraws(None, empirical, labels, norms.route, norms.why, "loss", undefined)

    observed = likelihood.score(outputs, targets)[:, None]
    if labels == "exact":
        drawn, weight = likelihood.exact_scores(outputs, targets), 1.0
    else:
        generator = snapshot.generator("fisher labels")
        drawn, weight = likelihood.sampled_scores(outputs, targets, draws, generator), 1.0 / draws
    norms = squared_norms(snapshot, torch.cat([observed, drawn], 1), route=route)
    counts = numbers(likelihood.predictions(outputs, targets))
    true = by_layer({name: weight * s[:, 1:].sum(1) for name, s in norms.by_parameter.items()})
    empirical = by_layer({name: s[:, 0] for name, s in norms.by_parameter.items()})
    return FisherDraws(
        {layer: ratio_draws(amounts, counts) for layer, amounts in true.items()},
        {layer: ratio_draws(amounts, counts) for layer, amounts in empirical.items()},
        labels,
        norms.route,
        norms.why,
        "likelihood",
    )


def by_layer(parameters: dict[str, Draws]) -> dict[str, Draws]:
    """Sums over the parameters each layer owns, in the order of the model."""
    layers: dict[str, Draws] = {}
    for name, amounts in parameters.items():
        layer = layer_of(name)
        layers[layer] = layers[layer] + amounts if layer in layers else amounts
    return layers


def layer_of(parameter: str) -> str:
    """The path of the module that owns a parameter, such as "features.0"; the parameter's own name at the root."""
    before, parametrised, after = parameter.partition("parametrizations.")
    plain = before + after.rpartition(".")[0] if parametrised else parameter
    return plain.rpartition(".")[0] or plain


def _outputs(snapshot: Snapshot) -> Tensor:
    outputs = snapshot.predictions()
    if not isinstance(outputs, Tensor):
        raise NotApplicable(
            f"Got a model that returns {type(outputs).__name__}; need one tensor with the samples along its first axis. "
            "Wrap the model so that it returns its logits."
        )
    n = snapshot.probe_set.n
    if outputs.dim() == 0 or outputs.shape[0] != n:
        raise NotApplicable(
            f"Got outputs of shape {tuple(outputs.shape)} for {n} samples; need the samples along the first axis."
        )
    return outputs


def _usable(likelihood: Likelihood | None, outputs: Tensor, targets: Tensor) -> tuple[Likelihood | None, str]:
    """The likelihood if it is known and speaks of these tensors, else None and the reason."""
    if likelihood is None:
        return None, (
            "The loss is not a known likelihood (cross-entropy or squared error), so labels cannot be drawn "
            'from the model. attach(likelihood="categorical") names one.'
        )
    if not likelihood.fits(outputs, targets):
        return None, (
            f"A {likelihood.name} likelihood does not fit outputs {tuple(outputs.shape)} "
            f"with {targets.dtype} targets {tuple(targets.shape)}."
        )
    if not likelihood.predictions(outputs, targets).sum():
        return None, "Every target of the probe batch is marked as ignored, so the model predicts nothing there."
    return likelihood, ""


def _exact_is_affordable(snapshot: Snapshot, outputs: Tensor) -> bool:
    # All parameters and not the trainable ones, so that unfreezing does not change the estimator.
    size = sum(p.numel() * p.element_size() for p in snapshot.model.parameters())
    count = outputs[0].numel()
    return count <= EXACT_OUTPUTS and count * size <= EXACT_BYTES


def _loss_cotangents(snapshot: Snapshot, outputs: Tensor) -> Tensor:
    """The vectors n ∂loss/∂f_i: each sample's contribution to the gradient, scaled so that the mean of all is the gradient."""
    leaf = outputs.detach().requires_grad_()
    with torch.enable_grad():
        loss = snapshot.loss_fn(leaf, snapshot.probe_set.targets)
    (slope,) = torch.autograd.grad(loss, leaf)
    return slope * outputs.shape[0]
