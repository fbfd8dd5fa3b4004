"""Jobs that start processes of their own and are interrupted in every way; each is run watched and unwatched."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import NoReturn

import torch
import torch.nn.functional as F  # noqa: N812

from tests.integration.small_job import STEPS, Job, say
from tests.integration.troubled_probes import Does


class Preempted(Exception):
    """The cluster takes the machine away."""


def plain(job: Job) -> None:
    job.watch()
    job.train()
    job.tell()


def plain_and_closed(job: Job) -> None:
    plain(job)
    job.close()
    say("done")


def while_the_world_changes(job: Job) -> None:
    job.watch()
    job.train()
    job.reach()
    job.train()
    job.tell()


# -- processes ------------------------------------------------------------------------------------


class Squares(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
    def __len__(self) -> int:
        return 48

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.rand(6), i % 3  # from the worker's own stream


def data_loader_workers(job: Job) -> None:
    job.watch()
    for _ in range(2):
        for x, y in torch.utils.data.DataLoader(Squares(), 16, shuffle=True, num_workers=2):
            job.optimizer.zero_grad()
            F.cross_entropy(job.model(x), y).backward()
            job.optimizer.step()
    job.tell()


def process_pool(job: Job) -> None:
    job.watch()
    job.train(3)
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        say(sum(pool.map(abs, range(-50, 0))))
    worker = context.Process(target=job.train)
    worker.start()
    worker.join(20)
    say(f"child {worker.exitcode}")
    job.train(3)
    job.tell()


def forked_children_that_train_on(job: Job) -> None:
    """Each child owns the watched optimizer, and ends in a way of its own."""
    job.watch(Does(lambda: job.leave(f"probed-{os.getpid()}"), at=5))
    job.train(3)
    for end in (partial(sys.exit, 3), partial(os._exit, 4), partial(divmod, 1, 0), job.close):
        pid = os.fork()
        if pid == 0:
            job.train(4)
            if job.monitor is not None:
                job.monitor.observe(loss=1.0)
            end()
            sys.exit(0)
        say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    job.train(3)
    job.tell(parent=os.getpid(), probed=[int(found.name.split("-")[1]) for found in job.folder.glob("probed-*")])


def spawned(job: Job) -> None:
    job.watch()
    job.train(3)
    workers = [
        multiprocessing.get_context(kind).Process(target=print, args=(kind,)) for kind in ("spawn", "forkserver")
    ]
    for worker in workers:
        worker.start()
        worker.join(60)
        say(worker.exitcode)
    job.train(3)
    job.tell()


# -- interruptions --------------------------------------------------------------------------------


def _interrupt(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)


def _once(what: Callable[[], object]) -> Callable[[], None]:
    """Once in the life of the job, wherever it is asked for."""
    ahead = [what]

    def do() -> None:
        while ahead:
            ahead.pop()()

    return do


def _interrupted(job: Job, number: int, *caught: type[BaseException]) -> None:
    """Training meets a signal inside the probe of step 3, or after that step where no probe runs, and goes on if it catches it."""
    strike = _once(lambda: _interrupt(number))
    job.watch(Does(strike))
    for i in range(STEPS):
        try:
            job.step()
            if i == 2:
                strike()
        except caught as error:
            say(f"caught {type(error).__name__}")
    job.tell()


def ctrl_c(job: Job) -> None:
    try:
        _interrupted(job, signal.SIGINT)
    finally:
        job.tell()


def ctrl_c_that_is_caught(job: Job) -> None:
    _interrupted(job, signal.SIGINT, KeyboardInterrupt)


def ctrl_c_between_steps(job: Job) -> None:
    job.watch()
    job.train()
    job.tell()
    _interrupt()


def sigterm(job: Job) -> None:
    job.watch(Does(lambda: _interrupt(signal.SIGTERM)))
    job.train(2)
    job.tell()
    job.train(1)
    _interrupt(signal.SIGTERM)


def sigterm_that_exits(job: Job) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    try:
        _interrupted(job, signal.SIGTERM)
    finally:
        job.tell()


def _preempted(*_: object) -> NoReturn:
    raise Preempted


def sigterm_that_raises_what_the_script_catches(job: Job) -> None:
    signal.signal(signal.SIGTERM, _preempted)
    _interrupted(job, signal.SIGTERM, Preempted)


def sigterm_that_closes(job: Job) -> None:
    signal.signal(signal.SIGTERM, lambda *_: job.close())
    _interrupted(job, signal.SIGTERM)


JOBS = (
    plain,
    plain_and_closed,
    while_the_world_changes,
    data_loader_workers,
    process_pool,
    forked_children_that_train_on,
    spawned,
    ctrl_c,
    ctrl_c_that_is_caught,
    ctrl_c_between_steps,
    sigterm,
    sigterm_that_exits,
    sigterm_that_raises_what_the_script_catches,
    sigterm_that_closes,
)
