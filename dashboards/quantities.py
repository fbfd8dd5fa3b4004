"""What a run measures: each quantity with its band, the layered ones through the depth of the network."""

from collections.abc import Mapping, Sequence

from collector.exporter.names import metric_name
from dashboards import config as c
from dashboards.layout import sized
from dashboards.panels import Json, band, chart, depth_map, query, row
from probe_wire import Quantity


def by_probe(run: str, quantities: Mapping[str, Sequence[Quantity]]) -> list[Json]:
    """A row for each probe; open are those a phase is judged by, the others cost nothing until they are opened."""
    panels: list[Json] = []
    for probe, of in quantities.items():
        title, drawn = probe.replace("_", " ").capitalize(), _whole(run, of)
        panels += [row(title), *drawn] if probe in c.OPEN else [row(title, collapsed=True, panels=drawn)]
    return panels


def _whole(run: str, quantities: Sequence[Quantity]) -> list[Json]:
    """The whole network's value of each quantity, and the layers' beside it."""
    panels: list[Json] = []
    for quantity in quantities:
        panels.append(sized(12, 8, _band(quantity, quantity.title, f'{run}, layer=""')))
        if quantity.name in c.LAYERED:
            panels.append(sized(12, 8, _depth(quantity, run)))
    return panels


def layer_by_layer(run: str, quantities: Mapping[str, Sequence[Quantity]]) -> list[Json]:
    """A band for each layer: drawn when its row is opened, for the layers chosen."""
    layered = [quantity for of in quantities.values() for quantity in of if quantity.name in c.LAYERED]
    return [
        sized(6, 7, _band(quantity, f"{quantity.title}: $layer", f'{run}, layer=~"$layer"'), repeat="layer", per_row=4)
        for quantity in layered
    ]


def everything(run: str) -> list[Json]:
    """A panel for each quantity there is, also of a probe this board was built without."""
    labels = f'{run}, layer=~"$layer|"'
    value, error = f'{{__name__="$metric", {labels}}}', f'{{__name__="${{metric}}_stderr", {labels}}}'
    quiet: list[Json] = [
        {"id": "custom.lineStyle", "value": {"fill": "dot", "dash": [1, 6]}},
        {"id": "custom.showPoints", "value": "never"},
        {"id": "custom.hideFrom", "value": {"legend": True, "tooltip": True, "viz": False}},
    ]
    panel = chart(
        "$metric",
        "The value of each series, and dotted one standard error above and below it. Metrics: `$metric`, `${metric}_stderr`.",
        [
            query(value, "rank {{rank}} {{layer}}"),
            query(f"{value} + {error}", "+ {{rank}} {{layer}}"),
            query(f"{value} - {error}", "− {{rank}} {{layer}}"),
        ],
        overrides=[{"matcher": {"id": "byFrameRefID", "options": letter}, "properties": quiet} for letter in "BC"],
    )
    return [sized(8, 8, panel, repeat="metric", per_row=3)]


def _band(quantity: Quantity, title: str, labels: str) -> Json:
    return band(
        title, _about(quantity), metric_name(quantity), labels, unit=_unit(quantity), log=quantity.scale == "log"
    )


def _depth(quantity: Quantity, run: str) -> Json:
    return depth_map(
        f"{quantity.title} through the depth",
        f"{_about(quantity)} The first layer is at the bottom.",
        f'avg by (layer) ({metric_name(quantity)}{{{run}, layer=~"$layer"}})',
        unit=_unit(quantity),
        log=quantity.scale == "log",
    )


def _about(quantity: Quantity) -> str:
    metric = metric_name(quantity)
    return f"{quantity.help} Metrics: `{metric}`, `{metric}_stderr`."


def _unit(quantity: Quantity) -> str:
    """Grafana's word for a quantity's unit."""
    known = {"1": "none", "": "none", "ratio": "percentunit", "seconds": "s", "bytes": "bytes"}
    return known.get(quantity.unit, f"suffix: {quantity.unit}")
