"""Jobs that end, attach and close in every way, in surroundings that fail; each is run watched and unwatched."""

import gc
import logging
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NoReturn

from tests.integration.small_job import Job, say
from tests.integration.troubled_jobs import plain
from tests.integration.troubled_probes import TROUBLES, Does

# -- ends -----------------------------------------------------------------------------------------


def os_exit(job: Job) -> None:
    plain(job)
    os._exit(5)


def sys_exit(job: Job) -> None:
    plain(job)
    sys.exit(6)


def exception(job: Job) -> None:
    plain(job)
    raise ValueError("the loop's own")


def exception_within(job: Job) -> None:
    with job.watch() or nullcontext():
        job.train()
        job.tell()
        raise ValueError("the loop's own")


# -- attaching and closing ------------------------------------------------------------------------


def attached_twice_and_again(job: Job) -> None:
    first, job.name = job.watch(), f"{job.name}_too"
    second = job.watch()
    job.train(2)
    job.until_heard(first, second)
    for monitor in (first, second):
        if monitor is not None:
            monitor.close()
    job.until_heard(job.watch())
    job.train(4)
    job.until_heard(job.monitor)
    job.close()
    job.tell(places=job.places())


def closed_within_a_step(job: Job) -> None:
    """By the listeners of others, before ours and after, and by another thread."""
    others = [job.optimizer.register_step_pre_hook(lambda *_: None)]
    for _ in range(2):
        job.watch(Does(lambda: _elsewhere(job.close), at=2))
        others.append(job.optimizer.register_step_post_hook(_once_at(2, job.close)))
        others.append(job.optimizer.register_step_pre_hook(_once_at(2, job.close)))
        job.train(3)
        job.watch(Does(lambda: _elsewhere(job.close), at=2))
        job.train(3)
    job.tell(places=job.places())


def _once_at(call: int, what: Callable[[], None]) -> Callable[..., None]:
    calls = iter(range(1000))
    return lambda *_: what() if next(calls) == call else None


def _elsewhere(what: Callable[[], None]) -> None:
    thread = threading.Thread(target=what)
    thread.start()
    thread.join(10)


def optimizer_deleted(job: Job) -> None:
    job.watch()
    job.train()
    job.tell()
    del job.optimizer
    job.monitor = None
    gc.collect()
    deadline = time.monotonic() + 5
    while any(t.name == "phasewatch-outbox" for t in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.05)
    say([t.name for t in threading.enumerate()])


def attached_many_times(job: Job) -> None:
    """Nothing is left of those that were closed, or lost with their optimizers."""
    sizes = []
    for i in range(110 if job.watched else 0):
        job.watch(at_all=False)
        if i % 20 == 0:
            job.close()
            job.optimizer = job.make_optimizer()
        if i % 40 == 21:
            gc.collect()
            time.sleep(0.3)  # the threads of those that were lost look at the clock ten times a second
            fds, tasks = (len(list(Path(f"/proc/self/{kind}").iterdir())) for kind in ("fd", "task"))
            sizes.append((threading.active_count(), fds, tasks))
    job.close()
    job.optimizer = job.make_optimizer()
    job.watch()
    job.train()
    job.tell(sizes=sizes)


def probes_in_trouble(job: Job) -> None:
    job.watch(*TROUBLES)
    job.train()
    job.tell()


# -- surroundings ---------------------------------------------------------------------------------


class Raises(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("no log today")


def _fail() -> NoReturn:
    raise ValueError("a probe's own")


def log_handler_that_raises(job: Job) -> None:
    logging.getLogger().addHandler(Raises())
    job.watch(Does(_fail))
    job.train()
    job.tell()


def stdout_closed(job: Job) -> None:
    os.close(1)
    job.watch(Does(_fail))
    job.train()
    job.tell()
    os.open(os.devnull, os.O_WRONLY)


def stderr_on_a_full_disk(job: Job) -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
    job.watch(Does(_fail))
    job.train()
    job.tell()


def no_file_descriptor_left(job: Job) -> None:
    job.watch()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 20, hard))
    held = []
    with suppress(OSError):
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    job.train()
    time.sleep(0.5)  # long enough to connect again
    for each in held:
        os.close(each)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    job.tell()


JOBS = (
    os_exit,
    sys_exit,
    exception,
    exception_within,
    attached_twice_and_again,
    closed_within_a_step,
    optimizer_deleted,
    attached_many_times,
    probes_in_trouble,
    log_handler_that_raises,
    stdout_closed,
    stderr_on_a_full_disk,
    no_file_descriptor_left,
)
