"""Advisory locks: whoever waits for one must not wait for the work of another."""

from __future__ import annotations

from services.fds.blacklist import record
from shopfds_ops import database


def test_every_kind_of_work_has_a_lock_of_its_own() -> None:
    keys = [database.MIGRATION_LOCK, database.SEED_LOCK, record.LOCK]
    assert len(set(keys)) == len(keys)
    assert all(-(2**63) <= key < 2**63 for key in keys)
