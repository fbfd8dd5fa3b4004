"""probe-collector runs."""

import time
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from collector.cli.options import AsJson, ConfigFile, StorePath, configured, plain_text
from collector.store.queries import Reader


def runs(config: ConfigFile = None, store: StorePath = None, as_json: AsJson = False) -> None:
    """List the runs in the store, the latest heard first."""
    settings, _ = configured(config, store)
    reader = Reader(Path(settings.store.path))
    rows = reader.runs()
    if as_json:
        print(msgspec.json.encode(rows).decode())
        return
    if not rows:
        print("No runs yet. Attach an agent: probe_agent.attach(model, optimizer, loss_fn=…, probe_batch=…, run=…)")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("id", "name", "state"):
        table.add_column(heading)
    for heading in ("step", "reports", "lost", "last heard"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.id,
            plain_text(row.name),
            plain_text((row.finished or "open") + (", thinned" if row.thinned_at is not None else "")),
            f"{row.step:,}",
            f"{row.reports:,}",
            f"{row.lost:,}",
            ago(time.time() - row.last_heard),
        )
    Console().print(table)
    if gone := reader.dropped():
        reports = sum(run.reports for run in gone)
        print(
            f"{len(gone):,} older runs with {reports:,} reports were dropped to make room, the last {ago(time.time() - gone[0].dropped_at)}."
        )


def ago(seconds: float) -> str:
    """``12 s ago``, ``3 min ago``, ``5 h ago``, ``2 d ago``."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
