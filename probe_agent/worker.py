"""Worker: the program of the process that probes run in, where they do not run in the training process.

It lives for the training process: it goes when that goes, it is the first to go when memory runs out, it takes
only time that nobody else wants, and what hangs in it ends it. A `Foreman` starts it and talks to it.
"""

import copy
import ctypes
import faulthandler
import math
import os
import resource
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from probe_agent.complaints import said
from probe_agent.measuring import Measuring
from probe_agent.parcel import SharedFile, unpacked
from probe_agent.process import Process
from probe_agent.room import kernel_bytes

READY = "ready"

_PR_SET_PDEATHSIG = 1


def main(channel: int, given: int, snapshot: int, last_words: int, parent: int) -> None:
    """Measure what comes through the channel until it is closed.

    Args:
        channel: descriptor of the connection to the foreman.
        given: of the shared memory of what stays the same.
        snapshot: of that of the model at one step.
        last_words: of the file for a traceback when this process ends by a signal or hangs.
        parent: the training process.
    """
    faulthandler.enable(last_words, all_threads=False)
    _go_with(parent)
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal's Ctrl-C and a scheduler's notice are for training
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    with suppress(OSError):
        os.nice(10)  # while it starts: at the lowest priority it might never begin on a busy machine
    connection = Connection(channel)
    process, body = connection.recv()
    device = torch.device(process.device)
    _limit(process)
    subject, probes = unpacked(body, SharedFile(given), device)
    subject = copy.deepcopy(subject)
    measuring = Measuring(probes, most=process.seconds)
    memory = SharedFile(snapshot)
    connection.send(READY)
    _stand_back()
    while True:
        try:
            step, names, body = connection.recv()
        except EOFError:
            return
        faulthandler.dump_traceback_later(process.patience, exit=True, file=last_words)
        try:
            model, loss_fn, rule, halved = unpacked(body, memory, device)
        except Exception as error:  # noqa: BLE001 - a module of the script's that cannot be imported here
            faulthandler.cancel_dump_traceback_later()
            connection.send(said(error))
            continue
        connection.send(READY)
        at = replace(subject, model=model, loss_fn=loss_fn, halved=halved)
        own = partial(copy.deepcopy, rule)  # probes may keep parts of a rule
        wanted = [probe for name in names for probe in probes if probe.name == name]
        for finding in measuring.findings(at, step, wanted, own, lambda: math.inf):
            faulthandler.dump_traceback_later(process.patience, exit=True, file=last_words)
            connection.send(finding)
        faulthandler.cancel_dump_traceback_later()


def _go_with(parent: int) -> None:
    """End when the training process does, also when stopped, or hanging where no Python runs; be the first to go without memory."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it was gone before that
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file of a model is no use to anybody
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _watch(parent: int) -> None:
    """End this process when the training process is gone, however it went."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _stand_back() -> None:
    """Take only processor time that nobody else wants: each thread that is there, and those they start."""
    with suppress(OSError, AttributeError):
        for thread in Path("/proc/self/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(thread.name), 19)
            os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))


def _limit(process: Process) -> None:
    """Refuse this process memory beyond its part, so that a probe that asks for too much gets an error and not the machine."""
    if process.memory is not None:
        with suppress(OSError, ValueError):
            used = kernel_bytes("/proc/self/status", "VmData:").get("VmData:", 0)
            most = used + process.memory
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    if process.threads is not None:
        torch.set_num_threads(process.threads)


def run() -> None:
    """The program: its arguments are those of `main`. What it dies of is its last words."""
    arguments = list(map(int, sys.argv[1:]))
    try:
        main(*arguments)
    except BaseException:
        os.write(arguments[3], traceback.format_exc().encode())
        raise
