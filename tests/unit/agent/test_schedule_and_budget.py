"""When the agent measures, and what it may cost."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from probe_agent import Budget, Every, LogSpaced, Measurement, Memory, Probe, Snapshot, Watch
from probe_agent.agenda import Agenda
from probe_agent.budget import Claim, affordable
from probe_agent.measuring import ProbeRecord
from probe_agent.purse import Purse
from probe_agent.schedule import frequency
from probe_wire import Outcome, ProbeCost


def steps_of(schedule: Every | LogSpaced, until: int) -> list[int]:
    steps, at = [], 0
    while (at := schedule.after(at)) <= until:
        steps.append(at)
    return steps


def test_every_is_due_at_its_multiples() -> None:
    assert steps_of(Every(5), 20) == [5, 10, 15, 20]


def test_log_spaced_is_dense_early_and_gives_each_decade_its_share() -> None:
    steps = steps_of(LogSpaced(per_decade=10, at_most_apart=10**9), 10_000)
    assert steps[:4] == [1, 2, 3, 4]
    assert 8 <= sum(100 < s <= 1000 for s in steps) <= 11
    assert 8 <= sum(1000 < s <= 10_000 for s in steps) <= 11


def test_log_spaced_never_leaves_a_longer_gap_than_told() -> None:
    steps = steps_of(LogSpaced(per_decade=10, at_most_apart=50), 2000)
    assert max(b - a for a, b in pairwise(steps)) == 50


def test_a_schedule_moves_on_from_any_step() -> None:
    assert all(LogSpaced().after(step) > step for step in (0, 1, 7, 999, 123_456_789))


def test_how_often_a_schedule_asks_is_counted_over_a_thousand_steps_and_a_broken_one_asks_once() -> None:
    class Broken:
        def after(self, step: int) -> int:
            raise RuntimeError

    class Stuck:
        def after(self, step: int) -> int:
            return step

    assert [frequency(Every(1)), frequency(Every(100)), frequency(Every(5000))] == [1001, 11, 1]
    assert frequency(LogSpaced(25)) > 2 * frequency(LogSpaced(5)) > 0
    assert (frequency(Broken()), frequency(Stuck())) == (1, 1001)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Every(0), r"Every\(steps=0\); need at least 1"),
        (lambda: LogSpaced(per_decade=0), "need both at least 1"),
        (lambda: Budget(share=-0.1), r"share=-0.1.*0.02 is 2 %"),
        (lambda: Budget(allowance=-1), "allowance of 0 or more seconds"),
    ],
)
def test_a_senseless_setting_is_refused_in_words(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()  # type: ignore[operator]


def test_the_allowance_is_an_advance_that_half_the_share_pays_back() -> None:
    budget = Budget(share=0.01, allowance=10)
    for steps in (1, 1000, 10**9):
        assert budget.allowed(1000, steps) == 15
        assert budget.allowed(2000, steps) == 20 == 0.01 * 2000
        assert budget.allowed(5000, steps) == 50


def test_the_advance_comes_evenly_along_a_logarithmic_axis_of_steps_but_for_the_state_training_begins_from() -> None:
    budget, second = Budget(share=0.01, allowance=10), 1e-3

    def advanced(steps: int) -> float:
        return budget.allowed(steps * second, steps) - 0.01 * steps * second / 2

    assert budget.allowed(0, 0) == 2.5
    hundred, thousand, ten_thousand = map(advanced, (100, 1000, 10_000))
    assert thousand - hundred == pytest.approx(ten_thousand - thousand, rel=0.01)
    assert advanced(100_000) < advanced(199_999) < advanced(200_000) == pytest.approx(10), "after 200 s all of it"
    assert advanced(1_000_000) == pytest.approx(10)


@pytest.mark.parametrize("second", [1e-4, 0.05, 3.0])
def test_what_is_allowed_never_falls_while_training_goes_on(second: float) -> None:
    budget = Budget()
    allowed = [budget.allowed(steps * second, steps) for steps in range(1, 100_000, 7)]
    assert all(a <= b for a, b in pairwise(allowed))


@pytest.mark.parametrize("share", [0, 1, 1000])
def test_a_budget_that_earns_nothing_or_holds_nothing_back_gives_its_allowance_at_once(share: float) -> None:
    assert Budget(share=share, allowance=3).allowed(0, 0) == 3


def test_an_advance_without_end_has_no_parts() -> None:
    for steps in (0, 1, 1000):
        assert Budget(share=0.02, allowance=math.inf).allowed(0.01 * steps, steps) == math.inf


def test_a_percentage_is_advanced_for_the_same_time_of_training_but_never_for_long() -> None:
    assert Budget.of("2%") == Budget()
    assert Budget.of(" 0.5 % ") == Budget(share=0.005, allowance=5)
    assert Budget.of("30%") == Budget(share=0.3, allowance=20)


def test_measuring_waits_until_training_has_paid_for_it() -> None:
    # 100 steps took 50 s. Paid back already: 1.5 s cost 150 s of training at 1 %, which are 300 steps.
    assert Budget(share=0.01, allowance=0).steps_to_wait(1.5, training=50, steps=100) == 300
    # Before, half of that is earned.
    early = Budget(share=0.01, allowance=10)
    assert early.steps_to_wait(1.5, training=250, steps=500) == 600
    # Earlier still, it is the advance that is waited for.
    steps = early.steps_to_wait(1.5, training=50, steps=100)
    before, there = (early.allowed((100 + n) / 2, 100 + n) - early.allowed(50, 100) for n in (steps - 1, steps))
    assert before < 1.5 <= there
    assert steps < 200


def test_a_wait_across_the_end_of_the_advance_is_found_exactly() -> None:
    budget = Budget(share=0.1, allowance=5)  # paid back after 100 s
    steps = budget.steps_to_wait(4.0, training=60, steps=60)  # 8 s are allowed at 60 s, 12 s at 120 s
    assert steps == 60


def test_a_share_of_nothing_still_looks_again() -> None:
    assert Budget(share=0, allowance=0).steps_to_wait(1, training=5, steps=10) == 1000


def test_claims_are_paid_in_the_order_of_what_they_had() -> None:
    claims = [Claim(2.0, had=5.0), Claim(2.0, had=1.0), Claim(2.0, had=3.0)]
    assert affordable(claims, left=4.5, allowed=0.0)[:2] == ([1, 2], pytest.approx(1.5))


def test_a_dear_claim_saves_up_while_the_cheap_ones_go_on() -> None:
    cheap, dear = Claim(1.0, had=3.0), Claim(10.0, had=0.0)
    chosen, missing, *_ = affordable([cheap, dear], left=5.0, allowed=8.0)
    assert chosen == [0], "of the 5 seconds 4 are the dear one's, and 1 is left"
    assert missing == 5.0
    assert affordable([cheap, dear], left=4.5, allowed=8.0)[0] == []
    assert affordable([cheap, dear], left=11.0, allowed=14.0)[0] == [0, 1]


def test_what_is_not_due_keeps_its_savings_too() -> None:
    cheap, later = Claim(1.0, had=9.0), Claim(10.0, had=0.0, due=False)
    assert affordable([cheap, later], left=9.5, allowed=18.0)[:2] == ([], pytest.approx(0.5))


def test_a_claim_saves_up_in_proportion_to_its_weight_and_is_paid_the_sooner() -> None:
    often, seldom = Claim(4.0, had=6.0, weight=3.0), Claim(4.0, had=3.0, weight=1.0)
    assert affordable([often, seldom], left=4.0, allowed=8.0)[0] == [0], "it had less for its weight"
    waiting = Claim(10.0, had=0.0, due=False)
    assert affordable([waiting, seldom], left=9.0, allowed=12.0)[0] == []
    assert affordable([waiting._replace(weight=0.5), seldom], left=9.0, allowed=12.0)[0] == [1]


def test_over_a_long_run_every_probe_gets_its_nth_part_or_all_it_asks_for() -> None:
    """Simulated: a second of training a step, 5 % for probes; 0.001 s at every step, 0.2 s at every step, 5 s at every tenth."""
    budget, seconds, had = Budget(share=0.05, allowance=0.5), [0.001, 0.2, 5.0], [0.0, 0.0, 0.0]
    times, most = [0, 0, 0], 0.0
    for step in range(1, 20_001):
        claims = [
            Claim(s if n else 0.0, h, i < 2 or step % 10 == 0)
            for i, (s, h, n) in enumerate(zip(seconds, had, times, strict=True))
        ]
        allowed = budget.allowed(step, step)
        for i in affordable(claims, allowed - sum(had), allowed)[0]:
            had[i] += seconds[i]
            times[i] += 1
        if step > 1000:
            most = max(most, sum(had) / step)
    assert most <= 0.05
    assert times[0] > 0.95 * 20_000
    assert min(had[1:]) > 0.95 * 0.05 * 20_000 / 3
    assert sum(had) == pytest.approx(0.05 * 20_000, rel=0.02)


class Cold(Probe):
    """One that takes long when it is first measured."""

    quantities = ()

    def __init__(self, name: str) -> None:
        self.name = name

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        raise NotImplementedError


class Priced:
    """A place where measuring takes simulated time, expected as it is of real probes."""

    def __init__(self, takes: Callable[[str, int], float]) -> None:
        self.records: defaultdict[str, ProbeRecord] = defaultdict(ProbeRecord)
        self.steps: defaultdict[str, list[int]] = defaultdict(list)
        self._takes = takes

    def busy(self) -> float:
        return 0.0

    def once(self) -> float:
        return 0.0

    def expected(self, probe: Probe) -> float:
        return self.records[probe.name].seconds

    def run(self, probe: Probe, step: int, left: float) -> ProbeCost:
        record, seconds = self.records[probe.name], self._takes(probe.name, len(self.steps[probe.name]))
        longest = max(1.0, left / 2, 2 * max(record.seconds, record.doubted * (record.doubted < left)))
        if (
            self.steps[probe.name] and seconds > longest
        ):  # stopped, unless it is the first: the interpreter is loading a library
            record.seconds, record.doubted = max(2 * longest, record.doubted), 0.0
            return ProbeCost(probe.name, longest, Outcome.OVER_BUDGET)
        record.took(seconds)
        self.steps[probe.name].append(step)
        return ProbeCost(probe.name, seconds)


def times_measured(seconds: float, *, first: float, steps: int = 200_000, each: float = 0.1) -> list[int]:
    """Simulated: when a probe is measured that takes ``first`` and then ``seconds``, beside twelve cheap ones; ``each`` step a tenth of a second."""
    probes = tuple(Cold(f"probe_{i}") for i in range(13))
    place = Priced(lambda name, times: 0.05 if name != "probe_0" else seconds if times else first)
    purse, spent, due = Purse(Budget(), [Watch(LogSpaced(), probes)], 0), 0.0, 0
    while due < steps:
        training = each * due
        choice = purse.choice(place, set(probes), [], training=training, spent=spent, steps=due, beside=0.0)  # type: ignore[arg-type]
        for probe in choice.probes:
            cost = place.run(probe, due, purse.budget.allowed(training, due) - spent)
            purse.pay([cost])
            spent += cost.seconds
        due = due + choice.wait if choice.wait else LogSpaced().after(due)
    return place.steps["probe_0"]


def test_after_a_cold_start_a_probe_waits_for_what_was_spent_and_not_for_as_much_again() -> None:
    """What may be spent at once pays for two seconds and a half; ten have come along after 80 s of training, and 25 are earned after 1280."""
    assert times_measured(0.05, first=2.5)[1] < 10
    assert times_measured(0.05, first=10.0)[1] < 1_000
    assert times_measured(0.05, first=25.0)[1] < 13_000


@pytest.mark.parametrize(("each", "seconds"), [(0.001, 0.01), (0.05, 0.5), (0.5, 0.5)])
def test_a_dear_probe_is_measured_in_every_decade_of_steps_and_not_only_in_the_first(
    each: float, seconds: float
) -> None:
    """The advance used to be gone after a dozen steps: of a network whose steps take 50 ms nothing was seen between step 12 and 12,000."""
    steps = times_measured(seconds, first=seconds, each=each, steps=20_000)
    for decade in (10, 100, 1000, 10_000):
        assert any(decade <= step < 10 * decade for step in steps), steps


def test_a_dear_probe_saves_up_from_one_time_it_is_due_to_the_next_beside_one_that_is_never_satisfied() -> None:
    often, seldom = Cold("often"), Cold("seldom")
    watches = [Watch(Every(100), (often,)), Watch(Every(100_000), (seldom,))]
    place = Priced(lambda name, _: 0.5 if name == "seldom" else 0.1)
    agenda, purse, spent = Agenda(watches, 0), Purse(Budget(share=0.02, allowance=0.0), watches, 0), 0.0
    while (step := agenda.next) < 450_000:
        settings = {"training": step / 100, "spent": spent, "steps": step, "beside": 0.0}
        choice = purse.choice(place, agenda.wanted(step), [], **settings)  # type: ignore[arg-type]
        if choice.wait:
            agenda.put_off(step, choice.wait)
            continue
        agenda.go_on(step)
        for probe in choice.probes:
            cost = place.run(probe, step, purse.budget.allowed(step / 100, step) - spent)
            purse.pay([cost])
            spent += cost.seconds
    assert [step // 100_000 for step in place.steps["seldom"][-4:]] == [1, 2, 3, 4]
    assert 800 < len(place.steps["often"]) < 900, "the rest: 90 seconds are earned"


def test_a_probe_that_is_as_dear_as_at_first_is_measured_as_often_as_if_nobody_had_doubted_it() -> None:
    with_doubt, without = (len(times_measured(10.0, first=first)) for first in (10.0, 0.7))
    assert with_doubt >= without - 1 > 10


def test_a_jump_is_expected_again_once_it_has_happened_twice() -> None:
    record = ProbeRecord()
    expected = []
    for took in (0.5, 0.4, 20.0, 18.0, 20.0, 0.4):
        record.took(took)
        expected.append(record.seconds)
    assert expected == [0.5, 0.4, 1.25, 18.0, 20.0, 0.4]
