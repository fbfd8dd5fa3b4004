"""A restart at any probe goes on to the byte, from a state that stays small."""

import json
import math

import msgspec
import numpy as np
import pytest
from curves.families import FAMILIES

from collector.phases import Detector, detector

NAMES = (
    "peak SNR 20",
    "peak, spikes",
    "peak, irregular",
    "peak, double",
    "null, dip",
    "null, AR(.8)",
    "null, quantised",
    "settling, saturating SNR 20",
    "edge, clean",
    "grokking",
    "plasticity loss",
    "spikes in a loss",
    "complexity, double ascent",
    "reconstruction, 33 probes",
)
MOST = 8192
"""Characters a state may have."""


def rows(name: str, seed: int) -> list[tuple[int, float, float | None]]:
    curve = FAMILIES[name](seed)
    errors = [None] * curve.steps.size if curve.stderr is None else curve.stderr.tolist()
    return list(zip(curve.steps.tolist(), curve.values.tolist(), errors, strict=True))[:220]


def judge(name: str) -> Detector:
    family = FAMILIES[name]
    target = family(5).target
    return detector(family.asked, target=None if target is None else float(target[0]))


def restarted(old: Detector, name: str) -> tuple[Detector, int]:
    text = json.dumps(old.track.state())
    new = judge(name)
    new.track.restore(json.loads(text))
    return new, len(text)


@pytest.mark.parametrize("name", NAMES)
def test_a_restart_at_every_probe_tells_the_same_to_the_byte(name: str) -> None:
    probes = rows(name, 5)
    straight, again, largest = judge(name), judge(name), 0
    for probe in probes:
        again, size = restarted(again, name)
        largest = max(largest, size)
        assert msgspec.json.encode(again(*probe)) == msgspec.json.encode(straight(*probe))
        assert again.track.observed.card() == straight.track.observed.card() or math.isnan(
            straight.track.observed.card().tails
        )
        assert again.track.suspected == straight.track.suspected
    assert json.dumps(again.track.state()) == json.dumps(straight.track.state())
    assert largest <= MOST


def test_something_is_told_in_the_families_that_restart() -> None:
    told = {name for name in NAMES if (j := judge(name)) and [d for probe in rows(name, 5) for d in j(*probe)]}
    assert len(told) >= len(NAMES) - 2


@pytest.mark.parametrize("kind", ["peak_passed", "spike", "stabilised", "liu_gurevych"])
def test_the_state_stays_small_after_twenty_thousand_probes(kind: str) -> None:
    judge, rng = detector(kind), np.random.default_rng(0)
    values = 5.0 + 3.0 * np.minimum(np.arange(20_000) / 5000, 1.0) + 0.1 * rng.standard_normal(20_000)
    largest = 0
    for i, value in enumerate(values.tolist()):
        judge(7 * i, value, 0.1)
        if i % 1000 == 999:
            largest = max(largest, len(json.dumps(judge.track.state())))
    assert largest <= MOST


def test_the_state_is_as_small_where_steps_are_large_and_a_claim_is_open() -> None:
    name = "peak, double"
    judged, largest = judge(name), 0
    for step, value, stderr in rows(name, 3):
        judged(step * 10**9, value, stderr)
        largest = max(largest, len(json.dumps(judged.track.state())))
    assert largest <= MOST
