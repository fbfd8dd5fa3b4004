"""The page's JSON and the door it stands behind, over a real store."""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from collector.live import Live
from collector.phases import Machine, Phase, Span, Turn
from collector.phases.spans import spans_of
from collector.store.queries import Reader
from collector.store.sqlite import Store
from collector.web import Feed, create_app
from collector.web.guard import POLICY, host_name
from collector.web.views import known_phases, phase_view
from probe_wire import Estimate, Losses, Outcome, Report, encode, pack
from tests.collector_fixtures import (
    LAYERS,
    SCHEMA,
    STEPS,
    Seeded,
    began,
    complexity_turn,
    digits_run,
    seed,
    transition,
)
from tests.web_client import Client

ID = digits_run().id
POINTS = f"/api/runs/{ID}/points"


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seeded]:
    found = seed(tmp_path_factory.mktemp("web") / "store.db", now=time.time())
    yield found
    found.store.close()


def client_of(seeded: Seeded, *, live: Live | None = None, ready: bool = True, **settings: Any) -> Client:
    app = create_app(
        seeded.reader,
        seeded.live if live is None else live,
        seeded.feed,
        lambda: b"phasewatch_reports_total 154.0\n",
        lambda: ready,
        **settings,
    )
    return Client(app)


@pytest.fixture(scope="module")
def client(seeded: Seeded) -> Client:
    return client_of(seeded)


def test_the_list_says_of_each_run_where_it_stands(seeded: Seeded, client: Client) -> None:
    body = client.get("/api/runs").json()
    (run,) = body["runs"]
    assert (body["total"], body["address"], body["guarded"]) == (1, "tcp://127.0.0.1:5757", False)
    assert client_of(seeded, guarded=True).get("/api/runs").json()["guarded"] is True
    assert (run["id"], run["name"], run["state"], run["step"]) == (ID, "digits-cnn", "running", STEPS[-1])
    assert (run["reports"], run["lost"]) == (len(STEPS), 0)
    assert run["losses"] == {"reports_dropped": 0, "snapshots_skipped": 3, "scalars_dropped": 0}
    assert 0 < run["overhead_ratio"] < 0.05
    assert {(p["machine"], p["phase"]) for p in run["phases"]} == {
        ("critical_period", "after_critical_period"),
        ("local_complexity", "ascent"),
    }


def test_phases_that_ship_have_a_meaning_and_a_colour_of_their_own(client: Client) -> None:
    spans = client.get(f"/api/runs/{ID}").json()["spans"]
    hues = {(span["machine"], span["phase"]): span["hue"] for span in spans}
    assert (hues["critical_period", "early"], hues["local_complexity", "initial"]) == (0, 0)
    assert len(set(hues.values())) == len(hues) - 1
    meanings = {span["phase"]: span["meaning"] for span in spans}
    assert "deficits in the data now leave permanent damage" in meanings["critical_period"]


def test_a_phase_of_another_release_has_no_meaning_but_a_colour_that_stays() -> None:
    first = phase_view(Span("mood", {}, "calm", 0, 10), {})
    second, again = (phase_view(Span("mood", {}, "storm", 10, until), {}) for until in (20, None))
    assert (first.hue, first.meaning, second.meaning) == (0, "", "")
    assert second.hue == again.hue > 0


def test_a_machine_of_ones_own_has_its_meanings_on_the_page(seeded: Seeded) -> None:
    calm, storm = Phase(name="calm", meaning="Nothing moves."), Phase(name="storm", meaning="All moves.")
    turn = Turn(from_phase="calm", to_phase="storm", when="rise")
    own = Machine(name="critical_period", quantity="fisher_trace", phases=(calm, storm), turns=(turn,))
    spans = client_of(seeded, machines=(own,)).get(f"/api/runs/{ID}").json()["spans"]
    assert {span["meaning"] for span in spans} == {""}  # of the shipped machine it replaces nothing is known here
    known = known_phases((own,))
    assert phase_view(Span("critical_period", {}, "storm", 10), known).meaning == "All moves."
    assert phase_view(Span("critical_period", {}, "storm", 10), known).hue == 1


def test_a_run_comes_with_its_quantities_in_the_order_they_are_reported(client: Client) -> None:
    body = client.get(f"/api/runs/{ID}").json()
    assert [q["name"] for q in body["quantities"]][:3] == ["probe_loss", "probe_accuracy", "fisher_trace"]
    fisher = body["quantities"][2]
    assert (fisher["whole"], fisher["layers"], fisher["scale"], fisher["unit"]) == (1, len(LAYERS), "log", "1")
    assert fisher["help"].startswith("Trace of the Fisher information matrix")


def test_a_run_tells_what_its_probes_cost_and_what_went_wrong(client: Client) -> None:
    body = client.get(f"/api/runs/{ID}").json()
    (rank,) = body["ranks"]
    assert rank["losses"]["snapshots_skipped"] == 3
    assert rank["overhead_ratio"] == pytest.approx(
        rank["probe_seconds"] / (rank["probe_seconds"] + rank["training_seconds"])
    )
    dearest = body["probes"][0]
    assert dearest["probe"] == "sharpness"
    assert dearest["outcomes"]["not_converged"] > 0
    assert dearest["last_problem"] == "32 iterations left a residual of 0.08"


def test_a_run_tells_the_noise_of_each_series_that_is_judged(seeded: Seeded, client: Client) -> None:
    judged = client.get(f"/api/runs/{ID}").json()["judged"]
    assert [(each["machine"], each["quantity"], each["card"]["verdict"]) for each in judged] == [
        ("critical_period", "fisher_trace", "white"),
        ("intervention_removal", "fisher_trace", "white"),
        ("local_complexity", "local_complexity", "unassessable"),
    ]
    assert judged[0]["card"]["believed"] == 0.021
    assert judged[2]["card"]["estimator"] is None
    assert client_of(seeded, live=Live()).get(f"/api/runs/{ID}").json()["judged"] == []


def test_every_outcome_is_explained_in_a_sentence(client: Client) -> None:
    outcomes = client.get(f"/api/runs/{ID}").json()["outcomes"]
    assert {o["code"]: (o["label"], o["sentence"]) for o in outcomes} == {
        int(o): (o.label, o.sentence) for o in Outcome
    }


def test_phases_of_a_run_no_longer_in_memory_are_drawn_from_its_transitions(seeded: Seeded, client: Client) -> None:
    remembered = client.get(f"/api/runs/{ID}").json()
    derived = client_of(seeded, live=Live()).get(f"/api/runs/{ID}").json()
    by_machine = sorted(remembered["spans"], key=lambda span: (span["machine"], span["since_step"]))
    assert sorted(derived["spans"], key=lambda span: (span["machine"], span["since_step"])) == by_machine
    assert derived["ranks"] == derived["probes"] == []
    assert derived["run"]["overhead_ratio"] is derived["run"]["losses"] is None
    assert derived["run"]["state"] == "running"


def test_a_stored_run_nobody_hears_is_silent_and_one_that_said_goodbye_finished(tmp_path: Path) -> None:
    old = seed(tmp_path / "store.db", steps=STEPS[:3], now=time.time() - 3600, turns=False)
    assert client_of(old, live=Live()).get("/api/runs").json()["runs"][0]["state"] == "silent"
    old.finish()
    run = client_of(old, live=Live()).get("/api/runs").json()["runs"][0]
    assert (run["state"], run["finished"]) == ("finished", "finished")
    old.store.close()


def test_losses_of_all_ranks_are_added_up(tmp_path: Path) -> None:
    many = seed(tmp_path / "store.db", steps=STEPS[:3], now=time.time(), turns=False)
    with many.live.lock:
        ranks = many.live.runs[ID].ranks
        ranks[0].losses = Losses(1, 2, 3)
        ranks[1] = type(ranks[0])(training_seconds=10.0, probe_seconds=30.0, losses=Losses(10, 20, 30))
    run = client_of(many).get("/api/runs").json()["runs"][0]
    assert run["losses"] == {"reports_dropped": 11, "snapshots_skipped": 22, "scalars_dropped": 33}
    assert run["overhead_ratio"] > 0.5
    many.store.close()


def test_points_come_as_columns_of_every_series(client: Client) -> None:
    body = client.get(POINTS, params={"quantity": "fisher_trace"}).json()
    assert [s["labels"].get("layer") for s in body["series"]] == [None, *LAYERS]
    whole = body["series"][0]
    assert whole["step"] == list(STEPS)
    assert whole["settings"] == {"samples": "512", "mode": "evaluation", "probe": "fisher_trace"}
    assert whole["folded"] == 0
    assert {len(whole[c]) for c in ("value", "stderr", "paired", "n", "outcome")} == {len(STEPS)}


@pytest.mark.parametrize(("which", "layers"), [("whole", [None]), ("layers", list(LAYERS))])
def test_the_page_may_ask_for_the_network_or_the_layers_alone(
    client: Client, which: str, layers: list[str | None]
) -> None:
    body = client.get(POINTS, params={"quantity": "fisher_trace", "series": which}).json()
    assert [s["labels"].get("layer") for s in body["series"]] == layers


def test_one_series_is_asked_for_by_its_labels_and_rank(client: Client) -> None:
    named = client.get(f"/api/runs/{ID}/series").json()
    assert {"quantity": "fisher_trace", "labels": {"layer": "fc1"}, "rank": 0, "ranks": 1} in named
    asked = {"quantity": "fisher_trace", "labels": '{"layer": "fc1"}', "rank": "0"}
    (one,) = client.get(POINTS, params=asked).json()["series"]
    assert one["labels"] == {"layer": "fc1"}
    assert client.get(POINTS, params={**asked, "rank": "1"}).json()["series"] == []
    (whole,) = client.get(POINTS, params={"quantity": "fisher_trace", "labels": "{}"}).json()["series"]
    assert whole["labels"] == {}


def test_a_quantity_of_which_nothing_came_yet_has_no_series(tmp_path: Path) -> None:
    young = seed(tmp_path / "store.db", steps=(0,), now=time.time(), turns=False)
    young.store._db.execute("DELETE FROM series WHERE quantity = 'weight_distance'")
    assert client_of(young).get(POINTS, params={"quantity": "weight_distance"}).json()["series"] == []
    young.store.close()


def test_asking_after_the_last_frame_brings_only_what_is_new(tmp_path: Path) -> None:
    young = seed(tmp_path / "store.db", steps=STEPS[:20], now=time.time(), turns=False)
    client = client_of(young)
    first = client.get(POINTS, params={"quantity": "probe_loss"}).json()
    young.train(STEPS[20:23])
    more = client.get(POINTS, params={"quantity": "probe_loss", "after": first["frame"]}).json()
    assert more["series"][0]["step"] == list(STEPS[20:23])
    again = client.get(POINTS, params={"quantity": "probe_loss", "after": more["frame"]}).json()
    assert (again["frame"], again["series"][0]["step"]) == (more["frame"], [])
    young.store.close()


def test_a_number_that_is_not_known_is_null_beside_its_outcome(client: Client) -> None:
    (series,) = client.get(POINTS, params={"quantity": "hessian_lambda_max"}).json()["series"]
    skipped = [i for i, outcome in enumerate(series["outcome"]) if outcome == Outcome.OVER_BUDGET]
    assert skipped
    assert all(series["value"][i] is None for i in skipped)
    (empirical,) = client.get(POINTS, params={"quantity": "fisher_trace_empirical"}).json()["series"]
    assert set(empirical["stderr"]) == {None}
    assert set(empirical["outcome"]) == {Outcome.OK}


def test_an_infinite_value_is_null_too(tmp_path: Path) -> None:
    young = seed(tmp_path / "store.db", steps=STEPS[:3], now=time.time(), turns=False)
    infinite = [Estimate(math.inf, outcome=Outcome.NON_FINITE)] * len(SCHEMA.columns)
    report = Report(4, 9, 0.0, SCHEMA.id, *pack(infinite))
    young.store.put_report(young.stream, report, encode(report), young.clock)
    young.store.commit()
    (series,) = client_of(young).get(POINTS, params={"quantity": "probe_loss"}).json()["series"]
    assert (series["value"][3], series["outcome"][3]) == (None, Outcome.NON_FINITE)
    young.store.close()


def test_a_long_series_is_folded_and_says_by_how_much(client: Client) -> None:
    (series,) = client.get(POINTS, params={"quantity": "hessian_lambda_max", "max": 50}).json()["series"]
    assert len(series["step"]) <= 50
    assert series["folded"] == len(STEPS) - len(series["step"])
    assert (series["step"][0], series["step"][-1]) == (STEPS[0], STEPS[-1])
    assert Outcome.OVER_BUDGET in series["outcome"]


def test_transitions_come_with_all_their_evidence(client: Client) -> None:
    body = client.get(f"/api/runs/{ID}/transitions").json()
    assert [t["transition"]["machine"] for t in body] == ["critical_period", "local_complexity", "critical_period"]
    critical = body[2]["transition"]
    assert critical["happened_between"] == [451, 614]
    assert critical["evidence"]["sentence"].startswith("fisher_trace fell by 13.7%")


def test_phases_of_one_machine_follow_each_other_and_the_first_starts_at_zero() -> None:
    turns = [began(), complexity_turn(), transition(happened_step=10)]  # hindsight placed the end before the beginning
    assert spans_of(turns) == [
        Span("critical_period", {}, "early", 0, 12),
        Span("critical_period", {}, "critical_period", 12, 12),
        Span("critical_period", {}, "after_critical_period", 12, None),
        Span("local_complexity", {}, "initial", 0, 119),
        Span("local_complexity", {}, "ascent", 119, None),
    ]


def test_a_suspicion_enters_no_phase_and_a_claim_withdrawn_leads_back() -> None:
    held = transition(ordinal=1, from_phase="early", to_phase="critical_period", happened_step=100)
    told = [replace(held, state="suspected"), held, replace(held, state="confirmed")]
    assert spans_of(told[:1]) == []
    assert [span.phase for span in spans_of(told)] == ["early", "critical_period"]
    back = replace(held, state="retracted", happened_step=200)
    assert spans_of([*told, back]) == [
        Span("critical_period", {}, "early", 0, 100),
        Span("critical_period", {}, "critical_period", 100, 200),
        Span("critical_period", {}, "early", 200, None),
    ]


@pytest.mark.parametrize(
    "path", ["/api/runs/nobody", "/api/runs/nobody/points?quantity=x", "/api/runs/nobody/transitions"]
)
def test_an_unknown_run_is_answered_with_a_sentence(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json() == {
        "error": "Got the run 'nobody'; the store holds no run of that id. See /api/runs for those it holds."
    }


def test_a_run_is_found_by_its_id_and_not_by_its_name(client: Client) -> None:
    assert client.get("/api/runs/digits-cnn").status_code == 404


def test_the_record_of_finished_runs_is_judged_beside_and_told_when_it_is_known(tmp_path: Path) -> None:
    seeded = seed(tmp_path / "s.db", now=time.time())
    client = client_of(seeded)
    first = client.get("/api/record").json()
    assert (first["busy"], first["runs"], first["turns"]) == (True, 0, [])
    seeded.finish()
    other = client_of(seeded)
    for _ in range(200):
        found = other.get("/api/record").json()
        if not found["busy"]:
            break
        time.sleep(0.05)
    assert found["runs"] == 1
    assert (found["turns"][0]["machine"], found["turns"][0]["alpha"]) == ("", 0.01)
    seeded.store.close()


def test_an_unknown_quantity_is_answered_with_those_the_run_measures(client: Client) -> None:
    answer = client.get(POINTS, params={"quantity": "joy"})
    assert answer.status_code == 404
    assert answer.json()["error"].startswith("Got quantity='joy'; this run measures probe_loss, probe_accuracy, fisher")


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("labels=fc1", 'a JSON object of names and values such as {"layer": "fc1"}. Leave it out for all.'),
        ("after=soon", "Got after='soon'; need a whole number from 0 to 4611686018427387904. Leave it out for 0."),
        ("after=-1", "Got after='-1'; need a whole number from 0 to 4611686018427387904. Leave it out for 0."),
        ("max=9", "Got max='9'; need a whole number from 10 to 20000. Leave it out for 4000."),
        ("max=" + "9" * 5000, "need a whole number from 10 to 20000. Leave it out for 4000."),
        ("max=١٢", "Got max='١٢'; need a whole number from 10 to 20000. Leave it out for 4000."),
        ("series=some", "Got series='some'; need all, whole or layers. Leave it out for all."),
    ],
)
def test_a_bad_parameter_is_told_what_came_what_is_needed_and_what_to_do(
    client: Client, query: str, sentence: str
) -> None:
    answer = client.get(f"{POINTS}?quantity=probe_loss&{query}")
    assert answer.status_code == 400
    assert answer.json()["error"].endswith(sentence)


def test_a_store_that_cannot_be_read_is_a_sentence_and_not_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    Store(path).close()
    reader = Reader(path)
    path.write_bytes(b"not a store" * 100)
    app = create_app(reader, Live(), Feed(), lambda: b"", lambda: True)
    answer = Client(app).get("/api/runs")
    assert answer.status_code == 503
    assert answer.json()["error"].startswith("The store could not be read: ")


@pytest.mark.parametrize(
    "path", ["/", f"/runs/{ID}", "/static/app.js", "/api/runs", "/metrics", "/healthz", "/nowhere", "/api/runs/x"]
)
def test_every_answer_carries_the_security_headers(client: Client, path: str) -> None:
    headers = client.get(path).headers
    assert headers["content-security-policy"] == POLICY
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == ("no-cache" if path in {"/", f"/runs/{ID}", "/static/app.js"} else "no-store")


def test_the_policy_allows_nothing_from_elsewhere_and_nothing_inline() -> None:
    assert "default-src 'none'" in POLICY
    assert "unsafe" not in POLICY
    assert "http" not in POLICY


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080", "192.168.7.9:80", "watch.lab:8080"]
)
def test_a_known_name_and_any_number_is_answered(seeded: Seeded, host: str) -> None:
    client = client_of(seeded, allowed_hosts=["watch.lab"])
    assert client.get("/api/runs", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8080", "", "[evil]"]
)
def test_a_foreign_name_is_refused_since_it_may_be_rebound(client: Client, host: str) -> None:
    answer = client.get("/api/runs", headers={"host": host})
    assert answer.status_code == 400
    assert answer.json()["error"] == (
        f"Got a request for the host {host_name(host)!r}; this collector answers to localhost and to numeric addresses. "
        "If that name is yours, add it to allowed_hosts in the [web] section of phasewatch.toml."
    )


def test_health_checks_are_answered_under_any_name(client: Client) -> None:
    for path in ("/healthz", "/readyz"):
        assert client.get(path, headers={"host": "pod-7"}).status_code == 200


def test_a_collector_that_is_not_ready_says_so(seeded: Seeded) -> None:
    answer = client_of(seeded, ready=False).get("/readyz")
    assert (answer.status_code, answer.text) == (503, "not ready\n")


def test_metrics_are_served_in_prometheus_own_type(client: Client) -> None:
    answer = client.get("/metrics")
    assert answer.content == b"phasewatch_reports_total 154.0\n"
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize(
    "name", ["../app.py", "..%2fapp.py", "/etc/passwd", "index.html/..", "vendor/third_party.json", ""]
)
def test_only_the_files_of_the_list_are_served(client: Client, name: str) -> None:
    assert client.get(f"/static/{name}").status_code == 404


def test_a_browser_that_has_a_file_is_not_sent_it_again(client: Client) -> None:
    first = client.get("/static/style.css")
    again = client.get("/static/style.css", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_page_can_only_be_read(client: Client) -> None:
    answer = client.request("POST", "/api/runs")
    assert answer.status_code == 405
    assert answer.json() == {"error": "Method Not Allowed"}


def test_a_page_more_than_may_be_open_is_told_to_wait(seeded: Seeded) -> None:
    app = create_app(seeded.reader, seeded.live, Feed(pages=0), lambda: b"", lambda: True)
    answer = Client(app).get("/api/feed")
    assert answer.status_code == 503
    assert answer.json() == {"error": "Got one page more than the 0 that may be open. Close one and try again."}
