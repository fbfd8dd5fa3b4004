"""A relay of its own process between agents and a collector: both ends may be killed, nothing is lost or doubled."""

import os
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Self

from probe_agent.outbox import ZmqOutbox
from probe_wire import Run
from tests import warm
from tests.integration.collector_process import ROOT, WITHOUT_TORCH, CollectorProcess
from tests.integration.reporter import draft
from tests.integration.test_nothing_lost import ends, kept
from tests.patience import eventually


class RelayProcess:
    """``probe-collector relay``, which may be killed and started again in between."""

    def __init__(self, folder: Path, collector: str) -> None:
        self.inlet = "tcp://127.0.0.1:*"
        self._folder = folder
        self._collector = collector

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end("terminate")

    def start(self) -> None:
        command = ["-c", WITHOUT_TORCH, "relay", self._collector, "--listen", self.inlet]
        with (self._folder / "relay.log").open("a") as log:
            self.process = warm.Process(
                warm.COLLECTOR,
                [*command, "--spool", str(self._folder / "relay")],
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
        assert self.process.stdout is not None
        self.inlet = self.process.stdout.readline().split()[1]

    def end(self, how: str) -> None:
        getattr(self.process, how)()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


def outbox_to(relay: RelayProcess, rank: int) -> ZmqOutbox:
    return ZmqOutbox(relay.inlet, Run("relayed", "relayed", "host", 1, 0.0), rank, lambda: 0)


def test_a_relay_killed_again_and_again_between_agents_and_collector_loses_and_doubles_nothing(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    with CollectorProcess(store) as collector, RelayProcess(tmp_path, collector.inlet) as relay:
        outboxes = [outbox_to(relay, rank) for rank in range(4)]
        step = 0
        for fault in ("relay", "collector", "both"):
            for _ in range(100):
                step += 1
                for outbox in outboxes:
                    outbox.put(draft(step))
                time.sleep(0.002)
            if fault != "collector":
                relay.end("kill")
            if fault != "relay":
                collector.kill()
                collector.start()
            if fault != "collector":
                relay.start()
        for outbox in outboxes:
            eventually(lambda outbox=outbox: outbox.undelivered == 0, seconds=20, what="the relay to have it all")
            outbox.close("finished")
        whole = [(step + 1, 0, "finished")] * 4
        eventually(lambda: ends(store, "relayed") == whole, seconds=20, what="the collector to have it all")
        assert kept(store, "relayed") == Counter((rank, each) for rank in range(4) for each in range(1, step + 1))
        eventually(
            lambda: not list((tmp_path / "relay").glob("*/*/*.segment")), seconds=5, what="the disk to be free again"
        )


def test_agents_of_a_relay_end_at_once_while_the_collector_is_away_and_it_gets_everything_later(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    with CollectorProcess(store) as collector, RelayProcess(tmp_path, collector.inlet) as relay:
        collector.kill()
        outbox = outbox_to(relay, 0)
        for step in range(1, 201):
            outbox.put(draft(step))
        eventually(lambda: not outbox._queue and outbox.undelivered == 0, seconds=10, what="the relay to have it all")
        outbox.close("finished")
        relay.end("kill")
        collector.start()
        relay.start()
        eventually(
            lambda: ends(store, "relayed") == [(201, 0, "finished")], seconds=20, what="the collector to have it all"
        )
        assert kept(store, "relayed") == Counter((0, step) for step in range(1, 201))


def test_a_relay_for_other_hosts_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *warm.command(warm.COLLECTOR),
            "-c",
            WITHOUT_TORCH,
            "relay",
            "tcp://127.0.0.1:1",
            "--listen",
            "tcp://0.0.0.0:*",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "which others can reach; a relay serves its own host" in done.stderr
