"""Gradient subspace, reconstruction and the three signals of an early intervention, beside the published ways."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from against import peers
from against.curvature import RADIUS, first, of, rise
from against.timing import Arm, Comparison, Result, Value, compare, relative
from against.workloads import Frozen, Workload, digits
from probe_agent.estimators.draws import mean_of
from probe_agent.estimators.features import features_of
from probe_agent.estimators.perturbation import average_rise, loss_at, loss_here
from probe_agent.estimators.ranks import spectrum
from probe_agent.estimators.reconstruction import reconstruction_draws
from probe_agent.estimators.subspace import overlap, top_eigenvectors
from probe_agent.estimators.trained_decoder import trained_decoder
from probe_agent.presets import liu_gurevych
from probe_agent.probes.fisher_trace import FisherTrace
from probe_agent.probes.gradient_subspace import GradientSubspace
from probe_agent.probes.reconstruction import Reconstruction

CHECKPOINTS = (0, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def on_images(workload: Workload, step: int) -> Iterator[Comparison]:
    """What is measured on the convolutional network."""
    yield subspace(workload, step, 256)
    yield reconstruction(workload, step)


def on_digits() -> Iterator[Comparison]:
    """What is measured on small networks."""
    workload = digits(64, 48, 48, 10).train({200, 800})
    for step in workload.states:
        yield subspace(workload, step, 512)
    yield signals(digits(64, 100, 100, 10, rate=0.05).train(set(CHECKPOINTS)))


def subspace(workload: Workload, step: int, n: int) -> Comparison:
    """The ten directions that gradients lie in, from the classes' gradients and from the Hessian."""
    at = workload.at(step, n)
    small = sum(p.numel() for p in workload.model.parameters()) < 10_000
    dtype, products = (torch.float64, 200) if small else (torch.float32, 60)
    truth = top_eigenvectors(workload.at(step, n, dtype).snapshot(), 10, products)
    arms = [_subspace_arm("ours, route classes", GradientSubspace(), at, truth)]
    arms += [
        Arm(
            "Lanczos, 60 products",
            lambda: float(len(top_eigenvectors(at.snapshot(), 10, 60))),
            note="the ten eigenvectors",
        )
    ]
    truth_is = (
        f"the top 10 of {products} products; error: what the span lacks of them; value: share of the gradient inside"
    )
    where = f"{workload.name}, step {step}, B={n}"
    return compare("gradient subspace", where, truth_is, arms, workload.step(slice(n)))


def _subspace_arm(name: str, probe: GradientSubspace, at: Frozen, truth: Tensor) -> Arm:
    memory: dict[str, Any] = {}

    def run() -> Value:
        memory.clear()
        return next(iter(list(probe.measure(at.snapshot(), memory)))).estimate.value

    return Arm(name, run, lambda _: max(0.0, 1 - overlap(memory["bases"][0].double(), truth.double())))


def reconstruction(workload: Workload, step: int) -> Comparison:
    """How much of the image a linear decoder recovers from the last hidden layer."""
    at, n = workload.at(step, 3072), 1024
    few = first(at, n)

    def features(of_these: Tensor) -> Tensor:
        seen: list[Tensor] = []
        hook = at.model.get_submodule("head").register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        with torch.no_grad():
            for part in of_these.split(256):
                at.model(part)
        hook.remove()
        return torch.cat(seen)

    def published(epochs: int) -> Value:
        h, x = features(at.x), at.x.flatten(1)
        return trained_decoder(h[n:], x[n:], (h[:n], x[:n]), torch.Generator().manual_seed(0), epochs=epochs)

    h, x = features(at.x).double(), at.x.flatten(1).double()
    held_out, left_out = _best_ridge(h[n:], x[n:], h[:n], x[:n]), _best_leave_one_out(h[:n], x[:n])
    probe = Reconstruction(samples=n)
    memory: dict[str, Any] = {}

    def estimated() -> Value:
        of_features = spectrum(features_of(features(few.x)), centred=True)
        return mean_of(reconstruction_draws(of_features, memory["inputs"])).value

    arms = [
        Arm("ours, this layer", estimated, relative(left_out), f"leave-one-out, {n} images"),
        Arm("ours, all layers, first snapshot", lambda: of(probe, few), relative(left_out), "with standard errors"),
        Arm("ours, all layers, later", lambda: of(probe, few, memory), relative(left_out), "with standard errors"),
        Arm("Adam, 20 epochs", lambda: published(20), relative(held_out), f"2048 images, judged on {n} others"),
        Arm("published: Adam, 7800 steps", lambda: published(488), relative(held_out), "on the same 2048 images"),
    ]
    of(probe, few, memory)
    truth_is = "the best ridge decoder, of all pixels, in float64, on the same split"
    where = f"{workload.name}, step {step}, 128 features to 3072 pixels"
    return compare("reconstruction", where, truth_is, arms, workload.step(slice(64)))


def _best_ridge(h: Tensor, x: Tensor, held_h: Tensor, held_x: Tensor) -> float:
    mean, center = h.mean(0), x.mean(0)
    h, x, held_h = h - mean, x - center, held_h - mean
    values, vectors = torch.linalg.eigh(h.mT @ h)
    inner = vectors.mT @ (h.mT @ x)
    whole = (held_x - held_x.mean(0)).square().sum()
    errors = [
        (held_x - center - held_h @ vectors @ (inner / (values + penalty)[:, None])).square().sum() / whole
        for penalty in _penalties(values)
    ]
    return float(min(errors))


def _best_leave_one_out(h: Tensor, x: Tensor) -> float:
    h, x = h - h.mean(0), x - x.mean(0)
    u, s, _ = torch.linalg.svd(h, full_matrices=False)
    inner, n = u.mT @ x, len(x)
    whole = x.square().sum() * (n / (n - 1)) ** 2
    errors = []
    for penalty in _penalties(s**2):
        shrunk = s**2 / (s**2 + penalty)
        leverage = (u.square() * shrunk).sum(1) + 1 / n
        errors.append(((x - u @ (shrunk[:, None] * inner)) / (1 - leverage)[:, None]).square().sum() / whole)
    return float(min(errors))


def _penalties(values: Tensor) -> list[float]:
    return (float(values.mean()) * torch.logspace(-7, 2, 55)).tolist()


def signals(workload: Workload) -> Comparison:
    """Fisher trace, worst-case and average-case sharpness over training (Liu and Gurevych 2024), theirs and cheaper."""
    signal: dict[str, list[tuple[str, Callable[[Frozen], Value]]]] = {
        "tr F": [
            ("theirs, tr F on 1024", _their_trace),
            ("ours, tr F on 128", lambda at: of(FisherTrace(labels="sampled", per_layer=False), first(at, 128))),
        ],
        "S_worst": [
            ("theirs, S_worst on 1024", lambda at: rise(at, 20)),
            ("ours, S_worst, one step on 128", lambda at: rise(first(at, 128), 0)),
            ("ours, S_worst, one step on 512", lambda at: rise(first(at, 512), 0)),
            ("theirs, S_worst on 128", lambda at: rise(first(at, 128), 20)),
        ],
        "S_avg": [
            ("theirs, S_avg on 1024", lambda at: _their_average(at, 15)),
            ("ours, S_avg, 4 pairs on 128", _our_average),
        ],
    }
    spent: dict[str, list[float]] = {}
    curves: dict[str, list[float]] = {}
    units = []
    for step in CHECKPOINTS:
        at = workload.at(step, 1024)
        ways = [way for ways in signal.values() for way in ways]
        arms = [Arm(name, lambda way=way, at=at: way(at)) for name, way in ways]  # type: ignore[misc]
        found = compare("", "", "", arms, workload.step(slice(128)), steps_a_round=20)
        units.append(found.step_seconds)
        for result in found.results:
            if result.seconds is None or result.value is None:
                raise RuntimeError(result.note)
            spent.setdefault(result.arm, []).append(result.seconds)
            curves.setdefault(result.arm, []).append(result.value)
    unit = statistics.median(units)
    results = []
    for ways in signal.values():
        reference = curves[ways[0][0]]
        for name, _ in ways:
            cost = statistics.median(spent[name])
            agreement = float(spearmanr(reference, curves[name])[0])
            results.append(Result(name, cost / unit, cost, agreement, None, len(CHECKPOINTS), ""))
    where = f"{workload.name}, {len(CHECKPOINTS)} checkpoints, steps of B=128"
    return Comparison(
        "cheap signals", where, "theirs; value: Spearman correlation with it over training", unit, results
    )


def signal_set(workload: Workload, step: int) -> Comparison:
    """What the three signals of an early intervention cost together, and so how often 1 % of training affords them."""
    (watch,) = liu_gurevych()

    def arm(n: int) -> Arm:
        at = workload.at(step, n)

        def run() -> Value:
            snapshot = at.snapshot()
            return float(sum(len(list(probe.measure(snapshot, {}))) for probe in watch.probes))

        return Arm(f"ours, tr F, S_worst, S_avg on {n}", run)

    found = compare(
        "the three signals", f"{workload.name}, step {step}", "value: how many numbers", [arm(n) for n in (16, 64, 128)],
        workload.step(slice(128)),
    )  # fmt: skip
    results = [replace(r, note=f"at 1 %: every {round(100 * (r.steps or 0))} steps of B=128") for r in found.results]
    return replace(found, results=results)


def _their_trace(at: Frozen) -> Value:
    with torch.no_grad():
        drawn = torch.distributions.Categorical(logits=at.model(at.x)).sample()
    squares = peers.vmap_grad(Frozen(at.model, at.x, drawn, at.step), 32)()
    return sum(squares.values()) if isinstance(squares, dict) else squares


def _their_average(at: Frozen, draws: int) -> Value:
    snapshot = at.snapshot()
    rises = []
    for _ in range(draws):
        delta = {name: RADIUS * torch.randn_like(p) for name, p in snapshot.params.items()}
        rises.append(loss_at(snapshot, delta).rise_from(loss_here(snapshot)).value)
    return statistics.fmean(rises)


def _our_average(at: Frozen) -> Value:
    return average_rise(first(at, 128).snapshot(), RADIUS, 4)[0].value
