"""Keepsake: what is in memory of a run beside its phases, in bytes, so that a restart need not read all its reports again."""

from collections import Counter

import msgspec

from collector.live import Latest, LiveRun, ProbeState, RankState, SeriesKey
from probe_wire import Outcome, Quantity


class _Probe(msgspec.Struct):
    """What one probe cost so far and how it came out."""

    seconds: float
    outcomes: dict[int, int]
    last_problem: str
    memory_raised: int
    apart: bool


class _Keepsake(msgspec.Struct):
    """See the module."""

    ranks: dict[int, RankState]
    quantities: list[Quantity]
    newest: list[tuple[SeriesKey, Latest]]
    probes: dict[str, _Probe]


def packed(run: LiveRun) -> bytes:
    """The run as it stands; the caller holds Live's lock."""
    probes = {
        name: _Probe(
            probe.seconds,
            {int(outcome): n for outcome, n in probe.outcomes.items()},
            probe.last_problem,
            probe.memory_raised,
            probe.apart,
        )
        for name, probe in run.probes.items()
    }
    return msgspec.msgpack.encode(
        _Keepsake(run.ranks, list(run.quantities.values()), list(run.settle().items()), probes)
    )


def unpack_into(run: LiveRun, data: bytes) -> None:
    """Make an empty run what it was when it was packed.

    Raises:
        msgspec.MsgspecError: it was packed by a release that remembered something else.
    """
    kept = msgspec.msgpack.decode(data, type=_Keepsake)
    run.ranks = kept.ranks
    run.quantities = {quantity.name: quantity for quantity in kept.quantities}
    run.latest = dict(kept.newest)
    run.probes = {
        name: ProbeState(
            probe.seconds,
            Counter({Outcome(outcome): n for outcome, n in probe.outcomes.items()}),
            probe.last_problem,
            probe.memory_raised,
            probe.apart,
        )
        for name, probe in kept.probes.items()
    }
