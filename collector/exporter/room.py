"""Room: the series budget of a page, and each run's share of it. It bites before Prometheus's own limits would.

Over a `sample_limit` Prometheus refuses the whole page; here the rest of the page stays, and what
was left out is a number on it.
"""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal

from collector.live import SeriesKey

Reason = Literal["limit", "run_limit", "name"]
REASONS: tuple[Reason, ...] = ("limit", "run_limit", "name")


class Room:
    """What is left of one page."""

    def __init__(self, limit: int) -> None:
        self.left = limit
        self.refused: Counter[Reason] = Counter()
        self.newly_refused = 0


@dataclass
class Refused:
    """What of one run was refused before, so that each series is counted once however often Prometheus asks.

    The estimates of a run that was not looked at are counted without their names; where it is looked at later, those that are refused
    by name are among them, and the other way round.
    """

    named: set[Hashable] = field(default_factory=set)
    of_estimates: int = 0
    counted: int = 0

    def newly(self, of_estimates: int) -> int:
        """How many more than were counted before, where so many series of estimates are refused in all."""
        before, self.counted = self.counted, max(of_estimates, self.counted)
        return self.counted - before


class Share:
    """What is left of one page for one run; ``known`` outlives the page."""

    def __init__(self, room: Room, limit: int, known: Refused) -> None:
        self._room = room
        self._left = limit
        self._known = known

    def charge(self, series: int) -> None:
        """Take room without asking: the few series without which a run could not be seen at all."""
        self._left -= series
        self._room.left -= series

    def take_all(self, series: int) -> bool:
        """Take room for very many series, if there is room for all of them; else none is taken and nothing counted."""
        if series > min(self._left, self._room.left):
            return False
        self.charge(series)
        return True

    def take(self, series: int, what: Hashable) -> bool:
        """Take room for all of these series or for none of them: no value goes without its error."""
        if self._left < series:
            self.refuse(series, what, "run_limit")
            return False
        if self._room.left < series:
            self.refuse(series, what, "limit")
            return False
        self.charge(series)
        return True

    def refuse_all(self, series: int) -> None:
        """Count the series of a run that was not looked at, because there is no room for any."""
        self._room.refused["limit"] += series
        self._room.newly_refused += self._known.newly(series)

    def refuse(self, series: int, what: Hashable, reason: Reason) -> None:
        """Count series that are left out."""
        self._room.refused[reason] += series
        if what not in self._known.named:
            self._known.named.add(what)
            if isinstance(what, SeriesKey):
                self._known.of_estimates += series
                series = self._known.newly(self._known.of_estimates)
            self._room.newly_refused += series
