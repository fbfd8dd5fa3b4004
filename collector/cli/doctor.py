"""probe-collector doctor."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from collector.cli.options import AsJson, ConfigFile, StorePath, configured
from collector.errors import StoreError
from collector.store.compaction import compact
from collector.store.examination import examine
from collector.store.owner import Owner


def doctor(
    config: ConfigFile = None,
    store: StorePath = None,
    as_json: AsJson = False,
    compacted: Annotated[
        bool,
        typer.Option(
            "--compact", help="First write the file anew, as small as it can be; no collector may be running."
        ),
    ] = False,
) -> None:
    """Look a store over: is it whole, is every acknowledged report in it, is there room? Exit status 1 where something is wrong."""
    settings, _ = configured(config, store)
    path = Path(settings.store.path)
    if not path.exists():
        raise StoreError(
            f"Got the store {path}, which does not exist. Start `probe-collector serve` once, or pass --store."
        )
    if compacted:
        with closing(Owner(path)):
            compact(path)
    findings = list(examine(path))
    if as_json:
        print(msgspec.json.encode(findings).decode())
    else:
        table = Table(box=None, pad_edge=False, show_header=False)
        for one in findings:
            mark = "[red]✗[/red]" if one.remedy else "[green]✓[/green]"
            table.add_row(mark, one.what, one.found + (f"\n→ {one.remedy}" if one.remedy else ""))
        Console().print(table)
    if any(one.remedy for one in findings):
        raise typer.Exit(1)
