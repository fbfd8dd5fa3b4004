"""The door of the agent: what attach() is given, checked while somebody reads the answer."""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from probe_agent.budget import Budget
from probe_agent.complaints import warn
from probe_agent.errors import AttachError
from probe_agent.frozen_copy import HALF
from probe_agent.measuring import Subject
from probe_agent.own_loss import LABELS, looked_through, own_loss, with_labels
from probe_agent.presets import PRESETS
from probe_agent.probe import Probe
from probe_agent.probe_set import ProbeSet, each, tensors_of
from probe_agent.process import Process
from probe_agent.recognition import chosen, leaving_out
from probe_agent.schedule import Watch
from probe_agent.snapshot import Snapshot
from probe_agent.steps import has_places
from probe_agent.undisturbed import drawing, rewinder, undisturbed
from probe_wire import Hello, Run, WireError, decode_for_collector, encode


def unwrapped(model: nn.Module) -> nn.Module:
    """The module behind ``torch.compile``, Lightning Fabric and data-parallel wrappers: second derivatives need the plain one."""
    while True:
        children = dict(model._modules.items())  # noqa: SLF001 - Fabric holds one module under two names, and named_children tells one
        inner = children.get("_original_module" if "_forward_module" in children else "_orig_mod")
        if inner is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


def unwrapped_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer behind a framework's wrapper, one that torch never initialised: its steps are those that are taken."""
    inner: Any = optimizer
    while isinstance(inner, torch.optim.Optimizer) and "defaults" not in vars(inner):
        inner = getattr(inner, "optimizer", None)
    if not isinstance(inner, torch.optim.Optimizer) or not has_places(inner):
        raise AttachError(
            f"Got an optimizer of type {type(optimizer).__name__} that wraps another and takes no steps of its own; need "
            "the torch.optim.Optimizer inside it."
        )
    if not hasattr(type(inner).step, "hooked"):  # torch marks so what it has made to tell of its steps
        warn(
            f"torch may not tell of the steps of this {type(inner).__name__}; if none are seen, attach to what is inside."
        )
    return inner


def warn_of_steps_before(optimizer: torch.optim.Optimizer, step: int) -> None:
    """Warn where the optimizer's state tells of steps and nobody has said that training resumes: the run would begin at 0 again."""
    with suppress(Exception):  # a state is whatever an optimizer makes of it
        taken = next((int(state["step"]) for state in optimizer.state.values() if "step" in state), 0)
        if taken > 0 and step == 0:
            warn(
                f"this optimizer has taken {taken} steps already, and the run begins at step 0. Where training resumes from a checkpoint, "
                f"pass step={taken} to attach()."
            )


def scaler(given: object, optimizer: torch.optim.Optimizer) -> torch.amp.GradScaler | None:
    """The gradient scaler that was given, or that a framework's wrapper of the optimizer holds."""
    found = getattr(optimizer, "scaler", None) if given is None else given
    if given is not None and not isinstance(given, torch.amp.GradScaler):
        raise AttachError(f"Got a scaler of type {type(given).__name__}; need a torch.amp.GradScaler.")
    return found if isinstance(found, torch.amp.GradScaler) else None


def check_types(model: object, optimizer: object) -> None:
    """Refuse what is no model or no optimizer."""
    if not isinstance(model, nn.Module):
        raise AttachError(f"Got a model of type {type(model).__name__}; need a torch.nn.Module.")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise AttachError(f"Got an optimizer of type {type(optimizer).__name__}; need a torch.optim.Optimizer.")
    if not hasattr(Tensor, "_version"):  # by which it is known that the live model is left alone
        raise AttachError(f"Got torch {torch.__version__}, which does not count writes to tensors; need 2.13.")


def check_parameters(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Refuse a model that cannot learn, or that this optimizer does not teach."""
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


def probe_set(model: nn.Module, batch: object, name: str = "probe batch") -> ProbeSet:
    """The batch as a ProbeSet of our own memory, refused with its ``name`` where it cannot be one."""
    if isinstance(batch, Mapping) and LABELS in batch:
        batch = {key: value for key, value in batch.items() if key != LABELS}, batch[LABELS]
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise AttachError(
            f"Got a {name} of type {type(batch).__name__}; need a pair (inputs, targets), or a dict of both with the targets "
            f'under "{LABELS}".'
        )
    inputs, targets = batch
    inputs = dict(inputs) if isinstance(inputs, Mapping) else inputs
    tensors = _tensors(inputs)
    if not tensors or not isinstance(targets, Tensor) or targets.ndim == 0:
        raise AttachError(
            f"Got a {name} of {type(inputs).__name__} inputs and {type(targets).__name__} targets; need dense tensors with "
            "the samples along the first axis. Inputs may also be a tuple or dict of tensors; several targets go into one tensor, side by "
            "side, which loss_fn takes apart."
        )
    sizes = {t.shape[0] if t.ndim else 0 for t in (*tensors, targets)}
    if len(sizes) != 1 or min(sizes) < 2:
        raise AttachError(
            f"Got a {name} whose tensors have {sorted(sizes)} samples along the first axis; need the same number, at least 2."
        )
    devices = {t.device for t in (*tensors, targets)}
    home = next(model.parameters()).device
    if devices != {home}:
        raise AttachError(
            f"Got a {name} on {', '.join(sorted(map(str, devices)))} and a model on {home}; need both on one device: "
            f"pass {name.replace(' ', '_')}=(inputs.to('{home}'), targets.to('{home}'))."
        )
    # Clones: a loader may reuse the memory of the batch it handed out.
    with torch.inference_mode(mode=False):
        own = tuple(inputs) if isinstance(inputs, list) else inputs
        return ProbeSet(each(own, lambda t: t.detach().clone()), targets.detach().clone())


def _tensors(inputs: object) -> list[Tensor]:
    """What the inputs are made of, or nothing where they are no dense tensor, tuple or dict of tensors."""
    if not isinstance(inputs, Tensor | dict | tuple | list):
        return []
    parts = tensors_of(tuple(inputs) if isinstance(inputs, list) else inputs)
    return parts if all(isinstance(part, Tensor) and part.layout is torch.strided for part in parts) else []


def tried_out(subject: Subject, likelihood: str | None, step: int) -> Subject:
    """The subject with its likelihood, after its loss was evaluated once on a copy.

    What cannot work fails here and not in the night. A half-precision model that cannot run in single is measured in its own.
    """
    if subject.loss_fn is own_loss:
        further = {split: with_labels(subject.model, further) for split, further in subject.further_sets.items()}
        subject = replace(subject, probe_set=with_labels(subject.model, subject.probe_set), further_sets=further)
    if not callable(subject.loss_fn):
        raise AttachError(
            f"Got a loss_fn of type {type(subject.loss_fn).__name__}; need a function of (outputs, targets)."
        )
    with undisturbed(device := subject.probe_set.device, None):
        rewind = rewinder(device)  # also where other threads are, and draw on
        try:
            tried = _tried(subject, likelihood, step)
        except AttachError:
            if not any(p.dtype in HALF for p in subject.model.parameters()):
                raise
            tried = _tried(replace(subject, widen=False), likelihood, step)
        if tried.draws:
            rewind()
        return tried


def _tried(subject: Subject, likelihood: str | None, step: int) -> Subject:
    before = _writes((*subject.model.parameters(), *subject.model.buffers()))
    subject = looked_through(subject, _copied(subject, step))
    snapshot = _copied(subject, step)
    (outputs, loss), draws = drawing(subject.probe_set.device, lambda: _evaluated(snapshot, "probe batch"))
    if not loss.requires_grad:
        raise AttachError(
            "Got a loss that does not depend on any trainable parameter; was it computed under no_grad or detached?"
        )
    written = _writes((*subject.model.parameters(), *subject.model.buffers())) != before
    if written or _depends_on(loss, subject.model):
        raise AttachError(
            "Got a model or a loss_fn that reaches around the copy to the live model "
            f"({'it writes to the parameters or buffers' if written else 'its parameters are part of the loss'}): a wrapped "
            "forward, a module kept in a closure, or a penalty on model.parameters(). Leave that part out of loss_fn, or "
            "have the model compute it from its own attributes."
        )
    found = chosen(snapshot.loss_fn, _told(outputs), snapshot.probe_set.targets, likelihood)
    for split, further in snapshot.further_sets.items():
        told = _told(_evaluated(snapshot.on(split), f"{split} batch")[0])
        found = leaving_out(found, snapshot.loss_fn, told, further.targets)
    fresh = _writes_to_what_it_is_given(subject.snapshot(step))
    return replace(subject, likelihood=found, fresh=fresh, draws=draws)


def _told(outputs: Any) -> Any:
    return outputs.detach() if isinstance(outputs, Tensor) else outputs


def _copied(subject: Subject, step: int) -> Snapshot:
    try:
        return replace(subject, fresh=True).snapshot(step)
    except MemoryError as error:
        raise AttachError(f"{error} Free some, or leave out attach().") from error
    except Exception as error:
        raise AttachError(
            f"Got a model that cannot be copied ({type(error).__name__}: {error}); need one that copy.deepcopy accepts. "
            "Keep locks, files, generators and trainers out of its attributes."
        ) from error


def _writes_to_what_it_is_given(snapshot: Snapshot) -> bool:
    """Whether the model changes its inputs in place, or the loss its own."""
    inputs = each(snapshot.probe_set.inputs, Tensor.clone)
    given = _writes(tensors_of(inputs))
    outputs, targets = snapshot.outputs(inputs=inputs), snapshot.probe_set.targets.clone()
    made = [t for t in (outputs, targets) if isinstance(t, Tensor)]
    given += _writes(made)
    snapshot.loss_fn(outputs, targets)
    return given != _writes((*tensors_of(inputs), *made))


def _evaluated(snapshot: Snapshot, name: str) -> tuple[Any, Tensor]:
    """The outputs and the loss on the snapshot's probe set, which is called ``name`` where it is refused."""
    try:
        outputs = snapshot.outputs()
    except Exception as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors_of(snapshot.probe_set.inputs))
        raise AttachError(
            f"Got a {name} the model cannot take: inputs of shape {shapes} raise {type(error).__name__}: {error}. "
            "Pass inputs as the training loop passes them to the model, which is in evaluation mode here."
        ) from error
    try:
        loss = snapshot.loss_fn(outputs, snapshot.probe_set.targets)
    except AttachError:
        raise
    except Exception as error:
        raise AttachError(
            f"Got a loss_fn that raises {type(error).__name__} on the {name}: {error}. It is called as "
            f"loss_fn(model(inputs), targets), with the model in evaluation mode, where it returned a {type(outputs).__name__}."
        ) from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise AttachError(
            f"Got a loss_fn that returns {got}; need a scalar tensor. Reduce it, for example with .mean()."
        )
    return outputs, loss


def _writes(tensors: Iterable[Tensor]) -> list[int]:
    """Autograd's own counts of in-place writes; tensors made in inference mode have none."""
    return [t._version for t in tensors if not t.is_inference()]  # noqa: SLF001


def _depends_on(loss: Tensor, model: nn.Module) -> bool:
    """Whether the copy's loss has a gradient by the live parameters, which it must not."""
    live = [p for p in model.parameters() if p.requires_grad]
    return any(g is not None for g in torch.autograd.grad(loss, live, allow_unused=True, retain_graph=True))


def check_identity(identity: Run, number: int, step: int) -> None:
    """What a collector would refuse is refused here, where somebody reads it."""
    try:
        decode_for_collector(encode(Hello(identity, number, "trial", 1, step)))
    except (WireError, TypeError) as error:
        raise AttachError(
            f"Got a run the collector would refuse: {error} Check step ({step!r}), PHASEWATCH_RUN_ID ({identity.id!r}; letters, "
            f"digits, '_', '.', ':' and '-', 64 at the most), RANK ({number}) and WORLD_SIZE ({identity.world_size})."
        ) from error


def watches(given: Sequence[Watch] | str | None) -> Sequence[Watch]:
    """The watches, or those of the preset of that name."""
    if isinstance(given, str) and given not in PRESETS:
        raise AttachError(f"Got watches={given!r}; need {', '.join(map(repr, PRESETS))} or a sequence of Watch.")
    return PRESETS[given or "standard"]() if given is None or isinstance(given, str) else given


def budget(given: Budget | str | None) -> Budget:
    """The budget, or the one of that percentage."""
    try:
        found = Budget.of(given) if isinstance(given, str) else Budget() if given is None else given
    except ValueError as error:
        raise AttachError(str(error)) from error
    if not isinstance(found, Budget):
        raise AttachError(f'Got budget={given!r}; need a percentage of training time, such as "1%", or a Budget.')
    return found


def process(where: object) -> Process | None:
    """What a process for probes may take, or None where they run in the training thread."""
    if where in ("inline", "process"):
        return None if where == "inline" else Process()
    if isinstance(where, Process):
        return where
    raise AttachError(f'Got where={where!r}; need "inline", "process" or a Process.')


def check_probes(watches: Sequence[Watch]) -> None:
    """Refuse two probes of one name."""
    named_so: dict[str, Probe] = {}
    for watch in watches:
        for probe in watch.probes:
            if named_so.setdefault(probe.name, probe) != probe:
                raise AttachError(
                    f"Got two different probes named {probe.name!r}; their series could not be told apart. "
                    "Keep one of them, or attach a second monitor under another run name."
                )


def check_name(run: str, labels: Mapping[str, str]) -> None:
    """Refuse a run name or labels that the wire would."""
    if not isinstance(run, str) or not 1 <= len(run) <= 200:
        raise AttachError(f"Got the run name {run!r}; need a text of 1 to 200 characters.")
    for name, value in labels.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,99}", name) or not isinstance(value, str) or not 1 <= len(value) <= 200:
            raise AttachError(
                f"Got the label {name!r}: {value!r}; need a lower_case name and a text of 1 to 200 characters."
            )
    if len(labels) > 16:
        raise AttachError(f"Got {len(labels)} labels; need 16 at the most.")
