"""Muster: which ranks of the job watch together, found out at `attach`."""

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Final

from torch import Tensor, nn

from probe_agent.accord import Accord, differing
from probe_agent.complaints import warn
from probe_agent.errors import AttachError, LikelihoodError
from probe_agent.gang import Dissolved, Gang
from probe_agent.job import Job
from probe_agent.joint_probe_set import joint
from probe_agent.lead import Lead
from probe_agent.likelihood import IGNORED, Categorical, Likelihood
from probe_agent.measuring import Subject
from probe_agent.parts import Parts
from probe_agent.place import Place, Resting
from probe_agent.probe import Probe, Summed
from probe_agent.probe_set import ProbeSet, as_bytes, each
from probe_agent.schedule import Watch, probes_of
from probe_agent.shards import Shards, is_sharded
from probe_agent.team import Team

logger = logging.getLogger("probe_agent")

TRIAL_SECONDS: Final = 60.0
"""How long the ranks wait for one on which `attach` still tries the model out."""

SHARDED_SECONDS: Final = 60.0
"""How long the ranks of a sharded model wait for one at a step that is due: training cannot go on without it, and nobody can measure."""

_DIFFERENTLY: Final = "Got a sharded model that its ranks watch differently ({}); need the same watches, seed and step in attach() on every rank."

_LOOKED_AT: Final = 64
"""Parameters, and numbers of each, that tell one replica from another."""


def mustered(
    job: Job,
    subject: Subject,
    watches: Sequence[Watch],
    step: int,
    try_out: Callable[[Subject], Subject],
    place_of: Callable[[Subject], Place],
    *,
    divide: bool,
) -> tuple[Subject, Place]:
    """The subject, tried out and with the probe sets of all ranks, and where it is measured.

    Where not every rank attaches, or not to replicas of one model, the subject and the place are this rank's own.
    ``divide`` the probes over the ranks, or have rank 0 measure with all of them.

    Raises:
        AttachError: the subject cannot be measured; or it is a sharded model, and not every rank attaches.
    """
    probes = probes_of(watches)
    shards = _shards(job, subject.model, whole=not all(isinstance(probe, Summed) for probe in probes))
    if shards is None:
        subject = try_out(subject)
        gang = job.meet() if job.size > 1 else None
    else:
        gang, subject = shards.gang, _tried_whole(shards, subject, try_out)
    try:
        apart = "" if gang is None else _apart(gang, subject, shards)
        _check_alike(shards, apart)
        if gang is None or apart:
            logger.info("phasewatch: rank %d of %d watches alone. %s", job.rank, job.size, apart)
            return subject, place_of(subject)
        differently = _differently(gang, subject, probes, step)
        _check_alike(shards, differently)
        known = _in_common(gang, subject.likelihood)
        sets = joint(gang, {"": subject.probe_set, **subject.further_sets})
    except Dissolved as error:
        warn(f"the ranks do not watch together: {error}.")
        return subject, place_of(subject) if shards is None else Resting()
    subject = replace(subject, likelihood=known, probe_set=sets.pop(""), further_sets=sets)
    if shards is not None:
        own = None if shards.whole is None else place_of(subject)
        parts = Parts(shards.model, gang, probes)
        accord = Accord(gang, probes, str, alone=False, patience=SHARDED_SECONDS)
        return subject, Lead(accord, own, shards, parts)
    if differently and not divide:
        warn(f"the ranks do not watch together ({differently}); rank 0 measures alone.")
    if not divide:
        return subject, place_of(subject) if gang.rank == 0 else Resting()
    accord = Accord(gang, probes, partial(replica, subject.model))
    if differently:
        accord.end(Dissolved(differently))
    return subject, Team(accord, gang.size, place_of(subject))


def _shards(job: Job, model: nn.Module, *, whole: bool) -> Shards | None:
    """The model in parts, where each rank holds only some; put together if the ``whole`` is needed."""
    if not is_sharded(model):
        return None
    gang = job.meet()
    if gang is None:
        raise AttachError(
            "Got a model whose parameters are sharded over ranks, and not all of them came to attach() in time; "
            "need attach() on every rank: each holds a part of what is measured."
        )
    try:
        if differ := _compared(gang, ["what the probes need"], [whole]):
            raise AttachError(_DIFFERENTLY.format(differ))
        shards = Shards(model, gang, whole=whole)
        if whole:
            shards.gather()
    except Dissolved as error:
        raise AttachError(
            f"Got a model sharded over ranks that could not be put together ({error}); need every rank to reach attach(): see the "
            "log of the rank that is named."
        ) from error
    return shards


def _whole(subject: Subject, model: nn.Module) -> Subject:
    """The subject with the model that was put together, which is on the CPU."""
    further = {split: _on_cpu(of) for split, of in subject.further_sets.items()}
    return replace(subject, model=model, probe_set=_on_cpu(subject.probe_set), further_sets=further)


def _tried_whole(shards: Shards, subject: Subject, try_out: Callable[[Subject], Subject]) -> Subject:
    """The subject, tried out where the whole model is.

    A likelihood that is refused there is refused on every rank: who attaches again without needs them all.
    """
    refused = ""
    if shards.whole is not None:
        try:
            subject = try_out(_whole(subject, shards.whole))
        except LikelihoodError as error:
            refused = str(error)
        except BaseException:
            shards.gang.leave("attach() did not come to its end")
            raise
    with suppress(Dissolved):  # which is told of where the ranks are compared
        if words := shards.gang.agree(refused.encode(), lambda words: max(words, key=len), TRIAL_SECONDS):
            raise LikelihoodError(words.decode())
    return subject


def _on_cpu(of: ProbeSet) -> ProbeSet:
    return ProbeSet(each(of.inputs, Tensor.cpu), of.targets.cpu())


def replica(model: nn.Module) -> str:
    """A digest of some of the model's numbers, exact: replicas in step have the same."""
    parameters = list(model.parameters())
    looked_at = [_some(p.detach()) for p in _spread(parameters)]
    return sha256(b"".join(map(as_bytes, looked_at))).hexdigest()


def _some(p: Tensor) -> Tensor:
    flat = p.flatten()
    return flat[:: max(1, len(flat) // _LOOKED_AT)].contiguous()


def _spread(parameters: Sequence[Tensor]) -> Sequence[Tensor]:
    return parameters[:: max(1, len(parameters) // _LOOKED_AT)]


def _apart(gang: Gang, subject: Subject, shards: Shards | None) -> str:
    """What shows that the ranks do not train one model, such as stages of a pipeline; nothing where they do."""
    shapes = [(name, str(p.dtype), tuple(p.shape), p.requires_grad) for name, p in subject.model.named_parameters()]
    numbers = replica(subject.model) if shards is None else ""
    return _compared(gang, ["parameters", "weights"], [_digest(shapes), numbers], TRIAL_SECONDS)


def _differently(gang: Gang, subject: Subject, probes: Sequence[Probe], step: int) -> str:
    """In what the ranks differ that train one model; nothing where they watch it alike."""
    return _compared(gang, ["step", "seed", "probes"], [step, subject.seed, _digest([probe.name for probe in probes])])


def _in_common(gang: Gang, known: Likelihood | None) -> Likelihood | None:
    """The likelihood, leaving out what the loss ignores on the samples of any rank, such as padding that this one has none of."""

    def decide(words: Sequence[bytes]) -> bytes:
        return next((word for word in words if int(word) != IGNORED), words[0])

    own = known.ignored if isinstance(known, Categorical) else IGNORED
    ignored = int(gang.agree(str(own).encode(), decide))
    return replace(known, ignored=ignored) if isinstance(known, Categorical) else known


def _check_alike(shards: Shards | None, apart: str) -> None:
    """Refuse ranks that hold parts of a model and differ, since none of them can measure without the others."""
    if shards is not None and apart:
        raise AttachError(_DIFFERENTLY.format(apart))


def _compared(gang: Gang, kinds: Sequence[str], of_this: Sequence[object], patience: float | None = None) -> str:
    """What `differing` says of what each rank has of each kind."""

    def decide(words: Sequence[bytes]) -> bytes:
        return differing(kinds, [json.loads(word) for word in words]).encode()

    return gang.agree(json.dumps(of_this).encode(), decide, patience).decode()


def _digest(facts: object) -> str:
    return sha256(json.dumps(facts).encode()).hexdigest()
