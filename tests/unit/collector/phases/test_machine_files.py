"""A machine is a file anybody can write; what is wrong with one is said with its name and a remedy."""

from importlib.resources import files
from pathlib import Path

import msgspec
import pytest

from collector.phases import MACHINES, MachineError, load, machines
from collector.phases.machine_file import read

GOOD = """
name = "m"
quantity = "q"

[[phases]]
name = "a"
meaning = "As it begins."

[[phases]]
name = "b"
meaning = "It has fallen."

[[turns]]
from_phase = "a"
to_phase = "b"
when = "fall"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, "utf-8")
    return path


def test_a_file_is_a_machine(tmp_path: Path) -> None:
    m = load(written(tmp_path, GOOD))
    assert [phase.name for phase in m.phases] == ["a", "b"]
    assert (m.turns[0].when, m.turns[0].share, m.turns[0].act) == ("fall", 1.0, "detected")


def test_every_file_in_the_folder_ships_under_its_name_and_no_name_is_without_a_file() -> None:
    folder = files(machines)
    assert sorted(machines.NAMES) == sorted(path.name[:-5] for path in folder.iterdir() if path.name.endswith(".toml"))
    assert [m.name for m in MACHINES] == list(machines.NAMES)
    assert all(m.source.endswith(".") and len(m.source) > 20 for m in MACHINES)


@pytest.mark.parametrize("name", machines.NAMES)
def test_a_shipped_file_gives_the_same_version_however_often_it_is_read(name: str) -> None:
    path = Path(str(files(machines) / f"{name}.toml"))
    once, again = load(path), read(f"{name}.toml", path.read_text("utf-8"))
    assert once == again == next(m for m in MACHINES if m.name == name)
    assert once.version == again.version


def test_comments_and_order_of_fields_do_not_change_the_version() -> None:
    other = "# why\n" + GOOD.replace('name = "m"\nquantity = "q"', 'quantity = "q"\nname = "m"')
    assert read("x", other).version == read("x", GOOD).version


def test_a_machine_written_out_in_toml_is_read_as_the_same() -> None:
    for m in MACHINES:
        plain = msgspec.to_builtins(m)
        for row in (plain, *plain["turns"], *plain["asides"]):
            for key in [key for key, value in row.items() if value is None]:
                del row[key]
        assert msgspec.convert(plain, type(m)).version == m.version


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("[[turns]]", "[[turns"), r"is no TOML: .+\."),
        (('when = "fall"', 'when = "fall"\nminimum = 3'), r"unknown field `minimum`.+docs/reference/phases\.md"),
        (('when = "fall"', 'when = "sinks"'), "'sinks'.+docs/reference/phases"),
        (('quantity = "q"', ""), "missing required field `quantity`.+docs/reference/phases"),
        (('to_phase = "b"', 'to_phase = "z"'), "unknown phase z; known are a, b"),
        (('when = "fall"', 'when = "fall"\nmin_points = 3'), "min_points 3; use 8 or more"),
        (('when = "fall"', 'when = "fall"\nmin_effect = "5 %"'), "Expected `float`.+docs/reference/phases"),
    ],
)
def test_what_is_wrong_is_said_with_the_file_and_a_remedy(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    path = written(tmp_path, GOOD.replace(*change))
    with pytest.raises(MachineError, match=words) as refused:
        load(path)
    assert str(refused.value).startswith(str(path))


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"none\.toml cannot be read"):
        load(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MachineError, match=r"binary\.toml cannot be read"):
        load(tmp_path / "binary.toml")
