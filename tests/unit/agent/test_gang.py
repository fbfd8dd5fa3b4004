"""Ranks that talk through a store, each in a thread of its own: what they say, whom they wait for and for how long."""

import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from probe_agent import job as job_module
from probe_agent.accord import Accord
from probe_agent.gang import Dissolved, Gang
from probe_agent.job import Job
from probe_agent.joint_probe_set import joint
from probe_agent.place import Choice
from probe_agent.probe_set import ProbeSet
from probe_agent.probes.fisher_trace import FisherTrace
from probe_agent.running_statistics import from_bytes, running_statistics, to_bytes
from probe_wire import Outcome
from tests.gangs import each


def test_every_rank_hears_what_rank_0_made_of_the_words_of_all_and_only_its_last_answer_is_left_in_the_store() -> None:
    store = dist.HashStore()

    def talk(gang: Gang) -> list[bytes]:
        return [gang.agree(f"{gang.rank} {i}".encode(), b", ".join) for i in range(20)]

    expected = [f"0 {i}, 1 {i}, 2 {i}".encode() for i in range(20)]
    assert each(3, talk, store) == [expected] * 3
    assert store.num_keys() == 1


def test_every_rank_has_an_answer_of_its_own() -> None:
    def talk(gang: Gang) -> bytes:
        return gang.ask(str(gang.rank).encode(), lambda words: [b"to " + word for word in words])

    assert each(3, talk) == [b"to 0", b"to 1", b"to 2"]


class Counting:
    """A real store, and how many requests were made of it and how many bytes went to and fro."""

    def __init__(self) -> None:
        self._store = dist.HashStore()
        self.requests, self.bytes = 0, 0

    def __getattr__(self, name: str) -> Any:
        does = getattr(self._store, name)

        def counted(*args: Any) -> Any:
            found = does(*args)
            if name != "check":  # how often it is looked whether something is there is a matter of time
                self.requests += 1
                self.bytes += len(repr(args)) + len(repr(found))
            return found

        return counted


def test_what_is_asked_of_the_store_grows_with_the_ranks_and_not_with_their_square() -> None:
    def cost(size: int) -> tuple[float, float]:
        def talk(gang: Gang) -> None:
            for _ in range(5):
                gang.agree(b"w" * 1000, lambda _: b"a" * 1000)
                gang.collect(b"w" * 1000)

        store = Counting()
        each(size, talk, store)
        return store.requests / size, store.bytes / size

    (few, small), (many, large) = cost(3), cost(24)
    assert many < 1.5 * few
    assert large < 1.5 * small


def test_after_hundreds_of_rounds_and_lines_the_store_holds_no_more_keys_than_after_a_few() -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    held: list[int] = []
    gangs = [Gang(rank, 2, store.clone()) for rank in range(2)]  # whoever waits keeps a connection to itself

    def talk(gang: Gang) -> None:
        for i in range(200):
            gang.ask(bytes(2**20 + i), lambda words: words) if i == 100 else gang.agree(b"", lambda _: b"")
            gang.collect(b"word")
            if i % 10 == 0:
                with gang.line("tensors") as line:
                    tensor = [torch.zeros(3)]
                    (line.send(tensor, 0, 0) if gang.rank else line.recv(tensor, 1, 0)).wait()
            if gang.rank == 0 and i % 100 == 5:
                held.append(store.num_keys())

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(talk, gangs))
    assert max(held) <= 6


def test_rank_0_collects_what_the_others_say_without_their_waiting_and_long_words_travel_in_parts() -> None:
    long = os.urandom(9 * 2**20)  # more than the server of a TCPStore takes at once
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def talk(gang: Gang) -> list[bytes]:
        words = gang.collect(long if gang.rank == 1 else b"")
        gang.agree(b"", lambda _: b"")
        return words

    assert each(2, talk, store) == [[b"", long], []]
    assert store.num_keys() == 1


def test_a_rank_that_has_left_is_not_waited_for_and_nobody_waits_twice() -> None:
    def talk(gang: Gang) -> Any:
        gang.agree(b"hello", lambda _: b"")
        if gang.rank == 1:
            gang.leave("it has stopped")
            return None
        began = time.monotonic()
        with pytest.raises(Dissolved, match="rank 1: it has stopped"):
            gang.agree(b"more", lambda _: b"", 30)
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
        if keys == ["left"]:
            self._store.set("left", "")
        if keys == ["left/1"]:
            for key, value in (("1/1", "1:word"), ("left/1", "it has finished")):
                self._store.set(key, value)
        return self._store.check(keys)


def test_a_rank_that_speaks_and_leaves_between_two_looks_is_heard() -> None:
    assert Gang(0, 2, Hasty()).collect(b"", 5) == [b"", b"word"]


def test_a_rank_that_does_not_come_is_waited_for_as_long_as_was_said_and_named() -> None:
    def talk(gang: Gang) -> Any:
        return None if gang.rank == 1 else gang.agree(b"", lambda _: b"", 0.2)

    first, _, third = each(3, talk)
    assert isinstance(first, Dissolved)
    assert str(first) == str(third) == "waited 0.2 s in vain for rank 1"


class Interrupting:
    """A real store on which Ctrl-C strikes while an answer is waited for."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def check(self, keys: list[str]) -> bool:
        if keys == ["1/to/-1"]:
            raise KeyboardInterrupt
        return self._store.check(keys)


def test_a_rank_that_is_interrupted_in_a_round_is_not_waited_for_in_the_next() -> None:
    store = dist.HashStore()
    first, other = Gang(0, 2, store), Gang(1, 2, Interrupting(store))
    with pytest.raises(KeyboardInterrupt):
        other.agree(b"", lambda _: b"")
    first.agree(b"", lambda _: b"")
    with pytest.raises(Dissolved, match="rank 1: KeyboardInterrupt"):
        first.collect(b"", 30)
    with pytest.raises(Dissolved, match="rank 1: KeyboardInterrupt"):
        other.collect(b"")


def test_of_many_ranks_that_do_not_come_the_first_are_named() -> None:
    with pytest.raises(Dissolved, match=r"waited 0 s in vain for ranks 1, 2, 3, 4, 5 and 295 more$"):
        Gang(0, 301, dist.HashStore()).collect(b"", 0.0)


def test_where_rank_0_finds_that_the_ranks_differ_all_of_them_say_how() -> None:
    def agree(gang: Gang) -> Any:
        accord = Accord(gang, [FisherTrace()], lambda: "same")
        choice = accord.on(4 + 2 * (gang.rank == 2), Choice([FisherTrace()], [], 0))
        (told,) = accord.untold()
        return len(choice.probes), told.cost.probe, told.cost.outcome, told.cost.detail, accord.untold()

    why = "the ranks do not watch together (they differ in step (ranks 0, 1: 4, rank 2: 6)); rank"
    assert each(3, agree) == [
        (1, "ranks", Outcome.FAILED, f"{why} 0 goes on alone, with all probes", []),
        (0, "ranks", Outcome.FAILED, f"{why} 1 measures no more", []),
        (0, "ranks", Outcome.FAILED, f"{why} 2 measures no more", []),
    ]


def test_all_ranks_measure_on_as_many_samples_as_rank_0_can_pay_for() -> None:
    probe = FisherTrace()

    def agree(gang: Gang) -> Choice:
        return Accord(gang, [probe], str).on(3, Choice([probe], [], 0, (), {probe.name: gang.rank + 2}))

    assert [choice.halved for choice in each(3, agree)] == [{probe.name: 2}] * 3


def test_a_claim_is_won_by_one_rank() -> None:
    def claims(gang: Gang) -> list[bool]:
        return [gang.claim(f"probe {i}") for i in range(50)]

    for won in zip(*each(4, claims), strict=True):
        assert sum(won) == 1


def test_in_a_forked_child_the_gang_is_no_more_and_the_parent_does_not_notice() -> None:
    gang = Gang(0, 1, dist.HashStore())
    gang.agree(b"", lambda _: b"")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of newer Pythons, where threads run
        child = os.fork()
    if child == 0:
        try:
            gang.agree(b"", lambda _: b"")
        except Dissolved:
            gang.leave("a child")
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert gang.agree(b"still here", b"".join) == b"still here"


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


def test_a_joint_set_of_named_tuples_is_one() -> None:
    class Batch(NamedTuple):
        x: Tensor
        m: Tensor

    found = joined([{"": ProbeSet(Batch(*of.inputs.values()), of.targets)} for of in (a_set(1), a_set(2))])
    assert [(type(sets[""].inputs), len(sets[""].inputs.x)) for sets in found] == [(Batch, 12)] * 2


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
