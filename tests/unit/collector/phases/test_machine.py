"""A machine that contradicts itself is refused with a remedy; one that does not is data with a version."""

import msgspec
import numpy as np
import pytest

from collector.phases import MACHINES, Machine, MachineError, Turn
from collector.phases.machine import TESTED, Aside, shared
from probe_wire import Advice
from tests.phase_runs import machine, turn


@pytest.mark.parametrize(
    ("names", "turns", "words"),
    [
        ("", [], "Got no phases"),
        ("a b a", [turn("a", "b")], "more than one phase named a"),
        ("a b", [turn("a", "c")], "unknown phase c; known are a, b"),
        ("a b c", [turn("a", "b")], "Nothing leads to c from a"),
        ("a b c", [turn("a", "b"), turn("c", "b")], "Nothing leads to c"),
        ("a", [turn("a", "a")], "goes nowhere"),
        ("a b c", [turn("a", "b"), turn("a", "c")], "not the only one taken on a fall"),
        ("a b", [turn("a", "b", share=0.0)], "share 0.0; it is a part of the whole"),
        ("a b", [turn("a", "b", share=101.0)], "share 101.0"),
        ("a b", [turn("a", "b", min_effect=-0.1)], "min_effect -0.1; 0.05 means 5 %"),
        ("a b", [turn("a", "b", min_points=3)], "min_points 3; use 8 or more"),
        ("a b", [turn("a", "b", "settle", slope=1.0)], "slope 1.0; it is a fraction"),
        ("a b", [turn("a", "b", "still", window=65)], "window 65; use 1 to 64"),
        ("a b", [turn("a", "b", "spike", spreads=2.0)], "spreads 2.0; below 3 noise alone"),
        ("a b", [turn("a", "b", "hover", band=(1.1, 0.9))], "the band 1.1 to 0.9; it rises"),
        ("a b", [turn("a", "b", at_least=2.0, at_most=1.0)], "at least 2.0 and at most 1.0"),
        ("a B", [turn("a", "B")], "Got the name 'B'"),
        (
            "a b",
            [turn("a", "b", "spike", spreads=5.0), turn("b", "a", "calm", spreads=6.0)],
            "have spreads 5, 6; they compare with one running median, so give them all the same spreads",
        ),
        (
            "a b c",
            [turn("a", "b", "spike"), turn("a", "c", "diverge", min_effect=0.0), turn("c", "a", "calm")],
            r"have min_effect 0, 0\.05; they compare",
        ),
        ("a? b", [turn("a", "b")], "first phase, a, cannot be optional"),
        ("a b? c", [turn("a", "b"), turn("b", "c")], "b is optional, but only it leads to c"),
    ],
)
def test_a_contradiction_is_refused_and_named(names: str, turns: list[Turn], words: str) -> None:
    with pytest.raises(MachineError, match=words) as refused:
        machine(names, *turns)
    assert str(refused.value).startswith("Machine 'm': ")


def test_a_weight_and_an_aside_that_make_no_sense_are_refused() -> None:
    with pytest.raises(MachineError, match=r"weight 0\.0"):
        machine("a b", turn("a", "b"), weight=0.0)
    with pytest.raises(MachineError, match="aside names the unknown phase c"):
        machine("a b", turn("a", "b"), asides=(Aside(to_phase="c", quantity="q", says=""),))


def test_cycles_and_ways_past_an_optional_phase_are_allowed() -> None:
    m = machine("a b? c", turn("a", "b"), turn("a", "c", "rise"), turn("b", "c", "rise"), turn("c", "b"))
    assert [t.to_phase for t in m.turns_from("a")] == ["b", "c"]


def test_the_version_changes_where_the_same_machine_judges_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    one = machine("a b", turn("a", "b"))
    before = one.version
    monkeypatch.setattr("collector.phases.machine.JUDGEMENT", -1)
    assert one.version != before


def test_the_version_follows_the_content_alone() -> None:
    one, same = machine("a b", turn("a", "b")), machine("a b", turn("a", "b"))
    assert one.version == same.version
    assert len(one.version) == 12
    assert one.version != machine("a b", turn("a", "b", share=0.5)).version
    assert one.version != machine("a b", turn("a", "b"), source="another").version


def test_a_turn_admits_means_from_and_up_to_its_limits() -> None:
    means = np.array([0.0, 1.0, 2.0, 3.0])
    assert turn("a", "b").admits(means).all()
    assert turn("a", "b", at_least=1.0, at_most=2.0).admits(means).tolist() == [False, True, True, False]


def test_the_shares_of_turns_that_are_tested_are_parts_of_one() -> None:
    m = machine(
        "a b c", turn("a", "b", share=0.3), turn("b", "a", "rise", share=0.9), turn("b", "c", "settle", share=9.0)
    )
    assert [m.alpha(t) for t in m.turns] == pytest.approx([0.25, 0.75, 0.0])


@pytest.mark.parametrize("shipped", MACHINES, ids=lambda m: m.name)
def test_a_machine_spends_its_alpha_once(shipped: Machine) -> None:
    spent = sum(shipped.alpha(t) for t in shipped.turns)
    assert spent == pytest.approx(1.0 if any(t.when in TESTED for t in shipped.turns) else 0.0)


@pytest.mark.parametrize("shipped", MACHINES, ids=lambda m: m.name)
def test_a_shipped_machine_survives_json(shipped: Machine) -> None:
    back = msgspec.json.decode(msgspec.json.encode(shipped), type=Machine)
    assert back == shipped
    assert back.version == shipped.version


def test_a_contradiction_in_json_is_refused_in_the_same_words() -> None:
    text = msgspec.json.encode(machine("a b", turn("a", "b"))).replace(b'"to_phase":"b"', b'"to_phase":"z"')
    with pytest.raises(msgspec.ValidationError, match="unknown phase z"):
        msgspec.json.decode(text, type=Machine)


@pytest.mark.parametrize("shipped", MACHINES, ids=lambda m: m.name)
def test_the_advice_of_a_shipped_machine_fits_the_wire(shipped: Machine) -> None:
    for t in shipped.turns:
        advice = Advice(shipped.name, t.from_phase, t.to_phase, 1, 2, 0.99, t.severity, t.advice, "", t.undo)
        assert msgspec.convert(msgspec.to_builtins(advice), Advice) == advice
    assert all(phase.meaning.endswith(".") for phase in shipped.phases)


@pytest.mark.parametrize("shipped", MACHINES, ids=lambda m: m.name)
def test_what_cannot_be_undone_waits_until_it_is_confirmed(shipped: Machine) -> None:
    for t in shipped.turns:
        if t.act == "confirmed":
            assert t.advice
            assert t.undo


def test_a_machine_judges_the_network_or_its_layers_with_just_its_labels() -> None:
    network, layers = machine("a b", turn("a", "b")), machine("a b", turn("a", "b"), subject="layer")
    split = machine("a b", turn("a", "b"), labels={"split": "test"})
    seen = ({}, {"layer": "fc1"}, {"split": "test"}, {"layer": "fc1", "split": "test"})
    assert [network.judges(labels) for labels in seen] == [True, False, False, False]
    assert [layers.judges(labels) for labels in seen] == [False, True, False, False]
    assert [split.judges(labels) for labels in seen] == [False, False, True, False]


def test_only_a_machine_that_tests_something_takes_a_part_of_alpha() -> None:
    parts = shared(MACHINES, 0.01)
    idle = {name for name, part in parts.items() if part == 0.0}
    assert idle == {"liu_gurevych", "loss_spike"} == {m.name for m in MACHINES if not m.tests}
    assert sum(parts.values()) == pytest.approx(0.01)
    assert parts["critical_period"] == pytest.approx(4 * parts["grokking"])
    assert shared([], 0.01) == {}
    assert shared([m for m in MACHINES if not m.tests], 0.01) == {"liu_gurevych": 0.0, "loss_spike": 0.0}
