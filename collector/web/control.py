"""Control: what a person or a script may ask of a run that trains. Each order is taken once, expires, and is logged."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.exceptions import HTTPException

from collector.health import Health
from collector.log import event
from collector.store.queries import Reader
from probe_wire import Tighten
from probe_wire.messages import Identifier, QuantityName

REMEMBERED = 10_000
"""Orders by their ids; an older one could be given again."""
MOST_RANKS = 16
EVER = 2**62


class TightenOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Measure a quantity ``times`` as often as the schedule says for so many ``seconds``, within the budget.

    The ``id`` is the sender's own: an order heard again under it is not carried out again.
    """

    id: Identifier
    quantity: QuantityName
    times: Annotated[int, Meta(ge=2, le=16)] = 4
    seconds: Annotated[float, Meta(gt=0, le=86_400)] = 600.0


class Taken(msgspec.Struct, frozen=True):
    """The ranks that were asked. ``repeated``: the order was taken before, and nothing was done now."""

    id: str
    ranks: list[int]
    repeated: bool = False


class Control:
    """Any thread may give an order.

    Args:
        reader: tells which ranks report a quantity.
        wish: asks the agent of a run and rank.
        health: counts the orders.
    """

    def __init__(self, reader: Reader, wish: Callable[[str, int, Tighten], None], health: Health) -> None:
        self._reader = reader
        self._wish = wish
        self._health = health
        self._lock = threading.Lock()
        self._taken: OrderedDict[str, tuple[str, TightenOrder, list[int]]] = OrderedDict()

    def tighten(self, run_id: str, order: TightenOrder, address: str) -> Taken:
        """Ask the run's agents, once.

        Raises:
            HTTPException: no such run or quantity; or the id was used for another order.
        """
        with self._lock:
            known = self._taken.get(order.id)
            if known is not None:
                if known[:2] != (run_id, order):
                    self._count("refused")
                    raise HTTPException(409, f"Got the id {order.id!r}, which was another order's. Give each its own.")
                self._count("repeated")
                return Taken(order.id, known[2], repeated=True)
            ranks = self._ranks(run_id, order.quantity)
            self._taken[order.id] = (run_id, order, ranks)
            if len(self._taken) > REMEMBERED:
                self._taken.popitem(last=False)
        for rank in ranks:
            reason = f"asked for by order {order.id}"
            self._wish(run_id, rank, Tighten(order.quantity, EVER, order.times, order.seconds, reason))
        self._count("taken")
        event("order.taken", order=order.id, run=run_id, by=address, **_terms(order), ranks=len(ranks))
        return Taken(order.id, ranks)

    def _ranks(self, run_id: str, quantity: str) -> list[int]:
        ranks = sorted({row.rank for row in self._reader.series(run_id) if row.quantity == quantity})
        if not ranks:
            self._count("refused")
            raise HTTPException(404, f"Got the run {run_id!r} and the quantity {quantity!r}; no such run measures it.")
        return ranks[:MOST_RANKS]

    def _count(self, answer: str) -> None:
        self._health.orders.labels(answer).inc()


def _terms(order: TightenOrder) -> dict[str, object]:
    return {"quantity": order.quantity, "times": order.times, "seconds": order.seconds}
