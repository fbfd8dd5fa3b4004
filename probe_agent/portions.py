"""Portions: on how many of its samples each probe is measured, where the budget has no room for all of them.

A probe whose values are means over samples (`Probe.averages`) is halved rather than left out: fewer samples give the same with
a greater standard error. They are always some of the former ones. A series begins anew wherever their number changes, since other
samples have another mean, so changes are rare: a probe is halved only when it was left out the last time it was due, never
below `FEWEST` samples, and never while a transition is suspected. It is doubled after several measurements in a row with room for
twice what that takes; if that had to be undone, after twice as many. So of n measurements some log n change the samples. Where a
forward pass tells beforehand that all samples would take too long, a probe begins on fewer. An eigenvalue is no mean: on an eighth of
256 samples the sharpness of trained networks was twice as large, in the middle, and no standard error says so.

Not all that a probe takes goes with its samples. How much does is learned whenever their number changes; a probe that is hardly cheaper
on fewer gets all of them, and is halved no more for as many measurements as it waits for a doubling; then it is tried again.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple, final

from probe_agent.probe_set import FEWEST, kept
from probe_wire import Column, Estimate, Quantity

PORTION = Quantity(
    name="probe_portion",
    unit="ratio",
    help="The part of its samples that a probe is measured on. Below 1 the budget has no room for all of them: standard errors are "
    "larger, and series begin anew where it changes.",
    title="Part of the samples a probe is measured on",
)

PATIENCE: Final = 8
"""Measurements in a row with room to spare before a probe gets samples back."""

ROOM: Final = 4
"""So many times what it takes now must be there for a probe to be doubled: what that takes, and as much again."""


class Trial(NamedTuple):
    """What a probe took when it last came out well, and how often its samples were halved then."""

    seconds: float
    halved: int


@final
class Portions:
    """Says how often the samples of a probe should be halved; that holds once all ranks have agreed.

    Args:
        samples: how many each probe has at most, by its name; of those that can be halved.
        first: how often they are halved the first time, as far as the probe allows it.

    Attributes:
        halved: how often they are, of the probes that are not measured on all.
    """

    def __init__(self, samples: Mapping[str, int], first: int = 0) -> None:
        self.halved: Mapping[str, int] = {}
        self._samples = dict(samples)
        self._most = {name: (n // FEWEST).bit_length() - 1 for name, n in samples.items() if n >= 2 * FEWEST}
        self._first = {name: min(first, most) for name, most in self._most.items()}
        self._missed: set[str] = set()
        self._rich: Counter[str] = Counter()
        self._patience = dict.fromkeys(self._most, PATIENCE)
        self._doubled: set[str] = set()
        self._last: dict[str, Trial] = {}
        self._of_samples: dict[str, float] = {}  # the part of what it takes on all samples that goes with their number
        self._barred: dict[str, int] = {}  # from being halved, for so many measurements
        self._ever: dict[str, None] = {}

    def halvings(self, name: str) -> int:
        """How often more the probe may be halved now."""
        if name not in self._missed or name in self._barred:
            return 0
        return max(0, self._most.get(name, 0) - self.halved.get(name, 0))

    def seconds(self, name: str, seconds: float, halved: int) -> float:
        """What a probe will take now that took so many seconds when its samples were ``halved`` so often."""
        of = self._of_samples.get(name, 1.0)
        return seconds * _part(of, self.halved.get(name, 0)) / _part(of, halved)

    def left_out(self, names: Iterable[str]) -> None:
        """These were due and could not be measured."""
        self._missed.update(names)

    def wished(self, name: str, seconds: float, halvings: int, left: float) -> int:
        """How often the samples of a probe that is measured now should be halved in all.

        Args:
            name: of the probe.
            seconds: it is expected to take as it is.
            halvings: that the budget needs.
            left: seconds that the budget has beside all that is measured now.
        """
        self._missed.discard(name)
        if name not in self._most or name in self._barred:
            return 0
        now = max(self.halved.get(name, 0), self._first.pop(name, 0))
        if halvings:
            if name in self._doubled:
                self._doubled.discard(name)
                self._patience[name] *= 2
            return min(now + halvings, self._most[name])
        self._rich[name] = self._rich[name] + 1 if now and left >= (ROOM - 1) * seconds else 0
        if self._rich[name] < self._patience[name]:
            return now
        self._rich[name] = 0
        self._doubled.add(name)
        return now - 1

    def took(self, name: str, seconds: float, *, well: bool = True) -> None:
        """A measurement computed for so long. A probe that is hardly cheaper on fewer samples gets all of them.

        One that did not come out ``well`` tells nothing of that, and the next is not compared with what was before it.
        """
        last, now = self._last.pop(name, None), self.halved.get(name, 0)
        if not well:
            return
        self._last[name] = Trial(seconds, now)
        if not now and name in self._barred:
            self._barred[name] -= 1
            if not self._barred[name]:
                del self._barred[name]
        if last and last.halved != now and name in self._most:
            self._of_samples[name] = _of_samples(last, self._last[name])
            if last.halved < now and seconds > last.seconds * (1 + 0.5 ** (now - last.halved)) / 2:
                self._patience[name] *= 2
                self._barred[name] = self._patience[name]

    def hold(self, agreed: Mapping[str, int]) -> list[str]:
        """Do as agreed, here and on every rank. Returns what is new, in words."""
        before, self.halved = self.halved, {name: times for name, times in agreed.items() if times}
        self._ever |= dict.fromkeys(self.halved)
        return [
            f"{name} is measured on {self._kept(name)} of {self._samples[name]} samples: {self._reason(name, times)}"
            for name in {**before, **self.halved}
            if (times := before.get(name, 0)) != self.halved.get(name, 0)
        ]

    def account(self) -> Iterator[tuple[Quantity, Column, Estimate]]:
        """The portions, as series of their own, of the probes that were ever halved."""
        for name in self._ever:
            n = self._kept(name)
            yield PORTION, Column(PORTION.name, {"probe": name}), Estimate(n / self._samples[name], 0.0, 0.0, n)

    def _kept(self, name: str) -> int:
        return kept(self._samples[name], self.halved.get(name, 0))

    def _reason(self, name: str, before: int) -> str:
        if self.halved.get(name, 0) > before:
            return "the budget has no room for more"
        return "fewer would not be cheaper" if name in self._barred else "the budget has room again"


def _part(of_samples: float, halved: int) -> float:
    """What a measurement takes on samples that are halved so often, in parts of what it takes on all."""
    return 1 - of_samples * (1 - 0.5**halved)


def _of_samples(one: Trial, other: Trial) -> float:
    """The part of what a measurement takes on all samples that goes with their number, such that both trials fit; 0 to 1."""
    more, fewer = sorted((one, other), key=lambda trial: trial.halved)
    if fewer.seconds >= more.seconds:
        return 0.0
    cut, further = 1 - 0.5**more.halved, 1 - 0.5**fewer.halved
    return min(1.0, (more.seconds - fewer.seconds) / (more.seconds * further - fewer.seconds * cut))
