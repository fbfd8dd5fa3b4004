"""What other people's change-point software says of the same curves: FOCuS, ruptures and river's ADWIN, and brute force."""

import math

import numpy as np
import pytest
import ruptures
from changepoint_online import Focus, Gaussian
from river.drift import ADWIN

from collector.phases import Detection, detector
from collector.phases.reflection import BEFORE, GAP, RATES
from collector.phases.turning_point import onset

LEVEL = 4.0
STEP_AT = 60
"""The last probe of the level before a step is the one before this."""


def step(seed: int, drop: float = 3.0, n: int = 100) -> np.ndarray:
    """A level with noise of a tenth, from probe ``STEP_AT`` on so many standard deviations lower."""
    return np.asarray(LEVEL + 0.1 * (np.random.default_rng(seed).standard_normal(n) - drop * (np.arange(n) >= STEP_AT)))


def glr(y: np.ndarray) -> tuple[float, int]:
    """The largest log likelihood ratio of one change of the mean, by trying every split, and that split."""
    means = [(y[:split].mean(), y[split:].mean()) for split in range(1, y.size)]
    gains = [i * (y.size - i) / y.size / 2.0 * (a - b) ** 2 for i, (a, b) in enumerate(means, 1)]
    return max(gains), 1 + int(np.argmax(gains))


def focused(y: np.ndarray) -> tuple[float, int]:
    """The same by FOCuS (Romano, Eckley, Fearnhead, Rigaill 2023), a probe at a time."""
    online = Focus(Gaussian())
    for value in y.tolist():
        online.update(value)
    return float(online.statistic()), int(online.changepoint()["changepoint"])


def claims(y: np.ndarray) -> list[Detection]:
    """What is detected, where the paired error is known."""
    judge = detector("onset_down")
    return [one for i, value in enumerate(y.tolist()) for one in judge(i, value, 0.1) if one.state == "detected"]


@pytest.mark.parametrize("seed", range(12))
def test_brute_force_focus_and_ruptures_place_a_step_alike_and_our_onset_lies_there(seed: int) -> None:
    y = step(seed, drop=4.0)
    unit = (y - LEVEL) / 0.1
    gain, split = glr(unit)
    assert focused(unit) == (pytest.approx(gain, rel=1e-9), split)
    assert ruptures.Dynp(model="l2", min_size=1, jump=1).fit(y).predict(n_bkps=1) == [split, y.size]
    ours = onset(y, np.full(y.size, 0.1))
    assert abs(ours.at + 1 - split) <= 2
    assert ours.first <= split <= ours.last + 1


def test_the_step_a_claim_is_dated_back_to_is_where_focus_has_it_on_the_same_probes() -> None:
    apart, covered = [], 0
    for seed in range(30):
        y = step(seed, n=160)
        found = claims(y)[0]
        _, split = focused((y[: found.step + 1] - LEVEL) / 0.1)
        first, last = found.transition.happened_between
        apart.append(abs(found.transition.happened_step + 1 - split))
        covered += first <= split <= last + 1
        assert found.step >= STEP_AT
    assert np.median(apart) <= 1
    assert np.quantile(apart, 0.9) <= 4
    assert covered >= 27


@pytest.mark.parametrize("known", [True, False], ids=["error known", "error not known"])
def test_a_step_of_eight_standard_deviations_is_known_three_probes_after_focus_knows_it(known: bool) -> None:  # noqa: FBT001
    """Three in a row could be outliers to the cleaner; FOCuS has no cleaner, and a threshold of as many nats as ours has."""
    later = []
    for seed in range(12):
        y, judge, online, passed = step(seed, drop=8.0), detector("onset_down"), Focus(Gaussian()), 0
        for i, value in enumerate(y.tolist()):
            online.update((value - LEVEL) / 0.1)
            passed = passed or (i if online.statistic() > 14.0 else 0)
            if any(one.state == "detected" for one in judge(i, value, 0.1 if known else None)):
                later.append(i - passed)
                break
    assert len(later) == 12
    assert np.median(later) <= 3
    assert min(later) >= 0


def test_what_adwin_finds_is_found_no_later_and_on_a_level_neither_finds_anything() -> None:
    """ADWIN (Bifet, Gavaldà 2007) bounds its false positives as well, for any values from 0 to 1."""
    for seed in range(8):
        for y in (step(seed, drop=4.0, n=160), step(seed, drop=0.0, n=160)):
            adaptive, cut = ADWIN(delta=0.002, clock=1, min_window_length=1), list[int]()
            for i, value in enumerate(np.clip(y - LEVEL + 0.7, 0.0, 1.0).tolist()):
                adaptive.update(value)
                cut += [i] * adaptive.drift_detected
            ours = claims(y)
            assert bool(cut) == bool(ours)
            assert not cut or STEP_AT <= ours[0].step <= cut[0]


def _weight(split: int) -> float:
    power = split & -split
    j, i = power.bit_length() - 1, (split // power + 1) // 2
    return 1.0 / ((j + 1) * (j + 2) * i * (i + 1))


def _e_value(y: np.ndarray, sd: np.ndarray, k: int, gap: float = 0.0, before: float = 1.0) -> float:
    """One fold's e-value against "the mean has not fallen"; 0 where it fell by less than 5 % or counts for less than one."""
    b, unit = y.size - k, math.sqrt(float(np.mean(sd**2)))
    window = slice(max(y.size - math.ceil((1 + gap + before) * k), 0), b - math.ceil(gap * k))
    m = window.stop - window.start
    drop = k * (float(y[window].mean()) - float(y[b:].mean()))
    noise = math.fsum(sd[b:] ** 2) + (k / m) ** 2 * math.fsum(sd[window] ** 2)
    e = sum(math.exp(rate / unit * drop - (rate / unit) ** 2 * noise / 2) for rate in RATES) / len(RATES)
    counts = drop >= 0.05 * k * float(y[window].mean()) and drop**2 / (2 * noise) > -math.log(_weight(b) / 2)
    return e * _weight(b) / 2 if counts else 0.0


def test_the_e_value_of_a_claim_is_what_its_definition_gives_on_the_values_as_they_came() -> None:
    """While every probe is still kept by itself and none was replaced: thirty-six at the most."""
    found = 0
    for seed in range(12):
        y = step(seed, drop=6.0, n=STEP_AT + 40)[STEP_AT - 20 : STEP_AT + 14]
        one = next(iter(claims(y)), None)
        if one is None:
            continue
        evidence = one.transition.evidence
        assert evidence.card is not None
        if evidence.cleaned:
            continue
        seen = y[: one.step + 1]
        sigma = float(evidence.noise or 0.0) * abs(float(evidence.before.mean or 0.0))
        least = math.hypot(0.1, 0.005 * float(np.abs(seen).mean()))
        sd = np.full(seen.size, max(sigma, least))
        close = [_e_value(seen, sd, k) for k in range(4, seen.size // 2 + 1)]
        apart = [_e_value(seen, sd, k, GAP, BEFORE) for k in range(4, int(seen.size / (2 + GAP)) + 1)]
        assert evidence.log_e == pytest.approx(math.log(sum(close) + sum(apart)), rel=2e-3)
        found += 1
    assert found >= 6
