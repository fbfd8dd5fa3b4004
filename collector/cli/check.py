"""probe-collector check."""

from rich.console import Console
from rich.table import Table

from collector.cli.options import ConfigFile, InletAddress, StorePath, WebHost, WebPort, configured
from collector.phases.own import with_own


def check(
    config: ConfigFile = None,
    store: StorePath = None,
    inlet_address: InletAddress = None,
    web_host: WebHost = None,
    web_port: WebPort = None,
) -> None:
    """Print every setting as `serve` would use it, and where its value came from."""
    chosen, settings = configured(config, store, inlet_address, web_host, web_port)
    with_own(chosen.phases.machines)  # one that contradicts itself is told here, not when the collector is started
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("setting", "value", "from"):
        table.add_column(heading, no_wrap=True)
    table.add_column("meaning")
    for setting in settings:
        table.add_row(setting.name, _text(setting.value), setting.source, setting.help.replace("``", ""))
    Console().print(table)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "–"
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)
