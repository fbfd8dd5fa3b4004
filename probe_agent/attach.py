"""attach: the door of the agent, and the only place where it raises."""

import copy
import os
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import zmq
from torch import Tensor, nn

from probe_agent import collectors, door
from probe_agent.accelerator import settle
from probe_agent.budget import UNLIMITED, Budget
from probe_agent.complaints import warn
from probe_agent.errors import AttachError
from probe_agent.examination import asked_for as examination_asked_for
from probe_agent.foreman import Foreman
from probe_agent.job import Job
from probe_agent.measuring import Subject
from probe_agent.monitor import Monitor
from probe_agent.outbox import ListOutbox, Outbox, ZmqOutbox
from probe_agent.own_loss import own_loss
from probe_agent.own_streams import OwnStreams
from probe_agent.place import Inline, Place, Resting
from probe_agent.probe_set import Inputs
from probe_agent.process import Process
from probe_agent.run import attached, identify, rank
from probe_agent.schedule import Watch, probes_of
from probe_agent.snapshot import LossFn
from probe_agent.steps import listened_to
from probe_agent.undisturbed import undisturbed
from probe_agent.witness import asked_for as witness_asked_for
from probe_wire import Tighten
from probe_wire.agent_key import AgentKey, KeyFileError

_LONG = 1.0
"""Seconds of forward passes after which no further one is timed."""


def attach(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    loss_fn: LossFn | None = None,
    probe_batch: tuple[Inputs, Tensor] | Mapping[str, Tensor],
    run: str,
    test_batch: tuple[Inputs, Tensor] | Mapping[str, Tensor] | None = None,
    ood_batch: tuple[Inputs, Tensor] | Mapping[str, Tensor] | None = None,
    collector: str | None = None,
    watches: Sequence[Watch] | str | None = None,
    budget: Budget | str | None = None,
    where: Process | Literal["inline", "process"] = "inline",
    scaler: torch.amp.GradScaler | None = None,
    likelihood: str | None = None,
    labels: Mapping[str, str] | None = None,
    seed: int = 0,
    step: int = 0,
    outbox: Outbox | None = None,
    tighten: bool = True,
    key: str | os.PathLike[str] | None = None,
) -> Monitor:
    """Watch ``model`` learn. One line; the training loop stays as it is.

    The returned Monitor hooks this optimizer's ``step``. Measuring happens on a frozen copy of the
    model in evaluation mode; parameters, gradients, buffers, mode flags, hooks and random streams of
    the training process stay untouched. In a distributed job it waits up to five seconds for the other ranks' attach.

    Args:
        model: the network; a compiled, data-parallel or framework's wrapper is looked through.
        optimizer: the optimizer whose steps count; it must update parameters of ``model``. A framework's wrapper is looked
            through.
        loss_fn: ``loss_fn(model(inputs), targets)`` → the scalar training loss. Where the model returns an object with
            ``.logits``, or a tuple with one tensor that is no scalar, it may take that or the logits. Without one the loss is the model's own:
            ``model(**inputs, labels=targets).loss``.
        probe_batch: ``(inputs, targets)``, or a dict of both with the targets under "labels"; the samples along the first
            axis, at least two. Inputs are a tensor, a tuple (one argument each) or a dict (by names), which go in as one where
            the model takes only that. The same samples are measured every time: when a curve moves, the network moved. A few
            hundred training samples without augmentation are a good choice.
        run: the name people will read.
        test_batch: the same of inputs that are not trained on: the loss, the accuracy, the calibration and the
            local complexity are measured there too, under ``split="test"``.
        ood_batch: the same of inputs from another distribution (corrupted, shifted), under ``split="ood"``.
        collector: the collector's inlet; default ``$PHASEWATCH_COLLECTOR``, else ``tcp://127.0.0.1:5757``. Of several between
            commas each run has one, chosen by its id.
        watches: which probes follow which schedule, or the name of a preset: "light", "standard" (the default) or "full".
        budget: how much of training's time probes may take, such as "1%", or a `Budget`; default "2%". A part of it may
            be spent in advance, early in training.
        where: "inline" has probes run in the training thread. "process", or a `Process` with
            settings, in a process of their own, on spare cores or another device: training is held up by a copy of the
            weights, and a probe that crashes, hangs or eats all memory cannot reach it.
        scaler: the gradient scaler of mixed precision in float16; the steps it skips are counted and shown.
        likelihood: "categorical", "gaussian" or "bernoulli" where the loss does not tell by itself which
            distribution p(y | x) it stands for; the true Fisher information is defined by it.
        labels: facts about the run to show beside it, such as ``{"dataset": "mnist"}``.
        seed: of the probes' own random draws, the same at every snapshot.
        step: the number of optimizer steps already taken, when training resumes from a checkpoint.
        outbox: where reports go instead of a collector, such as `ListOutbox()`.
        tighten: whether a collector that suspects a transition may have a probe measured more often for a while, within the
            budget.
        key: the file that lets this agent in where the collector asks for keys (``probe-collector keys create`` makes it);
            default ``$PHASEWATCH_KEY``.

    Raises:
        AttachError: the model, optimizer, loss or probe batch cannot be watched; says why and what to do.
    """
    door.check_types(model, optimizer)
    scaler = door.scaler(scaler, optimizer)
    optimizer = door.unwrapped_optimizer(optimizer)
    model = door.unwrapped(model)
    former = _watching(model, optimizer, run)
    if former is None and listened_to(optimizer):
        warn(
            "this optimizer is watched already under another name, or for another model. Each monitor measures by itself and has a "
            "budget of its own; close() the one that is not wanted."
        )
    door.check_parameters(model, optimizer)
    subject = Subject(
        model,
        door.probe_set(model, probe_batch),
        own_loss if loss_fn is None else loss_fn,
        None,
        seed,
        {
            split: door.probe_set(model, batch, f"{split} batch")
            for split, batch in (("test", test_batch), ("ood", ood_batch))
            if batch is not None
        },
    )
    door.check_name(run, labels or {})
    watches = door.watches(watches)
    door.check_probes(watches)
    budget = door.budget(budget)
    among = collectors.addresses(collector or os.environ.get("PHASEWATCH_COLLECTOR") or collectors.DEFAULT)
    witness = witness_asked_for(model, optimizer)
    if (examination := examination_asked_for()) is not None:
        outbox, watches, budget = examination, examination.watches, UNLIMITED
    if witness is not None:
        outbox, budget = witness.outbox, UNLIMITED
    process = None if examination is not None else door.process(where)
    agent_key = _key(key)
    job, identity, number = Job.here(run), identify(run, labels or {}), rank()
    if job is not None:
        identity, number = job.identity(identity), job.rank
    door.check_identity(identity, number, step)
    place: Place = Resting()
    if _switched_off() or (witness is not None and not witness.watching):
        watches, outbox = (), ListOutbox()
    else:
        subject, place = _placed(
            job, subject, watches, step, partial(_tried_out, likelihood=likelihood, step=step), process
        )

    if former is None and not isinstance(place, Resting) and (number == 0 or place.alone()):
        door.warn_of_steps_before(optimizer, step)  # once a job, where it is measured

    def open_outbox(monitor: Monitor) -> Outbox:
        if outbox is not None:
            return outbox
        return _reporting(
            monitor,
            collectors.collector_of(identity.id, among),
            number,
            agent_key,
            tighten=tighten and not isinstance(place, Resting),
        )

    if former is not None:
        warn(
            "this optimizer is watched already under this name, as where a notebook's cell runs again: that run ends here."
        )
        former.close("attached again")
    attached(run)  # before it is told: an interruption of the first measurement leaves a run that has the id
    monitor = Monitor(
        subject, optimizer, identity, watches, budget, open_outbox, place, live=model, scaler=scaler, step=step
    )
    _monitors.add(monitor)
    return monitor


_monitors: "weakref.WeakSet[Monitor]" = weakref.WeakSet()


def _watching(model: nn.Module, optimizer: torch.optim.Optimizer, run: str) -> Monitor | None:
    """The monitor that watches both under this name."""
    if not listened_to(optimizer):  # such as in a forked child
        return None
    return next((m for m in _monitors.copy() if m.run.name == run and m.watches(model, optimizer)), None)


def _placed(
    job: Job | None,
    subject: Subject,
    watches: Sequence[Watch],
    step: int,
    try_out: Callable[[Subject], Subject],
    process: Process | None,
) -> tuple[Subject, Place]:
    """The subject, tried out, and where it is measured."""
    probes = probes_of(watches)
    streams = OwnStreams(subject.model, subject.loss_fn)

    def tried(subject: Subject) -> Subject:
        found = try_out(subject)
        streams.keep_drawn(lambda: _evaluated(found, step))
        with streams.put_back():
            return found if process else replace(found, seconds=_seconds(found, step))

    def place_of(subject: Subject) -> Place:
        return Inline(probes, streams) if process is None or not probes else Foreman(subject, probes, process)

    if job is None:
        subject = tried(subject)
        return subject, place_of(subject)
    from probe_agent.muster import mustered  # noqa: PLC0415 - what it needs of torch.distributed takes half a second

    return mustered(job, subject, watches, step, tried, place_of, divide=process is None)


def _reporting(monitor: Monitor, address: str, number: int, key: AgentKey | None, *, tighten: bool) -> ZmqOutbox:
    """Reports to a collector, and passes on its wishes; does not keep the monitor alive."""
    watching, first = weakref.ref(monitor), monitor.step

    def current_step() -> int:
        alive = watching()
        return first if alive is None else alive.step

    def wish(wish: Tighten) -> None:
        alive = watching()
        if alive is not None:
            alive.wish(wish)

    return ZmqOutbox(address, monitor.run, number, current_step, wish=wish if tighten else None, key=key)


def _tried_out(subject: Subject, likelihood: str | None, step: int) -> Subject:
    subject = door.tried_out(subject, likelihood, step)
    if _is_of_parameters_it_holds(subject, step):
        raise AttachError(
            f"Got a loss_fn, a {type(subject.loss_fn).__name__}, that holds the model and is a function of its parameters beside the outputs: "
            "a penalty would count in the loss and in none of its derivatives. Leave that part out of loss_fn, or have the model compute it "
            "from its own attributes."
        )
    return subject


def _evaluated(subject: Subject, step: int) -> object:
    """The loss as it is measured, once."""
    with undisturbed(subject.probe_set.device, subject.seeded), torch.no_grad():
        return subject.snapshot(step).loss()


def _seconds(subject: Subject, step: int) -> float:
    """What a forward pass of the probe batch takes: the shortest of three, for something else may have been going on meanwhile.

    Of what takes long one tells enough: attach is waited for, by other ranks too.
    """
    device, took = subject.probe_set.device, list[float]()
    # What cannot be evaluated is told where it is needed.
    with suppress(Exception), undisturbed(device, subject.seeded), torch.no_grad():
        snapshot = subject.snapshot(step)
        settle(device)
        while len(took) < 3 and sum(took) < _LONG:
            began = time.perf_counter()
            snapshot.loss()
            settle(device)
            took.append(time.perf_counter() - began)
    return min(took, default=0.0)


def _is_of_parameters_it_holds(subject: Subject, step: int) -> bool:
    """Whether the loss is a module that has the model itself at hand and makes use of its parameters, such as for a penalty."""
    if not isinstance(subject.loss_fn, nn.Module):
        return False
    memo: dict[int, Any] = {}
    with (
        undisturbed(subject.probe_set.device, subject.seeded),
        suppress(Exception),
    ):  # what cannot be tried is told where it is needed
        own = copy.deepcopy(subject.loss_fn, memo)
        held = [memo[id(p)] for p in subject.model.parameters() if p.requires_grad and id(p) in memo]
        if not held:
            return False
        snapshot = subject.snapshot(step)
        loss = own(snapshot.outputs(), snapshot.probe_set.targets)
        of_each = torch.autograd.grad(loss, held, allow_unused=True)
        return any(bool(g.any()) for g in of_each if g is not None)
    return False


def _key(file: str | os.PathLike[str] | None) -> AgentKey | None:
    named = file or os.environ.get("PHASEWATCH_KEY")
    if not named:
        return None
    if not zmq.has("curve"):
        raise AttachError(
            "Got a key, but this build of ZeroMQ cannot encrypt. Install pyzmq from its wheels: pip install pyzmq"
        )
    try:
        return AgentKey.load(Path(named))
    except (KeyFileError, TypeError, ValueError) as error:
        raise AttachError(str(error)) from error


def _switched_off() -> bool:
    return os.environ.get("PHASEWATCH_DISABLE", "").lower() in ("1", "true", "yes", "on")
