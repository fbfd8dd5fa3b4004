"""Keys and tokens from the command line to the training process: real processes, real encryption."""

import http.client
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import probe_agent
from collector.cli import main
from collector.keys import Keys
from collector.store.queries import Reader
from probe_agent import Budget, Every, Watch
from probe_agent.errors import AttachError
from probe_agent.probes.loss import Loss
from probe_wire.agent_key import AgentKey
from tests.integration.collector_process import CollectorProcess
from tests.patience import eventually

Command = Callable[..., tuple[object, str, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a verb of ``probe-collector`` in the folder; ``(exit status, what it printed, what it complained of)``."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["probe-collector", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run


class Job:
    """A training job that may have a key."""

    def __init__(self, collector: CollectorProcess, name: str, key: Path | None) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        self.x, self.y = torch.randn(64, 4), torch.randint(0, 3, (64,))
        self.monitor = probe_agent.attach(
            self.model,
            self.optimizer,
            loss_fn=F.cross_entropy,
            probe_batch=(self.x, self.y),
            run=name,
            collector=collector.inlet,
            watches=[Watch(Every(2), (Loss(),))],
            budget=Budget(share=1000),
            key=key,
        )

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(self.x), self.y).backward()
            self.optimizer.step()


def ask(collector: CollectorProcess, path: str, token: str, order: object = None) -> tuple[int, bytes]:
    host = collector.page.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=10)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection.request("GET" if order is None else "POST", path, order and json.dumps(order), headers)
    answer = connection.getresponse()
    found = (answer.status, answer.read())
    connection.close()
    return found


def test_with_keys_and_tokens_a_run_is_reported_read_and_controlled_and_a_stranger_does_none_of_it(
    tmp_path: Path, command: Command
) -> None:
    command("keys", "create", "lab")
    read, control = (command("tokens", scope)[1].strip() for scope in ("read", "control"))
    with CollectorProcess(tmp_path / "s.db") as collector:
        assert collector.get("/api/runs") is None, "nothing is told without a token"
        friend, stranger = Job(collector, "friend", tmp_path / "lab.key"), Job(collector, "stranger", None)
        for job in (friend, stranger):
            job.train(6)
        known = eventually(lambda: Reader(collector.store).runs(), seconds=20, what="the run with the key to be stored")
        stranger.monitor.close()
        order = {"id": "o-1", "quantity": "probe_loss", "times": 2}
        path = f"/api/runs/{known[0].id}/tighten"
        eventually(lambda: Reader(collector.store).series(known[0].id), seconds=20, what="the first report")
        assert ask(collector, path, read, order)[0] == 403
        assert ask(collector, path, control, order) == (200, b'{"id":"o-1","ranks":[0],"repeated":false}')
        eventually(lambda: friend.monitor.agenda.wishes, seconds=10, what="the order to reach the training process")
        friend.train(4)
        friend.monitor.close()
        assert b'phasewatch_wishes_total{answer="sent"} 1.0' in ask(collector, "/metrics", read)[1]
        (stored,) = Reader(collector.store).runs()
        assert (stored.name, stored.finished) == ("friend", "finished")
    log = (tmp_path / "collector.log").read_text()
    assert "order.taken order=o-1 " in log
    assert "connection.refused reason=handshake" in log
    assert not any(secret in log for secret in (read, control, (tmp_path / "lab.key").read_text()))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("serve", "--inlet-address", "tcp://0.0.0.0:*"), "probe-collector keys create NAME"),
        (("serve", "--web-host", "192.0.2.1"), "web.behind_proxy = true"),
        (("keys", "revoke", "nobody"), "Got the name 'nobody', which has no key in force; in force are: none."),
        (("keys", "create", "a b"), "Got the name 'a b'; need 1 to 64 letters, digits"),
        (("keys", "create", "x", "--out", "absent/x.key"), "cannot be written: No such file"),
        (("tokens", "write"), "Got 'write'; need read or control"),
    ],
)
def test_what_would_leave_the_door_open_is_one_line_that_says_what_to_do(
    tmp_path: Path, command: Command, arguments: tuple[str, ...], words: str
) -> None:
    status, _, complaint = command(*arguments)
    assert status == 2
    assert words in complaint
    assert len(complaint.splitlines()) == 1
    assert not (tmp_path / "phasewatch.db").exists()
    assert not any(key.revoked_at is None for key in Keys(tmp_path / "phasewatch-keys").listed)


def test_keys_are_made_listed_and_revoked_and_the_first_says_that_it_is(tmp_path: Path, command: Command) -> None:
    status, said, _ = command("keys", "create", "lab")
    assert (status, "It is the first key" in said) == (0, True)
    assert (tmp_path / "lab.key").stat().st_mode & 0o777 == 0o600
    key = AgentKey.load(tmp_path / "lab.key")
    assert "exists already" in command("keys", "create", "lab")[2]
    (tmp_path / "lab.key").unlink()
    assert "has a key already. Revoke that first" in command("keys", "create", "lab")[2]
    _, printed, _ = command("keys", "create", "other", "--out", "-")
    assert json.loads(printed)["collector"] == key.collector
    assert command("keys", "revoke", "lab")[1] == "The key of lab is revoked.\n"
    listed = json.loads(command("keys", "list", "--json")[1])
    assert [(each["name"], each["revoked_at"] is None) for each in listed] == [("lab", False), ("other", True)]
    assert key.secret not in command("keys", "list")[1] + (tmp_path / "phasewatch-keys" / "agents.json").read_text()
    assert command("keys", "create", "lab")[0] == 0, "the name of a revoked key may be used again"


def test_tokens_are_printed_and_replaced(command: Command) -> None:
    _, both, _ = command("tokens")
    assert "They are the first tokens" in both
    (read,) = command("tokens", "read")[1].split()
    assert read in both
    assert read not in command("tokens", "--new")[1]


def test_attach_refuses_a_key_it_cannot_use(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    command("keys", "create", "lab")
    (tmp_path / "lab.key").chmod(0o644)
    collector = CollectorProcess(tmp_path / "s.db")
    collector.inlet = "tcp://127.0.0.1:9"
    with pytest.raises(
        AttachError, match=r"lab.key with mode 0644, so that others may read the secret in it; need 0600"
    ):
        Job(collector, "open", tmp_path / "lab.key")
    monkeypatch.setenv("PHASEWATCH_KEY", str(tmp_path / "absent.key"))
    with pytest.raises(AttachError, match=r"absent.key, which cannot be read: No such file .* keys create NAME"):
        Job(collector, "absent", None)
