"""probe-collector export."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from collector.cli.options import ConfigFile, StorePath, configured, plain
from collector.cli.transitions import WhichRun, find_run
from collector.store import export as exporting
from collector.store.queries import Reader

Out = Annotated[Path, typer.Option("--out", help="The file to make: its ending, .parquet or .csv, says of which kind.")]


def export(out: Out, run: WhichRun = None, config: ConfigFile = None, store: StorePath = None) -> None:
    """Write every point of a run to a table, one row a point."""
    settings, _ = configured(config, store)
    reader = Reader(Path(settings.store.path))
    row = find_run(reader, run)
    if row.thinned_at is not None:
        print(f"Of {plain(row.name)} only the extremes of its curves are kept; the rest was thinned.", file=sys.stderr)
    count = exporting.export(reader, row, out)
    print(f"{count:,} points of {plain(row.name)} are in {out}.")
