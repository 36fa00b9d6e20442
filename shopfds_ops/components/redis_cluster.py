"""Redis Cluster: six nodes, three masters with a replica each; the fast copy that the services ask."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from itertools import count
from typing import ClassVar

import redis
from redis.crc import key_slot

from services.common.cluster import ClusterNode, ClusterReport, cluster_report
from services.common.cluster_nodes import SLOTS, NodeView, connect, observe
from shopfds_ops.components.base import PUT_IN_FORCE, Client, Component, Live, Plan, Report
from shopfds_ops.components.redis_mend import Access, mend, missing
from shopfds_ops.components.redis_repair import Addresses, refusal, unlinked
from shopfds_ops.components.redis_users import ADMIN, HEALTH, PASSWORDS, acl_file, auth_file
from shopfds_ops.errors import StepError
from shopfds_ops.result import Problem, Table
from shopfds_ops.secrets import Secrets
from shopfds_ops.settings import REDIS_BUS_OFFSET, REDIS_NODES
from shopfds_ops.steps import Run, Step
from shopfds_ops.text import bytes_text
from shopfds_ops.topology import INTERNAL, HealthCheck, Network, Node, Port, Resources

CONFIG = "redis/redis-cluster.conf"
ACL_FILE = "redis-users.acl"
CLOSED_ACL_FILE = "redis-users-closed.acl"
AUTH_FILE = "redis-auth.conf"
ADMIN_FILE = "redis-admin"
CREATE_SCRIPT = "redis/create.sh"
CREATE_JOB = "redis-cluster-create"
NAMES = tuple(f"redis-node-{number}" for number in range(1, REDIS_NODES + 1))
HEARTBEAT_KEY = "shopfds:heartbeat:{%d}"
"""One for each shard: the number is chosen so that the key falls into its slots."""
BUS = Network(name="redis-cluster", steady=True)
"""The cluster bus and replication. A node's table holds the addresses of the others, not their names."""
PROBE_TIMEOUT = 1.0
CREATE_TIMEOUT = 60.0
START = (
    "conf=$1 nodes=$2 users=$3 closed=$4; shift 4; "
    '[ "$(grep -c connected "$nodes" 2>/dev/null)" -gt 1 ] 2>/dev/null || users=$closed; '
    'exec redis-server "$conf" --aclfile "$users" "$@"'
)
"""A node that knows no other one (its own nodes.conf has one line for each) starts closed: see redis_users.acl_file."""


class RedisCluster(Component):
    """The six nodes and what makes a cluster of them."""

    name: ClassVar[str] = "redis-cluster"
    templates: ClassVar[str] = "redis"

    def nodes(self, plan: Plan) -> Sequence[Node]:
        """Six equal nodes: which of them are masters is the cluster's own affair, and changes.

        Nothing is announced: a node's port is the same inside and outside, so its peers learn its address from the
        connection, and clients on the host map the announced port to their own address.
        """
        return [self._node(plan, name, plan.settings.ports.at("redis", index)) for index, name in enumerate(NAMES)]

    def _node(self, plan: Plan, name: str, port: int) -> Node:
        site = plan.site
        data = site.volume(name, "data", "redis")
        flags = {
            "port": str(port),
            "bind": site.listen,
            "dir": data,
            "include": site.secret(name, AUTH_FILE),
        }
        # Without a password: `health` may only PING and ask for the cluster's state. redis-cli exits with 0 on an
        # error reply, so the answer itself is looked at.
        ping = f"redis-cli -p {port} --user {HEALTH} --pass {HEALTH} --no-auth-warning ping | grep -q PONG"
        return Node(
            name=name,
            component=self.name,
            role="node",
            image="redis",
            user="redis",
            command=(
                *("sh", "-c", START, "redis-server"),
                site.config(CONFIG),
                f"{data}/nodes.conf",
                site.secret(name, ACL_FILE),
                site.secret(name, CLOSED_ACL_FILE),
                *(word for flag, value in flags.items() for word in (f"--{flag}", value)),
            ),
            ports=(
                Port(name="client", number=port),
                Port(name="bus", number=port + REDIS_BUS_OFFSET, published=False),
            ),
            volumes=("data",),
            files=(CONFIG,),
            secrets=(ACL_FILE, CLOSED_ACL_FILE, AUTH_FILE),
            networks=(INTERNAL, BUS),
            health=HealthCheck(command=("sh", "-c", ping)),
            resources=Resources(memory=plan.settings.redis.memory),
            stop_timeout=20.0,  # it writes the rest of its append-only file, and lets its replica catch up
        )

    def jobs(self, plan: Plan) -> Sequence[Node]:
        """One, which makes the cluster as `steps` do, but only where all nodes are new."""
        nodes, site = self.nodes(plan), plan.site
        script = site.config(CREATE_SCRIPT)
        return (
            Node(
                name=CREATE_JOB,
                component=self.name,
                role="job",
                image="redis",
                user="redis",
                command=("sh", script, "run"),
                environment={
                    "NODES": " ".join(f"{site.host(node.name, BUS)}:{node.port('client')}" for node in nodes),
                    "PASSWORD_FILE": site.secret(CREATE_JOB, ADMIN_FILE),
                },
                files=(CREATE_SCRIPT,),
                secrets=(ADMIN_FILE,),
                networks=(BUS,),
                depends_on=tuple(node.name for node in nodes),
                # Six questions each time, and nobody but `docker compose up --wait` asks for the answer.
                health=HealthCheck(command=("sh", script, "check"), interval=10.0, timeout=10.0),
                resources=Resources(memory=64, pids=32),
            ),
        )

    def secret_files(self, plan: Plan, secrets: Secrets) -> Mapping[str, str]:
        return {
            ADMIN_FILE: secrets[PASSWORDS[ADMIN]] + "\n",
            ACL_FILE: acl_file(secrets),
            CLOSED_ACL_FILE: acl_file(secrets, closed=True),
            AUTH_FILE: auth_file(secrets),
        }

    def probe(self, live: Live, node: Node) -> str | None:
        """Whether it has its data, takes our password, and runs in cluster mode. The cluster itself is the steps'."""
        view = _look(live, (node.name,))[0]
        if view.status == "refused":
            problem = refusal(view)
            return f"{problem.what} ({problem.remedy})"
        return None if view.status == "up" else f"does not answer as it should on port {view.port}: {view.said}"

    def steps(self, live: Live) -> Sequence[Step]:
        names = tuple(node.name for node in live.topology.of(self.name))
        access = _access(live)
        # An election may have to time out first, a shard to be copied: failed links are seen after a node timeout.
        patience = 60.0 + 4 * live.settings.redis.node_timeout_ms / 1000

        def whole(run: Run, *, linked: bool) -> None:
            mend(access, run, patience, linked=linked)

        return (
            Step(f"{self.name}.create", partial(missing, access), partial(whole, linked=False), requires=names),
            Step(
                f"{self.name}.replicas",
                lambda: unlinked(access.look()),
                partial(whole, linked=True),
                requires=(f"{self.name}.create",),
            ),
            Step(
                f"{self.name}.heartbeat-keys",
                partial(_unwritten_shard, access),
                partial(_write_heartbeats, access),
                requires=(f"{self.name}.create",),
                faults=(redis.RedisError,),
            ),
        )

    def report(self, live: Live) -> Report:
        data = cluster_report(_reach(live), ADMIN, live.secrets[PASSWORDS[ADMIN]], PROBE_TIMEOUT)
        problems = tuple(Problem(problem.where, problem.what, problem.remedy) for problem in data.problems)
        return Report(self.name, data, (_table(data),), problems)

    def refused_secrets(self, live: Live) -> Sequence[Problem]:
        host, port = next(iter(endpoints(live)))
        refused = []
        for user, name in PASSWORDS.items():
            try:
                with connect(host, port, user, live.secrets[name], PROBE_TIMEOUT) as client:
                    client.ping()
            except redis.AuthenticationError:
                refused.append(Problem(name, f"user {user} cannot log in", PUT_IN_FORCE))
            except redis.RedisError:
                continue  # a node that does not answer is for `status`
        return refused

    def client(self, live: Live, node: Node) -> Client:
        """redis-cli as the admin; `-c` follows a key to the node that owns it."""
        host = live.engine.site.host(node.name)
        return Client(
            ("redis-cli", "-c", "-h", host, "-p", str(node.port("client")), "--user", ADMIN),
            environment={"REDISCLI_AUTH": live.secrets[PASSWORDS[ADMIN]]},
        )


def endpoints(live: Live) -> tuple[tuple[str, int], ...]:
    """Host and port of every node as this machine reaches it."""
    return tuple(_reach(live).values())


def _reach(live: Live) -> dict[str, tuple[str, int]]:
    return {node.name: live.address(node.name, "client") for node in live.topology.of(RedisCluster.name)}


def _look(live: Live, names: Sequence[str]) -> tuple[NodeView, ...]:
    reach = {name: live.address(name, "client") for name in names}
    return observe(reach, ADMIN, live.secrets[PASSWORDS[ADMIN]], PROBE_TIMEOUT)


def _access(live: Live) -> Access:
    resolve = cache(partial(_addresses, live))
    return Access(
        endpoints=_reach(live),
        resolve=resolve,
        username=ADMIN,
        password=live.secrets[PASSWORDS[ADMIN]],
        create=partial(_create, live, resolve),
    )


def _addresses(live: Live) -> Addresses:
    """IP address and port of each node as the others reach it: CLUSTER MEET takes no names."""
    nodes = live.topology.of(RedisCluster.name)
    hosts = {node.name: live.engine.site.host(node.name, BUS) for node in nodes}
    named = sorted({host for host in hosts.values() if not _is_address(host)})
    found: dict[str, str] = {}
    if named:
        done = live.engine.execute(nodes[0], ("getent", "hosts", *named))
        for line in done.stdout.splitlines():
            address, *names = line.split()
            found.update(dict.fromkeys(names, address))
        lost = [host for host in named if host not in found]
        if lost:
            raise StepError(
                f"{nodes[0].name} cannot find {', '.join(lost)} by name: {done.stderr.strip() or 'no answer'}",
                remedy="see whether they run: `shopfds ps`",
            )
    return {node.name: (found.get(hosts[node.name], hosts[node.name]), node.port("client")) for node in nodes}


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _create(live: Live, addresses: Callable[[], Addresses], names: Sequence[str], seconds: float) -> str:
    """Let redis-cli make the cluster, where the nodes run. Returns what it said if it failed."""
    places = [f"{host}:{port}" for host, port in (addresses()[name] for name in names)]
    done = live.engine.execute(
        live.topology.node(names[0]),
        ("redis-cli", "--user", ADMIN, "--cluster", "create", *places, "--cluster-replicas", "1", "--cluster-yes"),
        environment={"REDISCLI_AUTH": live.secrets[PASSWORDS[ADMIN]]},
        timeout=max(1.0, min(CREATE_TIMEOUT, seconds)),
    )
    if done.exit_status == 0:
        return ""
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-5:]
    return f"redis-cli --cluster create ended with {done.exit_status}: " + "\n".join(said)


def _heartbeat_key(view: NodeView) -> str:
    """The heartbeat key that falls into the slots of this master."""
    number = next(number for number in count() if view.slots >> key_slot(f"{{{number}}}".encode()) & 1)
    return HEARTBEAT_KEY % number


def _unwritten_shard(access: Access) -> str | None:
    """A shard without its heartbeat key; None when there is none.

    CLUSTER SLOTS leaves out replicas that have received nothing: of an empty cluster clients would see masters only.
    Once something is written, gossip tells of the replicas within a second or two; nobody has to wait for that.
    """
    views = access.look()
    for view in views:
        if view.status != "up":
            return f"{view.name} does not answer: {view.said}"
    for view in views:
        if view.slots and not view.master_id:
            with access.connect(view.name) as client:
                if not client.exists(_heartbeat_key(view)):
                    return f"{view.name} has no {_heartbeat_key(view)} yet"
    return None


def _write_heartbeats(access: Access, _: Run) -> None:
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    for view in access.look():
        if view.slots and not view.master_id:
            with access.connect(view.name) as client:
                client.set(_heartbeat_key(view), now)


def _table(data: ClusterReport) -> Table:
    """At most 78 columns wide."""
    masters = sum(node.role == "master" and bool(node.slots) for node in data.nodes)
    replicas = sum(node.role == "replica" for node in data.nodes)
    covered = "unknown" if data.slots_covered is None else str(data.slots_covered)
    failovers = "unknown" if data.failovers is None else f"at most {data.failovers}" if data.failovers else "none"
    return Table(
        title="Redis Cluster",
        columns=("node", "role", "slots", ">keys", ">memory", "link", ">epoch"),
        rows=tuple(_row(node) for node in data.nodes),
        caption=(
            f"state {data.state}; {covered} of {SLOTS} slots covered; {masters} masters, {replicas} replicas; "
            f"failovers: {failovers}"
        ),
    )


def _row(node: ClusterNode) -> tuple[str, ...]:
    ranges = [str(item) for item in node.slot_ranges]
    slots = ", ".join(ranges[:1]) + (f" +{len(ranges) - 1}" if len(ranges) > 1 else "")
    if node.role == "replica":
        slots = f"of {(node.master or 'unknown')[:12]}"
    memory = bytes_text(node.memory)
    link = {None: "-", True: "up", False: "down"}[node.link] if node.reachable else node.status
    return (
        node.name,
        node.role,
        slots or "-",
        "unknown" if node.keys is None else str(node.keys),
        memory,
        link,
        "unknown" if node.epoch is None else str(node.epoch),
    )
