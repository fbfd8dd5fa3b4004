"""The commands of ``probe-collector``: each verb is a file of this folder."""

import sys

import typer

from collector.cli.backtest import backtest
from collector.cli.backup import backup
from collector.cli.check import check
from collector.cli.doctor import doctor
from collector.cli.export import export
from collector.cli.forward import forward
from collector.cli.keys import keys
from collector.cli.options import plain
from collector.cli.plan import plan
from collector.cli.relay import relay
from collector.cli.replay import replay
from collector.cli.rules import rules
from collector.cli.runs import runs
from collector.cli.serve import serve
from collector.cli.tokens import tokens
from collector.cli.transitions import transitions
from collector.errors import CollectorError
from collector.phases import MachineError

COMMANDS = (serve, relay, check, runs, transitions, replay, plan, backtest, tokens, doctor, backup, export, forward)
GROUPS = {"keys": keys, "rules": rules}
"""Verbs that have verbs of their own."""

app = typer.Typer(
    name="probe-collector",
    help="Keeps what training agents report, finds phase transitions, shows them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in COMMANDS:
    app.command()(command)
for name, group in GROUPS.items():
    app.add_typer(group, name=name)


def main() -> None:
    """Run one command; what a person can mend is one line on standard error and exit status 2."""
    try:
        app()
    except (CollectorError, MachineError) as error:
        print(f"probe-collector: {plain(str(error), lines=True)}", file=sys.stderr)
        raise SystemExit(2) from None
