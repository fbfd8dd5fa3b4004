"""Jobs unlike most: graphs that come as a whole, optimizers that step by other methods, runs nobody closes."""

import gc
import logging
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import probe_agent
from probe_agent import Every, ListOutbox, Monitor, NotApplicable, Probe, ProbeSet, Snapshot, Watch
from probe_agent.errors import Indivisible
from probe_agent.estimators import curvature_draws, hessian_trace
from probe_agent.estimators.graph_memory import bytes_of_a_sample
from probe_agent.likelihood import Categorical, Gaussian, Likelihood
from probe_agent.outbox import ZmqOutbox
from probe_agent.probes.fisher_batch import FisherBatch
from probe_agent.probes.fisher_trace import FisherTrace
from probe_agent.probes.gradient_subspace import GradientSubspace
from probe_agent.probes.hessian_trace import HessianTrace
from probe_agent.probes.local_complexity import LocalComplexity
from probe_agent.probes.local_learning_coefficient import LocalLearningCoefficient
from probe_agent.probes.loss import Loss
from probe_agent.probes.sharpness import Sharpness
from probe_agent.scalars import Scalars
from probe_agent.steps import Count
from probe_agent.stream import Stream, Tally
from probe_wire import Advice, Goodbye, Losses, Outcome, Run, decode_for_collector
from tests import warm
from tests.one_report import SEED, LossFn, X, Y, classifier, made, measured

# -- graphs ---------------------------------------------------------------------------------------


class Graph(nn.Module):
    """Every node sees its neighbours, by edges that it holds: the nodes come all together."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 8), nn.Linear(8, 3)
        edges = torch.randint(24, (2, 60), generator=torch.Generator().manual_seed(0))
        self.sources, self.targets = nn.Buffer(edges[0]), nn.Buffer(edges[1])

    def forward(self, x: Tensor) -> Tensor:
        def gathered(h: Tensor) -> Tensor:
            return h.index_add(0, self.targets, h[self.sources])

        found: Tensor = self.outer(gathered(F.relu(self.inner(gathered(x)))))
        return found


def snapshot_of(model: nn.Module, loss: LossFn) -> Snapshot:
    return Snapshot.take(model, 0, ProbeSet(X, Y), loss, Categorical(), SEED)


def test_of_a_graph_that_comes_whole_is_measured_what_needs_no_part_of_it_and_the_rest_says_why() -> None:
    few = LocalLearningCoefficient(chains=2, burn_in=20, draws=20)
    _, costs = measured(
        made(Graph), F.cross_entropy, Y, FisherTrace(), FisherBatch(), HessianTrace(), LocalComplexity(), few
    )
    for probe in ("fisher_trace", "fisher_batch", "local_complexity"):
        assert costs[probe].outcome is Outcome.NOT_APPLICABLE, probe
        assert "IndexError: index" in costs[probe].detail
    assert costs["hessian_trace"].outcome is Outcome.OK
    assert costs["local_learning_coefficient"].outcome in (Outcome.OK, Outcome.NOT_CONVERGED)


def test_another_number_of_samples_that_a_model_refuses_is_said_in_its_own_words() -> None:
    snapshot = snapshot_of(made(Graph), F.cross_entropy)
    with pytest.raises(
        Indivisible, match=r"refuses a batch of 5 .* 24 samples .*IndexError: index \d+ is out of bounds"
    ):
        snapshot.outputs(inputs=X[:5])
    with pytest.raises(Indivisible, match="refuses a batch of 5"):
        snapshot.loss_of(snapshot.probe_set.part(slice(5)))
    assert bytes_of_a_sample(snapshot) > 0


def test_what_the_whole_probe_set_raises_stays_what_it_is() -> None:
    snapshot = snapshot_of(made(lambda: nn.Linear(5, 3)), F.cross_entropy)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        snapshot.outputs()


@pytest.mark.parametrize(
    ("probe", "module", "words"),
    [(Sharpness(), curvature_draws, "curvatures"), (HessianTrace(), hessian_trace, "trace")],
)
def test_an_error_that_cannot_be_known_is_told_of_once_with_the_reason(
    probe: Probe, module: Any, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    module._complain.counts.clear()
    with caplog.at_level(logging.WARNING, "probe_agent"):
        for _ in range(2):
            measured(made(Graph), F.cross_entropy, Y, probe)
    (told,) = [record.getMessage() for record in caplog.records]
    assert words in told
    assert "standard error" in told
    assert "IndexError: index" in told


@pytest.mark.parametrize("known", [None, Gaussian()])
def test_classes_that_are_not_known_of_are_not_blamed_on_the_targets(known: Likelihood | None) -> None:
    snapshot = Snapshot.take(made(classifier), 0, ProbeSet(X, Y), F.cross_entropy, known, SEED)
    with pytest.raises(
        NotApplicable, match=r"Got a loss (that is not a known|of a gaussian) likelihood; .* attach\(likelihood="
    ):
        next(GradientSubspace().measure(snapshot, {}))


# -- steps that are not seen ----------------------------------------------------------------------


class TwoSteps(torch.optim.SGD):
    """Takes its steps by methods of its own, as SAM does."""

    @torch.no_grad()
    def first_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(p.grad, alpha=0.05)

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad, alpha=0.1)


def watched(optimizer: torch.optim.Optimizer, model: nn.Module, **more: Any) -> Monitor:
    every: dict[str, Any] = {"watches": [Watch(Every(1), (Loss(),))], "outbox": ListOutbox()}
    return probe_agent.attach(
        model, optimizer, loss_fn=F.cross_entropy, probe_batch=(X, Y), run="test", **(every | more)
    )


def stepped(model: nn.Module, optimizer: TwoSteps) -> None:
    F.cross_entropy(model(X), Y).backward()
    optimizer.first_step()
    optimizer.second_step()


UNSEEN = "no step() of the TwoSteps was seen"


@pytest.mark.parametrize("ending", ["closed", "gone"])
def test_weights_that_change_without_a_step_are_told_of_once(ending: str, caplog: pytest.LogCaptureFixture) -> None:
    model = made(classifier)
    optimizer = TwoSteps(model.parameters(), lr=0.1)
    monitor = watched(optimizer, model)
    stepped(model, optimizer)
    with caplog.at_level(logging.WARNING, "probe_agent"):
        if ending == "closed":
            monitor.close()
            assert UNSEEN in caplog.text, "at once"
        del monitor, optimizer
        gc.collect()
    told = [record.getMessage() for record in caplog.records if UNSEEN in record.getMessage()]
    assert len(told) == 1
    assert "base_optimizer" in told[0]


def test_nothing_is_told_where_steps_are_seen_or_nothing_was_learned(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "probe_agent"):
        for learn in (False, True):
            model = made(classifier)
            optimizer = TwoSteps(model.parameters(), lr=0.1)
            with watched(optimizer, model):
                F.cross_entropy(model(X), Y).backward()
                if learn:
                    optimizer.step()
    assert not [record for record in caplog.records if "was seen" in record.getMessage()]


def test_a_job_that_closes_nothing_is_told_at_its_end_and_one_that_is_not_watched_never() -> None:
    job = (
        "from tests.unit.agent.test_odd_jobs import *; import logging; logging.basicConfig()\n"
        "model = made(classifier); optimizer = TwoSteps(model.parameters(), lr=0.1)\n"
        "monitor = watched(optimizer, model); stepped(model, optimizer)\n"
    )
    for disabled in ("0", "1"):
        off = f"import os; os.environ['PHASEWATCH_DISABLE'] = '{disabled}'\n"
        ended = subprocess.run(
            [*warm.command(warm.AGENT), "-c", off + job], capture_output=True, text=True, timeout=120, check=True
        )
        assert (UNSEEN in ended.stderr) == (disabled == "0"), ended.stderr


# -- the last words -------------------------------------------------------------------------------


def test_the_goodbye_tells_of_the_whole_run_also_where_nobody_is_left_to_ask() -> None:
    count, scalars = Count(7), Scalars()
    tally = Tally(count, scalars)
    stream = Stream(
        Run("run-1", "test", "host", 1, 0.0), 0, lambda: 7, tightens=False
    )  # as whoever asks a monitor that is gone
    stream.tally = tally
    count.step, tally.snapshots_skipped, scalars.dropped = 200, 3, 2
    goodbye = decode_for_collector(stream.goodbye("abandoned", 1, 4).data)
    assert isinstance(goodbye, Goodbye)
    assert (goodbye.step, goodbye.losses) == (200, Losses(4, 3, 2))
    assert stream.hello(1).step == 200


def test_a_run_that_is_abandoned_between_two_reports_says_how_far_it_came(tmp_path: Path) -> None:
    outbox = ZmqOutbox("tcp://127.0.0.1:9", Run("run-1", "test", "host", 1, 0.0), 0, lambda: 0, root=tmp_path)
    model = made(classifier)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = watched(optimizer, model, outbox=outbox, watches=[Watch(Every(100), (Loss(),))])
    for _ in range(3):
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
    del monitor, optimizer
    gc.collect()
    goodbye = decode_for_collector(outbox._stream.goodbye("abandoned", 9, 0).data)
    assert isinstance(goodbye, Goodbye)
    assert goodbye.step == 3


class Advising(ListOutbox):
    """Hands out one piece of advice without words."""

    def advice(self) -> list[Advice]:
        return [Advice("plateau", "before", "settled", 3, 4, 0.9, "info", "", "by the loss")]


def test_advice_without_words_is_told_as_the_transition_it_is_about(caplog: pytest.LogCaptureFixture) -> None:
    model = made(classifier)
    with caplog.at_level(logging.INFO, "probe_agent"):
        probe_agent.attach(
            model,
            torch.optim.SGD(model.parameters(), lr=0.1),
            loss_fn=F.cross_entropy,
            probe_batch=(X, Y),
            run="test",
            watches=[Watch(Every(1), (Loss(),))],
            outbox=Advising(),
        ).close()
    assert "phasewatch: step 0: plateau: before → settled" in caplog.messages
