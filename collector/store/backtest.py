"""Back-test: what was told of every stored run, judged in hindsight: false alarms against alpha, and delays."""

from collections.abc import Iterable, Sequence

import msgspec

from collector.phases import ALPHA, MACHINES, Machine
from collector.phases.backtest import Judgement, Series, judgements
from collector.phases.machine import TESTED, Turn, shared
from collector.phases.score import Score, Scored
from collector.phases.transition import Transition
from collector.store.queries import Reader, RunRow, SeriesRow, StoredTransition
from probe_wire import Outcome

NEWEST = 200
"""Runs judged, at the most."""
MOST_SUBJECTS = 64
"""Series judged of one machine in one run, at the most."""

Known = dict[tuple[str, float, int], list[Judgement]]
"""Judgements by run id, when the run was last heard, and number of transitions: what stays true as long as those do."""


class Realised(msgspec.Struct, frozen=True):
    """How one turn of a machine did in all series it was tested in: ``alpha`` is what it may be wrong in of a run.

    The first of a back-test has no machine and no turn: it counts runs, with a false alarm in any series or with none,
    against the alpha of the run; its delay is over all hits.
    """

    machine: str
    from_phase: str
    to_phase: str
    alpha: float
    score: Score

    @property
    def kept(self) -> bool:
        """Whether the promise may have been kept: alpha is not below the interval of the realised rate."""
        return self.alpha >= self.score.false_alarm_interval[0]


def backtest(
    reader: Reader,
    machines: Sequence[Machine] = MACHINES,
    alpha: float = ALPHA,
    *,
    runs: Iterable[RunRow] | None = None,
    known: Known | None = None,
) -> list[Realised]:
    """The realised rates and delays of the ``NEWEST`` runs, or of these, over all and turn by turn.

    Judging costs about 0.03 s a turn and series. Whoever asks again keeps ``known``, an empty dict at first: runs that have
    not gone on since are then not judged again.
    """
    rows = [row for row in (reader.runs() if runs is None else runs) if row.thinned_at is None][:NEWEST]
    found = [judged(reader, row, machines, known) for row in rows]
    everything = [one for run in found for one in run]
    whole = Realised("", "", "", alpha, _over_runs(found))
    parts = shared(machines, alpha)
    return [whole] + [
        Realised(
            machine.name,
            turn.from_phase,
            turn.to_phase,
            parts[machine.name] * machine.alpha(turn),
            Score.of(one.scored for one in everything if _of(one, machine, turn)),
        )
        for machine in machines
        for turn in machine.turns
        if turn.when in TESTED and any(_of(one, machine, turn) for one in everything)
    ]


def judged(
    reader: Reader, row: RunRow, machines: Sequence[Machine] = MACHINES, known: Known | None = None
) -> list[Judgement]:
    """Every judgement of one run on machines that are still as they were when it was judged live."""
    stored = reader.transitions(row.id)
    told = [each.transition for each in stored if not each.superseded]
    key = (row.id, row.last_heard, len(told))
    if known is None or key not in known:
        found = against(
            reader, row.id, [machine for machine in machines if _same(reader, row.id, machine, stored)], told
        )
        if known is None:
            return found
        for old in [one for one in known if one[0] == row.id]:
            del known[old]
        known[key] = found
    return known[key]


def against(reader: Reader, run_id: str, machines: Sequence[Machine], told: Sequence[Transition]) -> list[Judgement]:
    """Transitions of a run, live ones or those of a replay, beside the hindsight of its series."""
    all_series = reader.series(run_id)
    found: list[Judgement] = []
    for machine in machines:
        for row in _subjects(machine, all_series):
            mine = [one for one in told if one.machine == machine.name and one.subject == row.labels]
            found += judgements(machine, row.labels, _points(reader, row), mine)
    return found


def _subjects(machine: Machine, series: Sequence[SeriesRow]) -> list[SeriesRow]:
    """The series a machine judges, of the lowest rank that measured the quantity."""
    rows = [row for row in series if row.quantity == machine.quantity and machine.judges(row.labels)]
    lowest = min((row.rank for row in rows), default=0)
    return [row for row in rows if row.rank == lowest][:MOST_SUBJECTS]


def _points(reader: Reader, row: SeriesRow) -> Series:
    points = reader.points([row.id])[row.id]
    good = [i for i, outcome in enumerate(points.outcome) if outcome == Outcome.OK]
    return Series(points.step, points.value, points.paired).only(good)


def _same(reader: Reader, run_id: str, machine: Machine, stored: Sequence[StoredTransition]) -> bool:
    """Whether a run was judged by this version of a machine, by what is stored of the engine or of its transitions.

    Where both are silent a shipped one is believed to have been on: leaving out the quiet runs would flatter no one.
    """
    told = (one.transition for one in stored)
    versions = {one.machine_version for one in told if one.machine == machine.name}
    state = reader.phase_state(run_id)
    if state is not None:
        versions.add(state[1]["versions"].get(machine.name, ""))
        if (before := state[1].get("before")) is not None:  # judged again: what these rules say of it was not told live
            versions.add(before.get(machine.name, ""))
    return versions == {machine.version} or (not versions and machine in MACHINES)


def _over_runs(found: Sequence[Sequence[Judgement]]) -> Score:
    """One finding a run for rates: the worst there is; delays are those of all hits."""
    each = [one.scored for run in found for one in run]
    worst = (
        next((kind for kind in ("false alarm", "miss", "hit", "quiet") if kind in kinds), "not labelled")
        for kinds in ({one.scored.finding for one in run} for run in found if run)
    )
    runs = Score.of(Scored(kind) for kind in worst)  # type: ignore[arg-type]  # a Finding, as each is
    return msgspec.structs.replace(runs, median_delay=Score.of(each).median_delay)


def _of(one: Judgement, machine: Machine, turn: Turn) -> bool:
    return (one.machine, one.from_phase, one.to_phase) == (machine.name, turn.from_phase, turn.to_phase)
