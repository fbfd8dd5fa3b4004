"""What several commands share: their options, how these become a Config, and how strangers' words may stand on a person's terminal."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from collector.config import Config, Setting, load

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="The configuration file; default phasewatch.toml where there is one.")
]
StorePath = Annotated[str | None, typer.Option("--store", help="The store's SQLite file (store.path).")]
InletAddress = Annotated[str | None, typer.Option("--inlet-address", help="Where agents send to (inlet.address).")]
WebHost = Annotated[str | None, typer.Option("--web-host", help="Address of the page (web.host).")]
WebPort = Annotated[int | None, typer.Option("--web-port", help="Port of the page (web.port); 0 takes a free one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program instead of a table for a person.")]


def configured(
    config: Path | None = None,
    store: str | None = None,
    inlet_address: str | None = None,
    web_host: str | None = None,
    web_port: int | None = None,
) -> tuple[Config, list[Setting]]:
    """The settings in force under these flags."""
    flags = {"store.path": store, "inlet.address": inlet_address, "web.host": web_host, "web.port": web_port}
    return load(config, flags)


def plain(words: str, *, lines: bool = False) -> str:
    """The words with a � for whatever a terminal would obey, hide or turn round; line breaks stay where ``lines`` may be."""
    return "".join(c if c.isprintable() or (lines and c in "\n\t") else "�" for c in words)


def plain_text(words: str | Text) -> Text:
    """The same for a table or a page of ours, where brackets mean nothing else."""
    text = words.copy() if isinstance(words, Text) else Text(words)
    text.plain = plain(text.plain, lines=isinstance(words, Text))
    return text
