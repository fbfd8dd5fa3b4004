"""A series of one's own can be judged by hand, by any machine or by a single idea."""

import msgspec
import numpy as np
import pytest

from collector.phases import KINDS, MACHINES, Detection, MachineError, PhaseEngine, detector
from tests import curves
from tests.phase_runs import follow, rows

ALL = [*KINDS, *(machine.name for machine in MACHINES)]


def found(kind: str, values: np.ndarray, **settings: object) -> list[Detection]:
    judge = detector(kind, **settings)  # type: ignore[arg-type]
    return [one for i, value in enumerate(values.tolist()) for one in judge(10 * i, value)]


def kinds(made: list[Detection]) -> list[str]:
    return [one.kind for one in made if one.state == "detected"]


def noise(seed: int, n: int, sd: float) -> np.ndarray:
    return np.asarray(sd * np.random.default_rng(seed).standard_normal(n))


@pytest.mark.parametrize("kind", ALL)
def test_every_kind_takes_values_and_mostly_says_nothing(kind: str) -> None:
    assert kinds(found(kind, 5.0 + noise(0, 60, 0.1))) in ([], ["plateau"], ["stabilised"])


def test_no_idea_has_the_name_of_a_machine_and_each_ends_in_the_phase_it_is_named_for() -> None:
    assert len(set(ALL)) == len(ALL)
    assert all(name in {turn.to_phase for turn in kind.turns} for name, kind in KINDS.items())


def test_an_unknown_kind_is_refused_with_those_there_are() -> None:
    with pytest.raises(MachineError, match="Got the kind 'groking'") as refused:
        detector("groking")
    assert all(kind in str(refused.value) for kind in ALL)


RISE = np.linspace(0.0, 3.0, 40)
SHAPES = {
    "peak_passed": np.concatenate([RISE, RISE[::-1]]),
    "valley_passed": np.concatenate([-RISE, -RISE[::-1]]),
    "onset_up": np.concatenate([np.zeros(60), RISE]),
    "onset_down": np.concatenate([np.zeros(60), -RISE]),
    "stabilised": 4.0 * (1.0 - np.exp(-np.arange(150.0) / 15)),
    "spike": np.where(np.arange(80) // 3 == 20, 5.0, 0.0),
}


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_an_idea_finds_its_shape_and_no_other_shape_upside_down(kind: str, seed: int) -> None:
    shape = SHAPES[kind]
    assert kind in kinds(found(kind, 5.0 + shape + noise(seed, shape.size, 0.1)))
    if kind != "stabilised":
        assert kind not in kinds(found(kind, 5.0 - shape + noise(seed, shape.size, 0.1)))


def test_a_machine_by_hand_says_what_it_says_in_an_engine_of_its_own() -> None:
    curve = curves.rise_peak_decay(0)
    judge = detector("critical_period")
    made = [one for step, value, paired in rows(curve) for one in judge(step, value, stderr=paired)]
    assert kinds(made) == ["critical_period", "after_critical_period"]
    told = follow(curve, phases=PhaseEngine([judge.track.machine]))
    assert [(one.kind, one.state) for one in made] == [(t.to_phase, t.state) for t in told]
    assert all(one.step == one.transition.known_step for one in made)


def test_a_target_is_a_number_or_a_function_of_the_step() -> None:
    approach = 1.0 - np.exp(-np.arange(200.0) / 15)
    constant = found("eos_reached", 40.0 * approach + noise(0, 200, 0.3), target=40.0)
    assert kinds(constant) == ["eos_reached"]
    assert kinds(found("eos_reached", 40.0 * approach + noise(0, 200, 0.3), target=60.0)) == []

    def schedule(step: int) -> float:
        return 40.0 * (1.0 + step / 1000)

    moving = np.array([schedule(10 * i) for i in range(200)]) * approach + noise(0, 200, 0.3)
    assert kinds(found("eos_reached", moving, target=schedule)) == ["eos_reached"]
    assert kinds(found("eos_reached", moving, target=40.0)) == []


def test_numbers_of_numpy_are_judged_as_those_of_python_are() -> None:
    values = (1e-30 * (5.0 + SHAPES["peak_passed"] + noise(0, 80, 0.1))).astype(np.float32)
    plain, narrow = detector("peak_passed"), detector("peak_passed")
    for i, value in enumerate(values):
        told = plain(10 * i, float(value), stderr=float(value / 50))
        assert msgspec.json.encode(narrow(np.int64(10 * i), value, stderr=value / 50)) == msgspec.json.encode(told)  # type: ignore[arg-type]
    assert msgspec.json.encode(narrow.track.state()) == msgspec.json.encode(plain.track.state())


@pytest.mark.parametrize("target", [0.0, -1.0, float("nan")])
def test_a_value_without_a_positive_target_is_skipped(target: float) -> None:
    judge = detector("eos_reached", target=lambda step: target if step < 20 else 2.0)
    assert [judge(step, 1.0, stderr=0.1) for step in (0, 10, 20)] == [[], [], []]
    assert judge.track.observed.skipped == 2


def test_the_reported_error_is_divided_by_the_target_as_the_value_is() -> None:
    plain, scaled = detector("eos_reached"), detector("eos_reached", target=40.0)
    values = 1.0 - np.exp(-np.arange(120.0) / 15) + noise(1, 120, 0.01)
    for i, value in enumerate(values.tolist()):
        one, other = plain(10 * i, value, stderr=0.01), scaled(10 * i, 40.0 * value, stderr=0.4)
        assert [d.state for d in one] == [d.state for d in other]
    assert plain.track.observed.card().estimator == pytest.approx(scaled.track.observed.card().estimator)


def test_axes_and_alpha_can_be_chosen() -> None:
    judge = detector("peak_passed", value_scale="log", step_scale="log", alpha=1e-6)
    assert judge.track.machine.value_scale == judge.track.machine.step_scale == "log"
    assert judge.track.alpha == 1e-6
    assert judge(0, -1.0) == []
    assert judge.track.observed.skipped == 1
    assert detector("local_complexity", value_scale="log").track.machine.step_scale == "log"
    late = [
        next(d.step for d in found("onset_up", 5.0 + SHAPES["onset_up"], alpha=a) if d.state == "detected")
        for a in (0.1, 1e-9)
    ]
    assert late[0] <= late[1]
