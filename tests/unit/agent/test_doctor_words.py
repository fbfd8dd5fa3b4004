"""What a person is told of probes that did not come out well: whole in a terminal of 80 columns, and why."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from rich.console import Console
from torch import nn

from probe_agent import ListOutbox, Watch, attach
from probe_agent.cli.doctor import _probes, _reasons, told
from probe_agent.probe import Measurement, Memory, Probe
from probe_agent.probes import PROBES
from probe_agent.schedule import Every
from probe_agent.snapshot import Snapshot
from probe_wire import Outcome, Quantity

LONG = "Got a model that returns dict; need one tensor with the samples along its first axis. Wrap the model so that it returns its logits."


def found(**why: str) -> dict[str, Any]:
    return {
        "probes": [
            {
                "probe": probe.name,
                "outcome": "not_applicable" if probe.name in why else "ok",
                "series": {"ok": 12},
                "seconds": 1234.5,
                "memory_raised": 123e9,
                "why": why.get(probe.name, "The estimate is sound."),
            }
            for probe in PROBES
        ]
    }


def printed(what: dict[str, Any], width: int = 80) -> str:
    out = io.StringIO()
    told(what, Console(file=out, width=width))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 200])
def test_nothing_is_cut_off_and_every_reason_is_there_in_full(width: int) -> None:
    text = printed(found(fisher_trace=LONG, local_learning_coefficient="Got [a list]"), width)
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    assert LONG in " ".join(text.split())
    assert "Got [a list]" in text


def test_probes_with_one_reason_are_named_together_and_those_that_are_well_give_none() -> None:
    assert _reasons(found(fisher_trace=LONG, weights="other", gauss_newton=LONG)) == {
        ("fisher_trace", "gauss_newton"): LONG,
        ("weights",): "other",
    }
    assert _probes(found()).row_count == len(PROBES)
    assert "sound" not in printed(found())


@final
@dataclass(frozen=True)
class Endless(Probe):
    """Asks for one more pass for ever."""

    name: ClassVar[str] = "endless"
    quantities: ClassVar[tuple[Quantity, ...]] = ()

    def measure(self, snapshot: Snapshot, memory: Memory) -> Iterator[Measurement]:
        snapshot.deadline.at = 0.0
        snapshot.deadline.check()
        yield from ()


def test_a_probe_that_was_begun_and_stopped_says_after_how_long() -> None:
    model, outbox = nn.Linear(3, 2), ListOutbox()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    watches = [Watch(Every(1), (Endless(),))]
    attach(model, optimizer, loss_fn=F.cross_entropy, probe_batch=batch, run="r", outbox=outbox, watches=watches)
    (cost,) = outbox.drafts[0].costs
    assert cost.outcome == Outcome.OVER_BUDGET
    assert re.fullmatch(
        r"Stopped after \S+ seconds: no more was saved up for it, or may be taken at once\.", cost.detail
    )
