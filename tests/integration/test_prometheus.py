"""A real Prometheus reads the exporter's page; every query of the board and every rule is put to it."""

import json
import random
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from msgspec.structs import replace

from collector.exporter import CATALOGUE, CONTENT_TYPE, Exporter
from collector.health import Health
from collector.live import Live
from collector.phases import MACHINES
from collector.tokens import Tokens
from dashboards import config as c
from dashboards.alerts import ALERTS, RECORDINGS
from dashboards.rule import Alert, Recording
from probe_agent.probes import PROBES
from probe_wire import Estimate, Outcome, Quantity
from tests import live_runs as lr
from tests.integration.servers import (
    Prometheus,
    Webhooks,
    alertmanager,
    page,
    prometheus,
    run_program,
    webhook,
)
from tests.patience import eventually

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "dashboards" / "rules"
SHIPPED = ROOT / "docker" / "prometheus.yml"
BOARD = json.loads((ROOT / "dashboards/out/run.json").read_text(encoding="utf-8"))
PHASES = {machine.name: tuple(phase.name for phase in machine.phases) for machine in MACHINES}
QUANTITIES: list[Quantity] = [quantity for probe in PROBES for quantity in probe.quantities]
RUN = "cifar10 resnet-18, lr=0.1"
HOSTILE = 'a"b\\c\nd{}$1%s☃{{ . }}'


# What a slip of the pen would make of a rule: the file, what is there, and what would be there instead.
MUTANTS = [
    ("alerts.yml", "offset 10m == 1", "offset 20m == 1"),
    ("alerts.yml", "offset 10m == 1", "offset 5m == 1"),
    ("alerts.yml", " or time() - phasewatch_run_started_timestamp_seconds < 900", ""),
    ("alerts.yml", "phasewatch_run_step offset 10m or", "phasewatch_run_step or"),
    ("alerts.yml", ', layer=""', ""),
    ("alerts.yml", 'state="confirmed"', 'state=~"detected|confirmed"'),
    ("alerts.yml", 'state="retracted"} == 1', 'state="retracted"} >= 0'),
    ("alerts.yml", 'state="silent"', 'state=~"silent|finished"'),
    ("alerts.yml", "for: 2m\n        keep_firing_for: 5m\n", "keep_firing_for: 5m\n"),
    ("alerts.yml", "for: 2m\n        keep_firing_for: 5m\n", "for: 2m\n"),
    ("alerts.yml", " or run:phasewatch_dropped_reports:increase > 0", ""),
    ("recording.yml", "offset 10m", "offset 1m"),
    ("recording.yml", "or sum by (job, run) (phasewatch_run_lost_reports_total) * 0", ""),
    ("recording.yml", "max by (job, run)", "avg by (job, run)"),
    ("alerts.yml", "> 0.05", ">= 0.05"),
    ("alerts.yml", "for: 15m\n", "for: 5m\n"),
    ("alerts.yml", 'unless on (job, run) (phasewatch_run_state{state="finished"} == 1)', ""),
    ("alerts.yml", 'outcome="non_finite"', 'outcome!="ok"'),
    ("alerts.yml", 'outcome="failed"', 'outcome!="ok"'),
    ("alerts.yml", 'or absent(up{job="phasewatch"})', ""),
    ("alerts.yml", "for: 1m\n", "for: 5m\n"),
    ("alerts.yml", "phasewatch_store_errors_total[5m]", "phasewatch_store_errors_total[1m]"),
    ("alerts.yml", "for: 10m\n", "for: 3m\n"),
    ("alerts.yml", "phasewatch_phase_failures_total > 0", "increase(phasewatch_phase_failures_total[10m]) > 0"),
    ("alerts.yml", '{reason=~"version|bad_message|too_large|forbidden|busy"}', ""),
    ("alerts.yml", "phasewatch_store_disk_used_ratio > 0.9", "phasewatch_store_disk_used_ratio > 0.96"),
    ("alerts.yml", "expr: |-\n          vector(1)", "expr: |-\n          vector(1) > 1"),
]


class Training:
    """Two runs that report whenever Prometheus looks; one changes phase when it is told to."""

    def __init__(self) -> None:
        now = time.time()
        self.live, self.health = Live(), Health()
        self.run = lr.open_run(self.live, RUN, now=now)
        self.hostile = lr.open_run(self.live, HOSTILE, now=now, labels={"note": HOSTILE})
        self.exporter = Exporter(self.live, self.health, PHASES)
        for run in (self.run, self.hostile):
            lr.machines_of(run, PHASES)
            lr.judge(run, "critical_period")
        for machine, (first, second, *_) in PHASES.items():
            if machine != c.CRITICAL_PERIOD[0]:
                lr.enter(self.run, lr.transition(machine, first, second), now)
        self.step = 0

    def render(self) -> bytes:
        """One more report of each run, then the page."""
        self.step += 100
        now = time.time()
        with self.live.lock:
            for run in (self.run, self.hostile):
                lr.report(run, self.step, _measured(self.step))
                lr.losses(run, lost=3, dropped=2)
                run.ranks[0].step, run.ranks[0].last_heard = self.step, now
                for name in {probe.name for probe in PROBES}:
                    lr.probe(run, name, self.step / 1000, ok=self.step // 100, not_converged=self.step // 200)
        self.health.reports.inc(2)
        self.health.commit_seconds.observe(0.002)
        return self.exporter.render()

    def end_critical_period(self) -> None:
        """The run leaves its critical period, and it stands."""
        machine, phase = c.CRITICAL_PERIOD
        made = lr.transition(machine, PHASES[machine][0], phase, happened_step=1234, known_step=5678, confidence=0.996)
        with self.live.lock:
            lr.enter(self.run, made, time.time())
            self.run.enter(replace(made, state="confirmed", known_step=6000), time.time())


@dataclass
class Stage:
    """Everything that runs during this module."""

    training: Training
    prometheus: Prometheus
    webhooks: Webhooks

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Its instant vector, asked again while empty: one scrape too late on a busy machine is a gap in all series."""
        return eventually(partial(self.prometheus.query, expression), seconds=10, what=expression)


def test_the_shipped_rules_pass_their_own_tests() -> None:
    checked = run_program("promtool", "check", "rules", RULES / "alerts.yml", RULES / "recording.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    passed = run_program("promtool", "test", "rules", *sorted(RULES.glob("alerts*_test.yml")))
    assert passed.returncode == 0, passed.stdout + passed.stderr


def test_every_rule_that_is_made_wrong_fails_the_shipped_tests(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        survivors = [
            mutant
            for mutant, failed in zip(MUTANTS, pool.map(partial(_fails, tmp_path), MUTANTS), strict=True)
            if not failed
        ]
    assert survivors == []


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("prometheus")
    shutil.copytree(RULES, folder / "rules")
    training, tokens = Training(), Tokens(folder / "keys")
    tokens.make()
    shown = (
        folder
        / yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))["scrape_configs"][0]["authorization"]["credentials_file"]
    )
    shown.parent.mkdir()
    shutil.copy(tokens.path("read"), shown)
    with (
        page(training.render, CONTENT_TYPE, tokens.text("read")) as target,
        webhook() as hooks,
        alertmanager(_shipped_alertmanager(hooks.url), folder) as alerts,
        prometheus(_shipped_prometheus(target, alerts), folder) as server,
    ):
        eventually(lambda: training.step >= 600, seconds=20, what="six scrapes")
        yield Stage(training, server, hooks)


def test_prometheus_takes_the_whole_page(stage: Stage) -> None:
    eventually(lambda: _is_up(stage.prometheus), seconds=10, what="a scrape without an error")
    metrics = {
        family.name
        for family in CATALOGUE
        if not family.name.startswith(("phasewatch_transition_", "phasewatch_phase_last"))
    }
    assert metrics <= stage.prometheus.names()
    (scraped,) = stage.query("scrape_samples_post_metric_relabeling > 0")
    assert float(scraped["value"][1]) == len(
        [line for line in stage.training.exporter.render().splitlines() if not line.startswith(b"#")]
    )


def test_a_hostile_run_name_reaches_prometheus_as_it_is(stage: Stage) -> None:
    runs = {found["metric"]["run"]: found["metric"] for found in stage.query("phasewatch_run_info")}
    assert set(runs) == {RUN, HOSTILE}
    assert runs[HOSTILE]["label_note"] == HOSTILE


def test_promtool_finds_nothing_to_say_about_the_page() -> None:
    training = Training()
    training.end_critical_period()
    checked = run_program("promtool", "check", "metrics", stdin=training.render())
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.mark.parametrize("seed", range(4))
def test_prometheus_own_parser_takes_any_name(seed: int) -> None:
    dice = random.Random(seed)
    live = Live()
    for i in range(40):
        name = "".join(
            chr(dice.choice([*range(0x20), *range(0x20, 0x7F), 0x85, 0xA0, 0x2028, 0xFEFF, 0x1F9E0]))
            for _ in range(dice.randint(1, 30))
        )
        run = lr.open_run(live, name, id=f"run{i}", now=time.time(), labels={"note": name})
        lr.report(run, 1, iter([(lr.LOSS, {"layer": name}, Estimate(1.0))]))
    checked = run_program("promtool", "check", "metrics", stdin=Exporter(live, Health(), PHASES).render())
    assert (checked.returncode, checked.stderr) == (0, "")


def test_a_critical_period_that_ended_reaches_a_person(stage: Stage) -> None:
    assert not stage.webhooks.alerts(alertname="CriticalPeriodEnded")
    stage.training.end_critical_period()
    (alert, *_) = eventually(
        lambda: stage.webhooks.alerts(alertname="CriticalPeriodEnded"), seconds=20, what="the webhook to be called"
    )
    assert alert["status"] == "firing"
    assert alert["labels"]["run"] == RUN
    assert alert["labels"]["severity"] == "info"
    assert alert["annotations"]["summary"] == f"The critical period of {RUN} has ended."
    for evidence in ("step 1234", "step 5678", "99.6% confidence"):
        assert evidence in alert["annotations"]["description"]
    assert alert["annotations"]["runbook_url"] == "docs/reference/alerts.md#criticalperiodended"


def test_lost_reports_reach_a_person_and_the_watchdog_does(stage: Stage) -> None:
    for name in ("ReportsLost", "Watchdog"):
        eventually(partial(stage.webhooks.alerts, alertname=name), seconds=20, what=name)
    (alert, *_) = stage.webhooks.alerts(alertname="ReportsLost", run=HOSTILE)
    assert alert["annotations"]["description"].startswith(f"3 reports of {HOSTILE} were lost")


def test_every_panel_of_the_board_has_data(stage: Stage) -> None:
    test_a_critical_period_that_ended_is_known(stage)
    panels = [inner for panel in BOARD["panels"] for inner in (panel, *panel.get("panels", ()))]
    for panel in panels:
        for target in panel.get("targets", ()):
            for expr in _filled(target["expr"]):
                _check_legend(target["legendFormat"], stage.query(expr), panel["title"])


def test_a_critical_period_that_ended_is_known(stage: Stage) -> None:
    machine, phase = c.CRITICAL_PERIOD
    if not stage.training.run.claims[machine, "confirmed"]:
        stage.training.end_critical_period()
    expr = f'phasewatch_phase{{run="{RUN}", machine="{machine}", phase="{phase}"}} == 1'
    stage.query(expr)


def test_every_variable_and_annotation_of_the_board_has_values(stage: Stage) -> None:
    test_a_critical_period_that_ended_is_known(stage)
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            ((selector, label),) = re.findall(r"^label_values\((.+), (\w+)\)$", variable["query"]["query"])
            (expr,) = _filled(selector)
            values = {found["metric"].get(label, "") for found in stage.query(expr)}
            if variable["regex"]:
                values = {kept[1] for value in values if (kept := re.match(variable["regex"].strip("/"), value))}
            assert values, variable["name"]
            if variable["name"] == "metric":
                assert values == {
                    name.removesuffix("_stderr") for name in stage.prometheus.names() if name.endswith("_stderr")
                } - {
                    name.removesuffix("_stderr") for name in stage.prometheus.names() if name.endswith("_paired_stderr")
                }
    for annotation in BOARD["annotations"]["list"]:
        (expr,) = _filled(annotation["expr"])
        times = [float(found["value"][1]) / 1000 for found in stage.query(expr)]
        assert all(abs(at - time.time()) < 600 for at in times)


def test_the_rows_of_a_heatmap_come_in_the_order_of_depth(stage: Stage) -> None:
    (panel, *_) = [panel for panel in BOARD["panels"] if panel["type"] == "heatmap"]
    (expr,) = _filled(panel["targets"][0]["expr"])
    layers = sorted(found["metric"]["layer"] for found in stage.query(expr))
    assert [layer.partition(".")[2] for layer in layers] == list(lr.LAYERS)


def test_every_rule_is_evaluated_without_an_error_on_metrics_that_exist(stage: Stage) -> None:
    groups = stage.prometheus.get("rules")["groups"]
    rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
    shipped: list[Alert | Recording] = [alert for group in ALERTS.values() for alert in group]
    shipped += [recording for group in RECORDINGS.values() for recording in group]
    assert set(rules) == {rule.name for rule in shipped}
    assert {name: rule.get("lastError", "") for name, rule in rules.items()} == dict.fromkeys(rules, "")
    known = stage.prometheus.names() | {family.name for family in CATALOGUE}
    for rule in shipped:
        stage.prometheus.query(rule.expr)
        used = set(re.findall(r"\b(?:run:)?phasewatch_\w+(?::\w+)?", rule.expr))
        assert used <= known, rule.name


def _is_up(prometheus: Prometheus) -> bool:
    (target,) = prometheus.get("targets")["activeTargets"]
    return (target["health"], target["lastError"]) == ("up", "")


def _measured(step: int) -> Iterator[tuple[Quantity, dict[str, str], Estimate]]:
    for place, quantity in enumerate(QUANTITIES):
        level = 0.5 + 0.1 * place
        outcome = Outcome.NOT_CONVERGED if place == 1 else Outcome.OK
        yield quantity, {}, Estimate(level + 1 / (1 + step), 0.01, 0.001, 256, outcome)
        for depth, layer in enumerate(lr.LAYERS):
            yield quantity, {"layer": layer}, Estimate(level + depth, 0.02, 0.002, 256)


def _filled(expr: str) -> list[str]:
    """The query as Grafana would send it, once for each quantity where it is repeated over them."""
    expr = expr.replace("$job", c.JOB).replace("$run", RUN).replace("$layer", ".+").replace("$__rate_interval", "5s")
    expr = expr.replace("${metric}", "$metric")
    if "$metric" not in expr:
        assert "$" not in expr, f"an unknown variable in {expr}"
        return [expr]
    return [expr.replace("$metric", name) for name in ("phasewatch_fisher_trace", "phasewatch_probe_loss")]


def _check_legend(legend: str, found: list[dict[str, Any]], title: str) -> None:
    """A label a legend names has to be there, or Grafana draws an empty name."""
    for label in re.findall(r"{{(\w+)}}", legend):
        assert any(label in series["metric"] for series in found), f"{title}: no {label}"


def _shipped_prometheus(target: str, alerts: str) -> str:
    """docker/prometheus.yml, with this machine's addresses and a hurry."""
    config = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "250ms"}
    config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [alerts]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    return str(yaml.safe_dump(config))


def _shipped_alertmanager(url: str) -> str:
    """docker/alertmanager.yml, with a receiver and a hurry."""
    config = yaml.safe_load((ROOT / "docker/alertmanager.yml").read_text(encoding="utf-8"))
    config["route"] |= {"group_wait": "100ms", "group_interval": "1s"}
    for receiver in config["receivers"]:
        receiver["webhook_configs"] = [{"url": url}]
    return str(yaml.safe_dump(config))


def _fails(folder: Path, mutant: tuple[str, str, str]) -> bool:
    """Whether the shipped tests notice a changed rule, and for what it does rather than for how it is written."""
    file, right, wrong = mutant
    own = folder / str(MUTANTS.index(mutant))
    shutil.copytree(RULES, own)
    text = (own / file).read_text(encoding="utf-8")
    assert right in text, mutant
    (own / file).write_text(text.replace(right, wrong), encoding="utf-8")
    _keep_tests_of(
        own, _alerts(own) ^ _alerts(RULES)
    )  # those of the changed alerts mostly do, in a twentieth of the time
    if _tested(own, mutant):
        return True
    shutil.copy(RULES / "alerts_test.yml", own)
    return _tested(own, mutant)


def _tested(rules: Path, mutant: tuple[str, str, str]) -> bool:
    tested = run_program("promtool", "test", "rules", rules / "alerts_test.yml")
    assert tested.returncode == 0 or "exp:" in tested.stdout + tested.stderr, f"{mutant} is not a rule at all"
    return tested.returncode != 0


def _alerts(rules: Path) -> set[tuple[str, str]]:
    """Each alert by its name and all that it says, and what the recorded series say that it is about."""
    recorded, alerts = (
        [
            rule
            for group in yaml.safe_load((rules / name).read_text(encoding="utf-8"))["groups"]
            for rule in group["rules"]
        ]
        for name in ("recording.yml", "alerts.yml")
    )
    about = {rule["alert"]: [each for each in recorded if each["record"] in rule["expr"]] for rule in alerts}
    return {(rule["alert"], repr((rule, about[rule["alert"]]))) for rule in alerts}


def _keep_tests_of(rules: Path, alerts: set[tuple[str, str]]) -> None:
    """Leave out the tests of other alerts, unless none are left."""
    path, names = rules / "alerts_test.yml", {name for name, _ in alerts}
    whole = yaml.safe_load(path.read_text(encoding="utf-8"))
    tests = [test for test in whole["tests"] if names & {each["alertname"] for each in test.get("alert_rule_test", [])}]
    if tests:
        path.write_text(yaml.safe_dump(whole | {"tests": tests}, sort_keys=False), encoding="utf-8")
