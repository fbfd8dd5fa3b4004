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
    """What each machine that has left its first phase says over time, and what became of its newest claim."""
    asked = {}
    for machine, names in machines.items():
        code = f'max by (machine) (phasewatch_phase_code{{{run}, machine="{machine}", layer=""}})'
        moved = f'sum by (machine) (phasewatch_transitions_total{{{run}, machine="{machine}"}} @ end()) > 0'
        asked[machine] = (query(f"{code} and {moved}", "{{machine}}"), tuple(names))
    newest = [
        query(
            f"{metric}{{{run}}} * ignoring (to_phase, state) group_left (to_phase, state) (phasewatch_phase_claim{{{run}}} == 1)",
            instant=True,
        )
        for metric in (
            "phasewatch_transition_happened_step",
            "phasewatch_transition_known_step",
            "phasewatch_transition_confidence_ratio",
        )
    ]
    columns = {
        "machine": "Machine",
        "to_phase": "Phase",
        "state": "State",
        "layer": "Layer",
        "Value #A": "Happened at step",
        "Value #B": "Known at step",
        "Value #C": "Confidence",
    }
    about = (
        "The newest claim of each machine that was detected: what became of it, when it took place, when it was known, and how "
        "surely. Metrics: `phasewatch_phase_claim`, `phasewatch_transition_happened_step`, `phasewatch_transition_known_step`, "
        "`phasewatch_transition_confidence_ratio`."
    )
    return [
        sized(14, 10, timeline("Phases", _meanings(machines), asked)),
        sized(
            10,
            10,
            table("Newest claims", about, newest, columns, hide=("Time", "__name__", "instance", "job", "run")),
        ),
    ]


def _meanings(machines: Machines) -> str:
    lines = [
        f"- {machine}: **{phase}** {meaning}" for machine, known in machines.items() for phase, meaning in known.items()
    ]
    about = "What each machine that has left its first phase says, over time. Metrics: `phasewatch_phase_code`, `phasewatch_transitions_total`."
    return "\n".join([about, "", *lines])


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
        "The phase the whole network is in by each machine that has left its first. Metrics: `phasewatch_phase`, "
        "`phasewatch_phase_code`.",
        query(
            f'phasewatch_phase{{{run}, layer=""}} == 1 and ignoring (phase) phasewatch_phase_code{{{run}, layer=""}} > 0',
            "{{machine}}: {{phase}}",
            instant=True,
        ),
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
