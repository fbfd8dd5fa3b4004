"""Distributed jobs, started by torchrun as their users start them, or rank by rank: a real collector, a rank that is killed."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import warm
from tests.integration.collector_process import ROOT, CollectorProcess
from tests.patience import eventually

SCRIPT = Path(__file__).with_name("distributed_jobs.py")
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}

Found = list[dict[str, Any]]
"""What each rank found, by job."""


def torchrun(folder: Path, ranks: int, jobs: str, collector: str = "") -> Found:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    ended = subprocess.run(
        [
            *launcher,
            "--no-python",
            *warm.command(warm.AGENT),
            str(SCRIPT),
            str(folder),
            jobs,
            *([collector] if collector else []),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | ENVIRONMENT,
        check=False,
    )
    (folder / "stderr.log").write_text(ended.stderr)
    assert ended.returncode == 0, ended.stderr[:5000]
    return found_in(folder, ranks)


def found_in(folder: Path, ranks: int) -> Found:
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(ranks)]


def by_hand(folder: Path, ranks: int, jobs: str) -> list[subprocess.CompletedProcess[str]]:
    """The same without a launcher; how each rank ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks)}
    started = [
        subprocess.Popen(
            [*warm.command(warm.AGENT), str(SCRIPT), str(folder), jobs],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | ENVIRONMENT | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(ranks)
    ]
    said = [rank.communicate(timeout=120)[1] for rank in started]
    return [
        subprocess.CompletedProcess(rank.args, rank.returncode, "", err)
        for rank, err in zip(started, said, strict=True)
    ]


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, dict[str, Any]]:
    """What the ranks found, and what a collector answers that one of the jobs reported to."""
    folder = tmp_path_factory.mktemp("replicas")
    with CollectorProcess(folder / "s.db") as collector:
        found = torchrun(folder, 3, "data_parallel,troubled,tightened,reporting", collector.inlet)
        (run,) = eventually(lambda: collector.get("/api/runs")["runs"], seconds=10, what="the run")
        place = f"/api/runs/{run['id']}"
        quantities = {
            name: collector.get(f"{place}/points?quantity={name}")["series"] for name in ("probe_loss", "observed_loss")
        }
        return found, {"run": run, "ranks": collector.get(place)["ranks"]} | quantities


@pytest.fixture(scope="module")
def replicas(collected: tuple[Found, dict[str, Any]]) -> Found:
    return collected[0]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("parts")
    for rank in by_hand(folder, 2, "fully_sharded,pipeline,processes"):
        assert rank.returncode == 0, rank.stderr[:5000]
    return found_in(folder, 2)


def steps(reports: list[dict[str, Any]]) -> list[int]:
    return [report["step"] for report in reports if report["columns"]]


def differing(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The series in which two reports differ; gaps that are gaps in both do not."""
    assert one["columns"].keys() == other["columns"].keys()
    pairs = {name: (values, other["columns"][name]) for name, values in one["columns"].items()}
    return {name: pair for name, pair in pairs.items() if str(pair[0]) != str(pair[1])}


def test_what_three_ranks_estimate_together_is_what_one_estimates_on_all_their_inputs(replicas: Found) -> None:
    together, alone = replicas[0]["data_parallel"]["together"], replicas[0]["data_parallel"]["alone"]
    assert steps(together) == steps(alone) == [0, 2, 4]
    assert len(together[0]["columns"]) > 100
    for one, other in zip(together, alone, strict=True):
        assert differing(one, other) == {}
        assert list(one["columns"]) == list(other["columns"])
        assert one["costs"].keys() == other["costs"].keys()


def test_the_probes_are_divided_among_the_ranks_and_rank_0_alone_reports_them(replicas: Found) -> None:
    shares = [found["data_parallel"]["divided"] for found in replicas]
    assert all(shares)
    named = [name for share in shares for name in share]
    assert sorted(named) == sorted(replicas[0]["data_parallel"]["together"][0]["costs"])
    for found in replicas[1:]:
        assert [(r["columns"], r["costs"]) for r in found["data_parallel"]["together"]] == [({}, {})] * 3


def test_parameters_are_the_same_to_the_bit_watched_or_not_also_when_gradients_accumulate(replicas: Found) -> None:
    final = [found["data_parallel"][kind] for found in replicas for kind in ("watched", "unwatched")]
    assert all(numbers == final[0] for numbers in final)
    assert [found["data_parallel"]["step"] for found in replicas] == [4, 4, 4]


def test_ranks_share_the_id_of_one_run(replicas: Found) -> None:
    assert len({found["data_parallel"]["id"] for found in replicas}) == 1


def test_a_probe_that_raises_is_an_outcome_and_nobody_waits_for_it(replicas: Found) -> None:
    reports = replicas[0]["troubled"]["broken"]
    assert steps(reports) == [0, 2, 4]
    for report in reports:
        outcome, why = report["costs"]["broken"]
        assert outcome == 5
        assert "RuntimeError: a probe of rank" in why
        assert report["costs"]["loss"][0] == 0


def test_ranks_that_give_the_same_batch_measure_it_once(replicas: Found) -> None:
    assert [found["troubled"]["inputs"] for found in replicas] == [24, 24, 24]


def test_when_a_rank_stops_watching_rank_0_goes_on_with_all_probes(replicas: Found) -> None:
    first, *others = (found["troubled"] for found in replicas)
    assert steps(first["early"]) == [0, 2, 4, 6]
    assert first["early"][-1]["costs"].keys() == first["early"][0]["costs"].keys()
    assert first["complaints"] == others[1]["complaints"] == {"ranks": 1}
    assert not any(steps(other["early"]) for other in others)


def test_ranks_whose_weights_drift_apart_are_not_taken_for_one_model(replicas: Found) -> None:
    assert steps(replicas[0]["troubled"]["drifting"]) == [0, 2, 4]
    assert replicas[0]["troubled"]["drift_told"] == ["ranks"]


def test_steps_before_attach_are_told_of_once_a_job(replicas: Found) -> None:
    told = [[words for words in found["troubled"]["resumed_told"] if "pass step=1" in words] for found in replicas]
    assert [len(words) for words in told] == [1, 0, 0]


@pytest.mark.parametrize("model", ["replicas", "shards"])
def test_ranks_stop_together_at_the_steps_between_that_rank_0_was_wished_to_measure(
    replicas: Found, model: str
) -> None:
    first, *others = (found["tightened"][model] for found in replicas)
    measured = {"probe_loss []": [0, 6, 8, 10, 12, 14, 16, 18, 24], "weight_norm []": [0, 6, 12, 18, 24]}
    for series, steps_of_it in measured.items():
        assert [report["step"] for report in first["reports"] if series in report["columns"]] == steps_of_it
    assert all(rank["same"] and rank["complaints"] == {} for rank in (first, *others))
    assert [rank["answers"] for rank in (first, *others)] == [{"honoured": 1}, {"another rank chooses": 1}, {}]


def test_a_sharded_model_is_measured_whole_and_trains_on_the_same_to_the_bit(parts: Found) -> None:
    found = parts[0]["fully_sharded"]
    assert all(rank["fully_sharded"]["watched"] == found["unwatched"] for rank in parts)
    assert steps(found["sharded"]) == [0, 2, 4]
    differ = differing(found["sharded"][0], found["plain"][0])
    assert all(one == pytest.approx(other, rel=1e-12) for one, other in differ.values())
    assert {name.split("[")[0] for name in differ} <= {"weight_norm "}, "the order in which parts are added up"
    last = found["sharded"][-1]
    norm = sum(x * x for x in found["watched"]) ** 0.5
    assert last["columns"]["weight_norm []"][0] == pytest.approx(norm, rel=1e-12)
    assert last["columns"]["update_ratio []"][0] > 0
    assert [outcome for outcome, _ in last["costs"].values() if outcome > 1] == []
    assert not any(report["columns"] for report in parts[1]["fully_sharded"]["sharded"])


def test_a_tensor_parallel_model_is_measured_whole(parts: Found) -> None:
    found = parts[0]["fully_sharded"]
    differ = differing(found["tensor_parallel"][0], found["whole"][0])
    assert all(one == pytest.approx(other, rel=1e-12) for one, other in differ.values())


def test_of_a_sharded_model_the_weights_are_added_up_where_they_lie_and_nothing_is_put_together(parts: Found) -> None:
    first, other = (found["fully_sharded"] for found in parts)
    assert [found["put_together"] for found in (first, other)] == [False, False]
    assert not any(report["columns"] for report in other["summed"])
    course = np.array(first["course"])
    updates = np.diff(course, axis=0)
    assert steps(first["summed"]) == [0, 2, 4]
    for report in first["summed"][1:]:
        t, got = report["step"], {name: values[0] for name, values in report["columns"].items()}
        before, last = updates[t - 2 : t]
        assert got["weight_norm []"] == pytest.approx(np.linalg.norm(course[t]), rel=1e-12)
        assert got["distance_from_start []"] == pytest.approx(np.linalg.norm(course[t] - course[0]), rel=1e-6)
        assert got["update_ratio []"] == pytest.approx(np.linalg.norm(last) / np.linalg.norm(course[t - 1]), rel=1e-5)
        cosine = last @ before / np.linalg.norm(last) / np.linalg.norm(before)
        assert got["update_cosine []"] == pytest.approx(cosine, rel=1e-5)
        assert got["trainable_parameters []"] == course.shape[1]
        layers = [value for name, value in got.items() if name.startswith("weight_norm [(")]
        assert np.hypot.reduce(layers) == pytest.approx(got["weight_norm []"], rel=1e-12)
    assert {outcome for report in first["summed"] for outcome, _ in report["costs"].values()} == {0}


def test_a_likelihood_that_cannot_be_a_sharded_models_is_refused_on_every_rank_and_given_up_by_a_callback(
    parts: Found,
) -> None:
    for found in parts:
        assert "Got likelihood='bernoulli'" in found["fully_sharded"]["refused"]
    assert steps(parts[0]["fully_sharded"]["without"]) == [0, 2]


def test_a_sharded_model_needs_every_rank_and_flattened_parameters_are_refused(parts: Found) -> None:
    assert "not all of them came to attach() in time; need attach() on every rank" in parts[0]["fully_sharded"]["alone"]
    for found in parts:
        assert "(FSDP1)" in found["fully_sharded"]["old"]
        assert "need FSDP2" in found["fully_sharded"]["old"]


def test_stages_of_a_pipeline_are_watched_apart_and_the_last_alone_where_only_it_attaches(parts: Found) -> None:
    first, last = (found["pipeline"] for found in parts)
    assert list(first) == ["every stage"]
    assert all(stage["alone"] and steps(stage["reports"]) == [0, 2, 4] for stage in (*first.values(), *last.values()))
    assert first["every stage"]["id"] == last["every stage"]["id"] != last["last stage"]["id"]


def test_with_probes_in_a_process_rank_0_measures_the_inputs_of_all_ranks(parts: Found) -> None:
    first, other = (found["processes"] for found in parts)
    assert [found["inputs"] for found in (first, other)] == [48, 48]
    assert any(report["columns"] for report in first["reports"])
    assert other["reports"]
    assert not any(report["columns"] or report["costs"] for report in other["reports"])


def test_ranks_appear_as_one_run_in_the_collector(collected: tuple[Found, dict[str, Any]]) -> None:
    found, answers = collected
    run = answers["run"]
    assert {rank["reporting"]["id"] for rank in found} == {run["id"]}
    assert (run["name"], run["world_size"], run["step"], run["state"]) == ("reported", 3, 4, "finished")
    assert [(r["rank"], r["reports"], r["lost"], r["finished"]) for r in answers["ranks"]] == [
        (rank, 3, 0, True) for rank in range(3)
    ]
    assert {series["rank"] for series in answers["probe_loss"]} == {0}
    assert {series["rank"]: series["value"][-1] for series in answers["observed_loss"]} == {0: 0.0, 1: 1.0, 2: 2.0}


def test_a_rank_that_is_killed_keeps_the_other_waiting_once_and_no_longer_than_it_may(tmp_path: Path) -> None:
    both = by_hand(tmp_path, 2, "killed")
    assert [rank.returncode for rank in both] == [0, -9], both
    found = json.loads((tmp_path / "rank0.json").read_text())["killed"]
    assert steps(found["reports"]) == [0, 2, 4, 6, 8]
    assert "waited 4 s in vain for rank 1" in both[0].stderr
    assert found["complaints"] == {"ranks": 1}
    assert len([wait for wait in found["waits"] if wait > 3]) == 1
    assert max(found["waits"]) < 15
