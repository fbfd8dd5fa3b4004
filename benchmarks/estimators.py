"""What the estimators cost and how right they are, beside the packages that offer the same.

    python benchmarks/estimators.py [--images train-images-idx3-ubyte.gz] [--text corpus.txt]

One process and one thread; all ways to a number and one step of training on the same batch take turns in
random order; costs are medians of CPU time in units of that step. Prints, and writes
benchmarks/results/estimators.json and estimators.md. A peer that is not installed is a row that says so.
"""

import argparse
import json
import os
import platform
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from against import local_complexity
from against.curvature import curvature
from against.learning_coefficient import learning_coefficients
from against.linear_regions import in_planes
from against.peers import PACKAGES
from against.representation import on_digits, on_images, signal_set
from against.timing import Comparison, Result
from against.workloads import gpt, resnet
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
STEPS = (0, 50, 200)
COLUMNS = ("way", "training steps", "value", "relative error", "note")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="Costs and errors of the estimators beside those of other packages.")
    parser.add_argument("--images", type=Path, help="training images as idx.gz, labels beside them")
    parser.add_argument("--text", type=Path, help="a text of at most 65 characters' kinds")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # the peers' own
    console, began = Console(), time.process_time()
    comparisons = []
    for comparison in measured(given.images, given.text):
        comparisons.append(comparison)
        console.print(table(comparison))
    where = machine() | {
        "images": given.images.name if given.images else "scikit-learn digits, upsampled",
        "text": given.text.name if given.text else "a Markov chain",
    }
    results = {
        "machine": where,
        "cpu_seconds": round(time.process_time() - began),
        "comparisons": [comparison.as_json() for comparison in comparisons],
    }
    (given.out / "estimators.json").write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    (given.out / "estimators.md").write_text(page(comparisons, where))


def measured(images: Path | None, text: Path | None) -> Iterator[Comparison]:
    """Every comparison, each when it is ready."""
    for workload in (resnet(images), gpt(text)):
        workload.train(set(STEPS))
        for step in STEPS:
            yield from curvature(workload, step, full=step > 0)
        yield signal_set(workload, STEPS[-1])
        if workload.inputs.is_floating_point():
            yield from on_images(workload, STEPS[-1])
            yield from local_complexity.on_images(workload, STEPS[-1])
    yield from on_digits()
    yield from local_complexity.on_digits()
    yield from learning_coefficients()
    yield from in_planes()


def table(comparison: Comparison) -> Table:
    """A comparison for a reader at a terminal."""
    shown = Table(*COLUMNS, title=_title(comparison), title_justify="left", caption=f"truth: {comparison.truth}")
    for result in comparison.results:
        shown.add_row(*_cells(result), style="bold" if result.arm.startswith("ours") else "")
    return shown


def page(comparisons: list[Comparison], of: dict[str, Any]) -> str:
    """All comparisons as Markdown."""
    lines = [
        "# Estimators: cost and error",
        "",
        "Written by `benchmarks/estimators.py`. Costs are in steps of training on the same batch: medians of CPU time,",
        "all ways taking turns in one process on one thread. A way that takes more than 25 steps is run once.",
        "",
        *(f"- {key}: {value}" for key, value in of.items() if key != "versions"),
        "- versions: " + ", ".join(f"{name} {v}" for name, v in of["versions"].items()),
    ]
    for comparison in comparisons:
        lines += ["", f"## {_title(comparison)}", "", f"Truth: {comparison.truth}.", ""]
        lines += ["| " + " | ".join(COLUMNS) + " |", "|---|---:|---:|---:|---|"]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(r)) + " |" for r in comparison.results]
    return "\n".join(lines) + "\n"


def machine() -> dict[str, Any]:
    """Where, when and with what this was measured."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _title(comparison: Comparison) -> str:
    unit = f" (one step {comparison.step_seconds * 1000:.3g} ms)" if comparison.step_seconds else ""
    return f"{comparison.quantity}: {comparison.workload}{unit}"


def _cells(result: Result) -> tuple[str, ...]:
    numbers = (result.steps, ".3g"), (result.value, ".4g"), (result.error, ".1e")
    return result.arm, *("–" if v is None else format(v, form) for v, form in numbers), result.note


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
