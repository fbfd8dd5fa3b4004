"""Control: what a person or a script may ask of a run that trains. Each order is taken once, expires, and is kept and logged."""

import math
import threading
import time
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.exceptions import HTTPException

from collector.health import Health
from collector.log import event
from collector.orders import NotKept
from collector.store.orders import OrderRow
from collector.store.queries import Reader
from probe_wire.messages import Identifier, QuantityName

MOST_RANKS = 16
LAST_STEP = 2**62
LEAST_STEPS, PACE = 1000, 10.0
"""An order ends at the latest after so many steps, or so many times as many as the run has made in the same time on average."""


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
        carry_out: keeps an order and asks the agents; False where its id is known.
        health: counts the orders.
    """

    def __init__(self, reader: Reader, carry_out: Callable[[OrderRow], bool], health: Health) -> None:
        self._reader = reader
        self._carry_out = carry_out
        self._health = health
        self._lock = threading.Lock()

    def tighten(self, run_id: str, order: TightenOrder, address: str) -> Taken:
        """Ask the run's agents, once.

        Raises:
            HTTPException: no such run or quantity; or the id was used for another order; or it cannot be kept now.
        """
        with self._lock:
            if (known := self._reader.order(order.id)) is not None:
                return self._repeated(known, run_id, order)
            ranks = self._ranks(run_id, order.quantity)
            until = self._until(run_id, order.seconds)
            terms = (order.quantity, order.times, order.seconds)
            row = OrderRow(order.id, run_id, *terms, until, ranks, time.time(), address)
            try:
                self._carry_out(row)
            except NotKept as error:
                self._count("refused")
                raise HTTPException(
                    503,
                    f"Got the order {order.id!r}, which cannot be written down now: {error}. It was not carried out; give it again.",
                ) from error
        self._count("taken")
        event("order.taken", order=order.id, run=run_id, by=address, **_terms(order), ranks=len(ranks))
        return Taken(order.id, ranks)

    def _repeated(self, known: OrderRow, run_id: str, order: TightenOrder) -> Taken:
        if (known.run_id, known.quantity, known.times, known.seconds) != (run_id, *msgspec.structs.astuple(order)[1:]):
            self._count("refused")
            raise HTTPException(409, f"Got the id {order.id!r}, which was another order's. Give each its own.")
        self._count("repeated")
        return Taken(order.id, known.ranks, repeated=True)

    def _until(self, run_id: str, seconds: float) -> int:
        """The step that the run will not reach before the time is over, so that an order heard late does not last."""
        run = next(row for row in self._reader.runs(run_id) if row.id == run_id)
        pace = run.step / max(run.last_heard - run.first_heard, 1.0)
        return min(run.step + max(LEAST_STEPS, math.ceil(PACE * pace * seconds)), LAST_STEP)

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
