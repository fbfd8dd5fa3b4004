"""probe-agent verify."""

import json
import platform
import shlex
import sys
import tempfile
import time
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from probe_agent.cli.running import run
from probe_agent.receipt import Receipt, Testimony, receipt
from probe_agent.witness import VARIABLE, WITH, WITHOUT

ADVICE = {
    "identical": "Watching left this training alone, bit by bit.",
    "differs": "Watching changed this training. Leave out probes until it does not, and please report the one it was.",
    "not repeatable": "The script does not repeat itself without the agent, so that no difference could be laid at its door: "
    "seed every random stream it uses, and turn off what is not deterministic (torch.use_deterministic_algorithms).",
    "no testimony": "No optimizer step was seen. The script must call probe_agent.attach(...) with the optimizer that trains, "
    "and take a step; not with one that has another optimizer take its steps.",
}


def verify(
    command: Annotated[list[str], typer.Argument(help="The training command, after --, such as: python train.py")],
    steps: Annotated[int, typer.Option(help="Optimizer steps to compare; each run ends there.", min=1)] = 20,
    timeout: Annotated[float, typer.Option(help="Seconds each of the three runs may take.", min=1)] = 900,
    out: Annotated[Path, typer.Option(help="Where the receipt is written, as JSON.")] = Path("phasewatch-receipt.json"),
) -> None:
    """Prove that watching leaves a training script alone: run it twice without the agent and once with it, and compare.

    The script must call probe_agent.attach(...). Each run ends after the given number of optimizer steps; what the
    script writes until then, it writes three times. Probes run whenever they are due, whatever the budget says.

    Exits with 0 where all is identical, 1 where something differs, 2 where that cannot be told.
    """
    console, runs = Console(), {}
    for name, way in (("without the agent", WITHOUT), ("without it, again", WITHOUT), ("with it", WITH)):
        with tempfile.TemporaryDirectory() as folder, console.status(f"{name} …"):
            began = time.monotonic()
            wish = f"{way}:{steps}:{folder}"
            said = run(command, {VARIABLE: wish, "PYTHONHASHSEED": "0"}, timeout)
            runs[name] = Testimony.read(Path(folder))
        reached = runs[name].length
        console.print(f"  {name:18} {reached:>4} steps {time.monotonic() - began:>7.1f} s")
        if said:
            console.print(f"[red]The command failed:[/red] {said}", highlight=False)
            raise typer.Exit(2)
    found = receipt(*runs.values())
    seal = _write(out, found, command)
    _print(console, found, out, seal)
    raise typer.Exit({"identical": 0, "differs": 1}.get(found.verdict, 2))


def _write(out: Path, found: Receipt, command: list[str]) -> str:
    """Write the receipt, sealed by the digest of its contents."""
    contents: dict[str, Any] = found.as_json() | {
        "command": shlex.join(command),
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "agent": version("phasewatch"),
        "torch": version("torch"),
        "python": sys.version.split()[0],
        "machine": platform.platform(),
    }
    seal = sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
    out.write_text(json.dumps(contents | {"sha256": seal}, indent=2) + "\n", encoding="utf-8")
    return seal


def _print(console: Console, found: Receipt, out: Path, seal: str) -> None:
    colour = {"identical": "green", "differs": "red"}.get(found.verdict, "yellow")
    console.print(f"\n[bold {colour}]{found.verdict}[/] over {found.steps} steps", highlight=False)
    if found.difference:
        where = found.difference
        console.print(f"  first at step {where.step}: [bold]{where.fact}[/]", highlight=False)
    console.print(f"  compared: {', '.join(f'{n} {kind}' for kind, n in found.compared.items())}", highlight=False)
    for stream in found.unseeded:
        console.print(f"  {stream}: not seeded by the script; compared is when it was drawn from", highlight=False)
    if found.measured:
        times = sum(int(of["times"]) for of in found.measured.values())
        seconds = sum(of["seconds"] for of in found.measured.values())
        console.print(f"  measured: {len(found.measured)} probes, {times} times, {seconds:.1f} s", highlight=False)
        for name, of in found.measured.items():
            if failed := of.get("failed"):
                console.print(f"  [yellow]{name} failed {failed:g} times[/]", highlight=False)
    console.print(f"{ADVICE[found.verdict]}\n  {out}, sealed {seal[:16]}…", highlight=False)
