"""The container files, checked without an engine: what they name exists, and what they say is what each program reads."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from collector.config import load
from dashboards import config as c
from tests.integration.servers import run_program

ROOT = Path(__file__).resolve().parents[3]
MAIN = "from collector.cli import main; main()"
DOCKER = ROOT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LASTING = [name for name, service in SERVICES.items() if service["restart"] != "no"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
DOCKERFILE = (DOCKER / "collector.Dockerfile").read_text(encoding="utf-8")

# The keys Grafana itself reads from provisioning files (pkg/services/provisioning); it ignores others in silence.
DATASOURCE_KEYS = {
    *("name", "type", "access", "orgId", "uid", "url", "user", "database", "basicAuth", "basicAuthUser"),
    *("withCredentials", "isDefault", "correlations", "jsonData", "secureJsonData", "editable", "version"),
}
PROVIDER_KEYS = {
    *("name", "orgId", "type", "folder", "folderUid", "disableDeletion", "editable", "allowUiUpdates"),
    *("updateIntervalSeconds", "options"),
}


def read(path: str) -> Any:
    return yaml.safe_load((DOCKER / path).read_text(encoding="utf-8"))


def mounts(service: str) -> list[tuple[str, str, str]]:
    """``(what, where, how)`` of each volume."""
    return [(*volume.split(":"), "")[:3] for volume in SERVICES[service]["volumes"]]


def inside(service: str, path: str) -> Path | None:
    """The file of this repository that a container finds at a path."""
    for what, where, _ in mounts(service):
        if what.startswith(".") and path.startswith(where):
            return (DOCKER / what / path.removeprefix(where).lstrip("/")).resolve()
    return None


def image_environment() -> dict[str, str]:
    block = re.search(r"^ENV ((?:.*\\\n)*.*)", DOCKERFILE, re.MULTILINE)
    assert block
    return dict(pair.split("=", 1) for pair in block[1].replace("\\\n", " ").split())


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_can_write_gain_or_hold_what_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    assert service["restart"] in {"unless-stopped", "no"}


@pytest.mark.parametrize("name", LASTING)
def test_every_port_is_published_on_loopback_only(name: str) -> None:
    assert SERVICES[name]["ports"]
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in SERVICES[name]["ports"])


@pytest.mark.parametrize("name", SERVICES)
def test_every_mount_exists_and_what_is_ours_is_read_only(name: str) -> None:
    for what, where, how in mounts(name):
        assert where.startswith("/")
        if what.startswith("."):
            assert (DOCKER / what).exists(), what
            assert how == "ro", what
        else:
            assert what in COMPOSE["volumes"], what


@pytest.mark.parametrize("name", [name for name in SERVICES if name not in OURS])
def test_every_image_is_pinned_to_a_release(name: str) -> None:
    assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


def test_the_collectors_environment_is_one_its_configuration_takes() -> None:
    environment = image_environment() | SERVICES["collector"]["environment"]
    settings, _ = load(environment=environment)
    assert settings.inlet.address == "tcp://0.0.0.0:5757"
    assert (settings.web.host, settings.web.port) == ("0.0.0.0", 8757)  # noqa: S104  inside its own network
    assert settings.store.path.startswith("/data/")
    assert settings.security.keys.startswith("/data/")
    assert settings.web.allowed_hosts == ["collector"]


def test_published_ports_are_those_the_collector_listens_on() -> None:
    settings, _ = load(environment=image_environment() | SERVICES["collector"]["environment"])
    inner = {port.rsplit(":", 1)[1] for port in SERVICES["collector"]["ports"]}
    assert inner == {str(settings.web.port), settings.inlet.address.rsplit(":", 1)[1]}
    exposed = re.search(r"^EXPOSE (.+)$", DOCKERFILE, re.MULTILINE)
    assert exposed
    assert set(exposed[1].split()) == inner


def test_the_image_runs_as_nobody_owns_its_volume_and_says_when_it_is_well() -> None:
    assert re.search(r"^USER 65532:65532$", DOCKERFILE, re.MULTILINE)
    assert re.search(r"^VOLUME /data$", DOCKERFILE, re.MULTILINE)
    assert "--owner=65532" in DOCKERFILE
    assert "://127.0.0.1:8757/readyz" in DOCKERFILE
    assert "/readyz" in (ROOT / "collector/web/app.py").read_text(encoding="utf-8")
    assert ("collector-data", "/data", "") in mounts("collector")
    assert DOCKERFILE.index("USER 65532") < DOCKERFILE.index("ENTRYPOINT")


def test_the_image_is_built_from_what_is_here_and_holds_no_torch() -> None:
    ignored = (DOCKER / "collector.Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert f"!{source.rstrip('/')}" in ignored, source
    instructions = "\n".join(line for line in DOCKERFILE.splitlines() if not line.startswith("#"))
    assert "torch" not in instructions
    assert "[agent" not in instructions
    assert (DOCKER / SERVICES["collector"]["build"]["context"]).resolve() == ROOT
    assert (ROOT / SERVICES["collector"]["build"]["dockerfile"]).exists()


def test_prometheus_finds_its_rules_where_compose_puts_them(tmp_path: Path) -> None:
    assert inside("prometheus", "/etc/prometheus/prometheus.yml") == DOCKER / "prometheus.yml"
    for rule in read("prometheus.yml")["rule_files"]:
        found = inside("prometheus", f"/etc/prometheus/{rule}")
        assert found
        assert found.exists()
        (tmp_path / rule).parent.mkdir(exist_ok=True)
        shutil.copy(found, tmp_path / rule)
    shutil.copy(DOCKER / "prometheus.yml", tmp_path)
    (job,) = read("prometheus.yml")["scrape_configs"]
    token = tmp_path / job["authorization"]["credentials_file"]
    assert mounts("prometheus").count(("scrape-token", f"/etc/prometheus/{token.parent.name}", "ro")) == 1
    token.parent.mkdir()
    token.touch()
    checked = run_program("promtool", "check", "config", tmp_path / "prometheus.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_prometheus_asks_the_collector_under_a_name_it_answers_to() -> None:
    (job,) = read("prometheus.yml")["scrape_configs"]
    assert job["job_name"] == c.JOB
    (target,) = job["static_configs"][0]["targets"]
    host, _, port = target.partition(":")
    assert host in SERVICES
    assert host in SERVICES["collector"]["environment"]["PHASEWATCH_WEB_ALLOWED_HOSTS"].split(",")
    assert port == image_environment()["PHASEWATCH_WEB_PORT"]


def test_the_servers_limits_stand_above_the_collectors_own() -> None:
    settings, _ = load(environment={})
    (job,) = read("prometheus.yml")["scrape_configs"]
    assert job["sample_limit"] > settings.metrics.series_limit
    assert job["label_value_length_limit"] >= 4 * 200 + len("000.")  # a name has 200 characters, of up to 4 bytes


def test_prometheus_waits_for_the_token_that_it_shows(tmp_path: Path) -> None:
    giver = SERVICES["scrape-token"]
    assert SERVICES["prometheus"]["depends_on"]["scrape-token"] == {"condition": "service_completed_successfully"}
    assert ("scrape-token", "/scrape", "") in mounts("scrape-token")
    assert ("collector-data", "/data", "") in mounts("scrape-token"), "the collector's own folder of keys"
    assert giver["build"] == SERVICES["collector"]["build"]
    assert "--owner=65532 --group=65532 --mode=0755 /scrape" in DOCKERFILE
    *shell, script = giver["entrypoint"]
    script = script.replace("/scrape/", f"{tmp_path}/").replace("probe-collector", f"{sys.executable} -c '{MAIN}'")
    environment = {**os.environ, "PHASEWATCH_SECURITY_KEYS": str(tmp_path / "keys"), "PYTHONPATH": str(ROOT)}
    subprocess.run([*shell, script], check=True, timeout=60, env=environment, cwd=tmp_path)
    assert (tmp_path / "token").read_text() == (tmp_path / "keys" / "read.token").read_text()


def test_alertmanager_takes_its_configuration() -> None:
    assert inside("alertmanager", "/etc/alertmanager/alertmanager.yml") == DOCKER / "alertmanager.yml"
    checked = run_program("amtool", "check-config", DOCKER / "alertmanager.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    (alerting,) = read("prometheus.yml")["alerting"]["alertmanagers"]
    assert alerting["static_configs"][0]["targets"] == ["alertmanager:9093"]


@pytest.mark.parametrize(
    ("labels", "receiver"), [("alertname=Watchdog", "watchdog"), ("alertname=RunSilent run=a", "nobody")]
)
def test_an_alert_goes_where_the_routes_say(labels: str, receiver: str) -> None:
    config = f"--config.file={DOCKER / 'alertmanager.yml'}"
    routed = run_program(
        "amtool", "config", "routes", "test", config, f"--verify.receivers={receiver}", *labels.split()
    )
    assert routed.returncode == 0, routed.stdout + routed.stderr


def test_no_alert_hides_an_event_or_an_alert_of_another_run() -> None:
    for rule in read("alertmanager.yml")["inhibit_rules"]:
        targets = " ".join(rule["target_matchers"])
        assert 'severity="warning"' in targets
        assert ("run" in rule["equal"]) == ('run=~".+"' in targets)


def test_grafana_reads_every_key_of_its_provisioning() -> None:
    folder = inside("grafana", "/etc/grafana/provisioning")
    assert folder
    assert {path.name for path in folder.iterdir()} == {"datasources", "dashboards"}
    sources = read("grafana/provisioning/datasources/prometheus.yml")
    assert set(sources) <= {"apiVersion", "prune", "deleteDatasources", "datasources"}
    (source,) = sources["datasources"]
    assert set(source) <= DATASOURCE_KEYS
    assert source["url"].removeprefix("http://").partition(":")[0] in SERVICES
    assert source["jsonData"]["timeInterval"] == read("prometheus.yml")["global"]["scrape_interval"]
    providers = read("grafana/provisioning/dashboards/phasewatch.yml")
    assert set(providers) == {"apiVersion", "providers"}
    (provider,) = providers["providers"]
    assert set(provider) <= PROVIDER_KEYS


def test_grafana_finds_our_boards_and_opens_on_one() -> None:
    (provider,) = read("grafana/provisioning/dashboards/phasewatch.yml")["providers"]
    assert inside("grafana", provider["options"]["path"]) == ROOT / "dashboards/out"
    home = inside("grafana", SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home
    assert home.exists()


def test_a_dollar_in_a_provisioning_file_would_be_expanded_so_there_is_none() -> None:
    for path in (DOCKER / "grafana").rglob("*.yml"):
        assert "$" not in path.read_text(encoding="utf-8"), path
