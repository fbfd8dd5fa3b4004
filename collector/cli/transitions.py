"""probe-collector transitions."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from collector.cli.options import AsJson, ConfigFile, StorePath, configured, plain_text
from collector.errors import StoreError
from collector.phases import Transition
from collector.store.queries import Reader, RunRow

WhichRun = Annotated[str | None, typer.Argument(help="A run's id or name; without it, the latest heard.")]


def transitions(
    run: WhichRun = None,
    config: ConfigFile = None,
    store: StorePath = None,
    as_json: AsJson = False,
) -> None:
    """Show a run's phase transitions with their evidence, each at every state it came to."""
    settings, _ = configured(config, store)
    reader = Reader(Path(settings.store.path))
    row = find_run(reader, run)
    found = reader.transitions(row.id)
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    console = Console()
    console.print(Text.assemble((plain_text(row.name).plain, "bold"), f"  {row.id}  step {row.step:,}"))
    if not found:
        console.print("No transition so far.")
    for stored in found:
        console.print(described(stored.transition))
        if stored.superseded:
            console.print("  told by rules of another version; judged again, it was not found", style="dim")


def find_run(reader: Reader, run: str | None) -> RunRow:
    """The run of this id; else of this name, the latest heard when there are several.

    Raises:
        StoreError: there is none.
    """
    rows = reader.runs(run)
    if rows:
        return next((row for row in rows if row.id == run), rows[0])  # a name may be another's id
    known = ", ".join(f"{row.name} ({row.id})" for row in reader.runs()[:10])
    if not known:
        raise StoreError(
            "Got a store that holds no run yet; attach an agent first, or name another store with --store."
        )
    raise StoreError(f"Got the run {run!r}, which is not in the store. Heard of last: {known}.")


def described(t: Transition) -> RenderableType:
    """A transition in words, for a terminal; one that is only suspected, or withdrawn, stands back."""
    subject = "".join(f" [{key} {value}]" for key, value in t.subject.items())
    early = t.state == "detected" and not t.act
    advice = t.advice if t.act or early else ""
    body = Text.assemble(
        f"{_when(t)}",
        f"\n{t.evidence.sentence}",
        *(f"\nbeside it: {aside}" for aside in t.evidence.asides),
        (f"\n→ {'once confirmed: ' if early else ''}{advice}" if advice else "", "dim" if early else "green"),
        f"\nundo: {t.undo}" if t.undo and t.act else "",
    )
    heading = Text.assemble((f"{t.machine}{subject}: {t.from_phase} → {t.to_phase}", _WEIGHTS[t.state]), f"  {t.state}")
    return Group("", plain_text(heading), Padding(plain_text(body), (0, 0, 0, 2)))


_WEIGHTS = {"suspected": "dim", "detected": "bold", "confirmed": "bold green", "retracted": "strike dim"}


def _when(t: Transition) -> str:
    low, high = t.happened_between
    if t.state == "retracted":
        return f"withdrawn at step {t.known_step:,}" + ("" if t.act else ", before anybody was told to act on it")
    told = t.state != "suspected" and t.evidence.alpha < 1.0
    sure = f", confidence {confidence(t.confidence)}" if told else ""
    first = "" if t.suspected_step in (None, t.known_step) else f", suspected at step {t.suspected_step:,}"
    place = "perhaps at" if t.state == "suspected" else "happened at"
    return f"{place} step {t.happened_step:,} ({low:,} to {high:,}){first}, {t.state} at step {t.known_step:,}{sure}"


def confidence(c: float) -> str:
    """A confidence without rounding it up to certainty: ``99.2 %``, ``> 99.9 %``."""
    return "> 99.9 %" if c > 0.999 else f"{100 * c:.1f} %"
