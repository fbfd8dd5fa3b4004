"""Parts: what the ranks of a sharded model find without putting it together, each adding up its own part."""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, final

import torch
from msgspec import structs
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from probe_agent.complaints import said
from probe_agent.findings import Finding, failure_of
from probe_agent.gang import Gang
from probe_agent.interruption import is_interruption
from probe_agent.measuring import Measuring, Subject
from probe_agent.probe import Measurement, Memory, Probe, Summed, Sums
from probe_agent.room import short_of
from probe_agent.shards import givers, part_of
from probe_agent.undisturbed import undisturbed
from probe_agent.update_rule import UpdateRule


@final
class Parts:
    """Measures the probes that are `Summed`: some numbers a parameter travel, and no tensor.

    Args:
        model: this rank's parts of it.
        gang: the ranks.
        probes: of the monitor; the others are left alone.
    """

    def __init__(self, model: nn.Module, gang: Gang, probes: Sequence[Probe]) -> None:
        self._model = model
        self._gang = gang
        self._measuring = Measuring(probe for probe in probes if isinstance(probe, Summed))

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
        parts = {name: part_of(p) for name, p in self._model.named_parameters()}
        for probe in probes:
            began = time.perf_counter()
            with undisturbed(subject.probe_set.device, None):  # sums draw nothing
                own = self._own(probe, step, rule)
            words = [json.loads(word) for word in self._gang.exchange(json.dumps([parts, *own]).encode())]
            if self._gang.rank == 0:
                found = self._measuring.of_sums(subject, probe, partial(self._reduced, probe, words, rule))
                took = time.perf_counter() - began
                self._measuring.note(probe, took)
                yield replace(found, cost=structs.replace(found.cost, seconds=took))

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
        self, probe: Summed, words: Sequence[Any], rule: UpdateRule | None, memory: Memory
    ) -> Iterator[Measurement]:
        """The measurements of the whole model."""
        for rank, (_, _, why) in enumerate(words):
            if why:
                raise (MemoryError if why.startswith("OUT_OF_MEMORY") else RuntimeError)(f"rank {rank}: {why}")
        sums: Sums = {kind: {} for kind in words[0][1]}
        trainable = 0
        for name, p in self._model.named_parameters():
            of = givers([parts[name] for parts, _, _ in words])
            if sum(math.prod(size) for _, size in of.values()) != p.numel():
                raise ValueError(f"the parts of {name}, of shape {tuple(p.shape)}, do not fit together")
            trainable += p.numel() if p.requires_grad else 0
            for kind, summed in sums.items():
                if name in words[0][1][kind]:
                    summed[name] = math.fsum(words[rank][1][kind][name] for rank in of)
        return probe.of(sums, rule, trainable, memory)


def _local(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What this rank holds of each."""
    return {name: (t.to_local() if isinstance(t, DTensor) else t).detach() for name, t in tensors.items()}
