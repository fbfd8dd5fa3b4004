"""probe-collector relay."""

import signal
from pathlib import Path
from typing import Annotated

import typer

from collector.config import Config, Inlet, inlet_is_local, tcp_host_port
from collector.errors import AccessError
from collector.gate import Gate
from collector.health import Health
from collector.log import to_stderr
from collector.relay import Relay
from probe_post import spools
from probe_wire.agent_key import AgentKey, KeyFileError


def relay(
    collector: Annotated[str, typer.Argument(help="The collector's inlet: tcp://HOST:PORT.")],
    listen: Annotated[
        str, typer.Option(help="Where the agents of this host send to; the default is where they look by themselves.")
    ] = "tcp://127.0.0.1:5757",
    key: Annotated[
        Path | None,
        typer.Option(help="The key file that lets this relay in.", envvar="PHASEWATCH_KEY", show_default=False),
    ] = None,
    spool: Annotated[
        Path | None, typer.Option(help="The folder in which reports wait; default as for agents.", show_default=False)
    ] = None,
) -> None:
    """Pass on the reports of every rank on this host over one connection, kept on disk until the collector has them."""
    if listen.startswith("ipc://@") or not inlet_is_local(Config(inlet=Inlet(address=listen))):
        raise AccessError(
            f"Got --listen {listen}, which others can reach; a relay serves its own host. Listen on 127.0.0.1 or on ipc://PATH, "
            "and start one on every host."
        )
    if tcp_host_port(collector) is None and not collector.startswith("ipc://"):
        raise AccessError(
            f"Got the collector {collector}; need the address of its inlet, tcp://HOST:PORT or ipc://PATH."
        )
    try:
        proof = AgentKey.load(key) if key else None
    except KeyFileError as error:
        raise AccessError(str(error)) from error
    folder = spool or _default_folder()
    to_stderr("info")
    gate = Gate(listen, None, Health())
    passing = Relay(gate, collector, proof, folder)
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, lambda *_: passing.stop())
    print(f"inlet      {gate.address}\ncollector  {collector}\nspool      {folder}", flush=True)
    passing.run()


def _default_folder() -> Path:
    """Beside the agents' own, which the next agent on this host would deliver, and not among them."""
    root = spools.root()
    if root is None:
        raise AccessError("Got PHASEWATCH_SPOOL = off; a relay keeps reports on disk. Name a folder with --spool.")
    return root.with_name(f"{root.name}-relay")
