"""The life of a claim: suspected, detected, confirmed, or taken back; each told once."""

import itertools
import math

import msgspec
import numpy as np
import pytest

from collector.phases import KINDS, MACHINES, Track, Transition
from collector.phases import track as track_module
from collector.phases.episode import HOLD
from collector.phases.track import FIRST, MAX_SPANS
from tests import curves
from tests.phase_runs import entered, machine, passed, plain, rows, states, turn

PEAK = machine(
    "before rising passed",
    turn("before", "rising", "rise", min_effect=0.1, share=0.3),
    turn("rising", "passed", "fall", share=0.7, act="confirmed", advice="take it off", undo="put it back"),
)
DROP = machine("flat dropped", turn("flat", "dropped", "fall", advice="take it off", undo="put it back"))
CYCLE = machine("low high", turn("low", "high", "rise"), turn("high", "low", "fall"))
LEVELS = machine("start up down", turn("start", "up", "rise"), turn("start", "down", "fall"))


def ramps(*pieces: tuple[float, float, int], seed: int = 0, sd: float = 0.15) -> curves.Curve:
    """Straight pieces from one level to another, above ten, with noise."""
    mean = 10.0 + np.concatenate([np.linspace(a, b, n) for a, b, n in pieces])
    return plain(mean + sd * np.random.default_rng(seed).standard_normal(mean.size))


def peak(seed: int = 0) -> curves.Curve:
    return ramps((0, 10, 50), (10, 4, 50), (4, 4, 60), seed=seed, sd=0.6)


def dip(seed: int = 2) -> curves.Curve:
    """Down from step 600 to step 700."""
    return ramps((0, 0, 60), (-3, -3, 10), (0, 0, 90), seed=seed)


def followed(model=DROP, curve: curves.Curve | None = None, alpha: float = 0.01) -> tuple[Track, list[Transition]]:  # type: ignore[no-untyped-def]  # noqa: ANN001
    judge = Track(model, {}, alpha)
    return judge, passed(judge, curve or dip())


def test_a_peak_is_suspected_then_detected_then_confirmed() -> None:
    for seed in range(5):
        judge, told = followed(PEAK, peak(seed))
        assert states(t for t in told if t.to_phase == "passed") == ["suspected", "detected", "confirmed"]
        assert entered(told) == ["rising", "passed"]
        assert judge.phase == "passed"
        suspected, detected, confirmed = told[-3:]
        assert suspected.ordinal == detected.ordinal == confirmed.ordinal == 2
        assert detected.suspected_step == confirmed.suspected_step == suspected.known_step
        assert suspected.known_step < detected.known_step < confirmed.known_step
        assert confirmed.evidence == detected.evidence
        assert detected.happened_between[0] <= 500 <= detected.happened_between[1]


def test_what_happened_is_bounded_by_the_probes_on_either_side_for_nobody_looked_between_them() -> None:
    _, told = followed(KINDS["onset_down"], ramps((0, 0, 40), (-3, -3, 40), sd=0.01))
    assert told[0].happened_between == (380, 400), "it fell between 390, the last probe above, and 400"
    assert told[0].happened_step == 390


def test_what_had_begun_when_it_was_measured_otherwise_may_be_as_old_as_its_phase() -> None:
    judge = Track(PEAK, {}, 0.01)
    told = []
    for step, value, paired in rows(ramps((0, 0, 5), (2, 12, 30), sd=0.1)):
        told += judge.update(step, value, paired, "all samples" if step < 50 else "half of them")
    assert told[0].to_phase == "rising"
    assert told[0].happened_between[0] == 0


@pytest.mark.parametrize("paired", [0.1, math.nan], ids=["error reported", "no error reported"])
def test_a_sharp_step_is_known_at_its_fourth_probe_without_asking_the_signs(paired: float) -> None:
    known = []
    for seed in range(10):
        y = 4.0 + 0.1 * (np.random.default_rng(seed).standard_normal(130) - 8.0 * (np.arange(130) >= 120))
        _, told = followed(KINDS["onset_down"], curves.Curve(np.arange(130), y, np.full(130, paired)))
        known += [one.known_step - 119 for one in told if one.state == "detected"]
    assert len(known) == 10
    assert np.median(known) <= 4
    assert min(known) >= 1


def test_a_change_no_noise_could_make_is_confirmed_once_it_has_stood_on_few_probes_too() -> None:
    for seed in range(5):
        _, told = followed(curve=ramps((0, 0, 14), (-3, -3, 16), seed=seed))
        assert states(told) == ["detected", "confirmed"]
        stood = told[1].known_step - told[0].known_step
        assert stood == 10 * HOLD
        _, small = followed(curve=ramps((0, 0, 14), (-0.5, -0.5, 16), seed=seed))
        assert "confirmed" not in states(small)


def test_a_step_no_larger_than_lasting_noise_still_asks_the_signs() -> None:
    """Noise that lasts makes excursions of two and three standard deviations, not of four."""
    judge = Track(KINDS["onset_down"], {}, 0.01)
    wander, rng = 0.0, np.random.default_rng(0)
    for i in range(120):
        wander = 0.8 * wander + 0.6 * float(rng.standard_normal())
        judge.update(i, 4.0 + 0.1 * wander)
    meter = judge.observed.trends.cleaner.meter
    assert not meter.as_reported(1, 2, 4)
    assert meter.single() >= 0.1 * 1.3  # more than what single probes show of it


def test_a_training_loop_is_told_once_in_the_state_the_turn_asks_for() -> None:
    for act in ("detected", "confirmed"):
        model = machine("flat dropped", turn("flat", "dropped", "fall", act=act))
        _, told = followed(model, ramps((0, 0, 60), (0, -3, 100), sd=0.5))
        assert states(told) == ["suspected", "detected", "confirmed"]
        assert [t.state for t in told if t.act] == [act]


def test_a_dip_is_detected_and_taken_back_and_the_phase_is_as_before() -> None:
    for seed in range(5):
        judge, told = followed(curve=dip(seed))
        assert states(told) in (["suspected", "detected", "retracted"], ["detected", "retracted"])
        assert {t.ordinal for t in told} == {1}
        back = told[-1]
        assert judge.phase == "flat"
        assert back.act
        assert (back.from_phase, back.to_phase) == ("flat", "dropped")
        assert (back.advice, back.undo) == ("put it back", "")
        assert back.evidence.after.mean > back.evidence.before.mean
        assert 600 <= back.happened_step <= 760
        assert [span.phase for span in judge.spans] == ["flat", "dropped", "flat"]


def test_what_no_training_loop_was_told_of_is_taken_back_without_telling_it() -> None:
    late = machine("flat dropped", turn("flat", "dropped", "fall", act="confirmed"))
    _, told = followed(late)
    assert states(told)[-2:] == ["detected", "retracted"]
    assert [t for t in told if t.act] == []


def test_a_claim_that_was_confirmed_can_still_be_taken_back() -> None:
    late = machine("flat dropped", turn("flat", "dropped", "fall", act="confirmed"))
    _, told = followed(late, ramps((0, 0, 60), (-3, -3, 80), (0, 0, 60)))
    assert states(told)[-2:] == ["confirmed", "retracted"]
    assert [t.state for t in told if t.act] == ["confirmed", "retracted"]


def test_where_the_machine_has_a_turn_back_nothing_is_taken_back() -> None:
    both = machine("flat dropped", turn("flat", "dropped", "fall"), turn("dropped", "flat", "rise"))
    _, told = followed(both)
    assert "retracted" not in states(told)
    assert entered(told) == ["dropped", "flat"]


def test_a_suspicion_that_comes_to_nothing_is_taken_back_and_the_phase_was_never_left() -> None:
    short = ramps((0, 0, 60), (-0.6, -0.6, 10), (0, 0, 91), sd=0.3)
    judge, told = followed(curve=short, alpha=1e-9)
    assert states(told) == ["suspected", "retracted"]
    suspected, retracted = told
    assert not suspected.act
    assert not retracted.act
    assert (retracted.advice, retracted.undo) == ("", "")
    assert suspected.evidence == retracted.evidence
    assert judge.phase == "flat"
    assert len(judge.spans) == 1


SIGNS = ", but the signs of single pairs of probes do not agree yet"
WALKS = ", but a random walk of such steps would go as far, and is not ruled out"


@pytest.mark.parametrize(("seed", "said"), [(51, SIGNS), (4, WALKS), (12, WALKS)])
def test_evidence_that_would_suffice_and_is_not_claimed_says_why(seed: int, said: str) -> None:
    shocks, values = np.random.default_rng(seed), np.zeros(150)
    for i in range(1, values.size):  # AR(0.8)
        values[i] = 0.8 * values[i - 1] + 0.6 * shocks.standard_normal()
    _, told = followed(LEVELS, plain(10.0 + 0.5 * values))
    suspected = [t.evidence for t in told if t.state == "suspected"]
    would_do = [one for one in suspected if one.log_e >= math.log(1 / one.alpha)]
    assert any(one.sentence.endswith(said) for one in would_do)
    assert all(one.sentence.endswith((SIGNS, WALKS)) == (one in would_do) for one in suspected)


def test_what_is_suspected_is_known_while_it_is() -> None:
    judge, seen = Track(DROP, {}, 0.01), []
    for row in rows(ramps((0, 0, 60), (0, -3, 100), sd=0.5)):
        told = judge.update(*row)
        seen.append(judge.suspected)
        if "suspected" in states(told):
            assert judge.suspected == "dropped"
        elif told:
            assert judge.suspected is None
    assert set(seen) == {None, "dropped"}


def test_a_suspicion_of_one_way_is_withdrawn_where_another_is_taken() -> None:
    curve = ramps((0, 0, 30), (-0.9, -0.9, 6), (4, 4, 64), sd=0.3)
    _, told = followed(LEVELS, curve, alpha=1e-9)
    assert [(t.state, t.to_phase, t.ordinal) for t in told] == [
        ("suspected", "down", 1),
        ("retracted", "down", 1),
        ("detected", "up", 2),
        ("confirmed", "up", 2),
    ]


FAMILIES = {
    "peak": (PEAK, peak),
    "dip": (DROP, dip),
    "ups and downs": (CYCLE, lambda seed: ramps(*[(v, v, 40) for v in (0, 3, 0, 3, 0)], seed=seed)),
    "noise": (LEVELS, lambda seed: ramps((0, 0, 120), seed=seed, sd=1.0)),
    "real peak": (PEAK, curves.rise_peak_decay),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_each_state_is_told_once_and_none_after_it_was_taken_back(name: str) -> None:
    model, family = FAMILIES[name]
    allowed = {("suspected", "detected"), ("suspected", "retracted"), ("detected", "confirmed")}
    allowed |= {("detected", "retracted"), ("confirmed", "retracted")}
    for seed in range(8):
        _, told = followed(model, family(seed))
        ordinals = [
            t.ordinal for t in told if t.state == "suspected" or (t.state == "detected" and not t.suspected_step)
        ]
        assert ordinals == list(range(1, len(ordinals) + 1))
        for ordinal in ordinals:
            life = [t for t in told if t.ordinal == ordinal]
            assert all((one.state, two.state) in allowed for one, two in itertools.pairwise(life))
            assert len({(t.from_phase, t.to_phase) for t in life}) == 1
            assert [t.known_step for t in life] == sorted(t.known_step for t in life)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_claim_is_back_dated_with_the_evidence_it_needs(name: str) -> None:
    model, family = FAMILIES[name]
    for seed in range(8):
        _, told = followed(model, family(seed))
        for t in told:
            if t.state in ("suspected", "detected"):
                assert t.evidence.after.last_step == t.known_step
            assert t.happened_between[0] <= t.happened_step <= t.happened_between[1] <= t.known_step
            assert 0.0 <= t.confidence <= 1.0
            if t.state == "detected":
                assert t.evidence.log_e >= math.log(1 / t.evidence.alpha)
                assert t.confidence >= 1 - t.evidence.alpha
                taken = next(turn for turn in model.turns_from(t.from_phase) if turn.to_phase == t.to_phase)
                assert abs(t.evidence.change) >= taken.min_effect


def test_each_time_a_phase_is_entered_less_of_its_alpha_is_left() -> None:
    curve = ramps(*[(v, v, 50) for v in (0, 3, 0, 3, 0, 3)], seed=3)
    _, told = followed(CYCLE, curve)
    alphas = [t.evidence.alpha for t in told if t.state == "detected"]
    per_turn = 0.01 / 2
    left = [per_turn * FIRST, per_turn * FIRST * (1 - FIRST), per_turn * FIRST * (1 - FIRST) ** 2]
    assert alphas == pytest.approx([left[0], left[0], left[1], left[1], left[2]])
    assert sum(left) < per_turn


def test_phases_are_spans_that_meet() -> None:
    judge, told = followed(PEAK, peak())
    happened = [t.happened_step for t in told if t.state == "detected"]
    assert [s.since_step for s in judge.spans] == [0, *happened]
    assert [s.until_step for s in judge.spans] == [*happened, None]


def test_a_step_that_is_not_beyond_the_last_is_counted_and_not_judged() -> None:
    judge = Track(DROP, {}, 0.01)
    for step in (0, 10, 10, 5, 20):
        judge.update(step, 1.0)
    assert (judge.observed.behind, judge.observed.skipped) == (2, 0)
    assert judge.observed.card().probes == 0  # three are too few to be final
    lived = rows(dip())
    again = Track(DROP, {}, 0.01)
    assert [t for row in [*lived[:80], *lived[50:]] for t in again.update(*row)] == followed()[1]
    assert again.observed.behind == 30


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_what_has_no_place_on_the_axis_is_counted_and_changes_nothing(scale: str) -> None:
    model = machine("flat dropped", turn("flat", "dropped", "fall"), value_scale=scale)
    judge, expected = Track(model, {}, 0.01), followed(model)[1]
    worthless = [math.nan, math.inf, -math.inf, 1e200] + ([0.0, -1.0] if scale == "log" else [])
    told = []
    for i, (step, value, paired) in enumerate(rows(dip())):
        if i % 5 == 0:
            told += judge.update(step - 5, worthless[i // 5 % len(worthless)])
        told += judge.update(step, value, paired)
    assert told == expected
    assert judge.observed.skipped == 31  # the first lies before the run
    assert judge.observed.behind == 1


def test_values_that_are_not_finite_reach_only_machines_that_mind_them() -> None:
    loss = next(m for m in MACHINES if m.name == "loss_spike")
    assert loss.minds_infinity
    assert not DROP.minds_infinity
    quiet = plain(np.abs(2.0 + 0.02 * np.random.default_rng(0).standard_normal(40)))
    judge = Track(loss, {}, 0.01)
    passed(judge, quiet)
    assert judge.update(400, math.nan) == []
    (told,) = judge.update(410, math.inf)
    assert (told.state, told.to_phase, told.severity) == ("detected", "diverged", "critical")
    assert told.evidence.sentence == "observed_loss was not finite at steps 400 and 410"
    assert msgspec.json.decode(msgspec.json.encode(told), type=Transition) == told
    assert judge.observed.skipped == 0


def test_a_share_that_was_zero_and_rises_has_risen() -> None:
    share = np.concatenate([np.zeros(40), np.linspace(0.0, 0.3, 40)])
    _, told = followed(machine("none some", turn("none", "some", "rise", flat=True)), plain(share))
    assert entered(told) == ["some"]
    assert 400 <= told[0].known_step <= 550


def test_phases_remembered_are_bounded() -> None:
    judge = Track(CYCLE, {}, 0.01)
    for i in range(2 * MAX_SPANS):
        judge._enter("low" if i % 2 else "high", i)
    assert len(judge.spans) == MAX_SPANS


def test_phases_passed_are_taken_from_what_was_told_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = followed(PEAK, peak())
    young = Track(PEAK, {}, 0.01)
    young.restore(whole.state())
    assert young.spans == whole.spans, "the latest are in the state"
    monkeypatch.setattr(track_module, "KEPT_SPANS", 1)
    young.restore(whole.state())
    assert [s.phase for s in young.spans] == ["passed"]
    young.remember(whole.spans)
    assert young.spans == whole.spans
    young.remember(whole.spans[:1])
    assert young.spans == whole.spans
