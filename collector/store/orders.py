"""Orders as they are kept: what a person asked of a run, when and from where, under an id that is carried out once."""

import json
import sqlite3

import msgspec

MOST = 10_000
"""Remembered by their ids; an older one could be given again."""


class OrderRow(msgspec.Struct, frozen=True):
    """What a person asked of a run: to measure a quantity ``times`` as often for so many ``seconds`` or until a step."""

    id: str
    run_id: str
    quantity: str
    times: int
    seconds: float
    until_step: int
    ranks: list[int]
    given_at: float
    given_by: str


def put_order(db: sqlite3.Connection, order: OrderRow) -> bool:
    """Keep an order, within the caller's transaction; False where its id is known."""
    put = db.execute(
        "INSERT INTO orders (id, run_id, quantity, times, seconds, until_step, ranks, given_at, given_by) "
        "VALUES (:id, :run_id, :quantity, :times, :seconds, :until_step, :ranks, :given_at, :given_by) ON CONFLICT DO NOTHING",
        msgspec.structs.asdict(order) | {"ranks": json.dumps(order.ranks)},
    )
    db.execute("DELETE FROM orders WHERE number <= (SELECT MAX(number) FROM orders) - ?", (MOST,))
    return put.rowcount == 1


def order_of(db: sqlite3.Connection, order_id: str) -> OrderRow | None:
    """The order of this id, where one was kept."""
    query = (
        "SELECT id, run_id, quantity, times, seconds, until_step, ranks, given_at, given_by FROM orders WHERE id = ?"
    )
    row = db.execute(query, (order_id,)).fetchone()
    return row and OrderRow(**dict(zip(OrderRow.__struct_fields__, row, strict=True)) | {"ranks": json.loads(row[6])})
