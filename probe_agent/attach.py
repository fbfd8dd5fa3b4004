"""attach: the door of the agent, and the only place where it raises."""

import logging
import os
import re
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from probe_agent.budget import Budget
from probe_agent.errors import AttachError
from probe_agent.likelihood import Likelihood, named, recognise
from probe_agent.monitor import Monitor, Subject
from probe_agent.outbox import ListOutbox, Outbox, ZmqOutbox
from probe_agent.presets import standard
from probe_agent.probe import Probe
from probe_agent.probe_set import Inputs, ProbeSet
from probe_agent.run import identify, rank
from probe_agent.schedule import Watch
from probe_agent.snapshot import LossFn, Snapshot, undisturbed
from probe_wire import Hello, Run, WireError, decode_for_collector, encode

logger = logging.getLogger("probe_agent")

DEFAULT_COLLECTOR = "tcp://127.0.0.1:5757"
_ADDRESS = re.compile(r"(tcp://[^:/\s]+:\d{1,5}|tcp://\[[0-9a-fA-F:]+\]:\d{1,5}|ipc://\S+)")


def attach(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    loss_fn: LossFn,
    probe_batch: tuple[Inputs, Tensor],
    run: str,
    collector: str | None = None,
    watches: Sequence[Watch] | None = None,
    budget: Budget | None = None,
    likelihood: str | None = None,
    labels: Mapping[str, str] | None = None,
    seed: int = 0,
    step: int = 0,
    outbox: Outbox | None = None,
) -> Monitor:
    """Watch ``model`` learn. One line; the training loop stays as it is.

    The returned Monitor hooks this optimizer's ``step``. Measuring happens on a frozen copy of the
    model in evaluation mode; parameters, gradients, buffers, mode flags, hooks and random streams of
    the training process stay untouched.

    Args:
        model: the network; a compiled or data-parallel wrapper is looked through.
        optimizer: the optimizer whose steps count; it must update parameters of ``model``.
        loss_fn: ``loss_fn(model(inputs), targets)`` → the scalar training loss.
        probe_batch: ``(inputs, targets)`` with the samples along the first axis, at least two. The
            same samples are measured every time: when a curve moves, the network moved. A few
            hundred training samples without augmentation are a good choice.
        run: the name people will read.
        collector: the collector's inlet; default ``$PHASEWATCH_COLLECTOR``, else ``tcp://127.0.0.1:5757``.
        watches: which probes follow which schedule; default `presets.standard`.
        budget: how much time probes may take; default 2 % of training beyond the first 20 seconds.
        likelihood: "categorical" or "gaussian" where the loss does not tell by itself which
            distribution p(y | x) it stands for; the true Fisher information is defined by it.
        labels: facts about the run to show beside it, such as ``{"dataset": "mnist"}``.
        seed: of the probes' own random draws, the same at every snapshot.
        step: the number of optimizer steps already taken, when training resumes from a checkpoint.
        outbox: where reports go instead of a collector, such as `ListOutbox()`.

    Raises:
        AttachError: the model, optimizer, loss or probe batch cannot be watched; says why and what to do.
    """
    _check_types(model, optimizer)
    model = unwrapped(model)
    _check_parameters(model, optimizer)
    probe_set = _probe_set(model, probe_batch)
    _check_name(run, labels or {})
    watches = standard() if watches is None else watches
    _check_probes(watches)
    address = collector or os.environ.get("PHASEWATCH_COLLECTOR") or DEFAULT_COLLECTOR
    if not _ADDRESS.fullmatch(address):
        raise AttachError(
            f"Got the collector address {address!r}; need tcp://HOST:PORT or ipc://PATH, such as {DEFAULT_COLLECTOR}."
        )
    if os.environ.get("PHASEWATCH_DISABLE", "").lower() in ("1", "true", "yes", "on"):
        watches, outbox, known = (), ListOutbox(), None
    else:
        known = _try_out(model, probe_set, loss_fn, likelihood, seed, step)
        if known is None:
            logger.warning(
                "phasewatch: the loss is not one of the likelihoods known here (cross-entropy, mean squared error), so the true "
                "Fisher trace and the accuracy are not measured and no critical period can be found. If the model's outputs "
                "are logits or means all the same, pass likelihood='categorical' or likelihood='gaussian' to attach()."
            )

    identity = identify(run, labels or {})
    _check_identity(identity, rank(), step)

    def open_outbox(monitor: Monitor) -> Outbox:
        if outbox is not None:
            return outbox
        watching = weakref.ref(monitor)

        def current_step() -> int:
            alive = watching()
            return step if alive is None else alive.step

        return ZmqOutbox(address, identity, rank(), current_step)

    return Monitor(
        Subject(model, probe_set, loss_fn, known, seed),
        optimizer,
        identity,
        watches,
        budget or Budget(),
        open_outbox,
        step=step,
    )


def unwrapped(model: nn.Module) -> nn.Module:
    """The module behind ``torch.compile`` and data-parallel wrappers: second derivatives need the plain one."""
    while True:
        inner = dict(model.named_children()).get("_orig_mod")
        if inner is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


def _check_types(model: object, optimizer: object) -> None:
    if not isinstance(model, nn.Module):
        raise AttachError(f"Got a model of type {type(model).__name__}; need a torch.nn.Module.")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise AttachError(f"Got an optimizer of type {type(optimizer).__name__}; need a torch.optim.Optimizer.")


def _check_parameters(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    parameters = list(model.parameters())
    if not parameters:
        raise AttachError(f"Got a model without parameters ({type(model).__name__}); there is nothing to watch learn.")
    if any(is_lazy(p) for p in parameters):
        raise AttachError(
            "Got a model with lazy parameters that have no shape yet; run one forward pass before attaching."
        )
    if not any(p.requires_grad for p in parameters):
        raise AttachError(
            "Got a model whose parameters are all frozen (requires_grad=False); unfreeze some before attaching."
        )
    ours = {id(p) for p in parameters}
    if not any(id(p) in ours for group in optimizer.param_groups for p in group["params"]):
        raise AttachError(
            "Got an optimizer that updates none of the model's parameters; pass the optimizer that trains this model "
            "(was the model moved or copied after the optimizer was made?)."
        )


def _probe_set(model: nn.Module, probe_batch: object) -> ProbeSet:
    if not (isinstance(probe_batch, tuple | list) and len(probe_batch) == 2):
        raise AttachError(f"Got a probe batch of type {type(probe_batch).__name__}; need a pair (inputs, targets).")
    inputs, targets = probe_batch
    tensors = _tensors(inputs)
    if not tensors or not isinstance(targets, Tensor) or targets.ndim == 0:
        raise AttachError(
            f"Got a probe batch of {type(inputs).__name__} inputs and {type(targets).__name__} targets; need tensors with the "
            "samples along the first axis (inputs may also be a tuple or dict of tensors)."
        )
    sizes = {t.shape[0] if t.ndim else 0 for t in (*tensors, targets)}
    if len(sizes) != 1 or min(sizes) < 2:
        raise AttachError(
            f"Got a probe batch whose tensors have {sorted(sizes)} samples along the first axis; need the same number, at least 2."
        )
    devices = {t.device for t in (*tensors, targets)}
    home = next(model.parameters()).device
    if devices != {home}:
        raise AttachError(
            f"Got a probe batch on {', '.join(sorted(map(str, devices)))} and a model on {home}; need both on one device: "
            f"pass probe_batch=(inputs.to('{home}'), targets.to('{home}'))."
        )
    # Clones: a loader may reuse the memory of the batch it handed out.
    own: Inputs
    with torch.inference_mode(mode=False):
        if isinstance(inputs, Tensor):
            own = inputs.detach().clone()
        elif isinstance(inputs, dict):
            own = {name: t.detach().clone() for name, t in inputs.items()}
        else:
            own = tuple(t.detach().clone() for t in inputs)
        return ProbeSet(own, targets.detach().clone())


def _tensors(inputs: object) -> list[Tensor]:
    parts: list[Any]
    if isinstance(inputs, Tensor):
        parts = [inputs]
    elif isinstance(inputs, dict):
        parts = list(inputs.values())
    elif isinstance(inputs, tuple | list):
        parts = list(inputs)
    else:
        return []
    return parts if all(isinstance(part, Tensor) for part in parts) else []


def _try_out(
    model: nn.Module, probe_set: ProbeSet, loss_fn: LossFn, likelihood: str | None, seed: int, step: int
) -> Likelihood | None:
    """Evaluate the loss once on a copy, so that what cannot work fails here and not in the night."""
    if not callable(loss_fn):
        raise AttachError(f"Got a loss_fn of type {type(loss_fn).__name__}; need a function of (outputs, targets).")
    before = _versions(model)
    with undisturbed(probe_set.device, seed):
        try:
            snapshot = Snapshot.take(model, step, probe_set, loss_fn, None, seed)
        except Exception as error:
            raise AttachError(
                f"Got a model that cannot be copied ({type(error).__name__}: {error}); need one that copy.deepcopy accepts. "
                "Keep locks, files, generators and trainers out of its attributes."
            ) from error
        try:
            outputs = snapshot.outputs()
        except Exception as error:
            shapes = ", ".join(str(tuple(t.shape)) for t in _tensors(probe_set.inputs))
            raise AttachError(
                f"Got a probe batch the model cannot take: inputs of shape {shapes} raise {type(error).__name__}: {error}. "
                "Pass inputs as the training loop passes them to the model."
            ) from error
        try:
            loss = snapshot.loss_fn(outputs, probe_set.targets)
        except Exception as error:
            raise AttachError(
                f"Got a loss_fn that raises {type(error).__name__} on the probe batch: {error}. "
                "It is called as loss_fn(model(inputs), targets)."
            ) from error
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise AttachError(
                f"Got a loss_fn that returns {got}; need a scalar tensor. Reduce it, for example with .mean()."
            )
        if not loss.requires_grad:
            raise AttachError(
                "Got a loss that does not depend on any trainable parameter; was it computed under no_grad or detached?"
            )
        written = _versions(model) != before
        if written or _depends_on(loss, model):
            raise AttachError(
                "Got a model or a loss_fn that reaches around the copy to the live model "
                f"({'it writes to the parameters or buffers' if written else 'its parameters are part of the loss'}): a wrapped "
                "forward, a module kept in a closure, or a penalty on model.parameters(). Leave that part out of loss_fn, or "
                "have the model compute it from its own attributes."
            )
        try:
            return (
                named(likelihood)
                if likelihood is not None
                else recognise(snapshot.loss_fn, outputs.detach(), probe_set.targets)
            )
        except ValueError as error:
            raise AttachError(str(error)) from error
        except Exception as error:  # noqa: BLE001 - an unusual output is no reason to refuse the run
            logger.debug("phasewatch: the likelihood could not be recognised: %r", error)
            return None


def _versions(model: nn.Module) -> list[int]:
    """Autograd's own counts of in-place writes; tensors made in inference mode have none."""
    return [t._version for t in (*model.parameters(), *model.buffers()) if not t.is_inference()]  # noqa: SLF001


def _depends_on(loss: Tensor, model: nn.Module) -> bool:
    """Whether the copy's loss has a gradient by the live parameters, which it must not."""
    live = [p for p in model.parameters() if p.requires_grad]
    return any(g is not None for g in torch.autograd.grad(loss, live, allow_unused=True, retain_graph=True))


def _check_identity(identity: Run, number: int, step: int) -> None:
    """What a collector would refuse is refused here, where somebody reads it."""
    try:
        decode_for_collector(encode(Hello(identity, number, "trial", 1, step)))
    except (WireError, TypeError) as error:
        raise AttachError(
            f"Got a run the collector would refuse: {error} Check step ({step!r}), PHASEWATCH_RUN_ID ({identity.id!r}; letters, "
            f"digits, '_', '.', ':' and '-', 64 at the most), RANK ({number}) and WORLD_SIZE ({identity.world_size})."
        ) from error


def _check_probes(watches: Sequence[Watch]) -> None:
    named_so: dict[str, Probe] = {}
    for watch in watches:
        for probe in watch.probes:
            if named_so.setdefault(probe.name, probe) != probe:
                raise AttachError(
                    f"Got two different probes named {probe.name!r}; their series could not be told apart. "
                    "Keep one of them, or attach a second monitor under another run name."
                )


def _check_name(run: str, labels: Mapping[str, str]) -> None:
    if not isinstance(run, str) or not 1 <= len(run) <= 200:
        raise AttachError(f"Got the run name {run!r}; need a text of 1 to 200 characters.")
    for name, value in labels.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,99}", name) or not isinstance(value, str) or not 1 <= len(value) <= 200:
            raise AttachError(
                f"Got the label {name!r}: {value!r}; need a lower_case name and a text of 1 to 200 characters."
            )
    if len(labels) > 16:
        raise AttachError(f"Got {len(labels)} labels; need 16 at the most.")
