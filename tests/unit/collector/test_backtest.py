"""Back-test: what was told live beside what hindsight knows, turn by turn and over all runs."""

from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from collector.cli import app
from collector.phases import MACHINES, Machine, Phase, Transition, Turn
from collector.phases.backtest import Judgement, Series, judgements, truth
from collector.phases.score import Score
from collector.phases.simulated import simulated
from collector.phases.track import Track
from collector.store.backtest import Known, Realised, backtest
from collector.store.queries import Reader
from tests.stored_runs import stored

PERIOD = next(machine for machine in MACHINES if machine.name == "critical_period")


def series_of(seed: int, *, instead: str | None = None, legs: tuple[str, ...] = ("rise", "fall")) -> Series:
    curve = simulated(legs, seed, instead=instead, snr=20.0)  # type: ignore[arg-type]
    return Series(list(range(0, 10 * curve.values.size, 10)), curve.values.tolist(), curve.paired.tolist())


def told_of(series: Series, machine: Machine = PERIOD) -> list[Transition]:
    track = Track(machine, {}, 0.01)
    points = zip(series.steps, series.values, series.paired, strict=True)
    return [found for point in points for found in track.update(*point)]


def judged(series: Series, told: list[Transition]) -> dict[str, Judgement]:
    return {one.to_phase: one for one in judgements(PERIOD, {}, series, told)}


def test_a_peak_told_live_is_a_hit_with_its_delay() -> None:
    series = series_of(3)
    found = judged(series, told_of(series))["after_critical_period"]
    assert found.scored.finding == "hit"
    assert found.label.between is not None
    assert found.known_step is not None
    assert found.label.step is not None
    assert found.scored.delay == found.known_step - found.label.step > 0


def test_what_was_never_told_is_a_miss_of_the_turn_out_of_the_phase_the_run_was_in() -> None:
    found = judged(series_of(3), [])
    assert found["critical_period"].scored.finding == "miss"
    assert "after_critical_period" not in found  # nobody looked for it


def test_a_peak_told_of_a_curve_that_only_rises_is_a_false_alarm() -> None:
    rise, fall = [one for one in told_of(series_of(3)) if one.state == "detected"]
    found = judged(series_of(3, instead="level"), [rise, fall])
    assert found["after_critical_period"].scored.finding == "false alarm"
    assert found["critical_period"].scored.finding == "hit"


def test_a_phase_whose_beginning_was_taken_back_has_no_turns_to_judge() -> None:
    rise = next(one for one in told_of(series_of(3)) if one.state == "detected")
    back = msgspec.structs.replace(rise, state="retracted", known_step=rise.known_step + 10)
    assert set(judged(series_of(3), [rise])) == {"critical_period", "after_critical_period"}
    assert set(judged(series_of(3), [rise, back])) == {"critical_period"}


def test_what_never_moves_and_was_never_told_is_quiet() -> None:
    found = judged(series_of(6, legs=("rise",), instead="level"), [])
    assert [one.scored.finding for one in found.values()] == ["quiet"]


def test_a_suspicion_alone_counts_as_not_told() -> None:
    suspected = [msgspec.structs.replace(one, state="suspected") for one in told_of(series_of(3))]
    assert judged(series_of(3), suspected)["critical_period"].scored.finding == "miss"


def test_a_move_smaller_than_the_turn_asks_for_is_not_labelled() -> None:
    series = series_of(3, legs=("rise",))
    wanting = Turn(from_phase="a", to_phase="b", when="rise", min_effect=9.0)
    machine = Machine(
        name="m",
        quantity="fisher_trace",
        phases=(Phase(name="a", meaning=""), Phase(name="b", meaning="")),
        turns=(wanting,),
    )
    assert truth(machine, wanting, None, series).reason == "it is less than the turn asks for"
    assert truth(machine, msgspec.structs.replace(wanting, min_effect=0.5), None, series).happened
    assert truth(machine, msgspec.structs.replace(wanting, at_least=1e3), None, series).happened is None


def test_hindsight_errs_in_few_curves_that_do_not_turn() -> None:
    turn = PERIOD.turns[0]
    falsely = [
        truth(PERIOD, turn, None, series_of(seed, legs=("rise",), instead=instead)).happened
        for instead in ("level", "trend")
        for seed in range(20)
    ]
    assert falsely.count(True) == 0
    assert falsely.count(False) >= 30
    truly = [truth(PERIOD, turn, None, series_of(seed, legs=("rise",))).happened for seed in range(20)]
    assert truly.count(True) >= 19


def test_the_onset_of_a_rise_out_of_a_level_lies_within_its_interval() -> None:
    for seed in range(10):
        found = truth(PERIOD, PERIOD.turns[0], None, series_of(seed, legs=("rise",)))
        assert found.between is not None
        assert found.between[0] <= 10 * simulated(("rise",), seed).turned <= found.between[1]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backtest") / "s.db"
    for seed in (3, 4):
        curve = simulated(("rise", "fall"), seed, snr=20.0)
        stored(path, f"peak-{seed}", curve.values.tolist(), curve.paired.tolist())
    flat = simulated(("rise",), 6, instead="level", snr=20.0)
    stored(path, "flat", flat.values.tolist(), flat.paired.tolist())
    return path


def test_the_realised_rate_over_all_runs_stands_beside_alpha(store: Path) -> None:
    reader = Reader(store)
    whole, *turns = backtest(reader, (PERIOD,))
    assert (whole.machine, whole.score.labelled, whole.score.hits, whole.score.quiet) == ("", 3, 2, 1)
    assert (whole.score.false_alarm_rate, whole.kept) == (0.0, True)
    assert [(one.to_phase, one.score.labelled) for one in turns] == [
        ("critical_period", 3),
        ("after_critical_period", 2),
    ]
    assert sum(one.alpha for one in turns) == pytest.approx(whole.alpha) == 0.01
    assert whole.score.median_delay is not None


def test_a_run_judged_by_another_version_of_a_machine_is_left_out(store: Path) -> None:
    other = msgspec.structs.replace(PERIOD, source="another one")
    assert backtest(Reader(store), (other,))[0].score.labelled == 0


def test_a_run_that_has_not_gone_on_is_not_judged_again(store: Path) -> None:
    known: Known = {}
    reader = Reader(store)
    first = backtest(reader, (PERIOD,), known=known)
    assert len(known) == 3
    known.update({key: [] for key in known})  # what is remembered is what is told
    assert backtest(reader, (PERIOD,), known=known)[0].score.labelled == 0
    assert first[0].score.labelled == 3


def test_the_command_tells_a_person_and_a_program(store: Path) -> None:
    shown = CliRunner().invoke(app, ["backtest", "--store", str(store)], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "0 of 3 labelled runs had a false alarm" in shown.output
    assert "kept as far as can be told" in shown.output
    one = CliRunner().invoke(app, ["backtest", "flat", "--json", "--store", str(store)])
    rows = msgspec.json.decode(one.output)
    assert (rows[0]["labelled"], rows[0]["quiet"], rows[0]["alpha"]) == (1, 1, 0.01)


def test_a_promise_is_broken_only_where_the_interval_says_so() -> None:
    def realised(false_alarms: int) -> Realised:
        return Realised("", "", "", 0.01, Score(false_alarms=false_alarms, quiet=100 - false_alarms))

    assert realised(2).kept  # a rate of 2 % in 100 runs may well be one of 1 %
    assert not realised(10).kept
