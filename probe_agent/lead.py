"""Lead: a Place where rank 0 measures for all ranks, after it was given what it lacks of the model, or what they have added up."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import replace
from typing import final

from probe_agent.accord import Accord
from probe_agent.complaints import said
from probe_agent.findings import Finding
from probe_agent.gang import Dissolved
from probe_agent.interruption import is_interruption
from probe_agent.measuring import Subject
from probe_agent.parts import Parts
from probe_agent.place import Choice, Place, done
from probe_agent.probe import Probe, Summed
from probe_agent.shards import Refused, Shards
from probe_agent.update_rule import UpdateRule


@final
class Lead:
    """For models of which no rank holds the whole. On the ranks other than 0 it only sends, or adds up.

    Args:
        accord: the ranks.
        own: where rank 0 measures what needs the whole; None on the others.
        shards: the model in parts.
        parts: measures what does not.
    """

    def __init__(self, accord: Accord, own: Place | None, shards: Shards, parts: Parts) -> None:
        self._accord = accord
        self._own = own
        self._shards = shards
        self._parts = parts

    def alone(self) -> bool:
        """Once the ranks have parted."""
        return self._accord.gang is None

    def busy(self) -> float:
        """As the place where rank 0 measures."""
        return 0.0 if self._own is None else self._own.busy()

    def expected(self, probe: Probe) -> float:
        """The same; or what adding up took, and waiting for the others to."""
        if isinstance(probe, Summed):
            return self._parts.seconds(probe)
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
        summed = [probe for probe in chosen if isinstance(probe, Summed)]
        rest = [probe for probe in chosen if not isinstance(probe, Summed)]
        found: list[Finding] = []
        if chosen and self._accord.gang is not None:
            try:
                own = self._in_common(rule, joined=bool(rest))
                found.extend(self._parts.findings(subject, step, summed, own))
                if rest:
                    self._shards.gather()
                    if own is not None and not any(probe.sees_updates for probe in rest):
                        own = replace(own, updates=())
                    whole = self._shards.rule(own)
                    if self._own is not None:
                        found.extend(self._accord.untold())
                        return _with(found, self._own.measure(subject, step, rest, lambda: whole, remaining))
            except Refused as refused:
                if self._accord.leads:
                    found.extend(_refused(probe, refused) for probe in chosen)
            except Dissolved as error:
                self._accord.end(error)
            except BaseException as error:  # a tensor that cannot be sent, say: the others must not wait
                self._accord.leave(said(error))
                if is_interruption(error):
                    raise
        return done([*found, *self._accord.untold()])

    def _in_common(self, rule: Callable[[], UpdateRule | None], *, joined: bool) -> UpdateRule | None:
        """As much of the optimizer's rule as every rank has; where this one has more, that is told."""
        seen = 0

        def own() -> UpdateRule | None:
            nonlocal seen
            of = rule()
            seen = 0 if of is None else len(of.updates)
            return of

        common = self._shards.agreed(own, joined=joined)
        if seen > (0 if common is None else len(common.updates)):
            self._accord.tell(
                "a rank did not keep the weights before the last steps, see its log; without them updates are not measured"
            )
        return common

    def close(self) -> None:
        """Tell the other ranks not to wait for this one."""
        self._accord.leave("it has stopped watching")
        if self._own is not None:
            self._own.close()


def _refused(probe: Probe, refused: Refused) -> Finding:
    return replace(Finding.without_value(probe, refused.outcome, f"no snapshot: {refused}"), blame="snapshot")


def _with(found: list[Finding], rest: Future[list[Finding]]) -> Future[list[Finding]]:
    """All of it, when the rest comes."""
    if rest.done():
        return done([*found, *rest.result()])
    both: Future[list[Finding]] = Future()
    rest.add_done_callback(lambda ended: both.set_result([*found, *ended.result()]))
    return both
