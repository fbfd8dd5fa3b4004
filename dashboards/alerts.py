"""The alerts and recordings Phasewatch ships."""

from dashboards import config as c
from dashboards.collector_alerts import ABOUT_THE_COLLECTOR
from dashboards.rule import Alert, Recording
from dashboards.run_alerts import ABOUT_RUNS

ALERTS: dict[str, tuple[Alert, ...]] = {"phasewatch-runs": ABOUT_RUNS, "phasewatch-collector": ABOUT_THE_COLLECTOR}

RECORDINGS: dict[str, tuple[Recording, ...]] = {
    "phasewatch-recordings": (
        Recording(
            name="run:phasewatch_agent_overhead_ratio:max",
            expr="max by (job, run) (phasewatch_agent_overhead_ratio)",
            why="The slowest rank holds up all others, so a run costs what its costliest rank does.",
        ),
        Recording(
            name="run:phasewatch_lost_reports:increase",
            expr=f"""
            sum by (job, run) (phasewatch_run_lost_reports_total)
              - (sum by (job, run) (phasewatch_run_lost_reports_total offset {c.LOSS_WINDOW})
                  or sum by (job, run) (phasewatch_run_lost_reports_total) * 0)
            """,
            why="Not increase(): that misses what was lost before a run's first scrape, and estimates what it sees.",
        ),
        Recording(
            name="run:phasewatch_dropped_reports:increase",
            expr=f"""
            sum by (job, run) (phasewatch_agent_reports_dropped_total)
              - (sum by (job, run) (phasewatch_agent_reports_dropped_total offset {c.LOSS_WINDOW})
                  or sum by (job, run) (phasewatch_agent_reports_dropped_total) * 0)
            """,
            why="What the agent says it gave up; known before the collector sees the gap.",
        ),
    )
}
