"""The commands of ``probe-collector``: each verb is a file of this folder."""

import sys

import typer

from collector.cli.check import check
from collector.cli.replay import replay
from collector.cli.runs import runs
from collector.cli.serve import serve
from collector.cli.transitions import transitions
from collector.errors import CollectorError

COMMANDS = (serve, check, runs, transitions, replay)

app = typer.Typer(
    name="probe-collector",
    help="Keeps what training agents report, finds phase transitions, shows them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """Run one command; what a person can mend is one line on standard error and exit status 2."""
    try:
        app()
    except CollectorError as error:
        print(f"probe-collector: {error}", file=sys.stderr)
        raise SystemExit(2) from None
