"""Ranks that talk through a store, each in a thread of its own: what they say, whom they wait for and for how long."""

import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, final

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from probe_agent import job as job_module
from probe_agent.accord import Accord
from probe_agent.gang import Dissolved, Gang
from probe_agent.job import Job
from probe_agent.joint_probe_set import joint
from probe_agent.measuring import Subject
from probe_agent.parts import Parts
from probe_agent.place import Choice
from probe_agent.probe import Measurement, Memory, Summed, Sums
from probe_agent.probe_set import ProbeSet
from probe_agent.probes.fisher_trace import FisherTrace
from probe_agent.probes.weights import Weights
from probe_agent.running_statistics import from_bytes, running_statistics, to_bytes
from probe_agent.undisturbed import streams
from probe_wire import Outcome


def each(size: int, does: Callable[[Gang], Any], store: Any = None) -> list[Any]:
    """What every rank's call gave; an exception is what it gave, too."""
    store = store or dist.HashStore()

    def one(rank: int) -> Any:
        try:
            return does(Gang(rank, size, store))
        except Dissolved as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))


def test_every_rank_hears_every_rank_in_order_and_nothing_is_left_in_the_store_but_the_last_words() -> None:
    store = dist.HashStore()

    def talk(gang: Gang) -> list[list[bytes]]:
        return [gang.exchange(f"{gang.rank} {i}".encode()) for i in range(20)]

    expected = [[f"{rank} {i}".encode() for rank in range(3)] for i in range(20)]
    assert each(3, talk, store) == [expected] * 3
    assert store.num_keys() <= 2 * 3 * 2


def test_rank_0_collects_what_the_others_say_without_their_waiting_and_long_words_travel_in_parts() -> None:
    long = os.urandom(9 * 2**20)  # more than the server of a TCPStore takes at once
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def talk(gang: Gang) -> list[bytes]:
        words = gang.collect(long if gang.rank == 1 else b"")
        gang.exchange(b"")
        return words

    assert each(2, talk, store) == [[b"", long], []]


def test_a_rank_that_has_left_is_not_waited_for_and_nobody_waits_twice() -> None:
    def talk(gang: Gang) -> Any:
        gang.exchange(b"hello")
        if gang.rank == 1:
            gang.leave("it has stopped")
            return None
        began = time.monotonic()
        with pytest.raises(Dissolved, match="rank 1: it has stopped"):
            gang.exchange(b"more", 30)
        with pytest.raises(Dissolved, match="rank 1: it has stopped"):
            gang.collect(b"more", 30)
        return time.monotonic() - began < 10

    assert each(3, talk) == [True, None, True]


def test_what_a_rank_said_before_it_left_is_heard() -> None:
    def talk(gang: Gang) -> Any:
        words = gang.collect(str(gang.rank).encode(), 30)
        if gang.rank:
            gang.leave("it has finished")
        return words

    for _ in range(20):
        assert each(3, talk) == [[b"0", b"1", b"2"], [], []]


class Hasty:
    """A store in which rank 1 says its word and leaves just when somebody looks whether it has left."""

    def __init__(self) -> None:
        self._store = dist.HashStore()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def check(self, keys: list[str]) -> bool:
        if keys == ["left/1"]:
            for key, value in (("1/1/0", "word"), ("1/1", "1"), ("left/1", "it has finished")):
                self._store.set(key, value)
        return self._store.check(keys)


def test_a_rank_that_speaks_and_leaves_between_two_looks_is_heard() -> None:
    assert Gang(0, 2, Hasty()).collect(b"", 5) == [b"", b"word"]


def test_a_rank_that_does_not_come_is_waited_for_as_long_as_was_said_and_named() -> None:
    def talk(gang: Gang) -> Any:
        return None if gang.rank == 1 else gang.exchange(b"", 0.2)

    first, _, third = each(3, talk)
    assert str(first) == "waited 0.2 s in vain for rank 1" or str(first) == str(third)
    assert isinstance(third, Dissolved)


def test_all_ranks_measure_on_as_many_samples_as_rank_0_can_pay_for() -> None:
    probe = FisherTrace()

    def agree(gang: Gang) -> Choice:
        return Accord(gang, [probe], str).on(3, Choice([probe], [], 0, (), {probe.name: gang.rank + 2}))

    assert [choice.halved for choice in each(3, agree)] == [{probe.name: 2}] * 3


def test_a_rank_that_cannot_add_up_its_part_of_a_model_is_an_outcome_with_its_name() -> None:
    model, batch = nn.Linear(2, 2), ProbeSet(torch.zeros(2, 2), torch.zeros(2))

    def measure(gang: Gang) -> list[tuple[int, str]]:
        parts, subject = Parts(model, gang, [Weights()]), Subject(model, batch, nn.MSELoss(), None, 0)
        (well,) = parts.findings(subject, 0, [Weights()], None)
        model.weight = nn.Parameter(torch.zeros(3, 3))  # of another shape than it started from
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


def test_a_claim_is_won_by_one_rank() -> None:
    def claims(gang: Gang) -> list[bool]:
        return [gang.claim(f"probe {i}") for i in range(50)]

    for won in zip(*each(4, claims), strict=True):
        assert sum(won) == 1


def test_in_a_forked_child_the_gang_is_no_more_and_the_parent_does_not_notice() -> None:
    gang = Gang(0, 1, dist.HashStore())
    gang.exchange(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of newer Pythons, where threads run
        child = os.fork()
    if child == 0:
        try:
            gang.exchange(b"")
        except Dissolved:
            gang.leave("a child")
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert gang.exchange(b"still here") == [b"still here"]


def met(arrive: list[float], monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each rank found the others, when it arrives after so many seconds."""
    monkeypatch.setattr(job_module, "MEETING_SECONDS", 0.5)
    store = dist.HashStore()

    def one(rank: int) -> bool:
        threading.Event().wait(arrive[rank])
        return Job(rank, len(arrive), store).meet() is not None

    with ThreadPoolExecutor(len(arrive)) as pool:
        return list(pool.map(one, range(len(arrive))))


def test_ranks_that_all_come_are_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert met([0.0, 0.1, 0.2], monkeypatch) == [True, True, True]


def test_when_one_comes_too_late_each_is_alone_also_the_late_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert met([0.0, 0.0, 1.0], monkeypatch) == [False, False, False]


def test_without_a_process_group_there_is_no_job() -> None:
    assert Job.here("run") is None


def a_set(of: int, n: int = 6, width: int = 3) -> ProbeSet:
    made = torch.Generator().manual_seed(of)
    return ProbeSet(
        {"x": torch.randn(n, width, generator=made), "m": torch.ones(n, 2).bool()}, torch.arange(n) + 10 * of
    )


def joined(sets: list[dict[str, ProbeSet]]) -> list[dict[str, ProbeSet]]:
    return each(len(sets), lambda gang: joint(gang, sets[gang.rank]))


def test_the_joint_set_holds_the_inputs_of_all_ranks_in_their_order_once_each() -> None:
    one, two = a_set(1), a_set(2)
    found = joined([{"": one, "test": two}, {"": two}, {"": one}])
    for sets in found:
        assert sets[""].targets.tolist() == [*one.targets.tolist(), *two.targets.tolist()]
        assert torch.equal(sets[""].inputs["x"], torch.cat([one.inputs["x"], two.inputs["x"]]))
        assert sets[""].inputs["m"].dtype is torch.bool
        assert torch.equal(sets["test"].targets, two.targets)


def test_a_batch_of_another_form_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found = joined([{"": a_set(1)}, {"": a_set(2, width=4)}])
    assert [sets[""].targets.tolist() for sets in found] == [a_set(1).targets.tolist()] * 2


def test_beyond_its_cap_the_joint_set_is_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probe_agent.joint_probe_set.MOST_INPUTS", 6)
    first, second = joined([{"": a_set(0)}, {"": a_set(1)}])
    assert first[""].targets.tolist() == second[""].targets.tolist() == [0, 2, 4, 10, 12, 14]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_running_statistics_are_packed_to_the_bit(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).to(dtype)
    model(torch.randn(8, 2, dtype=dtype))
    statistics: dict[str, Tensor] = running_statistics(model)
    assert list(statistics) == ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    copied = from_bytes(to_bytes(statistics), statistics)
    assert all(torch.equal(copied[name], b) and copied[name].dtype == b.dtype for name, b in statistics.items())
