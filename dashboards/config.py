"""Every label, threshold and window of the boards and rules, each with its reason."""

JOB = "phasewatch"
"""The job's name in prometheus.yml. Boards let one choose; rules about a collector that is gone have to know it."""

BOARD_UID = "phasewatch-run"
"""Stays the same for ever: links, and annotations pushed to a board, name it."""

SCHEMA_VERSION = 41
"""Grafana's classic model as of 11.6: older servers read it, newer ones convert it on load."""

RUNBOOKS = "docs/reference/alerts.md"
"""Where each alert's page is; the anchor is its name in lower case."""

REFRESH = "10s"
"""Probes measure every few seconds at most, and Prometheus asks every ten."""

# -- what a person sees ---------------------------------------------------------------------------

LAYERED = ("fisher_trace", "local_complexity")
"""Drawn as layers × time: the two whose phases move through the depth of a network."""

OPEN = ("loss", "fisher_trace", "sharpness", "local_complexity")
"""The probes whose rows are open: what phases are judged by, and what a person looks at first."""

PHASE_COLOURS = ("#5794F2", "#FF9830", "#73BF69", "#B877D9", "#F2CC0C", "#8AB8FF", "#FFB357", "#96D98D")
"""In the order of a machine's phases; no red, because no phase is an error."""

STATE_COLOURS = {"running": "#73BF69", "silent": "#F2495C", "finished": "#5794F2"}

OUTCOME_COLOURS = {
    "ok": "#73BF69",
    "not_converged": "#F2CC0C",
    "non_finite": "#F2495C",
    "over_budget": "#8AB8FF",
    "not_applicable": "#9FA7B3",
    "failed": "#FF9830",
    "out_of_memory": "#B877D9",
}

# -- when a person is told ------------------------------------------------------------------------

CRITICAL_PERIOD = ("critical_period", "after_critical_period")
"""The machine and the phase that mean the critical period is over."""

FRESH = "10m"
"""What became of a claim is news for ten minutes: long enough for any group and repeat interval of Alertmanager to pass
it on once. It is news if it was not so that long ago, which has to be known: of a Prometheus that began later nothing
is announced, but of a run that began later it is."""

RUN_IS_YOUNG_SECONDS = 900
"""A run's clock and the first scrape are a little apart from each other: more than ``FRESH``, by some minutes."""

SILENT_FOR = "2m"
"""On top of the minute after which the collector calls a run silent: a checkpoint on a slow disk takes that long."""

SILENT_KEEP = "5m"
"""A bad network comes and goes; one message is enough for that."""

LOSS_WINDOW = "10m"
"""Long enough to be seen by somebody who looks in now and then; the counter itself remembers for ever."""

LATE_SECONDS = 300
"""A report that was so long on its way is late; an outage that is shorter is nobody's business."""
LATE_FOR = "10m"
"""Longer than it takes to catch up with a day at a report a second."""

OVERHEAD_RATIO = 0.05
"""The default budget is 2 %; at 5 % it is not kept, or was set higher on purpose and the rule should be too."""

OVERHEAD_FOR = "15m"
"""The budget lets a run spend twenty seconds at once in the beginning, which is under 5 % from the twelfth minute on."""

DIVERGED_KEEP = "5m"
"""A quantity measured every few minutes must not resolve and fire again between two probes."""

FAILING_WINDOW = "15m"
"""A probe that fails does so at each of its measurements, which may be minutes apart."""

UNJUDGED_WINDOW = "10m"
UNJUDGED_FOR = "20m"
"""A retrial of many runs takes hours and gets on all the time; one that does not for half an hour is stuck."""

UNJUDGED_LONG = "24h"
"""So long without an end is either a very large store, or a collector that is ended again and again and begins anew each time."""
UNJUDGED_BRIDGE = "15m"
"""Of restarts: what waits is counted anew after each."""

DOWN_FOR = "1m"
"""A restart takes a few seconds; agents keep their reports meanwhile."""

STORE_WINDOW = "5m"
STORE_FOR = "2m"
"""One failed commit is made good when the agents send again. Two minutes rule out a disk that was briefly full."""

UPKEEP_WINDOW = "30m"
"""What fails is tried again after a minute; of this long one is seen by somebody who looks in now and then."""

WAL_BYTES = 2**30
"""Sixteen times what it is kept to; a backup or an export of a large store passes."""

DISK_RATIO = 0.9
FILES_RATIO = 0.8
ROOM_FOR = "5m"
"""A backup or a storm of agents passes; what stays for five minutes grows."""

REFUSED_FOR = "10m"
"""A page may be full while finished runs are still on it, which they leave after ten minutes."""
