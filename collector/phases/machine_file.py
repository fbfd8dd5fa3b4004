"""Machine files: a machine written down in TOML, by us or by a user, in the words of `machine`."""

from pathlib import Path

import msgspec

from collector.phases.machine import Machine, MachineError


def read(name: str, text: str) -> Machine:
    """The machine that a text in TOML describes; ``name`` is what an error calls it.

    Raises:
        MachineError: it is no TOML, lacks or has a field it should not, or contradicts itself.
    """
    try:
        return msgspec.toml.decode(text, type=Machine)
    except msgspec.ValidationError as wrong:
        raise MachineError(f"{name}: {wrong}. The fields are listed in docs/reference/phases.md.") from wrong
    except msgspec.DecodeError as wrong:
        raise MachineError(f"{name} is no TOML: {wrong}.") from wrong


def load(path: Path) -> Machine:
    """The machine in a file.

    Raises:
        MachineError: as `read`, or the file cannot be read.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as wrong:
        raise MachineError(f"{path} cannot be read: {wrong}.") from wrong
    return read(str(path), text)
