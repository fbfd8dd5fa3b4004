"""A distributed run before a person's eyes: two ranks, each with an agent of its own, are one run on the page."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from selenium.webdriver import Chrome
from torch import nn

import probe_agent
from probe_agent import Budget, Every, Monitor, Watch
from probe_agent.probes.loss import Loss
from probe_agent.probes.weights import Weights
from tests.browser.test_page import complaints, page, pytestmark, text, until  # noqa: F401 - fixture and mark
from tests.integration.collector_process import CollectorProcess

RANKS = 2
STEPS = 12


def watched(rank: int, inlet: str, patch: pytest.MonkeyPatch) -> Monitor:
    """A rank's share of a job of stages, trained and still watched."""
    patch.setenv("RANK", str(rank))
    torch.manual_seed(rank)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(32, 4), torch.randint(3, (32,))
    monitor = probe_agent.attach(
        model,
        optimizer,
        loss_fn=F.cross_entropy,
        probe_batch=(x, y),
        run="of two ranks",
        watches=[Watch(Every(2), (Loss(), Weights()))],
        budget=Budget(share=1000),
        collector=inlet,
    )
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        monitor.observe(loss=loss)
    return monitor


def ticks_of_a_constant(page: Chrome) -> list[str]:  # noqa: F811
    """What stands beside the axis of a series that is always 131, such as the number of trainable parameters."""
    return list(
        page.execute_async_script(
            "const done = arguments[0];"
            "Promise.all([import('/static/axes.js'), import('/static/format.js')]).then(([axes, format]) =>"
            " done(axes.linearTicks(...axes.linearRange([131, 131], [], false), 4).map(format.tick)))"
        )
    )


def test_the_ranks_of_a_job_are_one_run_with_a_line_each(
    page: Chrome,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"PHASEWATCH_RUN_ID": "two-ranks", "WORLD_SIZE": str(RANKS), "PHASEWATCH_SPOOL": "off"}.items():
        monkeypatch.setenv(name, value)
    with CollectorProcess(tmp_path / "s.db") as collector:
        monitors = [watched(rank, collector.inlet, monkeypatch) for rank in range(RANKS)]
        page.get(collector.page)
        until(lambda: "of two ranks" in text(page, "main"))
        assert len(collector.get("/api/runs")["runs"]) == 1
        page.get(f"{collector.page}/runs/two-ranks")
        until(lambda: "Ranks (2 of 2 heard)" in text(page, "main"))
        assert "ranks2" in text(page, ".run-facts")
        until(lambda: "rank 0" in text(page, "#q-probe_loss") and "rank 1" in text(page, "#q-probe_loss"))
        page.execute_script("document.querySelector('#q-weight_norm').scrollIntoView()")
        until(lambda: "rank 1" in text(page, "#q-weight_norm"))
        page.execute_script(
            "[...document.querySelectorAll('#q-weight_norm button')].find(b => b.textContent === 'layers').click()"
        )
        until(lambda: "rank 0 of 2 drawn" in text(page, "#q-weight_norm"))
        assert len(set(ticks_of_a_constant(page))) > 2
        monitors[1].close()
        until(lambda: "finished" in text(page, "main"))
        monitors[0].close()
        assert complaints(page) == []
