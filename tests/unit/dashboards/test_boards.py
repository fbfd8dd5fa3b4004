"""The boards and rules as Grafana and a reader would find them, without either."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from collector.exporter import CATALOGUE
from collector.exporter.names import metric_name
from collector.health import Health
from collector.phases import ALPHA, MACHINES, NoiseCard
from collector.phases.machine import When
from collector.phases.transition import State
from dashboards import config as c
from dashboards.alerts import ALERTS, RECORDINGS
from dashboards.build import ROOT, outputs, stale
from dashboards.layout import place
from dashboards.rule import Alert
from probe_agent.probes import PROBES

Json = dict[str, Any]

BOARDS = [
    pytest.param(json.loads(path.read_text(encoding="utf-8")), id=path.stem)
    for path in sorted((ROOT / "dashboards/out").glob("*.json"))
]
EVERY_ALERT: list[Alert] = [alert for group in ALERTS.values() for alert in group]
KNOWN_PANELS = {"row", "stat", "timeseries", "heatmap", "state-timeline", "table"}
QUANTITIES = [quantity for probe in PROBES for quantity in probe.quantities]


def every_panel(board: Json) -> Iterator[Json]:
    for panel in board["panels"]:
        yield panel
        yield from panel.get("panels", ())


def charts(board: Json) -> Iterator[Json]:
    return (panel for panel in every_panel(board) if panel["type"] != "row")


def test_what_is_committed_is_what_would_be_built() -> None:
    assert stale() == [], "run `python -m dashboards.build`"


def test_every_machine_has_a_chapter_with_its_version_phases_and_shares_of_alpha() -> None:
    page = outputs()["docs/reference/phases.md"]
    for machine in MACHINES:
        chapter = page.partition(f"## `{machine.name}`\n")[2].partition("\n## ")[0]
        assert f"`{machine.version}`" in chapter
        assert all(f"| `{phase.name}`" in chapter for phase in machine.phases)
        rows = [line for line in chapter.splitlines() if line.startswith("| `") and line.count("|") == 8]
        assert len(rows) == len(machine.turns)
    parts = [float(part) for part in re.findall(r"; α ([\d.]+) %", page)]
    assert sum(parts) == pytest.approx(100 * ALPHA, rel=0.02)


def test_every_condition_of_a_turn_and_every_state_of_a_claim_is_explained() -> None:
    about = outputs()["docs/reference/phases.md"].partition("## `")[0]
    for word in (*get_args(When), *get_args(State), *get_args(get_type_hints(NoiseCard)["verdict"])):
        assert f"`{word}`" in about


def test_a_file_that_was_changed_by_hand_is_stale(tmp_path: Path) -> None:
    for path, text in outputs().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    assert stale(tmp_path) == []
    board = tmp_path / "dashboards/out/run.json"
    board.write_text(board.read_text(encoding="utf-8").replace("Phasewatch run", "My run"), encoding="utf-8")
    (tmp_path / "docs/reference/alerts.md").unlink()
    assert stale(tmp_path) == ["dashboards/out/run.json", "docs/reference/alerts.md"]


@pytest.mark.parametrize("board", BOARDS)
def test_a_board_has_a_lasting_identity_and_the_classic_model(board: Json) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,40}", board["uid"])
    assert board["schemaVersion"] == c.SCHEMA_VERSION
    assert "id" not in board
    assert "__inputs" not in board
    assert board["title"]
    assert board["description"]
    assert "phasewatch" in board["tags"]


@pytest.mark.parametrize("board", BOARDS)
def test_numbers_of_panels_and_letters_of_queries_are_unique(board: Json) -> None:
    ids = [panel["id"] for panel in every_panel(board)]
    assert len(ids) == len(set(ids))
    for panel in charts(board):
        letters = [target["refId"] for target in panel["targets"]]
        assert letters
        assert len(letters) == len(set(letters)), panel["title"]


@pytest.mark.parametrize("board", BOARDS)
def test_every_panel_says_what_it_shows_in_which_unit_and_from_which_metric(board: Json) -> None:
    known = (
        {f.name for f in CATALOGUE}
        | {metric_name(q) for q in QUANTITIES}
        | {"$metric", "process_resident_memory_bytes"}
    )
    known |= {f"{f.name}{'_total' if f.type == 'counter' else ''}" for f in Health().registry.collect()} | {
        "process_cpu_seconds_total"
    }
    for panel in charts(board):
        assert panel["type"] in KNOWN_PANELS, panel["title"]
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        named = set(re.findall(r"`([^`]+)`", panel["description"]))
        assert named, panel["title"]
        assert {name.removesuffix("_stderr") for name in named} <= known | {"${metric}"}, panel["title"]
        for target in panel["targets"]:
            used = set(re.findall(r"\b(?:phasewatch|process)_\w+", target["expr"]))
            assert {re.sub(r"_bucket$", "", name) for name in used} <= named, panel["title"]


@pytest.mark.parametrize("board", BOARDS)
def test_every_question_goes_to_the_data_source_the_reader_chose(board: Json) -> None:
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    (variable,) = [v for v in board["templating"]["list"] if v["type"] == "datasource"]
    assert (variable["name"], variable["query"]) == ("datasource", "prometheus")
    for panel in charts(board):
        assert panel["datasource"] == chosen
        assert all(target["datasource"] == chosen for target in panel["targets"])
    assert all(v["datasource"] == chosen for v in board["templating"]["list"] if v["type"] == "query")
    assert all(a["datasource"] == chosen for a in board["annotations"]["list"])


@pytest.mark.parametrize("board", BOARDS)
def test_variables_are_chained_and_asked_anew_when_the_time_changes(board: Json) -> None:
    variables = board["templating"]["list"]
    assert [v["name"] for v in variables][:4] == ["datasource", "job", "run", "layer"]
    known = {"datasource"}
    for variable in variables[1:]:
        assert set(re.findall(r"\$(\w+)", variable["query"]["query"])) <= known
        assert variable["refresh"] == 2
        known.add(variable["name"])
    layer = variables[3]
    assert (layer["multi"], layer["includeAll"], layer["allValue"]) == (True, True, ".+")


@pytest.mark.parametrize("board", BOARDS)
def test_every_query_is_about_the_collector_chosen_and_uses_only_known_variables(board: Json) -> None:
    known = {v["name"] for v in board["templating"]["list"]} | {"__rate_interval"}
    for panel in charts(board):
        for target in panel["targets"]:
            assert set(re.findall(r"\$\{?(\w+)", target["expr"])) <= known, panel["title"]
            selectors = re.findall(r"{([^{}]*)}", re.sub(r"\$\{\w+}", "$x", target["expr"]))
            assert selectors, panel["title"]
            assert all('job="$job"' in selector for selector in selectors), panel["title"]


@pytest.mark.parametrize("board", BOARDS)
def test_every_rate_is_taken_over_the_window_grafana_computes(board: Json) -> None:
    seen = 0
    for panel in charts(board):
        for target in panel["targets"]:
            windows = re.findall(r"\[([^\]]*)\]", target["expr"])
            seen += len(windows)
            assert set(windows) <= {"$__rate_interval"}, panel["title"]
    assert seen


@pytest.mark.parametrize("board", BOARDS)
def test_no_panel_lies_on_another_or_outside_the_grid(board: Json) -> None:
    for level in (board["panels"], *(panel["panels"] for panel in board["panels"] if panel["type"] == "row")):
        cells: set[tuple[int, int]] = set()
        for panel in level:
            at = panel["gridPos"]
            assert at["x"] + at["w"] <= 24, panel["title"]
            own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not own & cells, panel["title"]
            cells |= own


@pytest.mark.parametrize("board", BOARDS)
def test_every_override_meets_something(board: Json) -> None:
    for panel in charts(board):
        legends = {target["legendFormat"] for target in panel["targets"]}
        letters = {target["refId"] for target in panel["targets"]}
        for override in panel["fieldConfig"]["overrides"]:
            matcher = override["matcher"]
            if matcher["id"] == "byFrameRefID":
                assert matcher["options"] in letters, panel["title"]
            elif panel["title"] != "State":  # there the label's value is the name
                assert matcher["options"] in legends, panel["title"]
            for change in override["properties"]:
                if change["id"] == "custom.fillBelowTo":
                    assert change["value"] in legends, panel["title"]


@pytest.mark.filterwarnings(
    "ignore:Prefer using dashboardv2:DeprecationWarning"
)  # servers before 12.4 cannot read that
@pytest.mark.parametrize("board", BOARDS)
def test_grafanas_own_types_know_every_key(board: Json) -> None:
    """Read by Grafana's typed models and written again, nothing is missing: no key is misspelt or in the wrong place."""
    pytest.importorskip("grafana_foundation_sdk", reason="the extra [grafana] is not installed")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    read = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(board)))
    assert list(_lost(board, read, "")) == []


def test_every_quantity_has_a_band_and_the_layered_ones_a_map() -> None:
    board = json.loads(outputs()["dashboards/out/run.json"])
    for quantity in QUANTITIES:
        (panel,) = [p for p in charts(board) if p["title"] == quantity.title]
        metric = metric_name(quantity)
        assert [f"{metric}_stderr" in target["expr"] for target in panel["targets"]] == [False, True, True]
    assert set(c.LAYERED) <= {quantity.name for quantity in QUANTITIES}
    assert len([p for p in charts(board) if p["type"] == "heatmap"]) == len(c.LAYERED)


def test_the_timeline_names_every_phase_of_every_machine() -> None:
    board = json.loads(outputs()["dashboards/out/run.json"])
    (panel,) = [p for p in charts(board) if p["type"] == "state-timeline"]
    for machine, target, override in zip(MACHINES, panel["targets"], panel["fieldConfig"]["overrides"], strict=True):
        assert f'machine="{machine.name}"' in target["expr"]
        assert override["matcher"]["options"] == target["refId"]
        (mapping,) = override["properties"][0]["value"]
        texts = [mapping["options"][str(code)]["text"] for code in range(len(machine.phases))]
        assert texts == [phase.name.replace("_", " ") for phase in machine.phases]
        assert len({shown["color"] for shown in mapping["options"].values()}) == len(machine.phases)


def test_place_fills_lines_and_numbers_the_panels_of_a_row() -> None:
    wide, high = {"type": "stat", "gridPos": {"w": 16, "h": 4}}, {"type": "stat", "gridPos": {"w": 8, "h": 6}}
    placed = place([high, wide, wide, {"type": "row", "panels": [high, high]}, high])
    assert [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in placed] == [(0, 0), (8, 0), (0, 6), (0, 10), (0, 11)]
    assert [p["id"] for p in placed] == [1, 2, 3, 4, 7]
    assert [p["id"] for p in placed[3]["panels"]] == [5, 6]


@pytest.mark.parametrize("alert", EVERY_ALERT, ids=lambda alert: alert.name)
def test_every_alert_says_what_how_bad_why_and_what_to_do(alert: Alert) -> None:
    assert alert.severity in {"critical", "warning", "info", "none"}
    assert alert.summary.endswith(".")
    assert len(alert.description) > len(alert.summary)
    page, _, anchor = alert.anchor.partition("#")
    headings = re.findall(r"^## (.+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert anchor in {heading.lower().replace(" ", "-") for heading in headings}
    assert alert.meaning in (ROOT / page).read_text(encoding="utf-8")
    assert alert.remedy in (ROOT / page).read_text(encoding="utf-8")


def test_rules_have_names_of_their_own_and_recordings_name_their_level() -> None:
    names = [alert.name for alert in EVERY_ALERT] + [rule.name for group in RECORDINGS.values() for rule in group]
    assert len(names) == len(set(names))
    for group in RECORDINGS.values():
        assert all(re.fullmatch(r"[a-z_]+:phasewatch_[a-z_]+:[a-z]+", rule.name) for rule in group)


def test_the_phase_that_ends_the_critical_period_is_one_that_can_be_entered() -> None:
    name, phase = c.CRITICAL_PERIOD
    (machine,) = [machine for machine in MACHINES if machine.name == name]
    assert phase in {turn.to_phase for turn in machine.turns}


def test_the_reference_page_has_a_line_for_every_metric() -> None:
    page = (ROOT / "docs/reference/metrics.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    own = {f"{f.name}{'_total' if f.type == 'counter' else ''}" for f in Health().registry.collect()}
    assert len(listed) == len(set(listed))
    assert set(listed) == {f.name for f in CATALOGUE} | {metric_name(q) for q in QUANTITIES} | own


def _lost(mine: Any, theirs: Any, path: str) -> Iterator[str]:
    """The paths of what the typed models did not keep."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key, value in mine.items():
            if key in theirs:
                yield from _lost(value, theirs[key], f"{path}.{key}")
            elif value not in (None, "", [], {}, False):
                yield f"{path}.{key}"
    elif isinstance(mine, list) and isinstance(theirs, list):
        for i, (one, other) in enumerate(zip(mine, theirs, strict=True)):
            yield from _lost(one, other, f"{path}[{i}]")
    elif mine != theirs:
        yield f"{path}: {mine!r} became {theirs!r}"
