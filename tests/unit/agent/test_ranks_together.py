"""What ranks find together: of a model in parts, and where one of them lacks something or started elsewhere."""

import time
from collections.abc import Iterator
from typing import Any, ClassVar, final

import pytest
import torch
import torch.distributed as dist
from torch import nn

import probe_agent
from probe_agent import ListOutbox
from probe_agent.accord import Accord
from probe_agent.gang import Gang
from probe_agent.job import Job
from probe_agent.lead import Lead
from probe_agent.likelihood import Categorical
from probe_agent.measuring import Subject
from probe_agent.muster import mustered
from probe_agent.parts import Parts
from probe_agent.place import Choice, Inline, Resting
from probe_agent.probe import Measurement, Memory, Summed, Sums
from probe_agent.probe_set import ProbeSet
from probe_agent.probes.loss import Loss
from probe_agent.probes.weights import Weights
from probe_agent.schedule import Every, Watch
from probe_agent.shards import Shards
from probe_agent.team import Team
from probe_agent.undisturbed import streams
from probe_agent.update_rule import UpdateRule
from probe_wire import Outcome
from tests.gangs import each


def test_a_rank_that_cannot_add_up_its_part_of_a_model_is_an_outcome_with_its_name() -> None:
    model, batch = nn.Linear(2, 2), ProbeSet(torch.zeros(2, 2), torch.zeros(2))

    def measure(gang: Gang) -> list[tuple[int, str]]:
        parts, subject = Parts(model, gang, [Weights()]), Subject(model, batch, nn.MSELoss(), None, 0)
        (well,) = parts.findings(subject, 0, [Weights()], None)
        model.weight = nn.Parameter(torch.zeros(2, 2, device="meta"))  # of which no number can be read
        (ill,) = parts.findings(subject, 1, [Weights()], None)
        return [(found.cost.outcome, found.cost.detail) for found in (well, ill)]

    [[(well, _), (ill, why)]] = each(1, measure)
    assert (well, ill) == (Outcome.OK, Outcome.FAILED)
    assert "rank 0: FAILED: RuntimeError" in why


@final
class Streams(Summed):
    """Sums nothing, slowly; remembers where the random streams were meanwhile."""

    name: ClassVar = "streams"
    quantities: ClassVar = ()
    during: ClassVar[list[Any]] = []

    def sums(self, parameters: Any, updates: Any, step: int, memory: Memory) -> Sums:
        time.sleep(0.02)
        self.during.append(streams(torch.device("cpu")))
        return {}

    def of(self, sums: Sums, rule: Any, trainable: int, memory: Memory) -> Iterator[Measurement]:
        return iter(())


def found_by_shards(gang: Gang, rules: list[Any]) -> list[list[tuple[str, int, str]]]:
    """What this rank reports of each of several steps, given what its optimizer tells then; an exception is raised."""
    model, batch = nn.Linear(2, 2), ProbeSet(torch.zeros(2, 2), torch.zeros(2))
    subject = Subject(model, batch, nn.MSELoss(), None, 0)
    accord = Accord(gang, [Weights()], str, alone=False)
    lead = Lead(accord, None, Shards(model, gang, whole=False), Parts(model, gang, [Weights()]))

    def rule(of: Any) -> UpdateRule | None:
        if isinstance(of, Exception):
            raise of
        step = {name: torch.ones_like(p) for name, p in model.named_parameters()}
        return UpdateRule(optimizer="SGD", kind="gradient", learning_rates={}, updates=(step,) * of)

    found = [lead.measure(subject, i, [Weights()], lambda of=of: rule(of), lambda: 1.0) for i, of in enumerate(rules)]  # type: ignore[misc]
    return [[(f.cost.probe, f.cost.outcome, f.cost.detail) for f in step.result()] for step in found]


def test_an_optimizer_that_one_rank_cannot_read_is_an_outcome_on_rank_0_and_all_go_on() -> None:
    given = [[2, 2], [ZeroDivisionError("by that rank"), 2]]
    first, other = each(2, lambda gang: found_by_shards(gang, given[gang.rank]))
    why = "no snapshot: rank 1: ZeroDivisionError: by that rank"
    assert first == [[("weights", Outcome.FAILED, why)], [("weights", Outcome.OK, "")]]
    assert other == [[], []]


def test_where_one_rank_did_not_keep_the_last_steps_the_others_say_so_once_and_the_rest_is_measured() -> None:
    given = [[2, 2, 2, 2], [0, 2, 0, 2]]
    first, other = each(2, lambda gang: found_by_shards(gang, given[gang.rank]))
    told = "a rank did not keep the weights before the last steps, see its log; without them updates are not measured"
    well = ("weights", Outcome.OK, "")
    assert first == [[well, ("ranks", Outcome.FAILED, told)], [well], [well], [well]]
    assert other == [[], [], [], []]


def test_replicas_that_start_at_different_steps_are_measured_by_rank_0_and_it_is_told_how_they_differ() -> None:
    store = dist.HashStore()
    torch.manual_seed(0)
    model, batch = nn.Linear(2, 2), ProbeSet(torch.zeros(4, 2), torch.zeros(4, 2))

    def attach(gang: Gang) -> Any:
        subject, watches = Subject(model, batch, nn.MSELoss(), None, 0), [Watch(Every(2), (Weights(),))]
        job = Job(gang.rank, 2, store)
        _, place = mustered(
            job, subject, watches, 10 * gang.rank, lambda s: s, lambda _: Inline([Weights()]), divide=True
        )
        chosen = place.agreed(4, Choice([Weights()], [], 0)).probes
        found = place.measure(subject, 4, chosen, lambda: None, lambda: 1.0).result()
        return [(f.cost.probe, f.cost.detail) for f in found]

    first, other = each(2, attach)
    told = "the ranks do not watch together (they differ in step (rank 0: 0, rank 1: 10)); rank"
    assert first == [("weights", ""), ("ranks", f"{told} 0 goes on alone, with all probes")]
    assert other == [("ranks", f"{told} 1 measures no more")]


def test_padding_that_only_one_rank_has_is_counted_on_none() -> None:
    store, model, batch = dist.HashStore(), nn.Linear(2, 2), ProbeSet(torch.zeros(4, 2), torch.ones(4).long())

    def attach(gang: Gang) -> Any:
        known = Categorical(ignored=0) if gang.rank else Categorical()
        subject, job = Subject(model, batch, nn.CrossEntropyLoss(ignore_index=0), known, 0), Job(gang.rank, 2, store)
        found, place = mustered(job, subject, [], 0, lambda s: s, lambda _: Inline([]), divide=True)
        assert isinstance(place, Team)
        return found.likelihood

    assert each(2, attach) == [Categorical(ignored=0)] * 2


def test_a_rank_that_is_interrupted_while_it_measures_is_not_waited_for() -> None:
    batch = ProbeSet(torch.zeros(4, 2), torch.zeros(4, 2))

    def measure(gang: Gang) -> Any:
        team = Team(Accord(gang, [Weights()], str), 2, Inline([Weights()]))
        if gang.rank:
            with pytest.raises(KeyboardInterrupt):
                team.measure(Subject(Interrupted(2), batch, nn.MSELoss(), None, 0), 1, [Weights()], dict, lambda: 1.0)
            return None
        gang.claim("weights")
        model = nn.BatchNorm1d(2)
        found = team.measure(Subject(model, batch, nn.MSELoss(), None, 0), 1, [Weights()], lambda: None, lambda: 1.0)
        return [(f.cost.probe, f.cost.outcome, f.cost.detail) for f in found.result()]

    told = "the ranks do not watch together (rank 1: KeyboardInterrupt); rank 0 goes on alone, with all probes"
    assert each(2, measure)[0] == [("weights", Outcome.OK, ""), ("ranks", Outcome.FAILED, told)]


class Interrupted(nn.BatchNorm1d):
    def named_buffers(self, *_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt


def test_a_rank_on_which_nothing_is_measured_keeps_no_weights_and_tells_of_no_samples(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = probe_agent.attach(
        model,
        optimizer,
        loss_fn=nn.MSELoss(),
        probe_batch=(torch.ones(4, 2), torch.zeros(4, 2)),
        run="test",
        watches=[Watch(Every(2), (Weights(), Loss()))],
        outbox=ListOutbox(),
    )
    monitor._place = Resting()
    monitor._purse.portions.halved = {"loss": 1}
    optimizer.step()
    optimizer.step()
    monitor.close()
    assert monitor._recorder is None
    assert "samples" not in caplog.text


def test_what_adding_up_and_waiting_took_is_what_the_probe_is_expected_to_take() -> None:
    model, batch = nn.Linear(2, 2), ProbeSet(torch.zeros(2, 2), torch.zeros(2))
    parts, probe = Parts(model, Gang(0, 1, dist.HashStore()), [Streams()]), Streams()
    (found,) = parts.findings(Subject(model, batch, nn.MSELoss(), None, 0), 0, [probe], None)
    assert parts.seconds(probe) == found.cost.seconds >= 0.02


def test_ranks_that_add_up_their_parts_seed_no_random_stream() -> None:
    model, batch = nn.Linear(2, 2), ProbeSet(torch.zeros(2, 2), torch.zeros(2))
    before = streams(torch.device("cpu"))
    parts = Parts(model, Gang(0, 1, dist.HashStore()), [Streams()])
    list(parts.findings(Subject(model, batch, nn.MSELoss(), None, 0), 0, [Streams()], None))
    assert Streams.during[-1] == before == streams(torch.device("cpu"))
