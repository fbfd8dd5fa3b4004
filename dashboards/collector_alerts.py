"""What a person is told about the collector, and the page each alert leads to."""

from dashboards import config as c
from dashboards.rule import Alert

ABOUT_THE_COLLECTOR = (
    Alert(
        name="CollectorDown",
        expr=f'up{{job="{c.JOB}"}} == 0 or absent(up{{job="{c.JOB}"}})',
        hold=c.DOWN_FOR,
        severity="critical",
        summary="The collector does not answer.",
        description=(
            "Prometheus could not read the collector{{ with $labels.instance }} at {{ . }}{{ end }} for "
            f"{c.DOWN_FOR}. Nobody watches any run; agents keep their reports for now and drop the oldest when they hold too many."
        ),
        meaning="The collector's page could not be read, or Prometheus no longer has such a target.",
        remedy=(
            "Start the collector, or mend the way to it. It takes up its runs from its store, and agents send what it missed: "
            "nothing is lost if it comes back before their outboxes are full."
        ),
    ),
    Alert(
        name="StoreErrors",
        expr=f"increase(phasewatch_store_errors_total[{c.STORE_WINDOW}]) > 0",
        hold=c.STORE_FOR,
        severity="critical",
        summary="The collector cannot keep what it receives.",
        description=(
            "What {{ $labels.instance }} received could not be committed and was undone. Agents send again until it can, and "
            "drop the oldest reports when they hold too many."
        ),
        meaning=(
            "A batch was undone. Most often the disk is full or read-only, or the file is locked by another process or damaged; "
            "a message the collector stumbled over does it too."
        ),
        remedy=(
            "The collector's log has the error, in SQLite's own words where it is the store's. Make room or free the file; nothing "
            "is acknowledged before it is committed, so nothing is lost while agents can wait."
        ),
    ),
    Alert(
        name="StoreUpkeepFails",
        expr=f"increase(phasewatch_store_upkeep_failures_total[{c.UPKEEP_WINDOW}]) > 0",
        hold=c.STORE_FOR,
        severity="warning",
        summary="The store cannot be kept small.",
        description=(
            "{{ $labels.instance }} keeps what it receives, but could not put it in order: the store grows faster than it need, is "
            "slower to read, and `store.keep_days` and `store.max_bytes` may not be kept to."
        ),
        meaning=(
            "Between commits the store is tidied: reports are packed into blocks, old runs are thinned. That failed, or one stream could "
            "not be packed. No report is lost by it; it is tried again after a minute."
        ),
        remedy=(
            "The collector's log has the error (`store.tidying_failed`, `store.sealing_failed`). Where it is the disk, make room. Else run "
            "`probe-collector doctor`, which also goes with a collector that runs: damaged pages look like this first."
        ),
    ),
    Alert(
        name="StoreLogGrowing",
        expr=f"phasewatch_store_wal_bytes > {c.WAL_BYTES}",
        hold=c.ROOM_FOR,
        severity="warning",
        summary="The store's write-ahead log grows.",
        description=(
            "The write-ahead log of {{ $labels.instance }}'s store takes {{ $value | humanize1024 }}B. It grows by all that comes until "
            "whoever reads the store now is done."
        ),
        meaning=(
            "SQLite cannot begin its log anew while somebody has an old view of the store open: a `probe-collector` command that was "
            "suspended (Ctrl-Z) or reads a slow disk, a backup, another program."
        ),
        remedy=(
            "See who has the file open (`fuser phasewatch.db`) and let it end; the log shrinks by itself. Nothing is lost, but the "
            "disk fills."
        ),
    ),
    Alert(
        name="StoreDiskFilling",
        expr=f"phasewatch_store_disk_used_ratio > {c.DISK_RATIO}",
        hold=c.ROOM_FOR,
        severity="warning",
        summary="The disk of the store is filling up.",
        description=(
            "The disk under {{ $labels.instance }}'s store is {{ $value | humanizePercentage }} full. When it is full nothing more is "
            "acknowledged; agents keep their reports on their own disks meanwhile."
        ),
        meaning="Less than a tenth of the disk is left, whatever took the rest.",
        remedy=(
            "Make room, or let the store do so: `store.keep_days` and `store.max_bytes` thin and drop runs that are over, the "
            "oldest first. `probe-collector doctor` says what the store takes."
        ),
    ),
    Alert(
        name="FilesRunningOut",
        expr=f"phasewatch_open_files_ratio > {c.FILES_RATIO}",
        hold=c.ROOM_FOR,
        severity="warning",
        summary="The collector is running out of connections.",
        description=(
            "{{ $labels.instance }} has {{ $value | humanizePercentage }} of the files open that it may. Agents and pages beyond that cannot "
            "connect; those that are connected are served on."
        ),
        meaning="Each agent takes one file, each page another.",
        remedy=(
            "Raise the limit of open files (`ulimit -n`, `LimitNOFILE`), have a relay on every host (`probe-collector relay`), or start "
            "another collector."
        ),
    ),
    Alert(
        name="PhasesNotJudged",
        expr="phasewatch_phase_failures_total > 0",
        severity="warning",
        summary="Some runs are watched, but their phases are not judged.",
        description=(
            "Judging phases failed in {{ $value }} runs of {{ $labels.instance }}. Their measurements are kept and shown, but "
            "no transition of theirs will be told."
        ),
        meaning=(
            "A phase machine raised an error on a run's measurements. The collector goes on keeping that run's reports and no "
            "longer judges it; other runs are not affected."
        ),
        remedy=(
            "The collector's log names the run (`phases.stopped`) and the error, which deserves a report. A restart takes the "
            "run up again from its store and tries once more; so does `probe-collector replay`."
        ),
    ),
    Alert(
        name="RetrialsStandStill",
        expr=f"phasewatch_unjudged_reports > 0 and delta(phasewatch_unjudged_reports[{c.UNJUDGED_WINDOW}]) >= 0",
        hold=c.UNJUDGED_FOR,
        severity="warning",
        summary="Reports wait to be judged, and do not get fewer.",
        description=(
            "{{ $value }} reports of {{ $labels.instance }} are kept and shown and not judged, and for half an hour they have not become "
            "fewer. Transitions of their runs are told only when they are."
        ),
        meaning=(
            "After an upgrade runs are judged again from the store, beside everything else. Either nothing gets on, because the store "
            "cannot be read or the machine has no time left, or as many reports come in as are judged."
        ),
        remedy=(
            "The collector's log says why a retrial was interrupted (`retrial.interrupted`) or given up (`phases.stopped`). If it says "
            "nothing, see whether the collector has half a core to itself; `probe-collector doctor` looks whether the store is whole."
        ),
    ),
    Alert(
        name="RetrialsDoNotEnd",
        expr=f"max_over_time(phasewatch_unjudged_reports[{c.UNJUDGED_BRIDGE}]) > 0",
        hold=c.UNJUDGED_LONG,
        severity="warning",
        summary="Runs have been judged again for a day.",
        description=(
            "For a day reports of {{ $labels.instance }} have waited to be judged, now {{ $value }}. Their runs are kept and shown; their "
            "transitions are told late."
        ),
        meaning=(
            "After an upgrade runs are judged again from the store, and a collector that is ended in the middle begins anew. One that "
            "is ended again and again never comes to the end, though it gets on each time; a very large store takes as long by itself."
        ),
        remedy=(
            "See in the log how often the collector was started (`collector.started`) and why it ended, "
            "such as for want of memory. If it was not, it only has much to do: wait, or give it more processor time."
        ),
    ),
    Alert(
        name="SeriesRefused",
        expr="sum by (job, instance, reason) (phasewatch_series_refused) > 0",
        hold=c.REFUSED_FOR,
        severity="warning",
        summary="Some series are not on /metrics.",
        description=(
            "{{ $value }} series of {{ $labels.instance }} are left out because of the "
            '{{ if eq $labels.reason "run_limit" }}limit a run has{{ else if eq $labels.reason "limit" }}limit of the page'
            "{{ else }}name, which another metric has{{ end }}. Boards and alerts do not see them; the store and the page do."
        ),
        meaning=(
            "The page is at its series limit (`limit`), a run has more layers, ranks or quantities than its share (`run_limit`), "
            "or two quantities would have one metric name (`name`). Runs that were there first stay."
        ),
        remedy=(
            "Measure fewer layers, or group them; or raise `metrics.series_limit` and `metrics.run_series_limit` together with "
            "`sample_limit` in prometheus.yml, at about 2.3 KiB of Prometheus's memory a series. Rename a quantity whose name is taken."
        ),
    ),
    Alert(
        name="MessagesRejected",
        expr=(
            'sum by (job, instance, reason) (increase(phasewatch_rejected_messages_total{reason=~"version|bad_message|too_large|forbidden|busy"}'
            f"[{c.LOSS_WINDOW}])) > 0"
        ),
        severity="warning",
        summary="The collector turns messages away.",
        description=(
            "{{ $labels.instance }} rejected messages within the last "
            f"{c.LOSS_WINDOW}: {{{{ $labels.reason }}}}. The log has the first of each kind in full."
        ),
        meaning=(
            "Messages arrived that this release cannot read (`version`, `bad_message`, `too_large`), that their key may not send "
            "(`forbidden`: it was revoked, or the run is another's), or more of them than the limits allow (`busy`: the agents wait)."
        ),
        remedy=(
            "Install the same release of phasewatch on both sides; if nobody runs another one, find out who else reaches the inlet. "
            "`forbidden`: give that job the key its run began with, or another run id. `busy`: see `[limits]`, or start another collector."
        ),
    ),
    Alert(
        name="Watchdog",
        expr="vector(1)",
        severity="none",
        summary="Alerts reach you.",
        description="This alert always fires. When it stops, Prometheus or Alertmanager no longer does its work.",
        meaning="It always fires, so that its absence can be noticed: send it to a service that calls you when it stops.",
        remedy="When it stops, see whether Prometheus and Alertmanager run and reach each other.",
    ),
)
