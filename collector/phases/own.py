"""Own: the machines that judge here, those that ship and a user's own."""

from collections.abc import Iterable
from pathlib import Path

from collector.phases.machine import Machine, MachineError
from collector.phases.machine_file import load
from collector.phases.machines import MACHINES


def with_own(files: Iterable[Path | str], others: Iterable[Machine] = MACHINES) -> tuple[Machine, ...]:
    """The shipped machines, or these, and those in files of one's own; one of the same name takes the other's place.

    Raises:
        MachineError: a file cannot be read, describes no machine, or two of them have one name.
    """
    own: dict[str, tuple[Machine, Path | str]] = {}
    for file in files:
        machine = load(Path(file))
        if machine.name in own:
            raise MachineError(
                f"{own[machine.name][1]} and {file} both describe {machine.name!r}; rename or remove one."
            )
        own[machine.name] = machine, file
    machines = {machine.name: machine for machine in others} | {name: machine for name, (machine, _) in own.items()}
    return tuple(machines.values())


def named(name_or_file: str) -> Machine:
    """A shipped machine by its name, or one's own by its file.

    Raises:
        MachineError: it is neither.
    """
    found = next((machine for machine in MACHINES if machine.name == name_or_file), None)
    if found is not None:
        return found
    if not Path(name_or_file).exists():
        shipped = ", ".join(machine.name for machine in MACHINES)
        raise MachineError(f"Got {name_or_file!r}, which is no file and no shipped machine; there are {shipped}.")
    return load(Path(name_or_file))
