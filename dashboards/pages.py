"""The reference pages made from what the code declares: every metric, every alert."""

from collections.abc import Iterable, Mapping, Sequence

from collector.exporter import CATALOGUE
from collector.exporter.names import metric_name
from collector.health import Health
from dashboards.rule import Alert
from probe_wire import Outcome, Quantity

MADE = "<!-- Written by `python -m dashboards.build`; change what it is made from and build again. -->"

_CONVENTIONS = """\
`/metrics` is built at each scrape from what the collector holds in memory. It carries no timestamps, so a series ends when
it leaves the page: a finished run after ten minutes (`metrics.finished_grace_seconds`), one that fell silent after a day.

## No number without its uncertainty

A quantity of a probe is named `phasewatch_<quantity>[_<unit>]`. The unit is left out for a pure number; `ratio` is 0 to 1.
Each series of it comes with two or three others under the same labels:

| metric | what it says |
|---|---|
| `phasewatch_<quantity>[_<unit>]` | The newest value. NaN where there is none: then the outcome says why. |
| `phasewatch_<quantity>[_<unit>]_stderr` | Its *marginal* standard error: how far it may be from what an infinite probe set would give. NaN where it is not known. |
| `phasewatch_<quantity>[_<unit>]_paired_stderr` | The standard error of its *change* on fixed probe inputs: judge a trend by this one. Left out where it is not known. |
| `phasewatch_estimate_outcome{quantity="<quantity>"}` | How it came out, as a code (below). |

The errors carry the value's name and a suffix, so that a query can have one from the other: the band of any quantity is
`{__name__="$metric"} ± {__name__="${metric}_stderr"}`.

| code | outcome | meaning |
|---|---|---|
"""

_LABELS = """
## Labels

`run` is the run's name, made unique among the runs in memory; its id and all other facts are on `phasewatch_run_info`, to
be joined `* on (run) group_left (…)`. `rank` is the process. Every label of a series as the agent reports it follows.

`layer` begins with the layer's number in the order in which the agent reports layers, filled up with zeros:
`02.features.3`. So rows of a heatmap sort by depth. A series without `layer` speaks of the whole network.

An agent's label that has the name of one of ours becomes `exported_<name>`, as Prometheus does it.

## Limits

A page holds at most `metrics.series_limit` series about runs, a run at most `metrics.run_series_limit`. A value, its
errors and its outcome are shown together or not at all. What is left out is a number: `phasewatch_series_refused` counts
what is missing now, `phasewatch_refused_series_total` each series once, when it is first left out. Older runs keep their
place; finished ones give theirs up first.
"""


def metrics_page(quantities: Sequence[Quantity]) -> str:
    """docs/reference/metrics.md."""
    outcomes = [f"| {int(outcome)} | `{outcome.label}` | {outcome.sentence} |" for outcome in Outcome]
    measured = [(metric_name(q), "gauge", "`run` `rank` `layer`…", q.help) for q in quantities]
    about_runs = [
        (f.name, f.type, " ".join(f"`{label}`" for label in f.labels).replace("`…`", "…"), f.help) for f in CATALOGUE
    ]
    own = [(name, kind, "", text) for name, kind, text in _own_metrics()]
    return "\n".join(
        [
            "# Metrics",
            "",
            MADE,
            "",
            _CONVENTIONS + "\n".join(outcomes),
            _LABELS,
            "## What probes measure",
            "",
            "Each also with `_stderr` and, where it is known, `_paired_stderr`. A probe of your own appears in the same way, and so do `observed_NAME`, what the loop reports itself, and `steps_skipped`, what a gradient scaler skipped.",
            "",
            *_table(measured),
            "",
            "## Runs, phases and costs",
            "",
            *_table(about_runs),
            "",
            "## The collector itself",
            "",
            "Beside these, the usual `process_*` and `python_gc_*` metrics of its process.",
            "",
            *_table(own),
            "",
        ]
    )


def alerts_page(groups: Mapping[str, Sequence[Alert]]) -> str:
    """docs/reference/alerts.md."""
    out = [
        "# Alerts",
        "",
        MADE,
        "",
        "The rules are `dashboards/rules/alerts.yml`; load `recording.yml` with them. `critical` means act now, `warning` look",
        "today, `info` that something happened; `none` is for machines. Thresholds and windows, each with its reason, are in",
        "`dashboards/config.py`.",
        "",
    ]
    for alert in (alert for group in groups.values() for alert in group):
        times = [
            f"after {alert.hold}" if alert.hold else "at once",
            *([f"stays {alert.keep} longer"] if alert.keep else []),
        ]
        out += [
            f"## {alert.name}",
            "",
            f"**{alert.severity}**, {', '.join(times)}.",
            "",
            alert.meaning,
            "",
            f"**What to do.** {alert.remedy}",
            "",
        ]
    return "\n".join(out)


def _own_metrics() -> Iterable[tuple[str, str, str]]:
    for family in Health().registry.collect():
        suffix = "_total" if family.type == "counter" else ""
        yield f"{family.name}{suffix}", family.type, family.documentation


def _table(rows: Iterable[tuple[str, str, str, str]]) -> Iterable[str]:
    yield "| metric | type | labels | meaning |"
    yield "|---|---|---|---|"
    for name, kind, labels, text in rows:
        yield f"| `{name}` | {kind} | {labels} | {text.replace('|', chr(92) + '|')} |"
