"""Admissible: whether what a probe gave can travel, so that a bad name or value costs its probe and not the whole report."""

from collections.abc import Sequence

from probe_wire import MAX_COLUMNS, Column, Estimate, Outcome, Quantity, Schema, decode_for_collector, encode, pack

MOST = 8 * MAX_COLUMNS
"""Series of one probe. A report holds fewer, and chooses; a probe that never ends is stopped here."""


def check(
    given: Sequence[tuple[Quantity, Column, Estimate]], before: Sequence[tuple[Quantity, Column, Estimate]]
) -> None:
    """Refuse columns that a collector would refuse, and estimates that are no numbers.

    ``before`` is what the same probe gave last: columns that have not changed are not looked at again.

    Raises:
        WireError: a name, label or setting breaks the wire's schema; the message says which.
        TypeError, ValueError, OverflowError: a value, an error, a number of draws or an outcome is none, or there are too many.
    """
    if len(given) > MOST:
        raise ValueError(f"Got more than {MOST} series; need fewer. Group the layers.")
    estimates = [estimate for _, _, estimate in given]
    for estimate in estimates:
        Outcome(estimate.outcome)
    pack(estimates)
    columns = [column for _, column, _ in given]
    if columns != [column for _, column, _ in before]:
        quantities = tuple({quantity.name: quantity for quantity, _, _ in given}.values())
        for i in range(0, len(columns), MAX_COLUMNS):
            decode_for_collector(encode(Schema(1, quantities, tuple(columns[i : i + MAX_COLUMNS]))))
