"""The engine follows every machine on every subject of a run, and spends its alpha once over all of them."""

import itertools
import json

import msgspec
import numpy as np
import pytest

from collector.phases import ALPHA, MACHINES, Machine, MachineError, PhaseEngine, Transition, engine
from collector.phases import track as track_module
from collector.phases.machine import Aside, Given
from collector.phases.track import FIRST, Track
from probe_wire import Column, Estimate, Outcome
from tests import curves
from tests.phase_runs import COMPLEXITY, FISHER, entered, follow, machine, of, plain, rows, turn

CRITICAL = next(m for m in MACHINES if m.name == "critical_period")
LAYERS = next(m for m in MACHINES if m.name == "critical_period_of_layers")
Row = tuple[int, list[tuple[Column, Estimate]]]


def run(seed: int = 0) -> list[Row]:
    """Reports of a run: a Fisher trace of the network and of two layers, and a loss that spikes."""
    whole, layer = curves.rise_peak_decay(seed), curves.rise_peak_decay(seed + 100)
    rng = np.random.default_rng(seed)
    loss = 2.0 + 0.02 * rng.standard_normal(150)
    loss[70:73] = 5.0
    return [
        (
            step,
            [
                (FISHER, Estimate(float(whole.values[i]), paired=float(whole.paired[i]))),
                (Column("fisher_trace", {"layer": "a"}), Estimate(float(layer.values[i]))),
                (Column("fisher_trace", {"layer": "b"}), Estimate(float(layer.values[-1 - i]))),
                (Column("observed_loss"), Estimate(float(loss[i]))),
            ],
        )
        for i, step in enumerate(whole.steps.tolist())
    ]


def fed(phases: PhaseEngine, reports: list[Row], rank: int = 0) -> list[Transition]:
    return [t for step, measured in reports for t in phases.update(step, measured, rank)]


def test_alpha_is_spent_once_over_machines_layers_turns_and_returns() -> None:
    phases, layers = PhaseEngine(), 60
    for shipped in MACHINES:
        subjects = [{}] if shipped.subject == "network" else [{"layer": str(i)} for i in range(layers)]
        for subject in subjects:
            phases.update(0, [(Column(shipped.quantity, shipped.labels | subject), Estimate(1.0))])
    tracks = list(phases._tracks.values())
    assert len(tracks) == len(MACHINES) - 1 + layers
    assert sum(track.alpha for track in tracks) == pytest.approx(ALPHA, rel=0.01)
    assert sum(track.alpha for track in tracks) <= ALPHA
    for track in tracks:
        spent = 0.0
        for times, each in itertools.product(range(1, 60), track.machine.turns):
            track._entered[each.from_phase] = times
            spent += track._alpha(each)
        assert spent <= track.alpha * (1 + 1e-9)


def test_machines_share_alpha_by_weight_and_layers_by_how_early_they_appear() -> None:
    heavy = machine("a b", turn("a", "b"), name="heavy", weight=3.0)
    light = machine("a b", turn("a", "b"), name="light", subject="layer")
    phases = PhaseEngine([heavy, light], alpha=0.04)
    for labels in ({}, {"layer": "x"}, {"layer": "y"}):
        phases.update(0, [(Column("q", labels), Estimate(1.0))])
    assert [track.alpha for track in phases._tracks.values()] == pytest.approx([0.03, 0.01 / 2, 0.01 / 6])
    track: Track = phases._tracks["heavy", ()]
    assert track._alpha(heavy.turns[0]) == pytest.approx(0.03 * FIRST)


def test_layers_are_judged_apart() -> None:
    phases, peak, flat = PhaseEngine([LAYERS]), curves.rise_peak_decay(1), curves.constant(1)
    told = []
    for i, step in enumerate(peak.steps.tolist()):
        both = [("a", peak), ("b", flat)]
        told += phases.update(
            step, [(Column("fisher_trace", {"layer": name}), Estimate(float(c.values[i]))) for name, c in both]
        )
    assert [(t.subject["layer"], t.to_phase) for t in told if t.state == "detected"] == [
        ("a", "critical_period"),
        ("a", "after_critical_period"),
    ]
    assert "fisher_trace of a averaged" in told[0].evidence.sentence
    assert [s.phase for s in phases.phases if s.subject == {"layer": "b"}] == ["early"]


def test_only_sound_estimates_of_the_whole_network_are_judged() -> None:
    phases = PhaseEngine([CRITICAL])
    layer, other = Column("fisher_trace", {"layer": "fc1"}), Column("train_loss")
    bound = Estimate(1.0, outcome=Outcome.NOT_CONVERGED)
    assert phases.update(0, [(layer, Estimate(1.0)), (other, Estimate(1.0)), (FISHER, bound)]) == []
    assert phases.phases == []
    assert phases.unused.not_ok == 1


def test_a_value_that_is_not_finite_reaches_only_machines_that_mind_it() -> None:
    phases, lost = PhaseEngine(), Estimate(float("nan"), outcome=Outcome.NON_FINITE)
    for step in range(30):
        phases.update(step, [(Column("observed_loss"), Estimate(2.0 + 0.01 * (step % 3))), (FISHER, Estimate(1.0))])
    told = [t for step in (30, 31) for t in phases.update(step, [(Column("observed_loss"), lost), (FISHER, lost)])]
    assert [(t.machine, t.to_phase) for t in told] == [("loss_spike", "diverged")]
    judges = sum(m.quantity == "fisher_trace" and m.judges({}) for m in MACHINES)
    assert phases.unused.not_ok == 2 * judges


def test_of_several_ranks_the_lowest_that_has_a_value_is_judged() -> None:
    phases, told = PhaseEngine(), []
    for step, value, paired in rows(curves.rise_peak_decay(0)):
        told += phases.update(step, [(FISHER, Estimate.without_value(Outcome.NOT_APPLICABLE))], rank=0)
        told += phases.update(step, [(FISHER, Estimate(value, paired=paired))], rank=2)
        told += phases.update(step, [(FISHER, Estimate(-value))], rank=3)
    assert told == follow(curves.rise_peak_decay(0))
    assert entered(of("critical_period", told)) == ["critical_period", "after_critical_period"]
    assert phases.unused.behind == 0


def test_a_resumed_run_is_ignored_until_it_passes_its_own_past() -> None:
    reports, phases = run(5), PhaseEngine([CRITICAL])
    told = fed(phases, [*reports[:60], *reports[40:]])
    assert told == fed(PhaseEngine([CRITICAL]), reports)
    assert phases.unused.behind == 20


def test_the_order_of_measurements_within_a_report_changes_nothing_but_the_order_of_what_is_told() -> None:
    reports = run()
    straight = fed(PhaseEngine(), reports)
    network = [t for t in straight if not t.subject]
    for turned in ([(step, measured[::-1]) for step, measured in reports], [(s, m[1:] + m[:1]) for s, m in reports]):
        told = [t for t in fed(PhaseEngine(), turned) if not t.subject]
        key = [(t.known_step, t.machine, t.ordinal, t.state) for t in told]
        assert sorted(key) == sorted((t.known_step, t.machine, t.ordinal, t.state) for t in network)
        assert {msgspec.json.encode(t) for t in told} == {msgspec.json.encode(t) for t in network}


def test_the_order_in_which_machines_are_given_changes_nothing_they_find() -> None:
    found = [
        {msgspec.json.encode(t) for t in fed(PhaseEngine(machines), run())} for machines in (MACHINES, MACHINES[::-1])
    ]
    assert found[0] == found[1]


def test_subjects_beyond_the_cap_are_refused_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_TRACKS", 3)
    phases = PhaseEngine([LAYERS])
    for i, _ in itertools.product(range(5), range(2)):
        phases.update(1, [(Column("fisher_trace", {"layer": f"l{i}"}), Estimate(1.0))])
    assert len(phases.phases) == 3
    assert phases.unused.refused == 4


def test_two_machines_of_one_name_are_refused() -> None:
    with pytest.raises(MachineError, match="two machines named 'critical_period'"):
        PhaseEngine([CRITICAL, CRITICAL])


# -- what other quantities say --------------------------------------------------------------------


def with_other(quantity: str, value: float, model: Machine) -> list[Transition]:
    """A drop at step 500, while another quantity stays where it is; both come in one report, the other one last."""
    values = 10.0 - 3.0 * (np.arange(120) >= 50) + 0.1 * np.random.default_rng(0).standard_normal(120)
    phases = PhaseEngine([model])
    return [
        t
        for step, level, _ in rows(plain(values))
        for t in phases.update(step, [(Column("q"), Estimate(level)), (Column(quantity), Estimate(value))])
    ]


def test_an_aside_is_told_where_the_other_quantity_is_as_given() -> None:
    asides = (
        Aside(to_phase="b", quantity="dead_units", at_least=0.2, says="dead"),
        Aside(to_phase="b", quantity="dead_units", at_most=0.2, says="alive"),
        Aside(to_phase="a", quantity="dead_units", says="elsewhere"),
    )
    model = machine("a b", turn("a", "b"), asides=asides)
    for value, says in ((0.5, ("dead",)), (0.1, ("alive",)), (0.2, ("dead", "alive"))):
        told = with_other("dead_units", value, model)
        assert entered(told) == ["b"]
        assert {t.evidence.asides for t in told} == {says}
    assert {t.evidence.asides for t in with_other("unknown", 0.5, model)} == {()}


def test_what_the_lowest_rank_says_is_overheard() -> None:
    model = machine("a b", turn("a", "b"), asides=(Aside(to_phase="b", quantity="dead_units", says="dead"),))
    phases, heard = PhaseEngine([model]), Column("dead_units")
    for rank, value in ((1, 0.1), (2, 0.2), (0, 0.3), (1, 0.4)):
        phases.update(0, [(heard, Estimate(value))], rank)
    phases.update(0, [(heard, Estimate(9.0, outcome=Outcome.NOT_CONVERGED))], rank=0)
    assert phases._latest == {("dead_units", ()): 0.3}


@pytest.mark.parametrize(("level", "told"), [(0.3, ["increase"]), (6e-10, [])])
def test_a_representation_that_has_the_input_to_a_thousandth_gives_up_nothing_that_matters(
    level: float, told: list[str]
) -> None:
    model = next(each for each in MACHINES if each.name == "reconstruction")
    noise = np.random.default_rng(0).normal(0, 0.005, 120)
    values = level * (1 + 0.6 * np.clip(np.linspace(-1, 1, 120), 0, 1) + noise)
    series = [(step, [(Column(model.quantity), Estimate(float(value)))]) for step, value in enumerate(values)]
    found = [each.to_phase for each in fed(PhaseEngine((model,)), series) if each.state == "detected"]
    assert found == told


def test_a_turn_is_taken_only_where_other_quantities_are_as_it_is_given() -> None:
    model = machine("a b", turn("a", "b", given=(Given(quantity="fitted", at_least=0.99),)))
    assert entered(with_other("fitted", 1.0, model)) == ["b"]
    assert with_other("fitted", 0.9, model) == []
    assert with_other("unknown", 1.0, model) == []


def test_each_phase_is_left_on_what_held_at_two_probes_of_its_own() -> None:
    held = (Given(quantity="fitted", at_least=0.99),)
    model = machine("a b c", turn("a", "b", "given", given=held), turn("b", "c", "given", given=held))
    phases = PhaseEngine([model])
    told = [
        (t.to_phase, t.known_step)
        for step in range(6)
        for t in phases.update(step, [(Column("q"), Estimate(1.0)), (Column("fitted"), Estimate(1.0))])
        if t.state == "detected"
    ]
    assert told == [("b", 1), ("c", 3)]


def test_a_state_that_was_given_out_is_not_changed_by_what_comes_later() -> None:
    reports, phases = run(), PhaseEngine()
    fed(phases, reports[:71])  # within the spike
    state = phases.state()
    before = json.dumps(state)
    fed(phases, reports[71:])
    assert json.dumps(state) == before
    back = PhaseEngine()
    back.restore(state)
    fed(back, reports[71:])
    assert json.dumps(state) == before


# -- a restart ------------------------------------------------------------------------------------


def test_a_restart_goes_on_to_the_byte_and_remembers_what_was_unused() -> None:
    reports = run()
    straight = PhaseEngine()
    whole = [msgspec.json.encode(fed(straight, [report])) for report in reports]
    for cut in (1, 20, 55, 90, 149):
        old = PhaseEngine()
        head = [msgspec.json.encode(fed(old, [report])) for report in reports[:cut]]
        old.update(0, [(FISHER, Estimate(1.0)), (FISHER, Estimate(1.0, outcome=Outcome.FAILED))])
        new = PhaseEngine()
        assert new.restore(json.loads(json.dumps(old.state())))
        assert new.unused == old.unused
        assert new.unused.not_ok > 0
        assert new.judged == old.judged
        assert head + [msgspec.json.encode(fed(new, [report])) for report in reports[cut:]] == whole


def test_a_restart_still_believes_the_same_rank_and_remembers_what_it_overheard() -> None:
    aside = Aside(to_phase="b", quantity="dead_units", at_least=0.2, says="dead")
    old, new = (PhaseEngine([machine("a b", turn("a", "b"), asides=(aside,))]) for _ in range(2))
    old.update(0, [(Column("dead_units"), Estimate(0.5)), (Column("q"), Estimate(1.0))], rank=1)
    assert new.restore(json.loads(json.dumps(old.state())))
    assert new._latest == old._latest
    new.update(10, [(Column("q"), Estimate(1.0))], rank=2)
    assert new._tracks["m", ()].observed._last_step == 0
    new.update(10, [(Column("q"), Estimate(1.0))], rank=1)
    assert new._tracks["m", ()].observed._last_step == 10


def test_a_state_of_other_versions_is_refused_and_changes_nothing() -> None:
    old = PhaseEngine([CRITICAL])
    fed(old, run()[:40])
    state = json.loads(json.dumps(old.state()))
    changed = msgspec.structs.replace(CRITICAL, source="another")
    for other in (PhaseEngine([changed]), PhaseEngine(), PhaseEngine(())):
        assert not other.restore(state)
        assert other.phases == []


def test_a_state_that_is_damaged_changes_nothing() -> None:
    old = PhaseEngine()
    fed(old, run()[:40])
    state = json.loads(json.dumps(old.state()))
    del state["tracks"][-1]["observed"]
    new = PhaseEngine()
    with pytest.raises(KeyError):
        new.restore(state)
    assert new.phases == []
    assert new.judged == []


def test_phases_that_were_passed_are_taken_from_what_was_told_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = PhaseEngine()
    follow(curves.double_descent(3), COMPLEXITY, whole)
    young = PhaseEngine()
    monkeypatch.setattr(track_module, "KEPT_SPANS", 2)
    young.restore(json.loads(json.dumps(whole.state())))
    assert young.phases == whole.phases[-2:]
    young.remember(whole.phases)
    assert young.phases == whole.phases
