"""What watching costs, how noisy what it sees is, and what was lost: the probes, the gaps, and the collector itself."""

from dashboards.layout import sized
from dashboards.panels import Json, chart, query, table

RATE = "$__rate_interval"


def probes(run: str) -> list[Json]:
    """What each probe takes, and how its measurements come out."""
    spent = f"sum by (probe) (rate(phasewatch_probe_seconds_total{{{run}}}[{RATE}]))"
    made = f"sum by (probe) (rate(phasewatch_probe_outcomes_total{{{run}}}[{RATE}]))"
    not_ok = f'sum by (probe, outcome) (increase(phasewatch_probe_outcomes_total{{{run}, outcome!="ok"}}[{RATE}]))'
    return [
        _third(
            "Time in probes",
            "Share of the time, all ranks together. Metric: `phasewatch_probe_seconds_total`.",
            query(spent, "{{probe}}"),
            unit="percentunit",
            stack=True,
        ),
        _third(
            "Seconds a measurement",
            "Metrics: `phasewatch_probe_seconds_total`, `phasewatch_probe_outcomes_total`.",
            query(f"{spent} / ({made} > 0)", "{{probe}}"),
            unit="s",
        ),
        _third(
            "Measurements that were not ok",
            "By how they came out. Metric: `phasewatch_probe_outcomes_total`.",
            query(
                f"round({not_ok})", "{{probe}}: {{outcome}}"
            ),  # increase() estimates between scrapes; these are whole
            unit="short",
            stack=True,
        ),
    ]


def noise(run: str) -> list[Json]:
    """How far single probes of what is judged stray, and what is held of it."""
    whole = f'{run}, layer=""'
    return [
        _third(
            "Noise of one probe",
            "Of each judged series of the whole network, relative to its level. Metric: `phasewatch_noise_ratio`.",
            query(f"phasewatch_noise_ratio{{{whole}}}", "{{machine}}"),
            unit="percentunit",
        ),
        _third(
            "Autocorrelation of the noise",
            "From 0.3 on false claims are likelier than alpha says. Metric: `phasewatch_noise_autocorrelation`.",
            query(f"phasewatch_noise_autocorrelation{{{whole}}}", "{{machine}}"),
            unit="none",
        ),
        sized(
            8,
            8,
            table(
                "What the noise is",
                "white, correlated, unassessable (a random walk is not ruled out) or unknown (too few probes). "
                "Metric: `phasewatch_noise_verdict`.",
                [query(f"phasewatch_noise_verdict{{{run}}} == 1", instant=True)],
                {"machine": "Machine", "quantity": "Quantity", "verdict": "Noise", "layer": "Layer"},
                hide=("Time", "Value", "__name__", "instance", "job", "run"),
            ),
        ),
    ]


def losses(run: str) -> list[Json]:
    """What the agent gave up, and which estimates cannot be used."""
    asked = {
        "lost": "phasewatch_run_lost_reports_total",
        "dropped": "phasewatch_agent_reports_dropped_total",
        "snapshots skipped": "phasewatch_agent_snapshots_skipped_total",
        "scalars dropped": "phasewatch_agent_scalars_dropped_total",
    }
    bad = f'sum by (quantity) (phasewatch_estimates{{{run}, outcome!~"ok|not_applicable"}})'
    return [
        _third(
            "Given up so far",
            f"All ranks together. Metrics: {', '.join(f'`{metric}`' for metric in asked.values())}.",
            *(query(f"sum({metric}{{{run}}})", name) for name, metric in asked.items()),
            unit="short",
        ),
        _third(
            "Share of estimates not ok",
            "Of each quantity's newest. Metric: `phasewatch_estimates`.",
            query(f"{bad} / sum by (quantity) (phasewatch_estimates{{{run}}})", "{{quantity}}"),
            unit="percentunit",
        ),
        _third(
            "Phases entered so far",
            "Metric: `phasewatch_transitions_total`.",
            query(f"sum by (machine, to_phase) (phasewatch_transitions_total{{{run}}})", "{{machine}}: {{to_phase}}"),
            unit="short",
        ),
    ]


def collector(job: str) -> list[Json]:
    """The collector's own work."""
    commit = f"histogram_quantile(0.95, sum by (le) (rate(phasewatch_commit_seconds_bucket{{{job}}}[{RATE}])))"
    return [
        _third(
            "Reports",
            "Metrics: `phasewatch_reports_total`, `phasewatch_duplicate_reports_total`.",
            query(f"sum(rate(phasewatch_reports_total{{{job}}}[{RATE}]))", "committed"),
            query(f"sum(rate(phasewatch_duplicate_reports_total{{{job}}}[{RATE}]))", "received again"),
            unit="ops",
        ),
        _third(
            "Trouble",
            "Messages turned away, and commits that failed. Metrics: `phasewatch_rejected_messages_total`, `phasewatch_store_errors_total`.",
            query(
                f"sum by (reason) (rate(phasewatch_rejected_messages_total{{{job}}}[{RATE}]))",
                "turned away: {{reason}}",
            ),
            query(f"sum(rate(phasewatch_store_errors_total{{{job}}}[{RATE}]))", "commit failed"),
            unit="ops",
        ),
        _third(
            "Seconds a commit",
            "The 95th percentile. Metric: `phasewatch_commit_seconds`.",
            query(commit, "95th percentile"),
            unit="s",
        ),
        _third(
            "Series",
            "On the page, allowed, and left out. Metrics: `phasewatch_series`, `phasewatch_series_limit`, `phasewatch_series_refused`.",
            query(f"sum(phasewatch_series{{{job}}})", "shown"),
            query(f"sum(phasewatch_series_limit{{{job}}})", "limit"),
            query(f"sum by (reason) (phasewatch_series_refused{{{job}}})", "left out: {{reason}}"),
            unit="short",
        ),
        _third(
            "Memory",
            "Resident. Metric: `process_resident_memory_bytes`.",
            query(f"sum(process_resident_memory_bytes{{{job}}})", "resident"),
            unit="bytes",
        ),
        _third(
            "Processor",
            "Cores in use. Metric: `process_cpu_seconds_total`.",
            query(f"sum(rate(process_cpu_seconds_total{{{job}}}[{RATE}]))", "cores"),
            unit="short",
        ),
    ]


def _third(title: str, about: str, *asked: Json, unit: str, stack: bool = False) -> Json:
    return sized(8, 8, chart(title, about, asked, unit=unit, stack=stack, min=0))
