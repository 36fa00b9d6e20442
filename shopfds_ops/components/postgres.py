"""PostgreSQL: a primary, a hot-standby replica that streams from it, and a heartbeat that makes lag measurable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import psycopg

from services.common.replication import SLOT
from shopfds_ops.components import postgres_roles as roles
from shopfds_ops.components import postgres_standby as standby
from shopfds_ops.components.base import Client, Component, Live, Plan, Report
from shopfds_ops.components.postgres_roles import (
    CONNECT_SECONDS,
    HEARTBEAT,
    PRIMARY,
    REPLICA,
    SUPERUSER_REMEDY,
    conninfo,
)
from shopfds_ops.errors import StepError
from shopfds_ops.result import Problem
from shopfds_ops.secrets import Secrets
from shopfds_ops.settings import Settings
from shopfds_ops.steps import Step
from shopfds_ops.topology import HealthCheck, Node, Port, Resources

__all__ = ["HEARTBEAT", "PRIMARY", "REPLICA", "Postgres", "conninfo"]


class Postgres(Component):
    """See the module."""

    name = "postgres"
    templates = "postgres"

    def nodes(self, plan: Plan) -> Sequence[Node]:
        return self._server(plan, PRIMARY), self._server(plan, REPLICA), self._heartbeat(plan)

    def _server(self, plan: Plan, name: str) -> Node:
        site, role = plan.site, "primary" if name == PRIMARY else "replica"
        conf = "postgres/master.conf" if name == PRIMARY else "postgres/replica.conf"
        port = plan.settings.ports.at(f"postgres_{role}")
        environment = {
            "PGDATA": f"{site.volume(name, 'data', self.name)}/pgdata",
            "CONFIG_FILE": site.config(conf),
        }
        if name == PRIMARY:
            secrets: tuple[str, ...] = ("postgres-superuser", "postgres-bootstrap.sql")
            environment |= {
                "SUPERUSER_PASSWORD_FILE": site.secret(name, secrets[0]),
                "BOOTSTRAP_FILE": site.secret(name, secrets[1]),
            }
        else:
            secrets = ("postgres-passfile",)
            environment |= {
                "REPLICATOR_PASSFILE": site.secret(name, secrets[0]),
                "PASSFILE": self._passfile(plan),
                "PRIMARY_CONNINFO": self._primary_conninfo(plan),
                "SLOT": SLOT,
            }
        return Node(
            name=name,
            component=self.name,
            role=role,
            image="postgres",
            user="postgres",
            command=("sh", site.config("postgres/start.sh"), role),
            environment=environment,
            ports=(Port(name="postgres", number=port),),
            volumes=("data",),
            files=("postgres/start.sh", "postgres/pg_hba.conf", conf),
            secrets=secrets,
            depends_on=() if name == PRIMARY else (PRIMARY,),
            health=HealthCheck(command=("pg_isready", "--quiet", "--host=127.0.0.1", f"--port={port}")),
            resources=Resources(
                memory=plan.settings.postgres.memory,
                pids=plan.settings.postgres.max_connections + 50,
                shared_memory=plan.settings.postgres.memory // 4,  # parallel queries exchange their rows there
            ),
            stop_signal="SIGINT",  # fast shutdown: clients are disconnected, a checkpoint is written
            stop_timeout=60,
        )

    def _heartbeat(self, plan: Plan) -> Node:
        # As `probe` judges it. psql ends with 0 when there is no row, so its answer itself is looked at.
        limit = self._heartbeat_limit(plan.settings)
        query = f"SELECT true FROM ops.heartbeat WHERE clock_timestamp() - at <= interval '{limit} s'"  # noqa: S608
        asked = f'psql --no-psqlrc --no-password --tuples-only --no-align --command="{query}"'
        fresh = f'PGPASSWORD=$(cat "$PASSWORD_FILE") {asked} | grep -q t'
        return Node(
            name=HEARTBEAT,
            component=self.name,
            role="heartbeat",
            image="postgres",
            user="postgres",
            command=("sh", plan.site.config("postgres/start.sh"), "heartbeat"),
            environment={
                "PGHOST": plan.site.host(PRIMARY),
                "PGPORT": str(plan.settings.ports.at("postgres_primary")),
                "PGUSER": "monitor",
                "PGDATABASE": plan.settings.postgres.database,
                "PGAPPNAME": HEARTBEAT,
                "PGCONNECT_TIMEOUT": str(CONNECT_SECONDS),
                "PASSWORD_FILE": plan.site.secret(HEARTBEAT, "postgres-monitor"),
                "HEARTBEAT_FILE": plan.site.config("postgres/heartbeat.sql"),
            },
            files=("postgres/start.sh", "postgres/heartbeat.sql"),
            secrets=("postgres-monitor",),
            depends_on=(PRIMARY,),
            health=HealthCheck(command=("sh", "-c", fresh), interval=15.0),
            resources=Resources(memory=64, pids=32),
            stop_timeout=5,
        )

    def _primary_conninfo(self, plan: Plan) -> str:
        host, port = plan.site.host(PRIMARY), plan.settings.ports.at("postgres_primary")
        return psycopg.conninfo.make_conninfo(
            host=host, port=port, user="replicator", passfile=self._passfile(plan), application_name=REPLICA
        )

    def _passfile(self, plan: Plan) -> str:
        """Where the replica keeps a copy of its password file that nobody else may read."""
        return f"{plan.site.volume(REPLICA, 'data', self.name)}/passfile"

    def _heartbeat_limit(self, settings: Settings) -> int:
        """Seconds after which a heartbeat is too old."""
        return 3 * settings.postgres.heartbeat_seconds + 2

    def variables(self, plan: Plan) -> Mapping[str, Any]:
        return {
            "hba_file": plan.site.config("postgres/pg_hba.conf"),
            "replica": REPLICA,
            "slot": SLOT,
            "primary_conninfo": self._primary_conninfo(plan),
        }

    def secret_files(self, plan: Plan, secrets: Secrets) -> Mapping[str, str]:
        return {
            "postgres-superuser": secrets["POSTGRES_PASSWORD"] + "\n",
            "postgres-passfile": roles.passfile(secrets),
            "postgres-monitor": secrets["POSTGRES_MONITOR_PASSWORD"] + "\n",
            "postgres-bootstrap.sql": roles.bootstrap(secrets, plan.settings.postgres.database),
        }

    def client(self, live: Live, node: Node) -> Client:
        target = REPLICA if node.name == REPLICA else PRIMARY
        return Client(
            ("psql",),
            environment={
                "PGHOST": live.engine.site.host(target),
                "PGPORT": str(live.topology.node(target).port("postgres")),
                "PGUSER": "postgres",
                "PGDATABASE": live.settings.postgres.database,
                "PGPASSWORD": live.secrets["POSTGRES_PASSWORD"],
                "PGAPPNAME": "shopfds exec",
            },
        )

    def preflight(self, live: Live) -> None:
        primary, replica = live.topology.node(PRIMARY), live.topology.node(REPLICA)
        if live.engine.with_data((primary, replica)) == {REPLICA}:
            raise StepError(
                f"the data of {PRIMARY} are gone, while {REPLICA} still holds a copy; an empty primary is not started",
                remedy=f"move the volume of {REPLICA} to {PRIMARY}, remove standby.signal from it, then `shopfds up`;"
                " or start anew with `shopfds down --volumes`",
            )

    # -- health --------------------------------------------------------------------------------------------------

    def probe(self, live: Live, node: Node) -> str | None:
        if node.name == HEARTBEAT:
            return self._probe_heartbeat(live)
        try:
            with psycopg.connect(conninfo(live, "postgres", node.role), connect_timeout=CONNECT_SECONDS) as connection:
                row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
        except psycopg.Error as error:
            said = " ".join(str(error).split())
            if "password authentication failed" in said:
                raise StepError(
                    f"{node.name} refuses the superuser's password",
                    remedy=SUPERUSER_REMEDY,
                    details=said,
                ) from None
            return f"does not accept connections yet: {said}"
        in_recovery = row is not None and row[0]
        if in_recovery != (node.role == "replica"):
            return f"answers, but is {'in' if in_recovery else 'not in'} recovery, which a {node.role} must not be"
        return None

    def _probe_heartbeat(self, live: Live) -> str | None:
        try:
            with psycopg.connect(conninfo(live, "monitor"), connect_timeout=CONNECT_SECONDS) as connection:
                exists = connection.execute("SELECT to_regclass('ops.heartbeat') IS NOT NULL").fetchone()
                if exists is None or not exists[0]:
                    return "its table is not there yet"
                row = connection.execute(
                    "SELECT extract(epoch FROM clock_timestamp() - at) FROM ops.heartbeat"
                ).fetchone()
        except psycopg.Error as error:
            return f"the primary does not answer: {' '.join(str(error).split())}"
        limit = self._heartbeat_limit(live.settings)
        if row is None or row[0] > limit:
            return f"no heartbeat within {limit} s"
        # After a pause the replica still has the beat from before it, and would be told to be that far behind.
        found = standby.replication(live)
        if found.connected and (
            found.lag_seconds is None or found.lag_seconds > live.settings.postgres.lag_limit_seconds
        ):
            return f"{REPLICA} has not received it yet"
        return None

    # -- initialization ------------------------------------------------------------------------------------------

    def steps(self, live: Live) -> Sequence[Step]:
        return (
            Step(
                "postgres.roles",
                partial(roles.check, live),
                partial(roles.mend, live),
                requires=(PRIMARY,),
                faults=(psycopg.Error,),
            ),
            Step(
                "postgres.replication",
                partial(standby.check, live),
                partial(standby.mend, live),
                requires=("postgres.roles", REPLICA),
                settle=standby.REBUILD_SECONDS,
                faults=(psycopg.Error,),
            ),
        )

    def refused_secrets(self, live: Live) -> Sequence[Problem]:
        return roles.refused(live)

    # -- report --------------------------------------------------------------------------------------------------

    def report(self, live: Live) -> Report:
        found = standby.replication(live)
        return Report(self.name, found, standby.tables(found), tuple(standby.problems(found, live)))
