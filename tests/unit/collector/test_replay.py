"""Replay: the same to the byte by the same machines; with others, what would have been found."""

import re
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from collector.cli import app
from collector.health import Health
from collector.live import Live
from collector.phases import MACHINES, Machine, Phase, Turn
from collector.phases.simulated import simulated
from collector.pipeline import Pipeline
from collector.store.queries import Reader
from collector.store.replay import replayed
from collector.store.sqlite import Store
from probe_wire import Column, Estimate, Hello, Quantity, Report, Run, Schema, encode, pack
from tests.stored_runs import stored

CURVE = simulated(("rise", "fall"), 3, snr=20.0)
PERIOD = next(machine for machine in MACHINES if machine.name == "critical_period")
OWN = """
name = "doubling"
quantity = "fisher_trace"
phases = [{ name = "low", meaning = "" }, { name = "high", meaning = "" }]
turns = [{ from_phase = "low", to_phase = "high", when = "rise", min_effect = 1.0 }]
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("replay") / "s.db"
    stored(path, "peak", CURVE.values.tolist(), CURVE.paired.tolist())
    return path


def replay(store: Path, *words: object) -> Result:
    return CliRunner().invoke(app, ["replay", "--store", str(store), *map(str, words)], env={"COLUMNS": "200"})


def test_a_replay_finds_what_was_found_live_to_the_byte(store: Path) -> None:
    live = [one.transition for one in Reader(store).transitions("peak")]
    assert {one.state for one in live} >= {"suspected", "detected", "confirmed"}
    assert msgspec.json.encode(replayed(Reader(store), "peak")) == msgspec.json.encode(live)
    shown = replay(store)
    assert (shown.exit_code, "the same to the byte as found live" in shown.output) == (0, True)


def test_a_replay_that_differs_says_so_and_ends_with_1(tmp_path: Path) -> None:
    changed = msgspec.structs.replace(PERIOD, source="an older one")
    path = tmp_path / "s.db"
    stored(path, "peak", CURVE.values.tolist(), CURVE.paired.tolist(), machines=(changed,))
    shown = replay(path)
    assert (shown.exit_code, "they differ" in shown.output) == (1, True)


def test_a_smaller_alpha_is_known_later_and_is_no_failure(store: Path) -> None:
    shown = msgspec.json.decode((done := replay(store, "--alpha", "1e-9", "--json")).output)
    assert (done.exit_code, shown["same"]) == (0, False)

    def known(side: str) -> int:
        return next(
            int(one["known_step"])
            for one in shown[side]
            if one["to_phase"] == "after_critical_period" and one["state"] == "detected"
        )

    assert known("transitions") > known("live")


def test_what_another_machine_would_have_told_stands_beside_what_was(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "doubling.toml"
    file.write_text(OWN)
    shown = replay(store, "--machine", file)
    assert shown.exit_code == 0, shown.output
    (row,) = (line for line in shown.output.splitlines() if "doubling: low → high" in line)
    live, what_if = row.split("high", 1)[1].split(maxsplit=1)
    assert live == "–"
    assert re.fullmatch(r"[\d,]+ → [\d,]+ (detected|confirmed)\s*", what_if)
    assert any("critical_period: early → critical_period" in line for line in shown.output.splitlines())


def test_a_machine_of_the_same_name_takes_the_shipped_ones_place(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "period.toml"
    file.write_text(OWN.replace('"doubling"', '"critical_period"'))
    shown = msgspec.json.decode(replay(store, "--machine", file, "--json").output)
    found = {one["to_phase"] for one in shown["transitions"] if one["machine"] == "critical_period"}
    assert found == {"high"}


def test_a_run_watched_with_a_machine_of_ones_own_is_replayed_with_it(tmp_path: Path) -> None:
    own = Machine(
        name="doubling",
        quantity="fisher_trace",
        phases=(Phase(name="low", meaning=""), Phase(name="high", meaning="")),
        turns=(Turn(from_phase="low", to_phase="high", when="rise", min_effect=1.0),),
    )
    (tmp_path / "doubling.toml").write_text(OWN)
    (tmp_path / "phasewatch.toml").write_text('[phases]\nmachines = ["doubling.toml"]\n')
    path = tmp_path / "s.db"
    stored(path, "peak", CURVE.values.tolist(), CURVE.paired.tolist(), machines=(*MACHINES, own))
    assert replay(path).exit_code == 1
    with_it = replay(path, "--config", tmp_path / "phasewatch.toml")
    assert (with_it.exit_code, "the same to the byte" in with_it.output) == (0, True)


def test_a_run_measured_otherwise_half_way_is_replayed_to_the_byte_and_says_how_much_was_put_aside(
    tmp_path: Path,
) -> None:
    """The first half with one probe set, the rest with another whose values are a fifth lower."""
    store, live = Store(tmp_path / "s.db"), Live()
    pipeline = Pipeline(store, live, Health(), (), tick=lambda *_: None)
    stream = pipeline.hello(Hello(Run("run", "run", "host", 1, 10.0, {}), 0, "a", 1))
    quantity, half = Quantity("fisher_trace", "1", "What is judged.", "Judged"), CURVE.values.size // 2
    for number, probe_set in enumerate(("one", "other"), 1):
        schema = Schema(number, (quantity,), (Column("fisher_trace", {}, {"probe_set": probe_set}),))
        pipeline.schema(stream, schema, encode(schema))
    for i, (value, error) in enumerate(zip(CURVE.values.tolist(), CURVE.paired.tolist(), strict=True)):
        seen = value if i < half else 0.8 * value
        report = Report(i + 1, 10 * i, 0.0, 1 + (i >= half), *pack([Estimate(seen, 2 * error, error, 64)]))
        pipeline.report(stream, report, encode(report))
    pipeline.commit()
    told = [one.transition for one in Reader(store.path).transitions("run")]
    assert any(one.state == "detected" and one.known_step >= 10 * half for one in told)
    assert all(
        (one.evidence.before.first_step < 10 * half) == (one.evidence.after.last_step < 10 * half) for one in told
    )
    assert msgspec.json.encode(replayed(Reader(store.path), "run")) == msgspec.json.encode(told)
    judges = sum(machine.quantity == "fisher_trace" and machine.judges({}) for machine in MACHINES)
    assert live.runs["run"].unjudged.outdated == half * judges
    store.close()


def test_what_was_taken_back_before_anybody_was_told_to_act_says_so(tmp_path: Path) -> None:
    dip, path = simulated(("rise", "fall"), 3, snr=20.0, instead="dip"), tmp_path / "s.db"
    stored(path, "dip", dip.values.tolist(), dip.paired.tolist())
    shown = CliRunner().invoke(app, ["transitions", "dip", "--store", str(path)], env={"COLUMNS": "200"})
    assert "critical_period: critical_period → after_critical_period  retracted" in shown.output
    assert re.search(r"withdrawn at step [\d,]+, before anybody was told to act on it", shown.output)


def test_a_store_without_runs_says_so_and_an_unknown_run_is_told_which_there_are(store: Path, tmp_path: Path) -> None:
    Store(tmp_path / "s.db").close()
    assert str(replay(tmp_path / "s.db").exception).startswith(
        "Got a store that holds no run yet; attach an agent first"
    )
    assert str(replay(store, "joy").exception).endswith("is not in the store. Heard of last: peak (peak).")
