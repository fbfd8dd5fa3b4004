"""Panels: the few kinds of chart our boards are made of, as Grafana's classic model spells them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dashboards import config as c

Json = dict[str, Any]

DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
"""The width of Grafana's grid."""


def query(expr: str, legend: str = "", *, instant: bool = False) -> Json:
    """One question to Prometheus. Asked for the present moment only, and without a legend, it fills a table."""
    return {
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": " ".join(expr.split()),
        "format": "table" if instant and not legend else "time_series",
        "instant": instant,
        "range": not instant,
        "legendFormat": legend or "__auto",
    }


def tile(title: str, about: str, ask: Json, *, unit: str = "none", name: bool = False, **defaults: Any) -> Json:
    """A number, or with ``name`` the word that is true at present."""
    return _panel(
        "stat",
        title,
        about,
        [ask],
        defaults={"unit": unit, "noValue": "none", **defaults},
        options={
            "colorMode": "value" if "thresholds" in defaults or name else "none",
            "graphMode": "none",
            "justifyMode": "center",
            "orientation": "auto",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "textMode": "name" if name else "auto",
        },
    )


def band(title: str, about: str, metric: str, labels: str, *, unit: str, log: bool = False) -> Json:
    """One estimate between its value minus and plus its standard error."""
    value, error = f"avg({metric}{{{labels}}})", f"avg({metric}_stderr{{{labels}}})"
    quiet: list[Json] = [
        {"id": "custom.lineWidth", "value": 0},
        {"id": "custom.showPoints", "value": "never"},
        {"id": "custom.hideFrom", "value": {"legend": True, "tooltip": False, "viz": False}},
        {"id": "color", "value": {"mode": "fixed", "fixedColor": "#5794F2"}},
    ]
    fill: list[Json] = [{"id": "custom.fillBelowTo", "value": "− 1 se"}, {"id": "custom.fillOpacity", "value": 25}]
    return chart(
        title,
        about,
        [query(value, "value"), query(f"{value} + {error}", "+ 1 se"), query(f"{value} - {error}", "− 1 se")],
        unit=unit,
        log=log,
        overrides=[
            _override("value", [{"id": "color", "value": {"mode": "fixed", "fixedColor": "#5794F2"}}]),
            _override("+ 1 se", quiet + fill),
            _override("− 1 se", quiet),
        ],
    )


def chart(
    title: str,
    about: str,
    ask: Sequence[Json],
    *,
    unit: str = "none",
    log: bool = False,
    stack: bool = False,
    overrides: Iterable[Json] = (),
    **defaults: Any,
) -> Json:
    """Lines over time."""
    custom = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 20 if stack else 0,
        "showPoints": "auto",
        "spanNulls": 120_000,  # ms: probes may be minutes apart, a run that ended must not be drawn on
        "scaleDistribution": {"type": "log", "log": 10} if log else {"type": "linear"},
        "stacking": {"mode": "normal" if stack else "none", "group": "A"},
    }
    return _panel(
        "timeseries",
        title,
        about,
        ask,
        defaults={"unit": unit, "custom": custom, **defaults},
        overrides=overrides,
        options={
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "none"},
        },
    )


def depth_map(title: str, about: str, expr: str, *, unit: str, log: bool) -> Json:
    """Layers × time. Rows come in the order of their names, which is why those begin with the layer's number."""
    return _panel(
        "heatmap",
        f"{title}, log₁₀" if log else title,
        about,
        [query(f"log10({expr})" if log else expr, "{{layer}}")],
        defaults={"unit": "none" if log else unit, "custom": {"scaleDistribution": {"type": "linear"}}},
        options={
            "calculate": False,
            "cellGap": 0,
            "color": {
                "mode": "scheme",
                "scheme": "Viridis",
                "steps": 64,
                "reverse": False,
                "fill": "dark-orange",
                "exponent": 0.5,
            },
            "cellValues": {"unit": "none" if log else unit},
            "filterValues": {
                "le": -1e300
            },  # by default it hides what is 1e-9 or less: a dead layer, every negative logarithm
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "showValue": "never",
            "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": True},
            "yAxis": {"axisPlacement": "left", "reverse": False},
        },
    )


def timeline(title: str, about: str, phases: Mapping[str, tuple[Json, Sequence[str]]]) -> Json:
    """One band for each machine, whose codes are written as the phases' names.

    Args:
        title: the panel's.
        about: the panel's description.
        phases: machine to its query and its phases in the order of their codes.
    """
    overrides = []
    for letter, (_, names) in zip(_LETTERS, phases.values(), strict=False):
        shown = {
            str(code): {
                "text": name.replace("_", " "),
                "color": c.PHASE_COLOURS[code % len(c.PHASE_COLOURS)],
                "index": code,
            }
            for code, name in enumerate(names)
        }
        mappings = {"id": "mappings", "value": [{"type": "value", "options": shown}]}
        overrides.append({"matcher": {"id": "byFrameRefID", "options": letter}, "properties": [mappings]})
    return _panel(
        "state-timeline",
        title,
        about,
        [ask for ask, _ in phases.values()],
        defaults={"unit": "none", "custom": {"fillOpacity": 80, "lineWidth": 0, "insertNulls": 120_000}},
        overrides=overrides,
        options={
            "alignValue": "left",
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
            "mergeValues": True,
            "rowHeight": 0.8,
            "showValue": "auto",
            "tooltip": {"mode": "single", "sort": "none"},
        },
    )


def table(title: str, about: str, ask: Sequence[Json], columns: Mapping[str, str], *, hide: Iterable[str]) -> Json:
    """The newest values of several questions, joined on the labels they share."""
    return _panel(
        "table",
        title,
        about,
        ask,
        defaults={"unit": "none", "noValue": "none yet", "custom": {"align": "auto", "cellOptions": {"type": "auto"}}},
        options={"showHeader": True, "cellHeight": "sm"},
        transformations=[
            {"id": "merge", "options": {}},
            {
                "id": "organize",
                "options": {
                    "excludeByName": dict.fromkeys(hide, True),
                    "renameByName": dict(columns),
                    "indexByName": {name: place for place, name in enumerate(columns)},
                },
            },
        ],
    )


def row(title: str, *, collapsed: bool = False, panels: Sequence[Json] = ()) -> Json:
    """A heading. A collapsed one holds its panels, which ask nothing until it is opened."""
    return {"type": "row", "title": title, "collapsed": collapsed, "panels": list(panels)}


_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _override(name: str, properties: Sequence[Json]) -> Json:
    return {"matcher": {"id": "byName", "options": name}, "properties": list(properties)}


def _panel(
    kind: str,
    title: str,
    about: str,
    ask: Sequence[Json],
    *,
    defaults: Json,
    options: Json,
    overrides: Iterable[Json] = (),
    transformations: Sequence[Json] = (),
) -> Json:
    panel: Json = {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": DATASOURCE,
        "targets": [{**one, "refId": letter} for letter, one in zip(_LETTERS, ask, strict=False)],
        "fieldConfig": {"defaults": defaults, "overrides": list(overrides)},
        "options": options,
    }
    if transformations:
        panel["transformations"] = list(transformations)
    return panel


def fixed(colour: str) -> Json:
    """One colour, whatever the value."""
    return {"mode": "fixed", "fixedColor": colour}


def thresholds(*steps: tuple[float, str]) -> Json:
    """Green up to the first step, then each step's colour."""
    above = [{"value": value, "color": colour} for value, colour in steps]
    return {"mode": "absolute", "steps": [{"color": "green", "value": None}, *above]}
