"""Team: a Place that is all ranks of a job; each measures the same inputs with its share of the probes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Final, final

import msgspec
from torch import Tensor

from probe_agent.accord import Accord
from probe_agent.complaints import said
from probe_agent.findings import Finding
from probe_agent.gang import Dissolved
from probe_agent.measuring import Subject
from probe_agent.place import Choice, Place, done
from probe_agent.probe import Probe
from probe_agent.running_statistics import from_bytes, running_statistics, to_bytes
from probe_agent.update_rule import UpdateRule

MEASURING_SECONDS: Final = 60.0
MOST_SECONDS: Final = 600.0
"""How long rank 0 waits for what the others measured: this, and twice what the budget holds, but never more than that."""

_findings: msgspec.msgpack.Decoder[list[Finding]] = msgspec.msgpack.Decoder(list[Finding])


@final
class Team:
    """Rank 0 reports what all ranks found. While a probe runs, no rank waits for another.

    A probe belongs to the rank that first had time for it, for good: what it remembers from one snapshot to
    the next stays in one place, its ``own``. Once the accord has ended, rank 0 measures everything.
    """

    def __init__(self, accord: Accord, size: int, own: Place) -> None:
        self._accord = accord
        self._size = size
        self._own = own
        self._ours: dict[str, bool] = {}
        self._seconds: dict[str, float] = {}

    def alone(self) -> bool:
        """Once the ranks have parted."""
        return self._accord.gang is None

    def busy(self) -> float:
        """Never."""
        return 0.0

    def expected(self, probe: Probe) -> float:
        """Its part of the time the ranks stand still: while they are together they share the probes."""
        return self._seconds.get(probe.name, 0.0) / (self._size if self._accord.gang else 1)

    def once(self) -> float:
        """Nothing that counts beside them."""
        return 0.0

    def agreed(self, step: int, choice: Choice) -> Choice:
        """The choice of rank 0."""
        return self._accord.on(step, choice)

    def measure(
        self,
        subject: Subject,
        step: int,
        probes: Iterable[Probe],
        rule: Callable[[], UpdateRule | None],
        remaining: Callable[[], float],
    ) -> Future[list[Finding]]:
        """On rank 0 the findings of all ranks, in the order of the probes; on the others none."""
        probes = list(probes)
        if not probes:
            return done(self._accord.untold())
        try:
            return done(self._found(subject, step, probes, rule, remaining))
        except BaseException as error:  # the others must not wait for what will not come
            self._accord.leave(said(error))
            raise

    def _found(
        self,
        subject: Subject,
        step: int,
        probes: Sequence[Probe],
        rule: Callable[[], UpdateRule | None],
        remaining: Callable[[], float],
    ) -> list[Finding]:
        order = {probe.name: i for i, probe in enumerate(probes)}
        share = self._share(probes)
        first = next(share, None)
        patience = min(MOST_SECONDS, MEASURING_SECONDS + 2 * max(0.0, remaining()))
        subject = replace(subject, statistics=self._statistics(subject))
        mine: list[Finding] = []
        if first is not None:  # else not even a snapshot is needed
            mine = self._own.measure(subject, step, _with(first, share), rule, remaining).result()
        findings = self._pooled(mine, patience)
        for finding in findings:
            self._seconds[finding.cost.probe] = finding.cost.seconds
        return [*sorted(findings, key=lambda finding: order[finding.cost.probe]), *self._accord.untold()]

    def close(self) -> None:
        """Tell the other ranks not to wait for this one."""
        self._accord.leave("it has stopped watching")

    def _share(self, probes: Iterable[Probe]) -> Iterator[Probe]:
        """Those of the probes that this rank is to measure, each asked for when the one before is done."""
        for probe in probes:
            if probe.name not in self._ours and self._accord.gang is not None:
                try:
                    self._ours[probe.name] = self._accord.gang.claim(probe.name)
                except Dissolved as error:
                    self._accord.end(error)
            if self._accord.leads if self._accord.gang is None else self._ours[probe.name]:
                yield probe

    def _statistics(self, subject: Subject) -> dict[str, Tensor]:
        """The running statistics of rank 0, so that all ranks measure one network."""
        own = running_statistics(subject.model)
        if own and self._accord.gang is not None:
            try:
                return from_bytes(self._accord.gang.agree(b"", lambda _: to_bytes(own)), own)
            except Dissolved as error:
                self._accord.end(error)
        return {}

    def _pooled(self, mine: list[Finding], patience: float) -> list[Finding]:
        if self._accord.gang is not None:
            try:
                words = self._accord.gang.collect(msgspec.msgpack.encode(mine), patience)
                return [finding for word in words for finding in _findings.decode(word)]
            except Dissolved as error:
                self._accord.end(error)
        return mine if self._accord.leads else []


def _with(first: Probe, rest: Iterator[Probe]) -> Iterator[Probe]:
    yield first
    yield from rest
