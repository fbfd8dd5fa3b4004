"""Local complexity beside the published algorithm: the same counts, the cost, the memory, and the error bar for it."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from against.timing import Arm, Comparison, Result, Value, compare
from against.workloads import Frozen, ResNet, Workload, digits, loss_fn
from probe_agent.estimators.local_complexity import FRAMES, crossings, frames
from probe_agent.estimators.published_complexity import published_crossings, published_frame
from probe_agent.probe_set import ProbeSet
from probe_agent.probes.local_complexity import LocalComplexity
from probe_agent.snapshot import Snapshot

PUBLISHED_RADII = (0.05, 0.1, 0.5, 1.0, 5.0)
PUBLISHED_VERTICES = (1000 + 10_000 + 10_000) * 50 * len(PUBLISHED_RADII)
"""Passes of one input each time in the published configuration of the MLP on MNIST."""

MEMORY_POINTS = 32


def on_images(workload: Workload, step: int) -> Iterator[Comparison]:
    """What is measured on the convolutional network."""
    yield own_frames(workload, step, points=32, directions=20)
    yield published(workload.at(step, 64), workload, _norms(workload.model), 20, (0.005,), batch=64)
    yield memory()


def on_digits() -> Iterator[Comparison]:
    """What is measured on small networks."""
    workload = digits(64, 200, 200, 200, 10).train({200})
    yield own_frames(workload, 200, points=1000, directions=25)
    yield panel(workload, 200)
    wide = _upsampled(digits(784, 200, 200, 200, 10))
    layers = ("0", "2", "4", "6")
    for radii in ((0.1,), PUBLISHED_RADII):
        yield published(wide.train({200}).at(200, 1000), wide, layers, 25, radii, batch=1000)


def published(
    at: Frozen, workload: Workload, layers: Sequence[str], directions: int, radii: Sequence[float], batch: int
) -> Comparison:
    """The published count at its own settings: one frame, all points of a batch at once, all outputs kept until its end."""
    frame = published_frame(at.x[0].numel(), directions, torch.Generator().manual_seed(0), at.x.dtype)
    counted: dict[str, Tensor] = {}

    def ours() -> Value:
        found = published_crossings(at.snapshot(), at.x, frame, radii, layers)
        counted["ours"] = torch.stack([torch.stack([torch.from_numpy(of[layer]) for layer in layers]) for of in found])
        return float(counted["ours"].sum((0, 1)).mean()) / len(radii)

    def theirs(size: int) -> Value:
        found = [straightforward(at.model, at.x, (radius * frame)[None], layers, size) for radius in radii]
        counted["theirs"] = torch.stack(found)
        return float(counted["theirs"].sum((0, 1)).mean()) / len(radii)

    arms = [
        Arm(f"published, {size} points a batch", lambda size=size: theirs(size))  # type: ignore[misc]
        for size in sorted({batch, min(batch, 200 if at.x.dim() == 2 else 16)}, reverse=True)
    ]
    arms += [
        Arm(
            "ours, published_crossings()", ours, lambda _: float((counted["ours"] != counted["theirs"]).double().mean())
        )
    ]
    where = f"{workload.name}, {len(at.x)} points, {2 * directions} vertices, {len(radii)} radii"
    truth = "the published algorithm; error: share of the counts, of a layer at a point, that differ"
    return compare("local complexity as published", where, truth, arms, workload.step(slice(64)))


def panel(workload: Workload, step: int) -> Comparison:
    """All that the probe measures at its defaults beside the passes that the published configuration makes."""
    at = workload.at(step, 512)
    directions = 25
    memory: dict[str, object] = {}
    frame = published_frame(at.x[0].numel(), directions, torch.Generator().manual_seed(0), at.x.dtype)
    layers = [name for name, module in at.model.named_modules() if isinstance(module, nn.Linear)]
    error: dict[str, float] = {}
    part = at.x[:200]

    def ours() -> Value:
        whole = next(iter(list(LocalComplexity().measure(at.snapshot(), memory)))).estimate
        error["ours"] = whole.stderr / whole.value
        return whole.value

    def theirs() -> Value:
        return float(straightforward(at.model, part, (0.1 * frame)[None], layers, len(part)).sum(0).mean())

    found = compare(
        "local complexity at the defaults",
        f"{workload.name}, step {step}",
        "none; error: the relative standard error of the whole count",
        [
            Arm("ours, LocalComplexity(), later snapshots", ours, lambda _: error["ours"]),
            Arm("published, 200 points, 1 radius", theirs, note="timed"),
        ],
        workload.step(slice(64)),
        rounds=5,
    )
    mine, timed = found.results
    if mine.seconds and timed.seconds and timed.steps:
        times = PUBLISHED_VERTICES / (len(part) * 2 * directions)
        note = f"from the timed part: {times * timed.seconds / mine.seconds:.0f} × ours"
        found.results.append(
            Result("published configuration", timed.steps * times, timed.seconds * times, None, None, 0, note)
        )
    return found


def own_frames(workload: Workload, step: int, *, points: int, directions: int) -> Comparison:
    """Units crossed around a point with a frame of its own, counted in one pass and as published."""
    at = workload.at(step, max(points, 128))
    x = at.x[:points]
    radius = 0.02 * float((x - x.mean(0)).flatten(1).norm(dim=1).mean())
    own = radius * frames(at.snapshot().generator(FRAMES), x, directions)
    layers = [name for name, module in at.model.named_modules() if isinstance(module, nn.ReLU)]
    size = 16 if x.dim() > 2 else 100
    exact = straightforward(at.model, x, own, layers, size, inputs=True).sum(0)
    counted: dict[str, Tensor] = {}
    memory: dict[str, object] = {}

    def ours() -> Value:
        counted["ours"] = torch.from_numpy(crossings(at.snapshot(), x, radius=radius, directions=directions).whole)
        return float(counted["ours"].mean())

    def theirs() -> Value:
        return float(straightforward(at.model, x, own[:1], layers, size, inputs=True).sum(0).mean())

    def probe() -> Value:
        return next(iter(list(LocalComplexity().measure(at.snapshot(), memory)))).estimate.value

    arms = [
        Arm("ours, crossings()", ours, lambda _: float((counted["ours"] != exact).double().mean()), "a frame a point"),
        Arm("published", theirs, note="one frame for all points"),
        Arm("ours, LocalComplexity(), later snapshots", probe, note="at its defaults, all its quantities"),
    ]
    where = f"{workload.name}, step {step}, {points} points, {2 * directions} vertices"
    truth = f"the published way with our frames; error: share of the {points} points whose count differs"
    probe()
    return compare("local complexity", where, truth, arms, workload.step(slice(64)))


def memory() -> Comparison:
    """How much the process grows, each way in a process of its own; in place of seconds there are megabytes."""
    grown = {way: _grown(way) for way in ("published", "ours")}
    results = [
        Result(way, None, None, megabytes, None, 1, "megabytes of peak resident memory")
        for way, megabytes in grown.items()
    ]
    where = f"ResNet-18 width 16, {MEMORY_POINTS} points, 40 vertices, published 16 points a batch"
    return Comparison("memory of local complexity", where, "none", 0.0, results)


def straightforward(
    model: nn.Module, points: Tensor, moves: Tensor, layers: Sequence[str], size: int, *, inputs: bool = False
) -> Tensor:
    """Humayun, Balestriero and Baraniuk (2024, sec. 3): all is kept, signs are compared with the first vertex's.

    ``moves`` are r v of shape (n, P, D), or (1, P, D) for one frame that all points share; what is counted are
    the layers' outputs, or their ``inputs``; ``size`` points make a batch. Returns (layers, n).
    """
    kept: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(layer).register_forward_hook(
            lambda _, given, z, layer=layer: kept.update({layer: given[0] if inputs else z})
        )
        for layer in layers
    ]
    counts = []
    for start in range(0, len(points), size):
        some = slice(start, start + size)
        around, by = points[some].flatten(1)[:, None], moves if len(moves) == 1 else moves[some]
        vertices = torch.cat([around + by, around - by], 1)
        with torch.no_grad():
            model(vertices.reshape(-1, *points.shape[1:]))
        signs = [kept[layer].sign().reshape(*vertices.shape[:2], -1) for layer in layers]
        counts.append(torch.stack([(s != s[:, :1]).any(1).sum(1) for s in signs]))
    for handle in handles:
        handle.remove()
    return torch.cat(counts, 1).double()


def _norms(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]


def _upsampled(workload: Workload) -> Workload:
    images = workload.inputs.reshape(-1, 1, 8, 8)
    workload.inputs = nn.functional.interpolate(images, size=(28, 28), mode="bilinear").flatten(1)
    return workload


def _grown(way: str) -> float:
    ran = subprocess.run(  # noqa: S603 - this file
        [sys.executable, "-m", "against.local_complexity", way],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(ran.stdout)


def _grow(way: str) -> None:
    """Print how many megabytes one count adds to the peak."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = ResNet(16).eval()
    points, frame = torch.randn(MEMORY_POINTS, 3, 32, 32), published_frame(3072, 20, torch.Generator(), torch.float32)
    targets = torch.zeros(MEMORY_POINTS, dtype=torch.long)
    snapshot = Snapshot.take(model, 0, ProbeSet(points, targets), loss_fn, None, 0)
    with torch.no_grad():
        model(points[:1])
    before = _peak()
    if way == "published":
        straightforward(model, points, (0.005 * frame)[None], _norms(model), 16)
    else:
        published_crossings(snapshot, points, frame, (0.005,), _norms(model))
    print(_peak() - before)


def _peak() -> float:
    """Megabytes; of this process alone, where getrusage starts from what its parent had."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    _grow(sys.argv[1])
