"""The collector's pipeline under a fuzzer that sees which branches it takes (atheris, libFuzzer).

    make fuzz            for a minute
    python tests/fuzz/pipeline.py CORPUS -max_total_time=3600

Each input is a conversation: eight bytes choose one message, nearly right, of an agent. What is not kept must be refused in the ways the
inlet answers; any other exception is a crash, as is a view that cannot show what was kept. Conversations that took a new branch stay in
CORPUS; one that crashes is written beside it, and repeats when given as the only argument. The decoder itself is not Python, so
no fuzzer of Python sees into it: `tests/unit/wire/test_hostile_bytes.py` tries it with more than this would.
"""

import logging
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["collector", "probe_wire"]):
    from collector.errors import NotOwner
    from collector.exporter import Exporter
    from collector.health import Health
    from collector.live import Live
    from collector.phases import MACHINES
    from collector.pipeline import Pipeline
    from collector.refusals import TooManyRuns, UnknownSchema, UnknownStream
    from collector.store.sqlite import Store
    from collector.web.api import Api
    from probe_wire import Goodbye, Hello, Report, Schema, WireError, decode_for_collector

from collector.store.queries import Reader
from tests.mutants import mutants

GOLDEN = Path(__file__).parents[1] / "wire" / "golden" / "v1"
SEEDS = [(GOLDEN / f"{name}.msgpack").read_bytes() for name in ("hello", "schema", "report", "goodbye")]
VIEW_EVERY = 200
FRESH_EVERY = 5000


class Collector:
    """All of a collector but its sockets."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "store.db"
        live, health = Live(), Health()
        self.store = Store(self.path)
        self.pipeline = Pipeline(self.store, live, health, (), tick=lambda *_: None)
        self._exporter = Exporter(live, health, {m.name: [phase.name for phase in m.phases] for m in MACHINES})
        self._api = Api(Reader(self.path), live, "")

    def hear(self, conversation: bytes) -> None:
        """Take a conversation and commit it."""
        stream = self.pipeline.hello(decode_for_collector(SEEDS[0]))  # type: ignore[arg-type]
        for message in (SEEDS[1], *(_chosen(conversation[i : i + 8]) for i in range(0, len(conversation), 8))):
            try:
                match decode_for_collector(message):
                    case Hello() as hello:
                        stream = self.pipeline.hello(hello)
                    case Schema() as schema:
                        self.pipeline.schema(stream, schema, message)
                    case Report() as report if report.seq == stream.high + 1:
                        self.pipeline.report(stream, report, message)
                    case Goodbye() as goodbye if goodbye.seq == stream.high + 1:
                        self.pipeline.goodbye(stream, goodbye, message)
            except (WireError, NotOwner, TooManyRuns, UnknownSchema, UnknownStream):
                continue
        self.pipeline.commit()

    def show(self) -> None:
        """Every view of what was kept."""
        self._exporter.render()
        self._api.runs()
        for row in Reader(self.path).runs():
            self._api.run(row.id)


def _chosen(seed: bytes) -> bytes:
    """A message as it is, numbered on, or a mutant of it."""
    if seed[:1] < b"\x40":
        return SEEDS[len(seed) % len(SEEDS)]
    return next(mutants(SEEDS, 1, seed=int.from_bytes(seed, "little")))


def main() -> None:
    """Fuzz until libFuzzer's flags say that it is enough."""
    logging.disable(logging.CRITICAL)
    heard = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        collector = Collector(Path(folder))

        def take(conversation: bytes) -> None:
            nonlocal heard
            heard += 1
            collector.hear(conversation)
            if heard % VIEW_EVERY == 0:
                collector.show()

        atheris.Setup(sys.argv, take)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
