"""`shopfds up` from nothing against a plain shell script that starts the same servers with the same configuration."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.row import Row
from benchmarks.scratch import Scratch

LIMIT = 1.15

SCRIPT = r"""
set -eu
as() {
    user=$1; shift
    if [ "$(id -u)" = 0 ]; then setpriv --reuid="$user" --regid="$user" --init-groups "$@"; else "$@"; fi
}
mkdir -p "$W/volumes/pg" "$W/volumes/rabbit" "$W/log"
for n in 1 2 3 4 5 6; do mkdir -p "$W/volumes/redis$n"; done
if [ "$(id -u)" = 0 ]; then
    chown postgres "$W/volumes/pg"; chown redis "$W"/volumes/redis?; chown rabbitmq "$W/volumes/rabbit"
fi
chmod 755 "$W"; cd "$W"

# The broker takes longest: first.
cat > rabbitmq.conf <<END
listeners.tcp.1 = 127.0.0.1:$RABBIT
management.tcp.ip = 127.0.0.1
management.tcp.port = $RABBIT_MANAGEMENT
prometheus.tcp.ip = 127.0.0.1
prometheus.tcp.port = $RABBIT_PROMETHEUS
load_definitions = $DEFINITIONS
log.console = true
END
echo '[rabbitmq_management,rabbitmq_prometheus].' > enabled_plugins
as rabbitmq env HOME="$W/volumes/rabbit" RABBITMQ_NODENAME=rabbit@localhost RABBITMQ_CONF_ENV_FILE=/dev/null \
    RABBITMQ_CONFIG_FILE="$W/rabbitmq" RABBITMQ_ENABLED_PLUGINS_FILE="$W/enabled_plugins" RABBITMQ_LOGS=- \
    RABBITMQ_MNESIA_BASE="$W/volumes/rabbit/mnesia" RABBITMQ_DIST_PORT=$RABBIT_DIST ERL_EPMD_PORT=$RABBIT_EPMD \
    ERL_EPMD_ADDRESS=127.0.0.1 "$RABBIT_BIN/rabbitmq-server" > log/rabbitmq 2>&1 &

for n in 1 2 3 4 5 6; do
    as redis redis-server --port $((REDIS + n - 1)) --dir "$W/volumes/redis$n" --cluster-enabled yes --appendonly yes \
        --cluster-node-timeout 5000 --bind 127.0.0.1 --requirepass "$PASSWORD" --masterauth "$PASSWORD" \
        > log/redis$n 2>&1 &
done

as postgres "$PG_BIN/initdb" -D volumes/pg/primary -U postgres --auth=trust --encoding=UTF8 --locale=C.UTF-8 \
    --data-checksums > log/initdb
cat >> volumes/pg/primary/postgresql.conf <<END
port = $PG
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
wal_log_hints = on
END
as postgres "$PG_BIN/postgres" -D volumes/pg/primary > log/primary 2>&1 &
until "$PG_BIN/pg_isready" -q -h 127.0.0.1 -p "$PG"; do sleep 0.1; done
psql -h 127.0.0.1 -p "$PG" -U postgres -qc "CREATE ROLE replicator LOGIN REPLICATION" -c "CREATE DATABASE shopfds"
as postgres "$PG_BIN/pg_basebackup" -d "host=127.0.0.1 port=$PG user=replicator" -D volumes/pg/replica \
    -R -C -S replica -c fast
sed -i "s/^port = .*/port = $PG_REPLICA/" volumes/pg/replica/postgresql.conf
as postgres "$PG_BIN/postgres" -D volumes/pg/replica > log/replica 2>&1 &

export REDISCLI_AUTH="$PASSWORD"
hosts=""; for n in 1 2 3 4 5 6; do hosts="$hosts 127.0.0.1:$((REDIS + n - 1))"; done
redis-cli --cluster create $hosts --cluster-replicas 1 --cluster-yes > log/create
linked() {
    redis-cli -p "$REDIS" cluster info | grep -q cluster_state:ok || return 1
    for n in 1 2 3 4 5 6; do
        redis-cli -p $((REDIS + n - 1)) info replication \
            | grep -qE 'connected_slaves:1|master_link_status:up' || return 1
    done
}
until linked; do sleep 0.1; done

until "$PG_BIN/pg_isready" -q -h 127.0.0.1 -p "$PG_REPLICA" && [ "$(psql -h 127.0.0.1 -p "$PG" -U postgres -Atc \
    "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")" = 1 ]; do sleep 0.1; done
until (exec 3<> "/dev/tcp/127.0.0.1/$RABBIT") 2> /dev/null; do sleep 0.1; done
"""


def run(runs: int = 3) -> list[Row]:
    """The two in turn, each from nothing; the row shows medians, its ratio is the median of the pairs' ratios."""
    pairs = [(_ours(), _by_hand()) for _ in range(runs)]
    ratios = sorted(ours / hand for ours, hand in pairs)
    middle = len(pairs) // 2
    ours, hand = (sorted(pair[side] for pair in pairs)[middle] for side in (0, 1))
    return [Row("up of the data plane from nothing, s", ours, hand, ratios[middle], LIMIT)]


def _ours() -> float:
    with Scratch() as scratch:
        start = time.perf_counter()
        scratch.shopfds("up", "--no-seed")
        return time.perf_counter() - start


def _by_hand() -> float:
    with Scratch() as scratch, tempfile.TemporaryDirectory(prefix="shopfds-by-hand-") as name:
        stack = scratch.stack()
        ports, work = stack.settings.ports, Path(name)
        rendered = stack.rendered()["local/rabbitmq/definitions.json"]
        definitions = work / "definitions.json"
        definitions.write_bytes(rendered)
        work.chmod(0o755)
        environment = os.environ | {
            "W": name,
            "DEFINITIONS": str(definitions),
            "PASSWORD": "by-hand",
            "PG_BIN": str(scratch.installed("postgres")),
            "RABBIT_BIN": str(scratch.installed("rabbitmq")),
            "PG": str(ports.at("postgres_primary")),
            "PG_REPLICA": str(ports.at("postgres_replica")),
            "REDIS": str(ports.at("redis")),
            "RABBIT": str(ports.at("rabbitmq")),
            "RABBIT_MANAGEMENT": str(ports.at("rabbitmq_management")),
            "RABBIT_PROMETHEUS": str(ports.at("rabbitmq_prometheus")),
            "RABBIT_DIST": str(ports.at("rabbitmq_distribution")),
            "RABBIT_EPMD": str(ports.at("rabbitmq_epmd")),
            "SHOPFDS_STACK": name,
            "SHOPFDS_NODE": "by-hand",
        }
        try:
            start = time.perf_counter()
            done = subprocess.run(
                ["bash", "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=180, check=False
            )
            seconds = time.perf_counter() - start
            if done.returncode != 0:
                raise RuntimeError(f"the script by hand failed: {done.stderr}")
            return seconds
        finally:
            scratch.end(name)
