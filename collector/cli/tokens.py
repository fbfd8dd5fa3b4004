"""probe-collector tokens: what opens the page and the API."""

from pathlib import Path
from typing import Annotated

import typer

from collector.cli.options import ConfigFile, configured
from collector.errors import AccessError
from collector.tokens import SCOPES, Tokens

Which = Annotated[str | None, typer.Argument(help="read or control: print this token alone, for a script.")]
Anew = Annotated[bool, typer.Option("--new", help="Put new ones in their place, which ends every login.")]


def tokens(which: Which = None, new: Anew = False, config: ConfigFile = None) -> None:
    """Print the tokens of the page, making them where there are none. From then on nobody sees the page without one."""
    if which is not None and which not in SCOPES:
        raise AccessError(f"Got {which!r}; need read or control, or neither for both.")
    settings, _ = configured(config)
    known = Tokens(Path(settings.security.keys))
    first = not known.in_use
    known.make(anew=new)
    if which is not None:
        print(known.text(which))
        return
    for scope in SCOPES:
        print(f"{scope:<8}{known.text(scope)}  in {known.path(scope)}")
    if first:
        print("They are the first tokens: a collector that is running asks for them when it is started again.")
