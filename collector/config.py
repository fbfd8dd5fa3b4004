"""Config: every setting of the collector, where it may come from and where it did.

A flag wins over an environment variable (``PHASEWATCH_WEB_PORT``), that over the file
(``phasewatch.toml``), that over the default. A key nobody knows is an error, not a silence.
"""

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from collector.errors import ConfigError

DEFAULT_FILE = Path("phasewatch.toml")
_TCP = re.compile(r"^tcp://(?P<host>\[[0-9a-fA-F:.]+\]|[^:/\[\]\s]+):(?P<port>\d{1,5}|\*)$")

Port = Annotated[int, Meta(ge=0, le=65535)]


class Inlet(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where agents send to."""

    address: str = "tcp://127.0.0.1:5757"
    """ZeroMQ address to listen on, ``tcp://HOST:PORT`` or ``ipc://PATH``; the port ``*`` takes a free one."""


class Web(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The page, the API and ``/metrics``."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Port = 8757
    """Port to listen on; 0 takes a free one."""
    allowed_hosts: list[str] = []
    """Names the page may be asked under besides the address itself and localhost."""
    tls_cert: str = ""
    """Certificate chain for HTTPS, a PEM file; with it goes ``tls_key``."""
    tls_key: str = ""
    """Private key of the certificate, a PEM file."""
    behind_proxy: bool = False
    """A proxy before the page speaks HTTPS to the world; only it may reach ``web.port``."""


class StoreFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The record of everything."""

    path: str = "phasewatch.db"
    """The SQLite file; made when it does not exist."""
    keep_days: Annotated[float, Meta(ge=0)] = 0.0
    """Days after which a run that is over is thinned to what its charts need; 0 keeps every report for ever."""
    max_bytes: Annotated[int, Meta(ge=0)] = 0
    """Bytes beyond which the oldest runs that are over are thinned, and then dropped; 0 for no limit."""


class Phases(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What judges the runs."""

    machines: list[str] = []
    """Files of phase machines of your own, TOML, beside the shipped ones or in place of those of the same name; in the file, relative to it."""
    alpha: Annotated[float, Meta(gt=0, le=0.5)] = 0.01
    """Probability that a run makes any false claim, over all its machines, layers and turns."""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much a job may ask of the collector; what is refused waits at its agent."""

    runs: Annotated[int, Meta(ge=10)] = 2000
    """Runs in memory at once. A finished or silent one makes room for another; while all of them report, no other is taken in."""
    run_series: Annotated[int, Meta(ge=100)] = 50_000
    """Series of one run, over all its ranks, at about 3.5 kB of memory each. A report that would bring more is refused, and given up by its agent."""
    series: Annotated[int, Meta(ge=1000)] = 1_000_000
    """Series of all runs in memory together. Finished and silent runs make room; while those that report have as many, no more are taken in."""
    reports_per_second: Annotated[float, Meta(gt=0)] = 10_000
    """Of one key, on average; for five seconds at once."""


class Metrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What Prometheus may see."""

    series_limit: Annotated[int, Meta(ge=100)] = 50_000
    """Series on /metrics at the most; what is left out is counted."""
    run_series_limit: Annotated[int, Meta(ge=100)] = 10_000
    """Series of one run at the most."""
    finished_grace_seconds: Annotated[float, Meta(ge=0)] = 600.0
    """How long a finished run stays on /metrics."""


class Security(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who is let in."""

    keys: str = "phasewatch-keys"
    """Folder of the agents' keys and the page's tokens; made when the first is."""


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the collector says about itself."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least level that is printed."""


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All settings."""

    inlet: Inlet = Inlet()
    web: Web = Web()
    store: StoreFile = StoreFile()
    phases: Phases = Phases()
    limits: Limits = Limits()
    metrics: Metrics = Metrics()
    security: Security = Security()
    log: Log = Log()


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as it came out: ``web.port``, its value, and where that came from."""

    name: str
    value: object
    source: str
    help: str


def load(
    file: Path | None = None, flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
) -> tuple[Config, list[Setting]]:
    """The settings in force and the source of each.

    Args:
        file: the configuration file; None takes ``phasewatch.toml`` of the working directory where there is one.
        flags: settings given on the command line by name, such as ``{"web.port": 8000}``; None values are not given.
        environment: default ``os.environ``.

    Raises:
        ConfigError: a key is unknown, a value has the wrong type or range; names it and its source.
    """
    environment = os.environ if environment is None else environment
    path = file or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    tree: dict[str, dict[str, Any]] = {}
    sources: dict[str, str] = {}
    if path is not None:
        tree = _placed(_read(path), path.parent)
        sources = {f"{section}.{key}": str(path) for section, table in tree.items() for key in table}
    for name in names():
        variable = f"PHASEWATCH_{name.upper().replace('.', '_')}"
        if variable in environment:
            _put(tree, name, _parse(environment[variable], name))
            sources[name] = variable
    _check_environment(environment)
    for name, value in (flags or {}).items():
        if value is not None:
            _put(tree, name, value)
            sources[name] = f"--{name.replace('.', '-')}"
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(_explain(str(error), sources, path)) from error
    _check_addresses(config, sources)
    return config, [Setting(name, _get(config, name), sources.get(name, "default"), help_of(name)) for name in names()]


def names() -> list[str]:
    """Every setting's name, in the order of the sections."""
    return [
        f"{section.name}.{key.name}"
        for section in msgspec.structs.fields(Config)
        for key in msgspec.structs.fields(section.type)
    ]


def help_of(name: str) -> str:
    """The sentence under a field, which is its documentation."""
    section, key = name.split(".")
    kind = next(field.type for field in msgspec.structs.fields(Config) if field.name == section)
    source = Path(__file__).read_text(encoding="utf-8")
    body = source.split(f"class {kind.__name__}(", 1)[1].split("\nclass ", 1)[0]
    match = re.search(rf"^    {key}:.*?\n    \"\"\"(.*?)\"\"\"", body, re.MULTILINE | re.DOTALL)
    return match.group(1) if match else ""


def tcp_host_port(address: str) -> tuple[str, int] | None:
    """Host and port of a ``tcp://`` address (0 where ``*`` asks for a free one), or None for another transport."""
    match = _TCP.match(address)
    return (match["host"].strip("[]"), 0 if match["port"] == "*" else int(match["port"])) if match else None


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Got the configuration file {path}, which cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"Got the configuration file {path}, which is not TOML: {error}.") from error
    for section, table in tree.items():
        if not isinstance(table, dict):
            raise ConfigError(
                f"Got the key {section!r} at the top of {path}; need sections such as [web]. See `probe-collector check`."
            )
    return tree


def _placed(tree: dict[str, dict[str, Any]], folder: Path) -> dict[str, dict[str, Any]]:
    """The file's settings with what is relative to it as paths from here; what is no path is left for validation."""
    phases = tree.get("phases", {})
    if isinstance(own := phases.get("machines"), list):
        phases["machines"] = [str(folder / file) if isinstance(file, str) else file for file in own]
    return tree


def _put(tree: dict[str, dict[str, Any]], name: str, value: object) -> None:
    section, key = name.split(".")
    tree.setdefault(section, {})[key] = value


def _get(config: Config, name: str) -> object:
    section, key = name.split(".")
    return getattr(getattr(config, section), key)


def _parse(text: str, name: str) -> object:
    """An environment variable's text as the type its setting wants; what does not fit is left for validation."""
    wanted = type(_get(Config(), name))
    if wanted is bool:
        return {
            "1": True,
            "true": True,
            "yes": True,
            "on": True,
            "0": False,
            "false": False,
            "no": False,
            "off": False,
        }.get(text.lower(), text)
    if wanted is list:
        return [part.strip() for part in text.split(",") if part.strip()]
    if wanted in (int, float):
        try:
            return wanted(text)
        except ValueError:
            return text
    return text


def _check_environment(environment: Mapping[str, str]) -> None:
    known = {f"PHASEWATCH_{name.upper().replace('.', '_')}" for name in names()}
    sections = tuple(f"PHASEWATCH_{field.name.upper()}_" for field in msgspec.structs.fields(Config))
    for variable in environment:
        if variable.startswith(sections) and variable not in known:
            raise ConfigError(
                f"Got the environment variable {variable}, which sets nothing. Known are: {', '.join(sorted(known))}."
            )


def _explain(text: str, sources: Mapping[str, str], path: Path | None) -> str:
    match = re.search(r"`\$\.(\w+)(?:\.(\w+))?", text)
    name = ".".join(part for part in match.groups() if part) if match else ""
    unknown = re.search(r"unknown field `(\w+)`", text)
    if unknown:
        name = f"{name}.{unknown[1]}" if name else unknown[1]
        return f"Got the unknown setting {name!r} in {sources.get(name, path)}; known are: {', '.join(names())}."
    return f"Got a value for {name!r} from {sources.get(name, 'default')} that does not fit: {text}."


def _check_addresses(config: Config, sources: Mapping[str, str]) -> None:
    if config.inlet.address.startswith("ipc://@"):
        raise ConfigError(
            f"Got inlet.address = {config.inlet.address!r} from {sources.get('inlet.address', 'default')}, an abstract socket, which every "
            "user of this machine may connect to whatever keys there are not; need ipc://PATH, which belongs to this user alone."
        )
    if not config.inlet.address.startswith("ipc://"):
        found = tcp_host_port(config.inlet.address)
        if found is None or found[1] > 65535:
            raise ConfigError(
                f"Got inlet.address = {config.inlet.address!r} from {sources.get('inlet.address', 'default')}; "
                "need tcp://HOST:PORT or ipc://PATH."
            )
    web = config.web
    if bool(web.tls_cert) != bool(web.tls_key):
        got, lacks = ("tls_cert", "tls_key") if web.tls_cert else ("tls_key", "tls_cert")
        raise ConfigError(f"Got web.{got} from {sources[f'web.{got}']} without web.{lacks}; need both, as PEM files.")
    if not (is_local(web.host) or web.tls_cert or web.behind_proxy):
        raise ConfigError(
            f"Got web.host = {web.host!r} from {sources.get('web.host', 'default')}, which others can reach, and no HTTPS: a token "
            "would travel in the clear. Set web.tls_cert and web.tls_key; or web.behind_proxy = true, where a proxy speaks "
            "HTTPS and nobody else reaches this port; or listen on 127.0.0.1 and forward a port."
        )


def inlet_is_local(config: Config) -> bool:
    """Only this machine can reach the inlet."""
    found = tcp_host_port(config.inlet.address)
    return found is None or is_local(found[0])


def is_local(host: str) -> bool:
    """Only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
