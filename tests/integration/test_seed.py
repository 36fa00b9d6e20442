"""Seeding a real database: sizes, repeats, interruptions at any moment, and data that agree with themselves."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from shopfds_ops import database as operations
from shopfds_ops import migrations
from shopfds_ops.errors import DataError
from shopfds_ops.events import Event, Progress
from shopfds_ops.seed import checks, loader
from shopfds_ops.seed.generator import CHUNK
from shopfds_ops.seed.plan import Plan
from shopfds_ops.seed.rows import COLUMNS

SMALL = Plan(users=40, products=20, orders=400, reviews=100)
LARGE = Plan(users=2000, products=500, orders=CHUNK + 20_000, reviews=20_000)
ROOT = Path(__file__).resolve().parents[2]

RUN = """
import sys
from shopfds_ops.seed import loader
from shopfds_ops.seed.generator import CHUNK
from shopfds_ops.seed.plan import Plan

users, products, orders, reviews = map(int, sys.argv[2:])
plan = Plan(users=users, products=products, orders=orders, reviews=reviews)
loader.seed(sys.stdin.read(), plan, sys.argv[1], lambda event: print(event, flush=True))
"""


@pytest.fixture
def migrated(database: str) -> str:
    migrations.migrate(database)
    return database


def _agrees(database: str) -> None:
    assert {item.name: item.violations for item in checks.check(database) if item.violations} == {}


def _counts(database: str) -> dict[str, int]:
    found = loader.counts(database)
    found.pop("ecommerce.order_items")
    return {table.partition(".")[2]: count for table, count in found.items()}


def _of(*plans: Plan) -> dict[str, int]:
    return {name: sum(plan.rows[name] for plan in plans) for name in SMALL.rows}


def _content(database: str) -> dict[str, str]:
    """A digest of every seeded table."""
    with psycopg.connect(database) as connection:
        rows = {}
        for table in COLUMNS:
            query = f"SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM {table} AS t"
            row = connection.execute(query).fetchone()
            assert row
            rows[table] = row[0]
        return rows


def _start(database: str, plan: Plan, mode: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, mode, *map(str, (plan.users, plan.products, plan.orders, plan.reviews))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdin
    process.stdin.write(database)
    process.stdin.close()
    process.stdin = None
    return process


def _interrupt(database: str, plan: Plan, mode: str, how: signal.Signals) -> str:
    """Start a seed, and stop it when its first chunk of orders is in; returns what it said."""
    process = _start(database, plan, mode)
    assert process.stdout
    for line in process.stdout:
        if "seed orders" in line and "done=0" not in line:
            break
    process.send_signal(how)
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    return said


def test_the_default_plan_fills_an_empty_database(migrated: str) -> None:
    assert loader.outstanding(migrated) == "the database is empty"
    result = loader.seed(migrated, Plan())
    assert result.batch == 1
    assert _counts(migrated) == {
        "users": 1000,
        "products": 500,
        "orders": 10000,
        "reviews": 5000,
        "transactions": 10000,
    }
    assert {table: count for table, count in result.rows.items() if count} == loader.counts(migrated)
    assert loader.outstanding(migrated) is None
    with psycopg.connect(migrated) as connection:
        labels = connection.execute("SELECT label, count(*) FROM fds.transactions GROUP BY label").fetchall()
    assert dict(labels) == {"normal": 8500, "suspicious": 1000, "fraud": 500}
    _agrees(migrated)


def test_a_filled_database_is_refused_and_left_as_it_is(migrated: str) -> None:
    loader.seed(migrated, SMALL)
    before = _content(migrated)
    with pytest.raises(DataError, match="filled already") as refused:
        loader.seed(migrated, SMALL)
    assert "--append" in refused.value.remedy
    assert "--reset" in refused.value.remedy
    assert loader.seed(migrated, SMALL, "if-empty").batch is None
    assert _content(migrated) == before


def test_reset_gives_the_same_rows_again(migrated: str) -> None:
    loader.seed(migrated, SMALL)
    before = _content(migrated)
    loader.seed(migrated, SMALL, "append")
    assert loader.seed(migrated, SMALL, "reset").batch == 1
    assert _content(migrated) == before


def test_three_appends_of_which_one_is_killed_add_up(migrated: str) -> None:
    loader.seed(migrated, SMALL)
    loader.seed(migrated, SMALL, "append")
    _interrupt(migrated, LARGE, "append", signal.SIGKILL)
    partly = _counts(migrated)
    assert partly["orders"] < 2 * SMALL.orders + LARGE.orders
    assert "batch 3 is unfinished" in (loader.outstanding(migrated) or "")

    result = loader.seed(migrated, SMALL, "append")

    assert result.resumed
    assert result.sizes == LARGE
    assert 0 < result.rows["ecommerce.orders"] < LARGE.orders
    assert _counts(migrated) == _of(SMALL, SMALL, LARGE)
    loader.seed(migrated, SMALL, "append")
    assert _counts(migrated) == _of(SMALL, SMALL, LARGE, SMALL)
    _agrees(migrated)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_seed_ends_as_if_it_had_never_been(migrated: str, how: signal.Signals) -> None:
    loader.seed(migrated, LARGE)
    whole = _content(migrated)
    said = _interrupt(migrated, LARGE, "reset", how)
    assert ("orders of batch 1 are in and stay" in said) == (how == signal.SIGINT)
    loader.seed(migrated, LARGE)
    assert _content(migrated) == whole
    _agrees(migrated)


def test_a_server_that_goes_away_is_one_clear_error_and_the_next_run_goes_on(migrated: str) -> None:
    def cut(event: Event) -> None:
        if isinstance(event, Progress) and event.name == "seed orders" and event.done:
            with psycopg.connect(migrated, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE usename = current_user AND pid <> pg_backend_pid() AND datname = current_database()"
                )

    with pytest.raises(DataError, match="went away"):
        loader.seed(migrated, LARGE, sink=cut)
    loader.seed(migrated, LARGE)
    assert _counts(migrated) == _of(LARGE)
    _agrees(migrated)


def test_rows_of_others_and_of_the_seed_never_collide(migrated: str) -> None:
    insert = (
        "INSERT INTO ecommerce.users (email, name, password_hash, country) VALUES (%s, 'A', 'x', 'US') RETURNING id"
    )
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute(insert, ["before@shop.test"])
        loader.seed(migrated, SMALL, "append")
        connection.execute(insert, ["between@shop.test"])
        loader.seed(migrated, SMALL, "append")
        connection.execute(insert, ["after@shop.test"])
    assert _counts(migrated)["users"] == 2 * SMALL.users + 3
    _agrees(migrated)


def test_two_appends_at_once_come_one_after_the_other(migrated: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        batches = sorted(pool.map(lambda _: loader.seed(migrated, SMALL, "append").batch or 0, range(2)))
    assert batches == [1, 2]
    assert _counts(migrated) == _of(SMALL, SMALL)
    _agrees(migrated)


def test_a_second_seed_gives_up_when_the_first_takes_too_long(migrated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "LOCK_TIMEOUT", 1)
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [operations.SEED_LOCK])
        with pytest.raises(DataError, match="another seed is at work"):
            loader.seed(migrated, SMALL)
    assert loader.seed(migrated, SMALL).batch == 1


def test_a_new_schema_is_not_made_under_a_running_seed(migrated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loader.seed(migrated, SMALL)
    before = _content(migrated)
    monkeypatch.setattr(operations, "LOCK_TIMEOUT", 1)
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [operations.SEED_LOCK])
        with pytest.raises(DataError, match="another seed is at work"):
            migrations.reset(migrated)
        with pytest.raises(DataError, match="another seed is at work"):
            migrations.migrate(migrated, revision="base")
    assert _content(migrated) == before
    assert migrations.reset(migrated)


def test_a_seed_whose_record_was_removed_meanwhile_is_one_clear_error(migrated: str) -> None:
    def remove(event: Event) -> None:
        if isinstance(event, Progress) and event.name == "seed orders" and event.done:
            with psycopg.connect(migrated, autocommit=True) as connection:
                connection.execute("DELETE FROM ecommerce.seed_batches")

    with pytest.raises(DataError, match="the record of batch 1 is gone"):
        loader.seed(migrated, LARGE, sink=remove)
    assert 0 < _counts(migrated)["orders"] < LARGE.orders


def test_a_reset_does_not_wait_for_ever_for_readers(migrated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loader.seed(migrated, SMALL)
    before = _content(migrated)
    monkeypatch.setattr(operations, "LOCK_TIMEOUT", 1)
    with psycopg.connect(migrated) as reader:
        reader.execute("SELECT count(*) FROM ecommerce.users")
        with pytest.raises(DataError, match="somebody else is using the tables"):
            loader.seed(migrated, SMALL, "reset")
    assert _content(migrated) == before


def test_a_batch_begun_by_another_version_is_not_continued(migrated: str) -> None:
    _interrupt(migrated, LARGE, "refuse", signal.SIGKILL)
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute("UPDATE ecommerce.seed_batches SET generator = generator + 1")
    before = _counts(migrated)
    with pytest.raises(DataError, match="another version") as refused:
        loader.seed(migrated, LARGE, "append")
    assert "--reset" in refused.value.remedy
    assert _counts(migrated) == before
    loader.seed(migrated, SMALL, "reset")
    assert _counts(migrated) == _of(SMALL)


def test_the_check_sees_what_is_wrong(migrated: str) -> None:
    loader.seed(migrated, SMALL)
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute("UPDATE ecommerce.orders SET total = total + 1 WHERE id IN (1, 2)")
        connection.execute("DELETE FROM fds.transactions WHERE id = 3")
        connection.execute("UPDATE ecommerce.reviews SET user_id = user_id % 40 + 1 WHERE id = 1")
        connection.execute("SELECT setval('ecommerce.users_id_seq', 1)")
    found = {item.name: item.violations for item in checks.check(migrated)}
    assert found["an order's total is the sum of its items"] == 2
    assert found["a transaction's amount and user are those of its order"] == 2
    assert found["every row of the recorded batches is there, once"] == 1
    assert found["a review is by the user who bought the product in that order"] == 1
    assert found["no sequence will hand out an id that is taken"] == 1
    assert found["no stock is negative"] == 0


def test_a_database_without_tables_is_told_to_migrate(database: str) -> None:
    with pytest.raises(DataError, match="lacks its tables") as refused:
        loader.seed(database, SMALL)
    assert "shopfds migrate" in refused.value.remedy
