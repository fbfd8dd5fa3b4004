"""attach() once more on the same optimizer: a cell that runs again goes on with one run, and others are others."""

import gc
import logging
import weakref
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import probe_agent
from probe_agent import AttachError, ListOutbox, Watch
from probe_agent.monitor import Monitor
from probe_agent.probes.loss import Loss
from probe_agent.schedule import Every
from probe_agent.snapshot import LossFn

X, Y = torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1])


class Cell:
    """A notebook's cell: a model, its optimizer, and the outboxes of those that were attached, by name."""

    def __init__(self) -> None:
        self.model = nn.Linear(3, 2)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.outboxes: list[ListOutbox] = []

    def attach(self, run: str = "cell", *, steps: int = 0, loss_fn: LossFn = F.cross_entropy) -> Monitor:
        self.outboxes.append(ListOutbox())
        monitor = probe_agent.attach(
            *(self.model, self.optimizer),
            loss_fn=loss_fn,
            probe_batch=(X, Y),
            run=run,
            watches=[Watch(Every(1), (Loss(),))],
            outbox=self.outboxes[-1],
        )
        for _ in range(steps):
            self.optimizer.step()
        return monitor

    def steps(self) -> list[list[int]]:
        return [[draft.step for draft in outbox.drafts] for outbox in self.outboxes]


def test_a_cell_that_runs_again_ends_the_run_of_before(caplog: pytest.LogCaptureFixture) -> None:
    cell = Cell()
    for _ in range(3):
        cell.attach(steps=2)  # nobody keeps the monitor to close it
    assert cell.steps() == [[0, 1, 2]] * 3
    assert [outbox.closed for outbox in cell.outboxes] == ["attached again", "attached again", None]
    assert caplog.text.count("watched already under this name") == 2
    cell.attach().close()
    caplog.clear()
    cell.attach().close()
    assert caplog.text == ""


def test_a_run_of_another_name_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    cell = Cell()
    one = cell.attach("one")
    cell.attach("other", steps=1)
    assert cell.steps() == [[0, 1], [0, 1]]
    assert "watched already under another name" in caplog.text
    one.close()
    caplog.clear()
    with caplog.at_level(logging.WARNING, "probe_agent"):
        cell.attach("one", steps=1)
    assert "under another name" in caplog.text
    assert cell.steps() == [[0, 1], [0, 1, 2], [0, 1]]


def test_two_models_of_one_optimizer_go_on_beside_each_other_also_under_one_name() -> None:
    models, outboxes = [nn.Linear(3, 2), nn.Linear(3, 2)], [ListOutbox(), ListOutbox()]
    optimizer = torch.optim.SGD([p for model in models for p in model.parameters()], lr=0.1)
    settings = {"loss_fn": F.cross_entropy, "probe_batch": (X, Y), "watches": [Watch(Every(1), (Loss(),))]}
    for model, outbox in zip(models, outboxes, strict=True):
        probe_agent.attach(model, optimizer, run="both", outbox=outbox, **settings)  # type: ignore[arg-type]
    optimizer.step()
    assert [[draft.step for draft in outbox.drafts] for outbox in outboxes] == [[0, 1], [0, 1]]


def test_who_is_refused_leaves_the_run_of_before_alone() -> None:
    cell = Cell()
    cell.attach()
    with pytest.raises(AttachError, match="Got watches"):
        probe_agent.attach(
            cell.model, cell.optimizer, loss_fn=F.cross_entropy, probe_batch=(X, Y), run="cell", watches="all"
        )
    cell.optimizer.step()
    assert cell.steps() == [[0, 1]]
    assert cell.outboxes[0].closed is None


def test_of_one_id_in_the_environment_each_name_of_a_process_is_a_run_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for given in ("job-7", "x" * 64):
        monkeypatch.setenv("PHASEWATCH_RUN_ID", given)
        first, other, again, once_more = (Cell().attach(run).run.id for run in ("one", "other", "one", "other"))
        assert first == again == given
        assert other == once_more != given
        assert other.startswith(given[:55])
        assert len(other) <= 64


def test_who_is_refused_takes_no_id_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHASEWATCH_RUN_ID", "job-8")
    with pytest.raises(AttachError, match="Got a loss_fn that raises"):
        Cell().attach("wrong", loss_fn=lambda *_: {}["x"])
    assert Cell().attach("right").run.id == "job-8"


def test_who_is_interrupted_while_it_measures_first_keeps_the_id_it_is_known_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PHASEWATCH_RUN_ID", "job-10")
    with monkeypatch.context() as during:
        during.setattr(Loss, "measure", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Cell().attach("interrupted")
    assert Cell().attach("other").run.id != "job-10"
    assert Cell().attach("interrupted").run.id == "job-10"


def test_a_monitor_says_what_it_watches_and_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHASEWATCH_RUN_ID", "job-9")
    monitor = Cell().attach(steps=2)
    assert repr(monitor) == "<Monitor of 'cell' (job-9): watching, step 2, 3 reports>"
    monitor.close()
    assert repr(monitor) == "<Monitor of 'cell' (job-9): closed, step 2, 3 reports>"
    assert monitor.closed


def test_jobs_whose_long_ids_begin_alike_share_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for given in (60 * "x" + "-1", 60 * "x" + "-2"):
        monkeypatch.setenv("PHASEWATCH_RUN_ID", given)
        found |= {Cell().attach(run).run.id for run in ("one", "other")}
    assert len(found) == 4


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_who_resumes_and_does_not_say_so_is_told(
    kind: type[torch.optim.Optimizer], caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Linear(3, 2)
    optimizer = kind(model.parameters(), lr=0.1)  # type: ignore[call-arg]
    for _ in range(3):
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
    for step in (3, 0):
        assert caplog.text == ""
        settings = {"watches": [], "outbox": ListOutbox(), "step": step}
        probe_agent.attach(model, optimizer, loss_fn=F.cross_entropy, probe_batch=(X, Y), run="r", **settings).close()  # type: ignore[arg-type]
    assert ("has taken 3 steps already" in caplog.text and "pass step=3" in caplog.text) is (kind is torch.optim.Adam)


@pytest.mark.parametrize("variable", [{"PHASEWATCH_DISABLE": "1"}, {"RANK": "1", "WORLD_SIZE": "2"}, {}])
def test_steps_before_are_told_of_where_it_is_measured_and_nowhere_else(
    variable: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cell = Cell()
    cell.optimizer = torch.optim.Adam(cell.model.parameters())
    F.cross_entropy(cell.model(X), Y).backward()
    cell.optimizer.step()
    for name, value in variable.items():
        monkeypatch.setenv(name, value)
    cell.attach()
    assert ("has taken 1 steps already" in caplog.text) is ("PHASEWATCH_DISABLE" not in variable)


def test_what_is_watched_is_not_kept_alive_by_it() -> None:
    cell = Cell()
    alive = weakref.ref(cell.attach())
    del cell
    gc.collect()
    assert alive() is None
