"""Memory that is refused is no end of watching: it is asked for again, less and less often, and by all ranks alike."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import nn

import probe_agent
from probe_agent import Budget, Every, ListOutbox, Watch
from probe_agent.gang import Gang
from probe_agent.probes.loss import Loss
from probe_agent.probes.weights import Weights
from probe_agent.room import Respite
from probe_agent.shards import Refused, Shards
from probe_agent.update_rule import UpdateRule
from probe_wire import Outcome


class Greedy(nn.Linear):
    """A copy of it is refused while memory is short."""

    short = False
    asked = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Linear:
        self.asked += 1
        if self.short:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        copied = nn.Linear(3, 2)
        copied.load_state_dict(self.state_dict())
        return copied


def test_memory_that_was_refused_is_asked_for_less_and_less_often() -> None:
    model, outbox = Greedy(3, 2), ListOutbox()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = probe_agent.attach(
        model,
        optimizer,
        loss_fn=F.cross_entropy,
        probe_batch=(torch.ones(4, 3), torch.tensor([0, 1, 0, 1])),
        run="test",
        watches=[Watch(Every(1), (Loss(), Weights()))],
        budget=Budget(share=1000),
        outbox=outbox,
    )
    model.short, asked = True, []
    for _ in range(40):
        monitor.observe(rate=0.1)
        before = model.asked
        optimizer.step()
        if model.asked > before:
            asked.append(monitor.step)
    assert asked == [1, 3, 7, 15, 31]
    assert monitor._recorder is not None
    assert not monitor._recorder._before, "nor are weights kept for what will not be measured"
    short = outbox.drafts[1:]
    assert [draft.step for draft in short] == list(range(1, 41))
    assert {cost.outcome for draft in short for cost in draft.costs} == {Outcome.OUT_OF_MEMORY}
    assert "no snapshot: OutOfMemoryError" in short[2].costs[0].detail
    assert short[-1].costs[0].detail == ("Memory was refused 5 times in a row; it is asked for again from step 63 on.")
    assert all(any("rate" in str(column) for _, column, _ in draft.columns) for draft in short), "the loop is heard"
    assert monitor.snapshots_skipped == 40 - len(asked)
    model.short = False
    for _ in range(24):
        optimizer.step()
    assert [draft.step for draft in outbox.drafts if draft.costs[0].outcome == Outcome.OK] == [0, 63, 64]
    assert [cost.outcome for cost in outbox.drafts[63].costs] == [Outcome.OK] * 2, "their updates were recorded in time"
    monitor.close()


def test_what_was_granted_again_is_refused_once_before_it_is_asked_for_less() -> None:
    respite = Respite()
    respite.note(10, 5, refused=True)
    respite.note(20, 5, refused=True)
    assert respite.why(39)
    assert not respite.why(40)
    respite.note(40, 5, refused=False)
    respite.note(45, 5, refused=True)
    assert "1 times in a row; it is asked for again from step 55 on" in respite.why(54)


Rule = Callable[[], UpdateRule | None]


def a_rule(updates: int) -> UpdateRule:
    tensors = {"weight": torch.ones(2, 3)}
    return UpdateRule(
        optimizer="Adam", kind="adam", learning_rates={}, preconditioner=tensors, updates=(tensors,) * updates
    )


def together(shards: list[Shards], *rules: Rule) -> list[Any]:
    """What each rank makes of its rule, or the error it meets."""

    def of_rank(mine: Shards, rule: Rule) -> Any:
        try:
            return mine.agreed(rule, joined=True)
        except Refused as error:
            return error

    with ThreadPoolExecutor(2) as ranks:
        return list(ranks.map(of_rank, shards, rules))


@pytest.fixture
def shards() -> list[Shards]:
    store = dist.HashStore()
    return [Shards(nn.Linear(3, 2), Gang(rank, 2, store)) for rank in range(2)]


def test_a_rank_that_finds_no_memory_for_its_rule_is_refused_with_all_others_and_all_try_again(
    shards: list[Shards],
) -> None:
    def none_left() -> UpdateRule:
        raise torch.OutOfMemoryError("CUDA out of memory")

    for error in together(shards, lambda: a_rule(2), none_left):
        assert (str(error), error.outcome) == (
            "rank 1: OutOfMemoryError: CUDA out of memory",
            Outcome.OUT_OF_MEMORY,
        )
    first, other = together(shards, lambda: a_rule(2), lambda: a_rule(2))
    assert (len(first.updates), len(other.updates)) == (2, 2)


def test_an_optimizer_that_cannot_be_read_on_one_rank_is_a_failure_on_all(shards: list[Shards]) -> None:
    def unreadable() -> UpdateRule:
        raise KeyError("exp_avg_sq")

    for error in together(shards, unreadable, lambda: a_rule(2)):
        assert (str(error), error.outcome) == ("rank 0: KeyError: 'exp_avg_sq'", Outcome.FAILED)


def test_ranks_go_by_the_steps_that_all_of_them_have_seen(shards: list[Shards]) -> None:
    first, other = together(shards, lambda: a_rule(2), lambda: a_rule(1))
    assert (len(first.updates), len(other.updates)) == (1, 1)
    assert together(shards, lambda: a_rule(2), lambda: None) == [None, None]


def test_a_rule_is_not_copied_where_there_is_no_room_for_it(
    shards: list[Shards], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("probe_agent.shards._whole_bytes", lambda _model: 2**60)
    for error in together(shards, lambda: pytest.fail("it was copied"), lambda: a_rule(2)):
        assert "rank 0: MemoryError: Got" in str(error)
        assert error.outcome is Outcome.OUT_OF_MEMORY
