"""The SQL of the record. Every change is one statement that writes both the entries and their history."""

# ruff: noqa: S608  # put together from the constants of this module only; values are parameters

from __future__ import annotations

LOCK = "SELECT pg_advisory_lock(%(lock)s)"
UNLOCK = "SELECT pg_advisory_unlock(%(lock)s)"

COLUMNS = "e.kind, e.value, e.reason, e.created_by, e.created_at, e.expires_at"
ACTIVE = "(e.expires_at IS NULL OR e.expires_at > now())"

FIND = f"""
SELECT {COLUMNS} FROM fds.blacklist_entries e
JOIN unnest(%(kinds)s::text[], %(values)s::text[]) AS t (kind, value) USING (kind, value)
WHERE {ACTIVE}
"""

LIST = f"""
SELECT {COLUMNS}, count(*) OVER () AS total FROM fds.blacklist_entries e
WHERE {ACTIVE}
  AND (%(kind)s::text IS NULL OR e.kind = %(kind)s)
  AND (%(text)s::text IS NULL OR strpos(lower(e.value), %(text)s) > 0 OR strpos(lower(e.reason), %(text)s) > 0)
  AND (%(expiring)s::timestamptz IS NULL OR e.expires_at <= %(expiring)s)
ORDER BY e.id DESC LIMIT %(limit)s
"""

ALL = f"SELECT {COLUMNS} FROM fds.blacklist_entries e WHERE {ACTIVE} ORDER BY e.id"

COUNT = f"SELECT count(*) AS entries FROM fds.blacklist_entries e WHERE {ACTIVE}"

SWEEP = """
WITH gone AS (DELETE FROM fds.blacklist_entries e WHERE e.expires_at <= now() RETURNING e.*)
INSERT INTO fds.blacklist_history (kind, value, action, actor, reason, before)
SELECT kind, value, 'expired', %(actor)s, 'its time was over', to_jsonb(gone) - 'kind' - 'value' FROM gone
"""

_PROPOSE = """
WITH incoming AS (
    SELECT * FROM unnest(%(kinds)s::text[], %(values)s::text[], %(reasons)s::text[], %(expiries)s::timestamptz[])
        AS t (kind, value, reason, expires_at)
), judged AS (
    SELECT i.*, to_jsonb(e) - 'kind' - 'value' AS before, CASE
        WHEN e.id IS NULL THEN 'added'
        WHEN %(replace)s THEN CASE
            WHEN e.reason = i.reason AND e.expires_at IS NOT DISTINCT FROM i.expires_at THEN 'unchanged'
            ELSE 'replaced' END
        WHEN e.expires_at < coalesce(i.expires_at, 'infinity') THEN 'extended'
        ELSE 'unchanged' END AS action
    FROM incoming i LEFT JOIN fds.blacklist_entries e USING (kind, value)
), written AS (
    INSERT INTO fds.blacklist_entries AS e (kind, value, reason, expires_at, created_by)
    SELECT kind, value, reason, expires_at, %(actor)s FROM judged WHERE action <> 'unchanged'
    ON CONFLICT (kind, value) DO UPDATE SET reason = excluded.reason, expires_at = excluded.expires_at
    RETURNING e.*
), logged AS (
    INSERT INTO fds.blacklist_history (kind, value, action, actor, reason, before, after)
    SELECT j.kind, j.value, j.action, %(actor)s, j.reason, j.before, to_jsonb(w) - 'kind' - 'value'
    FROM judged j JOIN written w USING (kind, value)
)
"""

PROPOSE = (
    _PROPOSE
    + """
SELECT j.kind, j.value, j.action, j.before, coalesce(to_jsonb(w), j.before) AS after
FROM judged j LEFT JOIN written w USING (kind, value)
"""
)

PROPOSE_MANY = _PROPOSE + "SELECT action, count(*) AS entries FROM judged GROUP BY action"

REMOVE = f"""
WITH gone AS (
    DELETE FROM fds.blacklist_entries e USING unnest(%(kinds)s::text[], %(values)s::text[]) AS t (kind, value)
    WHERE e.kind = t.kind AND e.value = t.value AND {ACTIVE} RETURNING e.*
), logged AS (
    INSERT INTO fds.blacklist_history (kind, value, action, actor, reason, before)
    SELECT kind, value, 'removed', %(actor)s, %(reason)s, to_jsonb(gone) - 'kind' - 'value' FROM gone
)
SELECT kind, value, 'removed' AS action, to_jsonb(gone) AS before, NULL::jsonb AS after FROM gone
"""

SET_EXPIRY = f"""
WITH old AS (
    SELECT e.* FROM fds.blacklist_entries e JOIN unnest(%(kinds)s::text[], %(values)s::text[]) AS t (kind, value)
    USING (kind, value) WHERE {ACTIVE}
), written AS (
    UPDATE fds.blacklist_entries e SET expires_at = %(expires_at)s FROM old WHERE e.id = old.id RETURNING e.*
), logged AS (
    INSERT INTO fds.blacklist_history (kind, value, action, actor, reason, before, after)
    SELECT kind, value, 'ttl', %(actor)s, %(reason)s,
        to_jsonb(old) - 'kind' - 'value', to_jsonb(written) - 'kind' - 'value'
    FROM old JOIN written USING (kind, value)
)
SELECT kind, value, 'ttl' AS action, to_jsonb(old) AS before, to_jsonb(written) AS after
FROM old JOIN written USING (kind, value)
"""

_LATER = "h.id > coalesce((SELECT history_id FROM fds.blacklist_applied), 0)"

UNAPPLIED = f"""
SELECT u.kind, u.value, e.reason, e.created_by, e.created_at, e.expires_at
FROM (SELECT DISTINCT h.kind, h.value FROM fds.blacklist_history h WHERE {_LATER}) u
LEFT JOIN fds.blacklist_entries e ON e.kind = u.kind AND e.value = u.value AND {ACTIVE}
"""

WAITING = f"SELECT count(*) AS changes FROM fds.blacklist_history h WHERE {_LATER}"

APPLIED = """
INSERT INTO fds.blacklist_applied (history_id) SELECT coalesce(max(id), 0) FROM fds.blacklist_history
ON CONFLICT (single) DO UPDATE SET history_id = excluded.history_id
"""

LAST = "SELECT h.id, h.at FROM fds.blacklist_history h ORDER BY h.id DESC LIMIT 1"

LISTEN = "LISTEN fds_blacklist"
NOTIFY = "NOTIFY fds_blacklist"

CONSISTENT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"

# The report counts only where the record still has the change that it names: else the record was replaced by another.
FOLLOW = """
WITH report AS (
    INSERT INTO fds.blacklist_workers (worker, sequence, reported_at, lease_until)
    SELECT %(worker)s, %(sequence)s, clock_timestamp(), clock_timestamp() + %(lease)s
    WHERE %(sequence)s = 0
       OR EXISTS (SELECT FROM fds.blacklist_history h WHERE h.id = %(sequence)s AND h.at = %(at)s)
    ON CONFLICT (worker) DO UPDATE
    SET sequence = excluded.sequence, reported_at = excluded.reported_at, lease_until = excluded.lease_until
)
SELECT h.id, h.at, h.kind, h.value, h.after FROM fds.blacklist_history h
WHERE h.id >= %(sequence)s ORDER BY h.id LIMIT %(limit)s
"""

LEAVE = """
DELETE FROM fds.blacklist_workers w
WHERE w.worker = %(worker)s OR w.lease_until < clock_timestamp() - %(forget)s
"""

WORKERS = """
SELECT w.worker, w.sequence, w.started_at, w.lease_until > clock_timestamp() AS leased,
    extract(epoch FROM clock_timestamp() - w.reported_at)::float8 AS silent,
    count(h.id) AS changes, coalesce(extract(epoch FROM clock_timestamp() - min(h.at)), 0)::float8 AS seconds
FROM fds.blacklist_workers w LEFT JOIN fds.blacklist_history h ON h.id > w.sequence
GROUP BY w.worker ORDER BY w.worker
"""

ENFORCED = """
SELECT w.worker, w.sequence >= %(sequence)s AS enforces, w.lease_until > clock_timestamp() AS leased
FROM fds.blacklist_workers w ORDER BY w.worker
"""

HISTORY = """
SELECT h.kind, h.value, h.action, h.at, h.actor, h.reason, h.before, h.after FROM fds.blacklist_history h
WHERE %(kinds)s::text[] IS NULL
   OR (h.kind, h.value) IN (SELECT * FROM unnest(%(kinds)s::text[], %(values)s::text[]))
ORDER BY h.id DESC LIMIT %(limit)s
"""
