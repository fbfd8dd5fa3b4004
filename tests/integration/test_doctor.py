"""probe-agent doctor on real training scripts."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from probe_agent.budget import Budget, Claim, affordable
from probe_agent.cli import app
from probe_agent.cli.doctor import at_least_every
from probe_agent.probes import PROBES
from tests import warm

SCRIPT = """
import torch
import torch.nn.functional as F
from torch import nn
import probe_agent
from tests import warm

torch.manual_seed(0)
model = {model}
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
x, y = torch.randn(32, 6), torch.randint(3, (32,))
{attach}
for step in range({steps}):
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
print("trained")
"""
ATTACH = "probe_agent.attach(model, optimizer, loss_fn=F.cross_entropy, probe_batch=(x, y), run='examined')"
MODEL = "nn.Sequential(nn.Linear(6, 4), {activation}, nn.Linear(4, 3))"


def doctor(
    folder: Path, *options: str, activation: str = "nn.ReLU()", attach: str = ATTACH, steps: int = 1000
) -> Result:
    script = folder / "train.py"
    script.write_text(SCRIPT.format(model=MODEL.format(activation=activation), attach=attach, steps=steps))
    return CliRunner().invoke(app, ["doctor", *options, "--", *warm.command(warm.AGENT), str(script)])


def test_every_probe_is_tried_and_what_it_costs_is_told(tmp_path: Path) -> None:
    result = doctor(tmp_path)
    assert result.exit_code == 0, result.output
    for name in (*(probe.name for probe in PROBES), "light", "standard", "full"):
        assert name in result.output
    assert "failed" not in result.output
    assert "1%" in result.output
    assert "2%" in result.output


MODELS = """
import torch
import torch.nn.functional as F
from torch import nn


def classifier():
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)), F.cross_entropy, (torch.randn(16, 6), torch.randint(3, (16,)))


def regression():
    model = nn.Linear(6, 2)
    return {"model": model, "loss_fn": nn.MSELoss(), "probe_batch": (torch.randn(16, 6), torch.randn(16, 2)),
            "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}


def nothing():
    return 3
"""


@pytest.mark.parametrize(
    ("name", "outcomes"),
    [
        ("classifier", {"loss": "ok", "fisher_trace": "ok"}),
        ("regression", {"edge_of_stability": "ok", "calibration": "not_applicable"}),
    ],
)
def test_a_model_without_a_script_is_examined_too(
    name: str, outcomes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["doctor", "--json", f"models:{name}"])
    assert result.exit_code == 0, result.output
    found = {each["probe"]: each["outcome"] for each in json.loads(result.output)["probes"]}
    assert found.keys() == {probe.name for probe in PROBES}
    assert {probe: found[probe] for probe in outcomes} == outcomes


def test_a_name_that_leads_to_no_model_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    for name, words in (("nothing", "Got a int from models:nothing()"), ("none", "of a function that can be imported")):
        result = CliRunner().invoke(app, ["doctor", f"models:{name}"])
        assert result.exit_code == 2
        assert words in " ".join(result.output.split())


def test_what_does_not_apply_says_why(tmp_path: Path) -> None:
    result = doctor(tmp_path, "--json", activation="nn.Identity()")
    assert result.exit_code == 0, result.output
    found = {each["probe"]: each for each in json.loads(result.output)["probes"]}
    assert found["local_complexity"]["outcome"] == "not_applicable"
    assert "Saw no activation function" in found["local_complexity"]["why"]
    assert found["local_complexity"]["needs"] == ["real inputs", "activations"]
    assert found["fisher_trace"]["outcome"] == "ok"
    assert found["edge_of_stability"]["outcome"] == "ok", "the optimizer has taken steps"
    assert found["fisher_trace"]["series"] == {"ok": 3 + 3 + 1 + 2}


@pytest.mark.parametrize(("attach", "steps"), [("", 10), (ATTACH, 1)])
def test_a_script_that_attaches_nothing_or_ends_too_soon_is_told_so(tmp_path: Path, attach: str, steps: int) -> None:
    result = doctor(tmp_path, attach=attach, steps=steps)
    assert result.exit_code == 2
    assert "never called probe_agent.attach(...), or took fewer than 2 optimizer steps" in " ".join(
        result.output.split()
    )


def test_a_script_that_fails_says_what_it_said(tmp_path: Path) -> None:
    result = doctor(tmp_path, attach="raise SystemExit('no data here')")
    assert result.exit_code == 2
    assert "no data here" in result.output


def test_a_rare_and_dear_probe_does_not_make_the_others_rare() -> None:
    cheap, dear = (0.01, 1000, 3.0), (100.0, 10_000, 1.0)
    assert at_least_every([cheap], 1e-4) == [1000], "as the schedule says"
    assert at_least_every([cheap, dear], 1e-4) == pytest.approx([1000, 100 / 2.5e-5])


def test_the_intervals_the_doctor_promises_are_kept_by_the_budget() -> None:
    """A run of many steps, measured by the budget's own rule."""
    budget, step_seconds, steps = Budget(share=0.02, allowance=0.0), 0.01, 2_000_000
    asked = [(0.02, 1000.0, 2.0), (0.5, 1000.0, 2.0), (3.0, 5000.0, 1.0)]
    told = at_least_every(asked, budget.share * step_seconds)
    had, times, due, spent = [0.0] * 3, [0] * 3, [0.0] * 3, 0.0
    for step in range(0, steps, 100):
        allowed = budget.allowed(step * step_seconds, step)
        claims = [Claim(seconds, had[i], due[i] <= step, weight=weight) for i, (seconds, _, weight) in enumerate(asked)]
        for i in affordable(claims, allowed - spent, allowed)[0]:
            had[i], times[i], spent = had[i] + asked[i][0], times[i] + 1, spent + asked[i][0]
            due[i] = step + asked[i][1]
    for n, promised in zip(times, told, strict=True):
        assert promised / 3 < steps / n < 1.1 * promised, (times, told)
