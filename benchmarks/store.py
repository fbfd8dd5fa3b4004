"""What keeping reports costs: CPU of a report, bytes of a point, and the time to read a chart, beside one row a point.

    python benchmarks/store.py [--reports 50000] [--long 1000000]

Reports of 20 points from 8 streams, committed by the 500 as a collector does at 10,000 a second. Three kinds of numbers: full noise
in every one, the most there can be; those that a job on digits sends, where a loss has the precision of float32 and an accuracy is
a fraction; and the latter rounded to what they are known to. Prints; writes benchmarks/results/store.json and store.md.
"""

import argparse
import json
import math
import os
import platform
import sqlite3
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from against.row_store import RowStore, read
from numpy.typing import NDArray

from collector.store.queries import Reader
from collector.store.space import bytes_of
from collector.store.sqlite import Store
from collector.store.streams import Stream
from probe_wire import Column, Goodbye, Hello, ProbeCost, Quantity, Report, Run, Schema, encode, unpack

RESULTS = Path(__file__).parent / "results"
GROUP = 500
STREAMS = 8
PROBES = ("loss", "fisher_trace", "sharpness", "local_complexity", "weights")
CHART = 4000
"""Points of a chart."""
Kind = Callable[[NDArray[np.float64]], NDArray[np.float64]]
Kinds = list[tuple[Kind, Kind, Kind]]
"""Of each column of a report what its value and its two errors are like."""


def full(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """As it is."""
    return x


def single(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """In the precision of float32."""
    return x.astype(np.float32).astype(np.float64)


def share(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """A count over 450."""
    return np.round(np.abs(x) % 1 * 450) / 450


def none(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Not known."""
    return np.full_like(x, np.nan)


def zero(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Exactly zero."""
    return np.zeros_like(x)


def still(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """One number for ever."""
    return np.full_like(x, 0.02)


NOISE: Kinds = [(full, full, full)] * 20
DIGITS: Kinds = [
    (single, full, full),
    (single, full, none),
    (share, full, full),
    (share, full, none),
    *[(full, full, full)] * 6,
    *[(share, full, full)] * 4,
    *[(full, zero, none)] * 4,
    (still, zero, zero),
    (still, zero, none),
]
KINDS = {"full noise": (NOISE, False), "as digits": (DIGITS, False), "as digits, rounded": (DIGITS, True)}


def rounded(x: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    """To so many significant bits."""
    mantissa, exponent = np.frexp(x)
    return np.asarray(np.ldexp(np.round(np.ldexp(mantissa, bits)), exponent - bits))


def curves(kinds: Kinds, count: int, *, known: bool = False) -> NDArray[np.float64]:
    """``(3, count, columns)``: values 2 % noisy about a peak and their errors, which are 5 % noisy themselves.

    ``known``: errors to 12 bits, and values to a 1,024th of their paired error.
    """
    rng = np.random.default_rng(0)
    mean = 1 + np.exp(-(((np.arange(count) - count / 3) / (count / 8)) ** 2))
    found = np.empty((3, count, len(kinds)))
    for i, kind in enumerate(kinds):
        value = mean * (1 + 0.02 * rng.standard_normal(count))
        errors = [size * mean * (1 + 0.05 * rng.standard_normal(count)) for size in (0.05, 0.02)]
        found[:, :, i] = [make(x) for make, x in zip(kind, (value, *errors), strict=True)]
        if known:
            found[1:, :, i] = rounded(found[1:, :, i], 12)
            grain = np.exp2(np.floor(np.log2(np.where(found[2, :, i] > 0, found[2, :, i], 2.0**-20))) - 10)
            found[0, :, i] = np.round(found[0, :, i] / grain) * grain
    return found


def reports(numbers: NDArray[np.float64], streams: int) -> Iterator[tuple[int, Report]]:
    """Reports as an agent sends them, with what its probes cost, by the stream they are of."""
    rng = np.random.default_rng(1)
    _, count, columns = numbers.shape
    ns = np.full(columns, 512, "<u4").tobytes()
    for i in range(count):
        costs = tuple(ProbeCost(name, 0.01 * math.exp(0.2 * rng.standard_normal())) for name in PROBES[: columns // 4])
        when = 1_790_000_000 + 0.1 * i + 0.01 * rng.random()
        spent = (0.5 * i + 0.01 * rng.random(), 0.005 * i + 0.001 * rng.random())
        value, stderr, paired = (np.ascontiguousarray(numbers[k, i]).tobytes() for k in range(3))
        columns_sent = (value, stderr, paired, ns, bytes(columns))
        seq = i // streams + 1
        yield i % streams, Report(seq, 10 * seq, when, 1, *columns_sent, costs, *spent)


def stored(path: Path, numbers: NDArray[np.float64], streams: int = STREAMS) -> dict[str, float]:
    """What it costs to store these: CPU while they come, and bytes once the streams have ended."""
    columns = numbers.shape[2]
    schema = Schema(1, (Quantity("q", "1", "Q.", "Q"),), tuple(Column("q", {"layer": str(i)}) for i in range(columns)))
    store = Store(path)
    opened: list[Stream] = []
    for rank in range(streams):
        opened.append(store.put_hello(Hello(Run("run", "run", "host", 1, 0.0), rank, "a", 1), 0.0))
        store.put_schema(opened[-1], schema, encode(schema))
    messages = [(rank, report, encode(report)) for rank, report in reports(numbers, streams)]
    clock = Clock()
    for i, (rank, report, body) in enumerate(messages):
        store.put_report(opened[rank], report, body, report.time + 0.002)
        if i % GROUP == GROUP - 1:
            clock.commit(store.commit)
    clock.commit(store.commit)
    found = clock.found(len(messages))
    for stream in opened:
        goodbye = Goodbye(stream.high + 1, 0, 0.0, "finished")
        store.put_goodbye(stream, goodbye, encode(goodbye), 0.0)
    store.commit()
    while store.unsealed:
        store.tidy(0.0)
        time.sleep(0.01)
    store.close()
    return found | bytes_per_point(path, len(messages) * columns)


def stored_as_rows(
    path: Path, numbers: NDArray[np.float64], streams: int = STREAMS, *, rows: bool = True
) -> dict[str, float]:
    """The same with one row a point, or with the messages alone."""
    columns = numbers.shape[2]
    schema = Schema(1, (), tuple(Column("q") for _ in range(columns)))
    store = RowStore(path)
    messages = [(rank, report, encode(report), unpack(report, schema)) for rank, report in reports(numbers, streams)]
    clock = Clock()
    for i, (rank, report, body, estimates) in enumerate(messages):
        series_ids = range(rank * columns, (rank + 1) * columns) if rows else range(0)
        store.put(rank + 1, series_ids, report, estimates if rows else [], body)
        if i % GROUP == GROUP - 1:
            clock.commit(store.commit)
    clock.commit(store.commit)
    found = clock.found(len(messages))
    store.close()
    return found | bytes_per_point(path, len(messages) * columns)


class Clock:
    """CPU time of this thread and of the kernel for it, and the longest commit on the wall."""

    def __init__(self) -> None:
        self._began = time.process_time()
        self._longest = 0.0

    def commit(self, commit: Callable[[], None]) -> None:
        """Time one commit."""
        at = time.perf_counter()
        commit()
        self._longest = max(self._longest, time.perf_counter() - at)

    def found(self, count: int) -> dict[str, float]:
        """What it came to."""
        spent = time.process_time() - self._began
        return {"cpu_us_per_report": 1e6 * spent / count, "longest_commit_ms": 1e3 * self._longest}


def bytes_per_point(path: Path, points: int) -> dict[str, float]:
    """What the file takes, with and without the pages that are free for what comes."""
    with closing(sqlite3.connect(path)) as db:
        stored, spare = bytes_of(db)
    return {"bytes_per_point": stored / points, "file_bytes_per_point": (stored + spare) / points}


def _held(make: Kind, whole: float) -> float:
    if make is share:
        return math.log2(450)
    return whole if make is full else whole - 29 if make is single else 0.0


def bound(kinds: Kinds) -> float:
    """Bytes a point that the noise of the three numbers alone holds: no compressor comes below it without loss.

    Of a normal number with this standard deviation, rounded to float64: ``log2(sd * sqrt(2 pi e) / ulp)`` bits. Those in the
    precision of float32 hold 29 less, shares of 450 at most ``log2(450)``, what never changes none.
    """
    bits = 0.0
    for kind in kinds:
        for make, relative in zip(kind, (0.02, 0.05, 0.05), strict=True):
            whole = 52 + math.log2(relative * math.sqrt(2 * math.pi * math.e))
            bits += _held(make, whole)
    return bits / 8 / len(kinds)


def milliseconds(read_once: Callable[[], object], times: int = 9) -> float:
    """The median of several readings."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        read_once()
        taken.append(1e3 * (time.perf_counter() - began))
    return float(np.median(taken))


def chart_of(folder: Path, count: int) -> dict[str, float]:
    """Milliseconds to read one series of so many points, of four that its run has."""
    numbers = curves(NOISE[:4], count)
    stored(folder / f"{count}.db", numbers, 1)
    reader = Reader(folder / f"{count}.db")
    series_id = reader.series("run")[0].id
    return {
        "for a chart": milliseconds(lambda: reader.points([series_id], 0, CHART)),
        "for a chart, as JSON": milliseconds(lambda: msgspec.json.encode(reader.points([series_id], 0, CHART))),
        "every point": milliseconds(lambda: reader.points([series_id]), 3),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="What keeping reports costs.")
    parser.add_argument("--reports", type=int, default=50_000)
    parser.add_argument("--long", type=int, default=1_000_000, help="points of the longest series a chart is read of")
    options = parser.parse_args()
    inserted: dict[str, dict[str, dict[str, float]]] = {}
    charts: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, (kinds, known) in KINDS.items():
            numbers = curves(kinds, options.reports, known=known)
            inserted[kind] = {
                "one row a point": stored_as_rows(folder / f"{kind} rows.db", numbers),
                "blocks": stored(folder / f"{kind}.db", numbers),
            }
            if kind == "full noise":
                inserted[kind]["messages alone"] = stored_as_rows(folder / "messages.db", numbers, rows=False)
            print(kind, json.dumps(inserted[kind], indent=1), flush=True)
        for count in (1_000, 30_000, 100_000, options.long):
            charts[f"{count:,}"] = chart_of(folder, count)
            print(f"{count:,} points: {charts[f'{count:,}']}", flush=True)
        numbers = curves(NOISE, options.reports // 5)
        stored_as_rows(folder / "long rows.db", numbers, 1)
        rows = milliseconds(lambda: read(folder / "long rows.db", 0), 3)
        charts[f"{options.reports // 5:,}, one row a point"] = {"every point": rows}
    found = {
        "machine": machine(),
        "inserted": inserted,
        "bounds": {k: bound(v[0]) for k, v in KINDS.items() if not v[1]},
    }
    found["charts"] = charts
    if options.reports >= 50_000:
        (RESULTS / "store.json").write_text(json.dumps(found, indent=1) + "\n")
        (RESULTS / "store.md").write_text(page(found))


def machine() -> dict[str, Any]:
    """Where, when and with what this was measured."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": {"sqlite": sqlite3.sqlite_version, "zlib": zlib.ZLIB_RUNTIME_VERSION, "numpy": np.__version__},
    }


_WHAT = """Reports of 20 points from 8 streams, committed by the 500 with `synchronous = FULL`. CPU is that of the process, the kernel's for
it included. Bytes are those of everything that is kept, once the streams have ended: numbers, messages, times, costs. All of it comes
back to the last bit, so no store can take less than the noise alone. *Rounded* are errors to 12 bits and values to a 1,024th of their
paired error, before they are stored: what is known of them, and no store's doing."""


def page(found: dict[str, Any]) -> str:
    """The results for a person."""
    where = found["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    lines = [
        "# What keeping reports costs",
        "",
        f"`python benchmarks/store.py` on {where['processor']}, {where['cores']} cores, Python {where['python']}, {versions}, {where['date']}, load {where['load']}.",
        "",
        _WHAT,
        "",
        "| numbers | store | CPU µs a report | longest commit, ms | bytes a point | of the file | noise alone, bytes a point |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind, arms in found["inserted"].items():
        for arm, one in arms.items():
            least = found["bounds"].get(kind)
            lines.append(
                f"| {kind} | {arm} | {one['cpu_us_per_report']:.1f} | {one['longest_commit_ms']:.0f} | {one['bytes_per_point']:.1f} "
                f"| {one['file_bytes_per_point']:.1f} | {'' if least is None else f'{least:.1f}'} |"
            )
    lines += ["", "| points of a series | read | ms |", "| ---: | --- | ---: |"]
    lines += [
        f"| {count} | {what} | {ms:.1f} |" for count, each in found["charts"].items() for what, ms in each.items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
