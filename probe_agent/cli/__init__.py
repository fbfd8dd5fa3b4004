"""The commands of ``probe-agent``: each verb is a file of this folder."""

import typer

from probe_agent.cli.doctor import doctor
from probe_agent.cli.probes import probes
from probe_agent.cli.spool import spool
from probe_agent.cli.verify import verify

app = typer.Typer(
    name="probe-agent",
    help="What the agent measures inside a training process. Attach it with probe_agent.attach(…).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


app.command()(probes)
app.command()(verify)
app.command()(doctor)
app.add_typer(spool, name="spool")


def main() -> None:
    """Run one command."""
    app()
