"""One configuration, four sources, and an answer to where each value came from."""

from pathlib import Path

import msgspec
import pytest

from collector.config import Config, help_of, inlet_is_local, load, names, tcp_host_port
from collector.errors import ConfigError


def sources(settings: list) -> dict[str, str]:
    return {s.name: s.source for s in settings}


def test_without_anything_every_value_is_a_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config, settings = load(environment={})
    assert config == Config()
    assert set(sources(settings).values()) == {"default"}


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(tmp_path: Path) -> None:
    file = tmp_path / "phasewatch.toml"
    file.write_text('[web]\nport = 1000\nhost = "localhost"\n[store]\npath = "file.db"\n')
    config, settings = load(
        file, {"web.port": 3000}, {"PHASEWATCH_WEB_PORT": "2000", "PHASEWATCH_STORE_PATH": "env.db"}
    )
    assert (config.web.port, config.web.host, config.store.path) == (3000, "localhost", "env.db")
    found = sources(settings)
    assert found["web.port"] == "--web-port"
    assert found["store.path"] == "PHASEWATCH_STORE_PATH"
    assert found["web.host"] == str(file)
    assert found["inlet.address"] == "default"


def test_the_file_of_the_working_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("phasewatch.toml").write_text("[web]\nport = 1234\n")
    assert load(environment={})[0].web.port == 1234


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[web]\nprot = 1\n", r"unknown setting 'web.prot' in .*phasewatch.toml; known are: inlet.address, web.host"),
        ("[wbe]\nport = 1\n", "unknown setting 'wbe'"),
        (
            "[web]\nport = 'x'\n",
            "value for 'web.port' from .*phasewatch.toml that does not fit: Expected `int`, got `str`",
        ),
        ("[web]\nport = 70000\n", "Expected `int` <= 65535"),
        ("port = 1\n", r"key 'port' at the top of .*; need sections such as \[web\]"),
        ("[web\n", "which is not TOML"),
        ("[inlet]\naddress = 'udp://x:1'\n", "need tcp://HOST:PORT or ipc://PATH"),
        ("[inlet]\naddress = 'tcp://127.0.0.1:99999'\n", "need tcp://HOST:PORT"),
        (
            "[web]\nhost = '0.0.0.0'\n",
            r"web.host = '0.0.0.0' from .*, which others can reach, and no HTTPS: .* web.tls_cert and web.tls_key",
        ),
        ("[web]\ntls_cert = 'c.pem'\n", r"Got web.tls_cert from .* without web.tls_key; need both"),
        ("[web]\ntls_key = 'k.pem'\n", r"Got web.tls_key from .* without web.tls_cert; need both"),
        ("[log]\nlevel = 'loud'\n", "Invalid enum value 'loud'"),
    ],
)
def test_a_wrong_file_is_refused_with_the_key_and_the_place(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "phasewatch.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load(file, environment={})


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "absent.toml", environment={})


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"PHASEWATCH_WEB_PROT": "1"}, "PHASEWATCH_WEB_PROT, which sets nothing"),
        (
            {"PHASEWATCH_WEB_PORT": "http"},
            "'web.port' from PHASEWATCH_WEB_PORT that does not fit: Expected `int`, got `str`",
        ),
        ({"PHASEWATCH_WEB_BEHIND_PROXY": "maybe"}, "Expected `bool`, got `str`"),
    ],
)
def test_a_wrong_environment_is_refused_by_name(environment: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(environment=environment)


def test_the_agents_own_variables_are_not_the_collectors_business() -> None:
    load(environment={"PHASEWATCH_COLLECTOR": "tcp://x:1", "PHASEWATCH_DISABLE": "1", "PHASEWATCH_KEY": "k"})


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("tcp://127.0.0.1:1", True),
        ("tcp://127.8.9.1:1", True),
        ("tcp://[::1]:1", True),
        ("tcp://localhost:1", True),
        ("ipc:///run/phasewatch/inlet.sock", True),
        ("tcp://*:1", False),
        ("tcp://0.0.0.0:1", False),
        ("tcp://[::]:1", False),
        ("tcp://eth0:1", False),
        ("tcp://localhost.evil.example:1", False),
    ],
)
def test_only_an_address_of_this_machine_counts_as_local(address: str, *, local: bool) -> None:
    assert inlet_is_local(load(flags={"inlet.address": address}, environment={})[0]) is local


def test_behind_a_proxy_the_page_may_listen_beyond_this_machine() -> None:
    environment = {
        "PHASEWATCH_WEB_HOST": "0.0.0.0",  # noqa: S104
        "PHASEWATCH_WEB_BEHIND_PROXY": "true",
        "PHASEWATCH_WEB_ALLOWED_HOSTS": "a, b",
    }
    config = load(environment=environment)[0]
    assert config.web.host == "0.0.0.0"  # noqa: S104
    assert config.web.allowed_hosts == ["a", "b"]


def test_every_setting_has_a_sentence_of_help() -> None:
    assert all(help_of(name).endswith(".") for name in names())
    assert len(names()) == sum(len(msgspec.structs.fields(f.type)) for f in msgspec.structs.fields(Config))


def test_addresses_are_taken_apart() -> None:
    assert tcp_host_port("tcp://127.0.0.1:5757") == ("127.0.0.1", 5757)
    assert tcp_host_port("tcp://[::1]:5757") == ("::1", 5757)
    assert tcp_host_port("ipc:///tmp/x") is None
