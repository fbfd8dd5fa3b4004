"""The house keeps its own rules: registries are complete, documents exist, the collector lives without torch."""

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from collector.cli import COMMANDS, GROUPS
from collector.config import names
from collector.phases import MACHINES
from probe_agent.probes import PROBES
from probe_wire import Outcome

ROOT = Path(__file__).parents[2]
PACKAGES = ("probe_wire", "probe_post", "probe_agent", "collector")
SOURCES = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]


def modules_in(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.py") if path.stem != "__init__"}


def test_every_probe_in_the_folder_is_registered_and_every_registered_one_is_in_the_folder() -> None:
    assert {probe.__module__.rsplit(".", 1)[1] for probe in PROBES} == modules_in(ROOT / "probe_agent" / "probes")


def test_every_command_in_the_folder_is_registered() -> None:
    assert {command.__name__ for command in COMMANDS} | set(GROUPS) == modules_in(ROOT / "collector" / "cli") - {
        "options"
    }


def test_every_probe_has_a_method_card_that_names_its_quantities() -> None:
    for probe in PROBES:
        card = (ROOT / "docs" / "methods" / f"{probe.name}.md").read_text()
        assert all(f"`{quantity.name}`" in card for quantity in probe.quantities), probe.name


def test_quantities_are_declared_once_and_in_full() -> None:
    quantities = [quantity for probe in PROBES for quantity in probe.quantities]
    assert len({q.name for q in quantities}) == len(quantities)
    assert all(q.help.endswith(".") and q.title and q.unit for q in quantities)
    for quantity in quantities:  # they fit the wire
        msgspec.convert(msgspec.to_builtins(quantity), type(quantity))


def test_every_machine_judges_a_quantity_that_some_probe_measures() -> None:
    measured = {quantity.name for probe in PROBES for quantity in probe.quantities}
    judged = {machine.quantity for machine in MACHINES}
    assert {name for name in judged if not name.startswith("observed_")} <= measured, "what a loop observes is its own"


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (
            "reference/cli.md",
            [f"probe-collector {command.__name__}" for command in COMMANDS]
            + [f"probe-collector {group}" for group in GROUPS]
            + ["probe-agent probes", "probe-agent verify", "probe-agent doctor"],
        ),
        ("reference/config.md", names()),
        ("reference/outcomes.md", [outcome.label for outcome in Outcome] + [outcome.sentence for outcome in Outcome]),
        ("reference/phases.md", [word for m in MACHINES for word in (f"`{m.name}`", f"`{m.version}`")]),
    ],
)
def test_a_reference_page_speaks_of_everything_there_is(page: str, words: list[str]) -> None:
    text = (ROOT / "docs" / page).read_text()
    assert [word for word in words if word not in text] == []


def test_links_between_documents_lead_somewhere() -> None:
    pages = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        ROOT / "SECURITY.md",
        *(ROOT / "docs").rglob("*.md"),
    ]
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []


def test_the_collector_starts_where_torch_cannot_be_imported() -> None:
    script = "import sys; sys.modules['torch'] = None; import collector.cli, collector.daemon, probe_wire"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=60)


def test_the_agent_brings_no_server_into_the_training_process() -> None:
    script = (
        "import sys, probe_agent; "
        "print([m for m in ('starlette', 'uvicorn', 'prometheus_client', 'sqlite3', 'typer', 'collector') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, cwd=ROOT, timeout=60, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"


def test_source_files_are_small_and_open_with_a_sentence() -> None:
    for path in SOURCES:
        lines = path.read_text().splitlines()
        assert len(lines) <= 330, f"{path.relative_to(ROOT)} has {len(lines)} lines: more than one idea?"
        assert lines, f"{path.relative_to(ROOT)} is empty; say what it is"
        assert lines[0].startswith('"""'), f"{path.relative_to(ROOT)} does not open with what it is"


def test_no_path_of_a_machine_is_named() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    named = re.compile(r"(?<![\w.])/(home|work|root|Users)/\w")
    found = []
    for name in listed:
        if name.startswith("collector/web/static/vendor/") or not os.path.isfile(ROOT / name):  # noqa: PTH113
            continue
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if named.search(text):
            found.append(name)
    assert found == []
