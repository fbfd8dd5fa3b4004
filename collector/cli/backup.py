"""probe-collector backup."""

from pathlib import Path
from typing import Annotated

import typer

from collector.cli.options import ConfigFile, StorePath, configured
from collector.store.backup import back_up

Copy = Annotated[Path, typer.Argument(help="The file to make; it must not exist yet.")]


def backup(file: Copy, config: ConfigFile = None, store: StorePath = None) -> None:
    """Copy the store into a file, also while a collector writes to it, and look the copy over."""
    settings, _ = configured(config, store)
    runs = back_up(Path(settings.store.path), file)
    print(f"{file} holds {runs:,} runs in {file.stat().st_size / 2**20:,.1f} MB. To use it: --store {file}")
