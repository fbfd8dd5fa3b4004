"""Place: where probes run: the training thread (`Inline`), a process of their own (`Foreman`), all ranks of a job (`Team`).

Or the one rank that holds the whole of a sharded model (`Lead`); on a rank that only looks on, nowhere (`Resting`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from types import MappingProxyType
from typing import NamedTuple, Protocol, final

from probe_agent.agenda import Tight
from probe_agent.findings import Finding
from probe_agent.measuring import Measuring, Subject
from probe_agent.own_streams import OwnStreams
from probe_agent.probe import Probe
from probe_agent.update_rule import UpdateRule

BESIDE = 0.05
"""Of the seconds a worker process computes so much is charged to the budget: it shares caches, memory and perhaps the two halves of
a core with training. Measured: 2 to 5 % on two virtual cores (`benchmarks/results/overhead.md`)."""


class Choice(NamedTuple):
    """What to measure now, what is due and has to be skipped, and how many steps to wait where nothing can be measured.

    The ``tight`` probes are measured more often from here on; ``halved`` says, by its name, how often the samples of a probe are halved.
    """

    probes: Sequence[Probe]
    skipped: Sequence[Probe]
    wait: int
    tight: Sequence[Tight] = ()
    halved: Mapping[str, int] = MappingProxyType({})


NOTHING = Choice([], [], 0)

MOST_SECONDS = 120.0
"""The most that one probe may hold the training thread up."""


class Place(Protocol):
    """Runs the probes of a monitor."""

    def alone(self) -> bool:
        """Whether nobody else has to look at the same steps."""

    def busy(self) -> float:
        """Seconds until it can measure again, as far as known; 0 when it can now."""

    def expected(self, probe: Probe) -> float:
        """Seconds of the training thread that the probe will take."""

    def once(self) -> float:
        """Seconds of the training thread that a measurement takes whatever is measured."""

    def agreed(self, step: int, choice: Choice) -> Choice:
        """The choice, or that of the rank which chooses for all."""

    def measure(
        self,
        subject: Subject,
        step: int,
        probes: Iterable[Probe],
        rule: Callable[[], UpdateRule | None],
        remaining: Callable[[], float],
    ) -> Future[list[Finding]]:
        """What the probes find at this step, one finding each, now or later. ``remaining`` seconds of training may be taken."""

    def close(self) -> None:
        """Measure nothing more."""


def done(findings: list[Finding]) -> Future[list[Finding]]:
    """A measurement that is complete already."""
    future: Future[list[Finding]] = Future()
    future.set_result(findings)
    return future


@final
class Resting:
    """Measures nothing: another rank does, for all of them. What the loop observes is reported all the same."""

    def alone(self) -> bool:
        """It is."""
        return True

    def busy(self) -> float:
        """Never."""
        return 0.0

    def expected(self, probe: Probe) -> float:  # noqa: ARG002 - a Place's signature
        """Nothing."""
        return 0.0

    def once(self) -> float:
        """Nothing that counts beside them."""
        return 0.0

    def agreed(self, step: int, choice: Choice) -> Choice:  # noqa: ARG002 - the same
        """No probe."""
        return NOTHING

    def measure(
        self,
        subject: Subject,  # noqa: ARG002 - the same
        step: int,  # noqa: ARG002
        probes: Iterable[Probe],  # noqa: ARG002
        rule: Callable[[], UpdateRule | None],  # noqa: ARG002
        remaining: Callable[[], float],  # noqa: ARG002
    ) -> Future[list[Finding]]:
        """No finding."""
        return done([])

    def close(self) -> None:
        """Nothing runs."""


@final
class Inline:
    """In the training thread, at once: the same numbers at every repetition."""

    def __init__(self, probes: Sequence[Probe], streams: OwnStreams | None = None) -> None:
        self._measuring = Measuring(probes, most=MOST_SECONDS)
        self._streams = streams or OwnStreams()

    def alone(self) -> bool:
        """It is."""
        return True

    def busy(self) -> float:
        """Never."""
        return 0.0

    def expected(self, probe: Probe) -> float:
        """What it took when it last ran."""
        return self._measuring.seconds(probe)

    def once(self) -> float:
        """Nothing that counts beside them."""
        return 0.0

    def agreed(self, step: int, choice: Choice) -> Choice:  # noqa: ARG002 - a Place's signature
        """Nobody else is asked."""
        return choice

    def measure(
        self,
        subject: Subject,
        step: int,
        probes: Iterable[Probe],
        rule: Callable[[], UpdateRule | None],
        remaining: Callable[[], float],
    ) -> Future[list[Finding]]:
        """The findings, complete on return."""
        with self._streams.put_back():
            return done(list(self._measuring.findings(subject, step, probes, rule, remaining)))

    def close(self) -> None:
        """Nothing runs."""
