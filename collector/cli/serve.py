"""probe-collector serve."""

from collector.cli.options import ConfigFile, InletAddress, StorePath, WebHost, WebPort, configured
from collector.daemon import Daemon
from collector.log import to_stderr


def serve(
    config: ConfigFile = None,
    store: StorePath = None,
    inlet_address: InletAddress = None,
    web_host: WebHost = None,
    web_port: WebPort = None,
) -> None:
    """Start the collector: inlet, store, phase detection, page and /metrics, until interrupted."""
    settings, _ = configured(config, store, inlet_address, web_host, web_port)
    to_stderr(settings.log.level)
    daemon = Daemon(settings)
    print(f"page    {daemon.page_address}\ninlet   {daemon.inlet_address}\nstore   {settings.store.path}")
    print(f"access  {daemon.access}", flush=True)
    daemon.run()
