"""PostgreSQL: a primary, a hot-standby replica that streams from it, and a heartbeat that makes lag measurable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import psycopg

from services.common.replication import ReplicationReport, Slot, check_replication_lag
from shopfds_ops.components import postgres_roles as roles
from shopfds_ops.components.base import Client, Component, Live, Plan, Report
from shopfds_ops.components.postgres_roles import CONNECT_SECONDS, PRIMARY, REPLICA, SUPERUSER_REMEDY, conninfo
from shopfds_ops.errors import StepError
from shopfds_ops.events import Note, Sink
from shopfds_ops.result import Problem, Table
from shopfds_ops.secrets import Secrets
from shopfds_ops.steps import Step
from shopfds_ops.text import bytes_text, seconds_text
from shopfds_ops.topology import HealthCheck, Node, Port, Resources

__all__ = ["HEARTBEAT", "PRIMARY", "REPLICA", "Postgres", "conninfo", "replication"]

HEARTBEAT = "postgres-heartbeat"
SLOT = "postgres_replica"
REBUILD_SECONDS = 120.0


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
            "PGDATA": f"{site.volume(name, 'data')}/pgdata",
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
            environment |= {"PRIMARY_CONNINFO": self._primary_conninfo(plan), "SLOT": SLOT}
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
            resources=Resources(memory=plan.settings.postgres.memory, pids=plan.settings.postgres.max_connections + 50),
            stop_signal="SIGINT",  # fast shutdown: clients are disconnected, a checkpoint is written
            stop_timeout=60,
        )

    def _heartbeat(self, plan: Plan) -> Node:
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
                "PGPASSFILE": plan.site.secret(HEARTBEAT, "postgres-passfile"),
                "HEARTBEAT_FILE": plan.site.config("postgres/heartbeat.sql"),
            },
            files=("postgres/start.sh", "postgres/heartbeat.sql"),
            secrets=("postgres-passfile",),
            depends_on=(PRIMARY,),
            resources=Resources(memory=64, pids=32),
            stop_timeout=5,
        )

    def _primary_conninfo(self, plan: Plan) -> str:
        host, port = plan.site.host(PRIMARY), plan.settings.ports.at("postgres_primary")
        passfile = plan.site.secret(REPLICA, "postgres-passfile")
        return f"host={host} port={port} user=replicator passfile={passfile} application_name={REPLICA}"

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
        if not live.engine.has_data(primary) and live.engine.has_data(replica):
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
        limit = 3 * live.settings.postgres.heartbeat_seconds + 2
        if row is None or row[0] > limit:
            return f"no heartbeat within {limit} s"
        return None

    # -- initialization ------------------------------------------------------------------------------------------

    def steps(self, live: Live) -> Sequence[Step]:
        return (
            Step("postgres.roles", partial(roles.check, live), partial(roles.mend, live), requires=(PRIMARY,)),
            Step(
                "postgres.replication",
                self._check_replication(live),
                self._mend_replication(live),
                requires=("postgres.roles", REPLICA),
                settle=REBUILD_SECONDS,
            ),
        )

    def _check_replication(self, live: Live) -> Callable[[], str | None]:
        def check() -> str | None:
            report = replication(live)
            if report.connected:
                return None
            standby = next((member for member in report.members if member.name == REPLICA), None)
            return f"the replica does not stream: {standby.detail or standby.state if standby else 'unknown'}"

        return check

    def _mend_replication(self, live: Live) -> Callable[[Sink], None]:
        """A replica that only needs time gets it; one whose WAL is gone is made anew from the primary."""

        def apply(sink: Sink) -> None:
            report = replication(live)
            primary, standby = report.member("primary"), report.member("replica")
            if primary and standby and primary.system_identifier != standby.system_identifier:
                raise StepError(
                    f"{REPLICA} holds another database than {PRIMARY} (system identifiers {standby.system_identifier} "
                    f"and {primary.system_identifier}); it is not touched, since it may be the only copy",
                    remedy=f"save it if you need it; then `shopfds stop {REPLICA}`, remove its volume, `shopfds up`",
                )
            if not report.replica_needs_rebuild:
                return
            sink(
                Note("warning", f"the WAL that {REPLICA} needs is gone from {PRIMARY}: it is rebuilt by pg_basebackup")
            )
            replica = live.topology.node(REPLICA)
            live.engine.stop([replica])
            with psycopg.connect(conninfo(live, "postgres"), autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", [SLOT]
                )
            live.engine.wipe(replica)
            live.engine.start([replica])

        return apply

    def refused_secrets(self, live: Live) -> Sequence[Problem]:
        return roles.refused(live)

    # -- report --------------------------------------------------------------------------------------------------

    def report(self, live: Live) -> Report:
        found = replication(live)
        members = tuple(
            (
                member.name,
                member.role,
                member.state,
                str(member.timeline or "-"),
                member.sent_lsn or "-",
                member.replayed_lsn or "-",
                "-" if member.role == "primary" else bytes_text(member.lag_bytes),
                "-" if member.role == "primary" else seconds_text(member.lag_seconds),
            )
            for member in found.members
        )
        slots = tuple(
            (slot.name, "yes" if slot.active else "no", slot.wal_status, bytes_text(slot.held_bytes), _room(slot))
            for slot in found.slots
        )
        tables = (
            Table("Replication", ("member", "role", "state", "TL", "sent", "replayed", ">lag", ">lag time"), members),
            Table("Replication slots", ("slot", "active", "WAL status", ">WAL held", ">WAL room left"), slots),
        )
        return Report(self.name, found, tables, tuple(_problems(found, live)))


def replication(live: Live) -> ReplicationReport:
    """The replication report of a stack: `check_replication_lag` with the stack's own addresses and passwords."""
    return check_replication_lag(
        {PRIMARY: conninfo(live, "monitor"), REPLICA: conninfo(live, "monitor", "replica")},
        replica=REPLICA,
        heartbeat_seconds=live.settings.postgres.heartbeat_seconds,
    )


def _room(slot: Slot) -> str:
    return "unlimited" if slot.safe_bytes is None and slot.wal_status != "lost" else bytes_text(slot.safe_bytes)


def _problems(found: ReplicationReport, live: Live) -> list[Problem]:
    problems = [
        Problem(member.name, f"does not answer: {member.detail}", f"`shopfds logs {member.name}`, then `shopfds up`")
        for member in found.members
        if not member.reachable
    ]
    problems += [
        Problem(member.name, f"is a {member.role}, which it must not be", "`shopfds doctor`")
        for member, role in zip(found.members, ("primary", "replica"), strict=True)
        if member.reachable and member.role != role
    ]
    if problems:
        return problems
    if found.replica_needs_rebuild:
        problems.append(Problem(REPLICA, "the WAL it needs is gone from the primary", "`shopfds up` rebuilds it"))
    elif not found.connected:
        problems.append(Problem(REPLICA, "does not stream from the primary", f"`shopfds logs {REPLICA}`, `shopfds up`"))
    limit = live.settings.postgres.lag_limit_seconds
    if found.lag_seconds is not None and found.lag_seconds > limit:
        problems.append(
            Problem(REPLICA, f"is {found.lag_seconds:.1f} s behind (limit {limit:.0f} s)", "wait, or lower the load")
        )
    if found.lag_seconds is None and found.connected:
        problems.append(
            Problem(HEARTBEAT, "lag in seconds is unknown: no fresh heartbeat", f"`shopfds start {HEARTBEAT}`")
        )
    return problems
