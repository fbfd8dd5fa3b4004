"""Parts: what the ranks of a sharded model find without putting it together, each adding up its own part."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import final

import msgspec
import torch
from msgspec import structs
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from probe_agent.complaints import said
from probe_agent.findings import Finding, failure_of
from probe_agent.gang import Gang, named
from probe_agent.interruption import is_interruption
from probe_agent.measuring import Measuring, Subject
from probe_agent.probe import Measurement, Memory, Probe, Summed, Sums
from probe_agent.room import short_of
from probe_agent.shards import Part, givers, part_of
from probe_agent.undisturbed import undisturbed
from probe_agent.update_rule import UpdateRule

Word = tuple[dict[str, Part] | None, dict[str, list[float | None]], str]
"""What a rank says of a probe: where its parts lie, if that is new; by kind, the sum over its part of each parameter; why it has none."""

_word: msgspec.msgpack.Decoder[Word] = msgspec.msgpack.Decoder(Word)


@final
class Parts:
    """Measures the probes that are `Summed`: some numbers a parameter travel to rank 0, and no tensor.

    Args:
        model: this rank's parts of it.
        gang: the ranks.
        probes: of the monitor; the others are left alone.
    """

    def __init__(self, model: nn.Module, gang: Gang, probes: Sequence[Probe]) -> None:
        self._model = model
        self._gang = gang
        self._measuring = Measuring(probe for probe in probes if isinstance(probe, Summed))
        self._said: dict[str, Part] = {}  # where this rank's parts lie, as it told rank 0
        self._heard: dict[int, dict[str, Part]] = {}  # the same of every rank, on rank 0

    def seconds(self, probe: Probe) -> float:
        """What the probe took when it last ran; 0 before."""
        return self._measuring.seconds(probe)

    def findings(
        self, subject: Subject, step: int, probes: Sequence[Summed], rule: UpdateRule | None
    ) -> Iterator[Finding]:
        """What each finds, on rank 0; nothing on the others. Every rank calls it at the same step.

        Raises:
            Dissolved: a rank did not.
        """
        for probe in probes:
            began = time.perf_counter()
            with undisturbed(subject.probe_set.device, None):  # sums draw nothing
                own = self._own(probe, step, rule)
            words = self._gang.collect(self._packed(*own))
            if self._gang.rank == 0:
                said_by = [self._unpacked(rank, word) for rank, word in enumerate(words)]
                found = self._measuring.of_sums(subject, probe, partial(self._reduced, probe, said_by, rule))
                cost = structs.replace(found.cost, seconds=time.perf_counter() - began)
                self._measuring.note(probe, cost.seconds)
                yield replace(found, cost=cost)

    def _packed(self, sums: Sums, why: str) -> bytes:
        parts = {name: part_of(p) for name, p in self._model.named_parameters()}
        known, self._said = parts == self._said, parts
        columns = {kind: [of.get(name) for name in parts] for kind, of in sums.items()}
        return msgspec.msgpack.encode((None if known else parts, columns, why))

    def _unpacked(self, rank: int, word: bytes) -> tuple[Sums, str]:
        parts, columns, why = _word.decode(word)
        if parts is not None:
            self._heard[rank] = parts
        names = self._heard[rank]
        sums = {kind: dict(zip(names, of, strict=True)) for kind, of in columns.items()}
        return {kind: {name: s for name, s in of.items() if s is not None} for kind, of in sums.items()}, why

    def _own(self, probe: Summed, step: int, rule: UpdateRule | None) -> tuple[Sums, str]:
        """The sums over this rank's parts; or none, and why not."""
        memory = self._measuring.memory(probe)
        parameters = _local(dict(self._model.named_parameters()))
        updates = () if rule is None else tuple(map(_local, rule.updates))
        try:
            held = next((p for p in parameters.values()), torch.empty(0)).device
            if not memory and (short := short_of(2 * sum(p.nbytes for p in parameters.values()), held)):
                raise MemoryError(short)  # noqa: TRY301 - one way out for all that goes wrong
            with torch.no_grad():
                return probe.sums(parameters, updates, step, memory), ""
        except BaseException as error:
            if is_interruption(error):
                raise
            return {}, f"{failure_of(error).name}: {said(error)}"

    def _reduced(
        self, probe: Summed, said_by: Sequence[tuple[Sums, str]], rule: UpdateRule | None, memory: Memory
    ) -> Iterator[Measurement]:
        """The measurements of the whole model."""
        for rank, (_, why) in enumerate(said_by):
            if why:
                raise (MemoryError if why.startswith("OUT_OF_MEMORY") else RuntimeError)(f"rank {rank}: {why}")
        own = [sums for sums, _ in said_by]
        sums: Sums = {kind: {} for kind in own[0]}
        trainable = 0
        for name, p in self._model.named_parameters():
            of = givers([self._heard[rank][name] for rank in range(self._gang.size)])
            if sum(math.prod(size) for _, size in of.values()) != p.numel():
                raise ValueError(f"the parts of {name}, of shape {tuple(p.shape)}, do not fit together")
            trainable += p.numel() if p.requires_grad else 0
            for kind, summed in sums.items():
                having = [rank for rank in of if name in own[rank][kind]]
                if having and len(having) < len(of):
                    lacks = named([rank for rank in of if rank not in having])
                    raise ValueError(
                        f"{lacks} gave nothing of {name} ({kind}), and {named(having)} did: is it frozen on some?"
                    )
                if having:
                    summed[name] = math.fsum(own[rank][kind][name] for rank in having)
        return probe.of(sums, rule, trainable, memory)


def _local(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What this rank holds of each."""
    return {name: (t.to_local() if isinstance(t, DTensor) else t).detach() for name, t in tensors.items()}
