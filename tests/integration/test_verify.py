"""probe-agent verify on real training scripts, each run three times in a process of its own."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from probe_agent.cli import app
from tests import warm

SCRIPT = """
import sys, torch
import torch.nn.functional as F
from torch import nn
import probe_agent
from probe_agent import Every, Watch
from probe_agent.probes.fisher_trace import FisherTrace
from probe_agent.probes.loss import Loss
from probe_agent.probes.weights import Weights
from tests import warm

{before}
model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
x, y = torch.randn(64, 6), torch.randint(3, (64,))
probes = (Loss(), FisherTrace(), Weights())
{bad}
monitor = probe_agent.attach(
    model, optimizer, loss_fn=F.cross_entropy, probe_batch=(x[:32], y[:32]), run="verified", watches=[Watch(Every(2), probes)]
)
for step in range(1000):
    at = torch.randint(64, (16,))
    optimizer.zero_grad()
    F.cross_entropy(model(x[at]), y[at]).backward()
    optimizer.step()
    monitor.observe(loss=1.0)
"""
BAD_PROBE = """
class Bad(Loss):
    def measure(self, snapshot, memory):
        {does}
        yield from super().measure(snapshot, memory)
Bad.name = "bad"
probes = (*probes, Bad())
"""


def verify(folder: Path, before: str = "torch.manual_seed(0)", bad: str = "", *options: str) -> tuple[Result, Any]:
    script, out = folder / "train.py", folder / "receipt.json"
    script.write_text(SCRIPT.format(before=before, bad=BAD_PROBE.format(does=bad) if bad else ""))
    arguments = ["verify", "--steps", "6", "--out", str(out), *options, "--", *warm.command(warm.AGENT), str(script)]
    result = CliRunner().invoke(app, arguments)
    return result, json.loads(out.read_text()) if out.exists() else None


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Any]:
    """What is said of a script that is as it should be."""
    return verify(tmp_path_factory.mktemp("verified"))


def test_a_watched_script_gets_a_sealed_receipt(verified: tuple[Result, Any]) -> None:
    result, receipt = verified[0], dict(verified[1])
    assert result.exit_code == 0, result.output
    assert "identical over 6 steps" in result.output
    assert "3 buffers" in " ".join(result.output.split())
    assert receipt["verdict"] == "identical"
    assert receipt["difference"] is None
    assert receipt["compared"]["parameters"] == receipt["compared"]["gradients"] == 6
    assert receipt["digests"]["with"] != receipt["digests"]["without"]  # a stream of Python's that nobody seeded
    assert receipt["measured"]["fisher_trace"]["ok"] == 3 + 1
    seal = receipt.pop("sha256")
    assert seal == sha256(json.dumps(receipt, sort_keys=True).encode()).hexdigest()


def test_streams_that_nobody_seeds_are_judged_by_when_they_are_drawn_from(
    verified: tuple[Result, Any],
) -> None:
    result, receipt = verified
    assert receipt["unseeded"] == ["random stream of Python", "random stream of numpy"]
    assert "compared is when it was drawn from" in " ".join(result.output.split())


def test_a_bad_probe_is_caught_and_what_it_did_is_named(tmp_path: Path) -> None:
    fact = "optimizer setting lr of group 0"
    result, receipt = verify(tmp_path, bad="optimizer.param_groups[0]['lr'] = 2e-3")
    assert result.exit_code == 1, result.output
    assert receipt["verdict"] == "differs"
    assert receipt["difference"] == {"step": 1, "monitor": "rank0-monitor0", "fact": fact}
    assert f"first at step 1: {fact}" in result.output


def test_a_script_that_does_not_repeat_itself_is_not_blamed_on_the_agent(tmp_path: Path) -> None:
    result, receipt = verify(tmp_path, before="")
    assert result.exit_code == 2
    assert receipt["verdict"] == "not repeatable"
    assert "seed every random stream it uses" in " ".join(result.output.split())


def test_a_script_that_never_attaches_gives_no_testimony(tmp_path: Path) -> None:
    out = tmp_path / "receipt.json"
    result = CliRunner().invoke(
        app, ["verify", "--out", str(out), "--", *warm.command(warm.AGENT), "-c", "print('trained')"]
    )
    assert result.exit_code == 2
    assert "must call probe_agent.attach" in " ".join(result.output.split())


def test_a_command_that_fails_says_what_it_said(tmp_path: Path) -> None:
    result, receipt = verify(tmp_path, before="raise SystemExit('no data here')")
    assert result.exit_code == 2
    assert receipt is None
    assert "exit status 1" in result.output
    assert "no data here" in result.output


def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    result, receipt = verify(tmp_path, "import time; time.sleep(60)", "", "--timeout", "1")
    assert result.exit_code == 2
    assert receipt is None
    assert "it took longer than 1 s" in result.output


def test_a_command_that_is_not_there_is_a_sentence() -> None:
    result = CliRunner().invoke(app, ["verify", "--", "no-such-command"])
    assert result.exit_code == 2
    assert "'no-such-command' cannot be run" in result.output
