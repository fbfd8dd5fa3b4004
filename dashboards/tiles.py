"""The first screen of the *Run* board: how the run is, and which phases it is in."""

from collections.abc import Mapping

from dashboards import config as c
from dashboards.layout import sized
from dashboards.panels import Json, fixed, query, table, thresholds, tile, timeline

Machines = Mapping[str, Mapping[str, str]]
"""Machine to its phases, in the order of their codes, each with its meaning."""


def tiles(run: str) -> list[Json]:
    """The row of numbers and words; ``run`` selects the run's series."""
    return [
        sized(3, 4, _step(run)),
        sized(3, 4, _state(run)),
        sized(6, 4, _phases_now(run)),
        sized(3, 4, _overhead(run)),
        sized(3, 4, _lost(run)),
        sized(3, 4, _last_heard(run)),
        sized(3, 4, _not_ok(run)),
    ]


def phases(run: str, machines: Machines) -> list[Json]:
    """What each machine says over time, and what it saw last."""
    asked = {}
    for machine, names in machines.items():
        code = f'max by (machine) (phasewatch_phase_code{{{run}, machine="{machine}", layer=""}})'
        asked[machine] = (query(code, "{{machine}}"), tuple(names))
    newest = [
        query(f"{metric}{{{run}}}", instant=True)
        for metric in (
            "phasewatch_transition_happened_step",
            "phasewatch_transition_known_step",
            "phasewatch_transition_confidence_ratio",
        )
    ]
    columns = {
        "machine": "Machine",
        "layer": "Layer",
        "Value #A": "Happened at step",
        "Value #B": "Known at step",
        "Value #C": "Confidence",
    }
    about = (
        "When the newest transition of each machine took place, when it was known, and how surely. Metrics: "
        "`phasewatch_transition_happened_step`, `phasewatch_transition_known_step`, `phasewatch_transition_confidence_ratio`."
    )
    return [
        sized(14, 8, timeline("Phases", _meanings(machines), asked)),
        sized(
            10,
            8,
            table("Newest transitions", about, newest, columns, hide=("Time", "__name__", "instance", "job", "run")),
        ),
    ]


def _meanings(machines: Machines) -> str:
    lines = [
        f"- {machine}: **{phase}** {meaning}" for machine, known in machines.items() for phase, meaning in known.items()
    ]
    return "\n".join(["What each machine says, over time. Metric: `phasewatch_phase_code`.", "", *lines])


def _step(run: str) -> Json:
    about = "The furthest step any rank reported. Metric: `phasewatch_run_step`."
    return tile("Step", about, query(f"phasewatch_run_step{{{run}}}", "step", instant=True), unit="locale")


def _state(run: str) -> Json:
    panel = tile(
        "State",
        "running, silent (not heard for a minute) or finished. Metric: `phasewatch_run_state`.",
        query(f"phasewatch_run_state{{{run}}} == 1", "{{state}}", instant=True),
        name=True,
    )
    panel["fieldConfig"]["overrides"] = [
        {"matcher": {"id": "byName", "options": state}, "properties": [{"id": "color", "value": fixed(colour)}]}
        for state, colour in c.STATE_COLOURS.items()
    ]
    return panel


def _phases_now(run: str) -> Json:
    return tile(
        "Phases now",
        "The phase each machine says the whole network is in. Metric: `phasewatch_phase`.",
        query(f'phasewatch_phase{{{run}, layer=""}} == 1', "{{machine}}: {{phase}}", instant=True),
        name=True,
        color=fixed(c.PHASE_COLOURS[0]),
    )


def _overhead(run: str) -> Json:
    return tile(
        "Overhead",
        f"The agent's share of the run's time, on the slowest rank; an alert at {c.OVERHEAD_RATIO:.0%}. "
        "Metric: `phasewatch_agent_overhead_ratio`.",
        query(f"max(phasewatch_agent_overhead_ratio{{{run}}})", "overhead", instant=True),
        unit="percentunit",
        decimals=1,
        thresholds=thresholds((c.OVERHEAD_RATIO, "orange")),
    )


def _lost(run: str) -> Json:
    return tile(
        "Reports lost",
        "Gaps in the run's record. Metric: `phasewatch_run_lost_reports_total`.",
        query(f"sum(phasewatch_run_lost_reports_total{{{run}}})", "lost", instant=True),
        thresholds=thresholds((1, "orange")),
    )


def _last_heard(run: str) -> Json:
    return tile(
        "Last heard",
        "How long ago. Metric: `phasewatch_run_last_report_timestamp_seconds`.",
        query(f"time() - max(phasewatch_run_last_report_timestamp_seconds{{{run}}})", "ago", instant=True),
        unit="s",
        decimals=0,
    )


def _not_ok(run: str) -> Json:
    return tile(
        "Estimates not ok",
        "How many of the newest estimates are neither ok nor not applicable. Metric: `phasewatch_estimates`.",
        query(f'sum(phasewatch_estimates{{{run}, outcome!~"ok|not_applicable"}})', "not ok", instant=True),
        thresholds=thresholds((1, "orange")),
    )
