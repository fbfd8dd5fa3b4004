"""The whole of Phasewatch in one go: collector, training run, page, a phase transition found live.

Starts the collector as its own process (embedded store, own page, no other server), trains
`digits.py` as another, shows what arrives, and ends with what was found. Everything it starts ends
with it; ``--keep`` leaves the page up until Ctrl-C.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent / ".demo"
STEPS = 20_000
PATIENCE_SECONDS = 300.0

METRICS_SHOWN = 4
STATE_STYLES = {"detected": "yellow", "confirmed": "green"}

console = Console(highlight=False)


def main() -> int:
    """Run the demonstration; exit status 0 when a transition was found, shown and exported."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="keep the page up until Ctrl-C")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    for signum in (signal.SIGINT, signal.SIGTERM):  # also when started in the background, where a shell ignores Ctrl-C
        signal.signal(signum, signal.default_int_handler)
    try:
        with collector() as (page, inlet):
            console.print(
                f"\n[bold]Phasewatch[/bold]  the page is at [bold cyan]{page}[/bold cyan] – open it now and watch.\n"
            )
            run_id = train(page, inlet, arguments.steps)
            found = finished(page, run_id)
            if arguments.keep:
                console.print(f"The page stays at [cyan]{page}/runs/{run_id}[/cyan]; Ctrl-C ends it.")
                while True:
                    time.sleep(3600)
            return 0 if found else 1
    except KeyboardInterrupt:
        console.print("\nStopped; nothing is left running.")
        return 0 if arguments.keep else 130


@contextmanager
def collector() -> Iterator[tuple[str, str]]:
    """A collector process of our own: the addresses of its page and of its inlet."""
    command = [str(Path(sys.executable).parent / "probe-collector"), "serve", "--store", str(FOLDER / "phasewatch.db")]
    command += [
        "--web-port",
        str(_free_or_any(8757)),
        "--inlet-address",
        f"tcp://127.0.0.1:{_free_or_any(5757) or '*'}",
    ]
    with (FOLDER / "collector.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)  # noqa: S603 - our own program
        try:
            addresses: dict[str, str] = {}
            assert process.stdout is not None  # noqa: S101 - asked for above
            while "store" not in addresses:
                line = process.stdout.readline()
                if not line:
                    raise SystemExit(f"The collector did not start:\n{(FOLDER / 'collector.log').read_text()}")
                name, _, address = line.strip().partition(" ")
                addresses[name] = address.strip()
            _wait_until_ready(addresses["page"])
            yield addresses["page"], addresses["inlet"]
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def train(page: str, inlet: str, steps: int) -> str:
    """Train in a process of its own while printing what the collector finds; returns the run's id."""
    run_id = uuid4().hex[:12]
    # What other jobs on this machine left waiting is not for this collector, and nothing is left to theirs.
    own = os.environ | {"PHASEWATCH_RUN_ID": run_id, "PHASEWATCH_SPOOL": str(FOLDER / "spool")}
    command = [sys.executable, str(HERE / "digits.py"), "--steps", str(steps), "--collector", inlet]
    trainer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=own)  # noqa: S603 - our own program
    try:
        _follow(page, trainer, run_id, steps)
        return run_id
    finally:
        if trainer.poll() is None:
            trainer.terminate()
            trainer.wait(5)


def _follow(page: str, trainer: "subprocess.Popen[str]", run_id: str, steps: int) -> None:
    is_known = False
    shown = 0
    deadline = time.monotonic() + PATIENCE_SECONDS
    columns = (
        TextColumn("training on real digits"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=steps)
        while True:
            ended = trainer.poll() is not None
            for run in _get(f"{page}/api/runs")["runs"]:
                if run["id"] == run_id:
                    is_known = True
                    progress.update(task, completed=run["step"])
            if is_known:
                transitions = _get(f"{page}/api/runs/{run_id}/transitions")
                for stored in transitions[shown:]:
                    if was_detected(stored["transition"], transitions):
                        console.print(described(stored))
                shown = len(transitions)
            if ended:
                break
            if time.monotonic() > deadline:
                raise SystemExit(f"The training did not end within {PATIENCE_SECONDS:.0f} s.")
            time.sleep(0.25)
    if trainer.returncode != 0 or not is_known:
        raise SystemExit(f"The training process failed with exit status {trainer.returncode}.")
    assert trainer.stdout is not None  # noqa: S101 - asked for above
    console.print(f"\nThe network has learnt: {trainer.stdout.read().strip()}.")


def described(stored: dict[str, Any]) -> RenderableType:
    """A claim's new state as the terminal shows it: in full when it is detected, in a line when it is confirmed or taken back."""
    t = stored["transition"]
    mark, colour, words = {
        "detected": ("◆", "yellow", ""),
        "confirmed": ("✓", "green", f"  confirmed at step {t['known_step']:,}"),
        "retracted": ("✗", "red", f"  taken back at step {t['known_step']:,}"),
    }[t["state"]]
    heading = Text.assemble(
        (f"{mark} ", colour),
        (f"{_subject(t)}: {_words(t['from_phase'])} → {_words(t['to_phase'])}", "bold"),
        (words, colour),
    )
    if t["state"] != "detected":
        return heading
    low, high = t["happened_between"]
    certainty = f"confidence {'> 99.9' if t['confidence'] > 0.999 else format(100 * t['confidence'], '.1f')} %"
    if t["evidence"]["alpha"] >= 1:
        certainty = "a rule of thumb, whose errors nothing bounds"
    body = Text.assemble(
        f"happened at step {t['happened_step']:,} ({low:,}–{high:,}), known at step {t['known_step']:,}, {certainty}",
        (f"\n{t['evidence']['sentence']}", "dim"),
        (f"\n→ {t['advice']}" if t["advice"] else "", "green"),
    )
    return Group(heading, Padding(body, (0, 0, 1, 2)))


def was_detected(t: dict[str, Any], transitions: Sequence[dict[str, Any]]) -> bool:
    """Whether this is news of more than a suspicion."""
    if t["state"] == "suspected":
        return False
    same = ("machine", "subject", "ordinal")
    return any(
        s["transition"]["state"] == "detected" and all(s["transition"][name] == t[name] for name in same)
        for s in transitions
    )


def standing(transitions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest state of every claim that was detected and not taken back, in the order in which they became known."""
    newest: dict[tuple[object, ...], dict[str, Any]] = {}
    for t in transitions:
        newest[t["machine"], *sorted(t["subject"].items()), t["ordinal"]] = t
    return [t for t in newest.values() if t["state"] in {"detected", "confirmed"}]


def present(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each machine on the whole network, the claim by which the run is in the phase it ended in."""
    return list({t["machine"]: t for t in found if "layer" not in t["subject"]}.values())


def _subject(t: dict[str, Any]) -> str:
    of = ", ".join(f"{name} {value}" for name, value in t["subject"].items())
    return _words(t["machine"]) + (f" ({of})" if of else "")


def finished(page: str, run_id: str) -> bool:
    """The summary: what was found, what it cost, how to go on. True when it is also on /metrics."""
    detail = _get(f"{page}/api/runs/{run_id}")
    run = detail["run"]
    transitions = [stored["transition"] for stored in _get(f"{page}/api/runs/{run_id}/transitions")]
    with urllib.request.urlopen(f"{page}/metrics", timeout=10) as answer:  # noqa: S310 - our own page
        metrics = answer.read().decode().splitlines()
    exposed = [m for m in metrics if m.startswith(f'phasewatch_phase{{run="{run["name"]}') and m.endswith(" 1.0")]

    summary = Table.grid(padding=(0, 2))
    found = standing(transitions)
    for t in present(found):
        since = f"since step {t['happened_step']:,}"
        summary.add_row(
            _subject(t), Text(_words(t["to_phase"]), "bold"), since, Text(t["state"], STATE_STYLES[t["state"]])
        )
    spent = sum(rank["probe_seconds"] for rank in detail["ranks"])
    paragraphs: list[RenderableType] = [
        f"{len(found)} phase transitions in {run['step']:,} steps; {run['reports']} reports, {run['lost']} lost. The network ended in:",
        Padding(summary, (0, 2)),
        f"Measuring took {spent:.0f} s. In the first minutes of a run it may take 20 s, beyond that it keeps to 2 % of training.",
        "",
        Text("On /metrics, for Prometheus:"),
        *(Padding(Text(line, "dim", overflow="fold"), (0, 2)) for line in exposed[:METRICS_SHOWN]),
        Padding(Text(f"… and {len(exposed) - METRICS_SHOWN} more", "dim"), (0, 2)),
        "",
        Text("Go on:"),
        Padding(_next_steps(), (0, 2)),
    ]
    console.print(Panel(Group(*paragraphs), title="What was found", title_align="left", padding=(1, 2)))
    return bool(found) and bool(exposed)


def _next_steps() -> Table:
    store = (FOLDER / "phasewatch.db").relative_to(HERE.parent)
    table = Table.grid(padding=(0, 2))
    for meaning, command in (
        ("keep the page up", "KEEP=1 make demo"),
        ("attach your own training", "see examples/digits.py"),
        ("a collector of your own", ".venv/bin/probe-collector serve"),
        ("all evidence again", f".venv/bin/probe-collector transitions --store {store}"),
        ("find it again from the store", f".venv/bin/probe-collector replay --store {store}"),
    ):
        table.add_row(meaning, Text(command, "cyan", overflow="fold"))
    return table


def _words(name: str) -> str:
    return name.replace("_", " ")


def _wait_until_ready(page: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            _get(f"{page}/readyz")
        except OSError as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"The collector's page at {page} did not answer: {error}") from error
            time.sleep(0.1)
        else:
            return


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own page
        body = answer.read()
    return json.loads(body) if answer.headers.get_content_type() == "application/json" else body


def _free_or_any(port: int) -> int:
    """The port when nobody listens on it, else 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port


if __name__ == "__main__":
    sys.exit(main())
