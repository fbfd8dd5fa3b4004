"""Lead: a Place where rank 0 measures for all ranks, after it was given what it lacks of the model."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import final

from probe_agent.accord import Accord
from probe_agent.complaints import said
from probe_agent.findings import Finding
from probe_agent.gang import Dissolved
from probe_agent.measuring import Subject
from probe_agent.place import Choice, Place, done
from probe_agent.probe import Probe
from probe_agent.shards import Shards
from probe_agent.update_rule import UpdateRule


@final
class Lead:
    """For models of which no rank holds the whole. On the ranks other than 0 it only sends.

    Args:
        accord: the ranks.
        own: where rank 0 measures; None on the others.
        shards: the model in parts.
    """

    def __init__(self, accord: Accord, own: Place | None, shards: Shards) -> None:
        self._accord = accord
        self._own = own
        self._shards = shards

    def alone(self) -> bool:
        """Once the ranks have parted."""
        return self._accord.gang is None

    def busy(self) -> float:
        """As the place where rank 0 measures."""
        return 0.0 if self._own is None else self._own.busy()

    def expected(self, probe: Probe) -> float:
        """The same."""
        return 0.0 if self._own is None else self._own.expected(probe)

    def once(self) -> float:
        """The same."""
        return 0.0 if self._own is None else self._own.once()

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
        """What rank 0 finds; on the others nothing."""
        chosen = list(probes)
        if chosen and self._accord.gang is not None:
            try:
                self._shards.gather()
                whole = self._shards.rule(rule())
                if self._own is not None:
                    return self._own.measure(subject, step, chosen, lambda: whole, remaining)
            except Dissolved as error:
                self._accord.end(error)
            except Exception as error:  # noqa: BLE001 - an optimizer that cannot be read, say: the others must not wait
                self._accord.leave(said(error))
        return done([])

    def close(self) -> None:
        """Tell the other ranks not to wait for this one."""
        self._accord.leave("it has stopped watching")
        if self._own is not None:
            self._own.close()
