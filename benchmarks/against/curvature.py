"""Fisher trace, largest eigenvalue, worst case and Hessian trace: our ways and the peers', on one network at one step."""

import copy
import math
from collections.abc import Callable, Iterator

import torch

from against import peers
from against.timing import Arm, Comparison, Missing, Value, by_layer, compare, relative
from against.workloads import Frozen, Workload
from probe_agent.estimators.auto_pgd import auto_pgd
from probe_agent.estimators.fisher import by_layer as by_our_layer
from probe_agent.estimators.hvp import HessianProduct
from probe_agent.estimators.lanczos import krylov_of
from probe_agent.estimators.per_sample import ROUTES, Route, squared_norms
from probe_agent.estimators.perturbation import loss_at, loss_here, one_step
from probe_agent.likelihood import Categorical
from probe_agent.probe import Memory, Probe
from probe_agent.probes.fisher_batch import FisherBatch
from probe_agent.probes.fisher_trace import FisherTrace
from probe_agent.probes.hessian_trace import HessianTrace
from probe_agent.probes.sharpness import Sharpness

RADIUS = 0.01


def curvature(workload: Workload, step: int, *, full: bool) -> Iterator[Comparison]:
    """All four comparisons; without ``full`` the cheap two, once."""
    rounds, n = (3 if full else 1), (32 if workload.inputs.is_floating_point() else 16)
    where = f"{workload.name}, step {step}"
    yield fisher(workload, workload.at(step, 64), f"{where}, B=64", rounds)
    at, precise = workload.at(step, n), workload.at(step, n, torch.float64)
    yield worst(workload, at, f"{where}, B={n}", rounds)
    if full:
        yield top(workload, at, precise, f"{where}, B={n}", rounds)
        yield trace(workload, at, f"{where}, B={n}", rounds)


def fisher(workload: Workload, at: Frozen, where: str, rounds: int) -> Comparison:
    """The trace of the empirical Fisher matrix, layer by layer."""
    precise = copy.deepcopy(at.model).double()
    x = at.x.double() if at.x.is_floating_point() else at.x
    truth = peers.naive_loop(Frozen(precise, x, at.y, at.step))()
    if not isinstance(truth, dict):
        raise TypeError
    exact = by_layer(truth)
    arms = [Arm(f"ours, route {route}", lambda route=route: _norms(at, route), exact) for route in ROUTES]  # type: ignore[misc]
    arms += [
        probed("ours, FisherTrace()", FisherTrace(), at, note="true and empirical; exact labels, at most 16 outputs"),
        probed("ours, FisherTrace(labels=sampled)", FisherTrace(labels="sampled"), at, note="true and empirical"),
        probed("ours, FisherTrace(labels=sampled), first 16", FisherTrace(labels="sampled"), first(at, 16)),
        probed("ours, FisherBatch()", FisherBatch(), at, note="true Fisher; no per-sample gradients"),
        Arm("loop of gradients", peers.naive_loop(at), exact),
        Arm("torch.func vmap(grad), chunk 8", peers.vmap_grad(at), exact),
        Arm("BackPACK BatchL2Grad", peers.deferred(lambda: peers.backpack_l2(at)), exact),
        Arm("Opacus ghost", peers.deferred(lambda: peers.opacus_norms(at, ghost=True)), exact),
        Arm("Opacus fast", peers.deferred(lambda: peers.opacus_norms(at, ghost=False)), exact),
        Arm(
            "NNGeometry FIM_MonteCarlo",
            peers.deferred(lambda: peers.nngeometry_trace(at)),
            note="true Fisher, one label a sample, whole network",
        ),
    ]
    truth_is = "a float64 gradient for each sample; error: the worst layer"
    return compare("tr F empirical", where, truth_is, arms, workload.step(slice(len(at.x))), rounds=rounds)


def top(workload: Workload, at: Frozen, precise: Frozen, where: str, rounds: int) -> Comparison:
    """The largest eigenvalue of the Hessian."""
    krylov = krylov_of(precise.snapshot())
    krylov.grow_to(16)
    exact = relative(float(torch.linalg.eigvalsh(torch.from_numpy(krylov.tridiagonal))[-1]))
    arms = [
        probed("ours, Sharpness()", Sharpness(), at, exact, "of the solver and of the samples"),
        Arm(
            "ours, Sharpness(), a quarter of B",
            lambda: of(Sharpness(), first(at, len(at.x) // 4)),
            exact,
            "error is sampling",
        ),
        Arm("PyHessian eigenvalues()", peers.deferred(lambda: peers.pyhessian_top(at)), exact),
        Arm("hessian-eigenthings lanczos()", peers.deferred(lambda: peers.eigenthings_top(at, None)), exact),
        Arm("hessian-eigenthings lanczos(20)", peers.deferred(lambda: peers.eigenthings_top(at, 20)), exact),
        Arm("curvlinops + eigsh", peers.deferred(lambda: peers.curvlinops_top(at)), exact),
    ]
    truth_is = "16 Lanczos products in float64"
    return compare("λ_max of H", where, truth_is, arms, workload.step(slice(len(at.x))), rounds=rounds)


def worst(workload: Workload, at: Frozen, where: str, rounds: int) -> Comparison:
    """The worst-case rise of the loss within a ball of weights."""
    truth = rise(at, 40)
    arms = [
        Arm("ours, one step", lambda: rise(at, 0), relative(truth), "gradient and both losses"),
        Arm("Auto-PGD, 20 iterations", lambda: rise(at, 20), relative(truth), "the published setting"),
    ]
    truth_is = "Auto-PGD, 40 iterations"
    return compare(f"S_worst, ρ = {RADIUS}", where, truth_is, arms, workload.step(slice(len(at.x))), rounds=rounds)


def trace(workload: Workload, at: Frozen, where: str, rounds: int, products: int = 40) -> Comparison:
    """The trace of the Hessian; the truth has a standard error of its own."""
    hessian, generator = HessianProduct(at.snapshot()), torch.Generator().manual_seed(7)
    signs = (2.0 * torch.randint(0, 2, (hessian.dimension,), generator=generator) - 1 for _ in range(products))
    curvatures = torch.tensor([hessian.curvature(v) for v in signs], dtype=torch.float64)
    truth, luck = float(curvatures.mean()), float(curvatures.std()) / math.sqrt(products)
    arms = [
        probed("ours, HessianTrace()", HessianTrace(), at, relative(truth), "of signs and samples"),
        Arm("PyHessian trace()", peers.deferred(lambda: peers.pyhessian_trace(at)), relative(truth)),
        Arm("PyHessian trace(maxIter=4)", peers.deferred(lambda: peers.pyhessian_trace(at, 4, 0.0)), relative(truth)),
    ]
    truth_is = f"{products} Hutchinson products, itself ± {luck / abs(truth):.1%}"
    return compare("tr H", where, truth_is, arms, workload.step(slice(len(at.x))), rounds=rounds)


def _norms(at: Frozen, route: Route) -> Value:
    snapshot = at.snapshot()
    with torch.no_grad():
        score = Categorical().score(snapshot.outputs(), at.y)
    found = squared_norms(snapshot, score[:, None], route=route)
    if found.route != route:
        raise Missing(f"went by {found.route}")
    return {
        layer: float(n.mean()) / at.y[0].numel()
        for layer, n in by_our_layer({name: s[:, 0] for name, s in found.by_parameter.items()}).items()
    }


def probed(name: str, probe: Probe, at: Frozen, error: Callable[[Value], float] | None = None, note: str = "") -> Arm:
    """One of our probes at its settings; its note begins with the standard error it gives."""
    stderr = next(iter(list(probe.measure(at.snapshot(), {})))).estimate.stderr
    return Arm(name, lambda: of(probe, at), error, "; ".join(filter(None, (f"± {stderr:.2g}", note))))


def of(probe: Probe, at: Frozen, memory: Memory | None = None) -> float:
    """The first number of a probe; all of them are computed."""
    measured = list(probe.measure(at.snapshot(), {} if memory is None else memory))
    return measured[0].estimate.value


def rise(at: Frozen, iterations: int) -> float:
    """S_worst by Auto-PGD, or by one step where there are no iterations."""
    snapshot = at.snapshot()
    delta = auto_pgd(snapshot, RADIUS, iterations) if iterations else one_step(snapshot, RADIUS)
    return loss_at(snapshot, delta).rise_from(loss_here(snapshot)).value


def first(at: Frozen, n: int) -> Frozen:
    """The same network on the first n samples."""
    return Frozen(at.model, at.x[:n], at.y[:n], at.step)
