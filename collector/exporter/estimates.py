"""Estimates as series: a value never goes without its standard error and how it came out."""

from collections import Counter
from functools import lru_cache
from typing import NamedTuple

from collector.exporter.catalogue import ESTIMATE_OUTCOME, Family
from collector.exporter.names import Layers, families, label_pairs
from collector.exporter.room import Refused, Share
from collector.exporter.still import Still
from collector.exporter.text import Page, inside, numbers
from collector.live import SeriesKey
from probe_wire import Outcome, Quantity

SERIES_PER_ESTIMATE = 4
"""Value, standard error, paired standard error, outcome: what an estimate takes of the room."""

_TAKEN = frozenset({"run", "rank", "quantity", "outcome", "le", "quantile"})

_OUTCOMES = [str(code) for code in range(max(Outcome) + 1)]

_families = lru_cache(maxsize=4096)(families)


class Prefixes(NamedTuple):
    """The four lines of an estimate before their numbers: made once, used at every scrape."""

    value: str
    stderr: str
    paired: str
    outcome: str


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
    """The estimates of one run, from scrape to scrape: its layers' numbers and its ready-made prefixes."""

    def __init__(self, label: str, refused: Refused) -> None:
        self.layers = Layers()
        self.refused = refused
        self.label = label
        self._who = inside([("run", label)])
        self._keys: list[SeriesKey] = []
        self._quantities: dict[str, Quantity] = {}
        self._families: dict[str, tuple[Family, Family, Family]] = {}
        self._prefixes: list[Prefixes] = []
        self._places: dict[str, list[int]] = {}

    def learn(self, still: Still) -> None:
        """Take in what is new: layers are numbered in the order of the agent's report."""
        keys = list(still.latest)
        if keys == self._keys and still.quantities == self._quantities:  # the same objects mostly, so this is quick
            return
        reported = sorted(still.latest.items(), key=lambda found: (found[1].position, found[0].rank))
        self.layers.learn(value for key, _ in reported for name, value in key.labels if name == "layer")
        self._keys, self._quantities = keys, still.quantities
        self._places = {}
        for place, key in enumerate(keys):
            self._places.setdefault(key.quantity, []).append(place)
        self._families = {name: _families(still.quantities.get(name) or _undeclared(name)) for name in self._places}
        own = {labels: self._own(labels) for labels in {key.labels for key in keys}}  # every rank has the same
        self._prefixes = [self._prefix(key, own[key.labels]) for key in keys]

    def outcomes(self, still: Still) -> dict[str, Counter[int]]:
        """How the newest estimates of each quantity came out; `learn` has seen the same still."""
        codes = bytes([found.estimate.outcome for found in still.latest.values()])
        return {name: Counter([codes[place] for place in places]) for name, places in self._places.items()}

    def write(self, page: Page, still: Still, names: Names, share: Share) -> None:
        """The lines of every estimate there is room for; `learn` has seen the same still."""
        shown = self._shown(names, share)
        share.refuse_all(SERIES_PER_ESTIMATE * still.unseen)
        found = [newest.estimate for newest in still.latest.values()]
        values = numbers([estimate.value for estimate in found])
        stderrs = numbers([estimate.stderr for estimate in found])
        paired = numbers([estimate.paired for estimate in found])
        prefixes = self._prefixes
        for name, (value_family, stderr_family, paired_family) in self._families.items():
            places = [i for i in self._places[name] if shown[i]]
            known = [i for i in places if paired[i] != "NaN"]
            page.lines(value_family).extend([prefixes[i].value + values[i] for i in places])
            page.lines(stderr_family).extend([prefixes[i].stderr + stderrs[i] for i in places])
            page.lines(paired_family).extend([prefixes[i].paired + paired[i] for i in known])
            page.series += 2 * len(places) + len(known)
        outcomes = [
            p.outcome + _OUTCOMES[one.outcome]
            for p, one, is_shown in zip(prefixes, found, shown, strict=True)
            if is_shown
        ]
        page.lines(ESTIMATE_OUTCOME).extend(outcomes)
        page.series += len(outcomes)

    def _shown(self, names: Names, share: Share) -> list[bool]:
        """Of each estimate whether its names are free and there is room for it."""
        named = {name: names.claim(families, name) for name, families in sorted(self._families.items())}
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

    def _prefix(self, key: SeriesKey, own: str) -> Prefixes:
        who = f'{self._who},rank="{key.rank}"'
        value, stderr, paired = (family.name for family in self._families[key.quantity])
        return Prefixes(
            f"{value}{{{who}{own}}} ",
            f"{stderr}{{{who}{own}}} ",
            f"{paired}{{{who}{own}}} ",
            f'{ESTIMATE_OUTCOME.name}{{{who},quantity="{key.quantity}"{own}}} ',
        )


def _undeclared(name: str) -> Quantity:
    """A quantity whose declaration was not heard: shown under its bare name rather than not at all."""
    return Quantity(name, "1", "", name)
