"""What others' packages give for the same quantity, called as their documentation says; each function returns what is timed."""

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from against.timing import Missing, Value
from against.workloads import Frozen, loss_fn
from probe_agent.estimators.fisher import layer_of

Run = Callable[[], Value]

PACKAGES = (
    "torch", "numpy", "pyhessian", "curvlinops-for-pytorch", "hessian-eigenthings", "backpack-for-pytorch", "opacus", "nngeometry",
    "devinterp",
)  # fmt: skip


def package(name: str) -> Any:
    """The package, or `Missing` where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Missing(f"not installed ({error})") from error


def deferred(prepare: Callable[[], Run]) -> Run:
    """Prepared at once, so that what a peer does only once is not timed; a refusal is raised when it is run."""
    try:
        return prepare()
    except Exception as error:  # noqa: BLE001 - what a peer does with a model is a finding
        refusal = error

    def raise_it() -> Value:
        raise refusal

    return raise_it


def vmap_grad(at: Frozen, chunk: int = 8) -> Run:
    """``torch.func.vmap(grad)`` in chunks."""
    params = {name: p.detach() for name, p in at.model.named_parameters()}
    buffers = dict(at.model.named_buffers())

    def one(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss_fn(torch.func.functional_call(at.model, (params, buffers), (x[None],)), y[None])

    gradients = torch.func.vmap(torch.func.grad(one), (None, 0, 0), chunk_size=chunk)

    def run() -> Value:
        found = gradients(params, at.x, at.y)
        return layers({name: g.flatten(1).square().sum(1) for name, g in found.items()}, at)

    return run


def naive_loop(at: Frozen) -> Run:
    """A gradient for each sample."""

    def run() -> Value:
        sums = {name: torch.zeros((), dtype=p.dtype) for name, p in at.model.named_parameters()}
        for x, y in zip(at.x, at.y, strict=True):
            gradients = torch.autograd.grad(loss_fn(at.model(x[None]), y[None]), list(at.model.parameters()))
            for name, g in zip(sums, gradients, strict=True):
                sums[name] += g.square().sum()
        return layers({name: s[None] / len(at.x) for name, s in sums.items()}, at)

    return run


def backpack_l2(at: Frozen) -> Run:
    """BackPACK's BatchL2Grad."""
    backpack, extensions = package("backpack"), package("backpack.extensions")
    model, criterion = backpack.extend(at.own()), backpack.extend(nn.CrossEntropyLoss(reduction="sum"))

    def run() -> Value:
        outputs = model(at.x)
        with backpack.backpack(extensions.BatchL2Grad()):
            criterion(outputs.flatten(0, -2), at.y.flatten()).backward()
        lacking = [name for name, p in model.named_parameters() if not hasattr(p, "batch_l2")]
        model.zero_grad()
        if lacking:
            raise Missing(f"{len(lacking)} parameters of {len(list(model.parameters()))} without a value: {lacking[0]}")
        t = at.y[0].numel()
        return layers({name: p.batch_l2 / t**2 for name, p in model.named_parameters()}, at)

    return run


def opacus_norms(at: Frozen, *, ghost: bool) -> Run:
    """Opacus' norms without gradients (ghost clipping), or with (fast gradient clipping)."""
    module = package("opacus.grad_sample.grad_sample_module_fast_gradient_clipping")
    wrapped = module.GradSampleModuleFastGradientClipping(
        at.own().train(), loss_reduction="sum", use_ghost_clipping=ghost
    )

    def run() -> Value:
        wrapped.zero_grad()
        outputs = wrapped(at.x)
        torch.nn.functional.cross_entropy(outputs.flatten(0, -2), at.y.flatten(), reduction="sum").backward()
        t = at.y[0].numel()
        return layers({n: p._norm_sample.square() / t**2 for n, p in wrapped._module.named_parameters()}, at)  # noqa: SLF001

    return run


def nngeometry_trace(at: Frozen) -> Run:
    """NNGeometry's trace of the Fisher matrix, one label drawn a sample, the whole network only."""
    metrics, pspace = package("nngeometry.metrics"), package("nngeometry.object.pspace")
    data = torch.utils.data.TensorDataset(at.x, at.y)
    loader, model = torch.utils.data.DataLoader(data, len(at.x)), at.own()
    if at.y.dim() > 1:
        raise Missing("no likelihood over tokens")

    def run() -> Value:
        matrix = metrics.FIM_MonteCarlo(model, loader, pspace.PMatImplicit, trials=1)
        return float(matrix.trace())

    return run


def pyhessian(at: Frozen) -> Any:
    """PyHessian's object, which builds its gradient when made."""
    hessian = package("pyhessian").hessian
    return lambda: hessian(at.own(), loss_fn, data=(at.x, at.y), cuda=False)


def pyhessian_top(at: Frozen) -> Run:
    """Power iteration to its own stop."""
    make = pyhessian(at)
    return lambda: float(make().eigenvalues()[0][0])


def pyhessian_trace(at: Frozen, most: int = 100, tolerance: float = 1e-3) -> Run:
    """Hutchinson to its own stop."""
    make = pyhessian(at)
    return lambda: float(np.mean(make().trace(maxIter=most, tol=tolerance)))


def curvlinops_top(at: Frozen) -> Run:
    """Its Hessian as a SciPy operator under ARPACK's eigsh."""
    operators, sparse = package("curvlinops"), package("scipy.sparse.linalg")
    model, criterion = nn.Sequential(at.own(), nn.Flatten(0, -2)), nn.CrossEntropyLoss()

    def run() -> Value:
        operator = operators.HessianLinearOperator(
            model, criterion, list(model.parameters()), [(at.x, at.y.flatten())], check_deterministic=False
        ).to_scipy(np.float32)
        return float(sparse.eigsh(operator, k=1, which="LA", tol=1e-2, return_eigenvectors=False)[0])

    return run


def eigenthings_top(at: Frozen, most: int | None) -> Run:
    """hessian-eigenthings' Lanczos, at its defaults or with a number of products."""
    things, model = package("hessian_eigenthings"), at.own()

    def run() -> Value:
        operator = things.HessianOperator(model, [(at.x, at.y)], things.supervised_loss(loss_fn))
        return float(things.lanczos(operator, k=1, max_iter=most, which="LA", seed=0).eigenvalues[0])

    return run


def layers(squares: dict[str, Tensor], at: Frozen) -> dict[str, float]:
    """Mean squared norms of gradients of the samples' mean losses, per prediction, added up by layer."""
    found: dict[str, float] = {}
    for name, square in squares.items():
        layer = layer_of(name)
        found[layer] = found.get(layer, 0.0) + float(square.double().mean()) * at.y[0].numel()
    if not all(math.isfinite(value) for value in found.values()):
        raise Missing("not finite")
    return found
