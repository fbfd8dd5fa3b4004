"""The loop closed over real sockets: an agent, an inlet, a wish in the middle of a run, and denser points in the store until it ends."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import probe_agent
from collector.gate import Gate
from collector.health import WISH_ANSWERS, Health
from collector.inlet import Inlet
from collector.live import Live
from collector.pipeline import Pipeline
from collector.store.queries import Reader
from collector.store.sqlite import Store
from probe_agent import Budget, Every, Watch
from probe_agent.probes.loss import Loss
from probe_wire import Report, Tighten
from tests.patience import eventually


class Collector:
    """The collector's inlet, pipeline and store, in threads of this process, so that a test can wish."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "s.db")
        self.health = Health()
        pipeline = Pipeline(self.store, Live(), self.health, (), tick=lambda *_: None)
        self.gate = Gate("tcp://127.0.0.1:*", None, self.health)
        self.inlet = Inlet(self.gate, pipeline, self.health)
        self.inlet.start()

    def wishes(self) -> dict[str, float]:
        """What became of the wishes so far."""
        value = self.health.registry.get_sample_value
        counted = {answer: value("phasewatch_wishes_total", {"answer": answer}) for answer in WISH_ANSWERS}
        return {answer: count for answer, count in counted.items() if count}

    def close(self) -> None:
        self.inlet.stop()
        self.store.close()

    def series(self, run: str) -> dict[str, list[tuple[int, float]]]:
        """What was stored of a run: every point of every series, by its quantity and labels."""
        reader = Reader(self.store.path)
        frames = list(reader.frames(run))  # before the schemas, of which one may be added with a frame meanwhile
        schemas, found = reader.schemas(run), dict[str, list[tuple[int, float]]]()
        for frame in frames:
            if isinstance(frame.message, Report):
                columns = schemas[frame.stream_id, frame.message.schema].columns
                values = memoryview(frame.message.values).cast("d")
                for column, value in zip(columns, values, strict=True):
                    name = " ".join((column.quantity, *column.labels.values()))
                    found.setdefault(name, []).append((frame.message.step, value))
        return found

    def steps(self, run: str, name: str = "probe_loss") -> list[int]:
        return [step for step, _ in self.series(run).get(name, [])]


class Job:
    """A training job that reports to the collector."""

    def __init__(self, collector: Collector, **settings: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        self.x, self.y = torch.randn(64, 4), torch.randint(0, 3, (64,))
        self.monitor = probe_agent.attach(
            self.model,
            self.optimizer,
            loss_fn=F.cross_entropy,
            probe_batch=(self.x, self.y),
            run="tightened",
            collector=collector.gate.address,
            watches=[Watch(Every(20), (Loss(),))],
            budget=Budget(share=1000),
            **settings,
        )
        self.run = self.monitor.run.id

    def train(self, until: int, pause: float = 0.0) -> None:
        while self.monitor.step < until:
            time.sleep(pause)
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(self.x), self.y).backward()
            self.optimizer.step()

    def wished(self, collector: Collector, wish: Tighten) -> None:
        """Return when the wish has come to the training process."""
        eventually(lambda: collector.steps(self.run), seconds=10, what="the agent to be known")
        collector.inlet.wish(self.run, 0, wish)
        eventually(lambda: self.monitor.agenda.wishes, seconds=10, what="the wish to come")


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    made = Collector(tmp_path)
    yield made
    made.close()


def test_a_wish_makes_the_stored_series_denser_until_it_ends_and_training_is_the_same_to_the_bit(
    collector: Collector,
) -> None:
    final = []
    for wish in (None, Tighten("probe_loss", 120, reason="a peak is suspected")):
        job = Job(collector)
        job.train(50)
        if wish:
            job.wished(collector, wish)
        job.train(200)
        job.monitor.close()
        final.append([p.tolist() for p in job.model.parameters()])
    plain, dense = [0, 20, 40, 60, 80, 100, 120, 140, 160, 180, 200], range(55, 121, 5)
    assert collector.steps(job.run) == sorted({*plain, *dense})
    assert final[0] == final[1]
    assert collector.series(job.run)["probe_tightened loss"][0] == (55, 4.0)
    assert collector.series(job.run)["probe_tightened loss"][-1] == (200, 1.0)
    assert collector.series(job.run)["tighten_wishes honoured"][-1] == (200, 1.0)
    assert collector.wishes() == {"sent": 1}


def test_a_collector_that_dies_leaves_nothing_tightened_behind(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(collector)
    job.wished(collector, Tighten("probe_loss", 10**9, times=10, seconds=3600))
    job.train(20)
    assert job.monitor.tightened == {"loss": 10}
    collector.inlet.stop()
    monkeypatch.setattr(job.monitor.agenda, "_clock", lambda: time.monotonic() + 3600)
    job.train(200)
    assert job.monitor.tightened == {}
    assert job.monitor.agenda.next == 220
    job.monitor.close()


def test_who_refuses_at_attach_is_not_asked(collector: Collector) -> None:
    job = Job(collector, tighten=False)
    eventually(lambda: collector.steps(job.run), seconds=10, what="the agent to be known")
    collector.inlet.wish(job.run, 0, Tighten("probe_loss", 100))
    eventually(collector.wishes, seconds=10, what="the wish to be considered")
    job.train(100)
    job.monitor.close()
    assert collector.wishes() == {"not understood": 1}
    assert collector.steps(job.run) == [0, 20, 40, 60, 80, 100]


def test_probes_in_a_process_of_their_own_are_tightened_too(collector: Collector) -> None:
    job = Job(collector, where="process")
    job.wished(collector, Tighten("probe_loss", 10**6, times=2))

    def between() -> list[int]:
        job.train(job.monitor.step + 20, pause=0.01)
        return [step for step in collector.steps(job.run) if step % 20 == 10]

    eventually(between, seconds=60, what="a point between two scheduled steps")
    job.monitor.close()
