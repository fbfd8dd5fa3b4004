"""Prometheus's text format 0.0.4: escaped labels, numbers, and families whose lines stay together.

Written by hand because the cost of a page is the cost of its lines: ready-made lines that are filled with their
numbers many at once take a twentieth of what a general encoder takes.
"""

import math
from collections.abc import Iterable, Sequence

import msgspec

from collector.exporter.catalogue import Family

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_IN_LABEL = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_IN_HELP = str.maketrans({"\\": r"\\", "\n": r"\n"})


def inside(labels: Iterable[tuple[str, str]]) -> str:
    """What is between the braces: ``a="b",c="d"``."""
    return ",".join([f'{label}="{value.translate(_IN_LABEL)}"' for label, value in labels])


def line(name: str, between: str) -> bytes:
    """A line with a place for its number: ``name{a="b",c="d"} %b``. Two joined are the form of two lines."""
    form = f"{name}{{{between}}} " if between else f"{name} "
    return form.encode("utf-8", "replace").replace(b"%", b"%%") + b"%b\n"


def number(value: float) -> bytes:
    """A float as the format spells it."""
    if math.isfinite(value):
        return repr(float(value)).encode()
    if math.isnan(value):
        return b"NaN"
    return b"+Inf" if value > 0 else b"-Inf"


def numbers(values: Sequence[float]) -> list[bytes]:
    """Many floats as the format spells them, all at once: that is quicker than one by one."""
    if not values:
        return []
    spelled = msgspec.json.encode(values)[1:-1]
    if b"null" not in spelled:
        return spelled.split(b",")
    return [text if text != b"null" else number(value) for text, value in zip(spelled.split(b","), values, strict=True)]


class Page:
    """One answer to one scrape. Families come in the order they were opened; empty ones are left out."""

    def __init__(self) -> None:
        self._families: dict[str, tuple[Family, list[bytes]]] = {}
        self.series = 0

    def add(self, family: Family, labels: Iterable[tuple[str, str]], value: float) -> None:
        """One line of a family."""
        self.add_all(family, [line(family.name, inside(labels))], [number(value)])

    def add_all(self, family: Family, lines: Sequence[bytes], spelled: Sequence[bytes]) -> None:
        """Many ready-made lines of a family, and their numbers; the first to open a name writes its help and type."""
        opened = self._families.get(family.name)
        if opened is None:
            opened = self._families[family.name] = (family, [])
        opened[1].append(b"".join(lines) % (*spelled,))
        self.series += len(lines)

    def encode(self) -> bytes:
        """The page as Prometheus reads it."""
        out: list[bytes] = []
        for name, (family, blocks) in self._families.items():
            if any(blocks):
                out.append(
                    f"# HELP {name} {family.help.translate(_IN_HELP)}\n# TYPE {name} {family.type}\n".encode(
                        "utf-8", "replace"
                    )
                )
                out += blocks
        return b"".join(out)
