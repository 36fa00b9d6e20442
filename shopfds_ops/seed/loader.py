"""Loading a batch: chunks of COPY, each with its progress in one transaction, so that interruptions can be continued.

The record of what is done (ecommerce.seed_batches) is in the database itself and moves with the rows. A batch sets its
ids aside from the sequences before its first row, so nothing that is inserted meanwhile or later can collide with it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from shopfds_ops import database
from shopfds_ops.errors import DataError
from shopfds_ops.events import Note, Progress, Sink, discard
from shopfds_ops.seed.generator import VERSION, Generator
from shopfds_ops.seed.plan import Plan
from shopfds_ops.seed.rows import COLUMNS, Chunk, FirstIds, Stage

Mode = Literal["refuse", "append", "reset", "if-empty"]

AHEAD = 1
"""Chunks that wait while one is loaded and one is generated. More would only cost memory: the server is the slower."""

SEQUENCES = {
    "user": "ecommerce.users",
    "product": "ecommerce.products",
    "order": "ecommerce.orders",
    "review": "ecommerce.reviews",
    "transaction": "fds.transactions",
}


@dataclass(frozen=True, slots=True)
class SeedResult:
    """What a run did: the rows it wrote by table (none when there was nothing to do), and in which batch."""

    batch: int | None
    rows: Mapping[str, int]
    seconds: float
    resumed: bool = False
    """Whether it finished a batch that an earlier run had begun."""
    sizes: Plan | None = None
    """The batch's own sizes: those of the earlier run when resumed."""

    @property
    def rows_per_second(self) -> float:
        return sum(self.rows.values()) / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A row of ecommerce.seed_batches."""

    batch: int
    generator: int
    rng_seed: int
    users: int
    products: int
    orders: int
    reviews: int
    first_user_id: int
    first_product_id: int
    first_order_id: int
    first_review_id: int
    first_transaction_id: int
    users_done: int
    products_done: int
    orders_done: int

    @property
    def plan(self) -> Plan:
        return Plan(
            users=self.users,
            products=self.products,
            orders=self.orders,
            reviews=self.reviews,
            rng_seed=self.rng_seed,
        )

    @property
    def first(self) -> FirstIds:
        return FirstIds(
            self.first_user_id,
            self.first_product_id,
            self.first_order_id,
            self.first_review_id,
            self.first_transaction_id,
        )


def seed(conninfo: str, plan: Plan, mode: Mode = "refuse", sink: Sink = discard) -> SeedResult:
    """Write one batch of rows, or finish the one that an earlier run left unfinished (in every mode but reset).

    refuse: only an empty database is filled. if-empty: a filled one is left as it is. append: a further batch.
    reset: all rows of the seeded tables go first, whoever made them.

    When it is interrupted or dies, the chunks that were committed stay; the next run continues after them.
    """
    started = time.monotonic()
    with database.connect(conninfo) as connection, database.exclusive(connection, database.SEED_LOCK, "seed"):
        if mode == "reset":
            _empty(connection)
        batch = _unfinished(connection)
        resumed = batch is not None
        if batch is not None:
            _can_continue(batch)
            sink(Note("info", f"finishing batch {batch.batch}, of which {batch.orders_done} orders were in"))
        else:
            table = _filled(connection)
            if table and mode == "if-empty":
                return SeedResult(None, {}, time.monotonic() - started)
            if table and mode == "refuse":
                raise DataError(
                    f"the database is filled already: {table} has rows; nothing was changed",
                    remedy="add a further batch: `shopfds seed --append`; or start anew: `shopfds seed --reset`",
                )
            batch = _begin(connection, plan)
        written = _load(connection, batch, sink)
        # Fresh statistics at once: until autovacuum comes by, plans would be made for empty tables.
        for name in COLUMNS:
            connection.execute(sql.SQL("ANALYZE {}").format(_name(name)))
    return SeedResult(batch.batch, written, time.monotonic() - started, resumed, batch.plan)


def outstanding(conninfo: str) -> str | None:
    """What a seed in mode `if-empty` would do now: fill an empty database, finish a batch, or nothing (None)."""
    with database.connect(conninfo) as connection:
        batch = _unfinished(connection)
        if batch is not None:
            return f"batch {batch.batch} is unfinished: {batch.orders_done} of {batch.orders} orders are in"
        return None if _filled(connection) else "the database is empty"


def counts(conninfo: str) -> dict[str, int]:
    """Rows per seeded table, exact."""
    with database.connect(conninfo) as connection:
        found = {}
        for table in COLUMNS:
            row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(_name(table))).fetchone()
            found[table] = int(row[0]) if row else 0
        return found


def _load(connection: psycopg.Connection, batch: Batch, sink: Sink) -> dict[str, int]:
    written = dict.fromkeys(COLUMNS, 0)
    generator = Generator(batch.plan, batch.first, batch.batch)
    done: dict[Stage, int] = {
        "users": batch.users_done,
        "products": batch.products_done,
        "orders": batch.orders_done,
    }
    totals: dict[Stage, int] = {"users": batch.users, "products": batch.products, "orders": batch.orders}
    chunks = generator.chunks(done["users"], done["products"], done["orders"])
    sink(Progress("seed orders", done["orders"], totals["orders"], "orders"))
    try:
        with _ahead(chunks) as ready:
            for chunk in ready:
                _commit(connection, batch, chunk)
                done[chunk.stage] = chunk.done
                for rows in chunk.rows:
                    written[rows.table] += rows.count
                sink(Progress(f"seed {chunk.stage}", chunk.done, totals[chunk.stage], chunk.stage))
    except KeyboardInterrupt:
        sink(
            Note(
                "warning",
                f"interrupted: {done['orders']} of {batch.orders} orders of batch {batch.batch} are in and stay; "
                "the next `shopfds seed` or `shopfds up` writes the rest",
            )
        )
        raise
    connection.execute("UPDATE ecommerce.seed_batches SET finished_at = now() WHERE batch = %s", [batch.batch])
    return written


def _commit(connection: psycopg.Connection, batch: Batch, chunk: Chunk) -> None:
    """One chunk: its rows and the record of them, in one transaction."""
    with connection.transaction(), connection.cursor() as cursor:
        for rows in chunk.rows:
            if rows.count:
                columns = sql.SQL(", ").join(map(sql.Identifier, COLUMNS[rows.table]))
                with cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(_name(rows.table), columns)) as copy:
                    copy.write(rows.data)
        column = sql.Identifier(f"{chunk.stage}_done")
        cursor.execute(
            sql.SQL("UPDATE ecommerce.seed_batches SET {} = %s WHERE batch = %s").format(column),
            [chunk.done, batch.batch],
        )
        if cursor.rowcount != 1:
            raise DataError(
                f"the record of batch {batch.batch} is gone: somebody emptied the database while it was seeded",
                remedy="run it again",
            )


@contextmanager
def _ahead(chunks: Iterator[Chunk]) -> Iterator[Iterator[Chunk]]:
    """The same chunks, generated by a thread while the server works on those before."""
    ready: queue.Queue[Chunk | BaseException | None] = queue.Queue(AHEAD)
    stopped = threading.Event()

    def put(item: Chunk | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def produce() -> None:
        try:
            for chunk in chunks:
                if not put(chunk):
                    return
        except BaseException as error:  # raised again where the chunks are taken
            put(error)
        else:
            put(None)

    def take() -> Iterator[Chunk]:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=produce, name="seed-generator", daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        stopped.set()


def _begin(connection: psycopg.Connection, plan: Plan) -> Batch:
    """Record a new batch and set its ids aside. The locks keep other writers from the sequences for that moment."""
    sizes = {
        "user": plan.users,
        "product": plan.products,
        "order": plan.orders,
        "review": plan.reviews,
        "transaction": plan.orders,
    }
    with connection.transaction():
        first = {}
        for kind, table in SEQUENCES.items():
            connection.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(_name(table)))
            row = connection.execute("SELECT nextval(pg_get_serial_sequence(%s, 'id'))", [table]).fetchone()
            first[kind] = int(row[0]) if row else 1
            if sizes[kind] > 1:
                last = first[kind] + sizes[kind] - 1
                connection.execute("SELECT setval(pg_get_serial_sequence(%s, 'id'), %s)", [table, last])
        connection.execute(
            """
            INSERT INTO ecommerce.seed_batches
                (batch, generator, rng_seed, users, products, orders, reviews, first_user_id, first_product_id,
                 first_order_id, first_review_id, first_transaction_id)
            SELECT coalesce(max(batch), 0) + 1, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s FROM ecommerce.seed_batches
            """,
            [VERSION, plan.rng_seed, plan.users, plan.products, plan.orders, plan.reviews, *first.values()],
        )
    batch = _unfinished(connection)
    if batch is None:
        raise DataError("the batch just begun is gone: somebody reset the database", remedy="run it again")
    return batch


def _unfinished(connection: psycopg.Connection) -> Batch | None:
    columns = sql.SQL(", ").join(map(sql.Identifier, Batch.__dataclass_fields__))
    query = sql.SQL("SELECT {} FROM ecommerce.seed_batches WHERE finished_at IS NULL").format(columns)
    with connection.cursor(row_factory=class_row(Batch)) as cursor:
        return cursor.execute(query).fetchone()


def _can_continue(batch: Batch) -> None:
    if batch.generator != VERSION:
        raise DataError(
            f"batch {batch.batch} was begun by another version of the generator ({batch.generator}, here {VERSION}), "
            "which makes other rows",
            remedy="finish it with the version that began it, or start anew: `shopfds seed --reset`",
        )


def _filled(connection: psycopg.Connection) -> str:
    """The first table that has rows, or nothing."""
    for table in COLUMNS:
        row = connection.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(_name(table))).fetchone()
        if row and row[0]:
            return table
    return ""


def _empty(connection: psycopg.Connection) -> None:
    """Remove all rows of the seeded tables and start their ids again, in one transaction."""
    tables = sql.SQL(", ").join(map(_name, (*COLUMNS, "ecommerce.seed_batches")))
    connection.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY").format(tables))


def _name(table: str) -> sql.Identifier:
    return sql.Identifier(*table.split("."))
