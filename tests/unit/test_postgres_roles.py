"""PostgreSQL's roles before anything runs: verifiers as libpq makes them, and a bootstrap without passwords."""

from __future__ import annotations

import base64

import psycopg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shopfds_ops.components import postgres_roles as roles
from shopfds_ops.components.postgres_scram import prepared, salted, verifier
from shopfds_ops.secrets import PURPOSES, Secrets

SECRETS = Secrets({name: f"secret-{index}" for index, name in enumerate(PURPOSES)})


@pytest.fixture(scope="module")
def libpq() -> psycopg.pq.abc.PGconn:
    """A connection to nothing: encrypting needs no server."""
    return psycopg.pq.PGconn.connect(b"host=/nonexistent")


@given(password=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12))
@example(password="secret")
@example(password="\u00aa\u2168 \u00a0x")
@example(password="\u0627\u0031")
@example(password="\u0627\u0628")
@example(password="\u00ad")
def test_verifiers_are_those_of_libpq_for_any_password(libpq: psycopg.pq.abc.PGconn, password: str) -> None:
    theirs = libpq.encrypt_password(password.encode(), b"role", b"scram-sha-256").decode()
    salt = base64.b64decode(theirs.split("$")[1].partition(":")[2])
    assert salted(prepared(password), salt) == theirs


def test_a_verifier_is_the_same_each_time_and_another_for_each_role_and_password() -> None:
    pairs = [("one", "monitor"), ("one", "shopfds"), ("two", "monitor")]
    assert [verifier(*pair) for pair in pairs] == [verifier(*pair) for pair in pairs]
    salts = {verifier(*pair).split("$")[1] for pair in pairs}
    assert len(salts) == len(pairs)


def test_the_bootstrap_has_no_password_and_one_statement_on_each_line() -> None:
    text = roles.bootstrap(SECRETS, "shopfds")
    assert not any(value in text for value in SECRETS.values.values())
    assert text.count("SCRAM-SHA-256$4096:") == len(roles.ATTRIBUTES)
    assert all(line.endswith(";") and line.count(";") == 1 for line in text.splitlines())
