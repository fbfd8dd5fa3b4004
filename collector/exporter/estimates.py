"""Estimates as series: a value never goes without its standard error and how it came out."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import compress
from typing import NamedTuple

from collector.exporter.catalogue import ESTIMATE_OUTCOME, Family
from collector.exporter.names import Layers, families, label_pairs
from collector.exporter.room import Refused, Share
from collector.exporter.still import Still
from collector.exporter.text import Page, inside, line, numbers
from collector.live import SeriesKey
from probe_wire import Outcome, Quantity

SERIES_PER_ESTIMATE = 4
"""Value, standard error, paired standard error, outcome: what an estimate takes of the room."""

_TAKEN = frozenset({"run", "rank", "quantity", "outcome", "le", "quantile"})

_OUTCOMES = [b"%d" % code for code in range(max(Outcome) + 1)]

_families = lru_cache(maxsize=4096)(families)


class Lines(NamedTuple):
    """The lines of a quantity's estimates, made once: their families, and of each estimate its place among the run's and its four lines."""

    families: tuple[Family, Family, Family]
    places: list[int]
    value: list[bytes]
    stderr: list[bytes]
    paired: list[bytes]
    outcome: list[bytes]

    def of(self, shown: Sequence[bool]) -> "Lines":
        """Those of the estimates that are shown."""
        chosen = [shown[place] for place in self.places]
        return self if all(chosen) else Lines(self.families, *([*compress(each, chosen)] for each in self[1:]))  # type: ignore[arg-type]  # each as it was


class Names:
    """Which quantity a metric name stands for on one page: two quantities under one name would be one line twice."""

    def __init__(self, reserved: frozenset[str]) -> None:
        self._owners = dict.fromkeys(reserved, "")

    def claim(self, wanted: tuple[Family, ...], quantity: str) -> bool:
        """Whether all of these names are the quantity's, or free and now its own."""
        if any(self._owners.get(family.name, quantity) != quantity for family in wanted):
            return False
        self._owners.update((family.name, quantity) for family in wanted)
        return True


class RunEstimates:
    """The estimates of one run, from scrape to scrape: its layers' numbers and its ready-made lines."""

    def __init__(self, label: str, refused: Refused) -> None:
        self.layers = Layers()
        self.refused = refused
        self.label = label
        self._who = inside([("run", label)])
        self._keys: list[SeriesKey] = []
        self._quantities: dict[str, Quantity] = {}
        self._lines: dict[str, Lines] = {}

    def learn(self, still: Still) -> None:
        """Take in what is new: layers are numbered in the order of the agent's report."""
        keys = list(still.latest)
        if keys == self._keys and still.quantities == self._quantities:  # the same objects mostly, so this is quick
            return
        reported = sorted(still.latest.items(), key=lambda found: (found[1].position, found[0].rank))
        self.layers.learn(value for key, _ in reported for name, value in key.labels if name == "layer")
        self._keys, self._quantities = keys, still.quantities
        own = {labels: self._own(labels) for labels in {key.labels for key in keys}}  # every rank has the same
        self._lines = {}
        for place, key in enumerate(keys):
            lines = self._lines.get(key.quantity)
            if lines is None:
                named = _families(still.quantities.get(key.quantity) or _undeclared(key.quantity))
                lines = self._lines[key.quantity] = Lines(named, [], [], [], [], [])
            self._add(lines, place, key, own[key.labels])

    def outcomes(self, still: Still) -> dict[str, list[int]]:
        """How many of the newest estimates of each quantity came out how; `learn` has seen the same still."""
        latest = [*still.latest.values()]
        codes = {name: bytes([latest[i].estimate.outcome for i in lines.places]) for name, lines in self._lines.items()}
        return {name: [came_out.count(outcome) for outcome in Outcome] for name, came_out in codes.items()}

    def write(self, page: Page, still: Still, names: Names, share: Share) -> None:
        """The lines of every estimate there is room for; `learn` has seen the same still."""
        shown = self._shown(names, share)
        share.refuse_all(SERIES_PER_ESTIMATE * still.unseen)
        latest = [*still.latest.values()]
        for lines in (each.of(shown) for each in self._lines.values()):
            estimates = [latest[place].estimate for place in lines.places]
            paired = numbers([estimate.paired for estimate in estimates])
            known = [text != b"NaN" for text in paired]
            of_value, of_stderr, of_paired = lines.families
            page.add_all(of_value, lines.value, numbers([estimate.value for estimate in estimates]))
            page.add_all(of_stderr, lines.stderr, numbers([estimate.stderr for estimate in estimates]))
            page.add_all(of_paired, [*compress(lines.paired, known)], [*compress(paired, known)])
            page.add_all(ESTIMATE_OUTCOME, lines.outcome, [_OUTCOMES[estimate.outcome] for estimate in estimates])

    def _shown(self, names: Names, share: Share) -> list[bool]:
        """Of each estimate whether its names are free and there is room for it."""
        named = {name: names.claim(lines.families, name) for name, lines in sorted(self._lines.items())}
        if all(named.values()) and share.take_all(SERIES_PER_ESTIMATE * len(self._keys)):
            return [True] * len(self._keys)
        shown = []
        for key in self._keys:
            if not named[key.quantity]:
                share.refuse(SERIES_PER_ESTIMATE, key, "name")
            shown.append(named[key.quantity] and share.take(SERIES_PER_ESTIMATE, key))
        return shown

    def _own(self, labels: tuple[tuple[str, str], ...]) -> str:
        """The labels of a series as they follow ours."""
        return "".join(f",{inside([pair])}" for pair in label_pairs(self.layers.named(labels), _TAKEN))

    def _add(self, lines: Lines, place: int, key: SeriesKey, own: str) -> None:
        who = f'{self._who},rank="{key.rank}"'
        value, stderr, paired = (family.name for family in lines.families)
        lines.places.append(place)
        lines.value.append(line(value, who + own))
        lines.stderr.append(line(stderr, who + own))
        lines.paired.append(line(paired, who + own))
        lines.outcome.append(line(ESTIMATE_OUTCOME.name, f'{who},quantity="{key.quantity}"{own}'))


def _undeclared(name: str) -> Quantity:
    """A quantity whose declaration was not heard: shown under its bare name rather than not at all."""
    return Quantity(name, "1", "", name)
