"""What a person is told about a run, and the page each alert leads to."""

from dashboards import config as c
from dashboards.rule import Alert

_MACHINE, _PHASE = c.CRITICAL_PERIOD
_WHOLE = f'machine="{_MACHINE}", layer=""'  # the network's own phase, not that of one layer
_ENDED = f'phasewatch_phase_claim{{{_WHOLE}, to_phase="{_PHASE}", state="confirmed"}}'
_WITHDRAWN = 'phasewatch_phase_claim{layer="", state="retracted"}'
_FOLLOWED = f"phasewatch_run_step offset {c.FRESH} or time() - phasewatch_run_started_timestamp_seconds < {c.RUN_IS_YOUNG_SECONDS}"

ABOUT_RUNS = (
    Alert(
        name="CriticalPeriodEnded",
        expr=f"""
        phasewatch_transition_confidence_ratio{{{_WHOLE}}}
          and on (job, run) ({_ENDED} == 1)
          unless on (job, run) ({_ENDED} offset {c.FRESH} == 1)
          and on (job, run) ({_FOLLOWED})
        """,
        severity="info",
        summary="The critical period of {{ $labels.run }} has ended.",
        description=(
            "The Fisher trace of {{ $labels.run }} rose, peaked and now declines: the peak was at step "
            f"{{{{ with printf `phasewatch_transition_happened_step{{run=%q, {_WHOLE}}}` $labels.run | query }}}}"
            "{{ . | first | value }}{{ end }}, known at step "
            f"{{{{ with printf `phasewatch_transition_known_step{{run=%q, {_WHOLE}}}` $labels.run | query }}}}"
            "{{ . | first | value }}{{ end }}, with {{ $value | humanizePercentage }} confidence, and it has stood since. "
            "What had to hold only during the critical period (clean data, augmentation, strong regularisation) may be let go."
        ),
        meaning=(
            "The trace of the Fisher information rose, peaked and has declined since, by more than chance explains, and the "
            "decline has been confirmed: it has stood for long enough, and a second test agrees. "
            "What a network takes in before this peak shapes it for good; what happens after it does far less. "
            "The message names the step of the peak, the step at which it was known, and the confidence. "
            f"It is news for {c.FRESH} and then resolves by itself; the phase stays on the board."
        ),
        remedy=(
            "Look at the Fisher trace with its band on the board: the decline should be visible. Then decide whether to remove "
            "augmentation, end a curriculum or admit lower-quality data. A long dip looks the same while it lasts, so prefer "
            "a step that can be undone; should the trace come back, *PhaseWithdrawn* says so."
        ),
    ),
    Alert(
        name="PhaseWithdrawn",
        expr=f"""
        {_WITHDRAWN} == 1
          unless ({_WITHDRAWN} offset {c.FRESH} == 1)
          and on (job, run) ({_FOLLOWED})
        """,
        severity="warning",
        summary="{{ $labels.run }} did not stay in {{ $labels.to_phase }}.",
        description=(
            "{{ $labels.machine }} had told that {{ $labels.run }} entered {{ $labels.to_phase }} and has withdrawn it: the curve "
            "has come back to where it was before. What was done on the strength of it may have to be undone."
        ),
        meaning=(
            "A claim that was detected, perhaps confirmed, has been retracted on reverse evidence as strong as what it was made "
            f"on: it was not so, or is not so any more. It is news for {c.FRESH} and then resolves by itself."
        ),
        remedy=(
            "Open the run's page: the claim is struck through there, with how to undo what it advised. Where nothing was done "
            "nothing is needed; the machine goes on from the phase before."
        ),
    ),
    Alert(
        name="RunSilent",
        expr="""
        (time() - phasewatch_run_last_report_timestamp_seconds)
          and on (job, run) (phasewatch_run_state{state="silent"} == 1)
        """,
        hold=c.SILENT_FOR,
        keep=c.SILENT_KEEP,
        severity="warning",
        summary="Run {{ $labels.run }} is silent.",
        description=(
            "{{ $labels.run }} was last heard {{ $value | humanizeDuration }} ago, at step "
            "{{ with printf `phasewatch_run_step{run=%q}` $labels.run | query }}{{ . | first | value }}{{ end }}, "
            "and never said goodbye. The job hangs, was killed, or cannot reach the collector."
        ),
        meaning=(
            "No rank of the run was heard for more than three minutes, and none said goodbye. Agents send a sign of life between "
            "reports, so this is not a slow run."
        ),
        remedy=(
            "See whether the process still exists on the host named by `phasewatch_run_info`. If it does, look for a hang (a "
            "collective waiting for a lost rank, a stuck data loader) and for the network between it and the collector: the agent "
            "keeps its reports and sends them when the way is free. A run that was killed leaves the page after a day."
        ),
    ),
    Alert(
        name="ReportsLost",
        expr="run:phasewatch_lost_reports:increase > 0 or run:phasewatch_dropped_reports:increase > 0",
        severity="warning",
        summary="Reports of {{ $labels.run }} are lost.",
        description=(
            f"{{{{ $value }}}} reports of {{{{ $labels.run }}}} were lost within {c.LOSS_WINDOW}: its record has gaps there. "
            "Phases are judged on what arrived."
        ),
        meaning=(
            "The agent gave up reports it had numbered, because the collector was away longer than its outbox could hold, or "
            "because the job ended before they were acknowledged; or bits of them changed on the collector's disk (`reports.lost` "
            "in its log says so). The steps they described are missing from the store."
        ),
        remedy=(
            "Find out when the collector or the network was away (`up`, the *Collector* row of the board). Training itself was "
            "not affected. Transitions that were judged across the gap deserve a second look. Where the disk damaged them, run "
            "`probe-collector doctor` and see to the disk."
        ),
    ),
    Alert(
        name="ReportsLate",
        expr=f"""
        max by (job, run) (phasewatch_run_report_lag_seconds) > {c.LATE_SECONDS}
          unless on (job, run) (phasewatch_run_state{{state="finished"}} == 1)
        """,
        hold=c.LATE_FOR,
        keep=c.LATE_FOR,
        severity="warning",
        summary="What is shown of {{ $labels.run }} is old.",
        description=(
            "The newest report of {{ $labels.run }} was {{ $value | humanizeDuration }} on its way. "
            "{{ with printf `sum(phasewatch_run_waiting_reports{run=%q})` $labels.run | query }}{{ . | first | value }}{{ end }} "
            "reports waited at its agents when they last greeted."
        ),
        meaning=(
            "Reports arrive long after they were made: the agents catch up after an outage, at a pace that leaves training its "
            "processor, or the collector, the relay or the network takes less than is reported. Nothing is lost; phases are told late. "
            "A report of a job that died long ago, delivered by the next job on its machine, is late for good reason."
        ),
        remedy=(
            "After an outage wait: two thousand reports a second come in from each agent. If it grows, look at the collector's "
            "processor time and at `phasewatch_commit_seconds`, then at a second collector or a longer schedule of the probes."
        ),
    ),
    Alert(
        name="AgentOverBudget",
        expr=f"""
        run:phasewatch_agent_overhead_ratio:max > {c.OVERHEAD_RATIO}
          unless on (job, run) (phasewatch_run_state{{state="finished"}} == 1)
        """,
        hold=c.OVERHEAD_FOR,
        keep=c.OVERHEAD_FOR,
        severity="warning",
        summary="Measuring slows {{ $labels.run }} down.",
        description=(
            "The agent has taken {{ $value | humanizePercentage }} of the time of {{ $labels.run }} on its slowest rank; "
            f"more than {c.OVERHEAD_RATIO:.0%} is not meant to happen. The probe that costs most: "
            "{{ with printf `topk(1, phasewatch_probe_seconds_total{run=%q})` $labels.run | query }}"
            "{{ with first . }}{{ .Labels.probe }} ({{ .Value | humanizeDuration }} so far){{ end }}{{ end }}."
        ),
        meaning=(
            "The agent's share of the run's time since it was attached is above what its budget allows. Single measurements are "
            "larger than the budget foresaw, or the budget was set higher on purpose."
        ),
        remedy=(
            "See the *Probes* row of the board for the probe that costs most; give it a smaller probe batch, fewer layers or a "
            "sparser schedule. If the budget is meant to be that high, raise the threshold of this rule."
        ),
    ),
    Alert(
        name="EstimateNotFinite",
        expr='sum by (job, run, quantity) (phasewatch_estimates{outcome="non_finite"}) > 0',
        keep=c.DIVERGED_KEEP,
        severity="critical",
        summary="{{ $labels.quantity }} of {{ $labels.run }} is not a finite number.",
        description=(
            "{{ $value }} of the newest estimates of {{ $labels.quantity }} in {{ $labels.run }} are NaN or infinite. "
            "Training may have diverged; the run was at step "
            "{{ with printf `phasewatch_run_step{run=%q}` $labels.run | query }}{{ . | first | value }}{{ end }}."
        ),
        meaning=(
            "A probe ran to its end and found NaN or infinity in the weights, the loss or a derivative. A run that has diverged "
            "does not come back by itself and goes on using its machine."
        ),
        remedy=(
            "Look at the loss and at which layers are affected first (`phasewatch_estimate_outcome == 2`). If the loss is not "
            "finite either, stop the run and go back to the last checkpoint with a lower learning rate. If only a derivative is, "
            "mixed precision may have overflowed in the probe: the run itself may be well."
        ),
    ),
    Alert(
        name="ProbeFailing",
        expr=f'sum by (job, run, probe) (increase(phasewatch_probe_outcomes_total{{outcome="failed"}}[{c.FAILING_WINDOW}])) > 0',
        severity="warning",
        summary="Probe {{ $labels.probe }} fails in {{ $labels.run }}.",
        description=(
            "Probe {{ $labels.probe }} raised an error in {{ $labels.run }} within the last "
            f"{c.FAILING_WINDOW}; its quantities are not measured meanwhile. Training was not affected."
        ),
        meaning="A probe raised an error. The agent caught it, counted it and went on; the quantity has no value at that step.",
        remedy=(
            "The agent's log and the run's page name the error. A probe that does not fit the model can be left out of the "
            "watches; an error of ours deserves a report."
        ),
    ),
)
