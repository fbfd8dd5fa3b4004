"""The exporter, read back by prometheus-client's own parser."""

import math
import re
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from collector.exporter import CATALOGUE, CONTENT_TYPE, Exporter
from collector.exporter.names import Layers, label_pairs, metric_name
from collector.exporter.room import Refused, Room, Share
from collector.exporter.still import Album, Patience, Still
from collector.health import Health
from collector.live import Latest, Live, RankState, SeriesKey
from collector.phases import Span
from probe_wire import Column, Estimate, Outcome, Quantity
from tests import live_runs as lr

NOW = 1_000_000.0
MACHINES = {"critical_period": ("rising", "passed", "over"), "regions": ("first_descent", "ascent", "final_descent")}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def live() -> Live:
    return Live()


def exporter(live: Live, **settings: object) -> Exporter:
    return Exporter(live, Health(), MACHINES, **{"clock": lambda: NOW, **settings})  # type: ignore[arg-type]


def read(page: bytes) -> Samples:
    """Every sample by name and labels; a series that is there twice is an error."""
    samples: Samples = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, f"{key} is on the page twice"
            assert sample.timestamp is None
            samples[key] = sample.value
    return samples


def find(samples: Samples, name: str, /, **labels: str) -> dict[frozenset[tuple[str, str]], float]:
    return {at: value for (found, at), value in samples.items() if found == name and labels.items() <= dict(at).items()}


def one(samples: Samples, name: str, /, **labels: str) -> float:
    (value,) = find(samples, name, **labels).values()
    return value


def same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def test_every_estimate_is_exported_with_its_error_and_its_outcome(live: Live) -> None:
    run = lr.open_run(live, now=NOW)
    lr.report(run, 100, lr.typical(100))
    samples = read(exporter(live).render())
    for key, latest in run.latest.items():
        name = metric_name(run.quantities[key.quantity])
        labels = {label: value for label, value in key.labels if label != "layer"}
        layer = dict(key.labels).get("layer")

        def of(metric: str, labels: dict[str, str] = labels, layer: str | None = layer) -> list[float]:
            return [
                value
                for at, value in find(samples, metric, run="resnet", rank="0", **labels).items()
                if dict(at).get("layer", "").partition(".")[2] == (layer or "")
            ]

        assert of(name) == [latest.estimate.value]
        assert of(f"{name}_stderr") == [latest.estimate.stderr]
        assert of(f"{name}_paired_stderr") == ([] if math.isnan(latest.estimate.paired) else [latest.estimate.paired])
        assert latest.estimate.outcome in of("phasewatch_estimate_outcome", {**labels, "quantity": key.quantity})


def test_a_value_that_is_not_a_number_is_shown_as_such_with_its_outcome(live: Live) -> None:
    run = lr.open_run(live, now=NOW)
    rows = [(Outcome.NON_FINITE, math.inf), (Outcome.OVER_BUDGET, math.nan), (Outcome.FAILED, -math.inf)]
    lr.report(
        run, 1, ((lr.LOSS, {"split": outcome.label}, Estimate(value, outcome=outcome)) for outcome, value in rows)
    )
    samples = read(exporter(live).render())
    for outcome, value in rows:
        assert same(one(samples, "phasewatch_train_loss_nats", split=outcome.label), value)
        assert math.isnan(one(samples, "phasewatch_train_loss_nats_stderr", split=outcome.label))
        assert one(samples, "phasewatch_estimate_outcome", split=outcome.label) == outcome
        assert one(samples, "phasewatch_estimates", outcome=outcome.label) == 1
    assert one(samples, "phasewatch_estimates", outcome="ok") == 0


@pytest.mark.parametrize(
    "name",
    ['a"b', "a\\", "a\nb", "\\n", "{%b}", 'x="y",z="', "# HELP", " ", "a\0b", "ö☃🧠", "a\rb\x85c\u2028d", '\\\\n"\n'],
)
def test_a_hostile_run_name_comes_back_as_it_was(live: Live, name: str) -> None:
    run = lr.open_run(live, name, now=NOW, labels={"note": name}, git_revision=name, host=name)
    lr.report(run, 1, iter([(lr.LOSS, {"layer": name, "split": name}, Estimate(1.0))]))
    lr.probe(run, "sharpness", 1.0, ok=1)
    samples = read(exporter(live).render())
    assert one(samples, "phasewatch_run_info", run=name, name=name, label_note=name) == 1
    assert one(samples, "phasewatch_train_loss_nats", run=name, split=name, layer=f"00.{name}") == 1


def test_a_label_of_an_agent_never_hides_one_of_ours(live: Live) -> None:
    run = lr.open_run(live, now=NOW)
    labels = {"run": "theirs", "rank": "9", "exported_run": "also theirs", "quantity": "q"}
    lr.report(run, 1, iter([(lr.LOSS, labels, Estimate(1.0))]))
    samples = read(exporter(live).render())
    assert (
        one(
            samples,
            "phasewatch_train_loss_nats",
            run="resnet",
            rank="0",
            exported_rank="9",
            exported_run="also theirs",
            exported_exported_run="theirs",
        )
        == 1
    )
    assert label_pairs([("run", "a")], {"run", "exported_run"}) == [("exported_exported_run", "a")]


@pytest.mark.parametrize(
    ("name", "unit", "metric"),
    [
        ("sharpness", "1", "phasewatch_sharpness"),
        ("dead_units", "ratio", "phasewatch_dead_units_ratio"),
        ("dead_ratio", "ratio", "phasewatch_dead_ratio"),
        ("train_loss", "nats", "phasewatch_train_loss_nats"),
        ("step_time", "seconds", "phasewatch_step_time_seconds"),
        ("decay", "1/step", "phasewatch_decay_per_step"),
        ("drift", "nats/step", "phasewatch_drift_nats_per_step"),
        ("power", "Nats ^ 2", "phasewatch_power_nats_2"),
        ("odd", "☃", "phasewatch_odd"),
        ("none", "", "phasewatch_none"),
        ("late\n", "1", "phasewatch_late_"),
    ],
)
def test_a_metric_is_named_by_its_quantity_and_unit(name: str, unit: str, metric: str) -> None:
    assert metric_name(Quantity(name, unit, "", "t")) == metric


def test_help_is_the_quantitys_own_and_its_lines_cannot_be_broken(live: Live) -> None:
    run = lr.open_run(live, now=NOW)
    lr.report(run, 1, iter([(Quantity("odd", "1", "One\nline \\ and another.", "Odd"), {}, Estimate(1.0))]))
    families = {family.name: family for family in text_string_to_metric_families(exporter(live).render().decode())}
    assert families["phasewatch_odd"].documentation == "One\nline \\ and another."
    assert families["phasewatch_odd"].type == "gauge"


def test_layers_sort_by_depth_and_a_late_one_renames_none() -> None:
    layers = Layers()
    layers.learn(["features.0", "features.10", "features.2"])
    assert layers.named([("layer", "features.2"), ("split", "train")]) == [
        ("layer", "02.features.2"),
        ("split", "train"),
    ]
    layers.learn(["early"])
    assert layers.named([("layer", "features.0")]) == [("layer", "00.features.0")]
    assert layers.named([("layer", "early")]) == [("layer", "03.early")]
    assert layers.named([("layer", "unheard")]) == [("layer", "unheard")]


def test_the_hundredth_layer_still_sorts_by_depth(live: Live) -> None:
    run = lr.open_run(live, now=NOW)
    page = exporter(live)
    lr.report(run, 1, ((lr.LOSS, {"layer": f"l{i}"}, Estimate(float(i))) for i in range(100)))
    page.render()
    lr.report(run, 2, ((lr.LOSS, {"layer": f"l{i}"}, Estimate(float(i))) for i in range(101)))
    found = find(read(page.render()), "phasewatch_train_loss_nats")
    by_name = sorted((dict(at)["layer"], value) for at, value in found.items())
    assert by_name[0] == ("000.l0", 0.0)
    assert [value for _, value in by_name] == list(range(101))


def test_layers_are_numbered_in_the_order_of_the_report_not_of_arrival(live: Live) -> None:
    run = lr.open_run(live, now=NOW)
    run.quantities["train_loss"] = lr.LOSS
    for position, layer in ((1, "second"), (0, "first")):
        run.latest[SeriesKey.of(0, Column("train_loss", {"layer": layer}))] = Latest(1, Estimate(1.0), position)
    samples = read(exporter(live).render())
    assert {dict(at)["layer"] for at in find(samples, "phasewatch_train_loss_nats")} == {"00.first", "01.second"}


def test_a_run_is_in_exactly_one_state(live: Live) -> None:
    for name, heard, finished in (("fresh", NOW, False), ("quiet", NOW - 61, False), ("done", NOW - 10, True)):
        run = lr.open_run(live, name, now=heard)
        run.ranks[0].finished = finished
    samples = read(exporter(live).render())
    for name, state in (("fresh", "running"), ("quiet", "silent"), ("done", "finished")):
        states = find(samples, "phasewatch_run_state", run=name)
        assert {dict(at)["state"]: value for at, value in states.items()} == {
            other: float(other == state) for other in ("running", "silent", "finished")
        }
        assert one(samples, "phasewatch_runs", state=state) == 1
    assert one(samples, "phasewatch_run_last_report_timestamp_seconds", run="quiet") == NOW - 61


def test_a_finished_run_leaves_after_its_grace_and_a_killed_one_after_a_day(live: Live) -> None:
    run = lr.open_run(live, "done", now=NOW)
    run.ranks[0].finished = True
    lr.open_run(live, "killed", now=NOW)
    now = NOW
    page = exporter(live, clock=lambda: now, finished_grace_seconds=600, silent_grace_seconds=86_400)

    def shown() -> set[str]:
        return {dict(at)["run"] for at in find(read(page.render()), "phasewatch_run_step")}

    assert shown() == {"done", "killed"}
    now = NOW + 600
    assert shown() == {"done", "killed"}
    now = NOW + 601
    assert shown() == {"killed"}
    now = NOW + 86_401
    assert shown() == set()


def test_phases_are_a_state_set_with_a_code_and_transitions_start_at_nought(live: Live) -> None:
    run = lr.open_run(live, now=NOW)
    lr.machines_of(run, MACHINES)
    page = exporter(live)
    before = read(page.render())
    assert one(before, "phasewatch_phase", machine="critical_period", phase="rising") == 1
    assert one(before, "phasewatch_transitions_total", machine="critical_period", to_phase="over") == 0
    assert not find(before, "phasewatch_phase_last_transition_timestamp_seconds")
    lr.enter(run, lr.transition("critical_period", "rising", "passed"), NOW - 5)
    after = read(page.render())
    assert {dict(at)["phase"]: v for at, v in find(after, "phasewatch_phase", machine="critical_period").items()} == {
        "rising": 0,
        "passed": 1,
        "over": 0,
    }
    assert one(after, "phasewatch_phase_code", machine="critical_period") == 1
    assert one(after, "phasewatch_phase_code", machine="regions") == 0
    assert one(after, "phasewatch_transitions_total", machine="critical_period", to_phase="passed") == 1
    assert one(after, "phasewatch_phase_last_transition_timestamp_seconds", machine="critical_period") == NOW - 5
    assert one(after, "phasewatch_transition_confidence_ratio", machine="critical_period") == 0.995
    assert one(after, "phasewatch_transition_happened_step", machine="critical_period") == 300
    assert one(after, "phasewatch_transition_known_step", machine="critical_period") == 400


def test_a_machine_whose_quantity_a_run_does_not_measure_adds_nothing_to_it(live: Live) -> None:
    run = lr.open_run(live, now=NOW)
    lr.machines_of(run, {"critical_period": MACHINES["critical_period"]})
    samples = read(exporter(live).render())
    assert find(samples, "phasewatch_phase", machine="critical_period")
    assert not [at for _, at in samples if dict(at).get("machine") == "regions"]


def test_claims_are_counted_by_state_and_the_newest_is_a_state_set(live: Live) -> None:
    run = lr.open_run(live, now=NOW)
    lr.machines_of(run, MACHINES)
    page = exporter(live)
    claims = find(read(page.render()), "phasewatch_phase_claims_total", machine="regions")
    assert {dict(at)["state"]: n for at, n in claims.items()} == {
        "suspected": 0,
        "detected": 0,
        "confirmed": 0,
        "retracted": 0,
    }
    for state in ("suspected", "detected", "confirmed"):
        run.enter(lr.transition("regions", "first_descent", "ascent", state=state), NOW)
    samples = read(page.render())
    assert one(samples, "phasewatch_phase_claims_total", machine="regions", state="confirmed") == 1
    assert one(samples, "phasewatch_transitions_total", machine="regions", to_phase="ascent") == 1
    newest = find(samples, "phasewatch_phase_claim", machine="regions", to_phase="ascent")
    assert {dict(at)["state"]: n for at, n in newest.items()} == {
        "suspected": 0,
        "detected": 0,
        "confirmed": 1,
        "retracted": 0,
    }


def test_a_suspicion_that_lapses_hides_no_claim_that_stands(live: Live) -> None:
    run = lr.open_run(live, now=NOW)
    lr.machines_of(run, MACHINES)
    run.enter(lr.transition("regions", "first_descent", "ascent", known_step=400), NOW)
    for state in ("suspected", "retracted"):
        later = lr.transition("regions", "ascent", "final_descent", ordinal=2, known_step=700, state=state)
        run.enter(later, NOW)
    samples = read(exporter(live).render())
    assert one(samples, "phasewatch_phase_claim", machine="regions", state="detected", to_phase="ascent") == 1
    assert not find(samples, "phasewatch_phase_claim", machine="regions", to_phase="final_descent")
    assert one(samples, "phasewatch_transition_known_step", machine="regions") == 400


def test_a_claim_withdrawn_says_so_and_keeps_the_step_at_which_it_was_held_to_have_happened(live: Live) -> None:
    run = lr.open_run(live, now=NOW)
    lr.machines_of(run, MACHINES)
    run.enter(lr.transition("regions", "first_descent", "ascent", happened_step=300), NOW)
    run.enter(lr.transition("regions", "first_descent", "ascent", happened_step=900, state="retracted"), NOW)
    samples = read(exporter(live).render())
    assert one(samples, "phasewatch_phase_claim", machine="regions", state="retracted") == 1
    assert one(samples, "phasewatch_transition_happened_step", machine="regions") == 300


def test_the_noise_of_each_judged_series_is_exported_with_what_it_means(live: Live) -> None:
    run = lr.open_run(live, now=NOW)
    lr.report(run, 1, lr.typical(1))
    lr.judge(run, "critical_period", believed=0.04, estimator=None, autocorrelation=0.6, verdict="correlated")
    lr.judge(run, "regions", subject={"layer": "features.3"}, believed=0.05)
    samples = read(exporter(live).render())
    assert one(samples, "phasewatch_noise_ratio", machine="critical_period", quantity="fisher_trace") == 0.04
    assert one(samples, "phasewatch_noise_ratio", machine="regions", layer="01.features.3") == 0.05
    assert one(samples, "phasewatch_noise_autocorrelation", machine="critical_period") == 0.6
    assert not find(samples, "phasewatch_noise_estimator_ratio", machine="critical_period")
    assert one(samples, "phasewatch_noise_estimator_ratio", machine="regions") == 0.02
    verdicts = find(samples, "phasewatch_noise_verdict", machine="critical_period")
    assert {dict(at)["verdict"]: n for at, n in verdicts.items()} == {
        "white": 0,
        "correlated": 1,
        "unassessable": 0,
        "unknown": 0,
    }


def test_a_layer_has_phases_of_its_own(live: Live) -> None:
    run = lr.open_run(live, now=NOW)
    lr.report(run, 1, lr.typical(1))
    run.spans.append(Span("regions", {"layer": "features.3"}, "ascent", 10, None))
    run.transitions.append(lr.transition("regions", "first_descent", "ascent", subject={"layer": "features.3"}))
    samples = read(exporter(live).render())
    assert one(samples, "phasewatch_phase", machine="regions", layer="01.features.3", phase="ascent") == 1
    assert one(samples, "phasewatch_phase_code", machine="regions", layer="01.features.3") == 1
    assert one(samples, "phasewatch_transition_known_step", machine="regions", layer="01.features.3") == 400


def test_a_machine_of_another_release_is_shown_without_a_code(live: Live) -> None:
    run = lr.open_run(live, now=NOW)
    run.spans.append(Span("older", {}, "somewhere", 10, None))
    samples = read(exporter(live).render())
    assert one(samples, "phasewatch_phase", machine="older", phase="somewhere") == 1
    assert not find(samples, "phasewatch_phase_code", machine="older")


def test_what_an_agent_costs_and_loses_is_on_the_page(live: Live) -> None:
    run = lr.open_run(live, now=NOW)
    lr.losses(run, lost=3, dropped=2, skipped=1)
    lr.probe(run, "sharpness", 12.5, ok=40, not_converged=2)
    samples = read(exporter(live).render())
    assert one(samples, "phasewatch_agent_overhead_ratio", run="resnet", rank="0") == 0.02
    assert one(samples, "phasewatch_run_lost_reports_total", rank="0") == 3
    assert one(samples, "phasewatch_agent_reports_dropped_total", rank="0") == 2
    assert one(samples, "phasewatch_agent_snapshots_skipped_total", rank="0") == 1
    assert one(samples, "phasewatch_agent_scalars_dropped_total", rank="0") == 0
    assert one(samples, "phasewatch_probe_seconds_total", probe="sharpness") == 12.5
    assert one(samples, "phasewatch_probe_outcomes_total", probe="sharpness", outcome="ok") == 40
    assert one(samples, "phasewatch_probe_outcomes_total", probe="sharpness", outcome="failed") == 0


def test_a_run_of_too_many_layers_is_cut_at_its_share_and_says_so(live: Live) -> None:
    wide, small = lr.open_run(live, "wide", now=NOW - 1), lr.open_run(live, "small", now=NOW)
    lr.report(wide, 1, ((lr.LOSS, {"layer": f"l{i}"}, Estimate(1.0, 1.0, 1.0)) for i in range(1000)))
    lr.report(small, 1, lr.typical(1))
    health = Health()
    page = Exporter(live, health, MACHINES, run_series_limit=1000, clock=lambda: NOW)
    samples = read(page.render())
    shown = len(find(samples, "phasewatch_train_loss_nats", run="wide"))
    assert len([key for key in samples if ("run", "wide") in key[1]]) <= 1000
    assert 200 < shown < 250
    assert len(find(samples, "phasewatch_fisher_trace_nats", run="small")) == 6
    assert one(samples, "phasewatch_series_refused", reason="run_limit") == 4 * (1000 - shown)
    assert one(samples, "phasewatch_series_refused", reason="limit") == 0
    assert one(samples, "phasewatch_series") == len([key for key in samples if "run" in dict(key[1])])
    for name in (
        "phasewatch_train_loss_nats_stderr",
        "phasewatch_train_loss_nats_paired_stderr",
        "phasewatch_estimate_outcome",
    ):
        assert len(find(samples, name, run="wide")) == shown


def test_a_refused_series_is_counted_once_however_often_prometheus_asks(live: Live) -> None:
    run = lr.open_run(live, now=NOW)
    lr.report(run, 1, ((lr.LOSS, {"layer": f"l{i}"}, Estimate(1.0)) for i in range(300)))
    page = exporter(live, run_series_limit=200)
    first = read(page.render())
    for _ in range(3):
        later = read(page.render())
    refused = one(first, "phasewatch_series_refused", reason="run_limit")
    assert refused > 0
    assert one(first, "phasewatch_refused_series_total") == refused
    assert one(later, "phasewatch_refused_series_total") == refused
    assert one(later, "phasewatch_series_refused", reason="run_limit") == refused


def test_a_full_page_keeps_the_older_run_and_takes_the_finished_one_last(live: Live) -> None:
    for age, name in ((30, "finished"), (20, "older"), (10, "newer")):
        run = lr.open_run(live, name, now=NOW - age)
        lr.report(run, 1, ((lr.LOSS, {"layer": f"l{i}"}, Estimate(1.0)) for i in range(100)))
        run.ranks[0].finished = name == "finished"
    samples = read(exporter(live, series_limit=700).render())
    shown = {
        name: len(find(samples, "phasewatch_train_loss_nats", run=name)) for name in ("finished", "older", "newer")
    }
    assert shown["older"] == 100
    assert 0 < shown["newer"] < 100
    assert shown["finished"] == 0
    assert one(samples, "phasewatch_run_state", run="finished", state="finished") == 1
    assert one(samples, "phasewatch_series_refused", reason="limit") > 0


def test_runs_for_which_there_is_no_room_at_all_are_counted_once_and_not_looked_at(live: Live) -> None:
    for i in range(5):
        run = lr.open_run(live, f"run-{i}", now=NOW - 10 + i)
        lr.report(run, 1, ((lr.LOSS, {"layer": f"l{j}"}, Estimate(1.0)) for j in range(100)))
        run.series = set(run.settle())
    page = exporter(live, series_limit=700)
    samples = [read(page.render()) for _ in range(3)][-1]
    shown = [len(find(samples, "phasewatch_train_loss_nats", run=f"run-{i}")) for i in range(5)]
    assert shown[0] == 100
    assert shown[2:] == [0, 0, 0]
    refused = one(samples, "phasewatch_series_refused", reason="limit")
    assert refused >= 4 * (100 - shown[1] + 300)
    assert one(samples, "phasewatch_refused_series_total") == refused
    assert all(one(samples, "phasewatch_run_state", run=f"run-{i}", state="running") == 1 for i in range(5))


def test_a_run_that_is_looked_at_in_part_or_not_at_all_or_renamed_is_counted_once(live: Live) -> None:
    for i, name in enumerate(("first", "second")):
        run = lr.open_run(live, name, now=NOW - 10 + i)
        lr.report(run, 1, ((lr.LOSS, {"layer": f"l{j}"}, Estimate(1.0)) for j in range(100)))
        run.series = set(run.settle())
    page = exporter(live, series_limit=700)
    first, second = live.runs.values()
    counted = [one(read(page.render()), "phasewatch_refused_series_total")]
    for first.first_heard in (NOW - 10, NOW, NOW - 10):  # its turn comes first, or last
        counted.append(one(read(page.render()), "phasewatch_refused_series_total"))
    assert counted[0] > 0
    whole = 2 * len(second.series) * 4
    assert counted[-1] < whole, "no series of either is counted twice"
    second.label = "renamed"
    assert one(read(page.render()), "phasewatch_refused_series_total") == counted[-1]


def test_ranks_and_probes_of_a_hostile_run_are_bounded_too(live: Live) -> None:
    run = lr.open_run(live, now=NOW)
    for i in range(5000):
        run.ranks[i] = RankState(last_heard=NOW)
        lr.probe(run, f"probe_{i}", 1.0, ok=1)
    samples = read(exporter(live, run_series_limit=1000).render())
    assert len([key for key in samples if "run" in dict(key[1])]) <= 1000


def test_a_quantity_cannot_take_the_name_of_another_metric(live: Live) -> None:
    run = lr.open_run(live, now=NOW)
    for name, unit in (
        ("run_step", "1"),
        ("reports_total", "1"),
        ("train_loss_nats_stderr", "1"),
        ("train_loss_nats", "1"),
        ("build_info", ""),
    ):
        lr.report(run, 1, iter([(Quantity(name, unit, "", name), {}, Estimate(777.0))]))
    lr.report(run, 1, iter([(lr.LOSS, {}, Estimate(1.0, 0.5))]))
    samples = read(exporter(live).render())
    assert one(samples, "phasewatch_train_loss_nats") == 1.0
    assert one(samples, "phasewatch_train_loss_nats_stderr") == 0.5
    assert 777.0 not in samples.values()
    assert one(samples, "phasewatch_series_refused", reason="name") == 20


def test_runs_of_one_name_never_share_a_label(live: Live) -> None:
    names = [("sweep", "job-4812345_1"), ("sweep", "job-4812345_2"), ("sweep", "job-4812345_3"), ("sweep-job-48", "x")]
    for name, run_id in names:
        lr.open_run(live, name, id=run_id, now=NOW)
    infos = [dict(at) for at in find(read(exporter(live).render()), "phasewatch_run_info")]
    assert len({info["run"] for info in infos}) == len(names) == len(infos)


def test_a_run_made_anew_in_memory_is_shown_under_its_new_label(live: Live) -> None:
    page = exporter(live)
    for name, order in (("first", ("a", "b")), ("second", ("b", "a"))):
        live.runs.clear()
        for run_id in order:
            lr.report(
                lr.open_run(live, "twin", id=f"{run_id * 6}", now=NOW), 1, iter([(lr.LOSS, {}, Estimate(ord(run_id)))])
            )
        values = {dict(at)["run"]: v for at, v in find(read(page.render()), "phasewatch_train_loss_nats").items()}
        assert values["twin"] == ord(order[0]), name


def test_series_that_come_in_another_order_after_a_restart_keep_their_own_values(live: Live) -> None:
    page = exporter(live)
    for order in ("ab", "ba"):
        live.runs.clear()
        run = lr.open_run(live, now=NOW)
        lr.report(run, 1, [(lr.LOSS, {"layer": layer}, Estimate(ord(layer), 0.5, math.nan)) for layer in order])
        found = find(read(page.render()), "phasewatch_train_loss_nats")
        assert {dict(at)["layer"][-1]: value for at, value in found.items()} == {"a": ord("a"), "b": ord("b")}


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-300, 1e300, 5e-324, 0.1, 123456789.123, math.nan, math.inf, -math.inf])
def test_a_number_is_on_the_page_to_its_last_bit(live: Live, value: float) -> None:
    lr.report(lr.open_run(live, now=NOW), 1, [(lr.LOSS, {}, Estimate(value, value, value))])
    samples = read(exporter(live).render())
    assert repr(one(samples, "phasewatch_train_loss_nats")) == repr(value)
    assert repr(one(samples, "phasewatch_train_loss_nats_stderr")) == repr(value)


def test_a_phase_that_is_over_is_not_the_current_one(live: Live) -> None:
    run = lr.open_run(live, now=NOW)
    run.spans += [Span("critical_period", {}, "passed", 10, 20), Span("critical_period", {}, "over", 20, None)]
    samples = read(exporter(live).render())
    assert one(samples, "phasewatch_phase", machine="critical_period", phase="passed") == 0
    assert one(samples, "phasewatch_phase", machine="critical_period", phase="over") == 1


def test_many_series_are_taken_together_or_not_at_all() -> None:
    room = Room(10)
    share = Share(room, 8, Refused())
    assert not share.take_all(9)
    assert (room.left, room.refused.total()) == (10, 0)
    assert share.take_all(8)
    assert not share.take_all(1)
    assert not Share(room, 8, Refused()).take_all(3)


def test_a_share_is_taken_to_its_last_series_and_no_further() -> None:
    room = Room(10)
    share = Share(room, 8, Refused())
    assert [share.take(4, 1), share.take(3, 2), share.take(2, 3), share.take(1, 4), share.take(1, 5)] == [
        True,
        True,
        False,
        True,
        False,
    ]
    other = Share(room, 8, Refused())
    assert [other.take(3, 6), other.take(2, 7), other.take(1, 8)] == [False, True, False]
    assert room.refused == {"run_limit": 3, "limit": 4}
    assert room.newly_refused == 7


def test_nothing_is_introduced_that_is_not_there(live: Live) -> None:
    introduced = re.findall(r"^# TYPE (phasewatch_\S+)", exporter(live).render().decode(), re.MULTILINE)
    assert "phasewatch_run_step" not in introduced
    lr.open_run(live, now=NOW)
    introduced = re.findall(r"^# TYPE (phasewatch_\S+)", exporter(live).render().decode(), re.MULTILINE)
    assert "phasewatch_run_step" in introduced
    assert "phasewatch_estimate_outcome" not in introduced


def test_every_family_stays_together_and_is_introduced_once(live: Live) -> None:
    for name in ("a", "b"):
        run = lr.open_run(live, name, now=NOW)
        lr.machines_of(run, MACHINES)
        lr.report(run, 1, lr.typical(1))
    names: list[str] = []
    for line in exporter(live).render().decode().splitlines():
        name = line.split()[2] if line.startswith("#") else re.split(r"[{ ]", line)[0]
        if not line.startswith("#") and names and names[-1].startswith("phasewatch_commit_seconds"):
            name = "phasewatch_commit_seconds"
        if not names or names[-1] != name:
            names.append(name)
    runs = [name for name in names if name.startswith("phasewatch_")]
    assert len(runs) == len(set(runs))


def test_an_empty_collector_still_says_who_it_is(live: Live) -> None:
    samples = read(exporter(live).render())
    assert one(samples, "phasewatch_build_info") == 1
    assert one(samples, "phasewatch_series") == 0
    assert one(samples, "phasewatch_series_limit") == 50_000
    assert one(samples, "phasewatch_store_errors_total") == 0
    assert one(samples, "process_resident_memory_bytes") > 0
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")


def test_every_name_of_the_catalogue_appears_for_a_typical_run(live: Live) -> None:
    run = lr.open_run(live, now=NOW)
    lr.machines_of(run, MACHINES)
    lr.report(run, 400, lr.typical(400))
    lr.enter(run, lr.transition("critical_period", "rising", "passed"), NOW)
    lr.probe(run, "sharpness", 1.0, ok=1)
    lr.judge(run, "critical_period")
    samples = read(exporter(live).render())
    assert {family.name for family in CATALOGUE} <= {name for name, _ in samples}
    for family in CATALOGUE:
        declared = set(family.labels) - {"…", "label_…", "layer"}
        for at in find(samples, family.name):
            assert declared <= set(dict(at)), family.name
            assert "…" in family.labels or set(dict(at)) <= set(family.labels), family.name


def test_reports_wait_while_one_run_is_copied_and_not_for_the_page(live: Live) -> None:
    runs = [lr.open_run(live, f"run {i}", id=f"run{i}", now=NOW + i) for i in range(3)]
    for run in runs:
        lr.report(run, 100, lr.typical(100))
    page = iter(Album(live, Patience(600, 600), NOW, 1000, 1000))

    def steps(still: Still) -> set[int]:
        return {latest.step for latest in still.latest.values()}

    assert steps(next(page)) == {100}

    def reporting() -> None:
        with live.lock:
            lr.report(runs[1], 200, lr.typical(200))

    thread = threading.Thread(target=reporting)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert [steps(still) for still in page] == [{200}, {100}]


def test_a_scrape_while_runs_report_never_sees_half_a_run(live: Live) -> None:
    run = lr.open_run(live, now=NOW)
    stop = threading.Event()

    def train() -> None:
        step = 0
        while not stop.is_set():
            step += 1
            with live.lock:
                lr.report(
                    run,
                    step,
                    (
                        (lr.LOSS, {"layer": f"l{i % 50}", "part": str(i // 50)}, Estimate(float(step)))
                        for i in range(200)
                    ),
                )

    thread = threading.Thread(target=train)
    thread.start()
    page = exporter(live)
    try:
        for _ in range(20):
            values = set(find(read(page.render()), "phasewatch_train_loss_nats").values())
            assert len(values) <= 1
    finally:
        stop.set()
        thread.join()


def test_what_is_watched_is_asked_anew_at_every_scrape_and_one_that_fails_is_not_a_number() -> None:
    health = Health()
    answers = iter((0.25, 0.5))
    health.ask("store_disk_used_ratio", lambda: next(answers))
    health.ask("store_bytes", lambda: 1 / 0)
    asked = [health.registry.get_sample_value("phasewatch_store_disk_used_ratio") for _ in range(3)]
    assert asked[:2] == [0.25, 0.5]
    assert math.isnan(asked[2] or 0.0)
    assert math.isnan(health.registry.get_sample_value("phasewatch_store_bytes") or 0.0)
    assert math.isnan(health.registry.get_sample_value("phasewatch_sessions") or 0.0), "nobody was asked yet"
