"""The *Run* board: one run, from its state to its layers."""

from collections.abc import Mapping, Sequence

from dashboards import config as c
from dashboards.costs import collector, losses, noise, probes
from dashboards.layout import place
from dashboards.panels import DATASOURCE, Json, row
from dashboards.quantities import by_probe, everything, layer_by_layer
from dashboards.tiles import Machines, phases, tiles
from dashboards.variables import choice, datasource
from probe_wire import Quantity

JOB = 'job="$job"'
RUN = f'{JOB}, run="$run"'


def board(quantities: Mapping[str, Sequence[Quantity]], machines: Machines) -> Json:
    """The board as Grafana reads it.

    Args:
        quantities: what each probe measures, in the order to show it.
        machines: the phases of each machine and what they mean, in the order of their codes.
    """
    return {
        "uid": c.BOARD_UID,
        "title": "Phasewatch run",
        "description": "One training run: its phases, what its probes measure, and what that costs.",
        "tags": ["phasewatch"],
        "schemaVersion": c.SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one crosshair over all panels: did the sharpness turn when the Fisher trace did?
        "refresh": c.REFRESH,
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "fiscalYearStartMonth": 0,
        "weekStart": "",
        "annotations": {"list": [_transitions()]},
        "links": [_other_boards()],
        "templating": {"list": _variables()},
        "panels": place(
            [
                *tiles(RUN),
                *phases(RUN, machines),
                *by_probe(RUN, quantities),
                row("Layer by layer", collapsed=True, panels=layer_by_layer(RUN, quantities)),
                row("Every quantity that reports", collapsed=True, panels=everything(RUN)),
                row("Probes"),
                *probes(RUN),
                row("Noise", collapsed=True, panels=noise(RUN)),
                row("What was lost", collapsed=True, panels=losses(RUN)),
                row("Collector", collapsed=True, panels=collector(JOB)),
            ]
        ),
    }


def _variables() -> list[Json]:
    return [
        datasource(),
        choice("job", "Collector", "label_values(phasewatch_build_info, job)"),
        choice("run", "Run", f"label_values(phasewatch_run_info{{{JOB}}}, run)"),
        choice("layer", "Layer", f'label_values(phasewatch_estimate_outcome{{{RUN}, layer!=""}}, layer)', several=True),
        choice(
            "metric",
            "Quantity",
            f'label_values({{__name__=~"phasewatch_.+_stderr", {RUN}}}, __name__)',
            several=True,
            regex="/^(?!.*_paired_stderr$)(.+)_stderr$/",  # whatever has a standard error is a quantity
        ),
    ]


def _transitions() -> Json:
    """A line at each transition, at the time it became known."""
    return {
        "name": "Transitions",
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": "#B877D9",
        "expr": f"phasewatch_phase_last_transition_timestamp_seconds{{{RUN}}} * 1000",
        "useValueForTime": "on",
        "step": "60s",
        "titleFormat": "{{machine}}",
        "textFormat": "a phase was entered",
        "tagKeys": "machine",
    }


def _other_boards() -> Json:
    return {
        "type": "dashboards",
        "title": "Phasewatch",
        "tags": ["phasewatch"],
        "asDropdown": True,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "icon": "external link",
        "tooltip": "",
        "url": "",
    }
