"""The commands of ``probe-agent``: each verb is a file of this folder."""

import typer

from probe_agent.cli.probes import probes

app = typer.Typer(
    name="probe-agent",
    help="What the agent measures inside a training process. Attach it with probe_agent.attach(…).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _several_verbs() -> None:
    """Make a single command a verb, so that more can follow."""


app.command()(probes)


def main() -> None:
    """Run one command."""
    app()
