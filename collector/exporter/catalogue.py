"""The catalogue: every metric about runs whose name is known beforehand. The quantities name themselves."""

from typing import Literal, NamedTuple


class Family(NamedTuple):
    """A metric: its name, type and help, and which labels its series carry."""

    name: str
    type: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()


RUN_INFO = Family(
    "phasewatch_run_info",
    "gauge",
    "Facts about a run, always 1; the run's own labels are prefixed with label_. Join others to it on (run).",
    ("run", "run_id", "name", "host", "git_revision", "agent_version", "world_size", "label_…"),
)
RUN_STATE = Family(
    "phasewatch_run_state",
    "gauge",
    "1 for the state the run is in, 0 for the others: running, silent (not heard for a minute), finished.",
    ("run", "state"),
)
RUN_STEP = Family("phasewatch_run_step", "gauge", "The furthest training step any rank reported.", ("run",))
RUN_STARTED = Family(
    "phasewatch_run_started_timestamp_seconds", "gauge", "When the run started, Unix time by the job's clock.", ("run",)
)
RUN_LAST_REPORT = Family(
    "phasewatch_run_last_report_timestamp_seconds",
    "gauge",
    "When any rank of the run was last heard, Unix time by the collector's clock.",
    ("run",),
)
RUN_LOST_REPORTS = Family(
    "phasewatch_run_lost_reports_total",
    "counter",
    "Reports that were numbered and are lost, given up by the agent or damaged on the collector's disk: gaps in the run's record.",
    ("run", "rank"),
)
RUN_LAG = Family(
    "phasewatch_run_report_lag_seconds",
    "gauge",
    "How long the newest report was on its way, its clock corrected; left out until the job's clock is known.",
    ("run", "rank"),
)
RUN_CLOCK = Family(
    "phasewatch_run_clock_offset_seconds",
    "gauge",
    "By how much the collector's clock is ahead of the job's, as of its last greeting; the greeting's way is part of it.",
    ("run", "rank"),
)
RUN_WAITING = Family(
    "phasewatch_run_waiting_reports",
    "gauge",
    "Reports the agent had still to deliver when it last greeted, on disk and in memory.",
    ("run", "rank"),
)

RUN_UNJUDGED = Family(
    "phasewatch_run_unjudged_measurements_total",
    "counter",
    "Measurements of a judged quantity that no phase machine could use: not ok, not on the axis (skipped), at a step not "
    "beyond the last (behind), of a subject too many (refused), measured otherwise than later ones (outdated).",
    ("run", "reason"),
)

PHASE = Family(
    "phasewatch_phase",
    "gauge",
    "1 for the phase a machine says the run is in, 0 for its other phases; left out where a run does not measure what it judges.",
    ("run", "machine", "phase", "…"),
)
PHASE_CODE = Family(
    "phasewatch_phase_code",
    "gauge",
    "The place of the current phase in its machine's list of phases, from 0: for charts; queries read better with phasewatch_phase.",
    ("run", "machine", "…"),
)
PHASE_LAST_TRANSITION = Family(
    "phasewatch_phase_last_transition_timestamp_seconds",
    "gauge",
    "When the newest transition of a machine was detected, Unix time.",
    ("run", "machine"),
)
TRANSITIONS = Family(
    "phasewatch_transitions_total",
    "counter",
    "How often the run entered a phase. Every phase that can be entered is present from 0.",
    ("run", "machine", "to_phase"),
)
PHASE_CLAIMS = Family(
    "phasewatch_phase_claims_total",
    "counter",
    "How often a claim of a machine came to a state: suspected, detected, confirmed, retracted.",
    ("run", "machine", "state"),
)
PHASE_CLAIM = Family(
    "phasewatch_phase_claim",
    "gauge",
    "1 for the state that the newest claim which was detected has come to, 0 for the others; to_phase is the phase it claims.",
    ("run", "machine", "to_phase", "state", "…"),
)
TRANSITION_CONFIDENCE = Family(
    "phasewatch_transition_confidence_ratio",
    "gauge",
    "Confidence in the newest transition: one minus its anytime-valid p-value; 0 where nothing bounds its errors.",
    ("run", "machine", "…"),
)
TRANSITION_HAPPENED = Family(
    "phasewatch_transition_happened_step",
    "gauge",
    "The step at which, in hindsight, the newest transition took place.",
    ("run", "machine", "…"),
)
TRANSITION_KNOWN = Family(
    "phasewatch_transition_known_step",
    "gauge",
    "The first step whose report made the newest transition certain enough.",
    ("run", "machine", "…"),
)
NOISE = Family(
    "phasewatch_noise_ratio",
    "gauge",
    "Standard deviation of one probe of a judged series relative to its level, as the tests believe it. Left out until it is known.",
    ("run", "machine", "quantity", "…"),
)
NOISE_ESTIMATOR = Family(
    "phasewatch_noise_estimator_ratio",
    "gauge",
    "The part of that noise which the probe's own paired error tells of. Left out where it reports none.",
    ("run", "machine", "quantity", "…"),
)
NOISE_PROCESS = Family(
    "phasewatch_noise_process_ratio",
    "gauge",
    "The part of that noise which training adds. Left out until it is known.",
    ("run", "machine", "quantity", "…"),
)
NOISE_AUTOCORRELATION = Family(
    "phasewatch_noise_autocorrelation",
    "gauge",
    "Coefficient of the AR(1) process whose means would scatter as the series' do: 0 where probes stray independently.",
    ("run", "machine", "quantity", "…"),
)
NOISE_VERDICT = Family(
    "phasewatch_noise_verdict",
    "gauge",
    "1 for what the noise of a judged series is held to be, 0 for the others: white, correlated, unassessable (a random walk "
    "is not ruled out), unknown (too few probes).",
    ("run", "machine", "quantity", "verdict", "…"),
)

OVERHEAD = Family(
    "phasewatch_agent_overhead_ratio",
    "gauge",
    "The agent's share of the run's time since it was attached.",
    ("run", "rank"),
)
REPORTS_DROPPED = Family(
    "phasewatch_agent_reports_dropped_total",
    "counter",
    "Reports the agent dropped because its outbox was full.",
    ("run", "rank"),
)
SNAPSHOTS_SKIPPED = Family(
    "phasewatch_agent_snapshots_skipped_total",
    "counter",
    "Snapshots not taken: to stay within the share of time, because the one before was still being measured, or because one failed.",
    ("run", "rank"),
)
SCALARS_DROPPED = Family(
    "phasewatch_agent_scalars_dropped_total",
    "counter",
    "Logged scalars the agent dropped.",
    ("run", "rank"),
)
PROBE_SECONDS = Family(
    "phasewatch_probe_seconds_total", "counter", "Seconds a probe took, all ranks together.", ("run", "probe")
)
PROBE_MEMORY = Family(
    "phasewatch_probe_memory_raised_bytes",
    "gauge",
    "How far a probe raised the most memory its process ever had, all ranks together.",
    ("run", "probe"),
)
PROBE_OUTCOMES = Family(
    "phasewatch_probe_outcomes_total",
    "counter",
    "Measurements of a probe by how they came out: ok, not_converged, non_finite, over_budget, not_applicable, failed, out_of_memory.",
    ("run", "probe", "outcome"),
)

ESTIMATES = Family(
    "phasewatch_estimates",
    "gauge",
    "How many of a quantity's newest estimates came out this way.",
    ("run", "quantity", "outcome"),
)
ESTIMATE_OUTCOME = Family(
    "phasewatch_estimate_outcome",
    "gauge",
    "How the newest estimate came out: 0 ok, 1 not_converged, 2 non_finite, 3 over_budget, 4 not_applicable, 5 failed, 6 out_of_memory.",
    ("run", "rank", "quantity", "layer", "…"),
)

BUILD_INFO = Family(
    "phasewatch_build_info", "gauge", "The release of the collector and of its Python, always 1.", ("version", "python")
)
RUNS = Family("phasewatch_runs", "gauge", "Runs in the collector's memory, by state.", ("state",))
RUNS_EVICTED = Family(
    "phasewatch_runs_evicted_total",
    "counter",
    "Runs that left memory to make room for a new one; the store keeps them.",
)
SERIES = Family("phasewatch_series", "gauge", "Series about runs on this page.")
SERIES_LIMIT = Family("phasewatch_series_limit", "gauge", "The most series about runs a page may hold.")
SERIES_REFUSED = Family(
    "phasewatch_series_refused",
    "gauge",
    "Series left out of this page: the page is full (limit), the run has its share (run_limit), or the name is taken (name).",
    ("reason",),
)

OF_RANK = (
    OVERHEAD,
    RUN_LOST_REPORTS,
    REPORTS_DROPPED,
    SNAPSHOTS_SKIPPED,
    SCALARS_DROPPED,
    RUN_WAITING,
    RUN_LAG,
    RUN_CLOCK,
)
"""What each rank of a run says about itself."""

CATALOGUE = (
    RUN_INFO,
    RUN_STATE,
    RUN_STEP,
    RUN_STARTED,
    RUN_LAST_REPORT,
    RUN_LOST_REPORTS,
    RUN_LAG,
    RUN_CLOCK,
    RUN_WAITING,
    RUN_UNJUDGED,
    PHASE,
    PHASE_CODE,
    PHASE_LAST_TRANSITION,
    TRANSITIONS,
    PHASE_CLAIMS,
    PHASE_CLAIM,
    TRANSITION_CONFIDENCE,
    TRANSITION_HAPPENED,
    TRANSITION_KNOWN,
    NOISE,
    NOISE_ESTIMATOR,
    NOISE_PROCESS,
    NOISE_AUTOCORRELATION,
    NOISE_VERDICT,
    OVERHEAD,
    REPORTS_DROPPED,
    SNAPSHOTS_SKIPPED,
    SCALARS_DROPPED,
    PROBE_SECONDS,
    PROBE_MEMORY,
    PROBE_OUTCOMES,
    ESTIMATES,
    ESTIMATE_OUTCOME,
    BUILD_INFO,
    RUNS,
    RUNS_EVICTED,
    SERIES,
    SERIES_LIMIT,
    SERIES_REFUSED,
)
