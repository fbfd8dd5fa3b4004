"""Orders: what a person asks of a run goes from the page's threads to the inlet's, which writes it down before it is carried out.

An order's id is kept in the store with who gave it and when, so that one heard again, also by the next life of the collector, is not
carried out again. What cannot be written down is not carried out at all.
"""

import sqlite3
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import final

from collector.store.orders import OrderRow
from probe_wire import Tighten

ANSWER_SECONDS = 5.0
MOST_WAITING = 100


class NotKept(Exception):
    """The order could not be written down, or not yet."""


@final
class Orders:
    """See the module."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[OrderRow, Future[bool]]] = deque()

    def carry_out(self, order: OrderRow) -> bool:
        """Have an order written down and carried out; False where its id was known. Any thread may ask, and waits for seconds at the most.

        Raises:
            NotKept: the store does not take it, or the inlet stands still.
        """
        if len(self._waiting) >= MOST_WAITING:
            raise NotKept(f"{MOST_WAITING} others wait")
        answer: Future[bool] = Future()
        self._waiting.append((order, answer))
        try:
            return self._answer(answer)
        except TimeoutError:
            raise NotKept("it is being written down; ask again under the same id") from None
        except (sqlite3.Error, OSError) as error:
            raise NotKept(str(error)) from error

    @staticmethod
    def _answer(answer: Future[bool]) -> bool:
        try:
            return answer.result(ANSWER_SECONDS)
        except TimeoutError:
            if answer.cancel():
                raise NotKept(f"nobody took it within {ANSWER_SECONDS:.0f} s") from None
            return answer.result(ANSWER_SECONDS)  # it is being written down

    def work(self, keep: Callable[[OrderRow], bool], wish: Callable[[str, int, Tighten], None]) -> None:
        """Write down and carry out what waits; for the inlet's thread, when nothing waits to be committed."""
        for _ in range(len(self._waiting)):
            order, answer = self._waiting.popleft()
            if not answer.set_running_or_notify_cancel():
                continue
            try:
                new = keep(order)
            except (sqlite3.Error, OSError) as error:
                answer.set_exception(error)
                continue
            if new:
                reason = f"asked for by order {order.id}"
                for rank in order.ranks:
                    wish(
                        order.run_id,
                        rank,
                        Tighten(order.quantity, order.until_step, order.times, order.seconds, reason),
                    )
            answer.set_result(new)
