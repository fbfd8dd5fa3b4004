"""Rules: machines tried on curves whose truth is known, before they are trusted; one's own beside those that ship."""

import re
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from collector import config
from collector.cli import app, main
from collector.daemon import Daemon
from collector.errors import ConfigError
from collector.phases import MACHINES, MachineError
from collector.phases.machine import Given, When
from collector.phases.machine_file import read
from collector.phases.own import named, with_own
from collector.phases.simulated import AR, LEVEL, NULLS, simulated
from collector.phases.trial import sentence, trials
from tests.stored_runs import stored

PERIOD = next(machine for machine in MACHINES if machine.name == "critical_period")
HASTY = """
name = "hasty"
quantity = "fisher_trace"
phases = [{ name = "low", meaning = "" }, { name = "high", meaning = "" }]
turns = [{ from_phase = "low", to_phase = "high", when = "still", window = 1, slope = 0.05 }]
"""
RISE = HASTY.replace("hasty", "risen").replace(', when = "still", window = 1, slope = 0.05', ', when = "rise"')


def rules(*words: object) -> Result:
    return CliRunner().invoke(app, ["rules", *map(str, words)], env={"COLUMNS": "200"})


# -- simulated curves ---------------------------------------------------------------------------------


def test_a_curve_of_a_seed_is_always_the_same_and_no_two_seeds_are() -> None:
    first, again, other = (simulated(("rise", "fall"), seed).values for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first[:50], other[:50])


def test_the_truth_of_a_peak_is_where_its_mean_is_highest() -> None:
    for seed in range(20):
        peak = simulated(("rise", "fall"), seed)
        assert peak.mean[peak.turned] == peak.mean.max()
        assert peak.began == LEVEL
        valley = simulated(("fall", "rise"), seed)
        assert valley.mean[valley.turned] == valley.mean.min()


def test_every_word_of_the_vocabulary_has_a_truth_and_nulls() -> None:
    assert set(NULLS) == set(get_args(When))
    for when in NULLS:
        curve = simulated((when,), 0)
        assert 0 <= curve.turned < curve.values.size
        assert NULLS[when] or when in {"calm", "given"}
        for instead, noise in NULLS[when]:
            assert not np.array_equal(simulated((when,), 0, instead=instead, noise=noise).mean, curve.mean)


def test_a_null_of_a_fall_never_falls_but_in_a_dip() -> None:
    for instead, noise in NULLS["fall"]:
        fallen = np.diff(simulated(("rise", "fall"), 7, instead=instead, noise=noise).mean) < -1e-9
        assert fallen.any() == (instead == "dip")


def test_settled_is_where_the_slope_has_become_the_asked_part_of_the_steepest() -> None:
    curve = simulated(("settle",), 4, slope=0.25)
    slope = np.abs(np.diff(curve.mean))
    assert slope[curve.turned + 1] < 0.27 * slope.max()
    assert slope[curve.turned - 2] > 0.23 * slope.max()


def test_noise_is_as_correlated_as_it_says() -> None:
    for noise, coefficient in AR.items():
        left = [
            (c.values - c.mean) / c.sd
            for c in (simulated(("rise",), s, instead="level", noise=noise) for s in range(200))  # type: ignore[arg-type]
        ]
        lagged = np.mean([z[1:] @ z[:-1] / z.size for z in left])
        assert lagged == pytest.approx(0.7 * coefficient, abs=0.03)
        assert np.var(left) == pytest.approx(1.0, abs=0.05)


def test_levels_are_scaled_to_where_the_turns_ask_for_them() -> None:
    curve = simulated(("settle",), 1, bounds=[(0.9, None)])
    assert curve.mean[-1] >= 0.9
    assert simulated(("rise",), 1, bounds=[(None, 0.5)]).mean[-1] <= 0.5


# -- trials -------------------------------------------------------------------------------------------


def test_the_critical_period_keeps_its_promise_and_its_delay_is_not_below_the_bound() -> None:
    tried = trials(PERIOD, seeds=3)
    assert [(one.from_phase, one.when) for one in tried] == [("early", "rise"), ("critical_period", "fall")]
    assert sum(one.false for trial in tried for one in trial.alarms if not one.hard) <= 1  # three seeds prove little
    for trial in tried:
        for found in trial.found:
            assert (found.hits, found.early, found.missed, found.unreached) == (3, 0, 0, 0)
            assert found.over_bound is not None
            assert found.over_bound > 1.0
        assert trial.found[1].delay < trial.found[0].delay  # less noise, sooner known
    words = sentence(tried, 0.01)
    assert re.match(
        r"At alpha 1 %: [01] false alarms? in 30 curves without a turn \(at most 1[17] % at 95 % confidence\)", words
    )
    assert "after_critical_period after critical_period is known" in words


def test_a_rule_that_fires_on_noise_is_found_out() -> None:
    (trial,) = trials(read("hasty.toml", HASTY), seeds=3)
    assert sum(one.false for one in trial.alarms) >= 9
    assert trial.found[0].early == 3
    assert "for rules whose errors alpha does not bound" in sentence([trial], 0.01)


def test_what_other_quantities_decide_is_not_tried_and_says_so() -> None:
    risen = read("risen.toml", RISE)
    asked = Given(quantity="probe_loss", at_most=0.1)
    given = msgspec.structs.replace(risen.turns[0], when="given", given=(asked,))
    back = msgspec.structs.replace(risen.turns[0], from_phase="high", to_phase="low", when="fall")
    trial, after_it = trials(msgspec.structs.replace(risen, turns=(given, back)), seeds=2)
    assert [trial.alarms, trial.found, after_it.alarms, after_it.found] == [[], [], [], []]
    assert "high after low is for other quantities to decide and was not tried" in sentence([trial], 0.01)
    besides = msgspec.structs.replace(risen.turns[0], given=(asked,))
    (trial,) = trials(msgspec.structs.replace(risen, turns=(besides,)), seeds=2)
    assert trial.found[0].hits == 2  # tried as if the other quantity were as asked


def test_a_phase_that_is_never_entered_is_told_from_a_miss() -> None:
    wanting = msgspec.structs.replace(PERIOD.turns[0], at_most=-1.0)
    (_, fall) = trials(msgspec.structs.replace(PERIOD, turns=(wanting, PERIOD.turns[1])), seeds=2)
    assert (fall.found[0].unreached, fall.found[0].missed) == (2, 0)


# -- machines of one's own ----------------------------------------------------------------------------


def test_a_machine_of_ones_own_is_added_or_takes_the_place_of_its_namesake(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(RISE)
    (tmp_path / "b.toml").write_text(RISE.replace("risen", "plateau"))
    names = [machine.name for machine in with_own([tmp_path / "a.toml", tmp_path / "b.toml"])]
    assert names == [*(machine.name for machine in MACHINES), "risen"]
    assert next(m for m in with_own([tmp_path / "b.toml"]) if m.name == "plateau").quantity == "fisher_trace"


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").write_text(RISE)
    with pytest.raises(MachineError, match=r"a.toml and .*b.toml both describe 'risen'; rename or remove one"):
        with_own([tmp_path / "a.toml", tmp_path / "b.toml"])


def test_what_is_neither_a_name_nor_a_file_is_told_the_names_there_are() -> None:
    with pytest.raises(MachineError, match="no file and no shipped machine; there are critical_period, "):
        named("critical")


def test_machines_in_the_configuration_file_are_found_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "phasewatch.toml"
    file.write_text('[phases]\nmachines = ["own.toml"]\nalpha = 0.05\n')
    settings, _ = config.load(file, environment={})
    assert settings.phases == config.Phases(machines=[str(tmp_path / "own.toml")], alpha=0.05)


def test_an_alpha_that_is_no_probability_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "phasewatch.toml"
    file.write_text("[phases]\nalpha = 2.0\n")
    with pytest.raises(ConfigError, match=r"'phases.alpha' from .*phasewatch.toml that does not fit"):
        config.load(file, environment={})


def test_a_collector_does_not_start_with_a_machine_that_contradicts_itself(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(RISE.replace('to_phase = "high"', 'to_phase = "hihg"'))
    settings = config.Config(
        phases=config.Phases(machines=[str(tmp_path / "own.toml")]),
        store=config.StoreFile(path=str(tmp_path / "s.db")),
    )
    with pytest.raises(MachineError, match="names the unknown phase hihg; known are low, high"):
        Daemon(settings)
    assert not (tmp_path / "s.db").exists()


# -- the commands -------------------------------------------------------------------------------------


def test_the_list_has_every_machine_with_its_version() -> None:
    shown = rules("list").output
    assert [one.name for one in MACHINES if one.name not in shown or one.version not in shown] == []
    rows = msgspec.json.decode(rules("list", "--json").output)
    assert [row["version"] for row in rows] == [one.version for one in MACHINES]


def test_the_file_that_show_prints_is_the_machine() -> None:
    for machine in MACHINES:
        assert read("shown", rules("show", machine.name, "--toml").output) == machine
    shown = rules("show", "critical_period").output
    assert "→ after_critical_period on a fall" in shown
    assert "safe to remove augmentation" in shown


def test_a_bad_file_is_one_line_and_exit_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.toml").write_text("x = 1\n")
    monkeypatch.setattr("sys.argv", ["probe-collector", "rules", "test", str(tmp_path / "bad.toml")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "bad.toml: Object contains unknown field `x`. The fields are listed in" in capsys.readouterr().err


def test_a_trial_tells_what_stored_runs_would_have_given(tmp_path: Path) -> None:
    curve = simulated(("rise", "fall"), 3, snr=20.0)
    stored(tmp_path / "s.db", "peak", curve.values.tolist(), curve.paired.tolist())
    stored(tmp_path / "s.db", "other", curve.values.tolist(), curve.paired.tolist(), quantity="probe_loss")
    words = ("test", "critical_period", "--seeds", 1, "--store", tmp_path / "s.db")
    shown = rules(*words)
    assert shown.exit_code == 0, shown.output
    assert "On stored runs: 2 hits, 0 false alarms, 0 misses" in shown.output
    assert "peak: critical_period → after_critical_period" in shown.output
    assert shown.output.rstrip().endswith("times the least possible.")
    as_json = msgspec.json.decode(rules(*words, "--json").output)
    assert [(one["run"], one["scored"]["finding"]) for one in as_json["recorded"]] == [("peak", "hit")] * 2
    assert as_json["simulated"][0]["when"] == "rise"
