"""When the agent measures, and what it may cost."""

from itertools import pairwise

import pytest

from probe_agent import Budget, Every, LogSpaced
from probe_agent.budget import Claim, affordable
from probe_agent.measuring import ProbeRecord


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
    assert budget.allowed(0) == 10
    assert budget.allowed(1000) == 15
    assert budget.allowed(2000) == 20 == 0.01 * 2000
    assert budget.allowed(5000) == 50


def test_a_percentage_is_advanced_for_the_same_time_of_training_whatever_it_is() -> None:
    assert Budget.of("2%") == Budget()
    assert Budget.of(" 0.5 % ") == Budget(share=0.005, allowance=5)


def test_measuring_waits_until_training_has_paid_for_it() -> None:
    # 100 steps took 50 s. Paid back already: 1.5 s cost 150 s of training at 1 %, which are 300 steps.
    assert Budget(share=0.01, allowance=0).steps_to_wait(1.5, training=50, steps=100) == 300
    # Before, half of that is earned.
    early = Budget(share=0.01, allowance=10)
    assert early.steps_to_wait(1.5, training=50, steps=100) == 600
    assert early.allowed(50 + 300) - early.allowed(50) == pytest.approx(1.5)


def test_a_wait_across_the_end_of_the_advance_is_found_exactly() -> None:
    budget = Budget(share=0.1, allowance=5)  # paid back after 100 s
    steps = budget.steps_to_wait(4.0, training=60, steps=60)  # 8 s are allowed at 60 s, 12 s at 120 s
    assert steps == 60


def test_a_share_of_nothing_still_looks_again() -> None:
    assert Budget(share=0, allowance=0).steps_to_wait(1, training=5, steps=10) == 1000


def test_claims_are_paid_in_the_order_of_what_they_had() -> None:
    claims = [Claim(2.0, had=5.0), Claim(2.0, had=1.0), Claim(2.0, had=3.0)]
    assert affordable(claims, left=4.5, fair=0.0)[:2] == ([1, 2], pytest.approx(1.5))


def test_a_dear_claim_saves_up_while_the_cheap_ones_go_on() -> None:
    cheap, dear = Claim(1.0, had=3.0), Claim(10.0, had=0.0)
    chosen, missing, *_ = affordable([cheap, dear], left=5.0, fair=4.0)
    assert chosen == [0], "of the 5 seconds 4 are the dear one's, and 1 is left"
    assert missing == 5.0
    assert affordable([cheap, dear], left=4.5, fair=4.0)[0] == []
    assert affordable([cheap, dear], left=11.0, fair=7.0)[0] == [0, 1]


def test_what_is_not_due_keeps_its_savings_too() -> None:
    cheap, later = Claim(1.0, had=9.0), Claim(10.0, had=0.0, due=False)
    assert affordable([cheap, later], left=9.5, fair=9.0)[:2] == ([], pytest.approx(0.5))


def test_over_a_long_run_every_probe_gets_its_nth_part_or_all_it_asks_for() -> None:
    """Simulated: a second of training a step, 5 % for probes; 0.001 s at every step, 0.2 s at every step, 5 s at every tenth."""
    budget, seconds, had = Budget(share=0.05, allowance=0.5), [0.001, 0.2, 5.0], [0.0, 0.0, 0.0]
    times, most = [0, 0, 0], 0.0
    for step in range(1, 20_001):
        claims = [
            Claim(s if n else 0.0, h, i < 2 or step % 10 == 0)
            for i, (s, h, n) in enumerate(zip(seconds, had, times, strict=True))
        ]
        allowed = budget.allowed(step)
        for i in affordable(claims, allowed - sum(had), allowed / 3)[0]:
            had[i] += seconds[i]
            times[i] += 1
        if step > 1000:
            most = max(most, sum(had) / step)
    assert most <= 0.05
    assert times[0] > 0.95 * 20_000
    assert min(had[1:]) > 0.95 * 0.05 * 20_000 / 3
    assert sum(had) == pytest.approx(0.05 * 20_000, rel=0.02)


def times_measured(seconds: float, *, first: float, steps: int = 200_000) -> list[int]:
    """Simulated: when a probe is measured that takes ``first`` and then ``seconds``, beside twelve cheap ones; a tenth of a second a step."""
    budget, had, spent, due, found = Budget(), [0.0] * 13, 0.0, 0, []
    records = [ProbeRecord() for _ in had]
    while due < steps:
        step, allowed = due, budget.allowed(due / 10)
        claims = [Claim(record.seconds, h) for record, h in zip(records, had, strict=True)]
        bought = affordable(claims, allowed - spent, allowed / len(had))
        for i in bought.chosen:
            takes, left = 0.05 if i else seconds if found else first, allowed - spent
            most = max(1.0, left / 2, 2 * max(records[i].seconds, records[i].doubted * (records[i].doubted < left)))
            if not i and found and takes > most:  # stopped: what it took last is believed
                takes, records[i] = most, ProbeRecord(seconds=max(2 * most, records[i].doubted))
            else:
                records[i].took(takes)
                found += [step] * (not i)
            had[i] += takes
            spent += takes
        following = LogSpaced().after(step)
        due = (
            following if bought.chosen else step + budget.steps_to_wait(bought.missing, training=step / 10, steps=step)
        )
    return found


def test_after_a_cold_start_a_probe_waits_for_what_was_spent_and_not_for_as_much_again() -> None:
    """Of ten seconds the advance has paid; 25 are paid back after 500 s of training, at one per cent, and the doubt after 780 more."""
    assert times_measured(0.05, first=10.0)[:4] == [0, 1, 2, 3]
    assert times_measured(0.05, first=25.0)[1] < 13_000


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
