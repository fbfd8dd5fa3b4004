"""How much one collector takes: many agents, each with a connection of its own, against a real one in a process of its own.

    python benchmarks/load.py [--clients 1000 5000] [--rate 10000] [--seconds 15] [--out FOLDER]

For each number of clients, with CURVE, reports of 20 points at a total rate from processes that speak the protocol (window,
acknowledgement, go back and greet again), 50 ranks to a run:

- *joining*: until each client is greeted, the first time;
- *load*: whether the rate was held and what was not acknowledged one second after the last report; the collector's processor time, from
  /proc, as a share of one core and a report; its memory, and what a connected client takes of it;
- *pulse*: while the load goes on, how old a report is when it is on /metrics and when the page's feed tells of it;
- *storm*: the collector is killed by SIGKILL and started again, each client has one more report; until all is acknowledged;
- *bare*: before and after, the same load on the least that can be called a collector (benchmarks/against/bare_collector.py): what this
  machine and ZeroMQ take of any;
- *record*: from the store, whether each step of each rank is there, once.

The last round has four of the 20 points judged by phase machines. Prints, and writes load.json and load.md.
"""

import argparse
import json
import math
import platform
import signal
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import zmq
from against.bare_collector import BareCollector
from crowd import Crowd
from estimators import machine
from own_collector import Collector
from pulse import Pulse, cuts
from rich.console import Console

RESULTS = Path(__file__).parent / "results"
GENERATORS = 2
"""Processes, each with a key of its own: what one key may send is limited."""
HELD = 0.99
SCRAPE_SECONDS = 1.0
PATIENCE = 120.0


def under_load(clients: int, rate: float, seconds: float, judged: int, folder: Path) -> dict[str, Any]:
    """One round; see the module."""
    bare = [_bare(clients, rate, seconds, folder / "before")]
    with Collector(folder, keys=GENERATORS + 1) as collector:
        alone = collector.memory
        with ExitStack() as stack:
            pulse = stack.enter_context(Pulse(collector))
            time.sleep(0.5)
            crowd = stack.enter_context(
                Crowd("load", clients, collector.inlet, collector.keys[:GENERATORS], judged=judged)
            )
            joined = crowd.until(PATIENCE, greeted=True)
            connected = collector.memory
            found = {"clients": clients, "judged": judged, "joined_seconds": joined}
            found["kilobytes_a_client"] = (connected - alone) * 1024 / clients
            found |= _load(collector, crowd, rate, seconds)
            found |= _pulse(pulse, crowd, rate, seconds)
            found |= {"megabytes_alone": alone, "megabytes_connected": connected, "megabytes": collector.memory}
            found |= _storm(collector, crowd)
            made = crowd.made()
        found |= _record(collector, made)
    bare.append(_bare(clients, rate, seconds, folder / "after"))
    return found | {"microseconds_a_report_of_a_bare_one": [one["microseconds_a_report"] for one in bare]}


def _bare(clients: int, rate: float, seconds: float, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    with (
        BareCollector(folder) as collector,
        Crowd("load", clients, collector.inlet, [collector.key] * GENERATORS) as crowd,
    ):
        crowd.until(PATIENCE, greeted=True)
        return _load(collector, crowd, rate, seconds)


def _load(collector: Collector | BareCollector, crowd: Crowd, rate: float, seconds: float) -> dict[str, Any]:
    spent, began = collector.processor_seconds, time.monotonic()
    crowd.report(rate)
    time.sleep(seconds)
    late = crowd.told().late
    crowd.report(0)
    ran = time.monotonic() - began
    time.sleep(1.0)
    told = crowd.told()
    drained = crowd.until(PATIENCE)
    spent = collector.processor_seconds - spent
    backlog = told.made - told.acknowledged
    return {
        "rate": told.made / ran,
        "generator_late_seconds": late,
        "backlog": backlog,
        "held": told.made >= HELD * rate * ran and backlog <= (1 - HELD) * 2 * told.made,
        "drained_seconds": 1.0 + drained,
        "cores": spent / ran,
        "microseconds_a_report": spent / told.made * 1e6,
    }


def _pulse(pulse: Pulse, crowd: Crowd, rate: float, seconds: float) -> dict[str, Any]:
    crowd.report(rate)
    until = time.monotonic() + seconds
    time.sleep(1.0)
    pulse.forget()
    while time.monotonic() < until:
        pulse.scrape()
        time.sleep(SCRAPE_SECONDS)
    crowd.report(0)
    crowd.until(PATIENCE)
    return {
        "milliseconds_to_metrics": cuts(pulse.metrics),
        "milliseconds_of_a_scrape": cuts(pulse.scrapes),
        "lines_of_a_scrape": pulse.lines,
        "milliseconds_to_page": cuts(pulse.feed),
        "milliseconds_of_newest_on_page": cuts(pulse.ticks),
    }


def _storm(collector: Collector, crowd: Crowd) -> dict[str, Any]:
    collector.end(signal.SIGKILL)
    began = time.monotonic()
    collector.start()
    started = time.monotonic() - began
    crowd.each_reports()
    back = crowd.until(PATIENCE)
    return {
        "storm_ready_seconds": started,
        "storm_back_seconds": started + back,
        "storm_processor_seconds": collector.processor_seconds,
    }


def _record(collector: Collector, made: dict[tuple[str, int], int]) -> dict[str, Any]:
    missing = doubled = 0
    for run in {run for run, _ in made}:
        kept = collector.kept(run)
        asked = {(rank, step) for (of, rank), count in made.items() if of == run for step in range(1, count + 1)}
        missing += len(asked - kept.keys())
        doubled += kept.total() - len(kept) + len(kept.keys() - asked)
    return {
        "reports": sum(made.values()),
        "missing": missing,
        "doubled": doubled,
        "store_bytes_a_point": collector.store.stat().st_size / sum(made.values()) / 20,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="How much one collector takes.")
    parser.add_argument("--clients", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("--rate", type=float, default=10_000, help="reports a second over all clients")
    parser.add_argument("--judged-rate", type=float, default=1000, help="the same where phase machines judge")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    given = parser.parse_args()
    asked = [(clients, given.rate, 0) for clients in given.clients]
    asked.append((given.clients[0], given.judged_rate, 4))
    rounds = []
    for clients, rate, judged in asked:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # a disk, which /tmp may not be
            found = under_load(clients, rate, given.seconds, judged, Path(folder))
            rounds.append({"asked": rate} | found)
            Console().print(rounds[-1])
    where = {name: value for name, value in machine().items() if name not in ("versions", "threads")}
    versions = {"pyzmq": zmq.__version__, "libzmq": zmq.zmq_version(), "msgspec": msgspec.__version__}
    results = {"machine": where | versions | {"kernel": platform.release()}, "seconds": given.seconds, "rounds": rounds}
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "load.json").write_text(json.dumps(_finite(results), indent=1) + "\n")
    text = page(results)
    (given.out / "load.md").write_text(text)
    print(text)


def page(results: dict[str, Any]) -> str:
    """The results for people."""
    where = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    how = f"{results['seconds']:g} s a phase, CURVE, reports of 20 points, 50 ranks to a run, clients on the collector's cores, niced"
    lines = [
        "# How much one collector takes",
        "",
        f"`benchmarks/load.py`, {how}; {where}.",
        "",
        "| | " + " | ".join(f"{one['clients']:,} clients" for one in results["rounds"]) + " |",
        "|---|" + "---:|" * len(results["rounds"]),
    ]
    for title, value in _ROWS.items():
        lines.append(f"| {title} | " + " | ".join(value(one) for one in results["rounds"]) + " |")
    lines += [
        "",
        "*A bare one* decodes each message, puts its bytes into one table, commits every 50 ms and acknowledges, by the same socket with CURVE:",
        "what this machine takes of any collector. It keeps no series, shows nothing and judges nothing.",
        "*To the page* counts the time for which the feed lets news gather, 0.1 s where few pages are open.",
        "*Storm* is from SIGKILL until one more report of every client is acknowledged; *ready* is until the collector answers again,",
        "which is when it has read its runs back from the store.",
    ]
    return "\n".join(lines) + "\n"


def _ages(name: str) -> Any:
    def cell(one: dict[str, Any]) -> str:
        found = one[name]
        return f"{found['p50']:.0f} / {found['p99']:.0f} / {found['max']:.0f}" if found else "–"

    return cell


_ROWS: dict[str, Any] = {
    "points that phase machines judge": lambda one: f"{one['judged']} of 20",
    "joined, all of them, s": lambda one: f"{one['joined_seconds']:.1f}",
    "memory a connected client, KB": lambda one: f"{one['kilobytes_a_client']:.0f}",
    "reports a second asked for": lambda one: f"{one['asked']:,.0f}",
    "reports a second made": lambda one: f"{one['rate']:,.0f}",
    "not acknowledged 1 s after the last": lambda one: f"{one['backlog']:,}",
    "held": lambda one: "yes" if one["held"] else "**no**",
    "collector, cores": lambda one: f"{one['cores']:.2f}",
    "collector, CPU a report, µs": lambda one: f"{one['microseconds_a_report']:.0f}",
    "a bare one beside it, CPU a report, µs: before / after": lambda one: " / ".join(
        f"{each:.0f}" for each in one["microseconds_a_report_of_a_bare_one"]
    ),
    "collector, memory at the end, MB": lambda one: f"{one['megabytes']:.0f}",
    "to /metrics, ms: p50 / p99 / max": _ages("milliseconds_to_metrics"),
    "of which the scrape itself": _ages("milliseconds_of_a_scrape"),
    "lines of a scrape": lambda one: f"{one['lines_of_a_scrape']:,}",
    "to the page, ms: p50 / p99 / max": _ages("milliseconds_to_page"),
    "newest report on the page": _ages("milliseconds_of_newest_on_page"),
    "storm: ready, s": lambda one: f"{one['storm_ready_seconds']:.1f}",
    "storm: everybody back, s": lambda one: f"{one['storm_back_seconds']:.1f}",
    "reports kept": lambda one: f"{one['reports']:,}",
    "missing / doubled in the store": lambda one: f"{one['missing']} / {one['doubled']}",
    "store, bytes a point": lambda one: f"{one['store_bytes_a_point']:.1f}",
}


def _finite(value: Any) -> Any:
    """What JSON can say: null where there is no number."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main()
