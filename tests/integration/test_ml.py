"""The model on a seeded database: what it finds on unseen payments, and that SQL gives the features of the replay."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from services.ml import features, model, promotion, transactions
from services.ml.examples import Examples
from services.ml.history import DAY, REACH, Payment, replay
from services.ml.scoring import Scorer
from services.ml.store import Store
from services.ml.training import Training, train
from shopfds_ops import migrations
from shopfds_ops.components import postgres
from shopfds_ops.components.base import Live
from shopfds_ops.seed import loader
from shopfds_ops.seed.plan import Plan
from tests.conftest import Project
from tests.unit.ml_payments import JUDGES, KEY

pytestmark = pytest.mark.engines("local")  # it is about the services; their servers are the same on both

INSERT = """
INSERT INTO fds.transactions
    (order_id, user_id, amount, currency, ip, country, device_id, card_bin, card_last4, email_domain, created_at)
SELECT 1000000 + n, 1 + n % 2, n, (ARRAY['USD', 'EUR'])[1 + n % 2], (ARRAY['10.9.9.9', '::ffff:10.9.9.9',
    '2001:db8:0:0::7'])[1 + n % 3]::inet, 'DE', 'crowded', '59000001', '0000', 'burner.example',
    timestamptz '2026-02-01 00:00:00.123456+00' + n / 3 * %s
FROM generate_series(1, 400) AS n
"""
"""Three payments at every instant, more of every key than a history may hold."""


@pytest.fixture(scope="module")
def seeded(project: Project, live: Live) -> Iterator[str]:
    """Connection string to the shared stack's database with the default seed in it: 10 000 orders."""
    conninfo = postgres.conninfo(live, "shopfds")
    migrations.migrate(conninfo)
    loader.seed(conninfo, Plan(), "reset")
    yield conninfo
    project.ok("reset-db", "--yes")


@pytest.fixture
def connection(seeded: str) -> Iterator[Connection]:
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(seeded), poolclass=NullPool)
    with engine.connect() as made:
        yield made


@pytest.fixture
async def session(seeded: str) -> AsyncIterator[AsyncConnection]:
    async def connect() -> psycopg.AsyncConnection:
        return await psycopg.AsyncConnection.connect(seeded)

    engine = create_async_engine("postgresql+psycopg://", async_creator=connect, poolclass=NullPool)
    async with engine.connect() as made:
        yield made


@pytest.fixture(scope="module")
def examples(seeded: str) -> Examples:
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(seeded), poolclass=NullPool)
    with engine.connect() as made:
        return Examples.of(transactions.labelled(made), JUDGES)


@pytest.fixture(scope="module")
def training(examples: Examples) -> Training:
    return train(examples)


def test_the_model_beats_the_baselines_on_unseen_payments(training: Training) -> None:
    found, rules, nothing = training.findings.metrics, *(training.findings.baselines[n] for n in ("rules", "always no"))
    assert training.findings.rows == {"train": 6000, "calibrate": 2000, "test": 2000}
    assert found.rows == rules.rows == nothing.rows == 2000
    assert rules.pr_auc > nothing.pr_auc + 0.3
    assert found.pr_auc > rules.pr_auc + 0.1
    assert found.recall > rules.recall + 0.2
    assert found.precision > 0.95
    assert found.brier is not None
    assert found.calibration_error is not None
    assert found.brier < 0.02
    assert found.calibration_error < 0.02


def test_all_payments_are_read_in_order_and_until_when_it_was_asked(connection: Connection, examples: Examples) -> None:
    assert len(examples) == 10_000
    assert (examples.at[:-1] <= examples.at[1:]).all()
    assert examples.flagged.sum() == 1500
    until = dt.datetime(2025, 7, 1, tzinfo=dt.UTC)
    before = list(transactions.labelled(connection, until))
    count = connection.scalar(text("SELECT count(*) FROM fds.transactions WHERE created_at < '2025-07-01Z'"))
    assert 0 < len(before) == count
    assert before[-1].payment.time < until


async def test_one_payment_alone_has_the_vector_it_had_in_training(
    session: AsyncConnection, connection: Connection, examples: Examples
) -> None:
    payments = [one.payment for one in transactions.labelled(connection)]
    for number in range(0, len(payments), 23):
        payment = payments[number]
        history = await transactions.history(session, payment)
        assert _exact(features.vector(payment, history)) == _exact(examples.vectors[number].tolist())


async def test_crowds_and_instants_are_cut_the_same_way_in_sql(
    session: AsyncConnection, connection: Connection
) -> None:
    """At every edge: instants that are shared, the end of each reach, other spellings of one address."""
    for step in ("interval '1 second'", "interval '1 hour'", "interval '8 minutes 38.4 seconds'"):
        connection.execute(text("DELETE FROM fds.transactions WHERE order_id > 1000000"))
        connection.execute(text(INSERT.replace("%s", step)))
        connection.commit()
        cases = list(replay(one.payment for one in transactions.labelled(connection)))[-400:]
        for payment, history in cases[::7]:
            assert await transactions.history(session, payment) == history
        assert any(len(history.device) == REACH["device"].most for _, history in cases) == ("1 hour" not in step)
    connection.execute(text("DELETE FROM fds.transactions WHERE order_id > 1000000"))
    connection.commit()


async def test_the_history_of_one_payment_comes_from_the_indexes(session: AsyncConnection, examples: Examples) -> None:
    payment = _new()
    compiled = transactions.history_query(payment).compile(dialect=session.engine.dialect)
    plan = await session.exec_driver_sql(f"EXPLAIN {compiled}", dict(compiled.params))
    lines = "\n".join(row[0] for row in plan)
    assert "Seq Scan on transactions" not in lines, lines


async def test_from_the_database_to_a_score(
    session: AsyncConnection, connection: Connection, training: Training, examples: Examples, tmp_path: Path
) -> None:
    store = Store(tmp_path / "models", KEY)
    kept = store.add(training.classifier.to_bytes(), training.findings)
    promotion.promote(store, kept.version, examples)
    assert model.load(store, kept.version).manifest.metrics == training.findings.metrics
    scorer = Scorer(store, budget_ms=5_000)
    assert scorer.refresh()
    known = [one.payment for one in transactions.labelled(connection) if one.label == "normal"][-1]
    usual = known._replace(id=0, at=known.at + 10 * DAY)
    odd = _new()._replace(user_id=known.user_id, at=usual.at, amount=50 * known.amount)
    scores = [await scorer.score(one, await transactions.history(session, one)) for one in (usual, odd)]
    assert [score.flagged for score in scores] == [False, True]
    assert scores[1].version == kept.version
    await scorer.aclose()


def _new() -> Payment:
    return Payment.made(
        at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        user_id=7,
        amount=19.99,
        ip="10.200.0.1",
        country="AE",
        device_id="never seen",
        card_bin="590000",
        email_domain="mail.example",
    )


def _exact(vector: list[float]) -> list[str]:
    return [value.hex() for value in vector]
