"""A machine that contradicts itself is refused with a remedy; one that does not is data with a version."""

import msgspec
import pytest

from collector.phases import MACHINES, Machine, MachineError, Phase, Turn, detector
from probe_wire import Advice


def turn(from_phase: str, to_phase: str, when: str = "fall", **other: object) -> Turn:
    settings = {"alpha": 0.01, "min_effect": 0.05, **other}
    return Turn(from_phase=from_phase, to_phase=to_phase, when=when, **settings)  # type: ignore[arg-type]


def machine(names: str, *turns: Turn, **other: object) -> Machine:
    phases = tuple(Phase(name=name.strip("?"), meaning="", optional=name.endswith("?")) for name in names.split())
    settings = {"name": "m", "quantity": "q", "value_scale": "log", "step_scale": "linear", **other}
    return Machine(phases=phases, turns=turns, **settings)  # type: ignore[arg-type]


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
        ("a b", [turn("a", "b", alpha=0.0)], "alpha 0.0"),
        ("a b", [turn("a", "b", alpha=1.0)], "alpha 1.0"),
        ("a b", [turn("a", "b", min_effect=-0.1)], "min_effect -0.1"),
        ("a b", [turn("a", "b", min_points=3)], "min_points 3; use 8 or more"),
        ("a B", [turn("a", "B")], "Got the name 'B'"),
        ("a? b", [turn("a", "b")], "first phase, a, cannot be optional"),
        ("a b? c", [turn("a", "b"), turn("b", "c")], "b is optional, but only it leads to c"),
    ],
)
def test_a_contradiction_is_refused_and_named(names: str, turns: list[Turn], words: str) -> None:
    with pytest.raises(MachineError, match=words) as refused:
        machine(names, *turns)
    assert str(refused.value).startswith("Machine 'm': ")


def test_cycles_and_ways_past_an_optional_phase_are_allowed() -> None:
    m = machine("a b? c", turn("a", "b"), turn("a", "c", "rise"), turn("b", "c", "rise"), turn("c", "b"))
    assert [t.to_phase for t in m.turns_from("a")] == ["b", "c"]


def test_the_version_follows_the_content_alone() -> None:
    one, same = machine("a b", turn("a", "b")), machine("a b", turn("a", "b"))
    assert one.version == same.version
    assert len(one.version) == 12
    assert one.version != machine("a b", turn("a", "b", alpha=0.02)).version


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
def test_a_run_risks_at_most_one_false_claim_in_a_hundred_a_machine(shipped: Machine) -> None:
    assert sum(t.alpha for t in shipped.turns) <= 0.01 + 1e-12


@pytest.mark.parametrize("shipped", MACHINES, ids=lambda m: m.name)
def test_the_advice_of_a_shipped_machine_fits_the_wire(shipped: Machine) -> None:
    for t in shipped.turns:
        advice = Advice(shipped.name, t.from_phase, t.to_phase, 1, 2, 0.99, t.severity, t.advice, "", t.undo)
        assert msgspec.convert(msgspec.to_builtins(advice), Advice) == advice
    assert all(phase.meaning.endswith(".") for phase in shipped.phases)


def test_a_machine_judges_the_network_or_its_layers() -> None:
    network, layers = machine("a b", turn("a", "b")), machine("a b", turn("a", "b"), subject="layer")
    assert (network.judges({}), network.judges({"layer": "fc1"}), network.judges({"split": "test"})) == (
        True,
        False,
        False,
    )
    assert (layers.judges({}), layers.judges({"layer": "fc1"})) == (False, True)


def test_an_unknown_machine_is_refused_with_those_that_ship() -> None:
    with pytest.raises(MachineError, match="critical_period, local_complexity"):
        detector("grokking")
