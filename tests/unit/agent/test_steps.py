"""Listening to an optimizer's steps, telling interruptions from failures, and what is said of either."""

import functools
import logging
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

import pytest
import torch
import torch._dynamo.testing
from torch import nn

from probe_agent import steps as steps_module
from probe_agent.complaints import CAUSES, Complaints, said
from probe_agent.interruption import is_interruption
from probe_agent.steps import Count, Steps


def optimizer() -> torch.optim.Optimizer:
    model = nn.Linear(2, 2)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    return torch.optim.SGD(model.parameters(), lr=0.1)


def places(of: torch.optim.Optimizer) -> tuple[int, int]:
    return len(of._optimizer_step_pre_hooks), len(of._optimizer_step_post_hooks)


def test_who_stops_between_two_steps_leaves_no_place_behind() -> None:
    sgd, heard = optimizer(), []
    steps = Steps(sgd, lambda: heard.append("before"), lambda: heard.append("after"))
    sgd.step()
    steps.stop()
    steps.stop()
    sgd.step()
    assert heard == ["before", "after"]
    assert places(sgd) == (0, 0)


def test_who_stops_within_a_step_lets_others_hear_it_and_the_next_one_clears_the_places() -> None:
    sgd, heard = optimizer(), []
    steps = Steps(sgd, lambda: heard.append("ours"), lambda *_: steps.stop())
    sgd.register_step_post_hook(lambda *_: heard.append("theirs"))
    sgd.step()
    sgd.step()
    assert heard == ["ours", "theirs", "theirs"]
    assert places(sgd) == (1, 2), "places that nobody is in"
    Steps(sgd, lambda *_: None, lambda *_: None)
    assert places(sgd) == (1, 2), "they went, and another came"


def test_a_step_at_which_nothing_is_due_costs_two_calls_of_functions_that_call_none() -> None:
    sgd, count, heard, called = optimizer(), Count(), [], []
    Steps(sgd, lambda: heard.append("before"), lambda: heard.append("after"), count)
    count.near, count.due = 2, 3

    def note(frame: FrameType, event: str, _: object) -> None:
        called.append((event, frame.f_code.co_filename))

    for _ in range(3):
        called.clear()
        sys.setprofile(note)
        sgd.step()
        sys.setprofile(None)
        ours = [event for event, file in called if file == steps_module.__file__]
        if count.step < 2:
            assert ours == ["call", "return"] * 2
            assert heard == []
    assert count.step == 3
    assert heard == ["before", "after"]


@pytest.mark.parametrize("due", [0, 10**9], ids=["due", "nothing due"])
@pytest.mark.filterwarnings("ignore")  # the compiler's own, of what it imports
def test_of_a_step_that_is_compiled_no_more_and_no_less_is_compiled_and_listeners_run_as_they_are(due: int) -> None:
    heard: list[object] = []

    def listen() -> None:
        with torch.inference_mode(mode=False):  # what the compiler cannot take
            heard.append(torch.compiler.is_compiling())

    def frames(*, listened_to: bool) -> int:
        torch._dynamo.reset()
        count.near = count.due = due
        counter, sgd = torch._dynamo.testing.CompileCounter(), optimizer()
        steps = Steps(sgd, listen, listen, count) if listened_to else None

        @torch.compile(backend=counter)
        def step() -> None:
            sgd.step()

        for _ in range(3):
            step()
        if steps:
            steps.stop()
        return int(counter.frame_count)

    count = Count()
    assert frames(listened_to=True) == frames(listened_to=False) > 0
    assert heard == [False] * (0 if due else 6)
    assert count.step == 3


def test_another_thread_may_stop_while_a_step_is_under_way() -> None:
    sgd, heard = optimizer(), []

    def elsewhere(*_: object) -> None:
        thread = threading.Thread(target=steps.stop)
        thread.start()
        thread.join()

    sgd.register_step_post_hook(elsewhere)
    steps = Steps(sgd, lambda: heard.append("before"), lambda: heard.append("after"))
    sgd.step()
    sgd.step()
    assert heard == ["before"]


def test_an_optimizer_that_is_gone_is_no_trouble() -> None:
    steps = Steps(optimizer(), lambda *_: None, lambda *_: None)
    steps.stop()


class Preempted(Exception):
    pass


class Handler:
    def method(self, number: int, _: object) -> NoReturn:
        raise Preempted

    __call__ = method


def handle(number: int, _: object, text: str = "") -> NoReturn:
    raise Preempted(text)


@pytest.mark.parametrize(
    "handler", [handle, Handler(), Handler().method, functools.partial(handle, text="now"), lambda *_: handle(0, None)]
)
def test_what_a_signal_handler_raises_is_an_interruption_of_any_type(handler: signal.Handlers) -> None:
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(Preempted) as caught:
            signal.raise_signal(signal.SIGUSR1)
        assert is_interruption(caught.value)
        wrapped = RuntimeError("an estimator's own words")
        wrapped.__cause__ = caught.value
        assert is_interruption(wrapped)
        later = ValueError("raised while the handler's was being handled")
        later.__context__ = caught.value
        assert not is_interruption(later)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_ctrl_c_and_an_exit_are_interruptions_and_nothing_else_is() -> None:
    assert is_interruption(KeyboardInterrupt())
    assert is_interruption(SystemExit(3))
    for error in (ValueError(), MemoryError(), RecursionError(), GeneratorExit(), Preempted()):
        assert not is_interruption(error)


def test_an_exception_that_cannot_be_put_into_words_is_told_by_its_type() -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert said(Unspeakable()).startswith("Unspeakable: (it raises")
    assert said(ValueError("\ud800")) == "ValueError: ?"
    assert said(ValueError()) == "ValueError"


def test_causes_of_complaints_have_a_cap(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    complain = Complaints()
    for i in range(CAUSES + 50):
        complain(f"cause {i}", "it failed.")
    assert len(complain.counts) == CAUSES + 1
    assert complain.counts["others"] == 50
    assert caplog.messages[0].startswith("phasewatch: it failed. Training goes on")
