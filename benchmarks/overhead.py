"""What watching costs: steps a second of one training job, watched in several ways, taking turns in one process.

    python benchmarks/overhead.py [--device cuda] [--images train-images-idx3-ubyte.gz] [--text corpus.txt]

A ResNet-18 on CIFAR-sized images and a transformer of six blocks. Every round times a block of steps of each job in a
new random order; a job's overhead is its time a step over that of the job nobody watches, both over all rounds, with an
interval from resampling the rounds: by the clock, which other users of the machine disturb, and by the processor time of the
training thread. Ours is timed as in the long run: what may be spent early is given beside it.
*Idle* is the bare step of an optimizer with a monitor attached and nothing due. *Waits* are what torch's profiler sees of the
program waiting for the device in 100 steps, without and with a monitor that has nothing due. On a device a third job is
the transformer under bfloat16 autocast. Prints, and writes overhead.json and overhead.md to benchmarks/results, or, on a device, to
overhead-cuda.json and so on.
"""

import argparse
import json
import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from against.overhead_arms import NEVER, PROBE_INPUTS, Block, Cockpitted, GradientHooks, Job, Plain, Watched
from against.workloads import GPT, Workload, gpt, resnet
from estimators import machine as this_machine
from rich.console import Console
from rich.table import Table
from torch import nn

import probe_agent
from probe_agent import Every, ListOutbox, Watch
from probe_agent.accelerator import settle

HEADINGS = ("job", "wall time a step (90 %)", "CPU time of the training thread (90 %)", "by its own account", "reports")
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="What watching costs, beside other ways of watching.")
    parser.add_argument("--images", type=Path, help="training images as idx.gz, labels beside them")
    parser.add_argument("--text", type=Path, help="a text of at most 65 characters' kinds")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="where to train, such as cuda")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=0.6, help="of a block")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # the peers' own
    console, began = Console(), time.perf_counter()
    found = []
    workloads = [images(given.images), text(given.text)]
    if given.device.type != "cpu":
        workloads.append(replace(text(given.text), name="the same transformer under bfloat16 autocast", half=True))
    for workload in workloads:
        found.append(compared(workload.to(given.device), given.rounds, given.seconds))
        console.print(table(found[-1]))
    results: dict[str, Any] = {
        "machine": this_machine(),
        "seconds": round(time.perf_counter() - began),
        "probe_inputs": PROBE_INPUTS,
        "idle_microseconds_a_step": idle(given.device),
        "workloads": found,
    }
    if given.device.type != "cpu":
        results["machine"]["processor"] = torch.get_device_module(given.device).get_device_name(given.device)
    name = "overhead" if given.device.type == "cpu" else f"overhead-{given.device.type}"
    (given.out / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n")
    (given.out / f"{name}.md").write_text(markdown(results))
    console.print(results["idle_microseconds_a_step"])


def images(path: Path | None) -> Workload:
    """ResNet-18 with BatchNorm on 3×32×32 images, of width 16, so that a core of a CPU trains it many times a second."""
    workload = resnet(path)
    workload.name, workload.batch = "ResNet-18 of width 16, batch 16", 16
    return workload


def text(path: Path | None) -> Workload:
    """Six blocks, width 128, four heads, 64 tokens, AdamW."""
    workload = gpt(path)
    torch.manual_seed(0)
    model = GPT(blocks=6)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return Workload("transformer of 6 blocks, batch 8", model, workload.inputs, workload.targets, optimizer, 8)


def jobs(workload: Workload) -> Iterator[Callable[[], Job]]:
    """Every way to watch this workload."""
    yield lambda: Plain(workload)
    yield lambda: Watched(workload, "full", None, "inline")
    for where in ("inline", "process"):
        for tier, share in (("light", 0.01), ("standard", 0.01), ("full", 0.01), ("full", 0.05)):
            yield lambda tier=tier, share=share, where=where: Watched(workload, tier, share, where)  # type: ignore[misc]
    for every in (1, 100):
        yield lambda every=every: GradientHooks(workload, every)  # type: ignore[misc]
    for configuration in ("economy", "business", "full"):
        yield lambda configuration=configuration: Cockpitted(workload, configuration)  # type: ignore[misc]


def compared(workload: Workload, rounds: int, seconds: float) -> dict[str, Any]:
    """Seconds a step of each job over those of the first, and what each watcher says of itself."""
    running: list[Job] = []
    refused: list[str] = []
    for make in jobs(workload):
        try:
            running.append(make())
        except Exception as error:  # noqa: BLE001 - what a peer does with a model is a finding
            refused.append(str(error)[:300])
    timed: dict[str, list[Block]] = {job.name: [] for job in running}
    order = random.Random(0)
    for job in running:
        job.block(0.0)
    for _ in range(rounds):
        for job in order.sample(running, len(running)):
            timed[job.name].append(job.block(seconds))
    plain = timed[running[0].name]
    return {
        "workload": workload.name,
        "waits": {job.name: waits(job) for job in running[:2]},
        "step_seconds": statistics.median(block.seconds / block.steps for block in plain),
        "jobs": [
            {
                "job": job.name,
                "wall": _ratio([(b.seconds, b.steps) for b in timed[job.name]], [(b.seconds, b.steps) for b in plain]),
                "busy": _ratio([(b.busy, b.steps) for b in timed[job.name]], [(b.busy, b.steps) for b in plain]),
                **job.told(),
            }
            for job in running
        ],
        "refused": refused,
    }


def waits(job: Job, steps: int = 100) -> int:
    """How often the program waits for a device in so many steps, or reads a number of it: a tensor of the CPU is read alike."""
    with torch.profiler.profile(activities=torch.profiler.supported_activities()) as profiler:
        for _ in range(steps):
            job.step()
    waiting = ("Synchronize", "aten::_local_scalar_dense", "Memcpy DtoH")
    return sum(event.count for event in profiler.key_averages() if any(word in event.key for word in waiting))


def _ratio(timed: Sequence[tuple[float, int]], plain: Sequence[tuple[float, int]]) -> dict[str, float]:
    """Seconds a step over those without, and a 90 % interval from 2000 resamplings of the rounds."""
    ours, theirs = np.array(timed), np.array(plain)
    draws = np.random.default_rng(0).integers(len(ours), size=(2000, len(ours)))

    def of(some: Any) -> Any:
        (seconds, steps), (without, bare) = ours[some].sum(-2).T, theirs[some].sum(-2).T
        return (seconds / steps) / (without / bare)

    low, high = np.quantile(of(draws), [0.05, 0.95])
    return {"ratio": float(of(np.arange(len(ours)))), "low": float(low), "high": float(high)}


def idle(device: torch.device, rounds: int = 41, steps: int = 2000) -> dict[str, float]:
    """Median over rounds of the time one optimizer step takes with and without an idle monitor, interleaved."""
    timed: dict[str, list[float]] = {"without": [], "with": []}
    arms = {"without": _stepper(device, attached=False), "with": _stepper(device, attached=True)}
    for _ in range(rounds):
        for name, step in arms.items():
            began = time.perf_counter()
            for _ in range(steps):
                step()
            settle(device)
            timed[name].append((time.perf_counter() - began) / steps * 1e6)
    without, with_monitor = (statistics.median(timed[name]) for name in ("without", "with"))
    differences = [b - a for a, b in zip(timed["without"], timed["with"], strict=True)]
    return {
        "step_without": round(without, 3),
        "step_with_idle_monitor": round(with_monitor, 3),
        "added_median_of_pairs": round(statistics.median(differences), 3),
    }


def _stepper(device: torch.device, *, attached: bool) -> Callable[[], object]:
    model = nn.Linear(8, 2).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    x, y = torch.randn(16, 8).to(device), torch.randint(0, 2, (16,)).to(device)
    F.cross_entropy(model(x), y).backward()
    if attached:
        probe_agent.attach(
            model,
            optimizer,
            loss_fn=F.cross_entropy,
            probe_batch=(x, y),
            run="idle",
            watches=[Watch(Every(NEVER), watch.probes) for watch in probe_agent.presets.full()],
            outbox=ListOutbox(),
        )
    return optimizer.step


def table(found: dict[str, Any]) -> Table:
    """For the terminal."""
    shown = Table(title=f"{found['workload']}: {1000 * found['step_seconds']:.0f} ms a step", title_justify="left")
    for heading in HEADINGS:
        shown.add_column(heading, justify="left" if heading == "job" else "right")
    for row in rows(found):
        shown.add_row(*row)
    return shown


def rows(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The jobs as text."""
    for job in found["jobs"]:
        share = f"{job['share_by_its_own_account']:.2%}" if "share_by_its_own_account" in job else ""
        both = (f"{each['ratio']:.3f} ({each['low']:.3f}–{each['high']:.3f})" for each in (job["wall"], job["busy"]))
        yield job["job"], *both, share, str(job.get("reports", ""))


def markdown(results: dict[str, Any]) -> str:
    """For people."""
    machine = results["machine"]
    where = f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, torch {machine['versions']['torch']}"
    lines = [
        "# What watching costs",
        "",
        f"`make bench` on {where}, {machine['date']}; one thread; {results['seconds']} s.",
        "",
    ]
    lines += [
        (
            "Beside a worker (`process`) training is timed while the worker computes all the time. In a job it does so for a part of it: "
            "a twentieth of its seconds is charged to the budget. The noise of the first job is in every row."
        ),
        "",
    ]
    for found in results["workloads"]:
        lines += [
            f"## {found['workload']}: {1000 * found['step_seconds']:.0f} ms a step",
            "",
            f"| {' | '.join(HEADINGS)} |",
            "| --- | ---: | ---: | ---: | ---: |",
            *(f"| {' | '.join(row)} |" for row in rows(found)),
            "",
            f"Waits for the device in 100 steps: {', '.join(f'{name} {count}' for name, count in found['waits'].items())}.",
            "",
            *(f"- refused: {why}" for why in found["refused"]),
            "",
        ]
    idle_step = results["idle_microseconds_a_step"]
    return "\n".join(lines) + f"Idle: {idle_step['added_median_of_pairs']} µs a step.\n"


if __name__ == "__main__":
    main()
