"""Gradient subspace, reconstruction, local complexity and the three signals of an early intervention, beside the published ways."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from against import peers
from against.curvature import RADIUS, first, of, rise
from against.timing import Arm, Comparison, Result, Value, compare, relative
from against.workloads import Frozen, Workload, digits
from probe_agent.estimators.draws import mean_of
from probe_agent.estimators.features import features_of
from probe_agent.estimators.local_complexity import FRAMES, crossings, frames
from probe_agent.estimators.perturbation import average_rise, loss_at, loss_here
from probe_agent.estimators.ranks import spectrum
from probe_agent.estimators.reconstruction import reconstruction_draws
from probe_agent.estimators.subspace import overlap, top_eigenvectors
from probe_agent.estimators.trained_decoder import trained_decoder
from probe_agent.presets import liu_gurevych
from probe_agent.probes.fisher_trace import FisherTrace
from probe_agent.probes.gradient_subspace import GradientSubspace
from probe_agent.probes.local_complexity import LocalComplexity
from probe_agent.probes.reconstruction import Reconstruction

DIRECTIONS = 25
CHECKPOINTS = (0, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def on_images(workload: Workload, step: int) -> Iterator[Comparison]:
    """What is measured on the convolutional network."""
    yield subspace(workload, step, 256)
    yield reconstruction(workload, step)
    yield complexity(workload, step, points=32, directions=20)


def on_digits() -> Iterator[Comparison]:
    """What is measured on small networks."""
    workload = digits(64, 48, 48, 10).train({200, 800})
    for step in workload.states:
        yield subspace(workload, step, 512)
    yield complexity(digits(64, 200, 200, 200, 10).train({200}), 200, points=1000, directions=DIRECTIONS)
    yield signals(digits(64, 100, 100, 10, rate=0.05).train(set(CHECKPOINTS)))


def subspace(workload: Workload, step: int, n: int) -> Comparison:
    """The ten directions that gradients lie in, from the classes' gradients and from the Hessian."""
    at = workload.at(step, n)
    small = sum(p.numel() for p in workload.model.parameters()) < 10_000
    dtype, products = (torch.float64, 200) if small else (torch.float32, 60)
    truth = top_eigenvectors(workload.at(step, n, dtype).snapshot(), 10, products)
    arms = [_subspace_arm("ours, route classes", GradientSubspace(), at, truth)]
    arms += [_subspace_arm("ours, route hessian, 60 products", GradientSubspace(route="hessian"), at, truth)]
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


def complexity(workload: Workload, step: int, *, points: int, directions: int) -> Comparison:
    """Units crossed around a point, counted in one pass and as published."""
    at = workload.at(step, max(points, 128))
    x = at.x[:points]
    radius = 0.02 * float((x - x.mean(0)).flatten(1).norm(dim=1).mean())
    own = frames(at.snapshot().generator(FRAMES), x, directions)
    exact = _published_counts(at.model, x, own, radius)
    counted: dict[str, Tensor] = {}

    def ours() -> Value:
        found = crossings(at.snapshot(), x, radius=radius, directions=directions)
        counted["ours"] = torch.from_numpy(np.sum(list(found.by_layer.values()), axis=0))
        return float(counted["ours"].mean())

    def published() -> Value:
        return float(_published_counts(at.model, x, own[:1], radius).mean())

    vertices = f"{points} points, {2 * directions} vertices"
    wrong = f"the published way with our frames; error: share of the {points} points whose count differs"
    arms = [
        Arm("ours, crossings()", ours, lambda _: float((counted["ours"] != exact).double().mean()), "a frame a point"),
        Arm("published", published, note="one frame for all points"),
        Arm("ours, LocalComplexity()", lambda: of(LocalComplexity(), at), note="at its defaults, all its quantities"),
        Arm("bare forward of the vertices", lambda: _bare(at.model, x, own, radius), note="nothing counted"),
    ]
    batch = 64 if x.dim() > 2 else 128
    where = f"{workload.name}, step {step}, {vertices}"
    return compare("local complexity", where, wrong, arms, workload.step(slice(batch)))


def _published_counts(model: nn.Module, points: Tensor, of_points: Tensor, radius: float) -> Tensor:
    """Humayun, Balestriero and Baraniuk (2024, sec. 3): all pre-activations kept, signs compared with the first vertex's.

    ``of_points`` are frames of shape (n, P, D), or (1, P, D) for one that all points share.
    """
    kept: list[Tensor] = []
    hooks = [
        module.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
        for module in model.modules()
        if isinstance(module, nn.ReLU)
    ]
    counts = []
    for start in range(0, len(points), _at_once(points)):
        some = slice(start, start + _at_once(points))
        vertices = _vertices(points[some], of_points if len(of_points) == 1 else of_points[some], radius)
        with torch.no_grad():
            model(vertices.flatten(0, 1))
        signs = [torch.sign(values).reshape(*vertices.shape[:2], -1) for values in kept]
        counts.append(sum((s != s[:, :1]).any(1).sum(1) for s in signs))
        kept.clear()
    for hook in hooks:
        hook.remove()
    return torch.cat([c for c in counts if isinstance(c, Tensor)]).double()


def _bare(model: nn.Module, points: Tensor, of_points: Tensor, radius: float) -> float:
    size = _at_once(points)
    with torch.no_grad():
        for some, where in zip(points.split(size), of_points.split(size), strict=True):
            model(_vertices(some, where, radius).flatten(0, 1))
    return 0.0


def _at_once(points: Tensor) -> int:
    """Points in a batch: as the published code takes images; of vectors the number that made it fastest where we tried."""
    return 16 if points.dim() > 2 else 100


def _vertices(points: Tensor, of_points: Tensor, radius: float) -> Tensor:
    """X ± r v, shape (n, 2P, ...)."""
    moved = radius * of_points.reshape(*of_points.shape[:2], *points.shape[1:])
    return torch.cat([points[:, None] + moved, points[:, None] - moved], 1)


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
